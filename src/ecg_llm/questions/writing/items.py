"""The open and choice questions that can be made of a fact."""

import random
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from ecg_llm.questions.writing.answers import FULL_WORDS, answer_of, whole_definition
from ecg_llm.questions.writing.facts import Fact, fact_of, statement_of
from ecg_llm.questions.writing.lists import facts_in_lists
from ecg_llm.questions.writing.options import (
    OPTION_WORDS,
    Other,
    Value,
    alike,
    capital,
    gives_away,
    values_in,
    wrong_options,
    wrong_values,
)
from ecg_llm.questions.writing.patterns import MODALS, VERBS
from ecg_llm.questions.writing.phrases import DEFINES, POINTS_BACK
from ecg_llm.questions.writing.sentences import Sentence, sentences
from ecg_llm.questions.writing.terms import (
    DEFINING,
    TERM_WORDS,
    Place,
    Terms,
    bare,
    definition,
    genus_of,
    head_word,
    kind_of,
    noun_of,
    opening,
    place_of,
)
from ecg_llm.questions.writing.topics import asked_under, topic_of
from ecg_llm.questions.writing.usage import Usage
from ecg_llm.records import Difficulty, Passage, QuestionType, digest
from ecg_llm.words import content_words

LOOSE = frozenset({"lobe", "process", "measure", "structure", "test", "membrane", "substance"})
"""Kinds so wide that what is said of one thing often holds for others."""
LISTED = frozenset({"list", "term", "function"})
"""Relations whose text is no sentence with a gap to fill."""
MEASURED = frozenset({"value", "range", "length", "average", "share"})
"""Relations whose question asks for the value itself."""
LOOSELY_BOUND = MEASURED | {"statement"}
HEDGE = re.compile(
    r"(?:(?P<bound>(?:more|less|longer|shorter|greater) than|at least|at most|above|below|over"
    r"|under|up to)|about|approximately|around|roughly|nearly|almost|only|usually|from|between) $",
    re.IGNORECASE,
)
TURNED_ROUND = re.compile(r"the (?:[\w-]+ ){0,2}[\w-]+(?:,|$| (?:in|of) the (?:[\w-]+ ?){1,2}$)")
"""An object that names a thing, and its subject tells of it: "the arachnoid, named for ..."."""
PART_OF_VALUE = re.compile(
    r"(?:\d\S*(?: \w+)? (?:or|to|and) |\d \w+ \(|minus |plus |± ?)$|\bit (?:is|was|has) [^.]*$"
)
NO_OPTION = frozenset(
    ["one", "another", "in", "on", "when", "for", "with", "at", "during", "if", "term", "name"]
)
"""Beginnings of definitions that stand out among others."""


class Item(NamedTuple):
    """A question as it goes into a draft."""

    form: str
    """Relation or kind of choice question: a draft mixes forms."""
    place: int
    """Of several forms used equally often, the lower goes first."""
    weak: bool
    """Whether it goes last."""
    type: QuestionType
    difficulty: Difficulty
    question: str
    answer: str
    evidence: str
    distractors: tuple[str, ...] = ()


