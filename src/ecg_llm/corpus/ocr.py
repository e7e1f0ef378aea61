"""OCR of single pages by ocrmypdf and tesseract, each within a time limit."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ecg_llm.contracts import Page, PdfEngine, ReadingError

LANGUAGES = ("eng", "deu")
REASONS = ("scanned", "garbled")
"""Why a page is unread that OCR may read."""


@cache
def command() -> tuple[tuple[str, ...], str]:
    """Return (the command that runs ocrmypdf, its languages), both empty if OCR is missing."""
    tesseract = shutil.which("tesseract")
    program = shutil.which("ocrmypdf")
    if find_spec("ocrmypdf"):
        found: tuple[str, ...] = (sys.executable, "-m", "ocrmypdf")
    elif program:
        found = (program,)
    else:
        return (), ""
    if not tesseract:
        return (), ""
    listed = subprocess.run(
        [tesseract, "--list-langs"], capture_output=True, text=True, check=False, timeout=30
    ).stdout.split()
    languages = [language for language in LANGUAGES if language in listed]
    return (found, "+".join(languages)) if languages else ((), "")


def recognise(
    path: Path, indices: Sequence[int], engine: PdfEngine, *, password: str = "", seconds: float
) -> dict[int, Page]:
    """Return the pages that were recognised, by index; the others found no words in time.

    The pages are tried together, which starts the programs once, and one by one if that fails.

    Args:
        path: The PDF.
        indices: Pages to recognise, from 0.
        engine: Reads the recognised pages.
        password: Opens the PDF.
        seconds: Time for one page.
    """
    found = _recognised(path, indices, engine, password, seconds * len(indices))
    if found is None and len(indices) > 1:
        found = {}
        for index in indices:
            found |= _recognised(path, [index], engine, password, seconds) or {}
    return found or {}


def _recognised(
    path: Path, indices: Sequence[int], engine: PdfEngine, password: str, seconds: float
) -> dict[int, Page] | None:
    program, languages = command()
    options = ["--force-ocr", "--deskew", "--output-type", "pdf", "--optimize", "0"]
    options += ["-l", languages, "-j", "1", "-q", "--max-image-mpixels", "300"]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "pages.pdf", Path(folder) / "recognised.pdf"
        if not program or not _extract(path, indices, source, password):
            return None
        if not _ran([*program, *options, source.name, target.name], folder, seconds):
            return None
        try:
            read = engine.read(target).pages
        except ReadingError:
            return None
    return {index: page for index, page in zip(indices, read, strict=False) if not page.unread}


def _extract(path: Path, indices: Sequence[int], target: Path, password: str) -> bool:
    """Write these pages as a PDF of their own; return whether that could be done."""
    import pikepdf

    try:
        with pikepdf.open(path, password=password) as document, pikepdf.new() as part:
            for index in indices:
                part.pages.append(document.pages[index])
            part.save(target)
    except (pikepdf.PdfError, pikepdf.PasswordError, ValueError, RuntimeError, IndexError):
        return False
    return True


def _ran(call: Sequence[str], folder: str, seconds: float) -> bool:
    """Tell whether a command succeeded in time; what it started ends with it."""
    process = subprocess.Popen(
        call,
        cwd=folder,
        env=os.environ | {"OMP_THREAD_LIMIT": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
