"""A comparison of systems for a reader: sentences, tables and one self-contained HTML page.

Of two systems that were compared: one is better if p stays below 5 % after correction; else they
are not distinguishable, or, where this design could not find a difference that matters, the items
are too few to tell.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from math import inf
from typing import NamedTuple

from ecg_llm.records import METRICS, Estimate
from ecg_llm.report.blame_tables import count
from ecg_llm.report.differences import TESTS, difference_matrix
from ecg_llm.report.figures import ArmStyle, Panel, Point, arm_styles, interval_plot
from ecg_llm.report.findings import named
from ecg_llm.report.printed import Look, brief, printed, size
from ecg_llm.report.report import CONTROL, REPLACEMENT
from ecg_llm.report.results import ALIKE, FATES, difference_row, is_clear, is_few, turned
from ecg_llm.report.results import label as metric_label
from ecg_llm.stats.compare import ALL_TASKS, Compared
from ecg_llm.stats.preferences import PREFERENCE

MARGIN = 0.05
"""The smallest difference that matters where none is given, as a share."""
DRAWN = 8
"""Tasks of a metric up to which each has figures; beyond, only all tasks together have."""
SHOWN = 8
"""Findings that are read at once."""
ONE_ITEM = "There is only one item, so nothing can be said beyond it."
ONE_SOURCE = "All items come from one source, so nothing can be said beyond it."
FILLED = "Filled: no other system is above it by an uncorrected 95 % interval."
TOO_FEW = "too few items to tell"
PREFERENCES = (
    "Strengths are by Bradley-Terry, a tie half a win each; their mean is 0. Where two are 0.4 "
    "apart, the stronger is preferred in 60 % of judgements. Differences use all judgements, also "
    "those through third systems; higher and lower count the items on which the one was preferred "
    "to the other directly. p by t, with whole sources left out in turn."
)


class Group(NamedTuple):
    """The rows of one metric on one task or subset."""

    metric: str
    subset: str
    name: str
    """Of the metric, for readers."""
    look: Look
    means: tuple[Estimate, ...]
    """The best first, those without a value last."""
    differences: tuple[Estimate, ...]
    """Declared ones in their sense, others the better minus the worse; in the order of the means.
    """
    lower: bool
    """Less is better."""
    margin: float
    """The smallest difference that matters; infinite for a metric that is no share."""
    judged: bool
    """Whether more, or less, is better at all; more words, say, are neither."""

    @property
    def title(self) -> str:
        """The name of the metric, on the subset."""
        return f"{self.name}, {self.subset}" if self.subset else self.name

    @property
    def value(self) -> str:
        """What a system has of the metric."""
        return "strength" if self.look.metric == PREFERENCE else "mean"


class Finding(NamedTuple):
    """What one metric shows on one task, in sentences."""

    metric: str
    subset: str
    title: str
    """Both, for readers."""
    sentences: tuple[str, ...]


class MeanRow(NamedTuple):
    """The mean of one system as printed."""

    system: str
    value: str
    interval: str
    rank: str
    adjusted: str
    """The rank after correction."""
    places: str
    best: str
    """The chance of being best."""
    items: int
    clusters: int
    missing: str
    tied_best: bool


class PairRow(NamedTuple):
    """One paired difference as printed."""

    a: str
    b: str
    value: str
    interval: str
    p: str
    p_adjusted: str
    p_sign: str
    counts: str
    """Items won and lost."""
    effect: str
    detectable: str
    """After correction, as the reading goes by."""
    items: int
    winner: str
    """The better one after correction, or the higher one; empty where neither is."""
    reading: str


class Part(NamedTuple):
    """One task or subset of a section."""

    subset: str
    title: str
    """Metric and subset, for readers."""
    figure: str
    caption: str
    means: tuple[MeanRow, ...]
    matrix: str
    pairs: tuple[PairRow, ...]
    note: str
    """How p was computed."""


class Section(NamedTuple):
    """One metric."""

    metric: str
    title: str
    anchor: str
    """Its id on the page."""
    lower: bool
    percent: bool
    value: str
    """What a system has of it: a mean, or a strength."""
    difference: str
    """What its differences are called."""
    parts: tuple[Part, ...]


def groups(found: Compared, margin: float) -> list[Group]:
    """Return the rows by metric and subset, all tasks together before each of them."""
    rows: dict[tuple[str, str], list[Estimate]] = {}
    for row in found.estimates:
        rows.setdefault((row.metric, row.subset), []).append(row)
    keys = sorted(rows, key=lambda key: _place(key, found.ours))
    return [_group(rows[key], found, margin) for key in keys]


def findings(found: Compared, margin: float = MARGIN) -> list[Finding]:
    """Return what each metric shows: who is ahead, who is not, and where the items are too few.

    Metrics of which neither more nor less is better are left to the tables.

    Args:
        found: the rows.
        margin: the smallest difference that matters, as a share; metrics that go beyond 0 to 1 are
            read without it.
    """
    made = []
    for group in groups(found, margin):
        sentences = _told(group, found.comparisons) if group.judged else []
        if sentences:
            made.append(Finding(group.metric, group.subset, group.title, tuple(sentences)))
    return made


def folded(told: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """Return findings to read at once, under "", then those to fold away, under what they are.

    Single tasks fold away where all tasks together are told.
    """
    pooled = {finding.metric for finding in told if finding.subset == ALL_TASKS}
    first = [f for f in told if f.subset == ALL_TASKS or f.metric not in pooled]
    parts = (
        ("", first[:SHOWN]),
        ("Further metrics and tasks", first[SHOWN:]),
        ("By task", [finding for finding in told if finding not in first]),
    )
    return [(fold, part) for fold, part in parts if part]


def missing(found: Compared) -> list[str]:
    """Return in words which systems lack scores of items that they were asked."""
    told = []
    for group in groups(found, inf):
        lost: dict[str, list[str]] = {}
        for row in group.means:
            if row.missing:
                fate = "" if row.missing_as in FATES else "counted as "
                lost.setdefault(fate + row.missing_as, []).append(f"{row.arm} {row.missing:,}")
        what = "Preferences" if group.look.metric == PREFERENCE else "Scores"
        told += [
            f"{what} missing in {group.title}, {fate}: {', '.join(names)}."
            for fate, names in lost.items()
        ]
    return told


def sections(found: Compared, margin: float = MARGIN, *, figures: bool = True) -> list[Section]:
    """Return the tables of each metric, and their figures unless these are not wanted."""
    styles = arm_styles(sorted({row.arm for row in found.estimates if not row.against}))
    by_metric: dict[str, list[Group]] = {}
    for group in groups(found, margin):
        by_metric.setdefault(group.metric, []).append(group)
    return [
        Section(
            metric, own[0].name, anchor, metric in found.lower, own[0].look.percent,
            own[0].value,
            "differences" if own[0].look.metric == PREFERENCE else "paired differences",
            tuple(
                _part(
                    group, found.comparisons, styles,
                    drawn=figures and (len(own) <= DRAWN or group.subset in (ALL_TASKS, "")),
                )
                for group in own
            ),
        )
        for (metric, own), anchor in zip(by_metric.items(), _anchors(by_metric), strict=True)
    ]  # fmt: skip


def build(
    found: Compared, name: str = "", sources: Sequence[str] = (), margin: float = MARGIN
) -> str:
    """Return the comparison as one HTML page without any outside asset.

    Equal inputs give equal bytes. Names from logs are escaped; control characters are shown as
    \ufffd.

    Args:
        found: the rows.
        name: the heading; empty: the systems.
        sources: the files that were read.
        margin: as for `findings`.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files("ecg_llm.report").joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    systems = sorted({row.arm for row in found.estimates if not row.against})
    page = environment.get_template("comparison.html").render(
        name=name or f"Comparison of {named(systems, 3)}",
        told=folded(findings(found, margin)),
        notes=[*found.notes, *missing(found)],
        sections=sections(found, margin),
        declared=bool(found.comparisons),
        clusters=any(row.clusters < row.questions for row in found.estimates),
        sources=sources,
        margin=f"{margin:g}",
        resampled=sorted({row.seed for row in found.estimates}),
    )
    return CONTROL.sub(REPLACEMENT, page)


