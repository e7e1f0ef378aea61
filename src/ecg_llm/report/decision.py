"""The decision card: which arm to deploy, how sure that is, what it costs and what it is bad at."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, islice
from math import ceil, floor, log10
from typing import NamedTuple

from ecg_llm.config import NanoModelConfig, Study
from ecg_llm.records import METRICS, Answer, Estimate, Latency, Question, Score, Standing
from ecg_llm.report.costs import Cost, cheapest, cost_table, costs, figure
from ecg_llm.report.counts import CountTable
from ecg_llm.report.findings import gap, measured, named
from ecg_llm.report.results import (
    ALIKE,
    SIGNIFICANT,
    Cell,
    apart,
    interval,
    is_few,
    listed,
    number,
    p_value,
)
from ecg_llm.report.verdict import UNSEEN, Criterion, Verdict, judged, tags_of
from ecg_llm.report.weaknesses import Weakness, low_kinds, weaknesses
from ecg_llm.stats.power import needed
from ecg_llm.stats.ranking import POOLED

LAYERS: Mapping[str, str] = {
    "choice": "multiple choice",
    "text": "wording",
    "judge": "the judges",
    "human": "the experts",
}
"""Layers of the overall ranking as a sentence names them."""
NANO = (
    "Nano models exercise the chain, and their numbers carry no medical meaning: this shows how a "
    "verdict reads. Nothing here is to be deployed."
)
SEEN_ONLY = (
    "All questions are on documents used in training; nothing shows how the arms do on others."
)
WEAKNESSES = 5
"""Sentences an arm, where several arms are looked at."""
SHOWN = 3
"""Arms that sentences name before they count the rest, and up to which all are looked at."""
TOLD_FROM = 5
"""Documents from which on what others like them would show is told."""


class Card(NamedTuple):
    """The first screen of the report, in words."""

    kind: str
    """A verdict.Kind."""
    systems: bool
    """It is about systems that people rated, not arms of the study."""
    arms: tuple[str, ...]
    """Those that the headline is about."""
    headline: str
    warnings: tuple[str, ...]
    why: tuple[str, ...]
    sure: tuple[str, ...]
    cost: CountTable | None
    weak: tuple[Weakness, ...]
    change: tuple[str, ...]
    standing: CountTable
    """Every arm, what it reached on each criterion and what became of it."""
    rule: str


def decide(
    study: Study,
    estimates: Sequence[Estimate],
    standings: Sequence[Standing] = (),
    questions: Sequence[Question] = (),
    answers: Sequence[Answer] = (),
    latencies: Sequence[Latency] = (),
    scores: Sequence[Score] = (),
) -> Card | None:
    """Return the decision card; None where no arm has a result that could decide.

    Every sentence follows from the verdict by rule: none calls an arm better where the corrected
    difference does not say so, and none names a choice without saying what it rests on.

    Args:
        study: its candidates, prices and smallest difference that matters.
        estimates: means and differences of all metrics.
        standings: the overall ranking, for the chance of coming first.
        questions: types and sets.
        answers: tokens, and what failed.
        latencies: seconds and memory.
        scores: question types, harm, and pairs of arms that were not declared.
    """
    verdict = judged(study, estimates, questions, scores)
    if verdict is None:
        return None
    spent = [] if verdict.systems else costs(study, questions, answers, latencies)
    left = verdict.left
    least = cheapest([row for row in spent if row.arm in left])
    if least is not None and len([row for row in spent if row.arm in left]) < len(left):
        least = None
    nano = any(isinstance(study.models[arm.model], NanoModelConfig) for arm in study.arms.values())
    choice = left if verdict.kind in ("deploy", "alone") else ()
    if verdict.kind == "equal" and least is not None and not _above(verdict, least.arm):
        choice = (least.arm,)
    looked_at = choice or (left if len(left) <= SHOWN else ())
    weak = []
    low = low_kinds(verdict, study, questions, scores) if looked_at else []
    for arm in looked_at:
        told = weaknesses(arm, verdict, low, estimates, questions, answers, scores)
        most = None if len(looked_at) == 1 else WEAKNESSES
        weak.append(Weakness(arm, tuple(islice(told, most))))
    ranked = _ranked(verdict, standings, questions)
    return Card(
        kind=verdict.kind,
        systems=verdict.systems,
        arms=left,
        headline=_headline(verdict, nano),
        warnings=tuple(_warnings(verdict, study, nano)),
        why=tuple(_why(verdict, study, least.arm if least else "", least.by if least else "")),
        sure=tuple(_sure(verdict, study, ranked)),
        cost=cost_table([row for row in spent if row.arm in verdict.candidates]),
        weak=tuple(one for one in weak if one.sentences),
        change=tuple(_change(verdict, study, estimates, ranked, questions, scores, spent)),
        standing=_standing(verdict, study),
        rule=_rule(verdict),
    )


def _headline(verdict: Verdict, nano: bool) -> str:
    left = verdict.left
    what = "systems" if verdict.systems else "arms"
    names = listed(left) if 0 < len(left) <= SHOWN else f"{len(left)} {what}"
    match verdict.kind:
        case "deploy" if verdict.systems:
            return f"{names} comes out best"
        case "deploy":
            return f"The rule would choose {names}" if nano else f"Deploy {names}"
        case "alone":
            return f"{names} is the only candidate"
        case "equal":
            return f"{names} are not distinguishable"
        case "few":
            return f"Too few questions to tell {names} apart"
        case "trade_off":
            return f"A trade-off between {names}"
        case "untested" if all(row.clusters < 2 for row in verdict.means.values()):
            one = "question" if apart(verdict.means.values()) else "document"
            return f"One {one} cannot tell {names} apart"
        case "untested" if not any(verdict.gaps(*pair) for pair in combinations(left, 2)):
            return f"No difference between {names} was tested"
        case "untested":
            return f"Not all differences between {names} were tested"
        case _:
            return "No candidate has results"


def _warnings(verdict: Verdict, study: Study, nano: bool) -> Iterable[str]:
    if nano:
        yield NANO
    if not verdict.unseen:
        yield SEEN_ONLY
    rows = verdict.means.values()
    if verdict.kind != "unmeasured" and all(row.clusters < 2 for row in rows):
        yield f"Every figure here rests on one {'question' if apart(rows) else 'document'}."
    yield from _out_of_reach(verdict, study.estimates.resamples)
    if verdict.unmeasured:
        yield f"Without results that could decide: {named(verdict.unmeasured)}."


def _out_of_reach(verdict: Verdict, resamples: int) -> Iterable[str]:
    """Return on which criteria no difference can stand, however large it is."""
    draws: dict[str, list[str]] = {}
    few: dict[str, dict[str, list[str]]] = {}
    for criterion, row in verdict.out_of_reach(resamples):
        pairs = len(verdict.pairs(criterion))
        many = f" over {pairs:,} pairs" if pairs > 1 else ""
        if verdict.corrected > 1:
            many += f"{' and' if many else ' over'} {verdict.corrected} criteria"
        if pairs * 2.0 ** (1 - row.clusters) < verdict.level:
            draws.setdefault(many, []).append(verdict.where(criterion))
        else:
            size = f"{row.clusters:,} {'questions' if apart([row]) else 'documents'}"
            few.setdefault(many, {}).setdefault(size, []).append(verdict.where(criterion))
    for many, sizes in few.items():
        where = listed([f"{size} in {listed(names)}" for size, names in sizes.items()])
        yield f"{where} cannot show any difference{many}, however large."
    for many, names in draws.items():
        yield (
            f"{resamples:,} resamples (estimates.resamples) are too few to show any difference"
            f"{many}, however large, in {listed(names)}."
        )


def _why(verdict: Verdict, study: Study, least: str, by: str) -> Iterable[str]:
    left = verdict.left
    if len(left) > SHOWN:
        yield f"They are {named(left, 2 * SHOWN)}."
    match verdict.kind:
        case "deploy":
            yield from _why_deploy(verdict, study)
        case "alone":
            yield "It is compared with nothing: this says how good it is, not that it is best."
        case "equal":
            yield (
                "The corrected difference between any two of them stands on none of the criteria. "
                "That does not mean that they are equal."
            )
            above = _above(verdict, least) if least else []
            if above:
                yield (
                    f"{least} costs least of them ({by}), but in the table of differences "
                    f"{named(above, 2)}. Which counts more is for you to say."
                )
            elif least:
                yield (
                    f"{least} costs least of them ({by}). It is the sensible choice for that "
                    "reason alone."
                )
            elif not verdict.systems:
                yield "What they cost is not known of all or does not differ, so none is named."
        case "few":
            yield _wanted(verdict, study)
            also = f"; {least} costs least of them ({by})" if least else ""
            yield f"Until then no choice follows from these numbers{also}."
        case "trade_off":
            others = []
            for a in left:
                beaten = [f"{b} in {_best(verdict, a, b)}" for b in left if verdict.ahead(a, b)]
                if beaten:
                    more = f"; and than {len(beaten) - SHOWN} others" if len(beaten) > SHOWN else ""
                    yield f"{a} is clearly better than {'; than '.join(beaten[:SHOWN])}{more}."
                else:
                    others.append(a)
            if others:
                yield f"Nor is {named(others)} ruled out."
            yield "Which of these layers counts more is for you to say."
        case "untested":
            pairs = [f"{a} and {b}" for a, b in combinations(left, 2) if not verdict.gaps(a, b)]
            yield f"Not tested, so that nothing can be said: {named(pairs, SHOWN)}."
        case _:
            what = "rated systems" if verdict.systems else "arms with answers"
            yield f"Name {what} in decision.candidates of study.yaml."
    if 1 < len(left) < len(verdict.candidates):
        out = [arm for arm in verdict.candidates if arm not in left]
        yield f"Ruled out, since one of the candidates is clearly better: {named(out)}."


def _why_deploy(verdict: Verdict, study: Study) -> Iterable[str]:
    (arm,) = verdict.left
    others = [other for other in verdict.candidates if other != arm]
    beaten = [other for other in others if verdict.ahead(arm, other)]
    if beaten and len(beaten) <= 3:
        told = [f"{other} in {_best(verdict, arm, other)}" for other in beaten]
        yield f"It is clearly better than {'; than '.join(told)}."
    elif beaten:
        yield f"It is clearly better than {named(beaten)} in at least one layer each."
    for other in others:
        if other not in beaten:
            yield (
                f"{other} is ruled out by {named(verdict.ruled_out_by(other))}; {arm} itself is "
                f"{_stands(verdict, study, arm, other)} it."
            )
    behind = [f"{b} in {_best(verdict, b, arm)}" for b in others if verdict.ahead(b, arm)]
    if behind:
        yield f"It is clearly worse than {'; than '.join(behind)}."
    elif beaten:
        yield "On no criterion is another candidate clearly better than it."


def _stands(verdict: Verdict, study: Study, a: str, b: str) -> str:
    """Return how a stands to b that it is not clearly better than."""
    gaps = verdict.gaps(a, b)
    if not gaps:
        return "not compared with"
    if verdict.ahead(b, a):
        return "in no layer better than"
    if all(is_few(one.row, study.decision.margin) for one in gaps):
        return "asked too few questions to be told from"
    return "not distinguishable from"


def _best(verdict: Verdict, a: str, b: str) -> str:
    """Return where a is clearly better than b, with the surest difference."""
    first, *rest = verdict.ahead(a, b)
    also = [verdict.where(one.criterion) for one in rest]
    return f"{verdict.where(first.criterion)} by {gap(first.row, signed=False)}" + (
        f", and in {listed(also)}" if also else ""
    )


def _wanted(verdict: Verdict, study: Study) -> str:
    """Return what the design can find and how many questions it would take."""
    margin = study.decision.margin
    wanted = []
    for criterion in verdict.criteria:
        over = len(verdict.pairs(criterion)) * verdict.corrected
        for pair in combinations(verdict.left, 2):
            row = verdict.differences.get((criterion, *pair))
            if row is not None and is_few(row, margin):
                need = needed(row, margin, over)
                if need is not None:
                    wanted.append((need, criterion, row, over))
    if not wanted:
        return "How small a difference these questions can show is not known."
    need, criterion, row, over = max(wanted, key=lambda one: one[0])
    found = "none, however large,"
    if row.detectable_adjusted is not None and row.detectable_adjusted < 1:
        found = f"none below {_points(row.detectable_adjusted)}"
    alone = apart([row])
    what = "questions" if alone else "documents"
    takes = f"{_rounded(need.questions):,} questions"
    if not alone:
        takes += f" from {_rounded(need.clusters):,} documents"
    told = f"With {what} like these it takes about {takes}."
    if row.clusters < TOLD_FROM:
        told = f"How many it takes cannot be told from so few {what}."
    corrected = f", corrected for {over:,} comparisons" if over > 1 else ""
    return (
        f"A difference of {_points(margin)} would matter to you (decision.margin), but "
        f"{_counted(row)} can show {found} in {verdict.where(criterion)}{corrected}. {told}"
    )


def _rounded(count: int) -> int:
    """Return a number rounded up to two digits."""
    step = 10 ** max(0, floor(log10(max(count, 1))) - 1)
    return int(ceil(count / step) * step)


def _counted(row: Estimate) -> str:
    """Return the numbers of questions and documents that a row rests on."""
    questions = f"{row.questions:,} question{'' if row.questions == 1 else 's'}"
    if apart([row]):
        return questions
    return f"{questions} from {row.clusters:,} document{'' if row.clusters == 1 else 's'}"


def _points(share: float) -> str:
    return f"{100 * share:.2g} points" if share < 0.995 else f"{100 * share:.0f} points"


def _sure(verdict: Verdict, study: Study, ranked: Sequence[Standing]) -> Iterable[str]:
    """Return a sentence a criterion, then the chance of coming first over all layers."""
    for criterion in verdict.criteria:
        means = {arm: row for (c, arm), row in verdict.means.items() if c == criterion}
        own = sorted(
            (arm for arm in verdict.left if arm in means),
            key=lambda arm: (-(means[arm].value or 0), arm),
        )
        if not own:
            continue
        first = own[0]
        row = means[first]
        head = verdict.where(criterion)
        text = f"{head[0].upper()}{head[1:]} ({_counted(row)}): {first} {measured(row)}"
        rivals = own[1:] or [arm for arm in verdict.candidates if arm in means and arm != first]
        if rivals:
            rival = (
                max(rivals, key=lambda arm: means[arm].value or 0) if len(own) == 1 else rivals[-1]
            )
            text += "; " + _reading(verdict, study, criterion, first, rival)
        yield f"{text}."
    chances = _chances(verdict, ranked)
    if chances:
        drawn = "questions" if apart(verdict.means.values()) else "documents"
        wording = "" if verdict.systems else ", wording included,"
        yield (
            f"First in the overall ranking{wording} in so many of the draws of other {drawn}: "
            f"{chances}."
        )


def _chances(verdict: Verdict, ranked: Sequence[Standing]) -> str:
    """Return in which share of the draws each arm comes first; those that never do only if left."""
    shares = [
        (row.arm if row.arm in verdict.candidates else f"{row.arm} (no candidate)", row.p_first)
        for row in ranked
        if row.p_first is not None and (row.p_first >= 0.005 or row.arm in verdict.left)
    ]
    return _shares(sorted(shares, key=lambda one: -one[1]))


def _shares(shares: Sequence[tuple[str, float]]) -> str:
    """Return arms with their shares, the largest first; the last ones are counted."""
    told = [f"{arm} {100 * share:.0f} %" for arm, share in shares[:SHOWN]]
    rest = len(shares) - len(told)
    if not told:
        return ""
    return listed([*told, f"{rest} other{'s' if rest > 1 else ''} the rest"] if rest else told)


def _ranked(
    verdict: Verdict, standings: Sequence[Standing], questions: Sequence[Question]
) -> list[Standing]:
    """Return the overall ranking, if there is one that rests on just the criteria's subsets."""
    on = {criterion.subset for criterion in verdict.criteria}
    pooled = {row.subset for row in standings if row.subset.endswith(UNSEEN)} - tags_of(questions)
    if len(on) > 1 and on != pooled:
        return []
    subset = on.pop() if len(on) == 1 else POOLED
    return [row for row in standings if row.subset == subset]


