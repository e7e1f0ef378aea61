"""Ready passages into a study, what the index holds, and how its variants compare."""

from collections.abc import Sequence
from pathlib import Path

from ecg_llm import config, pipeline, steps, store
from ecg_llm.records import GivenPassage, IndexVariant

COLUMNS = (
    ("variant", "variant"), ("passages", "passages"), ("shown", "shown"), ("hit_1", "hit@1"),
    ("hit_5", "hit@5"), ("hit_20", "hit@20"), ("mrr", "MRR"), ("ndcg_10", "nDCG@10"),
    ("recall_20", "recall@20"), ("index_seconds", "index s"), ("search_ms", "ms a query"),
)  # fmt: skip
"""Columns of a sweep's table, and what they are called."""


def take(folder: Path, file: Path) -> str:
    """Take the passages of a file into a study, in the place of those of the last; say how many.

    A folder without a study becomes one.

    Raises:
        UsageError: the file holds something else, or another process is at work in the study.
    """
    from ecg_llm.corpus import given

    rows = given.read(file)
    folder.mkdir(parents=True, exist_ok=True)
    with steps.locked(folder):
        if not (folder / config.FILE).exists():
            store.write_text(folder / config.FILE, f"title: Passages of {file.name}\n")
        before = steps.read_table(folder / pipeline.GIVEN, GivenPassage)
        store.write(folder / pipeline.GIVEN, rows)
    empty = sum(not row.text.strip() for row in rows)
    said = f"{len(rows):,} passages taken over from {file}"
    if before:
        said += f", in the place of {len(before):,} before"
    return said + (f"; {empty:,} of them hold no text and are left out." if empty else ".")


def figures(folder: Path) -> dict[str, object]:
    """Return what the index holds and what its last build did."""
    return dict(store.read_json(folder / "index.json") or {})


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
