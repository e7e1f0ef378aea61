"""Texts to runs of words as numbers, so that millions of runs are compared at once."""

from hashlib import blake2b
from typing import TYPE_CHECKING

from ecg_llm.words import WORD, plain_number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]

FACTOR = 0x9E3779B97F4A7C15


class Vocabulary(dict[str, int]):
    """A number of 64 bits for every word, the same in every process."""

    def __missing__(self, word: str) -> int:
        plain = plain_number(word).encode("utf-8", "surrogatepass")
        made = int.from_bytes(blake2b(plain, digest_size=8).digest(), "big")
        self[word] = made
        return made

    def numbers(self, text: str) -> "Numbers":
        """Return the numbers of the words of a text (see words.words_of), in order."""
        import numpy as np

        return np.array([self[word] for word in WORD.findall(text.lower())], dtype=np.uint64)


def runs(words: "Numbers", length: int) -> "Numbers":
    """Return a number for every run of so many words, in order; none for a shorter text.

    A polynomial of the words' numbers (Karp and Rabin 1987): equal runs have equal numbers, and
    two different runs share one by chance in about 1 of 2^60 pairs.
    """
    import numpy as np

    count = max(len(words) - length + 1, 0)
    made = np.zeros(count, dtype=np.uint64)
    for place in range(length if count else 0):
        made *= np.uint64(FACTOR)
        made += words[place : place + count]
    return made
