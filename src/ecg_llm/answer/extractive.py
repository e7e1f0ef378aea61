"""Answers without a language model: the best sentences of the best passages, word for word."""

import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from ecg_llm.contracts import NO_ANSWER, Embedder, Task
from ecg_llm.prompt import choice_reply, original_letter
from ecg_llm.records import LETTERS, Answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OVERLAP = 0.2
"""Share of the words in common in a sentence's score; the rest is cosine similarity."""
ANSWERS = 0.5
"""Score from which a sentence may answer, set by hand between two samples with MiniLM: the best
sentence scored 0.51 or more for the 27 open questions of the bundled handbook and 0.42 or less for
20 questions about other fields. It does not keep out questions of the field that the literature
leaves open (2 of 6 tried passed), and an embedder whose similarities are all high abstains less."""
SHORTEST = 4
"""Words of the shortest text that counts as a sentence."""

WORD = re.compile(r"[^\W_]+(?:[.,]\d+)?")
END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-ZÄÖÜ0-9])")
ABBREVIATED = re.compile(
    r"(?:\b(?:Figs?|Tabs?|Refs?|Eqs?|No|vs|cf|ca|approx|resp|et al|e\.g|i\.e|Dr|Prof"
    r"|z\.\s?B|d\.\s?h|u\.\s?a|bzw|Abb)|\b[A-ZÄÖÜ]|(?<!\d)\d{1,2})\.$"
)
ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,2}[.)])\s+")
FUNCTION_WORDS = frozenset(
    WORD.findall(
        "a an the of and in to is are was were with for that by from on as be which or not this "
        "what at it its does do how when why who has have can should most following der die das "
        "und ist ein eine einer eines einem einen mit von zu für auf im den dem des bei oder wird "
        "werden sich als auch durch nach welche welcher welches wie was wann sind"
    )
)


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

    def answer(self, arm: str, tasks: Sequence[Task]) -> list[Answer]:
        """Return one answer a task, in order: quoted sentences with their keys, or a letter.

        An open question that no sentence is close to gets NO_ANSWER; a choice question gets the
        option that a sentence supports best, without passages the one closest to the question.
        """
        quotes = [list(_quotes(task)) for task in tasks]
        vectors = self._vectors(tasks, quotes)
        return [
            Answer(
                question_id=task.question.question_id,
                arm=arm,
                repeat=task.repeat,
                permutation=task.permutation,
                text=(
                    choice_reply(_supported(task, found, vectors))
                    if task.question.kind == "choice"
                    else self._open(task, found, vectors)
                ),
                model=self.name,
            )
            for task, found in zip(tasks, quotes, strict=True)
        ]

    def _vectors(
        self, tasks: Sequence[Task], quotes: Sequence[Sequence["Quote"]]
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
        quotes: Sequence["Quote"],
        vectors: "dict[str, NDArray[np.float32]]",
    ) -> str:
        question = task.question.question
        near = vectors[question]
        scores = {
            i: (1 - OVERLAP) * float(vectors[quote.text] @ near)
            + OVERLAP * shared(question, quote.text)
            for i, quote in enumerate(quotes)
        }
        best = sorted(scores, key=lambda i: (-scores[i], i))[: self.sentences]
        chosen = [quotes[i] for i in sorted(best) if scores[i] >= ANSWERS]
        return " ".join(f"{quote.text} [{quote.key}]" for quote in chosen) or NO_ANSWER


class Quote(NamedTuple):
    """A sentence of a passage, with the passage's citation key."""

    key: int
    text: str


def sentences(text: str) -> list[str]:
    """Return the sentences of a passage; a sentence that opens a list holds the list.

    Headings, table rows and texts of a few words are left out.
    """
    found: list[str] = []
    opened = False
    for block in _blocks(text):
        item = ITEM.match(block)
        first, *rest = _split(block[item.end() :] if item else block)
        if item and opened:
            found[-1] += " " + first
        else:
            found.append(first)
        found += rest
        # A list goes on until an item is more than one sentence: that is a paragraph's rest.
        opened = block.endswith(":") or bool(item and opened and not rest)
    return [text for text in found if len(text.split()) >= SHORTEST]


def _split(block: str) -> list[str]:
    pieces, start = [], 0
    for stop in END.finditer(block):
        if not ABBREVIATED.search(block, start, stop.start()):
            pieces.append(block[start : stop.end()].strip())
            start = stop.end()
    return [*pieces, block[start:].strip()]


def shared(wanted: str, text: str) -> float:
    """Return the share of the content words of `wanted` that occur in a text, 0 to 1.

    Words are compared by their first five letters, a crude stem for English and German.
    """
    words = _stems(wanted)
    return len(words & _stems(text)) / len(words) if words else 0.0


def _stems(text: str) -> set[str]:
    return {
        word[:5] if word.isalpha() else word.replace(",", ".")
        for word in WORD.findall(text.lower())
        if word not in FUNCTION_WORDS
    }


def _blocks(text: str) -> Iterator[str]:
    """Yield paragraphs and list items, each on one line; no headings and no table rows."""
    held: list[str] = []
    for line in [*text.splitlines(), ""]:
        alone = line.startswith(("#", "|")) or not line.strip()
        if held and (alone or ITEM.match(line)):
            yield " ".join(held)
            held = []
        if not alone:
            held.append(line.strip())


def _quotes(task: Task) -> Iterator[Quote]:
    """Yield the sentences of the task's passages in reading order, each text once."""
    seen = set()
    for key, passage in enumerate(task.passages, start=1):
        for text in sentences(passage.text):
            if text not in seen:
                seen.add(text)
                yield Quote(key, text)


def _claims(task: Task) -> list[str]:
    """Return the question with each option as its answer, in the question's own order."""
    return [f"{task.question.question} {option}" for option in task.question.options]


def _supported(
    task: Task, quotes: Sequence[Quote], vectors: "dict[str, NDArray[np.float32]]"
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