def _reading(verdict: Verdict, study: Study, criterion: Criterion, a: str, b: str) -> str:
    """Return how a compares with b on a criterion."""
    row = verdict.differences.get((criterion, a, b))
    if row is None:
        return f"the difference from {b} was not tested"
    if verdict.is_clear(row):
        word = "better" if (row.value or 0) > 0 else "worse"
        return f"clearly {word} than {b}, {gap(row)}"
    # The interval is that of one comparison, and may leave out 0 where p does not stand.
    after = " after correction" if row.p is not None and row.p < SIGNIFICANT else ""
    words = "too few questions to tell" if is_few(row, study.decision.margin) else ALIKE
    return f"{words} from {b}{after}, {gap(row)}"


def _change(
    verdict: Verdict,
    study: Study,
    estimates: Sequence[Estimate],
    ranked: Sequence[Standing],
    questions: Sequence[Question],
    scores: Sequence[Score],
    spent: Sequence[Cost],
) -> Iterable[str]:
    """Return what would change the verdict."""
    left = verdict.left
    outside = [arm for arm in verdict.arms if arm not in verdict.candidates]
    near = left if len(left) <= SHOWN else ()
    for other in outside:
        for arm in near:
            if verdict.rules_out(other, arm):
                yield (
                    f"{other} is clearly better than {arm} in {_best(verdict, other, arm)}, but is "
                    "no candidate."
                )
    yield from _hints(verdict)
    yield from _weights(verdict, ranked)
    yield from _reversed(verdict, study, estimates, questions, scores)
    yield from _cheaper(verdict, spent)
    layers = {criterion.layer for criterion in verdict.criteria}
    if "similarity" in layers:
        yield (
            "Open answers were read by no judge and no expert: similarity to the reference stands "
            "in for both, and what is near in topic can still be wrong."
        )
    elif "human" not in layers:
        yield "Experts: none has rated these answers, and they may see it otherwise."
    elif "judge" not in layers and not verdict.systems:
        yield "A judge: none has read these answers."
    if "choice" not in layers and not verdict.systems:
        yield "Multiple choice: none was asked on these documents."


