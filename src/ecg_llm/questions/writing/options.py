"""Wrong options for choice questions: terms, definitions and values of the right one's kind."""

import math
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from ecg_llm.questions.words import content_words
from ecg_llm.questions.writing.facts import Fact
from ecg_llm.questions.writing.patterns import KINDS, WORDS, Kind
from ecg_llm.questions.writing.sentences import words_in
from ecg_llm.records import digest

WRONG_OPTIONS = 3
CANDIDATES = 10
"""Of the most plausible wrong options, as many are considered for their length."""
TERMS = 500
"""Of each kind, so that a large corpus takes no more time for a question than a small one."""
OPTION_WORDS = 30
TERM_WORDS = 6
MENTIONS = 3
"""Sentences in which a term that is not defined must occur."""
DEFINING = frozenset({"definition", "identity", "term", "apposition", "naming",
                      "de_identity", "de_definition"})  # fmt: skip
"""Relations that say what their subject is."""
ALIKE = 0.5
"""Jaccard similarity from which one option nearly says another."""
TRUE_TOO = 0.3
"""Share of what is said of the right term from which, said of another, that may be right too."""
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
ARTICLE = re.compile(r"^(?:the|an?) (?:hormone |neurotransmitter |drug )?", re.IGNORECASE)
ABBREVIATION = re.compile(r"(?:\S+ )*?\S+ \(([^)]*)\)")
ABBREVIATED = re.compile(r" ?\([^)]*\)")


class Value(NamedTuple):
    """A number, or a range, with its unit, as a sentence states it."""

    text: str
    unit: str
    ends: tuple[float, ...]

    def ratio(self, other: "Value") -> float:
        """Return how far apart two values are: the nearest of their ends, larger over smaller."""
        return min(_ratio(a, b) for a, b in zip(self.ends, other.ends, strict=True))


class Term(NamedTuple):
    """A thing that the corpus says something about."""

    text: str
    """Without its article."""
    kind: Kind
    number: str
    language: str
    said: str
    """What defines it, or is said of it."""
    defined: bool


def values_in(text: str) -> list[tuple[Value, int, int]]:
    """Return the values of a text with their places."""
    return [(_value(match), match.start(), match.end()) for match in VALUE.finditer(text)]


def kind_of(term: str, said: str = "") -> Kind | None:
    """Return what kind of thing a term is, by its last word or by its definition."""
    words = words_in(ABBREVIATED.sub("", re.split(r" (?:of|in|for|with) ", term)[0]))
    if not words:
        return None
    last = words[-1]
    for kind in KINDS:
        if last in kind.words or last.removesuffix("s") in kind.words:
            return kind
    for kind in KINDS:
        if kind.endings and last.endswith(kind.endings) and len(last) > 6:
            return kind
    head = re.split(
        r"\b(?:of|in|that|which|whereby|where|when|for|with|to|by|from|on|at|used|found|located"
        r"|characterized|associated|composed|produced|secreted|resulting|responsible)\b|[,;(]",
        said,
    )[0]
    for word in reversed(words_in(head)):
        for kind in KINDS:
            if word in kind.words or word.removesuffix("s") in kind.words:
                return kind
        break
    return None


def definition(text: str) -> str:
    """Return a definition as an option: without its article, or the "as" of "is defined as"."""
    return ARTICLE.sub("", re.sub(r"^(?:as|by) ", "", text))


def bare(term: str) -> str:
    """Return a term without its article and without an abbreviation in brackets."""
    return ABBREVIATED.sub("", ARTICLE.sub("", term)).strip()


