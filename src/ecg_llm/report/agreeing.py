"""How far the layers of evaluation say the same: matrices, intervals, tables and words."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, permutations
from math import comb, factorial
from typing import NamedTuple

from ecg_llm.records import MEASURES, Agreement, Estimate
from ecg_llm.report.blame_tables import count
from ecg_llm.report.counts import CountTable, Part
from ecg_llm.report.figures import Data, Panel, Point, interval_plot
from ecg_llm.report.judges import CUSTOMARY
from ecg_llm.report.matrix import Square, matrix_plot
from ecg_llm.report.measures import Figure, Group, quoted, shown
from ecg_llm.report.results import SIGNIFICANT, Cell, listed
from ecg_llm.stats.layers import EXPERTS, MAIN

NAMES: Mapping[str, str] = {
    "accuracy": "multiple choice",
    "accuracy_likelihood": "likeliest option",
    "verdict": "judges' verdict",
    "ranking": "judges' rankings",
    "reference_similarity": "similarity",
    "human": "experts",
    "fact_recall": "key facts",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "bertscore": "BERTScore",
}
"""Names of metrics inside sentences and beside a matrix."""
SPOKEN = (
    ("accuracy", "accuracy_likelihood"), ("verdict", "ranking"), ("human",),
    ("reference_similarity",), ("rougeL", "rouge1", "bleu", "bertscore"),
)  # fmt: skip
"""The metrics that sentences are about: of each line the first there is."""
ENOUGH = 5
"""Arms from which on fewer than one in twenty unrelated orders are the same or the reverse."""
EVERY = 7
"""Arms up to which all orders are tried to see how often unrelated ones agree as much."""
ALIKE, WEAK = 0.5, 0.3
"""Lower end of the interval of tau from which on two orders are called much the same: three pairs
in four, or more, stand the same way; and upper end below which they have little in common."""
COEFFICIENTS: Mapping[str, str] = {
    "agreement": "Equal grades, %",
    "kappa": "Weighted kappa",
    "alpha": "Alpha, ordinal",
    "icc": "ICC(2,1)",
}
"""Measures of grades in the order shown, with short names."""
MOST_LINES = 12
"""Of the figure of grades; the table has all."""


class Pair(NamedTuple):
    """What rows of one level and subset say of two metrics."""

    a: str
    b: str
    tau: Agreement
    spearman: Agreement | None
    within: Agreement | None
    """Tau of answers to one question."""
    chance: float = 0.0
    """How often unrelated orders of the arms agree as much; of answers there are enough."""

    @property
    def names(self) -> str:
        """Both metrics, as a sentence names them."""
        return f"{name_of(self.a)} and {name_of(self.b)}"


def agreeing(
    rows: Sequence[Agreement], estimates: Sequence[Estimate], judges: Sequence[str] = ()
) -> list[Group]:
    """Return for each subset how far its metrics, and judges and experts, agree.

    Orders of the arms are said to agree only where the interval of tau leaves out 0 and, by the
    means of the arms with the ties among them, fewer than one in twenty unrelated orders would
    agree as much. The first says that other questions would not change it, the second that it is
    more than chance for so few arms.

    Args:
        rows: of all levels and subsets; a subset with fewer than two metrics has none.
        estimates: the means of the arms are used.
        judges: the study's, in its own order; others follow by name.
    """
    means: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for mean in estimates:
        if not mean.against and mean.value is not None:
            means[mean.subset, mean.metric][mean.arm] = mean.value
    made = []
    for subset in sorted({row.subset for row in rows}):
        own = [row for row in rows if row.subset == subset]
        grades = [row for row in own if row.level == "grades"]
        answers = pairs(own, "answers")
        arms = [
            pair._replace(chance=chance(means[subset, pair.a], means[subset, pair.b]))
            for pair in pairs(own, "arms")
        ]
        sentences = [
            *_arm_sentences(arms),
            *_told(_known(_spoken(answers)), "single answers"),
            *_grade_sentences(grades, own, judges),
        ]
        figures = [
            *_matrix(subset, arms, "arms"),
            *_matrix(subset, answers, "answers"),
            *_grade_figure(subset, grades, judges),
        ]
        parts = [*_grade_table(grades, judges), *_pair_table(arms, answers)]
        if parts:
            made.append(Group(subset, sentences, figures, parts))
    return made


def chance(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return how often unrelated orders of the arms agree, or disagree, as much as these two.

    Two-sided p of Kendall's tau with the ties as they are: over all orders up to EVERY arms, by the
    normal approximation for more; 1 where one of the two ties all arms.

    Args:
        first: arm -> its mean by one metric.
        second: the same by another; arms that only one has are left out.
    """
    import numpy as np
    from scipy import stats

    arms = sorted(first.keys() & second.keys())
    x, y = (np.array([some[arm] for arm in arms]).round(12) for some in (first, second))
    if len(set(x)) < 2 or len(set(y)) < 2:
        return 1.0
    if len(arms) > EVERY:
        return float(stats.kendalltau(x, y).pvalue)
    signs, others = (np.sign(some[:, None] - some) for some in (x, y))
    orders = np.array(list(permutations(range(len(arms)))))
    concordance = np.abs((signs[orders[:, :, None], orders[:, None]] * others).sum(axis=(1, 2)))
    return float((concordance >= concordance[0]).mean())


