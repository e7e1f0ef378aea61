"""What an answer claims, which keys it cites for it, and whether the passages bear it out.

Support is lexical and by embedding, without a model that reads: the words and the vector of a
claim against those of up to five neighbouring sentences, and a veto where these lack a number or
turn a direction or a negation round (contradiction.py). It says where to look, not what is true.
"""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ecg_llm.contracts import NO_ANSWER, Embedder
from ecg_llm.contradiction import contradiction, quantities
from ecg_llm.records import Passage
from ecg_llm.sentences import sentences, statements
from ecg_llm.words import stems

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION: int = 1
"""Of the check: another one makes the scores anew."""
BEARS_OUT = 0.6
"""Score from which sentences may bear a claim out, set with MiniLM on the even chapters of the
bundled handbook. On the odd ones (benchmarks/citing.py) 80 % of the reference answers and of their
paraphrases are found borne out; not so are 100 % of claims set against another passage, 100 % with
a number changed, 100 % negated, 88 % with a clinical opposite (hypo and hyper, first and second)
and 69 % with a direction turned round. Answers that put together what stands far apart, calculate
or abbreviate are missed."""
COSINE = 0.5
"""Share of the cosine in the score; the rest is the share of the claim's words in common."""
WIDEST = 5
"""Neighbouring sentences that are read together: a claim may sum up a list."""
EACH = 0.01
"""Taken off the score for each sentence, so that the shortest quote wins among equals."""
FEW = 3
"""Up to so many words of content, a claim is compared together with its question."""
BLOCK = 256
"""Passages that are read at once. Labels do not depend on it, scores only by what the embedder's
batches do: of 4078 quotes in blocks of 256 and of 16, in bfloat16, 0.0013 at most."""
KEPT = 20_000
"""Vectors up to which those of earlier blocks are kept."""

BRACKETS = re.compile(r"\[(\d{1,4}(?:\s*[,;–-]\s*\d{1,4})*)\]")
SEALED = re.compile(
    rf"(?:[.!?]\s*(?:{BRACKETS.pattern}\s*)+|{BRACKETS.pattern}\s*[.!?]\s+)(?=[A-ZÄÖÜ])"
)
"""Keys beside a full stop: there a sentence ends, whatever stands before it."""
AGREEMENT = re.compile(r"\W*(?:yes|no|ja|nein)\b[\s,.:;–-]*", re.IGNORECASE)
SPACED = re.compile(r" (?=[.,;:!?])")
FILLERS = stems("summary conclusion answer certainly sure course zusammenfassung fazit antwort")
MARKUP = re.compile(r"^\s*(?:[-*+•]\s+|\d{1,2}[.)]\s+)|\*\*")


class Claim(NamedTuple):
    """A sentence of an answer that says something, `answer[start:end]` with its keys."""

    text: str
    """As compared: on one line, without keys, markup and an opening "Yes"."""
    start: int
    end: int
    keys: tuple[int, ...]
    """Those that were given, in order of mention."""


class Reply(NamedTuple):
    """An answer, what was asked and what was shown under the keys [1], [2] ..."""

    answer: str
    question: str
    passages: Sequence[Passage]


class Quote(NamedTuple):
    """The stretch of a cited passage closest to a claim: `passage.text[start:end]`."""

    key: int
    passage: Passage
    start: int
    end: int
    score: float
    """From 0 (or a little below) to 1."""
    against: str
    """What it lacks or says otherwise, in a few words; empty: nothing."""

    @property
    def text(self) -> str:
        """The sentences quoted, in the passage's own characters."""
        return self.passage.text[self.start : self.end]

    @property
    def supports(self) -> bool:
        """Whether it bears the claim out."""
        return self.score >= BEARS_OUT and not self.against


class Checked(NamedTuple):
    """A claim with the closest stretch of each passage that it cites."""

    claim: Claim
    quotes: tuple[Quote, ...]
    """In order of mention."""

    @property
    def supported(self) -> bool:
        """Whether a passage that it cites bears it out."""
        return any(quote.supports for quote in self.quotes)

    @property
    def problem(self) -> str:
        """Why it is not supported, in a few words; empty if it is."""
        if self.supported:
            return ""
        if not self.quotes:
            return "no passage cited"
        closest = max(self.quotes, key=lambda quote: quote.score)
        return closest.against if closest.score >= BEARS_OUT else "not in the passages cited"


