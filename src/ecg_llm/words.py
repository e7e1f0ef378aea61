"""Words of a text: its terms, stems and numbers, which language, how much is shared."""

import re
from collections import Counter
from functools import lru_cache

WINDOWS = 256
"""Texts whose words are kept: all questions of a window are compared with its passages."""
PASSAGES = 4096
"""Texts whose stems are kept."""
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


def shared(wanted: str, *texts: str) -> float:
    """Return the share of the stems of `wanted` that a text holds; 0 if it has none."""
    own = stems(wanted)
    held = frozenset[str]().union(*map(stems, texts))
    return len(own & held) / len(own) if own else 0.0


def support(answer: str, *texts: str) -> float:
    """Return the share of an answer's content words that the texts hold; 1 if it has none."""
    return shared(answer, *texts) if stems(answer) else 1.0


def stem(word: str) -> str:
    """Return the first five letters of a word, a crude stem that serves English and German."""
    return word if word[:1].isdigit() else word[:5]


@lru_cache(PASSAGES)
def stems(text: str) -> frozenset[str]:
    """Return the stems of a text's content words; numbers are whole."""
    return frozenset(map(stem, content_words(text)))
