"""How judges graded, how far they agree, and what else than content sways them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ecg_llm.contracts import EMPTY
from ecg_llm.records import GRADES, MEASURES, Answer, Judgement, Question, Reliability, Score
from ecg_llm.report.blame_tables import count
from ecg_llm.report.counts import CountTable, Part, folded
from ecg_llm.report.figures import Panel, Stack, interval_plot, stacked_plot
from ecg_llm.report.measures import (
    TRUST,
    Figure,
    Group,
    by_instrument,
    cell,
    clear,
    ends,
    limits,
    named,
    notes,
    point,
    quoted,
    shown,
    unbounded,
)
from ecg_llm.report.results import Cell, ordered
from ecg_llm.score.asking import UNREAD, unshown

NO_ANSWER, NOT_JUDGED = "no answer", "not judged"
VERDICTS = (*reversed(tuple(GRADES)), NO_ANSWER, NOT_JUDGED)
HARMS = ("none", "possible", "severe", "not stated")
AGREEMENT = ("agreement", "kappa", "alpha", "kendall")
SWAY = (
    "slot_effect", "slot_rank", "swap_consistency", "length_effect", "length_slope", "unparsed",
    "asked_again",
)  # fmt: skip
"""What is told of a judge, in this order."""
GRADED = ("verdict", "harm", "ranking")
"""What judges are compared on, in this order."""
MISSING = {
    "verdict": "its verdicts are missing from these means",
    "ranking": "its rankings are missing from these strengths",
}
"""What replies that say nothing leave out, by what a judge is asked for."""
DOUBTFUL = 0.05
"""Share of replies above which a reader is warned that they say nothing."""
CUSTOMARY = (0.667, 0.8)
"""Krippendorff's alpha that is asked for: for tentative conclusions, and for others."""


def verdicts(questions: Sequence[Question], scores: Sequence[Score], arms: Sequence[str]) -> Group:
    """Return how the verdicts fall, and the harm that judges fear, by subset."""
    subsets_of = {row.question_id: row.subsets for row in questions}
    grades: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    harms: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for score in scores:
        if score.metric not in ("verdict", "harm") or score.status == "not_applicable":
            continue
        for subset in subsets_of.get(score.question_id, ()):
            if score.metric == "verdict":
                grades[subset][score.arm][_grade(score)] += 1
            elif score.label in HARMS:
                harms[subset][score.arm][score.label] += 1
    sentences, figures, tables = [], [], []
    for subset in sorted(grades):
        names = ordered(set(grades[subset]), arms)
        stacks = [Stack(arm, [grades[subset][arm][grade] for grade in VERDICTS]) for arm in names]
        described = f"Verdicts on {subset}: shares of each grade by arm"
        figures.append(
            Figure(
                stacked_plot(stacks, VERDICTS, described),
                f"{subset}. Verdicts in percent; beside the bars their number.",
            )
        )
        tables.append(_verdict_table(subset, names, grades[subset], harms.get(subset, {})))
        sentences += _harm_sentence(subset, harms.get(subset, {}))
    note = (
        "No answer: it failed or was refused, and counts as 0. Not judged: the judge's reply is "
        "missing or could not be read; left out of the means. Harm is that of the verdicts read."
    )
    parts = folded(tables, "Numbers of verdicts and of harm feared", note)
    return Group("Verdicts and harm", sentences, figures, parts)


def _grade(score: Score) -> str:
    """Return the part of a bar that a verdict belongs to."""
    if score.status == "scored":
        return score.label
    return NOT_JUDGED if score.status == "unjudged" else NO_ANSWER


def _verdict_table(
    subset: str,
    arms: Sequence[str],
    grades: Mapping[str, Counter[str]],
    harms: Mapping[str, Counter[str]],
) -> CountTable:
    heads = [f"Harm {HARMS[0]}", *HARMS[1:]] if harms else []
    rows: tuple[tuple[str | int, ...], ...] = tuple(
        (
            arm, sum(grades[arm].values()), *(grades[arm][grade] for grade in VERDICTS),
            *(harms.get(arm, Counter())[harm] for harm in HARMS if harms),
        )
        for arm in arms
    )  # fmt: skip
    header = ("Arm", "Verdicts", *VERDICTS, *heads)
    return CountTable(
        f"Verdicts on {subset}", tuple(name[0].upper() + name[1:] for name in header), rows
    )