class Pool:
    """The facts, terms and values of a corpus, from which wrong options are taken."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._usage = Usage([passage.text for passage in passages])
        self._found: dict[str, list[Fact]] = {}

    def facts_in(self, passage: Passage) -> list[Fact]:
        """Return the facts of a passage in the order of its sentences, then those of its lists."""
        if passage.passage_id not in self._found:
            said = (_fact(sentence, self._usage) for sentence in sentences(passage.text))
            listed = facts_in_lists(passage.text, passage.section, self._usage)
            self._found[passage.passage_id] = [*(fact for fact in said if fact), *listed]
        return self._found[passage.passage_id]

    def repeats(self, fact: Fact, passage: Passage) -> bool:
        """Return whether the question of a fact is left to another passage that gives it too.

        The passages draw, so that copies of a chapter share its questions among them.
        """
        asked = fact.question or fact.sentence.text
        return self._owner.get(asked, passage.passage_id) != passage.passage_id

    def topic(self, fact: Fact, passage: Passage) -> str | None:
        """Return what the question of a fact is put under; it may be empty.

        All passages put a question under one topic, so that it stays one question. None if another
        passage with another topic gives it, and another answer.
        """
        own = topic_of(fact, passage.section, self._usage)
        answer, topic = self._topics.get(fact.question, (fact.object, own))
        same = own == topic or answer == fact.object or alike(answer, fact.object)
        return topic if same else None

    def spelled_out(self, question: str) -> str:
        """Return a question with the abbreviations that the corpus explains explained."""
        return self._usage.spelled_out(question)

    @cached_property
    def _topics(self) -> dict[str, tuple[str, str]]:
        """The first answer to every question that has a topic, and the topic."""
        found: dict[str, tuple[str, str]] = {}
        for passage in self._passages:
            for fact in self.facts_in(passage):
                if topic := topic_of(fact, passage.section, self._usage):
                    found.setdefault(fact.question, (fact.object, topic))
        return found

    @cached_property
    def _owner(self) -> dict[str, str]:
        """The passage to which a question is left, for every question."""
        found: dict[str, set[str]] = {}
        for passage in self._passages:
            for fact in self.facts_in(passage):
                asked = fact.question or fact.sentence.text
                found.setdefault(asked, set()).add(passage.passage_id)
        return {
            question: min(names, key=lambda name: digest(question, name))
            for question, names in found.items()
        }

    @cached_property
    def terms(self) -> Terms:
        """Every term."""
        facts = [(f, place_of(p)) for p in self._passages for f in self.facts_in(p)]
        texts = [s.text for passage in self._passages for s in sentences(passage.text)]
        return Terms(facts, texts)

    @cached_property
    def values(self) -> dict[str, list[Value]]:
        """Every value by unit."""
        found: dict[str, dict[str, Value]] = {}
        for passage in self._passages:
            for value, _, _ in values_in(passage.text):
                found.setdefault(value.unit, {}).setdefault(value.text, value)
        return {unit: list(values.values()) for unit, values in found.items()}


def _fact(sentence: Sentence, usage: Usage) -> Fact | None:
    """Return the fact of a sentence, or its bare statement if that has a value to ask for."""
    if fact := fact_of(sentence, usage):
        return fact
    return statement_of(sentence, usage) if values_in(sentence.text) else None


def open_item(fact: Fact, passage: Passage, pool: Pool) -> Item | None:
    """Return the open question of a fact of a passage, if it has one of its own.

    The text's own words answer it.
    """
    topic = pool.topic(fact, passage)
    if not fact.question or topic is None:
        return None
    relation = fact.relation
    short = fact.name == "term" and len(fact.object.split()) < FULL_WORDS
    weak = relation.weak or short or pool.repeats(fact, passage)
    question = asked_under(topic, fact) if topic else fact.question
    return Item(
        relation.name, relation.place, weak, relation.type, relation.difficulty,
        capital(pool.spelled_out(question)), answer_of(fact), fact.sentence.raw,
    )  # fmt: skip


def choice_items(fact: Fact, passage: Passage, pool: Pool, rng: random.Random) -> Iterator[Item]:
    """Yield the choice questions of a fact of a passage."""
    place = place_of(passage)
    for made in (_by_object(fact, place, pool, rng), _by_term(fact, place, pool, rng)):
        if made is not None:
            yield made
    yield from _by_value(fact, pool, rng)


def _choice(
    form: str, fact: Fact, question: str, right: str, wrong: Sequence[str], pool: Pool
) -> Item:
    relation = fact.relation
    options = [capital(option) for option in (right, *wrong)]
    return Item(
        form, relation.place, False, relation.type, relation.difficulty,
        pool.spelled_out(question), options[0], fact.sentence.raw, tuple(options[1:]),
    )  # fmt: skip


def _by_object(fact: Fact, place: Place, pool: Pool, rng: random.Random) -> Item | None:
    """Ask what something is; wrong are the definitions of other things of its kind."""
    right = definition(whole_definition(fact))
    kind = kind_of(bare(fact.subject), right)
    if fact.name not in DEFINING - {"naming"} or kind is None or not _is_option(right):
        return None
    others = {
        term.said: Other(near, pool.terms.told_of(term), related)
        for near, related, term in pool.terms.others(fact, kind, place, defined=True)
        if _is_option(term.said) and not _is_class_of(term.said, fact.subject, right)
    }
    wrong = wrong_options(fact.subject, right, others, f"{fact.subject} {right}", rng)
    if not wrong:
        return None
    question = fact.question
    if fact.name == "definition":
        question = f"What {fact.number} {fact.subject}?"
    return _choice("by_object", fact, question, right, wrong, pool)


def _is_class_of(said: str, subject: str, right: str) -> bool:
    """Return whether a definition may tell of a class in which the subject is.

    "Artery with elastic fibers" is true of the carotid artery too, if not its definition.
    """
    head = head_word(bare(subject))
    return noun_of(said) == head != noun_of(right)


def _is_option(text: str) -> bool:
    """Return whether a definition can stand alone among the options."""
    words = text.split()
    first = words[0].lower()
    if first in NO_OPTION or first.endswith("ed") or not genus_of(text):
        return False
    if first in VERBS and VERBS[first].aux == "does":
        return False
    if POINTS_BACK.search(text) or re.search(r", [\w-]+$", text):
        return False
    return 3 <= len(words) <= OPTION_WORDS and DEFINES.search(text) is not None


def _by_term(fact: Fact, place: Place, pool: Pool, rng: random.Random) -> Item | None:
    """Ask which term something is said of; wrong are other terms of its kind."""
    term = bare(fact.subject)
    kind = kind_of(term, fact.object if fact.name in DEFINING else "")
    if kind is None or not fact.predicate or len(term.split()) > TERM_WORDS:
        return None
    if set(content_words(term)) & set(content_words(fact.predicate)):
        return None
    if fact.name == "identity" and TURNED_ROUND.match(fact.object):
        return None
    defined = fact.name in DEFINING
    if len(content_words(fact.object)) < (3 if defined else 5):
        return None
    if not defined and (kind.name in LOOSE or fact.predicate.split()[0] in MODALS):
        return None
    others = {
        t.text: Other(near, pool.terms.told_of(t), related)
        for near, related, t in pool.terms.others(fact, kind, place)
        if (defined or not set(content_words(t.text)) & set(content_words(term)) - set(kind.ask))
        and not gives_away(opening(fact.object), t.text, (term, *kind.ask))
    }
    wrong = wrong_options(fact.predicate, term, others, f"{fact.subject} {fact.object}", rng)
    if not wrong:
        return None
    if fact.name == "naming":
        question = f"What {fact.predicate} called?"
    else:
        asked = kind.ask[fact.number == "are"]
        question = f"Which {asked} {fact.predicate}?"
    return _choice("by_term", fact, question, term, wrong, pool)


def _by_value(fact: Fact, pool: Pool, rng: random.Random) -> Iterator[Item]:
    """Ask for a value that the sentence states; wrong are other values of its unit."""
    text = fact.sentence.text
    if fact.name in LISTED or not text.endswith("."):
        return
    found = values_in(text)
    stated = {value.text for value, _, _ in found}
    for right, start, end in found:
        if PART_OF_VALUE.search(text[:start]):
            continue
        wrong = wrong_values(right, stated, pool.values.get(right.unit, []), rng)
        if not wrong:
            continue
        before = HEDGE.search(text[:start])
        hedge = before["bound"] or "" if before else ""
        if hedge and fact.name in LOOSELY_BOUND:
            continue  # what is more than 90 percent is more than 75 percent too
        if fact.name in MEASURED and fact.object.startswith(text[before.start() : start].strip()
                                                            if before else right.text):  # fmt: skip
            question = fact.question
            options = [right.text, *wrong]
        else:
            german = fact.language == "de"
            asks = (
                "Welcher Wert gehört in die Lücke" if german else "Which value belongs in the gap"
            )
            question = f"{asks}: “{text[:start]}____{text[end:]}”?"
            options = [right.text, *wrong]
        item = _choice("by_value", fact, question, options[0], options[1:], pool)
        yield item._replace(type="threshold", difficulty="medium")