def _hints(verdict: Verdict) -> Iterable[str]:
    """Return the differences that stand in their own table, but not over all that is chosen by."""
    hints = [hint for arm in verdict.left for hint in _above(verdict, arm)]
    if hints:
        over = f"{verdict.corrected} criteria" if verdict.corrected > 1 else ""
        if len(verdict.own) < len(verdict.differences):
            over = f"all pairs of arms{' and ' if over else ''}{over}"
        yield f"More questions: by itself {named(hints, 2)}, but not after correction for {over}."


def _above(verdict: Verdict, arm: str) -> list[str]:
    """Return what is above an arm in the table of differences, but not clearly better here."""
    return [
        f"{other} is above {arm} in {verdict.where(one.criterion)} "
        f"(p {p_value(one.row.p_adjusted)})"
        for other in verdict.left
        for one in verdict.hinted(other, arm)
    ]


def _weights(verdict: Verdict, standings: Sequence[Standing]) -> Iterable[str]:
    """Return how the smallest mean of ranks hangs on the weights of the layers."""
    from ecg_llm.stats.ranking import weightings

    ranked = [row for row in standings if row.arm in verdict.candidates]
    found = weightings(ranked)
    if len(ranked) < 2 or len(found.layers) < 2 or len(set(found.shares.values())) == 1:
        return  # tied throughout
    shares = [(arm, share) for arm, share in found.shares.items() if share >= 0.005]
    first = shares[0][0]
    similar = any(criterion.layer == "similarity" for criterion in verdict.criteria)
    names = {**LAYERS, "judge": "similarity to the reference"} if similar else LAYERS
    turns = [
        f"{one.arm} alone has it once {names[layer]} weighs {100 * one.weight:.0f} % or more"
        for layer, one in found.decisive.items()
        if one.arm != first
    ]
    layers = listed([names[layer] for layer in found.layers])
    if len(shares) == 1:
        yield f"Other weights of {layers} change nothing: {first} always has the best mean rank."
        return
    yield (
        f"Other weights of {layers}: in so many of "
        f"{found.tried} weightings an arm has the best mean rank: {_shares(shares)}"
        + (f"; {named(turns, 2)}" if turns else "")
        + "."
    )


