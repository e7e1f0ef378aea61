"""What stands beside the results of a section: how they were measured and can be trusted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from ecg_llm.config import Study
from ecg_llm.records import (
    Answer,
    Estimate,
    Judgement,
    KeyFacts,
    Question,
    Rating,
    Reliability,
    Score,
)
from ecg_llm.report.blame_tables import count
from ecg_llm.report.choices import choices
from ecg_llm.report.judges import panel, requests, verdicts
from ecg_llm.report.measures import Group, quoted
from ecg_llm.report.results import label, ordered
from ecg_llm.report.worst import Missed, WorstAnswer, missed, rated, worst

FACTS = "facts"
"""The mode of judgements on key facts, and the name under which they were made."""
NOTED = 3
"""Notes about how a metric was made that are quoted at most."""


class Beside(NamedTuple):
    """What a section says beside its results."""

    warnings: Sequence[str] = ()
    groups: Sequence[Group] = ()
    worst: Sequence[WorstAnswer] = ()
    missed: Sequence[Missed] = ()


def beside(
    study: Study,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    judgements: Sequence[Judgement],
    facts: Sequence[KeyFacts],
    scores: Sequence[Score],
    reliability: Sequence[Reliability],
    estimates: Sequence[Estimate],
    manifests: Mapping[str, Mapping[str, object]],
    ratings: Sequence[Rating] = (),
    sources: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Beside]:
    """Return what to show beside the results, by key of results.TITLES; only what there is.

    `ratings` hold the answers that experts saw, `sources` document and page by question_id.
    """
    arms = list(study.arms)
    judged = [row for row in judgements if row.mode != FACTS]
    judges = ordered(
        {row.judge for row in judged} | {s.rater for s in scores if s.metric == "verdict"},
        list(study.scores.judges),
    )
    choice = [row for row in reliability if row.layer == "choice"]
    judging = [row for row in reliability if row.layer == "judge" and row.instrument != FACTS]
    others, seen = rated(ratings, questions, study.scores.raters)
    found = {
        "choice": Beside(
            groups=_filled(choices(choice, estimates, arms)),
            missed=missed(questions, scores, arms, sources),
        ),
        "judge": Beside(
            [
                note if judge in note else f"Judge {quoted(judge)}: {note}"
                for judge in judges
                for note in _warnings(manifests, f"judgements/{judge}")
            ],
            _filled(verdicts(questions, scores, arms), panel(judges, judged, answers, judging)),
            worst("verdict", questions, answers, judged, scores, arms, sources),
        ),
        "similarity": Beside(
            worst=()
            if judges
            else worst("reference_similarity", questions, answers, (), scores, arms, sources)
        ),
        "human": Beside(
            worst=worst(
                "human", [*questions, *others], [*answers, *seen], (), scores, arms, sources
            )
        ),
        "text": Beside(groups=_filled(_measured(scores, estimates))),
        "content": Beside(
            _warnings(manifests, FACTS, f"judgements/{FACTS}"),
            _filled(_key_facts(facts, [row for row in judgements if row.mode == FACTS])),
        ),
    }
    return {name: one for name, one in found.items() if any(one)}


def _filled(*groups: Group) -> list[Group]:
    return [group for group in groups if group.sentences or group.figures or group.parts]


def _warnings(manifests: Mapping[str, Mapping[str, object]], *steps: str) -> list[str]:
    """Return the notes of these steps, among them those on related families of models."""
    found = (manifests.get(step, {}).get("notes") for step in steps)
    return [str(note) for notes in found if isinstance(notes, list | tuple) for note in notes]


def _measured(scores: Sequence[Score], estimates: Sequence[Estimate]) -> Group:
    """Return the signatures and encoders behind the figures on wording."""
    told = []
    for metric in ("bleu", "bleu_corpus", "rouge1", "bertscore"):
        notes = Counter(
            score.note for score in scores
            if score.metric == metric and score.status == "scored" and score.note
            and score.note != "empty answer"
        )  # fmt: skip
        notes.update(
            row.method.partition(" ")[2] for row in estimates
            if row.metric == metric and " " in row.method
        )  # fmt: skip
        listed = sorted(notes, key=lambda note: (-notes[note], note))[:NOTED]
        if listed:
            name = "ROUGE" if metric == "rouge1" else label(metric).replace(" F1", "")
            told.append(f"{name}: {'; '.join(listed)}.")
    return Group("How this was measured", told) if told else Group("")


def _key_facts(facts: Sequence[KeyFacts], looked: Sequence[Judgement]) -> Group:
    """Return in a sentence by which model key facts were listed and looked for, and how often."""
    if not facts:
        return Group("")
    listed = [len(row.facts) for row in facts if row.facts]
    asked = requests(looked)
    models = sorted(({row.model for row in facts} | {row.model for row in looked}) - {""})
    mean = f", {fmean(listed):.1f} a reference on average" if listed else ""
    told = (
        f"{', '.join(models) or 'A model'} listed the key facts of {len(listed):,} of "
        f"{count(len(facts), 'reference')}{mean}, and looked for them in "
        f"{count(asked.sent, 'answer')}."
    )
    if asked.unread or asked.failed:
        told += (
            f" {asked.unread:,} of its replies could not be read and {asked.failed:,} requests "
            "failed; these answers are left out of the shares of facts."
        )
    return Group("Key facts", [told])
