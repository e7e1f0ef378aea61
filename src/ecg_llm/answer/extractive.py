"""Answers without a language model: the best sentences of the best passages, word for word."""

import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from ecg_llm.contracts import NO_ANSWER, Answered, Embedder, Task
from ecg_llm.prompt import choice_reply, original_letter
from ecg_llm.records import LETTERS, Answer
from ecg_llm.sentences import plain, statements
from ecg_llm.words import shared

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OVERLAP = 0.2
"""Share of the words in common in a sentence's score; the rest is cosine similarity."""
COVERED = 0.25
"""What the share of the question's words that the passages hold adds to the best score, when it is
asked whether there is an answer at all."""
ANSWERS = 0.74
"""Least sum of both for an answer, set with MiniLM on the even chapters of the bundled handbook
(36 questions, 10 of the field that it leaves open, 20 of other fields): it answers 33 and abstains
on 8 and 20. On the odd ones it answers 39 of 45 and abstains on 10 of 10 and 20 of 20
(benchmarks/citing.py). An embedder whose similarities are all high abstains less."""
NEAR = 0.1
"""How far behind the best sentence a further one may be. On the even chapters it raised ROUGE-L
with two sentences from .49 to .52 (open) and .38 to .40 (choice), on the odd from .49 to .52 and
.37 to .40. Maximal marginal relevance, the sentence before one that begins with "It" or "This",
numbers for "how long", and headings in the vectors were tried and did not."""
SHORTEST = 4
"""Words of the shortest text that counts as a sentence."""
ANNOUNCES = re.compile(
    r"(?:(?:In )?[Tt]his|The) (?:present )?(?:chapter|article|paper|review|study|section)\b"
    r"(?:,? \w+)? (?:aims|covers|deals|defines|describes|discusses|examines|explains|introduces"
    r"|outlines|presents|reviews|sets out|summari[sz]es)\b"
    r"|(?:[Dd]iese[rs]?|Das) (?:Kapitel|Artikel|Beitrag|Arbeit|Studie|Abschnitt)"
    r" (?:behandelt|beschreibt|erklärt|erläutert)\b"
)
"""Begins sentences that say what a text is about, and answer nothing."""


class ExtractiveAnswerer:
    """A `contracts.Answerer` that quotes, and abstains where nothing is close to the question.

    `sentences` is how many an open answer has at most.
    """

    def __init__(self, embedder: Embedder, sentences: int = 2) -> None:
        self.embedder = embedder
        self.sentences = sentences

    @property
    def name(self) -> str:
        """extractive@version+embedder."""
        return f"extractive@{metadata.version('ecg-llm')}+{self.embedder.name}"

    @property
    def alone(self) -> bool:
        """False: all sentences are embedded together."""
        return False

    def answer(self, arm: str, tasks: Sequence[Task]) -> Iterator[Answered]:
        """Yield one answer a task, in order: quoted sentences with their keys, or a letter.

        An open question that no sentence is close to gets NO_ANSWER; a choice question gets the
        option that a sentence supports best, without passages the one closest to the question.
        """
        quotes = [list(_quotes(task)) for task in tasks]
        vectors = self._vectors(tasks, quotes)
        for task, found in zip(tasks, quotes, strict=True):
            yield Answered(
                Answer(
                    **task.answer_key(arm),
                    text=(
                        choice_reply(_supported(task, found, vectors))
                        if task.question.kind == "choice"
                        else self._open(task, found, vectors)
                    ),
                    model=self.name,
                )
            )

    def _vectors(
        self, tasks: Sequence[Task], quotes: Sequence[Sequence["Quoted"]]
    ) -> "dict[str, NDArray[np.float32]]":
        """Return the vector of every text that is compared, embedded in one call."""
        texts = [quote.text for found in quotes for quote in found]
        for task in tasks:
            texts += [task.question.question, *task.question.options, *_claims(task)]
        distinct = sorted(set(texts))
        return dict(zip(distinct, self.embedder.embed(distinct), strict=True))

    def _open(
        self,
        task: Task,
        quotes: Sequence["Quoted"],
        vectors: "dict[str, NDArray[np.float32]]",
    ) -> str:
        question = task.question.question
        near = vectors[question]
        scores = [
            (1 - OVERLAP) * float(vectors[quote.text] @ near)
            + OVERLAP * shared(question, quote.text)
            for quote in quotes
        ]
        best = max(scores, default=0.0)
        covered = shared(question, *(p.text for p in task.passages))
        if not quotes or best + COVERED * covered < ANSWERS:
            return NO_ANSWER
        ranked = sorted(range(len(quotes)), key=lambda place: (-scores[place], place))
        chosen = [i for i in ranked[: self.sentences] if scores[i] >= best - NEAR]
        return " ".join(f"{quotes[i].text} [{quotes[i].key}]" for i in sorted(chosen))


class Quoted(NamedTuple):
    """A sentence of a passage, with the passage's citation key."""

    key: int
    text: str


def _quotes(task: Task) -> Iterator[Quoted]:
    """Yield the sentences of the task's passages in reading order, each text once."""
    seen = set()
    for key, passage in enumerate(task.passages, start=1):
        for start, end in statements(passage.text):
            text = plain(passage.text[start:end])
            if text not in seen and len(text.split()) >= SHORTEST and not ANNOUNCES.match(text):
                seen.add(text)
                yield Quoted(key, text)


def _claims(task: Task) -> list[str]:
    """Return the question with each option as its answer, in the question's own order."""
    return [f"{task.question.question} {option}" for option in task.question.options]


def _supported(
    task: Task, quotes: Sequence[Quoted], vectors: "dict[str, NDArray[np.float32]]"
) -> str:
    """Return the letter, as shown, of the option that the quotes support best."""
    question, options = task.question, task.question.options
    if quotes:
        support = [
            max(
                float(vectors[quote.text] @ vectors[claim]) + shared(option, quote.text)
                for quote in quotes
            )
            for option, claim in zip(options, _claims(task), strict=True)
        ]
    else:
        support = [float(vectors[option] @ vectors[question.question]) for option in options]
    best = max(range(len(options)), key=lambda i: (support[i], -i))
    return next(
        letter
        for letter in LETTERS[: len(options)]
        if original_letter(letter, task.permutation, len(options)) == LETTERS[best]
    )
