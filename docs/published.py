"""The paper's expert ratings to a page: python docs/published.py [FOLDER]; --check compares."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from ecg_llm.config import Study
from ecg_llm.records import GRADES, Estimate, Score
from ecg_llm.report import exports
from ecg_llm.report.differences import difference_matrix
from ecg_llm.report.figures import Panel, Point, arm_styles, interval_plot
from ecg_llm.report.results import (
    SIGNIFICANT,
    interval,
    is_clear,
    listed,
    number,
    p_value,
    reading,
    turned,
)
from ecg_llm.score import human
from ecg_llm.stats import power
from ecg_llm.stats.estimate import estimates
from ecg_llm.stats.resampling import cluster_weights

DOCS = Path(__file__).parent
PAGE, FOLDER = "published-ratings.md", "published"
TEN, FORTY = "10_questions", "40_questions"
TITLES = {FORTY: "The 40 complex questions", TEN: "The 10 factual questions"}
PICTURES = {FORTY: "40-questions.svg", TEN: "10-questions.svg"}
CLAUDE, LARGE, LARGE_RAG, LARGE_FT = "Claude 3.7", "70B", "70B RAG", "70B FT"
SMALL, SMALL_RAG, SMALL_FT = "8B", "8B RAG", "8B FT"
HEADLINE = (CLAUDE, LARGE_RAG, SMALL_RAG, LARGE, LARGE_FT, SMALL, SMALL_FT)
NAMES = {
    "Claude 3.7 Sonnet": CLAUDE,
    "LLama 3.1 70B": LARGE,
    "LLama 3.1 70B + RAG": LARGE_RAG,
    "LLama 3.1 8B": SMALL,
    "LLama 3.1 8B + RAG": SMALL_RAG,
    "Finetuned 70B: r=256, alpha=128": LARGE_FT,
    "Finetuned 70B: r=256, alpha=256": "70B FT, alpha 256",
    "Finetuned 70B: r=256, alpha=512": "70B FT, alpha 512",
    "Finetuned 8B: r=256, alpha=128": SMALL_FT,
    "Finetuned 8B: r=256, alpha=256": "8B FT, alpha 256",
    "Finetuned 8B: r=256, alpha=512": "8B FT, alpha 512",
    "Finetuned 8B: r=64, alpha=16": "8B FT, rank 64",
}
"""The files' names of the systems, and those of the page."""
RANKS = {
    FORTY: {CLAUDE: 1, LARGE_RAG: 1, SMALL_RAG: 1, LARGE: 1, LARGE_FT: 5, SMALL: 5, SMALL_FT: 5},
    TEN: {CLAUDE: 1, LARGE_RAG: 1, SMALL_RAG: 1, LARGE_FT: 4, LARGE: 5, SMALL: 6, SMALL_FT: 6},
}
"""As published."""
ADAPTED = ((LARGE_FT, LARGE), (SMALL_FT, SMALL), (LARGE_RAG, LARGE), (SMALL_RAG, SMALL))
"""What an adaptation did to its model: a - b."""
PLAIN = (*ADAPTED, (SMALL_RAG, LARGE_FT), (CLAUDE, LARGE_RAG), (CLAUDE, SMALL_RAG))
"""Pairs whose plain percentile intervals are shown too: a - b."""
QUARTER = 0.25
"""Of which marks are multiples."""
WANTED = (0.05, 0.1)
DRAWS, SEEDS = 1000, 200
"""Of the paper's bootstrap, and how often it is repeated here."""
STUDY = Study()


class Ratings(NamedTuple):
    """What the files hold, under the page's names of the systems."""

    imported: dict[str, human.Imported]
    scores: list[Score]
    subsets_of: dict[str, tuple[str, ...]]

    def marks(self, name: str) -> list[tuple[str, str, str, float]]:
        """Return system, question, answer and value of each usable mark of a set."""
        return [
            (row.arm, row.question, row.answer, GRADES[row.label])
            for row in self.imported[name].ratings
            if row.label in GRADES
        ]