def _place(key: tuple[str, str], ours: Collection[str]) -> tuple[int, str, bool, str]:
    """Return what metrics and subsets are sorted by: ours in the order of METRICS, after others."""
    metric, subset = key
    known = list(METRICS).index(metric) + 1 if metric in METRICS and metric in ours else 0
    return known, metric, subset != ALL_TASKS, subset


def _group(rows: Sequence[Estimate], found: Compared, margin: float) -> Group:
    metric, subset = rows[0].metric, rows[0].subset
    sign = 1 if metric in found.lower else -1
    means = sorted(
        (row for row in rows if not row.against),
        key=lambda row: (row.value is None, sign * (row.value or 0), row.arm),
    )
    place = {row.arm: number for number, row in enumerate(means)}
    pairs = [
        turned(row)
        if place[row.arm] > place[row.against] and (row.arm, row.against) not in found.comparisons
        else row
        for row in rows
        if row.against
    ]
    pairs.sort(key=lambda row: (place[row.arm], place[row.against]))
    limit = margin if metric in found.shares else inf
    lower, ours = metric in found.lower, metric in found.ours
    judged = lower or not (ours and metric in METRICS and METRICS[metric].layer == "other")
    name = metric_label(metric) if ours else metric
    if ours and metric == PREFERENCE:
        name = "Strength in preferences (log-odds)"
    look = Look(metric if ours else "", metric in found.marks, metric in found.shares)
    return Group(metric, subset, name, look, tuple(means), tuple(pairs), lower, limit, judged)


