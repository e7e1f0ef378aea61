"""Questions written without a language model, from facts that the passages state in one sentence.

Open questions are answered by the sentence itself. The wrong options of choice questions come from
elsewhere in the corpus and are of the right one's kind: objects of the same relation, other terms
that are defined, values of the same unit.
"""

import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ecg_llm.config import Questions
from ecg_llm.questions.facts import RELATIONS, Casing, Fact, fact_of, sentences
from ecg_llm.questions.generate import draft_id
from ecg_llm.questions.words import content_words
from ecg_llm.records import Draft, Passage, QuestionKind, digest

NAME = "extractive-1"
"""Changes with every change of what is written."""
WRONG_OPTIONS = 3
CANDIDATES = 10
"""Of the most plausible wrong options, as many are considered for their length."""
OPTION_WORDS = 25
TERM_WORDS = 6
ALIKE = 0.5
"""Jaccard similarity from which one option nearly says another."""
FARTHEST_RATIO, NEAREST_RATIO = 6.0, 1.12
"""A wrong value is at most six times the right one or a sixth of it, and not within 12 percent."""

_NUMBER = r"\d+(?:\.\d+)?"
VALUE = re.compile(
    rf"(?<![\w.,/:–−+-])(?P<value>{_NUMBER}(?:(?: to | and |[–-]){_NUMBER})?) ?"
    r"(?P<unit>ms|milliseconds|seconds|mm per second|mm/s|mmHg|mm Hg|mmol/L|mEq/L|mm|cm|mV|bpm"
    r"|beats per minute|percent|%|degrees|Hz|mg|g/dL|mL|hours|minutes|days|weeks|months|years)"
    r"(?![\w/])(?! per)(?!\s*\([^)]*\d)"
)
PRIORITY: Mapping[str, int] = {
    name: place for place, name in enumerate(dict.fromkeys(r.name for r in RELATIONS))
}
CHOICE_RELATIONS = frozenset(relation.name for relation in RELATIONS if relation.choice)
DEFINES = re.compile(
    r"\b(?:of|that|which|in|between|with|where|whose|who|by|from|than|without|to|der|die|das|des|von"
    r"|zwischen|mit|ohne)\b"
)
"""Words without which "the X" or "a Y" names a thing and does not define it."""
DEFINING = frozenset({"definition", "identity", "de_identity"})


class Item(NamedTuple):
    """A question as it goes into a draft."""

    form: str
    """Relation or kind of choice question: a draft mixes forms."""
    question: str
    answer: str
    evidence: str
    distractors: tuple[str, ...] = ()


class Value(NamedTuple):
    """A number, or a range, with its unit, as a sentence states it."""

    text: str
    unit: str
    ends: tuple[float, ...]

    def ratio(self, other: "Value") -> float:
        """Return how far apart two values are: the nearest of their ends, larger over smaller."""
        return min(_ratio(a, b) for a, b in zip(self.ends, other.ends, strict=True))


class ExtractiveWriter:
    """Writes up to settings.per_window questions of each kind from each window.

    `corpus` is where wrong options come from; without it, the windows of each call, so that a
    window's choice questions then depend on the others in the call.
    """

    def __init__(self, settings: Questions, seed: int, corpus: Sequence[Passage] = ()) -> None:
        self._settings = settings
        self._seed = seed
        self._corpus = corpus

    @property
    def name(self) -> str:
        """Name with version."""
        return NAME

    def write(self, windows: Sequence[Sequence[Passage]]) -> list[Draft]:
        """Return one draft for every window and kind, in order; it may hold no question."""
        given = self._corpus or [passage for window in windows for passage in window]
        pool = _Pool([passage for passage in given if not passage.hidden])
        return [
            self._draft(window, kind, pool) for window in windows for kind in self._settings.kinds
        ]

    def _draft(self, window: Sequence[Passage], kind: QuestionKind, pool: "_Pool") -> Draft:
        facts = [
            fact
            for passage in window
            for fact in pool.facts_in(passage)
            if self._settings.language in ("text", fact.language)
        ]
        if kind == "open":
            items: Iterable[Item] = (
                Item(f.relation, f.question, f.sentence.text, f.sentence.raw) for f in facts
            )
        else:
            items = (item for fact in facts for item in self._choices(fact, pool))
        chosen = _mixed(list(items), self._settings.per_window)
        questions = [
            {
                "question": item.question,
                "answer": item.answer,
                "evidence": item.evidence,
                "distractors": list(item.distractors),
            }
            for item in chosen
        ]
        return Draft(
            draft_id=draft_id(window, kind),
            passage_ids=tuple(passage.passage_id for passage in window),
            kind=kind,
            reply=json.dumps({"questions": questions}, ensure_ascii=False),
            model=self.name,
        )

    def _choices(self, fact: Fact, pool: "_Pool") -> Iterator[Item]:
        """Yield the choice questions that can be made of a fact."""
        rng = random.Random(digest(self._seed, fact.question, fact.sentence.text))
        for made in (_by_object(fact, pool, rng), _by_term(fact, pool, rng)):
            if made is not None:
                yield made
        yield from _by_value(fact, pool, rng)