class Found(NamedTuple):
    """Estimates of some systems on one set."""

    means: dict[str, Estimate]
    """Highest first."""
    pairs: list[Estimate]
    """Higher minus lower."""

    def pair(self, a: str, b: str) -> Estimate:
        """Return the difference a - b."""
        row = next(row for row in self.pairs if {row.arm, row.against} == {a, b})
        return row if row.arm == a else turned(row)


def read(folder: Path) -> Ratings:
    """Return the ratings of both files."""
    imported = {}
    for name in TITLES:
        found = human.read_ratings(folder / f"{name}.csv", name)
        imported[name] = human.restored(found, NAMES.__getitem__, str.strip)
    rows = [row for one in imported.values() for row in one.ratings]
    ids = human.question_ids(rows, [])
    subsets_of: dict[str, tuple[str, ...]] = {}
    subsets_of |= {key: (row.set,) for row, key in zip(rows, ids, strict=True)}
    return Ratings(imported, human.human_scores(rows, []), subsets_of)


def estimated(ratings: Ratings, name: str, systems: Sequence[str]) -> Found:
    """Return the estimates of these systems on one set, as a study of them has them."""
    scores = [row for row in ratings.scores if row.arm in systems]
    rows = estimates(
        scores, ratings.subsets_of, {}, (), STUDY.estimates.resamples, STUDY.seed
    )  # fmt: skip
    here = [row for row in rows if row.subset == name]
    means = sorted((row for row in here if not row.against), key=lambda row: -(row.value or 0))
    pairs = [turned(row) if (row.value or 0) < 0 else row for row in here if row.against]
    return Found({row.arm: row for row in means}, pairs)


def page(ratings: Ratings) -> dict[str, str]:
    """Return the page and its figures: path below docs -> text."""
    every = {name: estimated(ratings, name, list(NAMES.values())) for name in TITLES}
    seven = {name: estimated(ratings, name, HEADLINE) for name in TITLES}
    told = [row.detectable for row in seven[FORTY].pairs if row.detectable is not None]
    environment = Environment(
        loader=FileSystemLoader(DOCS / FOLDER), trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, undefined=StrictUndefined, autoescape=False,
    )  # fmt: skip
    text = environment.get_template("page.md.jinja").render(
        sets=list(TITLES),
        titles=TITLES,
        pictures=PICTURES,
        margin=STUDY.decision.margin,
        first=listed([name for name in HEADLINE if seven[FORTY].means[name].rank == 1]),
        same=all(
            found[FORTY].means[arm].rank == rank
            for found in (seven, every)
            for arm, rank in RANKS[FORTY].items()
        ),
        pairs=len(seven[FORTY].pairs),
        all_pairs=len(every[FORTY].pairs),
        detectable=[f"{value:.2f}" for value in (min(told), median(told), max(told))],
        counts={name: counts(ratings, every[name], name) for name in TITLES},
        ranks=ranks(seven),
        differences=differences(seven[FORTY], every[FORTY]),
        needed=needed(seven[FORTY]),
        **plain(ratings, seven[FORTY]),
        **adapted(seven[FORTY], every[FORTY]),
        **defects(ratings),
        **fragility(ratings, every[TEN]),
        **lengths(ratings),
    )
    return {PAGE: text, **figures(every, seven[FORTY])}