def _harm_sentence(subset: str, harms: Mapping[str, Counter[str]]) -> list[str]:
    every: Counter[str] = sum(harms.values(), Counter())
    if not every:
        return []
    return [
        f"{subset}: of {count(every.total(), 'verdict')} read, {every['severe']:,} fear severe and "
        f"{every['possible']:,} possible harm to a patient; {every['none']:,} fear none and "
        f"{every['not stated']:,} do not say."
    ]


def panel(
    judges: Sequence[str],
    judgements: Sequence[Judgement],
    answers: Sequence[Answer],
    rows: Sequence[Reliability],
) -> Group:
    """Return who judged, how far the judges agree, and what else than content sways them."""
    sway = [row for row in rows if row.measure not in AGREEMENT]
    figure = _slot_figure(sway, judges)
    sentences = [*_agreement_sentences(rows, judges), *_sway_sentences(sway, judges)]
    parts = [*_judges(judges, judgements, answers), *_agreement(rows), *_sway(sway, judges)]
    return Group(TRUST, sentences, [figure] if figure else [], parts)


class Requests(NamedTuple):
    """What came of a judge's requests."""

    sent: int
    read: int
    unread: int
    failed: int
    again: int
    """Asked a second time."""


def requests(rows: Sequence[Judgement]) -> Requests:
    """Return what came of these requests; an empty reply is unread, and a refusal has failed."""
    # A row without a prompt stands for what there was no need to send.
    sent = [row for row in rows if row.prompt_sha]
    amiss = [row for row in sent if row.reason or row.status in UNREAD]
    failed = sum(row.status in UNREAD and row.reason != EMPTY for row in amiss)
    again = sum(bool(row.former) for row in sent)
    return Requests(len(sent), len(sent) - len(amiss), len(amiss) - failed, failed, again)


def doubts(judgements: Sequence[Judgement]) -> list[str]:
    """Return in a sentence each what is missing of judges that often gave nothing to read."""
    told = []
    for judge in sorted({row.judge for row in judgements}):
        for mode, missing in MISSING.items():
            asked = requests([r for r in judgements if (r.judge, r.mode) == (judge, mode)])
            lost = asked.unread + asked.failed
            if lost > DOUBTFUL * asked.sent:
                told.append(
                    f"Judge {quoted(judge)}: {lost:,} of {asked.sent:,} {mode} replies could not "
                    f"be read or failed; {missing}."
                )
    return told


def _judges(
    judges: Sequence[str], judgements: Sequence[Judgement], answers: Sequence[Answer]
) -> list[Part]:
    slots = {(row.question_id, arm, row.repeat) for row in judgements for arm in row.order}
    silent = {
        key
        for row in answers
        if (key := (row.question_id, row.arm, row.repeat)) in slots and unshown(row) is not None
    }
    lines: list[tuple[str | int | Cell, ...]] = []
    for judge in judges:
        for mode in ("verdict", "ranking"):
            own = [row for row in judgements if (row.judge, row.mode) == (judge, mode)]
            if own:
                models = sorted({row.model for row in own} - {""})
                hidden = silent & {
                    (row.question_id, arm, row.repeat) for row in own for arm in row.order
                }
                asked = requests(own)
                lines.append(
                    (
                        judge, ", ".join(models) or "–", mode, *asked, len(own) - asked.sent,
                        len(hidden),
                    )
                )  # fmt: skip
    header = (
        "Judge", "Model", "Asked for", "Requests", "Read", "Unread", "Failed", "Asked again",
        "Not sent", "Answers not shown",
    )  # fmt: skip
    note = (
        "A reply that is empty or could not be read was asked for once more. Failed: the request "
        "did, or the judge refused. Answers that failed, were refused or are empty are not shown "
        "to a judge; a verdict on one, or a ranking with fewer than two others, is not sent."
    )
    return [Part(CountTable("Judges", header, tuple(lines), 3, note))] if lines else []


def _agreement_sentences(rows: Sequence[Reliability], judges: Sequence[str]) -> list[str]:
    told = []
    for row in rows:
        if row.measure == "alpha" and row.value is not None:
            panel = row.instrument == "panel"
            who = f"the panel of {len(judges)} judges" if panel else quoted(row.instrument)
            ends = f"95 % interval {limits(row)}; " if row.low is not None else ""
            told.append(
                f"{named(row)}, of {who} is {shown(row.value, row.measure)} ({ends}"
                f"{count(row.items, 'answer')})."
            )
    if told:
        tentative, usual = CUSTOMARY
        told[-1] += (
            f" It is customary to ask for {usual:g}, and for {tentative:g} where conclusions are "
            "tentative."
        )
    if len(judges) == 1:
        told.append(
            f"{quoted(judges[0])} is the only judge, so nothing can be said about agreement "
            "between judges."
        )
    return told


