"""How far the questions can be trusted: sets, splits, checks, and what tests share with train."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ecg_llm.config import Study
from ecg_llm.questions.checking import checks, keys, sets
from ecg_llm.questions.checking.verify import SET
from ecg_llm.questions.splitting import contamination, placing
from ecg_llm.records import (
    QUESTION_FLAGS,
    Check,
    Document,
    Draft,
    Overlap,
    Passage,
    Placement,
    Question,
)
from ecg_llm.report.counts import CountTable
from ecg_llm.report.figures import bar_plot

TENTHS = 10
FEWEST = 10
"""Passages that a document has at least, to have a beginning and an end."""
FEW = 20
"""Choice questions from which on their z says something."""
PAIRS = 30
"""Pairs of a tested question and its twin that are listed; the rest is in the table."""
PASSES = {
    "grounded": "confirmed, shown the source",
    "closed_book": "right without the source",
    "options_only": "right without the question",
}
KINDS = {"exact": "same question", "ngram": "13 words", "embedding": "same meaning"}


class Pair(NamedTuple):
    """A tested question, and what of train it shares something with."""

    subset: str
    kind: str
    against: str
    value: str
    question: str
    twin: str
    shared: str


class QuestionFigures(NamedTuple):
    """What the report says about the questions."""

    figures: list[tuple[str, str]]
    plot: str
    tables: list[CountTable]
    pairs: list[Pair]
    more: int


def question_figures(
    study: Study,
    documents: Sequence[Document],
    passages: Sequence[Passage],
    placements: Sequence[Placement],
    drafts: Sequence[Draft],
    checked: Sequence[Check],
    questions: Sequence[Question],
    overlaps: Sequence[Overlap],
) -> QuestionFigures | None:
    """Return how the questions were made and how far they can be trusted; None without any."""
    if not questions:
        return None
    usable = [p for p in passages if p.kind in study.passages.kinds and not p.hidden]
    written = [row for row in questions if row.set == SET]
    path_of = {row.doc_id: row.path for row in documents}
    tables = (
        _sets(questions),
        _shares(placements, study),
        _ways(placements),
        _types(written),
        _passes(written, checked),
        _contamination(questions, overlaps),
    )
    return QuestionFigures(
        _figures(written, usable, drafts, checked, questions),
        _places(written, usable),
        [table for table in tables if table],
        _pairs(overlaps, questions, passages, path_of),
        max(0, len(overlaps) - PAIRS),
    )


def _figures(
    written: Sequence[Question],
    passages: Sequence[Passage],
    drafts: Sequence[Draft],
    checked: Sequence[Check],
    questions: Sequence[Question],
) -> list[tuple[str, str]]:
    kept = [row for row in written if row.status == "kept"]
    words = sum(len(passage.text.split()) for passage in passages)
    found = []
    if written:
        found.append(("Written here and kept", f"{len(kept):,} of {len(written):,}"))
    if kept and words:
        found.append(("Kept in 1,000 words", f"{1000 * len(kept) / words:.1f}"))
    choice = [row for row in kept if row.kind == "choice"]
    if choice:
        letters = keys.letter_balance(choice)
        found.append(("Right letters", ", ".join(f"{name} {n:,}" for name, n in letters.items())))
        found.append(("Right option is the longest, z", _signed(keys.longest_key_z(choice))))
    joined = sum(bool(row.joined) for row in kept)
    if joined:
        found.append(("Kept that join passages", f"{joined:,}"))
    again = sum(draft.attempts > 1 for draft in drafts)
    if again:
        found.append(("Drafts asked for more than once", f"{again:,} of {len(drafts):,}"))
    for who, rows in (("writer", drafts), ("checking model", checked)):
        if tokens := sum(row.tokens_in + row.tokens_out for row in rows):
            found.append((f"Tokens of the {who}", f"{tokens:,}"))
    flags = Counter(flag for row in questions for flag in row.flags)
    found += [(QUESTION_FLAGS[flag].capitalize(), f"{n:,}") for flag, n in sorted(flags.items())]
    revised = sum(row.revision > 0 for row in questions)
    if revised:
        found.append(("Changed by a person", f"{revised:,}"))
    return found


def _sets(questions: Sequence[Question]) -> CountTable:
    rows = tuple(
        (
            line.name, line.kept, line.dropped, line.open, line.choice,
            f"{line.question_words:g}", f"{line.answer_words:g}",
            "–" if line.reading_ease is None else f"{line.reading_ease:.0f}",
            _signed(line.longest_key_z) if line.choice >= FEW else "–",
        )
        for line in sets.table(questions)
        if line.kept
    )  # fmt: skip
    header = (
        "Set", "Kept", "Dropped", "Open", "Choice", "Words", "Words of answer", "Reading ease",
        "Longest is right, z",
    )  # fmt: skip
    note = (
        "Words are medians. Reading ease is Flesch's for English and Amstad's for German: 100 is "
        "easy, below 30 academic. z: how many standard errors more often than by chance the right "
        "option is the longest; above 2, length gives answers away. Questions on a tagged document "
        "count in the tag's set as well."
    )
    return CountTable("Sets", header, rows, note=note)


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # no minus before a zero


def _shares(placements: Sequence[Placement], study: Study) -> CountTable | None:
    rows = tuple(
        (
            line.split, "–" if line.asked is None else f"{line.asked:.0%}", f"{line.got:.0%}",
            line.documents, line.groups, line.tokens,
        )
        for line in placing.shares(placements, study.questions.split)
    )  # fmt: skip
    header = ("Split", "Asked for", "Got", "Documents", "Groups", "Tokens")
    note = (
        "Shares of tokens, by whole groups of documents that hold the same text. What is asked for "
        "is shared among the documents that no path in questions.split names."
    )
    return CountTable("Documents by split", header, rows, note=note) if placements else None


def _ways(placements: Sequence[Placement]) -> CountTable | None:
    """Return how the documents came to their splits: pinned by path or tag, drawn, too large."""
    counts = Counter((row.split, row.why) for row in placements)
    rows = tuple((split, why, n) for (split, why), n in sorted(counts.items()))
    header = ("Split", "How", "Documents")
    note = (
        "Drawn: by chance, within its share. Too large: larger than what val or test lacked. "
        "Whatever stands in train or val is seen: imported questions on it are test_seen."
    )
    return CountTable("Why documents stand there", header, rows, 2, note) if rows else None


def _types(written: Sequence[Question]) -> CountTable | None:
    counts: Counter[tuple[str, str]] = Counter(
        (row.type or "not stated", row.difficulty or "not stated")
        for row in written
        if row.status == "kept"
    )
    levels = [level for level in ("easy", "medium", "hard", "not stated")
              if any(key[1] == level for key in counts)]  # fmt: skip
    rows: tuple[tuple[str | int, ...], ...] = tuple(
        (name, *(counts[name, level] for level in levels), sum(counts[name, x] for x in levels))
        for name in sorted({name for name, _ in counts})
    )
    return CountTable("Types, kept", ("Type", *levels, "all"), rows) if rows else None


def _passes(written: Sequence[Question], checked: Sequence[Check]) -> CountTable | None:
    rows = tuple(
        (
            PASSES[rate.check], f"{rate.share:.0%}",
            "–" if rate.chance is None else f"{rate.chance:.0%}", rate.n, rate.unreadable,
        )
        for rate in checks.pass_rates(written, checked)
    )  # fmt: skip
    header = ("The checking model", "Share", "By chance", "Replies", "Unreadable")
    return CountTable("Checked by a model", header, rows) if rows else None


def _contamination(questions: Sequence[Question], overlaps: Sequence[Overlap]) -> CountTable | None:
    rows = tuple((line.subset, *line[1:]) for line in contamination.summary(questions, overlaps))
    header = (
        "Tested set", "Questions", "Same as in train", "13 words with train questions",
        "13 words with train passages", "Near in meaning to train questions",
    )  # fmt: skip
    note = (
        "Questions of train and val count, and passages of train documents. New questions on seen "
        "documents share words with these passages: they quote them."
    )
    return CountTable("What tests share with train", header, rows, note=note) if rows else None


def _places(written: Sequence[Question], passages: Sequence[Passage]) -> str:
    """Return a plot of how many questions were kept from each tenth of the documents."""
    sizes = Counter(passage.doc_id for passage in passages)
    ends: dict[str, int] = {}
    for passage in passages:
        ends[passage.doc_id] = max(passage.end, ends.get(passage.doc_id, 0))
    tenth: dict[str, int] = {
        p.passage_id: min(TENTHS - 1, TENTHS * p.start // ends[p.doc_id])
        for p in passages
        if sizes[p.doc_id] >= FEWEST
    }
    tokens = Counter[int]()
    for passage in passages:
        if passage.passage_id in tenth:
            tokens[tenth[passage.passage_id]] += passage.tokens
    kept = Counter(
        tenth[row.passage_id] for row in written if row.status == "kept" and row.passage_id in tenth
    )
    if not kept or not all(tokens[place] for place in range(TENTHS)):
        return ""
    values = [1000 * kept[place] / tokens[place] for place in range(TENTHS)]
    level = 1000 * sum(kept.values()) / sum(tokens.values())
    description = (
        "Questions kept from 1,000 tokens of each tenth of the documents, first to last: "
        + ", ".join(f"{value:.1f}" for value in values)
    )
    labels = [str(place + 1) for place in range(TENTHS)]
    return bar_plot(labels, values, level, description, "kept in 1,000 tokens")


def _pairs(
    overlaps: Sequence[Overlap],
    questions: Sequence[Question],
    passages: Sequence[Passage],
    path_of: Mapping[str, str],
) -> list[Pair]:
    """Return the pairs that a reader should look at: those with questions first."""
    asked = {row.question_id: row.question for row in questions}
    places = {row.passage_id: f"{path_of.get(row.doc_id, row.doc_id)}, p. {row.page_from}"
              for row in passages}  # fmt: skip
    order = {"exact": 0, "embedding": 1, "ngram": 2}
    ranked = sorted(
        overlaps,
        key=lambda row: (row.against == "passages", order[row.kind], -row.value, row.key),
    )
    return [
        Pair(
            row.subset, KINDS[row.kind], row.against,
            f"{row.value:.2f}" if row.kind == "embedding" else f"{row.value:.0%}",
            asked.get(row.question_id, row.question_id),
            asked.get(row.twin) or places.get(row.twin, row.twin),
            row.shared,
        )
        for row in ranked[:PAIRS]
    ]  # fmt: skip
