"""What adapters forgot of questions outside the corpus: figures with intervals, and in words."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ecg_llm.records import Estimate, Question, QuestionKind, Retention, Score
from ecg_llm.report.results import SIGNIFICANT, interval, number, p_value
from ecg_llm.stats.estimate import estimates
from ecg_llm.stats.significance import holm

METRIC: Mapping[QuestionKind, str] = {
    "choice": "accuracy_likelihood",
    "open": "reference_likelihood",
}
"""Metric of the product that a row's before and after are."""
KIND: Mapping[QuestionKind, str] = {"choice": "multiple-choice", "open": "open"}


class Forgotten(NamedTuple):
    """One adapter on one kind of questions of one set outside the corpus, before and after."""

    adapter: str
    set: str
    kind: QuestionKind
    questions: int
    """Scored before and after."""
    left_out: int
    """That could not be scored."""
    before: float | None
    after: float | None
    difference: Estimate | None
    """after - before; p by exact McNemar (choice) or random signs (open), and Holm's over all."""
    lost: int
    """Choice questions that were right before and are wrong after."""
    gained: int

    @property
    def clear(self) -> bool:
        """Whether the difference is distinguishable from none."""
        row = self.difference
        return bool(row and row.p_adjusted is not None and row.p_adjusted < SIGNIFICANT)


class ForgottenRow(NamedTuple):
    """The same as printed."""

    adapter: str
    set: str
    kind: str
    questions: str
    left_out: str
    before: str
    after: str
    difference: str
    interval: str
    lost: str
    gained: str
    p: str
    p_adjusted: str
    verdict: str


def forgetting(
    rows: Sequence[Retention], questions: Sequence[Question], resamples: int, seed: int
) -> list[Forgotten]:
    """Return what each adapter lost or gained on each set and kind, sorted.

    Holm's correction runs over all that is returned; questions of one group are one cluster.
    """
    cluster_of = {row.question_id: row.group for row in questions if row.group}
    made = []
    for adapter, name, kind in sorted({(row.adapter, row.set, row.kind) for row in rows}):
        here = [row for row in rows if (row.adapter, row.set, row.kind) == (adapter, name, kind)]
        scored = [row for row in here if row.before is not None and row.after is not None]
        scores = [
            Score(question_id=row.question_id, arm=arm, metric=METRIC[kind], value=value)
            for row in scored
            for arm, value in (("before", row.before), ("after", row.after))
        ]
        found = {
            (row.arm, row.against): row
            for row in estimates(
                scores, {row.question_id: (name,) for row in scored}, cluster_of,
                [("after", "before")], resamples, seed,
            )
        }  # fmt: skip
        before, after = (found.get((arm, "")) for arm in ("before", "after"))
        changes = [(row.after or 0.0) - (row.before or 0.0) for row in scored]
        made.append(
            Forgotten(
                adapter, name, kind, len(scored), len(here) - len(scored),
                before.value if before else None, after.value if after else None,
                found.get(("after", "before")),
                sum(change < 0 for change in changes) if kind == "choice" else 0,
                sum(change > 0 for change in changes) if kind == "choice" else 0,
            )
        )  # fmt: skip
    adjusted = holm([found.difference.p if found.difference else None for found in made])
    return [
        found._replace(
            difference=found.difference and found.difference.model_copy(update={"p_adjusted": p})
        )
        for found, p in zip(made, adjusted, strict=True)
    ]


def shown(found: Forgotten) -> ForgottenRow:
    """Return the figures as printed."""
    metric, row, choice = METRIC[found.kind], found.difference, found.kind == "choice"
    unit = " %" if choice else ""
    return ForgottenRow(
        found.adapter, found.set, KIND[found.kind], f"{found.questions:,}",
        f"{found.left_out:,}" if found.left_out else "",
        number(found.before, metric) + (unit if found.before is not None else ""),
        number(found.after, metric) + (unit if found.after is not None else ""),
        number(row.value, metric, signed=True) if row else "–",
        interval(row, signed=True) if row else "",
        f"{found.lost:,}" if choice else "–", f"{found.gained:,}" if choice else "–",
        p_value(row.p if row else None), p_value(row.p_adjusted if row else None),
        _verdict(found),
    )  # fmt: skip


def sentence(found: Forgotten, base: str) -> str:
    """Return in plain words what was forgotten; `base` is the model's name."""
    row = found.difference
    if row is None or row.value is None:
        return (
            f"None of the {found.left_out:,} {KIND[found.kind]} questions of {found.set} could be "
            f"scored with {found.adapter}."
        )
    verdict = _verdict(found)
    ending = "" if verdict == "not tested" else f": {'' if found.clear else 'not '}distinguishable"
    metric = METRIC[found.kind]
    limits = f" (95 % interval {interval(row, signed=True)})" if row.low is not None else ""
    if found.kind == "open":
        if number(row.value, metric).strip("−0.") == "":
            change = "as high as"
        else:
            change = (
                f"{number(abs(row.value), metric)} {'lower' if row.value < 0 else 'higher'} than"
            )
        return (
            f"To the reference answers of {found.questions:,} open questions of {found.set}, "
            f"{found.adapter} gives a log-likelihood per token that is {change} that of {base}"
            f"{limits}{ending}."
        )
    more = found.gained - found.lost
    count = f"{abs(more):,} {'fewer' if more < 0 else 'more'}" if more else "as many"
    return (
        f"{found.adapter} answers {count} of {found.questions:,} multiple-choice questions of "
        f"{found.set} right {'than' if more else 'as'} {base}, "
        f"{found.lost:,} lost and {found.gained:,} gained{ending}."
    )


def _verdict(found: Forgotten) -> str:
    row = found.difference
    if row is None or row.value is None or row.p_adjusted is None:
        return "not tested"
    if not found.clear:
        return "not distinguishable"
    return "forgot" if row.value < 0 else "gained"
