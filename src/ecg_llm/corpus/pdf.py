"""PDF engines: a PDF to Markdown, a page at a time, with repair, fall-back and OCR."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

from ecg_llm.contracts import Page, Reading, ReadingError

UNREADABLE_SHARE = 0.2
"""Share of control, private-use and replacement characters beyond which a page is garbled."""
HIDDEN_HEIGHT = 1.0
"""Points below which a text cannot be seen."""
HIDDEN_CONTRAST = 24
"""Range of grey values (of 255) within a text's box below which it cannot be seen."""
HIDDEN_LENGTH = 12
"""Shorter hidden texts are no instruction, and would be found in visible text by chance."""
WORTH = 20
"""Letters from which on PDFium's text of a page replaces a blank."""
OCR_BATCH = 2
"""Fewest pages recognised at a time; a time limit costs no more than one batch."""
OCR_LANGUAGES = ("eng", "deu")
OCR_REASONS = ("scanned", "garbled")


class LiteparseEngine:
    """liteparse (PDFium in Rust) with its own layout analysis; pikepdf and PDFium behind it."""

    name = "liteparse"

    @property
    def version(self) -> str:
        """Version of the liteparse package."""
        return version("liteparse")

    def read(self, path: Path) -> Reading:
        """Return every page; those without usable text carry the reason and no text.

        A file that liteparse refuses is repaired with pikepdf and tried again, then read with
        PDFium alone. `quality["hidden_text"]` holds what the file hides from its readers, one
        text a line.

        Raises:
            ReadingError: not_a_pdf, encrypted, empty or corrupt.
        """
        check_header(path)
        from liteparse import ParseError

        try:
            return self._parse(path)
        except ParseError as error:
            problem = str(error)
        with tempfile.TemporaryDirectory() as folder:
            repaired = Path(folder) / "repaired.pdf"
            if repair(path, repaired):
                try:
                    return self._parse(repaired)
                except ParseError as error:
                    problem = str(error)
            elif _needs_password(path):
                raise ReadingError("encrypted", "Remove the password and read the file again.")
        try:
            return PdfiumEngine().read(path)
        except ReadingError as error:
            raise ReadingError(error.reason, f"{problem}; {error.note}") from error

    def _parse(self, path: Path) -> Reading:
        from liteparse import LiteParse

        parser = LiteParse(
            ocr_enabled=False,
            max_pages=10**6,
            output_format="markdown",
            image_mode="off",
            extract_links=False,
            include_complexity=True,
            continue_on_page_error=True,
            extract_text_metadata=True,
            preserve_very_small_text=True,
            quiet=True,
        )
        result = parser.parse(str(path))
        if not result.total_pages:
            raise ReadingError("empty", "The PDF has no pages.")
        parsed = {page.page_num: page for page in result.pages}
        pages = [
            _page(parsed[number].markdown, parsed[number].complexity.reasons)
            if number in parsed
            else Page("", "no-text")
            for number in range(1, result.total_pages + 1)
        ]
        if any(page.unread == "no-text" for page in pages):
            pages = _second_look(path, pages)
        title, licence = metadata(path)
        hidden = _hidden_text(path, result.pages)
        quality: dict[str, int | float | str | tuple[int, ...]] = {}
        if hidden:
            quality["hidden_text"] = "\n".join(hidden)
        return Reading(tuple(pages), title, licence, self.name, self.version, quality)


class PdfiumEngine:
    """PDFium's plain text: fast, without headings or tables."""

    name = "pdfium"

    @property
    def version(self) -> str:
        """Version of the pypdfium2 package."""
        return version("pypdfium2")

    def read(self, path: Path) -> Reading:
        """Return every page's text; pages without usable text carry the reason.

        Raises:
            ReadingError: not_a_pdf, encrypted, empty or corrupt.
        """
        check_header(path)
        import pypdfium2
        from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE

        try:
            document = pypdfium2.PdfDocument(path)
        except pypdfium2.PdfiumError as error:
            if "password" in str(error).lower():
                note = "Remove the password and read the file again."
                raise ReadingError("encrypted", note) from error
            raise ReadingError("corrupt", str(error)) from error
        pages = []
        with closing(document):
            if not len(document):
                raise ReadingError("empty", "The PDF has no pages.")
            for index in range(len(document)):
                try:
                    page = document[index]
                    text = page.get_textpage().get_text_bounded(errors="replace")
                    image = any(page.get_objects([FPDF_PAGEOBJ_IMAGE], max_depth=2))
                except pypdfium2.PdfiumError:
                    text, image = "", False
                blank = "scanned" if image and not text.strip() else "no-text"
                pages.append(_page(text, [blank]))
        title, licence = metadata(path)
        return Reading(tuple(pages), title, licence, self.name, self.version)