def pairs(rows: Iterable[Agreement], level: str) -> list[Pair]:
    """Return the pairs of metrics at one level, in the order of layers.MAIN."""
    found = {(frozenset((row.a, row.b)), row.measure): row for row in rows if row.level == level}
    metrics = sorted({name for names, _ in found for name in names}, key=_place)
    made = []
    for a, b in combinations(metrics, 2):
        names = frozenset((a, b))
        if tau := found.get((names, "kendall")):
            spearman, within = (found.get((names, m)) for m in ("spearman", "kendall_within"))
            made.append(Pair(a, b, tau, spearman, within))
    return made


def name_of(metric: str) -> str:
    """Return the metric's name inside a sentence."""
    return NAMES.get(metric, metric.replace("_", " "))


def _place(metric: str) -> int:
    return MAIN.index(metric) if metric in MAIN else len(MAIN)


def _spoken(found: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that sentences are about, one metric of each kind."""
    metrics = {name for pair in found for name in (pair.a, pair.b)}
    chosen = {next((m for m in choice if m in metrics), "") for choice in SPOKEN}
    return [pair for pair in found if {pair.a, pair.b} <= chosen]


def _known(found: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in found if pair.tau.value is not None]


def _arm_sentences(found: Sequence[Pair]) -> Iterator[str]:
    """Yield which metrics order the arms alike, which do not, and what cannot be told."""
    spoken = _known(_spoken(found))
    few = [pair for pair in spoken if pair.tau.items < ENOUGH]
    if few:
        most = max(pair.tau.items for pair in few)
        yield (
            f"Too few arms to tell whether layers agree: {most} arms allow only "
            f"{comb(most, 2) + 1} values of tau, and of unrelated orders one in {factorial(most)} "
            "is the same by chance."
        )
    yield from _told([pair for pair in spoken if pair not in few], "arms")
    if found and not spoken:
        notes = "; ".join(dict.fromkeys(pair.tau.note for pair in found if pair.tau.note))
        yield f"No two layers can be compared by the order of the arms: {notes}."


def _told(found: Sequence[Pair], things: str) -> Iterator[str]:
    """Yield a sentence for each thing that intervals show, and one for what they leave open."""
    capital = things.capitalize()
    sentences = {
        "alike": (f"{capital} are put in much the same order", "by"),
        "partly": (f"{capital} are put in partly the same order", "by"),
        "weak": (f"{capital} are put in orders that have a little in common", "by"),
        "against": (f"{capital} are put in rather opposite orders", "by"),
        "chance": (f"By chance alone, orders of {things} often agree as much", "as"),
        "open": (f"No common order of {things} is shown", "by"),
        "unknown": (f"Without an interval, nothing is said of the order of {things}", "by"),
    }
    for kind, (start, word) in sentences.items():
        of = [f"{pair.names} ({_told_tau(pair.tau)})" for pair in found if _kind(pair) == kind]
        if of:
            yield f"{start} {word} {f'; {word} '.join(of)}."


def _kind(pair: Pair) -> str:
    """Return what an interval of tau shows."""
    low, high = pair.tau.low, pair.tau.high
    if low is None or high is None:
        return "unknown"
    if low <= 0 <= high:
        return "open"
    if pair.chance >= SIGNIFICANT:
        return "chance"
    if high < WEAK:
        return "against" if high < 0 else "weak"
    return "alike" if low >= ALIKE else "partly"


def _told_tau(row: Agreement) -> str:
    return f"tau {_number(row.value)}" + (f", {_limits(row)}" if row.low is not None else "")


def _number(value: float | None) -> str:
    return shown(value, "kendall")


def _matrix(subset: str, found: Sequence[Pair], level: str) -> Iterator[Figure]:
    """Yield the matrix of Kendall's tau between all metrics, if any two can be compared."""
    known = _known(found)
    metrics = sorted({name for pair in known for name in (pair.a, pair.b)}, key=_place)
    if not known:
        return
    of = {names: pair for pair in known for names in ((pair.a, pair.b), (pair.b, pair.a))}
    names = [_capital(name_of(metric)) for metric in metrics]
    squares = [[_square(of.get((a, b))) for b in metrics] for a in metrics]
    data = Data(
        ("a", "b", "kendall", "low", "high", "spearman", level, "clusters"),
        [
            (
                pair.a, pair.b, pair.tau.value, pair.tau.low, pair.tau.high,
                pair.spearman.value if pair.spearman else None, pair.tau.items, pair.tau.clusters,
            )
            for pair in known
        ],
    )  # fmt: skip
    what = "order of the arms" if level == "arms" else "order of single answers"
    described = f"Kendall’s tau between metrics on {subset}, {what}"
    pale = "the interval holds 0"
    if level == "arms":
        pale += ", or orders of these arms often agree as much by chance"
    yield Figure(
        matrix_plot(names, names, squares, described, limit=1.0, data=data),
        f"{_capital(what)}: Kendall’s tau between metrics. Pale: {pale}.",
    )


def _square(pair: Pair | None) -> Square | None:
    if pair is None or pair.tau.value is None:
        return None
    clear = _kind(pair) in ("alike", "partly", "weak", "against")
    text = _number(pair.tau.value).replace("0.", ".", 1)
    return Square(pair.tau.value, text, "strong" if clear else "weak")


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _pair_table(arms: Sequence[Pair], answers: Sequence[Pair]) -> Iterator[Part]:
    """Yield the table of all pairs of metrics, folded away."""
    of_arms = {(pair.a, pair.b): pair for pair in arms}
    of_answers = {(pair.a, pair.b): pair for pair in answers}
    names = list(dict.fromkeys([*of_arms, *of_answers]))
    lines = tuple(
        (
            _capital(name_of(a)), _capital(name_of(b)),
            *_arm_cells(of_arms.get((a, b))), *_answer_cells(of_answers.get((a, b))),
        )
        for a, b in names
    )  # fmt: skip
    header = (
        "Metric", "and", "Tau of arms", "Spearman of arms", "Arms", "Tau of answers",
        "Spearman of answers", "Tau of answers to one question", "Answers (documents)",
    )  # fmt: skip
    rows = [pair.tau for pair in (*arms, *answers)]
    if lines:
        title = "Every pair of metrics"
        yield Part(CountTable(title, header, lines, 2, _notes(rows)), title)


def _arm_cells(pair: Pair | None) -> tuple[str | int | Cell, ...]:
    if pair is None:
        return (Cell(), Cell(), "–")
    return (_cell(pair.tau), _cell(pair.spearman), f"{pair.tau.items:,}")


def _answer_cells(pair: Pair | None) -> tuple[str | int | Cell, ...]:
    if pair is None:
        return (Cell(), Cell(), Cell(), "–")
    size = f"{pair.tau.items:,} ({pair.tau.clusters:,})"
    return (_cell(pair.tau), _cell(pair.spearman), _cell(pair.within), size)


def _cell(row: Agreement | None) -> Cell:
    return Cell() if row is None else Cell(shown(row.value, row.measure), _limits(row))


def _limits(row: Agreement) -> str:
    if row.low is None:
        return ""
    return f"{shown(row.low, row.measure)} to {shown(row.high, row.measure)}"


def _notes(rows: Iterable[Agreement]) -> str:
    """Return each note once, after the pairs that it is about."""
    said: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            who = f"{name_of(row.a)} and {name_of(row.b)}"
            said.setdefault(row.note.rstrip("."), []).append(who)
    return " ".join(
        f"{_capital('; '.join(dict.fromkeys(of)))}: {note}." for note, of in said.items()
    )


def _grade_sentences(
    grades: Sequence[Agreement], rows: Sequence[Agreement], judges: Sequence[str]
) -> Iterator[str]:
    """Yield how far each judge agrees with the experts, beside these among each other."""
    metrics = {name for row in rows if row.level != "grades" for name in (row.a, row.b)}
    if not grades:
        if "verdict" in metrics and "human" not in metrics:
            yield "No expert rated these answers: how far the judges can be trusted is not known."
        return
    alphas = [row for row in _ordered(grades, judges) if row.measure == "alpha"]
    of_judges = [row for row in alphas if row.a != EXPERTS == row.b]
    of_experts = [row for row in alphas if row.a == EXPERTS]
    told = [
        f"{_who(row)} {shown(row.value, row.measure)} ({_size(row)})"
        for row in (*of_judges, *of_experts)
    ]
    tentative, usual = CUSTOMARY
    if told:
        yield (
            f"{MEASURES['alpha']}: {'; '.join(told)}. It is customary to ask for {usual:g}, and "
            f"for {tentative:g} where conclusions are tentative."
        )
    else:
        notes = dict.fromkeys(row.note for row in grades if row.note)
        yield f"How far grades agree is not known: {'; '.join(notes) or 'none are shared'}."
    short = [quoted(row.a) for row in of_judges if row.high is not None and row.high < tentative]
    if short:
        yield f"Clearly less than that: {listed(short)} with the experts."
    if of_judges and not of_experts:
        yield (
            "No answers have two experts, so it is not known how far experts agree among "
            "themselves."
        )


def _size(row: Agreement) -> str:
    ends = f"95 % interval {_limits(row)}, " if row.low is not None else ""
    return f"{ends}{count(row.items, 'answer')}"


def _who(row: Agreement) -> str:
    """Return who graded, as a sentence or a line of a table says it."""
    if row.a == row.b == EXPERTS:
        return "experts among themselves"
    return f"{quoted(row.a)} and {row.b if row.b == EXPERTS else quoted(row.b)}"


def _ordered(grades: Sequence[Agreement], judges: Sequence[str]) -> list[Agreement]:
    """Return the rows with a value: of judges in the study's order, of all experts, of each two."""

    def place(row: Agreement) -> tuple[int, int, str]:
        of_judge = judges.index(row.a) if row.a in judges else len(judges)
        return of_judge, row.a != EXPERTS, _who(row)

    return sorted((row for row in grades if row.value is not None), key=place)


def _grade_figure(
    subset: str, grades: Sequence[Agreement], judges: Sequence[str]
) -> Iterator[Figure]:
    """Yield the coefficients with their intervals, a panel a measure."""
    known = _ordered([row for row in grades if row.measure in COEFFICIENTS], judges)
    names = list(dict.fromkeys(_who(row) for row in known))[:MOST_LINES]
    panels = []
    for measure, title in COEFFICIENTS.items():
        of = {_who(row): row for row in known if row.measure == measure and _who(row) in names}
        if of:
            ends = [end for row in of.values() for end in (row.value, row.low, row.high)]
            numbers = [0.0, 1.0, *(end for end in ends if end is not None)]
            points = [_point(name, of.get(name)) for name in names]
            limits = (min(numbers), max(numbers))
            panels.append(Panel(title, points, limits, measure == "agreement"))
    if panels:
        described = f"Grades of judges and experts on {subset}, with 95 % intervals"
        yield Figure(
            interval_plot(panels, described),
            "Grades of the same answers. Filled: a judge and experts; hollow: experts only.",
        )


def _point(name: str, row: Agreement | None) -> Point:
    if row is None:
        return Point(name, None, None, None, False)
    return Point(name, row.value, row.low, row.high, row.a != EXPERTS == row.b)


def _grade_table(grades: Sequence[Agreement], judges: Sequence[str]) -> Iterator[Part]:
    """Yield the table of judges and experts."""
    known = _ordered(grades, judges)
    measures = [
        name for name in (*COEFFICIENTS, "spearman") if any(r.measure == name for r in known)
    ]
    lines: list[tuple[str | int | Cell, ...]] = []
    for who in dict.fromkeys(_who(row) for row in known):
        of = {row.measure: row for row in known if _who(row) == who}
        first = next(iter(of.values()))
        cells = (_cell(of.get(measure)) for measure in measures)
        lines.append((_capital(who), *cells, f"{first.items:,} ({first.clusters:,})"))
    if lines:
        heads = (_capital(COEFFICIENTS.get(name, MEASURES[name])) for name in measures)
        header = ("Who graded", *heads, "Answers (documents)")
        yield Part(CountTable("Judges and experts", header, tuple(lines), 1, _notes(grades)))
