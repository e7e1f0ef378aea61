"""Which arm to deploy, by a rule over the differences that stand after correction.

The criteria are the layers that can decide, each by its first measured metric, on every set of
documents left out of training (or, where there is none, on what there is). Wording alone never
decides; similarity to the reference does only where neither judge nor expert has read an answer.
y is clearly better than x on a criterion if Holm's p within that metric and subset stays below 5 %
after it is multiplied by the number of criteria (Bonferroni): a verdict looks at all of them at
once. Each criterion has one family: the declared comparisons if they hold every pair of candidates,
else all pairs of arms, declared ones too. A candidate is ruled out if some candidate is clearly
better on a criterion and it is clearly better than that one on none.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

from ecg_llm.config import Study
from ecg_llm.records import Estimate, Question, Score
from ecg_llm.report.results import SIGNIFICANT, is_clear, is_few, ordered, turned
from ecg_llm.stats.estimate import differences
from ecg_llm.stats.power import SIGNS, design_of, smallest
from ecg_llm.stats.resampling import EXACT_CLUSTERS

DECIDING: Mapping[str, tuple[str, ...]] = {
    "choice": ("accuracy", "accuracy_likelihood"),
    "judge": ("verdict", "ranking"),
    "human": ("human",),
}
"""Layer -> its metrics, the first that is measured on a subset being used."""
STAND_IN: Mapping[str, tuple[str, ...]] = {"similarity": ("reference_similarity",)}
"""For judge and experts, where there are neither."""
PLACES: Mapping[str, str] = {
    "accuracy": "multiple choice",
    "accuracy_likelihood": "multiple choice by likelihood",
    "verdict": "the judges' verdict",
    "ranking": "the judges' rankings",
    "human": "the experts' ratings",
    "reference_similarity": "similarity to the reference (no judge)",
}
"""Deciding metrics as a sentence names them."""
UNSEEN = ("/test", "/rated")

Kind = Literal["deploy", "equal", "few", "trade_off", "untested", "alone", "unmeasured"]


class Criterion(NamedTuple):
    """One layer on one subset, with the metric that decides it."""

    layer: str
    metric: str
    subset: str


class Gap(NamedTuple):
    """A paired difference on a criterion, seen from the first of two arms."""

    criterion: Criterion
    row: Estimate


class Verdict(NamedTuple):
    """What the rule makes of a study."""

    kind: Kind
    criteria: tuple[Criterion, ...]
    unseen: bool
    """Whether the criteria are of documents left out of training."""
    systems: bool
    """The candidates are systems that people rated, not arms of the study."""
    candidates: tuple[str, ...]
    """Those that were measured on some criterion."""
    unmeasured: tuple[str, ...]
    """Candidates of study.yaml that were not."""
    left: tuple[str, ...]
    """Candidates that are not ruled out."""
    means: Mapping[tuple[Criterion, str], Estimate]
    """Of every arm, candidate or not."""
    differences: Mapping[tuple[Criterion, str, str], Estimate]
    """Tested pairs of arms, both ways round; what they can detect is at `level`."""
    own: Mapping[tuple[Criterion, str, str], Estimate]
    """The same pairs as the study's estimates have them, corrected as declared."""
    corrected: int
    """Number of criteria that are corrected for, 1 at least."""

    @property
    def level(self) -> float:
        """What p_adjusted must stay below: 5 % over the number of criteria."""
        return SIGNIFICANT / self.corrected

    @property
    def arms(self) -> list[str]:
        """All arms that were measured, candidates first."""
        return ordered({arm for _, arm in self.means}, self.candidates)

    def where(self, criterion: Criterion) -> str:
        """Return a criterion in words, with its subset where there are several of its layer."""
        alone = sum(other.layer == criterion.layer for other in self.criteria) == 1
        place = PLACES[criterion.metric]
        return place if alone else f"{place} on {criterion.subset}"

    def gaps(self, a: str, b: str) -> list[Gap]:
        """Return a - b on every criterion on which the two were compared."""
        pairs = ((c, self.differences.get((c, a, b))) for c in self.criteria)
        return [Gap(c, row) for c, row in pairs if row is not None]

    def ahead(self, a: str, b: str) -> list[Gap]:
        """Return the criteria on which a is clearly better than b, the surest first."""
        clear = [gap for gap in self.gaps(a, b) if self.is_clear(gap.row) and _value(gap.row) > 0]
        return sorted(clear, key=lambda gap: (gap.row.p_adjusted or 0.0, -_value(gap.row)))

    def is_clear(self, row: Estimate) -> bool:
        """Whether a difference stands after correction over arms and criteria."""
        return row.p_adjusted is not None and row.p_adjusted < self.level

    def hinted(self, a: str, b: str) -> list[Gap]:
        """Return where a is above b by the study's estimates, but not clearly better here."""
        rows = [Gap(c, row) for c in self.criteria if (row := self.own.get((c, a, b))) is not None]
        clear = {one.criterion for one in self.ahead(a, b)}
        return [
            one
            for one in rows
            if is_clear(one.row) and _value(one.row) > 0 and one.criterion not in clear
        ]

    def pairs(self, criterion: Criterion) -> list[Estimate]:
        """Return the differences that are corrected together, each pair once."""
        return [row for (c, a, b), row in self.differences.items() if c == criterion and a < b]

    def out_of_reach(self, resamples: int) -> list[Gap]:
        """Return the criteria on which no difference can stand, with the best placed pair of each.

        That is where the smallest p that its test can give, once corrected, is too large: signs of
        k clusters give no less than 2^(1-k), and random ones no less than 1 in all their draws.
        """
        found = []
        for criterion in self.criteria:
            rows = [row for row in self.pairs(criterion) if row.test in SIGNS]
            if not rows or len(rows) < len(self.pairs(criterion)):
                continue
            row = max(rows, key=lambda row: row.clusters)
            if len(rows) * smallest_p(row, resamples) >= self.level:
                found.append(Gap(criterion, row))
        return found

    def rules_out(self, a: str, b: str) -> bool:
        """Whether b cannot be deployed because of a."""
        return bool(self.ahead(a, b)) and not self.ahead(b, a)

    def ruled_out_by(self, arm: str) -> list[str]:
        """Return the candidates because of which this arm cannot be deployed."""
        return [other for other in self.candidates if self.rules_out(other, arm)]


