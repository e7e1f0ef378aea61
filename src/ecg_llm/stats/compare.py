"""Paired statistics for anyone's results: our scores.jsonl or a plain CSV."""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from ecg_llm import store
from ecg_llm.contracts import Progress, UsageError
from ecg_llm.records import Question, Score
from ecg_llm.stats.estimate import estimates

COLUMNS = ("system", "item", "score")
"""Columns a CSV must have; cluster and metric may join them, others are ignored."""
DEFAULT_METRIC = "score"
MARKS = {"true": 1.0, "false": 0.0}
NO_VALUE = ("", "nan", "na", "null", "none")


class Results(NamedTuple):
    """What one file says: scores with systems as arms, and where each item belongs."""

    scores: list[Score]
    subsets_of: dict[str, tuple[str, ...]]
    cluster_of: dict[str, str]


class Mean(TypedDict):
    """Mean of one system on one metric."""

    system: str
    metric: str
    subset: str
    value: float | None
    low: float | None
    high: float | None
    items: int
    missing: int
    method: str


class Difference(TypedDict):
    """Paired difference a - b on the items both systems have."""

    a: str
    b: str
    metric: str
    subset: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    items: int
    method: str


class Rank(TypedDict):
    """Rank of one system, ties as ties."""

    system: str
    metric: str
    subset: str
    rank: int
    rank_adjusted: int | None
    rank_low: int | None
    rank_high: int | None
    p_best: float | None


class Comparison(TypedDict):
    """What `ecg-llm compare --json` prints."""

    means: list[Mean]
    differences: list[Difference]
    ranks: list[Rank]


def read(path: Path) -> Results:
    """Return the results in a scores.jsonl of ours or a CSV of system,item,score.

    Beside a scores.jsonl, questions.jsonl gives subset and cluster of each question. In a CSV,
    an empty or NaN score is a missing one (it counts as METRICS says for metrics of ours, and
    leaves the mean for others), and a system and item that occur more than once are repeats,
    which are averaged.

    Raises:
        UsageError: the file is absent, of another kind, lacks a column or holds no number.
    """
    try:
        if path.suffix.lower() in (".jsonl", ".json"):
            return _read_scores(path)
        return _read_csv(path, path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); give a scores.jsonl or a CSV in UTF-8."
        ) from error
    except store.TableError as error:
        raise UsageError(f"{error}; compare reads the scores.jsonl of a study, or CSV.") from error


