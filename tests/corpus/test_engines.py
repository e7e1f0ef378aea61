"""Engines of other projects: said to be missing by name, and read like any other if they are there.

The real packages are too large to be installed for every run: their tests are skipped without
them. MinerU is a command, so a small one of the same form stands in for it.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pikepdf
import pytest
from reportlab.lib import pagesizes
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from support import run_cli

from ecg_llm import registry
from ecg_llm.contracts import MissingPackage, PdfEngine, ReadingError, UsageError
from ecg_llm.corpus import engines

TEXT = "The P wave lasts less than 120 ms in healthy adults."
WANTED = {
    "docling": ("pip install docling", "MIT"),
    "mineru": ("pip install 'mineru>=4,<5'", "MinerU Open Source License"),
    "opendataloader": ("pip install opendataloader-pdf", "Apache-2.0"),
    "pymupdf4llm": ("pip install 'pymupdf>=2'", "AGPL-3.0"),
}
MINERU = '''#!{python}
"""Answers as mineru-kit 4.0 does."""
import json, os, sys, zipfile
if sys.argv[1] == "--version":
    print("MinerU version: 4.0.12\\nPython version: 3.11.7")
elif sys.argv[1] == "models":
    sys.exit({verified})
elif b"broken" in open(sys.argv[2], "rb").read():
    print("Error: Failed to parse\\n" + sys.argv[2] + ": PDFium: Data format error.",
          file=sys.stderr)
    sys.exit(1)
else:
    assert os.environ["MINERU_MODEL_SOURCE"] == "local"
    with zipfile.ZipFile(sys.argv[sys.argv.index("-o") + 1], "w") as archive:
        archive.writestr("structured_content.json", {content!r})
'''
CONTENT = {
    "pages": [
        {
            "page_idx": 0,
            "blocks": [
                {"type": "header", "content": "Computing in Cardiology 2016"},
                {"type": "doc_title", "level": 1, "content": "Waves and intervals"},
                {"type": "text", "content": TEXT},
                {"type": "paragraph_title", "level": 2, "content": "1. Methods"},
                {"type": "equation", "content": "QT_c = QT / \\sqrt{RR}"},
                {"type": "equation", "content": "", "image_source": "images/page_0_equation_4.jpg"},
            ],
        },
        {
            "page_idx": 2,
            "blocks": [
                {
                    "type": "image",
                    "content": "Lead\nmV",
                    "captions": [{"content": "Figure 1. A lead."}],
                    "footnotes": [],
                },
                {
                    "type": "table",
                    "content": "<table><tr><td>PR</td></tr></table>",
                    "captions": [{"content": "Table 1. Intervals."}],
                    "footnotes": [{"content": "In ms."}],
                },
                {"type": "page_number", "content": "3"},
            ],
        },
    ],
    "metadata": {"file_suffix": "pdf"},
}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return a PDF of three pages: written, blank, and a picture of text."""
    from PIL import Image, ImageDraw

    path = tmp_path / "mixed.pdf"
    canvas = Canvas(str(path), pagesize=pagesizes.A4)
    canvas.setFont("Helvetica-Bold", 18)
    canvas.drawString(72, 760, "Waves and intervals")
    canvas.setFont("Helvetica", 10)
    for line in range(20):
        canvas.drawString(72, 720 - 14 * line, f"{TEXT} Line {line} follows.")
    canvas.showPage()
    canvas.showPage()
    image = Image.new("L", (1240, 1754), 255)
    drawing = ImageDraw.Draw(image)
    for line in range(12):
        drawing.text((120, 120 + 60 * line), "The wave of the heart is broad.", 0, font_size=36)
    canvas.drawImage(ImageReader(image), 0, 0, *pagesizes.A4)
    canvas.showPage()
    canvas.save()
    return path


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    engines._mineru.cache_clear()
    yield
    engines._mineru.cache_clear()