def check_header(path: Path) -> None:
    """Return if the file says that it is a PDF in its first 1,024 bytes.

    Raises:
        ReadingError: empty, not_a_pdf (naming what it is), or unreadable_file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise ReadingError("unreadable_file", f"{error.strerror or error}.") from error
    if not head:
        raise ReadingError("empty", "The file holds no bytes.")
    if b"%PDF-" not in head:
        raise ReadingError("not_a_pdf", f"The file is {_kind_of(head)}; give it its own suffix.")


def repair(path: Path, target: Path) -> bool:
    """Write a repaired, unencrypted copy of a PDF; return whether that could be done."""
    import pikepdf

    try:
        with pikepdf.open(path) as document:
            document.save(target)
    except (pikepdf.PdfError, pikepdf.PasswordError, ValueError, RuntimeError):
        return False
    return True


def metadata(path: Path) -> tuple[str, str]:
    """Return (title, licence address) of a PDF's metadata, empty where there is none."""
    import pypdfium2

    try:
        with closing(pypdfium2.PdfDocument(path)) as document:
            title = str(document.get_metadata_value("Title") or "")
    except (pypdfium2.PdfiumError, UnicodeDecodeError):
        return "", ""
    data = path.read_bytes() if path.stat().st_size < 50_000_000 else b""
    licence = re.search(rb"https?://creativecommons\.org/[\w./-]+", data)
    return " ".join(title.split()), licence[0].decode("ascii") if licence else ""


def _page(markdown: str, reasons: Sequence[str]) -> Page:
    """Return the page, without its text if that is not usable.

    liteparse's "no-text" also comes with short texts, and its flags of sparse text or images say
    nothing against the text there is.
    """
    letters = sum(character.isalnum() for character in re.sub(r"```\w*", "", markdown))
    odd = sum(_is_odd(character) for character in markdown)
    if "garbled" in reasons or odd > UNREADABLE_SHARE * max(letters + odd, 1):
        return Page("", "garbled")
    if "scanned" in reasons:
        return Page("", "scanned")
    return Page(markdown) if letters else Page("", "no-text")


def _second_look(path: Path, pages: list[Page]) -> list[Page]:
    """Return the pages with those that seem blank replaced where PDFium sees text or a picture.

    liteparse leaves out text that stands upright on a turned page.
    """
    try:
        plain = PdfiumEngine().read(path).pages
    except ReadingError:
        return pages
    return [
        seen if page.unread == "no-text" and (seen.unread or _letters(seen) >= WORTH) else page
        for page, seen in zip(pages, plain, strict=False)
    ] + pages[len(plain) :]


def _letters(page: Page) -> int:
    return sum(character.isalpha() for character in page.markdown)


def _is_odd(character: str) -> bool:
    code = ord(character)
    return (
        (code < 32 and character not in "\t\n\r\f\v\x02")
        or 0x7F <= code < 0xA0
        or 0xE000 <= code < 0xF900
        or code == 0xFFFD
    )


def _kind_of(head: bytes) -> str:
    start = head.lstrip()[:512].lower()
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "an HTML page"
    if start.startswith(b"<?xml"):
        return "XML"
    for mark, name in (
        (b"\x89PNG", "a PNG picture"),
        (b"\xff\xd8", "a JPEG picture"),
        (b"PK\x03\x04", "a ZIP archive or an Office document"),
        (b"\xd0\xcf\x11\xe0", "an old Office document"),
        (b"{\\rtf", "an RTF document"),
        (b"%!PS", "a PostScript file"),
    ):
        if head.startswith(mark):
            return name
    return "something else"


def _needs_password(path: Path) -> bool:
    import pikepdf

    try:
        pikepdf.open(path).close()
    except pikepdf.PasswordError:
        return True
    except (pikepdf.PdfError, ValueError, RuntimeError):
        return False
    return False


def _hidden_text(path: Path, pages: Sequence[Any]) -> list[str]:
    """Return the texts that cannot be seen: tiny, or of the colour that they stand on.

    Only texts that are nearly white or transparent are suspected, and a picture of the page
    decides: white letters on a dark table head are seen. Invisible text over a scan (an OCR
    layer) is black and stays.
    """
    found: list[str] = []
    for page in pages:
        tiny = [item for item in page.text_items if 0 < item.height < HIDDEN_HEIGHT]
        pale = [item for item in page.text_items if _is_pale(item.fill_color)]
        if pale:
            pale = _unseen(path, page, pale)
        lines: dict[int, list[str]] = {}
        for item in (*tiny, *pale):
            lines.setdefault(round(item.y), []).append(item.text.strip())
        found.extend(" ".join(words) for words in lines.values())
    return [text for text in dict.fromkeys(found) if len(text) >= HIDDEN_LENGTH]


