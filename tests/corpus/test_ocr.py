"""OCR of single pages: what is readable is read, what is not in time stays unread."""

from pathlib import Path

import pytest
from reportlab.lib import pagesizes
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from ecg_llm.corpus import ocr, pdf

needs_ocr = pytest.mark.skipif(
    not ocr.command()[0], reason="ocrmypdf or tesseract is not installed"
)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Return a PDF of a page of text and two pictures of text."""
    from PIL import Image, ImageDraw

    path = tmp_path / "scan.pdf"
    canvas = Canvas(str(path), pagesize=pagesizes.A4)
    canvas.drawString(72, 700, "The P wave lasts less than 120 ms in healthy adults.")
    canvas.showPage()
    for number in ("one", "two"):
        image = Image.new("L", (1240, 1754), 255)
        drawing = ImageDraw.Draw(image)
        for line in range(12):
            words = f"The wave of the heart is broad, says page {number}."
            drawing.text((120, 120 + 60 * line), words, 0, font_size=36)
        canvas.drawImage(ImageReader(image), 0, 0, *pagesizes.A4)
        canvas.showPage()
    canvas.save()
    return path


@pytest.mark.slow
@needs_ocr
def test_the_pages_asked_for_are_recognised(scan: Path) -> None:
    found = ocr.recognise(scan, [1, 2], pdf.LiteparseEngine(), seconds=60)
    assert "says page one" in found[1].markdown
    assert "says page two" in found[2].markdown
    assert not found[1].unread


def test_no_time_leaves_pages_unread(scan: Path) -> None:
    assert ocr.recognise(scan, [1], pdf.LiteparseEngine(), seconds=0.01) == {}


def test_a_file_that_cannot_be_opened_leaves_pages_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.4 nothing")
    assert ocr.recognise(path, [0], pdf.LiteparseEngine(), seconds=5) == {}