def _reversed(
    verdict: Verdict,
    study: Study,
    estimates: Sequence[Estimate],
    questions: Sequence[Question],
    scores: Sequence[Score],
) -> Iterable[str]:
    """Return which candidate would be ahead on documents used in training."""
    if not verdict.unseen or verdict.systems:
        return
    seen = judged(study, estimates, questions, scores, seen=True)
    if seen is None:
        return
    for arm in verdict.left if len(verdict.left) <= SHOWN else ():
        for other in seen.candidates:
            if seen.rules_out(other, arm):
                yield (
                    f"On documents used in training {other} is clearly better than {arm} in "
                    f"{_best(seen, other, arm)}: which to take if it is to know those alone is "
                    "another question."
                )
                break


def _cheaper(verdict: Verdict, spent: Sequence[Cost]) -> Iterable[str]:
    """Return the candidate that is ruled out but costs half as much or less."""
    if verdict.kind != "deploy":
        return
    money = {row.arm: row.money for row in spent if row.arm in verdict.candidates}
    own = money.get(verdict.left[0])
    cheap = [
        (value, arm)
        for arm, value in money.items()
        if arm not in verdict.left and value is not None and own is not None and value <= own / 2
    ]
    if cheap and own is not None:
        value, arm = min(cheap)
        yield (
            f"The price: 1,000 answers of {verdict.left[0]} cost {figure(own)}, of {arm} "
            f"{figure(value)}."
        )


