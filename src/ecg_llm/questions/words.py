"""Words of a text: which language, how much is shared, where a quote stands."""

import re
from collections import Counter
from functools import lru_cache

from ecg_llm.records import LETTERS, Question

WINDOWS = 256
"""Texts whose words are kept: all questions of a window are compared with its passages."""
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
    "first second third fourth last i ii iii iv left right no not never without cannot except "
    "anterior posterior inferior superior lateral medial proximal distal upper lower inner outer "
    "above below before after early late high higher low more less most least greater smaller "
    "short shorten shortens shortened shortening long prolong prolongs prolonged prolonging "
    "increase increases increased increasing decrease decreases decreased decreasing "
    "elevation elevated depression depressed positive negative present absent absence acute "
    "chronic stable unstable regular irregular systolic diastolic sympathetic parasympathetic "
    "afferent efferent sensory motor avoid avoided contraindicated men women male female adults "
    "children depolarization repolarization depolarisation repolarisation "
    "erster erste ersten zweiter zweite zweiten dritter dritte dritten links rechts linke rechte "
    "linken rechten kein keine keinen nicht ohne vor über unter oberhalb unterhalb mehr weniger "
    "hoch hohe niedrig niedrige hebung senkung erhöht erniedrigt verlängert verkürzt verlängern "
    "verkürzen positiv positive negativ negative akute akuten chronische chronischen männer frauen "
    "kinder systolisch diastolisch"
)
"""Words that make two otherwise equal questions different ones, as numbers do: vectors hardly tell
opposites apart ("above" and "below" the bundle of His: .99)."""
DISTINGUISHING_STARTS = ("hyper", "hypo", "tachy", "brady", "anti")
ALIKE = str.maketrans(dict.fromkeys('“”„"’‘`´', "'") | dict.fromkeys("–—−‐‑", "-"))


def words_of(text: str) -> list[str]:
    """Return the words of a text, lower case, decimal numbers whole and with a point."""
    words = WORD.findall(text.lower())
    return [plain_number(word) if word[0].isdigit() else word for word in words]


def distinguishing(word: str) -> bool:
    """Return whether this word alone makes two otherwise equal questions different ones."""
    return (
        word in DISTINGUISHING
        or word.startswith(DISTINGUISHING_STARTS)
        or any(map(str.isdigit, word))
    )


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


@lru_cache(WINDOWS)
def numbers(text: str) -> frozenset[str]:
    """Return the numbers that a text holds, in one spelling."""
    return frozenset(map(plain_number, NUMBER.findall(text)))


@lru_cache(WINDOWS)
def language_of(text: str) -> str:
    """Return "en" or "de" by the text's function words, or "" if they do not decide."""
    counts = Counter(words_of(text))
    english = sum(counts[word] for word in ENGLISH)
    german = sum(counts[word] for word in GERMAN)
    if english == german:
        return ""
    return "en" if english > german else "de"


def support(answer: str, *texts: str) -> float:
    """Return the share of the answer's content words whose stem a text holds; 1 if it has none.

    Words are compared by their first five letters, a crude stem that serves English and German.
    """
    wanted = _stems(answer)
    held = wanted.intersection(stem for text in texts for stem in _stems(text))
    return len(held) / len(wanted) if wanted else 1.0


@lru_cache(WINDOWS)
def _stems(text: str) -> frozenset[str]:
    return frozenset(word[:5] for word in content_words(text))


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


@lru_cache(WINDOWS)
def _plain(text: str) -> tuple[str, tuple[int, ...]]:
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
    return "".join(characters), tuple(places)


def correct_option(row: Question) -> str:
    """Return the text of the right option; "" where the answer names none."""
    place = LETTERS.find(row.answer) if row.answer else -1
    return row.options[place] if 0 <= place < len(row.options) else ""
