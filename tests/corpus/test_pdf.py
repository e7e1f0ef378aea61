"""PDF engines on real files made here: every page, or one reason."""

from collections.abc import Callable
from pathlib import Path

import pikepdf
import pytest
from reportlab.lib import pagesizes
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from ecg_llm.contracts import PdfEngine, ReadingError
from ecg_llm.corpus import pdf

TEXT = "The P wave lasts less than 120 ms in healthy adults."
ENGINES = [pdf.LiteparseEngine, pdf.PdfiumEngine]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of PDFs: each argument draws one page."""

    def make(*pages: Callable[[Canvas], None], name: str = "a.pdf") -> Path:
        path = tmp_path / name
        canvas = Canvas(str(path), pagesize=pagesizes.A4)
        for draw in pages:
            draw(canvas)
            canvas.showPage()
        canvas.save()
        return path

    return make


def article(canvas: Canvas) -> None:
    canvas.setFont("Helvetica-Bold", 18)
    canvas.drawString(72, 760, "Waves and intervals")
    canvas.setFont("Helvetica", 10)
    for line in range(20):
        canvas.drawString(72, 720 - 14 * line, f"{TEXT} Line {line} follows.")


def blank(canvas: Canvas) -> None:
    canvas.setFont("Helvetica", 10)


def picture(canvas: Canvas) -> None:
    from PIL import Image, ImageDraw

    image = Image.new("L", (1240, 1754), 255)
    drawing = ImageDraw.Draw(image)
    for line in range(12):
        drawing.text((120, 120 + 60 * line), "The wave of the heart is broad.", 0, font_size=36)
    canvas.drawImage(ImageReader(image), 0, 0, *pagesizes.A4)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_fill_the_protocol_and_read_every_page(
    engine: type[PdfEngine], made: Callable[..., Path]
) -> None:
    assert isinstance(engine(), PdfEngine)
    reading = engine().read(made(article, blank, article))
    assert [page.unread for page in reading.pages] == ["", "blank", ""]
    assert TEXT in reading.pages[2].markdown
    assert (reading.engine, reading.engine_version) == (engine().name, engine().version)


def test_liteparse_finds_the_heading(made: Callable[..., Path]) -> None:
    assert "# Waves and intervals" in pdf.LiteparseEngine().read(made(article)).pages[0].markdown


@pytest.mark.parametrize("engine", ENGINES)
def test_scanned_page_is_told_from_a_blank_one(
    engine: type[PdfEngine], made: Callable[..., Path]
) -> None:
    reading = engine().read(made(picture, article))
    assert [page.unread for page in reading.pages] == ["scanned", ""]
    assert reading.pages[0].markdown == ""


def test_more_than_a_thousand_pages_are_read_once_each(made: Callable[..., Path]) -> None:
    """The published pipeline cut books into pieces of 300 pages and read the edges twice."""

    def page(number: int) -> Callable[[Canvas], None]:
        return lambda canvas: canvas.drawString(72, 700, f"This is page no {number} of it.")

    reading = pdf.LiteparseEngine().read(made(*map(page, range(1, 1004))))
    assert len(reading.pages) == 1003
    for number, read in enumerate(reading.pages, start=1):
        assert read.markdown.count(f"page no {number} of") == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (b"", "empty", "no bytes"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 99, "not_a_pdf", "PNG"),
        (b"\n<!DOCTYPE html><html>no PDF</html>", "not_a_pdf", "HTML"),
        (b"%PDF-1.4\nnothing that follows is one", "corrupt", ""),
    ],
)
def test_what_is_no_pdf_says_why(
    tmp_path: Path, engine: type[PdfEngine], data: bytes, reason: str, says: str
) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(data)
    with pytest.raises(ReadingError) as caught:
        engine().read(path)
    assert caught.value.reason == reason
    assert says in caught.value.note


@pytest.mark.parametrize("engine", ENGINES)
def test_only_a_password_to_open_stops_reading(
    tmp_path: Path, engine: type[PdfEngine], made: Callable[..., Path]
) -> None:
    plain, owner, user = made(article), tmp_path / "owner.pdf", tmp_path / "user.pdf"
    with pikepdf.open(plain) as document:
        document.save(owner, encryption=pikepdf.Encryption(owner="o", user=""))
        document.save(user, encryption=pikepdf.Encryption(owner="o", user="u"))
    assert TEXT in engine().read(owner).pages[0].markdown
    with pytest.raises(ReadingError) as caught:
        engine().read(user)
    assert caught.value.reason == "encrypted"


def test_the_password_given_opens_the_file(tmp_path: Path, made: Callable[..., Path]) -> None:
    user = tmp_path / "user.pdf"
    with pikepdf.open(made(article)) as document:
        document.save(user, encryption=pikepdf.Encryption(owner="o", user="geheim"))
    for engine in ENGINES:
        assert TEXT in engine().read(user, "geheim").pages[0].markdown
        with pytest.raises(ReadingError, match="does not open it"):
            engine().read(user, "wrong")


def test_a_damaged_file_is_repaired(tmp_path: Path, made: Callable[..., Path]) -> None:
    damaged = tmp_path / "damaged.pdf"
    damaged.write_bytes(made(article).read_bytes().replace(b"startxref", b"st@rtxref"))
    reading, _ = pdf.read(pdf.LiteparseEngine(), damaged, "", tmp_path)
    assert TEXT in reading.pages[0].markdown


def test_a_file_cut_off_keeps_its_pages_numbers_and_names_the_lost(
    tmp_path: Path, made: Callable[..., Path]
) -> None:
    whole = made(*[article] * 6).read_bytes()
    cut = tmp_path / "cut.pdf"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    reading, source = pdf.read(pdf.LiteparseEngine(), cut, "", tmp_path)
    assert source != cut
    assert "damaged" in str(reading.quality["repaired"])
    states = [page.unread for page in reading.pages]
    assert "" in states
    assert set(states) <= {"", "lost"}


def test_columns_that_the_engine_mixes_are_read_one_by_one(made: Callable[..., Path]) -> None:
    """A table beside prose makes liteparse take both columns for one table."""

    def page(canvas: Canvas) -> None:
        canvas.setFont("Times-Roman", 10)
        for line in range(40):
            canvas.drawString(
                60, 740 - 12 * line, f"Line {line} of the left column goes on and on so"
            )
        for line in range(20):
            height = 740 - 12 * line
            canvas.drawString(330, height, f"Row {line}")
            canvas.drawString(400, height, f"{line}.5 ms")
            canvas.drawString(470, height, f"{line} mV")
        for line in range(20, 40):
            canvas.drawString(330, 740 - 12 * line, f"Line {line} of the right column goes on so")

    words = " ".join(pdf.LiteparseEngine().read(made(page)).pages[0].markdown.split())
    places = [words.find(f"Line {n} of the left column") for n in range(40)]
    places += [words.find(f"Line {n} of the right column") for n in range(20, 40)]
    assert places == sorted(places)
    assert places[0] >= 0


def test_running_heads_go_and_first_lines_that_look_alike_stay(made: Callable[..., Path]) -> None:
    def page(number: int) -> Callable[[Canvas], None]:
        def draw(canvas: Canvas) -> None:
            canvas.setFont("Helvetica", 9)
            canvas.drawString(72, 815, "The journal of waves, volume 3")
            canvas.drawString(300, 20, f"Page {number}")
            canvas.setFont("Helvetica", 11)
            for line in range(12):
                canvas.drawString(
                    72,
                    730 - 16 * line,
                    f"Lead {line}: the amplitude was {number}.{line} mV in all.",
                )

        return draw

    for count in (2, 5):
        pages = pdf.LiteparseEngine().read(made(*map(page, range(1, count + 1)))).pages
        for number, read in enumerate(pages, start=1):
            assert "journal" not in read.markdown
            assert "Page" not in read.markdown
            assert all(f"was {number}.{line} mV" in read.markdown for line in range(12))


def test_numbers_above_each_other_with_a_rule_between_are_no_fraction(
    made: Callable[..., Path],
) -> None:
    def page(canvas: Canvas) -> None:
        article(canvas)
        canvas.setFont("Helvetica", 9)
        for row, cells in enumerate((("91.75", "96.51"), ("92.66", "93.46"), ("90.11", "94.02"))):
            for place, cell in enumerate((f"method {row}", *cells)):
                canvas.drawString(72 + 90 * place, 400 - 11 * row, cell)
        canvas.line(250, 397, 276, 397)

    markdown = pdf.LiteparseEngine().read(made(page)).pages[0].markdown
    assert "frac" not in markdown
    assert "96.51" in markdown
    assert "93.46" in markdown


def test_what_liteparse_gives_without_copies_is_what_it_gives(made: Callable[..., Path]) -> None:
    from liteparse import LiteParse

    path = made(article, blank)
    raw = pdf._liteparse(path, "")
    whole = LiteParse(ocr_enabled=False, output_format="markdown", quiet=True).parse(str(path))
    assert [page.markdown for page in raw.pages] == [page.markdown for page in whole.pages]
    assert raw.total_pages == whole.total_pages
