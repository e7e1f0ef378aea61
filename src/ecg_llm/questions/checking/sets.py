"""What every set of questions is made of: size, kinds, length, reading ease, balance of keys."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from ecg_llm.questions.checking.keys import letter_balance, longest_key_z
from ecg_llm.questions.checking.readability import counted, reading_ease
from ecg_llm.questions.words import correct_option
from ecg_llm.records import Question


class SetLine(NamedTuple):
    """One part of the evaluation; everything but `dropped` is counted over its kept questions."""

    name: str
    """"set/split", or "tag/split" for documents of a tag (Question.subsets)."""
    kept: int
    dropped: int
    open: int
    choice: int
    types: Mapping[str, int]
    """"" for questions of no stated type."""
    difficulties: Mapping[str, int]
    languages: Mapping[str, int]
    question_words: float
    """Median."""
    answer_words: float
    """Median over the reference answers; of a choice question, its right option."""
    reading_ease: float | None
    """Of the questions' texts, each language's taken as one text, weighted by words; context,
    options and answers do not count. None where no question is English or German."""
    letters: Mapping[str, int]
    """How often each letter is the right one."""
    longest_key_z: float
    """See keys.longest_key_z."""


def table(questions: Sequence[Question]) -> list[SetLine]:
    """Return a line for each subset, by name; a question of a tagged document is in several."""
    subsets: Mapping[str, list[Question]] = defaultdict(list)
    for row in questions:
        for name in row.subsets:
            subsets[name].append(row)
    return [_line(name, subsets[name]) for name in sorted(subsets)]


def _line(name: str, rows: Sequence[Question]) -> SetLine:
    kept = [row for row in rows if row.status == "kept"]
    kinds = Counter(row.kind for row in kept)
    return SetLine(
        name=name,
        kept=len(kept),
        dropped=len(rows) - len(kept),
        open=kinds["open"],
        choice=kinds["choice"],
        types=_counts([row.type for row in kept]),
        difficulties=_counts([row.difficulty for row in kept]),
        languages=_counts([row.language for row in kept]),
        question_words=_median([row.question for row in kept]),
        answer_words=_median([correct_option(row) or row.reference for row in kept]),
        reading_ease=_reading_ease(kept),
        letters=letter_balance(kept),
        longest_key_z=longest_key_z(kept),
    )


def _counts(values: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _median(texts: Sequence[str]) -> float:
    return float(median(len(text.split()) for text in texts)) if texts else 0.0


def _reading_ease(rows: Sequence[Question]) -> float | None:
    texts: Mapping[str, list[str]] = defaultdict(list)
    for row in rows:
        texts[row.language].append(row.question)
    eases = {language: reading_ease(those, language) for language, those in texts.items()}
    words = {
        language: sum(counted(text, language).words for text in those)
        for language, those in texts.items()
        if eases[language] is not None
    }
    total = sum(words.values())
    parts = [(eases[language] or 0.0) * count for language, count in words.items()]
    return sum(parts) / total if total else None