def compare(
    files: Sequence[Path],
    comparisons: Sequence[tuple[str, str]] = (),
    resamples: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Return `compare_results` of what `read` finds in these files.

    Raises:
        UsageError: a file cannot be used, or a comparison names an unknown system.
    """
    tables = {str(path): read(path) for path in files}
    return compare_results(tables, comparisons, resamples, seed, progress)


def compare_results(
    tables: Mapping[str, Results],
    comparisons: Sequence[tuple[str, str]] = (),
    resamples: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Return means, paired differences and ranks of all systems in these tables.

    Tables are joined by item. A system that scores the same item and metric in two tables
    is two systems, each named "table:system".

    Args:
        tables: name (the path, say) -> results.
        comparisons: declared pairs; empty: all pairs.
        resamples: bootstrap draws and random sign flips.
        seed: of the resampling.
        progress: called with (done, total).

    Raises:
        UsageError: no scores at all, or a comparison that names an unknown system.
    """
    scores = _joined(tables)
    if not scores:
        raise UsageError("There are no scores in these files; compare needs system,item,score.")
    systems = {score.arm for score in scores}
    unknown = sorted({system for pair in comparisons for system in pair} - systems)
    if unknown:
        raise UsageError(
            f"No results of {', '.join(unknown)}; the files hold {', '.join(sorted(systems))}."
        )
    subsets_of: dict[str, tuple[str, ...]] = {score.question_id: ("",) for score in scores}
    cluster_of: dict[str, str] = {}
    for results in tables.values():
        subsets_of |= results.subsets_of
        cluster_of |= {item: cluster for item, cluster in results.cluster_of.items() if cluster}
    rows = estimates(scores, subsets_of, cluster_of, comparisons, resamples, seed, progress)
    means = [row for row in rows if not row.against]
    return {
        "means": [
            {
                "system": e.arm, "metric": e.metric, "subset": e.subset, "value": e.value,
                "low": e.low, "high": e.high, "items": e.questions, "missing": e.missing,
                "method": e.method,
            }
            for e in means
        ],
        "differences": [
            {
                "a": e.arm, "b": e.against, "metric": e.metric, "subset": e.subset,
                "value": e.value, "low": e.low, "high": e.high, "p": e.p,
                "p_adjusted": e.p_adjusted, "items": e.questions, "method": e.method,
            }
            for e in rows if e.against
        ],
        "ranks": [
            {
                "system": e.arm, "metric": e.metric, "subset": e.subset, "rank": e.rank,
                "rank_adjusted": e.rank_adjusted, "rank_low": e.rank_low,
                "rank_high": e.rank_high, "p_best": e.p_best,
            }
            for e in means if e.rank is not None
        ],
    }  # fmt: skip


def _joined(tables: Mapping[str, Results]) -> list[Score]:
    """Return the scores of all tables, systems that collide named after their table."""
    seen = Counter(
        key
        for results in tables.values()
        for key in {(s.arm, s.question_id, s.metric) for s in results.scores}
    )
    colliding = {arm for (arm, _, _), tables_with_it in seen.items() if tables_with_it > 1}
    return [
        score.model_copy(update={"arm": f"{name}:{score.arm}"}) if score.arm in colliding else score
        for name, results in tables.items()
        for score in results.scores
    ]


def _read_scores(path: Path) -> Results:
    if not path.is_file():
        raise UsageError(f"There is no file {path}; check the path.")
    scores = store.read(path, Score)
    questions = store.read(path.with_name("questions.jsonl"), Question)
    asked = {score.question_id for score in scores}
    known = [question for question in questions if question.question_id in asked]
    return Results(
        scores,
        {question.question_id: question.subsets for question in known},
        {question.question_id: question.group for question in known if question.group},
    )


def _read_csv(path: Path, text: str) -> Results:
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    lacking = [column for column in COLUMNS if column not in reader.fieldnames]
    if lacking:
        raise UsageError(
            f"{path} lacks the column {', '.join(lacking)}; a CSV needs {', '.join(COLUMNS)} "
            "and may have cluster and metric."
        )
    results = Results([], {}, {})
    repeats: Counter[tuple[str, str, str]] = Counter()
    for row in reader:
        system, item, score = ((row[column] or "").strip() for column in COLUMNS)
        if not (system or item or score):
            continue
        where = f"{path}, line {reader.line_num}"
        if not system or not item:
            raise UsageError(f"{where}: a row needs a system and an item; fill them in.")
        metric = (row.get("metric") or "").strip() or DEFAULT_METRIC
        cluster = (row.get("cluster") or "").strip()
        if results.cluster_of.setdefault(item, cluster) != cluster:
            raise UsageError(f"{where}: item {item} stands in two clusters; correct one of them.")
        value = _number(score, where)
        repeat = repeats[system, item, metric]
        repeats[system, item, metric] += 1
        results.scores.append(
            Score(
                question_id=item, arm=system, repeat=repeat, metric=metric, value=value,
                status="error" if value is None else "scored",
            )
        )  # fmt: skip
    return results


def _number(text: str, where: str) -> float | None:
    """Return the score, or None for a missing one."""
    if text.lower() in NO_VALUE:
        return None
    try:
        value = MARKS[text.lower()] if text.lower() in MARKS else float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise UsageError(f"{where}: the score {text!r} is not a number; correct it there.")
    return value