def figures(every: Mapping[str, Found], seven: Found) -> dict[str, str]:
    """Return the figures as files."""
    styles = arm_styles([*HEADLINE, *(name for name in NAMES.values() if name not in HEADLINE)])
    drawn = {}
    ends = [end for found in every.values() for row in found.means.values()
            for end in (row.low, row.high) if end is not None]  # fmt: skip
    for name, found in every.items():
        points = [
            Point(row.arm, row.value, row.low, row.high, row.rank == 1)
            for row in found.means.values()
        ]
        panel = Panel("Mean rating, 0 to 1", points, (min(ends), max(ends)))
        title = f"{TITLES[name]}: mean rating of each system with its 95 % interval"
        drawn[f"{FOLDER}/{PICTURES[name]}"] = interval_plot([panel], title, styles)
    drawn[f"{FOLDER}/differences.svg"] = difference_matrix(seven.pairs, HEADLINE, styles)
    templates = resources.files("ecg_llm.report").joinpath("templates")
    style = templates.joinpath("style.css").read_text("utf-8")
    shown = "".join(f"<figure>{svg}</figure>" for svg in drawn.values())
    files = exports.files(f"<html><style>{style}</style><body>{shown}</body></html>")
    made = [text for path, text in files.items() if path.endswith(".svg")]
    return dict(zip(drawn, made, strict=True))


def adapted(seven: Found, every: Found) -> dict[str, object]:
    """Return what stands after correction, and what is shown of each adaptation."""
    clear = sorted(filter(is_clear, seven.pairs), key=lambda row: HEADLINE.index(row.arm))
    behind = {arm: [row.against for row in clear if row.arm == arm] for arm in HEADLINE}
    claims = [
        {
            "pair": f"{a} − {b}",
            "gap": gap(row),
            "p": p_value(row.p),
            "corrected": p_value(row.p_adjusted),
            "all": p_value(every.pair(a, b).p_adjusted),
            "stands": is_clear(row),
            "before": row.p is not None and row.p < SIGNIFICANT,
            "reading": reading(row, STUDY.decision.margin),
        }
        for a, b in ADAPTED
        for row in [seven.pair(a, b)]
    ]
    return {
        "clear": [f"{row.arm} was marked higher than {row.against}: {gap(row)}" for row in clear],
        "ahead": "; ".join(
            f"{arm} above {listed(names)}" for arm, names in behind.items() if names
        ),
        "claims": claims,
        "open": "; ".join(f"{a} and {b}" for a, b in ADAPTED if not is_clear(seven.pair(a, b))),
    }


def defects(ratings: Ratings) -> dict[str, object]:
    """Return what was wrong in the files, by line and system."""
    rows: list[tuple[object, ...]] = []
    for name, one in sorted(ratings.imported.items(), reverse=True):
        doubled = listed(sorted({row.arm for row in one.duplicates}) or [""])
        if one.duplicates:
            where = f"all of {doubled}"
            rows.append((name, "rows twice, the same to the byte", len(one.duplicates), where,
                         "one of each kept"))  # fmt: skip
        rows += [
            (name, row.what, 1, f"line {row.lines[0]}, {row.arm}", "unrated")
            for row in (*one.double_marked, *one.missing_mark)
        ]
        for row in human.incomplete([one]):
            lacking = row.arm.removeprefix("without ").split("; ")
            where = f"the question of lines {listed([str(line) for line in row.lines])}"
            rows.append((name, row.what, len(lacking), where, "the pairs are left out"))
        systems = {row.arm for row in one.ratings}
        absent = [arm for arm in HEADLINE if arm not in systems]
        if absent:
            rows.append((name, "ranked in the paper, but not in the file", len(absent),
                         listed(absent), "no estimate"))  # fmt: skip
        rows += [(name, remark.partition(": ")[2], "", "", "read as meant")
                 for remark in one.remarks]  # fmt: skip
    labels: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, one in ratings.imported.items():
        for rating in one.ratings:
            labels[name, rating.question, rating.answer].append(rating.label)
    shared = [found for found in labels.values() if len(found) > 1]
    forty, ten = ratings.imported[FORTY], ratings.imported[TEN]
    rated = {row.arm for row in ten.ratings}
    return {
        "defects": table(("file", "what", "number", "where", "what became of it"), rows),
        "conflicts": len(forty.conflicts) + len(ten.conflicts),
        "identical": (len(shared), sum(len(set(found)) == 1 for found in shared)),
        "doubled": listed(sorted({row.arm for row in forty.duplicates})),
        "lines": wrapped(listed_pairs(forty.duplicates)),
        "absent": listed([arm for arm in HEADLINE if arm not in rated]),
    }


