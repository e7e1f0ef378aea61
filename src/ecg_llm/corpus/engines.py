"""PDF engines of other projects: each is a plug-in by name, loaded if its package is there.

None of them reaches the network: OCR is off, since the pipeline does it for every engine alike,
and models are read from this machine. A file that needs a password is unlocked first, so that no
password stands in the list of processes.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from ecg_llm.contracts import MissingPackage, Reading, ReadingError, UsageError
from ecg_llm.corpus.pdf import check_header, check_password, judged, second_look

BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What these packages raise on a broken file; anything else is a crash, which the worker names."""
COPY = "document.pdf"
"""Name of the copy that an engine reads, whatever the file is called."""
NOTE = 300
"""Characters of a package's own message that are kept."""
MODELS = "docling-tools models download layout tableformer"
MINERU_LOCAL = {
    "HF_HUB_OFFLINE": "1",
    "MINERU_LLM_AIDED_FEATURES_CROSS_PAGE_TABLE_CELL_MERGE": "false",
    "MINERU_LLM_AIDED_FEATURES_TITLE_LEVELING": "false",
    "MINERU_LOG_LEVEL": "error",
    "MINERU_MODEL_SOURCE": "local",
    "MINERU_MODEL_VLM_SERVER_URL": "",
}
"""Keeps MinerU on this machine, whatever its own configuration file allows."""
MINERU_TITLES = ("doc_title", "paragraph_title")
MINERU_MARGINS = ("header", "footer", "page_number", "aside_text")
"""Blocks that are no part of the text."""
MINERU_PICTURES = ("image", "chart")
"""Blocks of which only the caption is text; the labels within are not."""

Tier = Literal["flash", "basic", "standard", "advanced"]


class PymupdfEngine:
    """PyMuPDF with its layout model (AGPL-3.0): good headings and tables, slow."""

    name = "pymupdf4llm"

    @property
    def version(self) -> str:
        """Version of the pymupdf package, which holds pymupdf4llm from 2.0 on.

        Raises:
            MissingPackage: it is not installed.
        """
        # The package pymupdf4llm 2.0 is empty: the code moved to pymupdf.
        return _version(self.name, "pymupdf", "'pymupdf>=2'", "AGPL-3.0", module="pymupdf4llm")

    def read(self, path: Path, password: str = "") -> Reading:
        """Return every page; those without usable text carry the reason and no text.

        Raises:
            MissingPackage: the package is not installed.
            ReadingError: not_a_pdf, encrypted, no_pages or corrupt.
        """
        release = self.version
        with _unlocked(path, password) as copy:
            import pymupdf
            import pymupdf4llm

            try:
                with pymupdf.open(copy) as document, redirect_stdout(StringIO()):
                    if not document.page_count:
                        raise ReadingError("no_pages", "The PDF has no pages.")
                    chunks = pymupdf4llm.to_markdown(document, page_chunks=True, use_ocr=False)
                    texts = [_without_marks(chunk["text"]) for chunk in chunks]
            except (*BROKEN, pymupdf.mupdf.FzErrorBase) as error:
                raise ReadingError("corrupt", _note(str(error))) from error
            return _reading(self.name, release, copy, texts)


class OpendataloaderEngine:
    """OpenDataLoader (Apache-2.0, on Java): keeps columns apart, and fast on whole books."""

    name = "opendataloader"

    @property
    def version(self) -> str:
        """Version of the opendataloader-pdf package.

        Raises:
            MissingPackage: it is not installed.
            UsageError: Java is not installed.
        """
        package = "opendataloader-pdf"
        release = _version(self.name, package, package, "Apache-2.0; needs Java 11 or newer")
        if not shutil.which("java"):
            raise UsageError(
                f"The PDF engine {self.name} needs Java 11 or newer: "
                "apt install default-jre-headless"
            )
        return release

    def read(self, path: Path, password: str = "") -> Reading:
        """Return every page; those without usable text carry the reason and no text.

        Raises:
            MissingPackage: the package is not installed.
            UsageError: Java is not installed.
            ReadingError: not_a_pdf, encrypted, no_pages or corrupt.
        """
        release = self.version
        mark = f"page-{uuid4().hex}-"  # no PDF can hold it and so make up pages
        with _unlocked(path, password) as copy:
            import opendataloader_pdf

            said = StringIO()
            try:
                with redirect_stdout(said), redirect_stderr(said):
                    opendataloader_pdf.convert(
                        str(copy),
                        output_dir=str(copy.parent),
                        format="markdown",
                        quiet=True,
                        image_output="off",
                        markdown_page_separator=f"\n{mark}%page-number%\n",
                    )
                markdown = copy.with_suffix(".md").read_text("utf-8", "replace")
            except (subprocess.CalledProcessError, FileNotFoundError) as error:
                words = f"{getattr(error, 'stdout', '') or ''} {getattr(error, 'stderr', '') or ''}"
                raise ReadingError("corrupt", _note(words)) from error
            texts = opendataloader_pages(markdown, mark)
            if not texts:
                raise ReadingError("no_pages", "The PDF has no pages.")
            return _reading(self.name, release, copy, texts)


