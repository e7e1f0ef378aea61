"""Text to terms: what the lexical side of an index matches."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

VERSION = 1
"""Of the analysis; another one means another index."""

STOP_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        "en": """
            a also an and are as at be been being between but by can could did do does for from had
            has have how if in into is it its may might no not of on or our should such than that
            the their then there these they this to used use using was we were what when where
            which who why will with would
        """,
        "de": """
            aber als am an auch auf aus bei beim bis da damit das dass dem den denn der des die dies
            diese diesem diesen dieser dieses durch ein eine einem einen einer eines er es für gibt
            hat haben ihr ihre im in ins ist kann kein keine können man mit nach nicht noch nur ob
            oder sein seine sich sie sind so sowie über um und uns unter vom von vor war waren warum
            was welche welchem welchen welcher welches wenn wer werden wie wird wo wurde wurden zu
            zum zur zwischen
        """,
    }.items()
}
STEMMERS = {"en": "english", "de": "german"}

DASHES = re.compile(r"[\u2010-\u2015\u2212]")
NUMBER = r"\d+(?:[.,]\d+)*"
TOKEN = re.compile(rf"{NUMBER}(?![^\W_])|[^\W_]+")
PARTS = re.compile(r"\d+|[^\W\d_]+")
JOINED = re.compile(r"(?<![\w-])([^\W\d_]{1,5})-(\d{1,3}[^\W\d_]?)(?![\w-])")
"""A name of letters, a hyphen and a number, such as IL-6: written without the hyphen as well."""


def terms(text: str, language: str = "en") -> tuple[str, ...]:
    """Return the terms of a text in its order, repeated as there; stop words are left out.

    Words are lower-cased and stemmed by Snowball's stemmer of the language, "en" or "de" (any
    other: "en"), and lose their accents; the German stemmer reads ae, oe, ue and ss as ä, ö, ü and
    ß. A number is one term, its decimal sign a point. A name of letters and digits gives itself and
    its parts: "IL-6" and "IL6" both give il, 6 and il6.
    """
    return tuple(_stemmed(text, language if language in STEMMERS else "en"))


def query_terms(text: str) -> tuple[str, ...]:
    """Return the distinct terms of a query in either language: a short text's is not known."""
    return tuple(dict.fromkeys(term for language in STEMMERS for term in terms(text, language)))


def _stemmed(text: str, language: str) -> Iterator[str]:
    stemmer, stop_words = _stemmer(language), STOP_WORDS[language]
    for token in _tokens(text):
        if token[0].isdigit():
            yield _number(token, language)
        elif token not in stop_words:
            yield _plain(stemmer.stemWord(token))


def _tokens(text: str) -> Iterator[str]:
    text = unicodedata.normalize("NFKC", text).lower().replace("\u00ad", "")
    text = DASHES.sub("-", text)
    for token in TOKEN.findall(text):
        parts = PARTS.findall(token) if token.isalnum() else [token]
        # Digits followed by letters are a number and its unit, letters first a name.
        if len(parts) == 1 or not token[0].isdigit():
            yield token
        if len(parts) > 1:
            yield from parts
    for match in JOINED.finditer(text):
        yield match[1] + match[2]


def _number(token: str, language: str) -> str:
    """Return a number without the signs between thousands, its decimal sign a point."""
    thousands, decimal = (".", ",") if language == "de" else (",", ".")
    if re.fullmatch(rf"[1-9]\d{{0,2}}(?:\{thousands}\d{{3}})+(?:\{decimal}\d+)?", token):
        token = token.replace(thousands, "")
    return token.replace(",", ".")


def _plain(word: str) -> str:
    if word.isascii():
        return word
    letters = unicodedata.normalize("NFD", word)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


@cache
def _stemmer(language: str) -> Any:
    import Stemmer

    return Stemmer.Stemmer(STEMMERS[language])