@pytest.fixture
def mineru(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what puts a command mineru-kit on the path; its models are verified with a code."""

    def put(verified: int) -> None:
        command = tmp_path / "bin" / "mineru-kit"
        command.parent.mkdir()
        command.write_text(
            MINERU.format(python=sys.executable, verified=verified, content=json.dumps(CONTENT))
        )
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(command.parent))

    return put


@pytest.mark.parametrize("name", WANTED)
def test_a_missing_package_is_named_with_pip_line_and_licence_on_first_use(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(engines, "version", missing)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    engine = registry.find("pdf", name)()
    assert engine.name == name
    for use in (lambda: engine.version, lambda: engine.read(Path("nowhere.pdf"))):
        with pytest.raises(MissingPackage) as caught:
            use()
        said = str(caught.value)
        assert said.startswith(f"The PDF engine {name} needs the package ")
        assert all(words in said for words in WANTED[name])


def test_pymupdf4llm_is_missing_if_only_its_empty_package_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "version", lambda package: "2.0")
    monkeypatch.setattr(engines, "find_spec", lambda module: None)
    with pytest.raises(MissingPackage, match="pymupdf>=2"):
        engines.PymupdfEngine().version  # noqa: B018 - the look-up raises


def test_plugins_lists_them() -> None:
    assert set(WANTED) <= set(json.loads(run_cli("plugins", "--json").stdout)["pdf"])


def test_opendataloader_without_java_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "version", lambda package: "2.5.16")
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(UsageError, match="needs Java 11 or newer: apt install"):
        engines.OpendataloaderEngine().read(Path("nowhere.pdf"))


def test_pages_stand_in_order_and_none_is_missing() -> None:
    assert engines.pages_of({3: "c", 1: "a"}) == ["a", "", "c"]
    assert engines.pages_of({1: "a"}, 2) == ["a", ""]
    assert engines.pages_of({2: "b"}, 1) == ["", "b"]
    assert engines.pages_of({}) == []


def test_opendataloader_pages_are_told_by_a_mark_that_no_pdf_holds() -> None:
    markdown = "\npage-7f-1\n\n\n# Title\n\npage-00-2\n\npage-7f-2\n\n\npage-7f-3\n\nEnd.\n"
    pages = engines.opendataloader_pages(markdown, "page-7f-")
    assert pages == ["# Title\n\npage-00-2", "", "End."]
    assert engines.opendataloader_pages("", "page-7f-") == []


def test_mineru_pages_hold_titles_captions_and_no_labels() -> None:
    first, second, third = engines.mineru_pages(CONTENT)
    assert first == (
        f"# Waves and intervals\n\n{TEXT}\n\n## 1. Methods\n\n$$\nQT_c = QT / \\sqrt{{RR}}\n$$"
    )
    assert second == ""
    assert third == (
        "Figure 1. A lead.\n\nTable 1. Intervals.\n\n<table><tr><td>PR</td></tr></table>\n\nIn ms."
    )


def test_marks_of_pictures_are_no_text() -> None:
    marked = (
        "<!-- Start of picture text -->\nLead<br>\nII<br><!-- End of picture text --><br>\n\nA."
    )
    assert engines._without_marks(marked).split() == ["Lead", "II", "A."]


def test_mineru_is_a_command_that_reads_pages(
    mineru: Callable[[int], None], mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mineru(0)
    monkeypatch.setenv("MINERU_MODEL_SOURCE", "huggingface")
    engine = engines.MineruEngine()
    assert isinstance(engine, PdfEngine)
    reading = engine.read(mixed)
    assert (reading.engine, reading.engine_version) == ("mineru", "4.0.12 basic")
    assert [page.unread for page in reading.pages] == ["", "blank", ""]
    assert "## 1. Methods" in reading.pages[0].markdown


def test_mineru_without_models_or_with_a_broken_file_says_so(
    mineru: Callable[[int], None], tmp_path: Path
) -> None:
    mineru(1)
    with pytest.raises(UsageError, match="mineru-kit models download --tier basic"):
        engines.MineruEngine().version  # noqa: B018 - the look-up raises
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.4\nbroken")
    with pytest.raises(ReadingError) as caught:
        engines.MineruEngine("flash").read(path)
    assert caught.value.args == (
        "corrupt",
        "Failed to parse the file: PDFium: Data format error.",
    )


@pytest.mark.parametrize(
    ("engine", "module"),
    [
        (engines.PymupdfEngine(), "pymupdf4llm"),
        (engines.OpendataloaderEngine(), "opendataloader_pdf"),
        (engines.MineruEngine("flash"), ""),
    ],
    ids=lambda value: getattr(value, "name", None),
)
class TestInstalled:
    """What is there is run."""

    @pytest.fixture(autouse=True)
    def _there(self, engine: PdfEngine, module: str) -> None:
        if module:
            pytest.importorskip(module)
        try:
            assert engine.version
        except (MissingPackage, UsageError) as error:
            pytest.skip(str(error))

    def test_every_page_is_read_or_has_a_reason(
        self, engine: PdfEngine, module: str, mixed: Path
    ) -> None:
        assert isinstance(engine, PdfEngine)
        reading = engine.read(mixed)
        assert [page.unread for page in reading.pages] == ["", "blank", "scanned"]
        assert TEXT in " ".join(reading.pages[0].markdown.split())
        assert (reading.engine, reading.engine_version) == (engine.name, engine.version)

    def test_a_password_is_needed_and_used(
        self, engine: PdfEngine, module: str, mixed: Path, tmp_path: Path
    ) -> None:
        locked = tmp_path / "locked.pdf"
        with pikepdf.open(mixed) as document:
            document.save(locked, encryption=pikepdf.Encryption(owner="o", user="u"))
        for password in ("", "x"):
            with pytest.raises(ReadingError) as caught:
                engine.read(locked, password)
            assert caught.value.reason == "encrypted"
        assert len(engine.read(locked, "u").pages) == 3

    def test_what_is_no_pdf_says_why(self, engine: PdfEngine, module: str, tmp_path: Path) -> None:
        for data, reasons in (
            (b"", {"empty"}),
            (b"\x89PNG\r\n\x1a\n" + b"0" * 99, {"not_a_pdf"}),
            (b"%PDF-1.4\nnothing that follows is one", {"corrupt", "no_pages"}),
        ):
            path = tmp_path / "a.pdf"
            path.write_bytes(data)
            with pytest.raises(ReadingError) as caught:
                engine.read(path)
            assert caught.value.reason in reasons


@pytest.mark.filterwarnings("ignore")  # docling meets its own deprecations
def test_docling_reads_with_its_models_and_names_them_if_they_are_not_there(
    tmp_path: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("docling.document_converter")
    from docling.datamodel.settings import settings

    engine = engines.DoclingEngine()
    try:
        pages = engine.read(mixed).pages
        assert [page.unread for page in pages] == ["", "blank", "scanned"]
    except UsageError:
        pass  # this machine holds no models: nothing to read with
    monkeypatch.setattr(settings, "artifacts_path", tmp_path / "none")
    with pytest.raises(UsageError, match="docling-tools models download layout tableformer"):
        engine.read(mixed)
