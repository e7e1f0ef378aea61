"""Wrong options for choice questions: terms, definitions and values of the right one's kind."""

import math
import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

from ecg_llm.questions.writing.patterns import ROOTS
from ecg_llm.questions.writing.terms import WRONG_OPTIONS
from ecg_llm.records import digest
from ecg_llm.words import content_words

CANDIDATES = 10
"""Of the most plausible wrong options, as many are considered for their length."""
OPTION_WORDS = 38
RELATED = 2
"""Of three wrong options, so many must be of the right one's field: else the field tells it."""
ALIKE = 0.5
"""Jaccard similarity, or share of the shorter's words, from which one option says another."""
LONG = 5
"""Words from which the share of the shorter option counts: two veins may both be "cardiac"."""
STEM = 5
"""Letters from which on two words with one beginning, or one within the other, are related."""
FARTHEST_RATIO, NEAREST_RATIO = 6.0, 1.25
"""A wrong value is at most six times the right one or a sixth of it, and not within 25 percent."""

_NUMBER = r"\d+(?:\.\d+)?"
VALUE = re.compile(
    rf"(?<![\w.,/:–−+-])(?P<value>{_NUMBER}(?:(?: to | and |[–-]){_NUMBER})?) ?"
    r"(?P<unit>ms|milliseconds|seconds|mm per second|mm/s|mmHg|mm Hg|mmol/L|mEq/L|mm|cm|mV|bpm"
    r"|beats per minute|percent|%|degrees|Hz|mg|g/dL|mL|micrometers|liters|hours|minutes|days"
    r"|weeks|months|years)"
    r"(?![\w/])(?! per)(?!\s*\([^)]*\d)"
)


class Other(NamedTuple):
    """What is known of a possible wrong option."""

    near: int
    """How near it stands to the right one."""
    told: str
    """All that the corpus says of it."""
    related: bool
    """Whether it is of the same part of the document, or told of with the same words."""


class Value(NamedTuple):
    """A number, or a range, with its unit, as a sentence states it."""

    text: str
    unit: str
    ends: tuple[float, ...]

    def ratio(self, other: "Value") -> float:
        """Return how far apart two values are: the nearest of their ends, larger over smaller."""
        return min(_ratio(a, b) for a, b in zip(self.ends, other.ends, strict=True))


def values_in(text: str) -> list[tuple[Value, int, int]]:
    """Return the values of a text with their places."""
    return [(_value(match), match.start(), match.end()) for match in VALUE.finditer(text)]


def wrong_options(
    asked: str, right: str, others: Mapping[str, Other], about: str, rng: random.Random
) -> tuple[str, ...]:
    """Return three of the `others` as wrong options, or none if three fit ones are not there.

    Of the `others`, the related come first, of these the nearest, then those that share words with
    what is said `about` the right one; most of the three are related to it. How many of the
    three are longer than the right one is drawn, so that length tells nothing. A word of what is
    `asked` that the right one repeats is repeated by a wrong one too.
    """
    wanted = _content(about)
    said = {option: _content(other.told) for option, other in others.items()}
    # Divided by the root of the length, or long options would always come first.
    shared = {
        option: len(wanted & words) / math.sqrt(len(words) or 1) for option, words in said.items()
    }

    def rank(option: str) -> tuple[bool, int, float, str]:
        other = others[option]
        return not other.related, -other.near, -shared[option], digest(right, option)

    ranked = sorted(others, key=rank)
    fit: list[str] = []
    for other in ranked:
        if len(fit) == CANDIDATES:
            break
        ratio = _ratio(len(other), len(right))
        named = any(
            re.search(rf"\b{re.escape(a.lower())}\b", others[b].told.lower())
            for option in fit
            for a, b in ((other, option), (option, other))
        )
        if ratio <= 3 and not named and not any(alike(other, o) for o in (right, *fit)):
            fit.append(other)
    longer = [option for option in fit if len(option) > len(right)]
    shorter = [option for option in fit if len(option) <= len(right)]
    count = rng.randrange(WRONG_OPTIONS + 1)
    chosen = longer[:count] + shorter[: WRONG_OPTIONS - count]
    chosen += [option for option in fit if option not in chosen]
    for wrong in combinations(chosen, WRONG_OPTIONS):
        related = sum(others[option].related for option in wrong)
        if related >= RELATED and not gives_away(asked, right, wrong):
            return wrong
    return ()


def wrong_values(
    right: Value, stated: set[str], values: Sequence[Value], rng: random.Random
) -> tuple[str, ...]:
    """Return three values of the same unit that the sentence does not state, or none."""
    fits = [
        value
        for value in values
        if value.text not in stated
        and len(value.ends) == len(right.ends)
        and NEAREST_RATIO < value.ratio(right) < FARTHEST_RATIO
        and not (value.unit in ("percent", "%") and max(value.ends) > 100 >= max(right.ends))
    ]
    fits.sort(key=lambda value: (value.ratio(right), value.text))
    chosen: list[Value] = []
    for value in rng.sample(fits[: 2 * CANDIDATES], len(fits[: 2 * CANDIDATES])):
        if len(chosen) == WRONG_OPTIONS:
            break
        if all(value.ratio(other) > NEAREST_RATIO for other in chosen):
            chosen.append(value)
    return tuple(value.text for value in chosen) if len(chosen) == WRONG_OPTIONS else ()


def _value(match: re.Match[str]) -> Value:
    ends = tuple(float(number) for number in re.findall(_NUMBER, match["value"]))
    gap = "" if match["unit"] == "%" else " "
    return Value(f"{match['value']}{gap}{match['unit']}", match["unit"], ends)


def _ratio(a: float, b: float) -> float:
    """Return how many times the larger is the smaller; infinite where that has no meaning."""
    low, high = sorted((a, b))
    return high / low if low > 0 else math.inf


@cache
def _content(text: str) -> frozenset[str]:
    return frozenset(content_words(text))


def alike(a: str, b: str) -> bool:
    """Return whether two options nearly say the same."""
    first, second = _content(a), _content(b)
    shared, least = len(first & second), min(len(first), len(second))
    return shared >= ALIKE * len(first | second) or (least >= LONG and shared >= ALIKE * least)


def gives_away(asked: str, right: str, wrong: Sequence[str]) -> bool:
    """Return whether the right option repeats a word of what is asked that no wrong one repeats."""
    return bool(_echoes(asked, right).difference(*(_echoes(asked, other) for other in wrong)))


def _echoes(asked: str, option: str) -> set[str]:
    """Return the words of what is asked that an option repeats, be it in Latin."""
    said = {form for word in _content(option) for form in _forms(word)}
    return {
        word
        for word in _content(asked)
        if any(_kin(form, other) for form in _forms(word) for other in said)
    }


@cache
def _forms(word: str) -> frozenset[str]:
    """Return a word with the roots in it: "cardiac" is of the heart."""
    found = {root for start, root in ROOTS.items() if word.startswith(start)}
    return frozenset({word.removesuffix("s"), *found})


@cache
def _kin(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    return a == b or (len(short) >= STEM and (short[:STEM] == long[:STEM] or short in long))


def capital(text: str) -> str:
    """Return an option with a capital letter in front, unless its first word is like "pH"."""
    first = text.split()[0]
    return text if any(c.isupper() for c in first[1:]) else text[0].upper() + text[1:]
