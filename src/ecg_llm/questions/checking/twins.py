"""Questions that say the same as others: found by their words, and by vectors of their meaning."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from datasketch import MinHash, MinHashLSH

from ecg_llm.contracts import Embedder
from ecg_llm.questions.words import correct_option, plain_text
from ecg_llm.records import Question
from ecg_llm.words import content_words, distinguishing, words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIMILAR = 0.8
"""Jaccard similarity of word sets from which two questions say the same."""
GENERIC = frozenset(
    [
        "true",
        "false",
        "correct",
        "incorrect",
        "right",
        "wrong",
        "following",
        "statement",
        "statements",
        "answer",
        "answers",
        "option",
        "options",
        "except",
        "best",
        "likely",
        "about",
        "regarding",
        "concerning",
        "richtig",
        "falsch",
        "folgenden",
        "aussage",
        "aussagen",
        "antwort",
        "trifft",
        "zutreffend",
        "these",
        "those",
    ]
)
"""Words of a question that name nothing to ask about."""
BLOCK = 1024
"""Texts compared with all others in one matrix product."""


class Vectors:
    """Unit vectors of texts, each embedded once."""

    def __init__(self, places: Mapping[str, int], matrix: "NDArray[np.float32]") -> None:
        self._places = places
        self._matrix = matrix
        self._close: dict[float, dict[str, list[str]]] = {}

    @classmethod
    def of(cls, embedder: Embedder, texts: Iterable[str]) -> "Vectors":
        """Return the vectors of the distinct texts."""
        import numpy as np

        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        # Without texts a model need not be loaded.
        return cls(places, embedder.embed(list(places)) if places else np.zeros((0, 0), np.float32))

    def __getitem__(self, text: str) -> "NDArray[np.float32]":
        """Return the vector of a text.

        Raises:
            KeyError: the text is none of those embedded.
        """
        row: NDArray[np.float32] = self._matrix[self._places[text]]
        return row

    def __contains__(self, text: object) -> bool:
        return text in self._places

    def close(self, cosine: float) -> Mapping[str, Sequence[str]]:
        """Return, for every text that has any, the others as close as this, closest first.

        Texts that differ in a number or another of words.DISTINGUISHING are never close.
        """
        if cosine not in self._close:
            groups: dict[frozenset[str], list[str]] = defaultdict(list)
            for text in self._places:
                groups[_signature(words_of(text))].append(text)
            found: dict[str, list[str]] = defaultdict(list)
            for texts in groups.values():
                for text, other in self._pairs(texts, cosine):
                    found[text].append(other)
            self._close[cosine] = dict(found)
        return self._close[cosine]

    def _pairs(self, texts: Sequence[str], cosine: float) -> Iterator[tuple[str, str]]:
        matrix = self._matrix[[self._places[text] for text in texts]]
        for start in range(0, len(texts), BLOCK):
            scores = matrix[start : start + BLOCK] @ matrix.T
            rows, columns = (scores >= cosine).nonzero()
            order = (-scores[rows, columns]).argsort(kind="stable")
            for row, column in zip(rows[order] + start, columns[order], strict=True):
                if row != column:
                    yield texts[row], texts[column]


class NearIndex:
    """Questions that can be searched for one that says nearly the same.

    Two views of a question are compared: what is asked (for a choice question with the right
    option), and what is asked and answered. Two questions say the same if most of their words are
    the same (MinHash finds candidates, the word sets decide), or, given vectors of `texts_of` all
    questions, if those are as close as `cosine`; at 1 the words alone decide. Questions that differ
    in a number, a degree, a side or another of words.DISTINGUISHING are never the same.

    At .95 with all-MiniLM-L6-v2 no two of 4,372 exam questions, nor of 1,300 written here, were
    taken for the same that are not; from .93 down, some were ("What do arteries transport?", "What
    do arteries and veins transport?").
    """

    def __init__(self, vectors: Vectors | None = None, cosine: float = 0.95) -> None:
        self._lsh = MinHashLSH(threshold=0.65, num_perm=128)
        self._words: dict[str, frozenset[str]] = {}
        self._texts: dict[tuple[str, str], str] = {}
        self._vectors = vectors if cosine < 1 else None
        self._cosine = cosine

    def add(self, row: Question) -> None:
        """Make a question findable."""
        for view, text in _views(row).items():
            key = f"{row.question_id}/{view}"
            words = frozenset(words_of(text))
            if words and key not in self._words:
                self._words[key] = words
                self._lsh.insert(key, _minhash(words))
                self._texts.setdefault((view, text), row.question_id)

    def find(self, row: Question) -> str:
        """Return the question_id of an indexed question that says the same, or "".

        Raises:
            KeyError: the vectors lack a text of this question.
        """
        views = _views(row)
        for view, text in views.items():
            words = frozenset(words_of(text))
            for key in sorted(self._lsh.query(_minhash(words))) if words else ():
                name, _, other = str(key).rpartition("/")
                if other == view and _same(words, self._words[key]):
                    return name
        if self._vectors is None:
            return ""
        close = self._vectors.close(self._cosine)
        for view, text in views.items():
            if text and text not in self._vectors:
                raise KeyError(text)
            for other in close.get(text, ()):
                if (view, other) in self._texts:
                    return self._texts[view, other]
        return ""


def stem(row: Question) -> str:
    """Return what is asked, as compared for equality; "" if its words alone ask for nothing.

    "What is ventilation?" asks for one thing whatever the answer or the options say; "Which of
    the following is true?" does not.
    """
    wanted = [word for word in content_words(row.question) if word not in GENERIC]
    return plain_text(row.question) if wanted and not row.context else ""


def texts_of(row: Question) -> tuple[str, ...]:
    """Return the texts whose vectors a NearIndex needs to compare this question."""
    return tuple(dict.fromkeys(_views(row).values()))


def _views(row: Question) -> dict[str, str]:
    right = correct_option(row)
    return {
        "asked": f"{row.question} {right}".strip(),
        "told": f"{row.question} {row.reference or right}".strip(),
    }


def _signature(words: Iterable[str]) -> frozenset[str]:
    """Return the words that must be equal in two questions that say the same."""
    return frozenset(filter(distinguishing, words))


def _same(a: frozenset[str], b: frozenset[str]) -> bool:
    return not any(map(distinguishing, a ^ b)) and len(a & b) >= SIMILAR * len(a | b)


@lru_cache(16)  # a question that is searched for is often added next
def _minhash(words: frozenset[str]) -> MinHash:
    made = _empty().copy()
    made.update_batch([word.encode() for word in words])
    return made


@cache
def _empty() -> MinHash:
    return MinHash(num_perm=128, seed=1)  # its permutations are slow to draw