def judged(
    study: Study,
    estimates: Sequence[Estimate],
    questions: Sequence[Question] = (),
    scores: Sequence[Score] = (),
    seen: bool = False,
) -> Verdict | None:
    """Return the verdict; None where no arm has a value that could decide.

    Args:
        study: its candidates, declared comparisons and smallest difference that matters.
        estimates: of all metrics and subsets.
        questions: tell sets apart from tags, which are counted once, and cluster the scores.
        scores: give the family of all pairs, where not all were declared; without them only
            declared ones are compared.
        seen: decide by documents used in training instead.
    """
    arms = set(study.arms)
    means = [row for row in estimates if not row.against and row.value is not None]
    by_arms = [row for row in means if row.arm in arms]
    systems = not criteria_of(by_arms, questions, seen)[0]
    criteria, unseen = criteria_of(means if systems else by_arms, questions, seen)
    if not criteria:
        return None
    of = {(c.metric, c.subset): c for c in criteria}
    known = {
        (of[row.metric, row.subset], row.arm): row
        for row in means
        if (row.metric, row.subset) in of
    }
    measured = ordered({arm for _, arm in known}, list(study.arms))
    wanted = list(study.decision.candidates) or (measured if systems else list(study.arms))
    candidates = tuple(arm for arm in measured if arm in wanted)
    # Values of one document are never tested, and take nothing of the level.
    tested = {c: [arm for arm in candidates if (c, arm) in known] for c in criteria}
    compared = [
        c for c, there in tested.items() if sum(known[c, arm].clusters > 1 for arm in there) > 1
    ]
    corrected = max(1, len(compared))
    own = [row for row in estimates if row.against and (row.metric, row.subset) in of]
    rows = own
    compared_by = {(of[row.metric, row.subset], *sorted((row.arm, row.against))) for row in own}
    if any(
        (c, *sorted(pair)) not in compared_by
        for c, there in tested.items()
        for pair in combinations(there, 2)
    ):
        rows = _all_pairs(study, of, questions, scores)
        found_for = {(row.metric, row.subset) for row in rows}
        rows += [row for row in own if (row.metric, row.subset) not in found_for]
    found = Verdict(
        kind="unmeasured",
        criteria=tuple(criteria),
        unseen=unseen,
        systems=systems,
        candidates=candidates,
        unmeasured=tuple(arm for arm in wanted if arm not in candidates),
        left=candidates,
        means=known,
        differences=_both_ways(_at(rows, SIGNIFICANT / corrected), of),
        own=_both_ways(own, of),
        corrected=corrected,
    )
    left = tuple(arm for arm in candidates if not found.ruled_out_by(arm))
    # Where everyone is ruled out in a circle, nobody is.
    found = found._replace(left=left or candidates)
    return found._replace(kind=_kind(found, study.decision.margin))