def listed_pairs(duplicates: Sequence[human.Defect]) -> list[str]:
    """Return the lines of each repeated row."""
    return [" = ".join(map(str, row.lines)) for row in duplicates]


def wrapped(words: Sequence[str], each: int = 8) -> str:
    """Return words with commas, a few a line."""
    lines = [", ".join(words[start : start + each]) for start in range(0, len(words), each)]
    return ",\n".join(lines)


def counts(ratings: Ratings, found: Found, name: str) -> str:
    """Return how often each mark was given, and the means."""
    marks = human.summary([ratings.imported[name]])["arms"]
    rows = [
        (arm, *marks[arm].values(), row.questions, number(row.value, row.metric), interval(row))
        for arm, row in found.means.items()
    ]
    columns = ("system", *GRADES, "unusable", "rated", "mean", "95 % interval")
    return table(columns, rows)


def ranks(seven: Mapping[str, Found]) -> str:
    """Return the ranks beside the published ones."""
    rows: list[tuple[object, ...]] = []
    for name, published in RANKS.items():
        for arm, rank in published.items():
            row = seven[name].means.get(arm)
            own: tuple[object, ...] = ("not in the file", "", "", "")
            if row is not None and row.p_best is not None:
                places = f"{row.rank_low} to {row.rank_high}"
                own = (row.rank, row.rank_adjusted, places, f"{row.p_best:.2f}")
            rows.append((name.partition("_")[0], arm, rank, *own))
    columns = ("questions", "system", "published", "here", "after Holm", "interval, 95 %",
               "highest mean")  # fmt: skip
    return table(columns, rows)


def differences(seven: Found, every: Found) -> str:
    """Return every pair of the seven systems, the higher one first."""
    rows = []
    for a, b in combinations(HEADLINE, 2):
        row = seven.pair(a, b)
        row = turned(row) if (row.value or 0) < 0 else row
        rows.append((
            f"{row.arm} − {row.against}", row.questions, gap(row), f"{row.wins} : {row.losses}",
            p_value(row.p), p_value(row.p_adjusted), p_value(every.pair(a, b).p_adjusted),
            "–" if row.detectable is None else f"{row.detectable:.2f}",
            reading(row, STUDY.decision.margin),
        ))  # fmt: skip
    columns = ("difference", "questions", "mean [95 %]", "higher : lower", "p", "corrected", "all",
               "detectable", "reading")  # fmt: skip
    return table(columns, rows)


def plain(ratings: Ratings, seven: Found) -> dict[str, object]:
    """Return some differences with plain percentiles of the bootstrap beside the intervals used."""
    rows: list[tuple[object, ...]] = []
    times, apart = [], []
    found = [seven.pair(*pair) for pair in PLAIN]
    for row in found:
        a, b = row.arm, row.against
        values = gaps(ratings, FORTY, a, b)
        low, high = percentiles(values)
        if row.low is None or row.high is None:
            raise SystemExit(f"the page says that {a} - {b} has an interval; rewrite it")
        if (row.low > 0 or row.high < 0) != (low > 0 or high < 0):
            apart.append(f"{a} − {b}")
        times.append((row.high - row.low) / (high - low))
        limits = interval(row.model_copy(update={"low": low, "high": high}), signed=True)
        rows.append((
            f"{a} − {b}", len(values), number(row.value, row.metric, signed=True), limits,
            interval(row, signed=True), f"{times[-1]:.2f}",
        ))  # fmt: skip
    columns = ("difference", "questions", "mean", "plain percentiles", "used here", "times as wide")
    return {
        "plain": table(columns, rows),
        "wider": f"{min(times):.2f} to {max(times):.2f}",
        "plain_apart": "; ".join(apart),
    }


def percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % percentiles of the mean of values drawn again, over all draws.

    Marks are quarters, so the chance of every sum is known and nothing hangs on a seed.
    """
    quarters = np.rint(values / QUARTER).astype(int)
    least = quarters.min()
    one = np.bincount(quarters - least) / len(quarters)
    chances = np.ones(1)
    for _ in quarters:
        chances = np.convolve(chances, one)
    places = np.searchsorted(chances.cumsum(), (0.025, 0.975))
    low, high = (places / len(quarters) + least) * QUARTER
    return float(low), float(high)


def needed(seven: Found) -> str:
    """Return how many questions wanted differences between the seven systems need."""
    rows = []
    for wanted in WANTED:
        found = power.planned(seven.pairs, wanted)
        cells = []
        for questions in (
            [row.needed_questions or 0 for row in found],
            [row.needed_questions_adjusted or 0 for row in found],
        ):
            cells += [f"{median(questions):,.0f}", f"{min(questions):,} to {max(questions):,}"]
        rows.append((f"{wanted:.2f}", *cells))
    columns = ("difference", "median", "range", "median at Holm's first step", "range")
    return table(columns, rows)


def gaps(ratings: Ratings, name: str, a: str, b: str) -> NDArray[np.float64]:
    """Return a - b on each question of a set that was rated for both."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for arm, question, _, value in ratings.marks(name):
        values[arm][question] = value
    return np.array([mark - values[b][q] for q, mark in values[a].items() if q in values[b]])


def fragility(ratings: Ratings, every: Found) -> dict[str, object]:
    """Return how far the rank of the tuned large model on ten questions hangs on the seed."""
    found = gaps(ratings, TEN, SMALL_RAG, LARGE_FT)
    if (found < 0).any():
        raise SystemExit("the page says that no question went against retrieval; rewrite it")
    lower = [
        np.percentile(weights @ found, 2.5)
        for seed in range(SEEDS)
        for weights in cluster_weights(len(found), DRAWS, seed)
    ]
    row = every.pair(SMALL_RAG, LARGE_FT)
    return {
        "large_ft": LARGE_FT,
        "small_rag": SMALL_RAG,
        "draws": f"{DRAWS:,}",
        "seeds": SEEDS,
        "untied": int((found > 0).sum()),
        "ahead_in": sum(end > 0 for end in lower),
        "chance": f"{100 * (found == 0).mean() ** len(found):.1f}",
        "exact": p_value(row.p),
        "rank": every.means[LARGE_FT].rank,
    }


def lengths(ratings: Ratings) -> dict[str, object]:
    """Return how long answers are, what that has to do with the marks, and the hard questions."""
    marks = ratings.marks(FORTY)
    length = [len(answer.split()) for _, _, answer, _ in marks]
    answers = ratings.imported[FORTY].ratings
    words = {
        arm: median(len(row.answer.split()) for row in answers if row.arm == arm)
        for arm in HEADLINE
    }
    of_question: dict[str, list[float]] = defaultdict(list)
    for _, question, _, value in marks:
        of_question[question].append(value)
    means = sorted(map(mean, of_question.values()))
    return {
        "words": ", ".join(f"{arm} {n:g}" for arm, n in words.items()),
        "marked": len(marks),
        "r": f"{np.corrcoef(length, [mark[3] for mark in marks])[0, 1]:.2f}",
        "hardest": listed([f"{value:.2f}" for value in means[:4]]),
        "easiest": means.count(1.0),
    }


def gap(row: Estimate) -> str:
    """Return a difference with its interval."""
    return f"{number(row.value, row.metric, signed=True)} [{interval(row, signed=True)}]"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> int:
    """Write or compare; return the exit code."""
    given = [argument for argument in sys.argv[1:] if argument != "--check"]
    folder = Path(given[0]) if given else DOCS.parent.parent / "shared" / "ratings"
    stale = []
    for name, text in page(read(folder)).items():
        path = DOCS / name
        if "--check" not in sys.argv:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
    if stale:
        sys.stderr.write(f"not what the code says: {', '.join(stale)}; run: docs/published.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