def _anchors(metrics: Iterable[str]) -> list[str]:
    """Return an id for each metric, made from its name, that no other one has."""
    made: list[str] = []
    for metric in metrics:
        word = re.sub(r"[^a-z0-9]+", "-", metric.lower()).strip("-") or "metric"
        taken = {"summary", "reading", *made}
        made.append(word if word not in taken else f"{word}-{len(made) + 1}")
    return made


def _told(group: Group, declared: Sequence[tuple[str, str]]) -> list[str]:
    """Return the sentences about one metric on one subset."""
    means = [row for row in group.means if row.value is not None]
    if not means:
        return []
    best = means[0]
    first = [row.arm for row in means if row.value == best.value]
    which = f"{'lowest' if group.lower else 'highest'} {group.value}"
    value = printed(best, group.look).told(" %" if group.look.percent else "")
    sentences = [
        f"{which.capitalize()}: {best.arm}, {value}; {count(best.questions, 'item')}."
        if len(first) == 1
        else f"The {which}, {value}, is shared by {named(first)}."
    ]
    numbers = sorted({row.questions for row in means})
    if len(numbers) > 1 and group.value == "mean":
        sentences.append(
            f"Systems have scores on different numbers of items, {numbers[0]:,} to "
            f"{numbers[-1]:,}; a difference is of those that both have."
        )
    if best.low is None:
        alone = [ONE_ITEM if best.questions < 2 else ONE_SOURCE] if best.clusters < 2 else []
        return sentences + alone
    pairs = {(row.arm, row.against): row for row in group.differences}
    pairs |= {(row.against, row.arm): turned(row) for row in group.differences}
    if len(declared) > 2 and len({b for _, b in declared}) == 1:
        return sentences + _against(declared[0][1], group)
    ahead: list[str] = []
    above: list[str] = []
    alike, few, untested = [], [], []
    for row in means[1:]:
        pair = pairs.get((best.arm, row.arm))
        if pair is None or pair.p_adjusted is None:
            untested.append(row.arm)
        elif better := _better(pair, group.lower):
            wide = turned(pair) if (pair.value or 0) < 0 else pair
            # The best mean need not be the better one where the two can be compared.
            side = ahead if better == best.arm else above
            side.append(f"{row.arm} by {_gap(wide, group.look, signed=False)}")
        elif is_few(pair, group.margin):
            few.append(row.arm)
        else:
            alike.append(row.arm)
    if above:
        sentences.append(f"On the items that both have, {best.arm} is behind {named(above)}.")
    if ahead:
        everyone = len(ahead) == len(means) - 1 > 1
        sentences.append(f"{best.arm} is ahead of {'all: ' if everyone else ''}{named(ahead)}.")
    if alike:
        sentences.append(f"{best.arm} is not distinguishable from {named(alike)}.")
    if few:
        sentences.append(
            f"Too few items to tell {best.arm} from {named(few)}: these cannot be relied on to "
            f"show a difference of {size(group.margin, group.look)}."
        )
    if untested:
        sentences.append(f"{best.arm} was not compared with {named(untested)}.")
    for a, b in declared:
        pair = pairs.get((a, b))
        if pair is not None and best.arm not in (a, b):
            sentences.append(f"{a} against {b}: {_gap(pair, group.look)}, {_read(pair, group)}.")
    return sentences


