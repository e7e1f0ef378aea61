"""Retrieval or the model: counts of answers with and without their source as text and tables."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ecg_llm.config import Study
from ecg_llm.records import Estimate, Question, QuestionKind, Score
from ecg_llm.report.blame import KNOWN, OUTCOMES, Blame, Pair, Shown
from ecg_llm.report.counts import CountTable
from ecg_llm.report.results import Cell, difference_row, number, short_label
from ecg_llm.retrieve.measure import DEPTH
from ecg_llm.stats.estimate import estimates
from ecg_llm.stats.significance import holm

KIND: Mapping[QuestionKind, str] = {"choice": "multiple choice", "open": "open"}
SHOWN = {"yes": "yes", "part": "in part", "no": "no", "unknown": "not known"}
WRONG = {
    "accuracy": ("wrong answer", ""),
    "human": ("answer", " that experts rate wrong"),
    "verdict": ("answer", " judged wrong"),
    "reference_similarity": ("answer", " unlike the reference"),
}
"""What sentences call an answer that is not right, by metric: a noun and what follows."""


def sentence(counted: Blame) -> str:
    """Return in words how many wrong answers had their source in the prompt; "" if none is marked.

    It says which is to blame no further than the counts go.
    """
    if counted.metric not in WRONG:
        return ""
    kind = "multiple-choice" if counted.kind == "choice" else counted.kind
    known = sum(map(counted.total, KNOWN))
    if not known:
        unknown = count(counted.total("unknown"), f"{kind} question")
        return f"{counted.arm}, {unknown}: no source is known, so nothing can be blamed."
    noun, after = WRONG[counted.metric]
    held, part, lacked = (counted.counts.get((shown, "wrong"), 0) for shown in KNOWN)
    told = f"{counted.arm}, {count(known, f'{kind} question')} with a known source: "
    if held + part + lacked:
        among = f"; the source of {counted.missed:,} is among the first {DEPTH} found"
        told += (
            f"of {count(held + part + lacked, noun)}{after}, {held:,} had the source in the prompt "
            f"(not retrieval)"
            + (f", {part:,} had a part of it" if part else "")
            + f" and {lacked:,} did not (retrieval{among if counted.missed else ''})."
        )
    else:
        told += f"no {noun}{after}."
    silent = {shown: counted.counts.get((shown, "abstained"), 0) for shown in KNOWN}
    if any(silent.values()):
        told += (
            f" It abstained {count(sum(silent.values()), 'time')}, "
            f"{silent['yes']:,} with the source in the prompt."
        )
    return told


def count(n: int, noun: str) -> str:
    """Return a number and what is counted, "1 answer" or "2 answers"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def by_source(counted: Sequence[Blame]) -> CountTable | None:
    """Return how the answers of each arm fared, by whether the prompt held their source."""
    rows: list[tuple[str | int, ...]] = []
    everywhere: tuple[Shown, ...] = (*KNOWN, "unknown")
    for one in counted:
        for shown in everywhere:
            total = one.total(shown)
            counts = [one.counts.get((shown, outcome), 0) for outcome in OUTCOMES]
            right, _, _, unrated = counts
            share = f"{100 * right / (total - unrated):.1f}" if total > unrated else "–"
            if total:
                rows.append(
                    (
                        one.arm, short_label(one.metric) or f"{KIND[one.kind]}, unmarked",
                        SHOWN[shown], total, *counts, share,
                    )
                )  # fmt: skip
    header = (
        "Arm", "Marked by", "Source in the prompt", "Answers", "Right", "Wrong",
        "Abstained", "Unrated", "Right, %",
    )  # fmt: skip
    note = (
        "The first answer to each question. Open answers are right from a mean of 0.5 on the "
        "experts' scale; similarity to the reference finds what is beside the point and little "
        "else. A right answer without its source was known to the model or rests on another "
        "passage that says the same, so a wrong one without it need not be retrieval's fault alone."
    )
    return CountTable("Answers by source", header, tuple(rows), 3, note) if rows else None


def gains(
    study: Study, pairs: Sequence[Pair], questions: Mapping[str, Question]
) -> CountTable | None:
    """Return what the passages changed for one model, by whether they held the source.

    Differences are paired by question and clustered by source; Holm's correction runs over the
    table.
    """
    groups: dict[tuple[str, str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.arm, pair.against, pair.metric].append(pair)
    means: dict[tuple[str, str, str], Estimate] = {}
    differences: list[Estimate] = []
    for (arm, against, metric), here in groups.items():
        scores = [
            Score(question_id=pair.question_id, arm=name, metric=metric, value=value)
            for pair in here
            for name, value in ((arm, pair.value), (against, pair.value_against))
        ]
        made = estimates(
            scores, {pair.question_id: (pair.shown,) for pair in here},
            {key: row.group for key, row in questions.items() if row.group},
            [(arm, against)], study.estimates.resamples, study.seed,
        )  # fmt: skip
        means |= {(row.metric, row.subset, row.arm): row for row in made if not row.against}
        order = list(SHOWN)
        found = [row for row in made if row.against]
        differences += sorted(found, key=lambda row: order.index(row.subset))
    adjusted = holm([row.p for row in differences])
    rows = []
    for row, p in zip(differences, adjusted, strict=True):
        corrected = row.model_copy(update={"p_adjusted": p})
        printed = difference_row(corrected, [(row.arm, row.against)])
        without, within = (
            number(means[row.metric, row.subset, arm].value, row.metric)
            for arm in (row.against, row.arm)
        )
        rows.append(
            (
                f"{row.arm} − {row.against}", short_label(row.metric), SHOWN[row.subset],
                row.questions, without, within, Cell(printed.value, printed.interval),
                printed.p_adjusted, printed.verdict,
            )
        )  # fmt: skip
    header = (
        "Arms", "Marked by", "Source in the prompt", "Questions", "Without passages", "With",
        "Difference", "p, corrected", "Reading",
    )  # fmt: skip
    note = (
        "The same questions answered by one model with passages and without; right choices in "
        "percent. Lines with the source and without it hold different questions, so compare within "
        "a line, not between lines. Corrected: Holm, over this table."
    )
    return CountTable("What the passages changed", header, tuple(rows), 3, note) if rows else None
