"""How choices were read: replies without a letter, and places of the options that arms favour."""

from collections.abc import Mapping, Sequence

from ecg_llm.records import MEASURES, Estimate, Reliability
from ecg_llm.report.blame_tables import count
from ecg_llm.report.counts import CountTable, Part, folded
from ecg_llm.report.figures import Panel, Point, arm_styles, interval_plot
from ecg_llm.report.measures import (
    TRUST,
    Figure,
    Group,
    apart,
    by_instrument,
    cell,
    corrected,
    ends,
    limits,
    notes,
    point,
    shown,
    span,
    unbounded,
)
from ecg_llm.report.results import (
    Cell,
    interval,
    label,
    listed,
    number,
    ordered,
    p_value,
    subsets,
)

NAMED = 6
"""Arms that a sentence lists at most."""


def choices(
    rows: Sequence[Reliability], estimates: Sequence[Estimate], arms: Sequence[str]
) -> Group:
    """Return how many replies were unread, and which places of the options arms favour."""
    found = [row for row in rows if row.measure == "place_share"]
    shares = dict(zip(found, corrected(found), strict=True))
    sentences = [*_reading_sentence(estimates), *_place_sentences(shares, arms)]
    figure = _place_figure(shares, arms)
    parts = [*_reading(estimates, arms), *_place_tables(rows, arms)]
    return Group(TRUST, sentences, [figure] if figure else [], parts)


def _unread(estimates: Sequence[Estimate], metric: str) -> list[Estimate]:
    return [r for r in estimates if r.metric == metric and not r.against and r.value is not None]


def _reading_sentence(estimates: Sequence[Estimate]) -> list[str]:
    rows = _unread(estimates, "unread")
    if not rows:
        return []
    most = max(rows, key=lambda row: (row.value or 0.0, row.arm, row.subset))
    if not most.value:
        return ["A reply without a letter counts as wrong and stays in every share. There is none."]
    return [
        "A reply without a letter counts as wrong and stays in every share. The most are of "
        f"{most.arm}: {number(most.value, most.metric)} % on {most.subset} "
        f"({count(most.questions, 'question')})."
    ]


def _reading(estimates: Sequence[Estimate], arms: Sequence[str]) -> list[Part]:
    """Return the shares of replies that each parser could not read, a table a subset."""
    by_metric = {m: _unread(estimates, m) for m in ("unread", "unread_strict")}
    metrics = [metric for metric, rows in by_metric.items() if rows]
    every = [row for rows in by_metric.values() for row in rows]
    found = {(row.metric, row.subset, row.arm): row for row in every}
    header = (
        "Arm", *(f"{label(m)}, %" for m in metrics), "Questions", "Documents", "Failed",
    )  # fmt: skip
    made = []
    for subset in subsets(every):
        lines: list[tuple[str | int | Cell, ...]] = []
        for arm in ordered({row.arm for row in every if row.subset == subset}, arms):
            own = [found.get((metric, subset, arm)) for metric in metrics]
            cells = [
                Cell() if row is None else Cell(number(row.value, row.metric), interval(row))
                for row in own
            ]
            some = next(row for row in own if row is not None)
            lines.append((arm, *cells, some.questions, some.clusters, some.missing))
        made.append(CountTable(f"Replies not read, {subset}", header, tuple(lines)))
    note = (
        "Two parsers read the same replies. The tolerant one takes what a careful reader would "
        "take for the answer and decides “letter written”; the strict one takes only the form "
        "asked for. Failed answers hold nothing to read and are not in these shares; they count "
        "as wrong all the same."
    )
    return folded(made, "Replies not read, by arm and subset", note)


