"""PDF engines: a PDF to Markdown, a page at a time, with repair and fall-back."""

import re
from collections.abc import Container, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ecg_llm.contracts import Page, PdfEngine, Reading, ReadingError
from ecg_llm.corpus import layout, structure
from ecg_llm.corpus.formats import describe
from ecg_llm.corpus.salvage import salvage

UNREADABLE_SHARE = 0.2
"""Share of control, private-use and replacement characters beyond which a page is garbled."""
ODD = re.compile("[\x00\x01\x03-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd]")
"""Characters that no text holds (0x02 and 0x0B are PDFium's marks of a broken word and line)."""
WORTH = 20
"""Letters from which on PDFium's text of a page replaces a blank."""
FRACTION = re.compile(r"\\frac\{[\d.,\s]+\}\{[\d.,\s]+\}")
ROOM = 0.67
"""Heights that the parts of a fraction reach beyond its box."""
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
MIXED = 3
"""Lines of a page out of order from which on its columns are read one by one."""
MIXED_BESIDE_TABLES = 5
"""The same where that costs another parse, and the lines of a table may look out of order."""
SCALED = 4.0
"""A font size below is not the type's own: the text is scaled up."""
ASCENT = 1.1
"""Height of a line of text over its font's size."""
TAIL = 2048
"""Bytes at the end of a whole PDF among which its end is marked."""
LARGEST = 200_000_000
"""Bytes of a file that is looked through for damage."""
MOST_PAGES = 100_000
PAGE_TREE = re.compile(
    rb"/Type\s{0,9}/Pages\b[^<>]{0,400}?/Count\s{1,9}(\d{1,9})"
    rb"|/Count\s{1,9}(\d{1,9})[^<>]{0,400}?/Type\s{0,9}/Pages\b"
)
"""What the page tree says of the number of pages, where it is not compressed."""
REPAIRED = "The file is damaged; it was repaired."


def read(engine: PdfEngine, path: Path, password: str, folder: Path) -> tuple[Reading, Path]:
    """Return what an engine reads of a PDF, and the file that it read.

    What can be saved of a damaged file goes to `folder` and is read instead, where more of it
    comes out; its lost pages stand in their places. PDFium is the last resort.

    Raises:
        ReadingError: nothing can be read; says why.
    """
    problem: ReadingError | None = None
    reading: Reading | None = None
    try:
        reading = engine.read(path, password)
    except ReadingError as error:
        if error.reason not in ("corrupt", "no_pages"):
            raise
        problem = error
    if reading and not _is_damaged(path, len(reading.pages)):
        return reading, path
    saved = folder / "saved.pdf"
    second = _salvaged(engine, path, password, saved)
    if second and (not reading or _worth(second) > _worth(reading)):
        return second, saved
    if reading:
        return reading, path
    try:
        return PdfiumEngine().read(path, password), path
    except ReadingError as error:
        reason = "truncated" if _is_damaged(path, 0) else error.reason
        raise ReadingError(reason, problem.note if problem else error.note) from error


class LiteparseEngine:
    """liteparse (PDFium in Rust), its layout mended by the page's own type."""

    name = "liteparse"

    @property
    def version(self) -> str:
        """Version of the liteparse package."""
        return version("liteparse")

    def read(self, path: Path, password: str = "") -> Reading:
        """Return every page; those without usable text carry the reason and no text.

        Raises:
            ReadingError: not_a_pdf, encrypted, no_pages or corrupt.
        """
        check_header(path)
        from liteparse import ParseError

        try:
            return self._parse(path, password)
        except ParseError as error:
            check_password(path, password)
            raise ReadingError("corrupt", f"{error}.") from error

    def _parse(self, path: Path, password: str) -> Reading:
        result = _liteparse(path, password)
        if not result.total_pages:
            raise ReadingError("no_pages", "The PDF has no pages.")
        parsed = {page.page_num: page for page in result.pages}
        numbers = range(1, result.total_pages + 1)
        places = {number: _Place(page) for number, page in parsed.items()}
        body = layout.body_style([place.lines for place in places.values()])
        titles = {number: structure.titles(place.lines, body) for number, place in places.items()}
        known = [title for found in titles.values() for title in found]
        styles = {title.style for title in known} - {body}
        ordered = [places[n].ordered if n in places else [] for n in numbers]
        entries = structure.entries(ordered, body)
        heads = dict(
            zip(
                places,
                layout.running(
                    [place.lines for place in places.values()],
                    [page.height for page in parsed.values()],
                    body,
                ),
                strict=True,
            )
        )
        pages: list[Page] = []
        for number in numbers:
            page = parsed.get(number)
            if page is None:
                pages.append(Page("", "blank"))
                continue
            place = places[number]
            markdown = _in_order(path, password, page, place.regions, styles, body)
            markdown = _numbers_checked(path, password, page, markdown)
            markdown = layout.without_lines(markdown, heads[number])
            markdown = structure.untable_prose(markdown, place.ordered)
            markdown = structure.join_headings(markdown, place.lines)
            markdown = structure.unmark_headings(
                markdown, place.lines, known, body, first=number == 1
            )
            markdown = structure.mark_headings(markdown, titles[number])
            markdown = structure.mark_entries(markdown, entries[number - 1])
            pages.append(judged(markdown, page.complexity.reasons))
        if any(page.unread == "blank" for page in pages):
            pages = second_look(path, password, pages)
        return Reading(tuple(pages), engine=self.name, engine_version=self.version)


