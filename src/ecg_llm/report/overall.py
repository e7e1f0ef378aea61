"""The overall ranking as a reader sees it, and how it hangs on the weights of the layers."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from ecg_llm.records import Estimate, Standing
from ecg_llm.report.figures import ArmStyle, Panel, Point, interval_plot
from ecg_llm.report.results import TITLES, listed, ordered
from ecg_llm.report.verdict import UNSEEN
from ecg_llm.stats.ranking import LAYERS, POOLED, Weightings, weightings

SEEN = "/test_seen"
NAMED = 3
"""Arms that a sentence on weightings names at most."""
CAPTION = (
    "Median of the ranks over the layers, with the range that holds 95 % of resamples. Filled: "
    "first place is not ruled out."
)


class OverallRow(NamedTuple):
    """One arm of the overall ranking."""

    arm: str
    ranks: tuple[str, ...]
    median: str
    median_range: str
    place: str
    places: str
    first: str
    """Percent of the resamples in which no arm has a smaller median."""


class OverallTable(NamedTuple):
    """The overall ranking on one subset, or on all of them pooled."""

    subset: str
    layers: tuple[str, ...]
    """Heads of the columns of ranks."""
    rows: tuple[OverallRow, ...]
    """By place."""
    sentences: tuple[str, ...]


class Overall(NamedTuple):
    """The section on the overall ranking."""

    tables: tuple[OverallTable, ...]
    """Pooled unseen subsets first, then unseen ones, then those of documents used in training."""
    figure: str
    """Of the first table."""
    figure_by_subset: str
    """Of the others; empty where there is one table only."""
    caption: str


def overall(
    standings: Sequence[Standing],
    estimates: Sequence[Estimate],
    order: Sequence[str],
    styles: Mapping[str, ArmStyle],
) -> Overall | None:
    """Return the overall ranking; None where there are no two arms to rank.

    Args:
        standings: rows of any number of subsets.
        estimates: tell which metric stands for a layer.
        order: of the arms in figures.
        styles: their marks.
    """
    by_subset = {
        subset: list(rows)
        for subset, rows in groupby(
            sorted(
                standings,
                key=lambda row: (row.subset != POOLED, row.subset.endswith(SEEN), row.subset),
            ),
            key=lambda row: row.subset,
        )
    }
    if all(len(rows) < 2 for rows in by_subset.values()):
        return None
    tables = tuple(_table(subset, rows, estimates) for subset, rows in by_subset.items())
    first, *others = by_subset.items()
    return Overall(
        tables,
        _figure([first], order, styles),
        _figure(others, order, styles) if others else "",
        CAPTION,
    )


def rank_titles(estimates: Sequence[Estimate], subset: str) -> dict[str, str]:
    """Return the head of each layer's column in the ranking of a subset, or of all unseen ones.

    It says where similarity to the reference stands in for a judge.
    """
    judged: dict[str, bool] = {}
    for row in estimates:
        here = subset == row.subset or (subset == POOLED and row.subset.endswith(UNSEEN))
        ranked = not row.against and row.rank is not None and here
        if ranked and any(row.metric in metrics for metrics in LAYERS["judge"]):
            by_judge = row.metric != "reference_similarity"
            judged[row.subset] = judged.get(row.subset, False) or by_judge
    titles = {name: TITLES[name][0] for name in LAYERS}
    if judged and not all(judged.values()):
        alone = TITLES["similarity"][0]
        both = f"{titles['judge']}, else {alone[0].lower()}{alone[1:]}"
        titles["judge"] = both if any(judged.values()) else alone
    return titles


def _table(subset: str, rows: Sequence[Standing], estimates: Sequence[Estimate]) -> OverallTable:
    titles = rank_titles(estimates, subset)
    layers = [name for name in titles if any(row.ranks.get(name) is not None for row in rows)]
    placed = sorted(rows, key=lambda row: (row.place, row.arm))
    sentences = (*_lead(placed), *_weighed(weightings(rows), titles)) if len(rows) > 1 else ()
    return OverallTable(
        subset,
        tuple(titles[name] for name in layers),
        tuple(_row(row, layers) for row in placed),
        sentences,
    )


def _row(row: Standing, layers: Sequence[str]) -> OverallRow:
    return OverallRow(
        row.arm,
        tuple(_rank(row.ranks.get(layer)) for layer in layers),
        _rank(row.median),
        _range(row.median_low, row.median_high),
        _rank(row.place),
        _range(row.place_low, row.place_high),
        "–" if row.p_first is None else _percent(row.p_first),
    )


def _rank(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:g} to {high:g}"


def _percent(share: float) -> str:
    """Return a share in whole percent, which says 0 or 100 only of none and all."""
    text = f"{100 * share:.0f}"
    if text == "0" and share > 0:
        return "< 1"
    return "> 99" if text == "100" and share < 1 else text


def _figure(
    tables: Sequence[tuple[str, Sequence[Standing]]],
    order: Sequence[str],
    styles: Mapping[str, ArmStyle],
) -> str:
    arms = ordered({row.arm for _, rows in tables for row in rows}, order)
    panels = []
    for subset, rows in tables:
        of_arm = {row.arm: row for row in rows}
        points = [_point(arm, of_arm.get(arm)) for arm in arms]
        panels.append(Panel(subset, points, (1.0, max(2.0, float(len(arms)))), ranks=True))
    names = listed([subset for subset, _ in tables])
    return interval_plot(panels, f"Median rank over the layers on {names}, by arm", styles)


def _point(arm: str, row: Standing | None) -> Point:
    if row is None:
        return Point(arm, None, None, None, False)
    first = row.place == 1 or row.place_low == 1
    return Point(arm, row.median, row.median_low, row.median_high, first)


def _lead(rows: Sequence[Standing]) -> list[str]:
    """Return who is first, and to whom else resampling leaves first place."""
    leaders = [row for row in rows if row.place == 1]
    median = _rank(leaders[0].median)
    if len(leaders) > 1:
        told = f"{listed([row.arm for row in leaders])} share the smallest median rank, {median}"
    else:
        told = f"{leaders[0].arm} has the smallest median rank, {median}"
    lead = leaders[0]
    if lead.place_low is None or len(leaders) == len(rows):
        return [f"{told}."]
    if len(leaders) == 1 and lead.p_first is not None:
        told += f", and has it or shares it in {_percent(lead.p_first)} % of resamples"
    others = [row.arm for row in rows if row.place > 1 and row.place_low == 1]
    return [
        f"{told}.",
        f"First place is not ruled out for {listed(others)}."
        if others
        else "For no other arm is first place within the range of its places.",
    ]


def _weighed(found: Weightings, titles: Mapping[str, str]) -> list[str]:
    """Return in words how the winner hangs on the weights of the layers."""
    names = {layer: _inside(titles[layer]) for layer in titles}
    if len(found.layers) < 2:
        some = f"only one layer, {names[found.layers[0]]}," if found.layers else "no layer"
        return [f"There are no weights to vary: {some} ranks every arm."]
    shares = {arm: share for arm, share in found.shares.items() if share > 0}
    how = f"weighting {listed([names[layer] for layer in found.layers])}"
    if len(shares) == 1:
        told = [f"{next(iter(shares))} has the smallest mean rank under every {how}."]
    else:
        named = [arm for arm, share in shares.items() if share >= 0.01][:NAMED]
        parts = [f"{arm} in {_percent(shares[arm])} %" for arm in named]
        if rest := sum(share for arm, share in shares.items() if arm not in named):
            parts.append(f"others in {_percent(rest)} %")
        told = [
            f"Of {found.tried:,} ways of {how}, the smallest mean rank falls to {listed(parts)} "
            "(shared where equal)."
        ]
        told += _turns(found, names)
    for layer, arms in found.left_out.items():
        lacking = listed(arms) if len(arms) <= NAMED else f"{len(arms)} arms"
        have = "has" if len(arms) == 1 else "have"
        told.append(f"Not weighed: {names[layer]}, where {lacking} {have} no rank.")
    return told


def _turns(found: Weightings, names: Mapping[str, str]) -> list[str]:
    """Return from which weight of a layer on an arm wins, and whose absence changes the winner."""
    told = [
        f"{sure.arm} wins wherever {100 * sure.weight:.0f} % or more of the weight is on "
        f"{names[layer]}."
        for layer, sure in found.decisive.items()
        if sure.weight < 1
    ]
    equal = set(found.equal)
    for layer, winners in found.without.items():
        if equal.isdisjoint(winners):
            verb = "wins" if len(winners) == 1 else "are equal"
            told.append(
                f"Without {names[layer]}, the others weighing the same, {listed(winners)} {verb}; "
                f"with it {listed(found.equal)}."
            )
    return told


def _inside(title: str) -> str:
    """Return a heading as it stands inside a sentence."""
    return f"the {title}" if title.startswith("LLM") else title[0].lower() + title[1:]