class DoclingEngine:
    """Docling (MIT): layout and table models of its own; slow without a GPU."""

    name = "docling"

    @property
    def version(self) -> str:
        """Version of the docling package.

        Raises:
            MissingPackage: it is not installed.
            UsageError: the folder of its models is not there.
        """
        release = _version(self.name, "docling", "docling", "MIT")
        _docling_models()
        return release

    def read(self, path: Path, password: str = "") -> Reading:
        """Return every page; those without usable text carry the reason and no text.

        Raises:
            MissingPackage: the package is not installed.
            UsageError: its models are not on this machine.
            ReadingError: not_a_pdf, encrypted, no_pages or corrupt.
        """
        release = self.version
        with _unlocked(path, password) as copy:
            converter = _docling(_docling_models())
            try:
                result = converter.convert(copy)
            except BROKEN as error:
                raise ReadingError("corrupt", _note(str(error))) from error
            document = result.document
            texts = {
                number: document.export_to_markdown(
                    page_no=number, image_placeholder="", escape_underscores=False
                )
                for number in document.pages
            }
            pages = pages_of(texts, result.input.page_count)
            if not pages:
                raise ReadingError("no_pages", "The PDF has no pages.")
            return _reading(self.name, release, copy, pages)


class MineruEngine:
    """MinerU (a licence of its own): layout, formula and table models, by its command line.

    It runs in an environment of its own: it needs older packages than this one.
    """

    name = "mineru"

    def __init__(self, tier: Tier = "basic") -> None:
        """Choose how thorough it is.

        Args:
            tier: flash needs no models; basic has models for a CPU; standard and advanced also
                have a vision-language model.
        """
        self.tier = tier

    @property
    def version(self) -> str:
        """Version of MinerU, and the tier.

        Raises:
            MissingPackage: there is no command mineru-kit.
            UsageError: the models of the tier are not on this machine.
        """
        return f"{_mineru(self.tier)[1]} {self.tier}"

    def read(self, path: Path, password: str = "") -> Reading:
        """Return every page; those without usable text carry the reason and no text.

        Raises:
            MissingPackage: there is no command mineru-kit.
            UsageError: the models of the tier are not on this machine.
            ReadingError: not_a_pdf, encrypted, no_pages or corrupt.
        """
        program, _ = _mineru(self.tier)
        options = ["--tier", self.tier, "--ocr-mode", "txt", "--disable-image-analysis"]
        with _unlocked(path, password) as copy:
            target = copy.with_suffix(".zip")
            run = _mineru_run(program, "parse", str(copy), "-o", str(target), "-f", "zip", *options)
            if run.returncode or not target.exists():
                raise ReadingError("corrupt", _note(run.stderr.rpartition("Error:")[2]))
            with zipfile.ZipFile(target) as archive:
                texts = mineru_pages(json.loads(archive.read("structured_content.json")))
            if not texts:
                raise ReadingError("no_pages", "The PDF has no pages.")
            return _reading(self.name, self.version, copy, texts)


def pages_of(texts: Mapping[int, str], count: int = 0) -> list[str]:
    """Return the text of every page in order, empty where there is none.

    Args:
        texts: Page number, from 1: its text.
        count: Pages of the file, if known; more may be given.
    """
    return [texts.get(number, "") for number in range(1, max([count, *texts]) + 1)]


def opendataloader_pages(markdown: str, mark: str) -> list[str]:
    """Return the text of every page of a Markdown in which mark and number stand before each."""
    parts = re.split(rf"{re.escape(mark)}(\d+)\n?", markdown)
    numbers = map(int, parts[1::2])
    return pages_of(
        {number: text.strip() for number, text in zip(numbers, parts[2::2], strict=True)}
    )


def mineru_pages(content: Mapping[str, Any]) -> list[str]:
    """Return the Markdown of every page of MinerU's structured_content.json.

    Running heads, page numbers and notes in the margin are left out, and what is written within
    pictures.
    """
    return pages_of(
        {
            page["page_idx"] + 1: "\n\n".join(filter(None, map(_mineru_block, page["blocks"])))
            for page in content["pages"]
        }
    )