class _Place:
    """Where the text of a page stands."""

    def __init__(self, page: Any) -> None:
        self.lines = layout.lines_of(_runs(page))
        self.regions = layout.columns(self.lines, page.width, page.height)
        self.ordered = [line for region in self.regions for line in region.lines] or self.lines


class PdfiumEngine:
    """PDFium's plain text: fast, without headings or tables."""

    name = "pdfium"

    @property
    def version(self) -> str:
        """Version of the pypdfium2 package."""
        return version("pypdfium2")

    def read(self, path: Path, password: str = "") -> Reading:
        """Return every page's text; pages without usable text carry the reason.

        Raises:
            ReadingError: not_a_pdf, encrypted, no_pages or corrupt.
        """
        check_header(path)
        import pypdfium2
        from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE

        try:
            document = pypdfium2.PdfDocument(path, password=password or None)
        except pypdfium2.PdfiumError as error:
            check_password(path, password)
            raise ReadingError("corrupt", str(error)) from error
        pages = []
        with closing(document):
            if not len(document):
                raise ReadingError("no_pages", "The PDF has no pages.")
            for index in range(len(document)):
                try:
                    with closing(document[index]) as page, closing(page.get_textpage()) as layer:
                        text = layer.get_text_range(errors="replace")
                        image = not text.strip() and any(
                            page.get_objects([FPDF_PAGEOBJ_IMAGE], max_depth=2)
                        )
                except pypdfium2.PdfiumError:
                    text, image = "", False
                pages.append(judged(text, ["scanned"] if image else []))
        return Reading(tuple(pages), engine=self.name, engine_version=self.version)


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
        raise ReadingError("not_a_pdf", f"The file is {describe(head)}.")


def check_password(path: Path, password: str) -> None:
    """Return unless the file needs another password than this.

    Raises:
        ReadingError: encrypted.
    """
    import pikepdf

    try:
        pikepdf.open(path, password=password).close()
    except pikepdf.PasswordError as error:
        said = "The password given does not open it." if password else "It needs a password."
        raise ReadingError("encrypted", said) from error
    except (pikepdf.PdfError, ValueError, RuntimeError):
        return


def judged(markdown: str, reasons: Sequence[str] = ()) -> Page:
    """Return a page, without its text if that is not usable.

    Args:
        markdown: What an engine read.
        reasons: What the engine says against it; only "scanned" and "garbled" count.
    """
    letters = len(re.sub(r"```\w*|[\W_]+", "", markdown))
    odd = len(ODD.findall(markdown))
    if "garbled" in reasons or odd > UNREADABLE_SHARE * max(letters + odd, 1):
        return Page("", "garbled")
    if "scanned" in reasons:
        return Page("", "scanned")
    return Page(markdown) if letters else Page("", "blank")


def _liteparse(
    path: Path,
    password: str,
    page: int | None = None,
    crop: tuple[float, float, float, float] | None = None,
) -> Any:
    """Return what liteparse makes of a file, of one page, or of a region of it."""
    from liteparse import LiteParse, ParseError

    parser = LiteParse(
        ocr_enabled=False,
        max_pages=10**6,
        output_format="markdown",
        image_mode="off",
        extract_links=False,
        keep_headers_footers=True,  # it takes first lines of text for them: layout.running tells
        include_complexity=crop is None,
        continue_on_page_error=True,
        emit_word_boxes=False,
        preserve_very_small_text=True,
        password=password or None,
        target_pages=str(page) if page else None,
        crop_box=crop,
        quiet=True,
    )
    native = getattr(parser, "_native", None)
    if native is None:
        return parser.parse(str(path))
    try:
        return native.parse(str(path))  # without a copy of every field, which costs a fifth
    except RuntimeError as error:
        raise ParseError(str(error)) from error


def _runs(page: Any) -> list[layout.Run]:
    return [
        layout.Run(
            item.text, item.x, item.y, item.width, item.height, item.font_name or "",
            item.font_size if (item.font_size or 0) >= SCALED else item.height / ASCENT,
        )
        for item in page.text_items
        if not item.rotation
    ]  # fmt: skip