class Terms:
    """The terms of a corpus, from which wrong options are taken."""

    def __init__(self, facts: Iterable[Fact], texts: Iterable[str]) -> None:
        self._by_kind: dict[tuple[str, str, str], dict[str, Term]] = defaultdict(dict)
        self._said: dict[str, list[str]] = defaultdict(list)
        for fact in facts:
            self._add(fact)
        for group, terms in self._by_kind.items():
            best = sorted(terms, key=lambda name: (not terms[name].defined, digest(name)))
            self._by_kind[group] = {name: terms[name] for name in best[:TERMS]}
        self._about = _about(texts, {name for terms in self._by_kind.values() for name in terms})

    def _add(self, fact: Fact) -> None:
        term = bare(fact.subject)
        said = definition(fact.object) if fact.name in DEFINING else ""
        if said:
            self._said[term.lower()].append(said.lower())
        kind = kind_of(term, said)
        joined = re.search(r" (?:of|in|for|with|to|from|and|by|on) ", term)
        if kind is None or (joined and fact.name != "term") or len(term.split()) > TERM_WORDS:
            return
        if WORDS["generic"].issuperset(words_in(term)):
            return
        group = self._by_kind[kind.name, fact.number, fact.language]
        known = group.get(term.lower())
        if known is None or (said and not known.defined):
            group[term.lower()] = Term(term, kind, fact.number, fact.language, said, bool(said))

    def others(self, fact: Fact, kind: Kind, defined: bool = False) -> list[Term]:
        """Return the terms of a kind for which what the fact says does not hold too.

        Those that the corpus defines, if there are enough or if only `defined` ones are wanted;
        never one that is related to the fact's own by its words or in a definition.
        """
        own = bare(fact.subject).lower()
        short = ABBREVIATION.sub(r"\1", ARTICLE.sub("", fact.subject)).lower()
        told = " ".join((*words_in(f"{own} {fact.object}"), *self._said.get(own, ())))
        found = [
            term
            for name, term in self._by_kind[kind.name, fact.number, fact.language].items()
            if (term.defined or len(self._about.get(name, ())) >= MENTIONS)
            and not _related(name, own)
            and not _related(name, short)
            and not re.search(rf"\b{re.escape(name)}\b", told)
            and not any(own in said for said in self._said.get(name, ()))
            and not self._true_too(name, fact)
        ]
        known = [term for term in found if term.defined]
        return known if defined or len(known) > 2 * WRONG_OPTIONS else found

    def _true_too(self, name: str, fact: Fact) -> bool:
        """Return whether the corpus says something alike of another term."""
        wanted = _stems(fact.object)
        said = (_stems(text) for text in self._said.get(name, ()))
        return not wanted or any(
            len(wanted & words) >= TRUE_TOO * len(wanted)
            for words in (*said, *self._about.get(name, ()))
        )


def _about(texts: Iterable[str], terms: set[str]) -> dict[str, list[frozenset[str]]]:
    """Return, for every term, the words of each sentence that begins with it or names it."""
    longest = max((len(term.split()) for term in terms), default=0)
    found: dict[str, list[frozenset[str]]] = defaultdict(list)
    for text in texts:
        words = words_in(text)
        stems = _stems(text)
        seen = {
            " ".join(words[at : at + count])
            for at in range(len(words))
            for count in range(1, longest + 1)
        }
        for term in seen & terms:
            found[term].append(stems)
    return found


def wrong_options(
    right: str, others: Mapping[str, str], about: str, rng: random.Random
) -> tuple[str, ...]:
    """Return three of the `others` as wrong options, or none if three fit ones are not there.

    `others` are options with what is said about them. Those that share words with what is said
    `about` the right one come first. How many of the three are longer than the right one is drawn,
    so that length tells nothing.
    """
    wanted = _content(about)
    said = {option: _content(text) for option, text in others.items()}
    # Divided by the root of the length, or long options would always come first.
    shared = {
        option: len(wanted & words) / math.sqrt(len(words) or 1) for option, words in said.items()
    }
    ranked = sorted(others, key=lambda option: (-shared[option], digest(right, option)))
    fit: list[str] = []
    for other in ranked:
        if len(fit) == CANDIDATES:
            break
        ratio = _ratio(len(other), len(right))
        if ratio <= 2.5 and all(jaccard(other, option) < ALIKE for option in (right, *fit)):
            fit.append(other)
    longer = [option for option in fit if len(option) > len(right)]
    shorter = [option for option in fit if len(option) <= len(right)]
    count = rng.randrange(WRONG_OPTIONS + 1)
    chosen = longer[:count] + shorter[: WRONG_OPTIONS - count]
    chosen += [option for option in fit if option not in chosen]
    return tuple(chosen[:WRONG_OPTIONS]) if len(chosen) >= WRONG_OPTIONS else ()


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


def _related(a: str, b: str) -> bool:
    """Return whether one term holds all words of the other, as its general or special case."""
    first, second = _singular(a), _singular(b)
    return any(
        all(any(word in other for other in more) for word in few)
        for few, more in ((first, second), (second, first))
    )


@cache
def _content(text: str) -> frozenset[str]:
    return frozenset(content_words(text))


@cache
def _stems(text: str) -> frozenset[str]:
    return frozenset(word[:6] for word in _content(text))


@cache
def _singular(text: str) -> frozenset[str]:
    return frozenset(word.removesuffix("s") for word in _content(text))


def jaccard(a: str, b: str) -> float:
    """Return how much the content words of two texts are the same."""
    first, second = _content(a), _content(b)
    return len(first & second) / len(first | second) if first | second else 1.0


def capital(text: str) -> str:
    """Return an option with a capital letter in front, unless its first word is like "pH"."""
    first = text.split()[0]
    return text if any(c.isupper() for c in first[1:]) else text[0].upper() + text[1:]