def _place_sentences(shares: Mapping[Reliability, float | None], arms: Sequence[str]) -> list[str]:
    """Return the place that each arm favours or shuns most, where it is clear that it does."""
    by_arm = by_instrument(row for row, p in shares.items() if p is not None)
    told, even = [], []
    for arm in ordered(set(by_arm), arms):
        seen = [row for row in by_arm[arm] if apart(shares[row])]
        if not seen:
            even.append(arm)
            continue
        row = max(seen, key=lambda row: (abs((row.value or 0) - (row.expected or 0)), row.detail))
        often = "more" if (row.value or 0) > (row.expected or 0) else "less"
        told.append(
            f"{arm} names {row.detail} {often} often than its keys stand there: "
            f"{shown(row.value, row.measure)} points (95 % interval {limits(row)}; "
            f"{count(row.items, 'letter')}; p, corrected, {p_value(shares[row])})."
        )
    if even:
        who = listed(even) if len(even) <= NAMED else f"{len(even)} arms"
        none = (
            f"For {who} no place is clearly favoured or shunned"
            if told
            else "No arm clearly favours or shuns a place"
        )
        told.append(
            f"{none}, corrected for {sum(map(len, by_arm.values()))} intervals (Holm). This does "
            "not show that there is no preference."
        )
    return told


def _place_figure(shares: Mapping[Reliability, float | None], arms: Sequence[str]) -> Figure | None:
    rows = [row for row in shares if row.value is not None]
    if not rows:
        return None
    by_key = {(row.instrument, row.detail): row for row in rows}
    names = ordered({row.instrument for row in rows}, arms)

    def dot(name: str, place: str) -> Point:
        row = by_key.get((name, place))
        return point(name, row)._replace(filled=row is not None and apart(shares[row]))

    panels = [
        Panel(
            f"Options at place {place}", [dot(name, place) for name in names],
            ends(rows), percent=True, reference=0.0,
        )
        for place in sorted({row.detail for row in rows})
    ]  # fmt: skip
    return Figure(
        interval_plot(
            panels,
            f"{MEASURES['place_share']}: each arm with its 95 % interval",
            arm_styles([*arms, *sorted(set(names) - set(arms))]),
        ),
        f"{MEASURES['place_share']}. Dashed: no preference. Filled: clear after correction for "
        f"the number of intervals. {unbounded(rows)}".rstrip(),
    )


def _place_tables(rows: Sequence[Reliability], arms: Sequence[str]) -> list[Part]:
    """Return the shares of letters by place with the spread of recall, and the recalls, folded."""
    by_key = {(row.measure, row.instrument, row.detail): row for row in rows}
    spread = any(row.measure == "recall_spread" for row in rows)
    made = []
    for measure, title in (
        ("place_share", "Letters named at each place, less keys there, in points"),
        ("place_recall", "Right answers by the place of the key, in percent"),
    ):
        here = [row for row in rows if row.measure == measure]
        places = sorted({row.detail for row in here})
        with_spread = spread and measure == "place_recall"
        lines: list[tuple[str | int | Cell, ...]] = []
        for arm in ordered({row.instrument for row in here}, arms):
            own = [row for row in here if row.instrument == arm]
            cells = [cell(by_key.get((measure, arm, place))) for place in places]
            if with_spread:
                row = next(
                    (r for r in rows if (r.measure, r.instrument) == ("recall_spread", arm)), None
                )
                cells.append(cell(row))
                cells.append(Cell("–" if row is None else shown(row.expected, row.measure)))
            lines.append((arm, *cells, span(own, "items"), span(own, "clusters")))
        extra = ("Spread of the shares (RStd)", "By chance") if with_spread else ()
        counted = "Letters" if measure == "place_share" else "Questions"
        header = ("Arm", *places, *extra, counted, "Documents")
        spreads = [r for r in rows if with_spread and r.measure == "recall_spread"]
        said = notes([*here, *spreads], lambda row: row.instrument)
        if measure == "place_share":
            said = f"Without bias every place would have 0. {said}"
        said = f"{said} {unbounded(here)}".strip()
        table = CountTable(title, header, tuple(lines), 1, said)
        if lines:
            made.append(Part(table, "Letters named and right answers, by place"))
    return made