def keys(text: str, count: int) -> tuple[list[int], list[int]]:
    """Return the citation keys of a text that name one of `count` passages, and those that do not.

    Keys are in order of first mention, each once: [1], [2, 3], [1][2] and [1-3].
    """
    found: dict[int, None] = {}
    for match in BRACKETS.finditer(text):
        for part in re.split("[,;]", match[1]):
            ends = [int(number) for number in re.split("[–-]", part)]
            first, last = min(ends), max(ends)
            # "[120-200]" is a range of values, not eighty citations.
            found |= dict.fromkeys(range(first, last + 1) if last <= count else (first, last))
    return (
        [key for key in found if 1 <= key <= count],
        [key for key in found if not 1 <= key <= count],
    )


def abstains(text: str) -> bool:
    """Return whether a text says, alone or among other things, that the literature is silent."""
    return _bare(NO_ANSWER) in _bare(text)


def claims(text: str, count: int) -> list[Claim]:
    """Return the sentences of an answer that say something, with their keys of `count` passages.

    Keys belong to the sentence that they stand in or behind, also behind its full stop. They
    belong to the next one if the answer begins with a key, if they begin its line, or if only the
    sentence before has keys within. No claims are: the sentence that abstains, questions, headings,
    what only opens a list or agrees, and sentences without a word of content or a number.
    """
    found = []
    for start, end, begin, stop in _extents(text):
        said = BRACKETS.sub(" ", text[start:end])
        said = " ".join(MARKUP.sub("", AGREEMENT.sub("", said, count=1)).split())
        said = SPACED.sub("", said)
        empty = not _words(said) - FILLERS and not quantities(said)
        if empty or said.startswith("#") or said.endswith((":", "?")) or abstains(said):
            continue
        kept = text[begin:stop]
        begin, stop = begin + len(kept) - len(kept.lstrip()), begin + len(kept.rstrip())
        found.append(Claim(said, begin, stop, tuple(keys(kept, count)[0])))
    return found


def checked(replies: Sequence[Reply], embedder: Embedder) -> list[list[Checked]]:
    """Return the claims of each answer, each with the closest stretch of the passages it cites.

    Sentences read together have the mean of their vectors. Passages are read in order of their
    ids, BLOCK of them at a time with one call of the embedder, so that memory does not grow with
    their number.
    """
    made = [claims(reply.answer, len(reply.passages)) for reply in replies]
    citing: defaultdict[str, list[_Pair]] = defaultdict(list)
    for number, (reply, found) in enumerate(zip(replies, made, strict=True)):
        for place, claim in enumerate(found):
            for key in claim.keys:
                passage = reply.passages[key - 1]
                pair = _Pair((number, place), claim, key, passage, reply.question)
                citing[passage.passage_id].append(pair)
    quotes: defaultdict[tuple[int, int], dict[int, Quote]] = defaultdict(dict)
    vectors: dict[str, NDArray[np.float32]] = {}
    names = sorted(citing)
    for first in range(0, len(names), BLOCK):
        block = [
            (_units(citing[name][0].passage.text), citing[name])
            for name in names[first : first + BLOCK]
        ]
        block = [(units, pairs) for units, pairs in block if units.texts]
        texts = {text for units, _ in block for text in units.texts}
        texts |= {pair.compared for _, pairs in block for pair in pairs}
        vectors = _embedded(texts, vectors, embedder)
        for units, pairs in block:
            read = _Read(units, vectors)
            for pair in pairs:
                quotes[pair.place][pair.key] = read.closest(pair, vectors[pair.compared])
    return [
        [
            Checked(
                claim,
                tuple(
                    quotes[number, place][key] for key in claim.keys if key in quotes[number, place]
                ),
            )
            for place, claim in enumerate(found)
        ]
        for number, found in enumerate(made)
    ]


def _embedded(
    texts: Set[str], known: "dict[str, NDArray[np.float32]]", embedder: Embedder
) -> "dict[str, NDArray[np.float32]]":
    """Return the vectors of these texts, and up to KEPT of those that are known."""
    new = sorted(texts - known.keys())
    if len(known) + len(new) > KEPT:
        known = {text: vector for text, vector in known.items() if text in texts}
    # copies, for a row keeps the whole array that it is a row of
    made = (vector.copy() for vector in embedder.embed(new)) if new else ()
    return known | dict(zip(new, made, strict=True))


