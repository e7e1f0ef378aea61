"""A component by name, by entry point of an installed package, or by "module:attribute"."""

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from ecg_llm.contracts import UsageError

GROUP = "ecg_llm"
"""Entry-point groups are ecg_llm.pdf, ecg_llm.scorer ..."""

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "pdf": {
        "liteparse": "ecg_llm.corpus.pdf:LiteparseEngine",
        "pdfium": "ecg_llm.corpus.pdf:PdfiumEngine",
        "docling": "ecg_llm.corpus.engines:DoclingEngine",
        "mineru": "ecg_llm.corpus.engines:MineruEngine",
        "opendataloader": "ecg_llm.corpus.engines:OpendataloaderEngine",
        "pymupdf4llm": "ecg_llm.corpus.engines:PymupdfEngine",
    },
}
"""Kind of component: name: where it is; imported on first use."""


def find(kind: str, name: str) -> Callable[..., Any]:
    """Return the component of this kind that has this name.

    Raises:
        UsageError: no such name ("did you mean"), or its module cannot be imported.
    """
    places = dict(BUILT_IN.get(kind, {})) | _installed(kind)
    place = name if ":" in name else places.get(name)
    if place is None:
        raise UsageError(f"There is no {kind} named {name!r}{suggestion(name, list(places))}")
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"The {kind} {name!r} cannot be loaded from {place}: {error}.") from error
    if not callable(found):
        raise UsageError(f"The {kind} {name!r} at {place} is not something to call.")
    return found  # type: ignore[no-any-return]


def names() -> dict[str, dict[str, str]]:
    """Return every known component: kind -> name -> where it is."""
    kinds = {kind: dict(places) for kind, places in BUILT_IN.items()}
    for kind, places in kinds.items():
        places |= _installed(kind)
    return kinds


@cache
def _installed(kind: str) -> dict[str, str]:
    """Return the components of installed packages: name -> where it is."""
    return {point.name: point.value for point in entry_points(group=f"{GROUP}.{kind}")}


def suggestion(word: str, known: Sequence[str]) -> str:
    """Return '; did you mean "x"?' for the nearest known word, else the list of known words."""
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known: {', '.join(sorted(known)) or 'none'}."
