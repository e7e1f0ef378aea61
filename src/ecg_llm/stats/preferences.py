"""Preferences between two answers to strengths of the systems, their ranks and differences."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ecg_llm.contracts import Block
from ecg_llm.records import Estimate
from ecg_llm.stats.estimate import Difference, Rank
from ecg_llm.stats.intervals import Interval
from ecg_llm.stats.panels import pairs_of
from ecg_llm.stats.power import with_power
from ecg_llm.stats.significance import holm
from ecg_llm.stats.strength import METHOD, Fit, differences, fit, ranked

PREFERENCE = "preference_strength"
"""Metric of the rows: log-odds, whose mean over the systems is 0."""
UNLINKED = (
    "No strengths: the preferences do not link all systems, not even through a third. Give "
    "those that are linked in a file of their own."
)
UNTOLD = (
    "Which answer was shown first cannot be told apart from whose it was, so the strengths may "
    "hold an effect of the order; show each pair both ways round."
)


def strengths(
    blocks: Sequence[Block],
    unsaid: Sequence[tuple[str, str]],
    subsets_of: Mapping[str, tuple[str, ...]],
    cluster_of: Mapping[str, str],
    comparisons: Sequence[tuple[str, str]],
    resamples: int,
    seed: int,
) -> tuple[list[Estimate], list[str]]:
    """Return the strengths with ranks, their differences, and what to know about them in words.

    Bradley-Terry with half a win each for a tie, freed from the effect of the order where that can
    be told apart; differences use all judgements, also those through third systems, with Holm's
    correction. `wins` and `losses` are items on which `arm` was preferred directly more often, and
    less often. Values are None where judgements do not link all systems.

    Args:
        blocks: judgements, blocks of two in the order shown.
        unsaid: (item, system) of judgements without a preference.
        subsets_of: item -> every subset it counts in.
        cluster_of: item -> source; an item without one is a cluster of its own.
        comparisons: pairs (a, b) as for `estimate.estimates`.
        resamples: draws that give the range of the ranks and the chance of being best.
        seed: of the draws.
    """
    parts: dict[str, list[Block]] = defaultdict(list)
    for block in blocks:
        for subset in subsets_of.get(block.question_id, ()):
            parts[subset].append(block)
    rows: list[Estimate] = []
    notes: list[str] = []
    for subset, part in sorted(parts.items()):
        found = fit(part, cluster_of, slot=True, length=False)
        if found is None:
            continue
        lost = Counter(arm for item, arm in unsaid if subset in subsets_of.get(item, ()))
        rows += _means(subset, part, lost, found, resamples, seed)
        rows += _differences(subset, part, lost, found, comparisons, seed)
        notes.append(_order(found) if found.connected else UNLINKED)
    return rows, notes


def _means(
    subset: str, blocks: Sequence[Block], lost: Counter[str], found: Fit, resamples: int, seed: int
) -> list[Estimate]:
    items: dict[str, set[str]] = defaultdict(set)
    for block in blocks:
        for arm in block.arms:
            items[arm].add(block.question_id)
    none = Interval(None, None, None, "none", found.questions, found.clusters), Rank()
    told = dict.fromkeys((*found.arms, *lost), none)
    if found.connected:
        ranks = ranked(found, resamples, seed)
        told |= zip(found.arms, zip(found.strengths, ranks, strict=True), strict=True)
    return [
        Estimate(
            metric=PREFERENCE, subset=subset, arm=arm, method=f"strength/{METHOD}",
            value=strength.value, low=strength.low, high=strength.high, **rank._asdict(),
            questions=len(items[arm]), clusters=found.clusters, missing=lost[arm],
            missing_as="left out", seed=seed,
        )
        for arm, (strength, rank) in sorted(told.items())
    ]  # fmt: skip


def _differences(
    subset: str, blocks: Sequence[Block], lost: Counter[str], found: Fit,
    comparisons: Sequence[tuple[str, str]], seed: int,
) -> list[Estimate]:  # fmt: skip
    ahead: Counter[tuple[str, str, str]] = Counter()
    for block in blocks:
        (a, b), (first, second) = block.arms, block.places
        ahead[a, b, block.question_id] += second - first
        ahead[b, a, block.question_id] += first - second
    more = Counter((a, b) for (a, b, _), margin in ahead.items() if margin > 0)
    pairs = pairs_of(found.arms, comparisons)
    made = differences(found, pairs)
    if not found.connected:
        none = Interval(None, None, None, "none", found.questions, found.clusters)
        made = dict.fromkeys(pairs, Difference(none, None))
    adjusted = holm([difference.p for difference in made.values()])
    return with_power([
        Estimate(
            metric=PREFERENCE, subset=subset, arm=a, against=b, method=f"difference/{METHOD}",
            value=gap.interval.value, low=gap.interval.low, high=gap.interval.high,
            p=gap.p, p_adjusted=p_adjusted, test=gap.test, wins=more[a, b],
            losses=more[b, a], error=gap.error, freedom=gap.freedom, questions=found.questions,
            clusters=found.clusters, missing=lost[a] + lost[b], seed=seed,
        )
        for (a, b), gap, p_adjusted in zip(
            ((found.arms[a], found.arms[b]) for a, b in made), made.values(), adjusted, strict=True
        )
    ])  # fmt: skip


def _order(found: Fit) -> str:
    """Return in words what the order did in which the two answers were shown."""
    slot = found.slot
    if slot is None or slot.value is None:
        return UNTOLD
    size = f"{_signed(-slot.value)} log-odds"
    if slot.low is None or slot.high is None:
        return (
            f"Shown first: {size}; one source gives no interval. The strengths are freed from it."
        )
    limits = f"{_signed(-slot.high)} to {_signed(-slot.low)}"
    how = "more" if slot.high < 0 else "less"
    said = (
        "Whether the answer shown first is preferred more often cannot be told"
        if slot.low <= 0 <= slot.high
        else f"The answer shown first is preferred {how} often"
    )
    return f"{said}: {size} ({limits}); the strengths are freed from it."


def _signed(value: float) -> str:
    return f"{round(value, 2) or 0.0:+.2f}".replace("-", "−")
