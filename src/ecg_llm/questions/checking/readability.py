"""Flesch reading ease of English and German text, with a syllable counter of its own."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

WORD = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]\b|[^\W_]+(?:['’/‑-][^\W_]+|[.,]\d+)*")
"""Hyphenated words and contractions are one word (Flesch 1948)."""
PART = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
SENTENCE_END = re.compile(r"[.?!:;…]+[\"'”’)\]]*(?=\s|$)|\n{2,}")
ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|vs|etc|figs?|approx|resp|dr|prof|no|ca|cf|z\.\s?b|d\.\s?h|u\.\s?a|bzw|abb|"
    r"ggf|evtl|sog|inkl|usw|[a-z])\.$",
    re.IGNORECASE,
)
SPELLED = re.compile(r"[A-ZÄÖÜ]{2,5}s?")
"""A word that is read letter by letter: ECG, QRS, PVCs."""

SILENT = (
    r"[^aeiouyl]e$|[aeiouy]le$|[^aeioutd]ed$|[^aeiouscxzgl]es$|[aeiouy]les$|(?:qu|gu)e[sd]?$"
    r"|(?<!l)(?<!cr)(?<!^c)ement|[^aeiouy]ely$|eless|(?<=[^aeiouy])e(?:ful|ness)"
    r"|^pace(?=m)|^wave(?=[fl])|^base(?=l)|^life(?=[tlsb])|^side(?=[dwb])|^some(?=[twhb])"
    r"|^where(?=[abv])|^there(?=f)|^fore(?=[hcg])"
)
HIATUS = (
    r"i[aou]|(?<!g)eo|ao|ii|^duo|creat(?!u)|meab|(?:ng|n)eal|e(?:us|um|i|a)$|ia$"
    r"|(?<![qg])u(?:al|at|ou|ity|en[ct]|ar)|iet|(?<![ct])ien[tc]|[^c]i(?:ers?|est)$"
    r"|[^aeiou\W]y[aio]|[aeiou]y[aeiou](?!d$|s$|$)|[eo]ing|(?:th|s)ms?$"
    r"|^re(?=act|ent|ex|abs)|^pre(?=ex|ec|op)|^co(?=ag|ex|or|op)|^deo"
)
JOINED = r"[ctsgxln]ion|[ctg]ious|[ctl]ia[ln]|iage|^(?:real|sea|tea|pea|plea|flea|lea)$"
"""Where two vowels that HIATUS takes for two sounds are one."""
EXCEPTIONS = {
    "people": 2, "syncope": 3, "systole": 3, "diastole": 4, "acne": 2, "science": 2, "ion": 2,
    "ions": 2, "anion": 3, "anions": 3, "being": 2, "areas": 3, "ideas": 3, "radii": 3, "hour": 1,
    "through": 1, "series": 2, "species": 2,
}  # fmt: skip
SOUND = re.compile(r"au|äu|eu|ei|ai|ie|oi|aa|ee|oo|ey|ay|[aeiouyäöüéèêáàâ]")
GERMAN_HIATUS = re.compile(
    r"ien(?:t|z)|(?<=[aeiouyäöü])[^aeiouyäöü]+ien$|eum$"
    r"|(?:arter|lin|stud|famil|ser|histor|mater|fol)ie$"
)


class Spoken(NamedTuple):
    """Syllables of numbers read aloud."""

    small: tuple[int, ...]
    """0 to 19."""
    tens: tuple[int, ...]
    """20, 30 ... 90."""
    hundred: int
    thousand: int
    point: int
    joint: int
    """Between ones and tens, as the German "und"."""


NUMBERS: Mapping[str, Spoken] = {
    "en": Spoken((2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 3, 1, 2, 2, 2, 2, 3, 2, 2),
                 (2, 2, 2, 2, 2, 3, 2, 2), 2, 2, 1, 0),
    "de": Spoken((1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2),
                 (2, 2, 2, 2, 2, 2, 2, 2), 2, 2, 2, 1),
}  # fmt: skip


class Counts(NamedTuple):
    """What the formulas take of a text."""

    sentences: int
    words: int
    syllables: int


def flesch(counts: Counts) -> float:
    """Return the reading ease of English text (Flesch 1948, J Appl Psychol 32:221-233)."""
    length, weight = counts.words / counts.sentences, counts.syllables / counts.words
    return 206.835 - 1.015 * length - 84.6 * weight


def amstad(counts: Counts) -> float:
    """Return the reading ease of German text (Amstad 1978, dissertation, Zürich)."""
    return 180 - counts.words / counts.sentences - 58.5 * counts.syllables / counts.words


FORMULAS = {"en": flesch, "de": amstad}


def reading_ease(texts: Iterable[str], language: str) -> float | None:
    """Return the reading ease of these texts taken as one; higher is easier, 60-70 plain prose.

    "en" by Flesch, "de" by Amstad; None for other languages and where there is no word. As Flesch
    has it, numbers and abbreviations count the syllables that they have when read aloud; symbols
    and units count as written. Other tools count other syllables: compare only figures of one tool.
    """
    if language not in FORMULAS:
        return None
    counts = [counted(text, language) for text in texts]
    total = Counts(*(sum(column) for column in zip(*counts, strict=True))) if counts else None
    return FORMULAS[language](total) if total and total.words else None


def counted(text: str, language: str = "en") -> Counts:
    """Return sentences, words and syllables of a text; the end of the text ends a sentence."""
    words = WORD.findall(text)
    return Counts(
        sum(1 for _ in _sentences(text)),
        len(words),
        sum(syllables(word, language) for word in words),
    )


def _sentences(text: str) -> Iterator[str]:
    text, start = text.rstrip(), 0
    for end in SENTENCE_END.finditer(text):
        piece = text[start : end.end()]
        inside = end.end() < len(text) and ABBREVIATION.search(piece[-12:])
        if WORD.search(piece) and not inside:
            yield piece
            start = end.end()
    if WORD.search(text[start:]):
        yield text[start:]


@functools.lru_cache(maxsize=100_000)
def syllables(word: str, language: str = "en") -> int:
    """Return the syllables of a word or number, as read aloud: 1 or more."""
    total = 0
    for part in PART.findall(word.replace("'", "").replace("’", "")):
        if part[0].isdecimal():
            total += _of_number(part, language)
        elif SPELLED.fullmatch(part):
            letters = part.removesuffix("s")
            total += len(letters) + 2 * letters.count("W") * (language == "en")
        else:
            total += _of_german(part.lower()) if language == "de" else _of_english(part.lower())
    return max(1, total)


def _of_english(word: str) -> int:
    """Count vowel groups; silent letters less, vowels that are two sounds more."""
    if word in EXCEPTIONS:
        return EXCEPTIONS[word]
    groups = len(re.findall(r"[aeiouy]+", word))
    silent = len(re.findall(SILENT, word))
    split = len(re.findall(HIATUS, word)) - len(re.findall(JOINED, word))
    return max(1, groups - silent + max(0, split))


def _of_german(word: str) -> int:
    """Count vowels and diphthongs; Latin endings are two sounds."""
    sounds = SOUND.findall(word.replace("qu", "kw"))
    return max(1, len(sounds) + len(GERMAN_HIATUS.findall(word)))


def _of_number(text: str, language: str) -> int:
    spoken = NUMBERS.get(language, NUMBERS["en"])
    thousands, point = (".", ",") if language == "de" else (",", ".")
    if re.fullmatch(rf"\d{{1,3}}(?:\{thousands}\d{{3}})+", text):
        text = text.replace(thousands, "")
    whole, *decimals = text.replace(thousands, point).split(point)
    total = _of_whole(whole, spoken)
    return total + sum(spoken.point + _of_digits(part, spoken) for part in decimals)


def _of_digits(digits: str, spoken: Spoken) -> int:
    return sum(spoken.small[int(digit)] for digit in digits)


def _of_whole(digits: str, spoken: Spoken) -> int:
    value = int(digits)
    if value >= 1_000_000 or (len(digits) > 1 and digits[0] == "0"):
        return _of_digits(digits, spoken)
    if 1100 <= value < 2000 and value % 100 >= 10:  # "nineteen eighteen", as years are read
        hundred = spoken.hundred if spoken.joint else 0
        return (
            _below_thousand(value // 100, spoken) + hundred + _below_thousand(value % 100, spoken)
        )
    if value >= 1000:
        rest = _below_thousand(value % 1000, spoken) if value % 1000 else 0
        return _below_thousand(value // 1000, spoken) + spoken.thousand + rest
    return _below_thousand(value, spoken)


def _below_thousand(value: int, spoken: Spoken) -> int:
    total = spoken.small[value // 100] + spoken.hundred if value >= 100 else 0
    rest = value % 100
    if rest >= 20:
        ones = spoken.small[rest % 10] + spoken.joint if rest % 10 else 0
        return total + spoken.tens[rest // 10 - 2] + ones
    return total + (spoken.small[rest] if rest or not total else 0)