def _is_pale(argb: str | None) -> bool:
    if not argb or len(argb) != 8:
        return False
    alpha, *colour = bytes.fromhex(argb)
    return alpha < 26 or min(colour) >= 230


def _unseen(path: Path, page: Any, items: list[Any]) -> list[Any]:
    """Return the items in whose place the picture of the page shows nothing."""
    import pypdfium2

    scale = 2.0
    with closing(pypdfium2.PdfDocument(path)) as document:
        picture = document[page.page_num - 1].render(scale=scale, grayscale=True).to_numpy()
    unseen = []
    for item in items:
        top, left = max(int(item.y * scale), 0), max(int(item.x * scale), 0)
        bottom, right = int((item.y + item.height) * scale), int((item.x + item.width) * scale)
        box = picture[top : bottom + 1, left : right + 1]
        if not box.size or int(box.max()) - int(box.min()) < HIDDEN_CONTRAST:
            unseen.append(item)
    return unseen


@cache
def ocr_command() -> tuple[tuple[str, ...], str]:
    """Return (the command that runs ocrmypdf, its languages), both empty if OCR is missing."""
    tesseract = shutil.which("tesseract")
    program = shutil.which("ocrmypdf")
    if find_spec("ocrmypdf"):
        command: tuple[str, ...] = (sys.executable, "-m", "ocrmypdf")
    elif program:
        command = (program,)
    else:
        return (), ""
    if not tesseract:
        return (), ""
    listed = subprocess.run(
        [tesseract, "--list-langs"], capture_output=True, text=True, check=False, timeout=30
    ).stdout.split()
    languages = [language for language in OCR_LANGUAGES if language in listed]
    return (command, "+".join(languages)) if languages else ((), "")


def recognise(
    path: Path, reading: Reading, engine: LiteparseEngine | Any, *, seconds: float, jobs: int = 1
) -> tuple[Reading, tuple[int, ...]]:
    """Return the reading with its scanned and garbled pages recognised, and their numbers.

    Pages go to ocrmypdf in small batches of their own; what it did not manage within the time
    stays unread.

    Args:
        path: The PDF.
        reading: What the engine made of it.
        engine: Reads the recognised pages.
        seconds: Time for all pages.
        jobs: Pages recognised at once.
    """
    command, languages = ocr_command()
    wanted = [i for i, page in enumerate(reading.pages) if page.unread in OCR_REASONS]
    if not command or not wanted:
        return reading, ()
    deadline = monotonic() + seconds
    pages = list(reading.pages)
    done: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        size = max(jobs, OCR_BATCH)
        for first in range(0, len(wanted), size):
            batch = wanted[first : first + size]
            target = Path(folder) / "recognised.pdf"
            left = deadline - monotonic()
            if left <= 1 or not _extract(path, batch, Path(folder) / "batch.pdf"):
                break
            options = ["--force-ocr", "--deskew", "--output-type", "pdf", "--optimize", "0"]
            if not _ran(
                [
                    *command,
                    *options,
                    "-l",
                    languages,
                    "-j",
                    str(jobs),
                    "-q",
                    "batch.pdf",
                    target.name,
                ],
                folder,
                left,
            ):
                continue
            try:
                read = engine.read(target).pages
            except ReadingError:
                continue
            for index, page in zip(batch, read, strict=False):
                if not page.unread:
                    pages[index] = page
                    done.append(index + 1)
    return replace(reading, pages=tuple(pages)), tuple(done)


def _extract(path: Path, indices: Sequence[int], target: Path) -> bool:
    """Write these pages as a PDF of their own; return whether that could be done."""
    import pikepdf

    try:
        with pikepdf.open(path) as document, pikepdf.new() as part:
            for index in indices:
                part.pages.append(document.pages[index])
            part.save(target)
    except (pikepdf.PdfError, pikepdf.PasswordError, ValueError, RuntimeError, IndexError):
        return False
    return True


def _ran(command: Sequence[str], folder: str, seconds: float) -> bool:
    environment = os.environ | {"OMP_THREAD_LIMIT": "1"}
    try:
        return (
            subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                check=False,
            ).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False