def _gap(row: Estimate, look: Look, *, signed: bool = True) -> str:
    """Return a difference with its unit and interval."""
    return printed(row, look, signed=signed).told(" points" if look.percent else "")


def _against(baseline: str, group: Group) -> list[str]:
    """Return how all others stand to the one system that they were compared with."""
    standing: dict[str, list[str]] = {}
    for row in group.differences:
        better = _better(row, group.lower)
        words = "better" if better == row.arm else "worse" if better else _read(row, group)
        wide = row if (row.value or 0) > 0 else turned(row)
        told = f"{row.arm} by {_gap(wide, group.look, signed=False)}" if better else row.arm
        standing.setdefault(words, []).append(told)
    return [
        f"{words[0].upper()}{words[1:]}, against {baseline}: {named(standing[words])}."
        for words in ("better", "worse", ALIKE, TOO_FEW, "not tested")
        if words in standing
    ]


def _better(row: Estimate, lower: bool) -> str:
    """Return the system that is better after correction; empty where none is."""
    if not is_clear(row) or not row.value:
        return ""
    return row.arm if (row.value > 0) != lower else row.against


def _read(row: Estimate, group: Group) -> str:
    """Return in words what a difference shows, by who is better."""
    if row.p_adjusted is None:
        return "not tested"
    better = _better(row, group.lower)
    if better:
        return f"{better} {'better' if group.judged else 'higher'}"
    return TOO_FEW if is_few(row, group.margin) else ALIKE


def _part(
    group: Group,
    declared: Sequence[tuple[str, str]],
    styles: Mapping[str, ArmStyle],
    *,
    drawn: bool,
) -> Part:
    means, pairs = group.means, group.differences
    figure, caption, matrix = "", "", ""
    known = [end for row in means for end in (row.value, row.low, row.high) if end is not None]
    if drawn and known:
        points = [Point(r.arm, r.value, r.low, r.high, r.rank == 1) for r in means]
        panel = Panel(
            group.name, points, (min(known), max(known)), group.look.percent,
        )  # fmt: skip
        said = f"{group.title}: each system with its 95 % interval"
        figure = interval_plot([panel], said, styles)
        caption = FILLED if group.judged else ""
        if len(means) > 2 and not declared and any(row.value is not None for row in pairs):
            matrix = difference_matrix(
                pairs, [row.arm for row in means], styles, group.title,
                lambda value: brief(value, group.look),
            )  # fmt: skip
    names = sorted({row.test for row in pairs if row.test})
    tested = f"p by {' and '.join(TESTS.get(name, name) for name in names)}." if names else ""
    return Part(
        group.subset, group.title, figure, caption,
        tuple(_mean_row(row, group.look) for row in means), matrix,
        tuple(_pair_row(row, declared, group) for row in pairs),
        PREFERENCES if group.look.metric == PREFERENCE else tested.replace("documents", "sources"),
    )  # fmt: skip


def _mean_row(row: Estimate, look: Look) -> MeanRow:
    shown = printed(row, look)
    fate = row.missing_as if row.missing_as in FATES else f"as {row.missing_as}"
    return MeanRow(
        row.arm, shown.value, shown.interval,
        "" if row.rank is None else str(row.rank),
        "" if row.rank_adjusted is None else str(row.rank_adjusted),
        "" if row.rank_low is None else f"{row.rank_low}–{row.rank_high}",
        "" if row.p_best is None else f"{row.p_best:.2f}",
        row.questions, row.clusters, f"{row.missing:,}, {fate}" if row.missing else "0",
        row.rank == 1,
    )  # fmt: skip


def _pair_row(row: Estimate, declared: Sequence[tuple[str, str]], group: Group) -> PairRow:
    # Of a metric of which less is better the better system has the smaller mean: keep the sense.
    shown = difference_row(row, [*declared, (row.arm, row.against)])
    told = printed(row, group.look, signed=True)
    return PairRow(
        shown.a, shown.b, told.value, told.interval, shown.p, shown.p_adjusted,
        shown.p_sign, f"{shown.better}–{shown.worse}" if shown.better else "", shown.effect,
        told.detectable, shown.questions, _better(row, group.lower), _read(row, group),
    )  # fmt: skip
