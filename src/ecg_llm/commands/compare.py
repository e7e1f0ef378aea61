"""Anyone's results compared: logs, scores and ratings read, tables shown, a page written."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ecg_llm import store
from ecg_llm.contracts import Progress, UsageError
from ecg_llm.records import Rating
from ecg_llm.registry import suggestion
from ecg_llm.report import comparison, exports
from ecg_llm.score import human
from ecg_llm.stats import compare
from ecg_llm.stats.logs import COLUMNS, Results

RATINGS = "ratings"
"""Name of the run that all files of ratings make together."""
DATA = "comparison.json"
LONGEST = 40
"""Rows of a table that a terminal shows."""
Cells = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Columns and rows."""


class Shown(NamedTuple):
    """A table for the terminal."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    more: int
    """Rows left out."""


def compared(
    files: Sequence[str],
    pairs: Sequence[str],
    resamples: int,
    seed: int,
    progress: Progress | None = None,
    *,
    against: str = "",
    metrics: Collection[str] = (),
    lower: Collection[str] = (),
    cluster: str = "",
) -> compare.Compared:
    """Return the rows of `compare.compared` for logs, scores and files of ratings.

    Args:
        files: paths, or NAME=PATH to name the system of a path.
        pairs: declared comparisons, each "a:b".
        resamples: bootstrap draws and random sign flips.
        seed: of the resampling.
        progress: called with (done, total).
        against: a system that every other is compared with.
        metrics: only these; empty: all.
        lower: metrics of which less is better.
        cluster: what names the source of an item.

    Raises:
        UsageError: as `compare.compare`.
        MissingPackage: as `logs.read`.
    """
    rated = [file for file in files if _holds_ratings(Path(file))]
    tables = compare.tables([file for file in files if file not in rated], cluster)
    if rated:
        tables[RATINGS] = _ratings([Path(file) for file in rated])
    systems = set[str]().union(*(results.systems for results in tables.values()))
    return compare.compared(
        tables, [_pair(pair, systems) for pair in pairs], resamples, seed, progress,
        against=against, metrics=metrics, lower=lower,
    )  # fmt: skip


def figures(found: compare.Compared, margin: float) -> dict[str, object]:
    """Return what `--json` prints: the comparison, and the findings in words."""
    told = [finding._asdict() for finding in comparison.findings(found, margin)]
    return {**compare.shaped(found), "findings": told}


def story(found: compare.Compared, margin: float) -> list[str]:
    """Return a line for each metric that says who is ahead and who is not; tasks if few."""
    told = comparison.folded(comparison.findings(found, margin))
    lines = [
        f"{finding.title}: {' '.join(finding.sentences)}"
        for finding in (told[0][1] if told else ())
    ]
    rest = sum(len(part) for _, part in told[1:])
    if rest:
        lines.append(f"... and {rest:,} more, single tasks or metrics: --out and --json have all.")
    return lines


def notes(found: compare.Compared) -> list[str]:
    """Return what to be careful about: unfinished logs, items and scores that are missing."""
    return [*found.notes, *comparison.missing(found)]


def tables(found: compare.Compared, margin: float) -> Iterator[Shown]:
    """Yield the tables for the terminal: means, then differences, of what `story` tells.

    Where it tells nothing, of the first metrics there are.
    """
    told = comparison.folded(comparison.findings(found, margin))
    wanted = {(finding.metric, finding.subset) for finding in (told[0][1] if told else ())}
    parts = [
        (section, part)
        for section in comparison.sections(found, margin, figures=False)
        for part in section.parts
        if not wanted or (section.metric, part.subset) in wanted
    ]
    for section, part in parts[: comparison.SHOWN]:
        less = " (less is better)" if section.lower else ""
        title = part.title + less
        yield _cut(f"{title}: {section.value}s", *_means(part, section))
        yield _cut(f"{title}: {section.difference}", *_pairs(part, section.percent))


def _means(part: comparison.Part, section: comparison.Section) -> Cells:
    sources = any(row.clusters < row.items for row in part.means)
    value = f"{section.value}, %" if section.percent else section.value
    columns = ["system", value, "95 % interval", "rank",
               "rank, corrected", "p best", "items", "sources", "missing"]  # fmt: skip
    rows = [
        [row.system, row.value, row.interval, row.rank, row.adjusted, row.best, f"{row.items:,}",
         f"{row.clusters:,}", row.missing]
        for row in part.means
    ]  # fmt: skip
    if not sources:
        for line in (columns, *rows):
            del line[-2]
    return tuple(columns), [tuple(row) for row in rows]


def _pairs(part: comparison.Part, percent: bool) -> Cells:
    columns = ("difference", "points" if percent else "value", "95 % interval", "p",
               "p, corrected", "reading", "detectable, corrected", "items")  # fmt: skip
    words = {True: "first", False: "second"}
    rows: list[tuple[str, ...]] = [
        (
            f"{row.a} − {row.b}", row.value, row.interval, row.p, row.p_adjusted,
            row.reading.replace(row.winner, words[row.winner == row.a], 1) if row.winner
            else row.reading, row.detectable,
            f"{row.items:,}",
        )
        for row in part.pairs
    ]  # fmt: skip
    return columns, rows


def write(folder: Path, found: compare.Compared, sources: Sequence[str], margin: float) -> Path:
    """Write the page, its figures and tables as files, and the data; return the page's path.

    An earlier comparison in the folder is replaced.

    Raises:
        UsageError: the folder holds something else or cannot be written.
    """
    check(folder)
    page = comparison.build(found, "", sources, margin)
    try:
        store.write_json(folder / DATA, figures(found, margin))
        exports.write(page, folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror or error}).") from error
    return folder / "index.html"


def check(folder: Path) -> None:
    """Refuse a folder that a comparison cannot be written to.

    Raises:
        UsageError: it is a file, holds something else or has no valid name.
    """
    try:
        if folder.is_file():
            raise UsageError(f"{folder} is a file; name a folder for the comparison.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / DATA).exists():
            raise UsageError(f"{folder} holds other files; name a new or an empty folder.")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror or error}).") from error


def _cut(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Shown:
    return Shown(title, columns, rows[:LONGEST], max(0, len(rows) - LONGEST))


def _pair(text: str, systems: Collection[str]) -> tuple[str, str]:
    """Return the two systems of "a:b"; names may hold colons themselves."""
    places = [place for place, sign in enumerate(text) if sign == ":"]
    if not places:
        raise UsageError(f"--pair takes two systems like a:b, not {text!r}.")
    halves = [(text[:place].strip(), text[place + 1 :].strip()) for place in places]
    known = [pair for pair in halves if set(pair) <= set(systems)]
    if not known:
        unknown = next((name for name in halves[0] if name not in systems), text)
        raise UsageError(f"No results of {unknown!r}{suggestion(unknown, sorted(systems))}")
    return known[0]


def _holds_ratings(path: Path) -> bool:
    """Whether a file is of the shape that `rate import` reads, by its first line."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".jsonl"):
        return False
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            head = next((line for line in file if line.strip()), "")
    except OSError:
        return False
    if path.suffix.lower() == ".jsonl":
        try:
            row = json.loads(head)
        except ValueError:
            return False
        return isinstance(row, dict) and {"question", "arm", "label"} <= row.keys()
    names = {name.strip().strip('"').lower() for name in head.replace(";", ",").split(",")}
    return {"question", "answer", "model"} <= names and not set(COLUMNS) <= names


def _ratings(paths: Sequence[Path]) -> Results:
    """Return the ratings of all these files as scores of metric human, an item a question.

    Raters of one answer are averaged, whichever file they stand in.
    """
    ratings: list[Rating] = []
    notes = []
    for path in paths:
        read = human.read_ratings(path, path.stem)
        for rating in read.ratings:
            rater = rating.rater or rating.set
            ratings.append(rating.model_copy(update={"rater": rater, "set": RATINGS}))
        counts: Mapping[str, int] = {
            "rows dropped that repeat another": read.duplicates_dropped,
            "rows left out that contradict each other": len(read.conflicts),
            "rows with several marks unrated": len(read.double_marked),
            "rows without a mark unrated": len(read.missing_mark),
        }
        said = [f"{count:,} {what}" for what, count in counts.items() if count]
        if said:
            notes.append(f"{path}: {', '.join(said)}; `ecg-llm rate import` lists them.")
    return Results(human.human_scores(ratings, []), {}, {}, notes=tuple(notes), ours=True)