def _mineru_block(block: Mapping[str, Any]) -> str:
    kind = block["type"]
    if kind in MINERU_MARGINS:
        return ""
    text = "" if kind in MINERU_PICTURES else block["content"].strip()
    if text and kind in MINERU_TITLES:
        return f"{'#' * min(max(block.get('level', 1), 1), 6)} {text}"
    if text and kind == "equation":
        text = f"$$\n{text}\n$$"
    captions, notes = ([part["content"] for part in block.get(key, ())]
                       for key in ("captions", "footnotes"))  # fmt: skip
    return "\n\n".join(part for part in (*captions, text, *notes) if part)


def _version(engine: str, package: str, line: str, licence: str, module: str = "") -> str:
    """Return the version of a package or raise MissingPackage."""
    try:
        if not module or find_spec(module):
            return version(package)
    except PackageNotFoundError:
        pass
    raise MissingPackage(package, line, f"The PDF engine {engine}", licence)


@contextmanager
def _unlocked(path: Path, password: str) -> Iterator[Path]:
    """Yield a copy of a PDF, alone in a folder, that needs no password.

    Raises:
        ReadingError: empty, not_a_pdf, unreadable_file or encrypted.
    """
    import pikepdf

    check_header(path)
    check_password(path, password)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / COPY
        try:
            with pikepdf.open(path, password=password) as document:
                if document.is_encrypted:
                    document.save(copy)
        except (pikepdf.PdfError, ValueError, RuntimeError):
            copy.unlink(missing_ok=True)  # the engine says what is wrong with the file
        if not copy.exists():
            shutil.copyfile(path, copy)
        yield copy


def _reading(engine: str, release: str, path: Path, texts: Sequence[str]) -> Reading:
    """Return the reading; PDFium says of pages without a letter what they are."""
    pages = [judged(text) for text in texts]
    if any(page.unread for page in pages):
        pages = second_look(path, "", pages)
    return Reading(tuple(pages), engine=engine, engine_version=release)


def _note(words: str) -> str:
    """Return what a package said as one short line."""
    words = re.sub(rf"\S*\b{re.escape(COPY)}'?", "the file", " ".join(words.split()))
    words = words.removeprefix("Error: ")
    return words[:NOTE] or "The engine gave no reason."


def _without_marks(markdown: str) -> str:
    """Return pymupdf4llm's Markdown without its marks of pictures and line ends."""
    markdown = re.sub(r"<!-- (?:Start|End) of picture text -->(?:<br>)?", "", markdown)
    return markdown.replace("<br>", " ")


def _docling_models() -> Path:
    from docling.datamodel.settings import settings

    folder = Path(settings.artifacts_path or settings.cache_dir / "models").expanduser()
    if not folder.is_dir():
        raise UsageError(_no_docling_models(folder))
    return folder


def _no_docling_models(folder: Path) -> str:
    return (
        f"The PDF engine docling needs its models in {folder}: {MODELS} (once, with a "
        "network), or set DOCLING_ARTIFACTS_PATH to the folder that holds them."
    )


@cache
def _docling(models: Path) -> Any:
    """Return the converter that uses the models of this folder; loaded once a process."""
    from docling.datamodel.base_models import InputFormat
    from docling.datamodel.pipeline_options import PdfPipelineOptions
    from docling.document_converter import DocumentConverter, PdfFormatOption

    # Without a folder docling would fetch its models from a hub.
    options = PdfPipelineOptions(do_ocr=False, artifacts_path=models)
    converter = DocumentConverter(
        allowed_formats=[InputFormat.PDF],
        format_options={InputFormat.PDF: PdfFormatOption(pipeline_options=options)},
    )
    try:
        with redirect_stderr(StringIO()):
            converter.initialize_pipeline(InputFormat.PDF)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{_no_docling_models(models)} ({_note(str(error))})") from error
    return converter


@cache
def _mineru(tier: Tier) -> tuple[str, str]:
    """Return (the path of mineru-kit, its version), its models found; asked once a process."""
    program = shutil.which("mineru-kit")
    if program is None:
        raise MissingPackage(
            "mineru",
            "'mineru>=4,<5' (in an environment of its own, with its mineru-kit on the PATH)",
            "The PDF engine mineru",
            "MinerU Open Source License: Apache-2.0 with added terms",
        )
    found = re.search(r"\d+(?:\.\w+)+", _mineru_run(program, "--version").stdout)
    if tier != "flash":
        models = "basic" if tier == "basic" else "standard"
        if _mineru_run(program, "models", "verify", "--tier", models).returncode:
            raise UsageError(
                f"The PDF engine mineru needs the models of its tier {tier} on this machine: "
                f"mineru-kit models download --tier {models} (once, with a network)."
            )
    return program, found[0] if found else "unknown"


def _mineru_run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        env=os.environ | MINERU_LOCAL,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