def criteria_of(
    means: Sequence[Estimate], questions: Sequence[Question], seen: bool = False
) -> tuple[list[Criterion], bool]:
    """Return the criteria of these means, and whether they are of unseen documents.

    Subsets that are tags hold questions of other subsets again, and are left out.
    """
    tags = tags_of(questions)
    rows = [row for row in means if row.subset not in tags]
    if seen:
        rows = [row for row in rows if row.subset.endswith("/test_seen")]
    apart = [row for row in rows if row.subset.endswith(UNSEEN)]
    for part in filter(None, (apart, rows)):
        found = list(_criteria(part, DECIDING))
        if not {c.layer for c in found} & {"judge", "human"}:
            found += _criteria(part, STAND_IN)
        if found:
            return found, part is apart
    return [], False


def tags_of(questions: Sequence[Question]) -> set[str]:
    """Return the subsets that are no sets, and hold questions of other subsets again."""
    own = {row.subset for row in questions}
    return {subset for row in questions for subset in row.subsets} - own


def smallest_p(row: Estimate, resamples: int) -> float:
    """Return the smallest p that a test by signs can give with so many clusters, uncorrected."""
    drawn = row.test == "sign_flip" and row.clusters > EXACT_CLUSTERS
    return max(2.0 ** (1 - row.clusters), 1 / (1 + resamples) if drawn else 0.0)


def _criteria(
    means: Sequence[Estimate], layers: Mapping[str, tuple[str, ...]]
) -> Iterable[Criterion]:
    there = {(row.metric, row.subset) for row in means}
    for layer, metrics in layers.items():
        for subset in sorted({subset for _, subset in there}):
            metric = next((metric for metric in metrics if (metric, subset) in there), None)
            if metric is not None:
                yield Criterion(layer, metric, subset)


def _kind(found: Verdict, margin: float) -> Kind:
    if not found.candidates:
        return "unmeasured"
    if len(found.candidates) == 1:
        return "alone"
    if len(found.left) == 1:
        return "deploy"
    pairs = list(combinations(found.left, 2))
    if any(found.ahead(a, b) or found.ahead(b, a) for a, b in pairs):
        return "trade_off"
    if not all(found.gaps(a, b) for a, b in pairs):
        return "untested"
    enough = all(not is_few(gap.row, margin) for pair in pairs for gap in found.gaps(*pair))
    return "equal" if enough else "few"


def _at(rows: Sequence[Estimate], level: float) -> list[Estimate]:
    """Return differences with what they can detect where a p must stay below this level.

    Rows whose power is not known from themselves keep what they have.
    """
    tested = Counter((row.metric, row.subset) for row in rows if row.p is not None)
    made = []
    for row in rows:
        design = design_of(row)
        if design is not None:
            found = smallest(design, level / max(1, tested[row.metric, row.subset]))
            row = row.model_copy(update={"detectable_adjusted": found})
        made.append(row)
    return made


def _both_ways(
    rows: Sequence[Estimate], of: Mapping[tuple[str, str], Criterion]
) -> dict[tuple[Criterion, str, str], Estimate]:
    """Return the tested differences on the criteria, both ways round."""
    found = {}
    for row in rows:
        if row.p_adjusted is not None and row.value is not None:
            criterion = of[row.metric, row.subset]
            found[criterion, row.arm, row.against] = row
            found[criterion, row.against, row.arm] = turned(row)
    return found


def _all_pairs(
    study: Study,
    of: Mapping[tuple[str, str], Criterion],
    questions: Sequence[Question],
    scores: Sequence[Score],
) -> list[Estimate]:
    """Return the differences of all pairs of arms on the criteria, corrected over all pairs."""
    metrics, subsets = {metric for metric, _ in of}, {subset for _, subset in of}
    kept = [row for row in questions if row.status == "kept"]
    found = differences(
        [row for row in scores if row.metric in metrics and row.arm in study.arms],
        {row.question_id: (row.subset,) for row in kept if row.subset in subsets},
        {row.question_id: row.group for row in kept},
        (),
        study.estimates.resamples,
        study.seed,
    )
    return [row for row in found if (row.metric, row.subset) in of]


def _value(row: Estimate) -> float:
    return row.value or 0.0
