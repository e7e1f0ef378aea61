"""How a corpus uses its words: with which capitals, after which article, how often."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ecg_llm.questions.writing.patterns import WORDS
from ecg_llm.words import GERMAN

GERMAN_ADJECTIVE = re.compile(r"[A-ZÄÖÜ]\w+(?:e|er|es|en|em) [A-ZÄÖÜ]")
EPONYM = re.compile(r"\S+ (?:sign|syndrome|criteri\w+|score|formula|law|disease)\b")
JOINED = re.compile(r"\b([a-z]{4,})(?:the|which|that|and|into|from|such)\b")
SHORTENED = re.compile(r"\(([A-Z][A-Za-z]{0,4}[A-Z])\)")
ABBREVIATION = re.compile(r"(?<![\w(“„’'-])[A-Z][A-Za-z]{0,4}[A-Z](?![\w’'-])")
SURE = 0.8
"""Share of the uses of an abbreviation that must explain it in one way."""
WORD = re.compile(r"[\w’'-]+")
FREQUENT = 5
"""Of a rare word, two parts that the corpus uses so often alone are two words run together."""
LARGE = (50_000, 150_000)
"""Words of a corpus from which a thing must be named twice, and three times, to be known."""


class Usage:
    """The words of a corpus, counted."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._inside: Counter[str] = Counter()
        self._after_the: Counter[str] = Counter()
        self._words: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._triples: Counter[tuple[str, str, str]] = Counter()
        self._long: dict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            self._inside.update(re.findall(r"(?<=[a-zäöü,] )[\w’'-]+", text))
            words = [word.removesuffix("s") for word in WORD.findall(text.lower())]
            self._words.update(words)
            self._pairs.update(pairwise(words))
            self._after_the.update(after for the, after in pairwise(words) if the == "the")
            self._triples.update(zip(words, words[1:], words[2:], strict=False))
            for short, long in _explained(text):
                self._long[short][long] += 1
        self._often = 1 + sum(self._words.total() > size for size in LARGE)

    def lowered(self, phrase: str, language: str = "en") -> str:
        """Return a phrase from a sentence's start as it reads inside a sentence."""
        first = phrase.split()[0]
        if any(c.isupper() or c.isdigit() for c in first[1:]) or (len(first) == 1 and first != "A"):
            return phrase
        small = first[0].lower() + first[1:]
        if self._inside[first] or self._inside[small]:
            keeps = self._inside[first] > self._inside[small]
        elif language == "de":
            keeps = first.lower() not in GERMAN and not GERMAN_ADJECTIVE.match(phrase)
        else:
            keeps = bool(EPONYM.match(phrase)) or first in WORDS["names"]
        return phrase if keeps else small + phrase[len(first) :]

    def spelled_out(self, question: str) -> str:
        """Return a question with its first use of an abbreviation after the words it stands for.

        Only where the corpus explains it in one way, and the question does not say the words.
        """
        for short in dict.fromkeys(ABBREVIATION.findall(question)):
            meanings = self._long.get(short)
            if not meanings:
                continue
            long, count = meanings.most_common(1)[0]
            if count < SURE * meanings.total() or long.split()[-1] in question.lower():
                continue
            question = re.sub(
                rf"(?<![\w(“„’'-]){short}(?![\w’'-])", f"{long} ({short})", question, count=1
            )
        return question

    def takes_the(self, word: str) -> bool:
        """Return whether "the" mostly stands before a word: the heart, not the repolarization."""
        key = word.lower().removesuffix("s")
        return self._after_the[key] > 0.4 * self._words[key]

    def knows(self, phrase: str) -> bool:
        """Return whether the corpus names a thing as often as its size lets expect.

        Of a longer name the last two words count, and that all three occur elsewhere too.
        """
        words = [word.removesuffix("s") for word in WORD.findall(phrase.lower())][-3:]
        if len(words) == 3 and self._triples[words[0], words[1], words[2]] < min(2, self._often):
            return False
        words = words[-2:]
        if len(words) < 2:
            return self._words["".join(words)] >= self._often
        return self._pairs[words[0], words[1]] >= self._often

    def is_run_together(self, text: str) -> bool:
        """Return whether two words have lost the dash between them: "forebrainthe"."""
        for found in JOINED.finditer(text):
            if self._words[found[0].removesuffix("s")] < 3 and self._words[found[1]]:
                return True
        return any(
            self._words[word] < 3
            and any(
                min(self._words[word[:at]], self._words[word[at:]]) >= FREQUENT
                for at in range(4, len(word) - 3)
            )
            for word in re.findall(r"\b[a-z]{10,40}\b", text)
        )

    def is_heading(self, phrase: str) -> bool:
        """Return whether a phrase has capitals inside that its words do not have elsewhere.

        So it does where a heading without a full stop stands before the sentence.
        """
        return any(
            word[0].isupper()
            and word[1:].islower()
            and self._inside[word[0].lower() + word[1:]] > self._inside[word]
            for word in WORD.findall(phrase)[1:]
        )


def _explained(text: str) -> Iterator[tuple[str, str]]:
    """Yield the abbreviations of a text with the words before them of which they are initials."""
    for found in SHORTENED.finditer(text):
        short = found[1].lower()
        words = text[max(0, found.start() - 80) : found.start()].split()[-len(short) :]
        if len(words) == len(short) and all(
            word.lower().startswith(letter) for word, letter in zip(words, short, strict=True)
        ):
            yield found[1], " ".join(words).lower()
