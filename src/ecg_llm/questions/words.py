"""Words of a text: which language, how much is shared, where a quote stands, what says the same."""

import re
from collections import Counter
from collections.abc import Iterable

from datasketch import MinHash, MinHashLSH

from ecg_llm.records import LETTERS, Question

SIMILAR = 0.8
"""Jaccard similarity of word sets from which two questions say the same."""

WORD = re.compile(r"[^\W_]+(?:[.,]\d+)?")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ENGLISH = _set(
    "the of and in to is are was with for that by from on as be which an or not this what at it "
    "does do how when why who has have can should most following"
)
GERMAN = _set(
    "der die das und ist ein eine einer eines einem einen mit von zu für auf im den dem des bei "
    "nicht oder wird werden sich als auch durch nach welche welcher welches wie was wann sind"
)
FUNCTION_WORDS = ENGLISH | GERMAN | _set("a i its their than into if then there s")
DISTINGUISHING = _set(
    "first second third fourth i ii iii iv left right no not never without anterior posterior "
    "inferior superior lateral upper lower short long increased decreased erster zweiter dritter "
    "ersten zweiten dritten links rechts linke rechte linken rechten kein keine nicht ohne"
)
"""Words that make two otherwise equal questions different ones, as numbers do."""
ALIKE = str.maketrans(dict.fromkeys('“”„"’‘`´', "'") | dict.fromkeys("–—−‐‑", "-"))


def words_of(text: str) -> list[str]:
    """Return the words of a text, lower case, decimal numbers whole and with a point."""
    return [plain_number(word) for word in WORD.findall(text.lower())]


def content_words(text: str) -> list[str]:
    """Return the words of a text that carry meaning."""
    return [word for word in words_of(text) if word not in FUNCTION_WORDS]


def plain_text(text: str) -> str:
    """Return a text as compared for equality: lower case, single spaces, no full stop at the end.

    Signs stay, since "< 5" is not "> 5".
    """
    return " ".join(text.lower().split()).rstrip(". ")


def plain_number(word: str) -> str:
    """Return a number with a decimal point and without thousands separators; else the word."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+", word):
        return word.replace(",", "")
    return word.replace(",", ".") if word[:1].isdigit() else word


def language_of(text: str) -> str:
    """Return "en" or "de" by the text's function words, or "" if they do not decide."""
    counts = Counter(words_of(text))
    english = sum(counts[word] for word in ENGLISH)
    german = sum(counts[word] for word in GERMAN)
    if english == german:
        return ""
    return "en" if english > german else "de"


def support(answer: str, text: str) -> float:
    """Return the share of the answer's content words whose stem the text holds; 1 if it has none.

    Words are compared by their first five letters, a crude stem that serves English and German.
    """
    wanted = {word[:5] for word in content_words(answer)}
    held = {word[:5] for word in content_words(text)}
    return len(wanted & held) / len(wanted) if wanted else 1.0


def quoted_span(quote: str, text: str) -> str:
    """Return the part of the text that reads as the quote does, in the text's own characters.

    Case, white space, quotation marks, dashes, soft hyphens and Markdown emphasis do not count.
    Empty if there is none, or if the quote has fewer than three words and so proves nothing.
    """
    wanted = _plain(quote)[0].strip(" '…").removesuffix("...").strip()
    if len(wanted.split()) < 3:
        return ""
    plain, places = _plain(text)
    at = plain.find(wanted)
    return text[places[at] : places[at + len(wanted) - 1] + 1] if at >= 0 else ""


def _plain(text: str) -> tuple[str, list[int]]:
    """Return the text as compared, and for each of its characters the place it came from."""
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if character in "\u00ad*_":
            continue
        if character.isspace():
            if characters and characters[-1] == " ":
                continue
            character = " "
        for lowered in character.lower().translate(ALIKE):
            characters.append(lowered)
            places.append(place)
    return "".join(characters), places


def correct_option(row: Question) -> str:
    """Return the text of the right option; "" for an open question."""
    return row.options[LETTERS.index(row.answer)] if row.answer else ""


class NearIndex:
    """Questions that can be searched for one that says nearly the same.

    Two views of a question are compared: what is asked (for a choice question with the right
    option), and what is asked and answered. MinHash finds candidates; the word sets decide, and
    questions with different numbers, degrees or sides are never the same.
    """

    def __init__(self) -> None:
        self._lsh = MinHashLSH(threshold=0.65, num_perm=128)
        self._views: dict[str, frozenset[str]] = {}

    def add(self, row: Question) -> None:
        """Make a question findable."""
        for view, words in _views(row).items():
            key = f"{row.question_id}/{view}"
            if words and key not in self._views:
                self._views[key] = words
                self._lsh.insert(key, _minhash(words))

    def find(self, row: Question) -> str:
        """Return the question_id of an indexed question that says the same, or ""."""
        for view, words in _views(row).items():
            for key in sorted(self._lsh.query(_minhash(words))) if words else ():
                name, _, other = str(key).rpartition("/")
                if other == view and _same(words, self._views[key]):
                    return name
        return ""


def _views(row: Question) -> dict[str, frozenset[str]]:
    right = correct_option(row)
    return {
        "asked": frozenset(words_of(f"{row.question} {right}")),
        "told": frozenset(words_of(f"{row.question} {row.reference or right}")),
    }


def _same(a: frozenset[str], b: frozenset[str]) -> bool:
    if any(w in DISTINGUISHING or any(map(str.isdigit, w)) for w in a ^ b):
        return False
    return len(a & b) >= SIMILAR * len(a | b)


def _minhash(words: Iterable[str]) -> MinHash:
    made = MinHash(num_perm=128, seed=1)
    made.update_batch([word.encode() for word in words])
    return made