def _standing(verdict: Verdict, study: Study) -> CountTable:
    """Return every arm with its values on the criteria and what became of it."""
    rows: list[tuple[str | int | Cell, ...]] = []
    for arm in verdict.arms:
        if arm not in verdict.candidates:
            fate = "no candidate"
        elif arm in verdict.left:
            fate = "left"
        else:
            fate = f"ruled out by {named(verdict.ruled_out_by(arm), 2)}"
        cells = []
        for criterion in verdict.criteria:
            mean = verdict.means.get((criterion, arm))
            cells.append(
                Cell() if mean is None else Cell(number(mean.value, mean.metric), interval(mean))
            )
        rows.append((arm, fate, *cells))
    heads = []
    for criterion in verdict.criteria:
        head = verdict.where(criterion)
        percent = ", %" if METRICS[criterion.metric].binary else ""
        heads.append(f"{head[0].upper()}{head[1:]}{percent}")
    return CountTable("The arms by this rule", ("Arm", "Verdict", *heads), tuple(rows), 2)


def _rule(verdict: Verdict) -> str:
    where = "the questions there are"
    if verdict.unseen and not verdict.systems:
        where = "documents left out of training"
    count = verdict.corrected
    over = f" and over {count} criteria (Bonferroni)" if count > 1 else ""
    return (
        f"On {where}, each layer decides by its first metric; wording alone never does. An arm is "
        "clearly better where the paired difference stands after correction over the pairs of "
        f"arms (Holm){over}, at 5 %. A candidate is ruled out if another one is clearly better "
        "somewhere and it is clearly better than that one nowhere."
    )