def _in_order(
    path: Path,
    password: str,
    page: Any,
    regions: Sequence[layout.Region],
    headings: Container[layout.Style],
    body: layout.Style,
) -> str:
    """Return a page's Markdown; column by column where liteparse mixed the columns up."""
    from liteparse import ParseError

    markdown: str = page.markdown
    mixed = layout.disorder(markdown, regions, page.width)
    if mixed < (MIXED_BESIDE_TABLES if any(region.table for region in regions) else MIXED):
        return markdown
    try:
        parts = [
            _liteparse(path, password, page.page_num, region.box).pages[0].markdown
            if region.table
            else layout.paragraphs(region.lines, headings, body)
            for region in regions
        ]
    except (ParseError, IndexError):
        return markdown
    apart = "\n\n".join(part for part in parts if part.strip())
    return apart if layout.disorder(apart, regions, page.width) < mixed else markdown


def _numbers_checked(path: Path, password: str, page: Any, markdown: str) -> str:
    """Return a page's Markdown without numbers set as fractions that are none.

    A rule between two rows of a table makes liteparse read 96.51 above 93.46 as a fraction, and
    lose a point on the way. PDFium's text in the same place tells.
    """
    items = [item for item in page.text_items if FRACTION.search(item.text)]
    if not items:
        return markdown
    import pypdfium2

    with (
        closing(pypdfium2.PdfDocument(path, password=password or None)) as document,
        closing(document[page.page_num - 1]) as drawn,
        closing(drawn.get_textpage()) as layer,
    ):
        left, _, _, top = drawn.get_bbox()
        for item in items:
            x, y, room = left + item.x, top - item.y, item.height * ROOM
            box = (x - 1, y - item.height - room, x + item.width + 1, y + room)
            text = " ".join(layer.get_text_bounded(*box, errors="replace").split())
            same = re.sub(r"\D", "", text) == re.sub(r"\D", "", item.text)
            if same and NUMBER.findall(text) != NUMBER.findall(item.text):
                inner = item.text.strip("$")
                markdown = markdown.replace(f"${inner}$", text).replace(inner, f"{text} ")
    markdown = re.sub(r"\$([\d.,\s]+)\$", r"\1", markdown)
    return re.sub(r"(?<=\|) \. (?=\|)", "  ", markdown)


def second_look(path: Path, password: str, pages: list[Page]) -> list[Page]:
    """Return the pages with those that seem blank replaced where PDFium sees text or a picture.

    liteparse leaves out text that stands upright on a turned page.
    """
    try:
        plain = PdfiumEngine().read(path, password).pages
    except ReadingError:
        return pages
    return [
        seen
        if page.unread == "blank" and (seen.unread or len(_words(seen.markdown)) >= WORTH)
        else page
        for page, seen in zip(pages, plain, strict=False)
    ] + pages[len(plain) :]


def _salvaged(engine: PdfEngine, path: Path, password: str, target: Path) -> Reading | None:
    """Return what an engine reads of all that can be saved of a file; None if nothing can."""
    found = salvage(path, target, password)
    if found is None:
        return None
    try:
        reading = engine.read(target)
    except ReadingError:
        return None
    pages = tuple(
        Page("", "lost")
        if number in found.lost or (number in found.cut and page.unread == "blank")
        else page
        for number, page in enumerate(reading.pages, start=1)
    )
    said = [REPAIRED]
    if not found.counted:
        said.append("It may have had more pages, in another order.")
    said += [f"Cut off: {_numbered(found.cut)}."] if found.cut else []
    said += [f"Fonts or pictures lost: {_numbered(found.doubtful)}."] if found.doubtful else []
    short = int(bool(found.cut or found.lost or not found.counted))
    quality = {**reading.quality, "repaired": " ".join(said), "short": short}
    return replace(reading, pages=pages, quality=quality)


def _numbered(pages: Sequence[int]) -> str:
    listed = ", ".join(map(str, pages[:10]))
    return f"page {listed}{' ...' if len(pages) > 10 else ''}"


def _words(markdown: str) -> str:
    return re.sub(r"[\W\d_]+", "", markdown)


def _worth(reading: Reading) -> tuple[int, int]:
    """Return (pages, letters) of a reading: lost pages that are named are worth more than none."""
    return len(reading.pages), sum(len(_words(page.markdown)) for page in reading.pages)


def _is_damaged(path: Path, pages: int) -> bool:
    """Tell whether a PDF lacks the mark of its end, or says that it has more pages than these."""
    data = path.read_bytes() if path.stat().st_size <= LARGEST else b"%%EOF"
    if b"%%EOF" not in data[-TAIL:]:
        return True
    counts = (int(match[1] or match[2]) for match in PAGE_TREE.finditer(data))
    return pages < max((count for count in counts if count < MOST_PAGES), default=0)
