"""Pictures of single pages, drawn in worker processes: a page may be made to crash or to hang."""

import io
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ecg_llm import engine

GREYS = 16
"""Levels of grey; more make a page no clearer and the file larger."""
LONGEST = 2_000.0
"""Points beyond which a page is drawn smaller."""


class PictureJob(NamedTuple):
    """A page to draw."""

    file: str
    page: int
    """From 1."""
    password: str = ""
    width: int = 360
    """Pixels."""


def draw(jobs: Sequence[PictureJob], *, timeout: float = 20) -> list[bytes]:
    """Return a PNG of each page, in order; empty for a page that cannot be drawn in time.

    Equal pages give equal bytes.
    """
    found = {
        outcome.item: outcome.value or b""
        for outcome in engine.run(picture, jobs, timeout=timeout, memory_mb=1024)
    }
    return [found[job] for job in jobs]


def picture(job: PictureJob) -> bytes:
    """Return a PNG of a page, empty if it cannot be drawn."""
    import pypdfium2

    try:
        with closing(
            pypdfium2.PdfDocument(Path(job.file), password=job.password or None)
        ) as document:
            page = document[job.page - 1]
            width, height = page.get_size()
            if not 0 < max(width, height) < 8 * LONGEST:
                return b""
            scale = min(job.width / width, LONGEST / height)
            image = page.render(scale=scale, grayscale=True).to_pil()
    except (pypdfium2.PdfiumError, IndexError, ValueError):
        return b""
    target = io.BytesIO()
    image.convert("L").quantize(GREYS).save(target, "PNG", optimize=True)
    return target.getvalue()