def _agreement(rows: Sequence[Reliability]) -> list[Part]:
    found = sorted(
        (row for row in rows if row.measure in AGREEMENT),
        key=lambda row: (_place(row.detail, GRADED), _place(row.measure, AGREEMENT), row.key),
    )
    lines = tuple((named(row), row.instrument, cell(row), row.items, row.clusters) for row in found)
    header = ("Measure", "Judges", "Value", "Items", "Documents")
    note = f"{notes(found, _of_both)} {unbounded(found)}".strip()
    table = CountTable("Agreement", header, lines, 2, note)
    return [Part(table, "Agreement between judges")] if lines else []


def _of_both(row: Reliability) -> str:
    return f"{named(row)} of {row.instrument}"


def _sway_sentences(rows: Sequence[Reliability], judges: Sequence[str]) -> list[str]:
    """Return what the intervals show about slot and length, and what they leave open."""
    told = (
        _sway_sentence(judge, row)
        for judge in ordered({row.instrument for row in rows}, judges)
        for row in rows
        if row.instrument == judge
    )
    return [words for words in told if words]


def _sway_sentence(judge: str, row: Reliability) -> str:
    """Return in words what a measure says of a judge; empty where nothing is to be said."""
    if row.value is None or row.low is None or row.expected is None:
        return ""
    judge, value = quoted(judge), shown(row.value, row.measure)
    interval = f"(95 % interval {limits(row)}; n = {row.items:,})"
    more = row.value > row.expected
    if row.measure == "swap_consistency":
        return (
            f"Shown in the other order, {judge} placed {value} % of pairs alike {interval}; shown "
            f"in the same order again, {shown(row.expected, row.measure)} %."
        )
    if row.measure == "slot_effect":
        size = f"log-odds a slot {value} {interval}"
        if not clear(row):
            return (
                f"{judge} shows no clear effect of the slot: {size}. An effect inside the interval "
                "cannot be excluded."
            )
        where = "higher" if more else "lower"
        return f"{judge} places answers {where} the further down they are shown: {size}."
    if row.measure in ("length_effect", "length_slope"):
        of = "log-odds" if row.measure == "length_effect" else "change of the verdict"
        size = f"{of} for twice the words {value} {interval}"
        if not clear(row):
            return f"{judge} shows no clear effect of length: {size}."
        return (
            f"{judge} favours {'longer' if more else 'shorter'} answers: {size}. This need not be "
            "bias: length may go with content."
        )
    return ""


def _slot_figure(rows: Sequence[Reliability], judges: Sequence[str]) -> Figure | None:
    by_judge = by_instrument(r for r in rows if r.measure == "slot_rank" and r.value is not None)
    if not by_judge:
        return None
    every = [row for own in by_judge.values() for row in own]
    slots = sorted({row.detail for row in every}, key=lambda slot: (len(slot), slot))
    panels = []
    for judge in ordered(set(by_judge), judges):
        of_slot = {row.detail: row for row in by_judge[judge]}
        expected = [row.expected for row in by_judge[judge] if row.expected is not None]
        points = [point(f"slot {slot}", of_slot.get(slot)) for slot in slots]
        panels.append(
            Panel(judge, points, ends(every), reference=expected[0] if expected else None)
        )
    return Figure(
        interval_plot(panels, f"{MEASURES['slot_rank']}, by judge, with 95 % intervals"),
        f"{MEASURES['slot_rank']}; 1 is best. Dashed: no bias. Filled: its interval leaves that "
        "out.",
    )


def _sway(rows: Sequence[Reliability], judges: Sequence[str]) -> list[Part]:
    """Return every measure of what sways a judge, a table a judge."""
    made = []
    for judge in ordered({row.instrument for row in rows}, judges):
        own = sorted(
            (row for row in rows if row.instrument == judge),
            key=lambda row: (_place(row.measure, SWAY), row.measure, len(row.detail), row.detail),
        )
        lines = tuple(
            (
                named(row), cell(row), shown(row.expected, row.measure).lstrip("+"),
                row.items, row.clusters,
            )
            for row in own
        )  # fmt: skip
        header = ("Measure", "Value", "Without bias", "Items", "Documents")
        note = f"{notes(own, named)} {unbounded(own)}".strip()
        table = CountTable(f"What sways {quoted(judge)}", header, lines, 1, note)
        made.append(Part(table, "What sways the judges"))
    return made


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