class _Pool:
    """The facts and values of a corpus, from which wrong options are taken."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._casing = Casing([passage.text for passage in passages])
        self._found: dict[str, list[Fact]] = {}

    def facts_in(self, passage: Passage) -> list[Fact]:
        """Return the facts of a passage in the order of its sentences."""
        if passage.passage_id not in self._found:
            facts = (fact_of(s, self._casing) for s in sentences(passage.text))
            self._found[passage.passage_id] = [fact for fact in facts if fact]
        return self._found[passage.passage_id]

    @cached_property
    def facts(self) -> list[Fact]:
        """Every fact, in the order of the passages."""
        return [fact for passage in self._passages for fact in self.facts_in(passage)]

    @cached_property
    def values(self) -> dict[str, list[Value]]:
        """Every value by unit."""
        found: dict[str, dict[str, Value]] = defaultdict(dict)
        for passage in self._passages:
            for match in VALUE.finditer(passage.text):
                value = _value(match)
                found[value.unit].setdefault(value.text, value)
        return {unit: list(values.values()) for unit, values in found.items()}


def _mixed(items: Sequence[Item], count: int) -> list[Item]:
    """Return up to `count` items of as many forms as there are, one a sentence."""
    left = list(items)
    chosen: list[Item] = []
    used: Counter[str] = Counter()
    while left and len(chosen) < count:
        best = min(left, key=lambda item: (used[item.form], PRIORITY.get(item.form, 0)))
        used[best.form] += 1
        chosen.append(best)
        left = [
            item
            for item in left
            if item.evidence != best.evidence and item.question != best.question
        ]
    return chosen


def _by_object(fact: Fact, pool: _Pool, rng: random.Random) -> Item | None:
    """Ask for the object; wrong are what other sentences say of other subjects."""
    if fact.relation not in CHOICE_RELATIONS or not _is_option(fact):
        return None
    kin = DEFINING if fact.relation in DEFINING else {fact.relation}
    others = {
        other.object: f"{other.subject} {other.object}"
        for other in pool.facts
        if other.relation in kin
        and other.language == fact.language
        and other.number == fact.number
        and _is_option(other)
        and not _related(other.subject, fact.subject)
    }
    wrong = _wrong(fact.object, others, f"{fact.subject} {fact.object}", rng)
    if not wrong or _gives_away(fact.subject, fact.object, wrong):
        return None
    options = [_capital(option) for option in (fact.object, *wrong)]
    return Item(fact.relation, fact.question, options[0], fact.sentence.raw, tuple(options[1:]))


def _is_option(fact: Fact) -> bool:
    """Return whether the object of a fact can stand alone among the options."""
    words = fact.object.split()
    if len(words) > OPTION_WORDS or words[0] in ("that", "dass"):
        return False
    return fact.relation not in DEFINING or DEFINES.search(fact.object) is not None


def _by_term(fact: Fact, pool: _Pool, rng: random.Random) -> Item | None:
    """Ask which term a definition belongs to; wrong are other terms that are defined."""
    if fact.relation not in DEFINING or fact.question.startswith(("In ", "During ", "Bei")):
        return None
    if len(fact.subject.split()) > TERM_WORDS or not _is_option(fact):
        return None
    if set(content_words(fact.subject)) & set(content_words(fact.object)):
        return None
    others = {
        other.subject: f"{other.subject} {other.object}"
        for other in pool.facts
        if other.relation in DEFINING
        and other.language == fact.language
        and other.number == fact.number
        and len(other.subject.split()) <= TERM_WORDS
        and not _related(other.subject, fact.subject)
        and _jaccard(other.object, fact.object) < ALIKE
    }
    wrong = _wrong(fact.subject, others, f"{fact.subject} {fact.object}", rng)
    if not wrong:
        return None
    verb = {"definition": "is defined as", "identity": fact.number, "de_identity": "ist"}
    asks = "Was davon" if fact.language == "de" else "Which of these"
    question = f"{asks} {verb[fact.relation]} {fact.object}?"
    options = [_capital(option) for option in (fact.subject, *wrong)]
    return Item("by_term", question, options[0], fact.sentence.raw, tuple(options[1:]))


def _by_value(fact: Fact, pool: _Pool, rng: random.Random) -> Iterator[Item]:
    """Ask for a value that the sentence states; wrong are other values of its unit."""
    text = fact.sentence.text
    for match in VALUE.finditer(text):
        if text[: match.start()].endswith(("minus ", "plus ", "±", "± ")):
            continue
        right = _value(match)
        stated = {_value(other).text for other in VALUE.finditer(text)}
        fits = [
            value
            for value in pool.values.get(right.unit, [])
            if value.text not in stated
            and len(value.ends) == len(right.ends)
            and NEAREST_RATIO < value.ratio(right) < FARTHEST_RATIO
        ]
        fits.sort(key=lambda value: (value.ratio(right), value.text))
        wrong = _apart(fits[: 2 * CANDIDATES], rng)
        if len(wrong) == WRONG_OPTIONS:
            gap = f"{text[: match.start()]}____{text[match.end() :]}"
            asks = "Welcher Wert gehört" if fact.language == "de" else "Which value belongs"
            where = "in die Lücke" if fact.language == "de" else "in the gap"
            question = f"{asks} {where}: “{gap}”?"
            yield Item("by_value", question, right.text, fact.sentence.raw, tuple(wrong))


def _value(match: re.Match[str]) -> Value:
    ends = tuple(float(number) for number in re.findall(_NUMBER, match["value"]))
    gap = "" if match["unit"] == "%" else " "
    text = f"{match['value']}{gap}{match['unit']}"
    return Value(text, match["unit"], ends)


def _ratio(a: float, b: float) -> float:
    """Return how many times the larger is the smaller; infinite where that has no meaning."""
    low, high = sorted((a, b))
    return high / low if low > 0 else math.inf


def _apart(values: Sequence[Value], rng: random.Random) -> list[str]:
    """Return up to three values that also differ from each other."""
    chosen: list[Value] = []
    for value in rng.sample(values, len(values)):
        if len(chosen) == WRONG_OPTIONS:
            break
        if all(value.ratio(other) > NEAREST_RATIO for other in chosen):
            chosen.append(value)
    return [value.text for value in chosen]


def _wrong(
    right: str, others: Mapping[str, str], about: str, rng: random.Random
) -> tuple[str, ...]:
    """Return three of the `others` as wrong options, or none if three fit ones are not there.

    `others` are options with what is said about them. Those that share words with what is said
    `about` the right one come first, and at least two must. How many of the three are longer than
    the right one is drawn, so that length tells nothing.
    """
    wanted = set(content_words(about))
    said = {option: set(content_words(text)) for option, text in others.items()}
    # Divided by the root of the length, or long options would always come first.
    shared = {
        option: len(wanted & words) / math.sqrt(len(words) or 1) for option, words in said.items()
    }
    ranked = sorted(others, key=lambda option: (-shared[option], digest(right, option)))
    near: list[str] = []
    for other in ranked:
        if len(near) == CANDIDATES:
            break
        ratio = _ratio(len(other), len(right))
        if ratio <= 2.5 and all(_jaccard(other, option) < ALIKE for option in (right, *near)):
            near.append(other)
    longer = [option for option in near if len(option) > len(right)]
    shorter = [option for option in near if len(option) <= len(right)]
    count = rng.randrange(WRONG_OPTIONS + 1)
    chosen = longer[:count] + shorter[: WRONG_OPTIONS - count]
    chosen += [option for option in near if option not in chosen]
    plausible = sum(shared[option] > 0 for option in chosen[:WRONG_OPTIONS]) >= 2
    return tuple(chosen[:WRONG_OPTIONS]) if len(chosen) >= WRONG_OPTIONS and plausible else ()


def _gives_away(subject: str, right: str, wrong: Sequence[str]) -> bool:
    """Return whether only the right option repeats words of the subject."""
    asked = set(content_words(subject))
    shared = [len(asked & set(content_words(option))) for option in (right, *wrong)]
    return shared[0] > max(shared[1:])


def _related(a: str, b: str) -> bool:
    """Return whether one term holds all words of the other, as its general or special case."""
    first, second = set(content_words(a)), set(content_words(b))
    return first <= second or second <= first


def _jaccard(a: str, b: str) -> float:
    first, second = set(content_words(a)), set(content_words(b))
    return len(first & second) / len(first | second) if first | second else 1.0


def _capital(text: str) -> str:
    """Return an option with a capital letter in front, unless its first word is like "pH"."""
    first = text.split()[0]
    return text if any(c.isupper() for c in first[1:]) else text[0].upper() + text[1:]
