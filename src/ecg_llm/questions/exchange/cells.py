"""Spreadsheets (CSV, XLSX) of text: nothing in them is executed, and it comes back as it was."""

import csv
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ecg_llm.contracts import UsageError

Cell = str | int

DELIMITERS = ",;\t"
LARGEST = 32_000
"""Characters that a cell of a spreadsheet program holds (32,767), with room for the mark."""
CUT = " […cut off here]"
"""Ends a text that is too long for a cell."""
EXECUTED = re.compile(r"[=+\-@\t\r]")
MONTH = "jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz]"
CONVERTED = re.compile(
    rf"(?=.*\d)(?:[\W\d_]+|[\d.,]+e[+-]?\d+|[\d:]+ ?[ap]m?|(?=.*(?:{MONTH})).{{1,20}})"
    "|true|false|wahr|falsch",
    re.IGNORECASE | re.DOTALL,
)
"""What a spreadsheet program takes for a number, a date or a truth value: "3-5", "1E5", "May 2"."""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
ESCAPED = re.compile(r"_x00(?:0D|0A|09)_", re.IGNORECASE)
GREY = "E7E6E6"
MOST_CELLS = 10_000_000
UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, SyntaxError, EOFError,
    RuntimeError, ArithmeticError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What openpyxl raises at damaged workbooks."""


class Line(NamedTuple):
    """One row of a sheet: the number of its first line, and its cells."""

    number: int
    cells: tuple[str, ...]


def read_text(path: Path) -> str:
    """Return the text of a file, with line feeds as line ends and no byte-order mark.

    Raises:
        UsageError: no such file, or not UTF-8; with what to do about it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}; correct the path.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error}); check the file.") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f'{path} is UTF-16 text; save it as "CSV UTF-8" or XLSX and run again.')
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}, line {line}, is not UTF-8 text; save it as UTF-8 "
            '("CSV UTF-8" in a spreadsheet program) or XLSX and run again.'
        ) from None
    if "\0" in text:
        raise UsageError(f'{path} is not a text file; save it as "CSV UTF-8" or XLSX.')
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path, columns: Sequence[str] = ()) -> list[Line]:
    """Return the rows of a CSV or XLSX file that are not empty, cells stripped, text as written.

    Of a CSV file the delimiter is the one of comma, semicolon and tab that gives the first row one
    of these `columns` (in any case), else the one that gives it most cells.

    Raises:
        UsageError: it cannot be read, a quotation mark is not closed, or several worksheets of it
            hold something.
    """
    lines = _xlsx_lines(path) if path.suffix.lower() == ".xlsx" else _csv_lines(path, columns)
    found = []
    for number, cells in lines:
        texts = tuple(map(str.strip, cells))
        if any(texts):
            found.append(Line(number, texts))
    return found


def _csv_lines(path: Path, columns: Sequence[str]) -> Iterator[Line]:
    text = read_text(path)
    if declared := re.match(r"sep=(.)\n", text):
        delimiter, skipped = declared[1], 1
        text = text[declared.end() :]
    else:
        delimiter, skipped = _delimiter(text, columns), 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = skipped + 1
    try:
        for cells in reader:
            yield Line(number, tuple(map(unguarded, cells)))
            number = skipped + reader.line_num + 1
    except csv.Error as error:
        raise UsageError(
            f"{path}, line {number}: {error}; quotation marks inside a cell must be doubled, "
            "and every cell that opens with one must close with one."
        ) from None


def _delimiter(text: str, columns: Sequence[str]) -> str:
    def rank(delimiter: str) -> tuple[bool, int]:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            cells = next((row for row in rows if row), [])
        except csv.Error:
            cells = []
        return any(cell.strip().lower() in columns for cell in cells), len(cells)

    return max(DELIMITERS, key=rank)


def _xlsx_lines(path: Path) -> Iterator[Line]:
    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and validations that are not read
            book = openpyxl.load_workbook(path, data_only=True)
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}; correct the path.") from None
    except UNREADABLE as error:
        raise UsageError(f"{path} is not a sound XLSX workbook ({error}); save it anew.") from None
    filled = []
    for sheet in book.worksheets:
        if sheet.max_row * sheet.max_column > MOST_CELLS:
            raise UsageError(f"{path}: {sheet.title} has a cell far from the others; clear it.")
        rows = list(sheet.iter_rows(values_only=True))
        if any(value is not None for row in rows for value in row):
            filled.append((sheet.title, rows))
    if len(filled) > 1:
        names = ", ".join(title for title, _ in filled)
        raise UsageError(f"{path} has several worksheets ({names}); keep only the one to read.")
    for _, rows in filled:
        for number, row in enumerate(rows, start=1):
            yield Line(number, tuple(map(_cell_text, row)))


def _cell_text(value: object) -> str:
    """Return the value of a cell as it reads in the sheet."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return ESCAPED.sub("\n", str(value)).replace("\r\n", "\n").replace("\r", "\n")


def write(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    widths: Mapping[str, int],
    locked: Sequence[str],
) -> None:
    """Write a table as XLSX or as CSV (comma, UTF-8 with byte-order mark), by the path's suffix.

    Texts are never formulas. A text longer than a cell can be ends with CUT. In XLSX the header
    stays in view, columns named in `locked` are grey, and `widths` are in characters.

    Raises:
        UsageError: another suffix, or the file cannot be written.
    """
    fitting = [[_fitting(cell) for cell in row] for row in rows]
    try:
        match path.suffix.lower():
            case ".csv":
                _write_csv(path, header, fitting)
            case ".xlsx":
                _write_xlsx(path, header, fitting, widths, locked)
            case _:
                raise UsageError(f"{path.name}: a sheet is written as .xlsx or .csv.")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def _fitting(cell: Cell) -> Cell:
    if isinstance(cell, int):
        return cell
    text = CONTROL.sub("", cell)
    return text if len(text) <= LARGEST else text[: LARGEST - len(CUT)] + CUT


def guarded(text: str) -> str:
    """Return a text with an apostrophe before it if opening the CSV file would change or run it."""
    return f"'{text}" if _needs_guard(text.lstrip("'")) else text


def unguarded(text: str) -> str:
    """Return a text as it was before `guarded`."""
    return text[1:] if text.startswith("'") and _needs_guard(text.lstrip("'")) else text


def _needs_guard(text: str) -> bool:
    return bool(EXECUTED.match(text) or CONVERTED.fullmatch(text))


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(header)
        for row in rows:
            out.writerow([cell if isinstance(cell, int) else guarded(cell) for cell in row])


def _write_xlsx(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    widths: Mapping[str, int],
    locked: Sequence[str],
) -> None:
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Alignment, Font, PatternFill
    from openpyxl.utils import get_column_letter

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("questions")
    sheet.freeze_panes = "B2"
    for number, name in enumerate(header, start=1):
        sheet.column_dimensions[get_column_letter(number)].width = widths.get(name, 12)
    grey = PatternFill("solid", fgColor=GREY)
    wrapped = Alignment(wrap_text=True, vertical="top")
    bold = Font(bold=True)

    def made(value: Cell, name: str) -> Any:
        cell = WriteOnlyCell(sheet)
        cell.value = value
        if isinstance(value, str):
            cell.data_type = "s"  # a text that begins with "=" would be a formula
            cell.number_format = "@"
        cell.alignment = wrapped
        if name in locked:
            cell.fill = grey
        return cell

    titles = [made(name, name) for name in header]
    for title in titles:
        title.font = bold
    sheet.append(titles)
    for row in rows:
        sheet.append([made(value, name) for value, name in zip(row, header, strict=True)])
    book.save(path)
