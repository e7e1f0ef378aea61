"""Ready passages into a study, what the index holds, and how its variants compare."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from ecg_llm import config, pipeline, steps, store
from ecg_llm.contracts import UsageError
from ecg_llm.records import GivenPassage, IndexVariant

SHOWN = ("passages", "embedded", "removed", "store", "embedder")
COLUMNS = (
    ("variant", "variant"), ("passages", "passages"), ("shown", "shown"), ("hit_1", "hit@1"),
    ("hit_5", "hit@5"), ("hit_20", "hit@20"), ("mrr", "MRR"), ("ndcg_10", "nDCG@10"),
    ("recall_20", "recall@20"), ("index_seconds", "index s"), ("search_ms", "ms a query"),
)  # fmt: skip
"""Columns of a sweep's table, and what they are called."""


def study_for(folder: Path, file: Path) -> None:
    """Make a study of a folder that is none, for the passages of this file.

    Raises:
        UsageError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made ({error}); choose another folder.") from error
    if not (folder / config.FILE).exists():
        title = yaml.safe_dump({"title": f"Passages of {file.name}"}, allow_unicode=True)
        store.write_text(folder / config.FILE, title)


def take(folder: Path, file: Path, rows: Sequence[GivenPassage]) -> str:
    """Put the passages of a file into a study, in the place of those of the last; say how many."""
    before = steps.read_table(folder / pipeline.GIVEN, GivenPassage)
    store.write(folder / pipeline.GIVEN, rows)
    empty = sum(not row.text.strip() for row in rows)
    said = f"{len(rows):,} passages taken over from {file}"
    if before:
        said += f", in the place of {len(before):,} before"
    return said + (f"; {empty:,} of them hold no text and are left out." if empty else ".")


def figures(folder: Path) -> dict[str, object]:
    """Return what the index holds and what its last build had to do."""
    found = store.read_json(folder / pipeline.BUILD) or {}
    return {name: found[name] for name in SHOWN if name in found}


def sweep(folder: Path) -> list[IndexVariant]:
    """Return the variants that were compared, the best first."""
    rows = steps.read_table(folder / "index_sweep.jsonl", IndexVariant)
    return sorted(rows, key=lambda row: (-row.shown, -row.ndcg_10, row.variant))


def sweep_table(rows: Sequence[IndexVariant]) -> tuple[list[str], list[list[object]]]:
    """Return the heads and lines of a sweep's table."""
    values = [row.model_dump() for row in rows]
    cells = [
        [f"{v[key]:.3f}" if isinstance(v[key], float) else v[key] for key, _ in COLUMNS]
        for v in values
    ]
    return [head for _, head in COLUMNS], cells