def _extents(text: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield (start, end, begin, stop) of each sentence, without and with the keys around it."""
    spans = list(_spans(text))
    leading = bool(BRACKETS.match(text.lstrip()))
    begin = 0
    for place, (start, end) in enumerate(spans):
        stop = len(text)
        for first, last in spans[place + 1 : place + 2]:
            stop = first
            outside = BRACKETS.search(text, end, first)
            within = BRACKETS.search(text, start, end) and not BRACKETS.search(text, first, last)
            if outside and (leading or within or "\n" in text[end : outside.start()]):
                stop = outside.start()
        yield start, end, begin, stop
        begin = stop


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the sentences of an answer; keys behind a full stop belong to none of them."""
    blank = BRACKETS.sub(lambda match: " " * len(match[0]), text)
    ends = [match.end() for match in SEALED.finditer(text)]
    for start, end in pairwise([0, *ends, len(text)]):
        yield from ((start + a, start + b) for a, b in sentences(blank[start:end]))


class _Pair(NamedTuple):
    """A claim and one of the passages that it cites."""

    place: tuple[int, int]
    """Number of the answer, and of the claim in it."""
    claim: Claim
    key: int
    passage: Passage
    question: str

    @property
    def compared(self) -> str:
        """The claim; "It is 120 to 200 ms" says what only with its question."""
        said = self.claim.text
        return f"{self.question} {said}" if len(_words(said)) <= FEW else said


class _Units(NamedTuple):
    """The sentences, list items and table rows of a passage; no headings."""

    spans: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]
    lists: tuple[tuple[int, int], ...]
    """Each from the place of the sentence that opens it to the place behind its last item."""


class _Read:
    """The neighbouring sentences of a passage, one to WIDEST at a time, with vectors and words.

    A sentence with the whole list that it opens is read together as well.
    """

    def __init__(self, units: _Units, vectors: "dict[str, NDArray[np.float32]]") -> None:
        import numpy as np

        windows = [
            (first, first + width)
            for width in range(1, WIDEST + 1)
            for first in range(len(units.texts) - width + 1)
        ]
        self.windows = windows + [window for window in units.lists if window not in windows]
        self.spans = units.spans
        own = [_words(text) for text in units.texts]
        self.words = [frozenset[str]().union(*own[first:last]) for first, last in self.windows]
        if self.windows:
            sums = np.stack(
                [
                    np.sum([vectors[text] for text in units.texts[first:last]], axis=0)
                    for first, last in self.windows
                ]
            )
            norms = np.linalg.norm(sums, axis=1, keepdims=True)
            self.vectors = sums / np.maximum(norms, np.finfo(np.float32).tiny)

    def closest(self, pair: _Pair, vector: "NDArray[np.float32]") -> Quote:
        wanted = _words(pair.compared)
        cosines = (self.vectors @ vector).tolist()
        scores = [
            COSINE * cosine
            + (1 - COSINE) * (len(wanted & held) / len(wanted) if wanted else 1.0)
            - EACH * (last - first)
            for cosine, held, (first, last) in zip(cosines, self.words, self.windows, strict=True)
        ]
        best = max(range(len(scores)), key=lambda place: (scores[place], -place))
        first, last = self.windows[best]
        start, end = self.spans[first][0], self.spans[last - 1][1]
        against = contradiction(pair.claim.text, pair.passage.text[start:end], pair.question)
        return Quote(pair.key, pair.passage, start, end, round(scores[best], 4), against)


def _units(text: str) -> _Units:
    spans = tuple(
        (start, end)
        for start, end in sentences(text)
        if text[start] != "#" and _words(text[start:end])
    )
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    lists = tuple(
        (bisect_left(starts, start), bisect_right(ends, end)) for start, end in statements(text)
    )
    return _Units(
        spans,
        tuple(" ".join(text[start:end].split()) for start, end in spans),
        tuple((first, last) for first, last in lists if last > first),
    )


def _words(text: str) -> frozenset[str]:
    """Return the stems of a text that are no numbers: these must stand there in any case."""
    return frozenset(filter(str.isalpha, stems(text)))


def _bare(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
