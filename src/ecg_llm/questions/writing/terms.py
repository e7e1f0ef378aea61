"""The terms of a corpus: of what kind each is, what is said of it, and where."""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from ecg_llm.questions.writing.facts import Fact
from ecg_llm.questions.writing.patterns import GENERA, KINDS, WORDS, Kind
from ecg_llm.questions.writing.phrases import is_plural
from ecg_llm.questions.writing.sentences import words_in
from ecg_llm.records import Passage, digest
from ecg_llm.words import content_words

WRONG_OPTIONS = 3
TERMS = 500
"""Of each kind, so that a large corpus takes no more time for a question than a small one."""
TERM_WORDS = 6
MENTIONS = 2
"""Sentences in which a term that is not defined must occur."""
DEFINING = frozenset({"definition", "identity", "term", "apposition", "naming",
                      "de_identity", "de_definition"})  # fmt: skip
"""Relations that say what their subject is."""
TRUE_TOO = 0.3
"""Share of what is said of the right term from which, said of another, that may be right too."""
SHARED_WORDS = 2
"""Words that the definitions of two comparable things in one chapter share; with a noun of a wide
class, and from different chapters, one more."""
CLOSE = {"disorder": 0, "test": 0, "measure": 1, "membrane": 1, "lobe": 1, "process": 2,
         "substance": 2, "structure": 2, "tract": 1}  # fmt: skip
"""Kinds whose things in one chapter are comparable with fewer, also by their definitions."""
CROSSING = frozenset({"cell", "muscle", "receptor", "channel", "system", "wave"})
"""Narrow kinds whose things belong to several organ systems: the system may tell the right one."""
SAME_CHAPTER = 2
"""Nearness of two places under one heading of one document."""

ARTICLE = re.compile(r"^(?:the|an?) (?:hormone |neurotransmitter |drug )?", re.IGNORECASE)
ABBREVIATION = re.compile(r"(?:\S+ )*?\S+ \(([^)]*)\)")
ABBREVIATED = re.compile(r" ?\([^)]*\)")
COLLECTS = re.compile(
    r"^(?:\S+ ){0,3}?(?:types?|kinds?|forms?|groups?|class|classes|sets?|pairs?|series|any|one"
    r"|number|family|amount|volume|measure) of (?:the |an? )?",
    re.IGNORECASE,
)
"""What stands before the noun of a definition: "group of muscles that ..."."""
QUALIFIED = re.compile(r"^(?:[\w’'-]+, (?:or )?)+(?=[\w’'-]+ )")
AFTER_GENUS = re.compile(
    r"\b(?:of|in|into|that|which|whereby|where|when|who|whose|for|with|without|to|by|from|on|at|as"
    r"|than|between|within|during|after|before|around|along|through|over|under|near|inside|outside"
    r"|and|or|is|are|has|have|used|found|located|formed|made|called|known|lying|containing|having"
    r"|extending|connecting|surrounding|covering|lining|leading|causing|involving|consisting"
    r"|characterized|associated|composed|produced|secreted|released|resulting|responsible|caused"
    r"|capable|specific|specialized|running|carrying|anterior|posterior|superior|inferior|deep|just)"
    r"\b|[,;(:]"
)
PARTICIPLE = re.compile(r"\w+(?:ed|ing)$")
SINGULAR_S = re.compile(r"(?<=ch)es$|(?<=sh)es$|(?<=x)es$|(?<=ss)es$|(?<![siu])s$")


class Place(NamedTuple):
    """Where a text stands: the document and the headings above it."""

    doc_id: str
    headings: tuple[str, ...]

    def nearness(self, other: "Place") -> int:
        """Return 0 for another document, else 1 and the number of headings shared from the top."""
        if self.doc_id != other.doc_id:
            return 0
        shared = 1
        for mine, theirs in zip(self.headings, other.headings, strict=False):
            if mine != theirs:
                break
            shared += 1
        return shared


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
    genus: str


def place_of(passage: Passage) -> Place:
    """Return where a passage stands."""
    return Place(passage.doc_id, tuple(passage.section.split(" > ")))


def kind_of(term: str, said: str = "") -> Kind | None:
    """Return what kind of thing a term is, by its last word or by its definition."""
    last = head_word(term)
    if not last:
        return None
    for kind in KINDS:
        if last in kind.words or last.removesuffix("s") in kind.words:
            return kind
    for kind in KINDS:
        if kind.endings and last.endswith(kind.endings) and len(last) > 6:
            return kind
    genus = noun_of(said)
    for kind in KINDS:
        if genus in kind.words or genus.removesuffix("s") in kind.words:
            return kind
    return None


def head_word(term: str) -> str:
    """Return the noun of a term: "carotid artery" and "artery of the neck" are arteries."""
    words = words_in(ABBREVIATED.sub("", re.split(r" (?:of|in|for|with) ", term)[0]))
    return words[-1] if words else ""


@cache
def genus_of(said: str) -> str:
    """Return the class under which a definition puts its term, one word for its synonyms.

    Empty where the definition does not begin with a noun.
    """
    noun = SINGULAR_S.sub("", noun_of(said))
    return GENERA.get(noun, noun)


def opening(said: str) -> str:
    """Return the noun phrase with which a definition begins."""
    return AFTER_GENUS.split(QUALIFIED.sub("", COLLECTS.sub("", ARTICLE.sub("", said))))[0]


def noun_of(said: str) -> str:
    """Return the noun with which a definition begins, or nothing."""
    words = words_in(opening(said))
    while len(words) > 1 and words[-1].endswith("ed"):
        words.pop()  # "blood pumped by each ventricle"
    if not words or (len(words) == 1 and PARTICIPLE.match(words[0])):
        return ""
    if {"the", "a", "an"}.intersection(words):
        return ""  # a verb: "parallels the coronary artery"
    return words[-1]


def definition(text: str) -> str:
    """Return a definition as an option: without its article, or the "as" of "is defined as"."""
    return ARTICLE.sub("", re.sub(r"^(?:as|by) ", "", text))


def bare(term: str) -> str:
    """Return a term without its article and without an abbreviation in brackets."""
    return ABBREVIATED.sub("", ARTICLE.sub("", term)).strip()


class Terms:
    """The terms of a corpus, from which wrong options are taken."""

    def __init__(self, facts: Iterable[tuple[Fact, Place]], texts: Iterable[str]) -> None:
        self._by_kind: dict[tuple[str, str, str], dict[str, Term]] = defaultdict(dict)
        self._said: dict[str, list[str]] = defaultdict(list)
        self._places: dict[str, set[Place]] = defaultdict(set)
        for fact, place in facts:
            self._add(fact, place)
        for group, terms in self._by_kind.items():
            best = sorted(terms, key=lambda name: (not terms[name].defined, digest(name)))
            self._by_kind[group] = {name: terms[name] for name in best[:TERMS]}
        self._about = _about(texts, {name for terms in self._by_kind.values() for name in terms})

    def _add(self, fact: Fact, place: Place) -> None:
        term = bare(fact.subject)
        said = definition(fact.object) if fact.name in DEFINING else ""
        if said:
            self._said[term.lower()].append(f"{said} {fact.sentence.raw}".lower())
        kind = kind_of(term, said)
        joined = re.search(r" (?:of|in|for|with|to|from|and|by|on) ", term)
        if kind is None or (joined and fact.name != "term") or len(term.split()) > TERM_WORDS:
            return
        if WORDS["generic"].issuperset(words_in(term)):
            return
        self._places[term.lower()].add(place)
        group = self._by_kind[kind.name, fact.number, fact.language]
        known = group.get(term.lower())
        if known is None or (said and not known.defined):
            group[term.lower()] = Term(
                term, kind, fact.number, fact.language, said, bool(said), genus_of(said)
            )

    def told_of(self, term: Term) -> str:
        """Return all that the corpus says of a term, its other names among it."""
        return " ".join((term.text, *self._said.get(term.text.lower(), ())))

    def others(
        self, fact: Fact, kind: Kind, place: Place, defined: bool = False
    ) -> list[tuple[int, bool, Term]]:
        """Return the terms of a kind for which what a fact says does not hold.

        Before each stand its nearness to the fact's own, and whether it is of the same field: of
        the same part of the document, defined with a word of what the fact says, or of a kind that
        is one field.

        They are comparable with the fact's own: of a narrow kind, of its noun or of the noun of its
        definition, or alike in what one chapter says of them; where only `defined` ones are wanted,
        definitions are compared alone. Never one that is related to the fact's own by its words or
        in a definition.
        """
        own = bare(fact.subject).lower()
        short = ABBREVIATION.sub(r"\1", ARTICLE.sub("", fact.subject)).lower()
        told = " ".join((*words_in(f"{own} {fact.object}"), *self._said.get(own, ())))
        said = definition(fact.object) if fact.name in DEFINING else ""
        found = [
            (name, self._nearness(name, place), term)
            for name, term in self._by_kind[kind.name, fact.number, fact.language].items()
            if is_plural(name) == is_plural(own)
            and (term.defined or (not defined and len(self._about.get(name, ())) >= MENTIONS))
            and self._comparable(term, own, said, self._nearness(name, place), defined)
            and not _related(name, own)
            and not _related(name, short)
            and not re.search(rf"\b{re.escape(name)}\b", told)
            and not any(own in text for text in self._said.get(name, ()))
            and not self._true_too(name, fact)
        ]
        genus, noun = genus_of(said), head_word(own)
        usual = _stems(" ".join((*kind.ask, *kind.words, genus, noun)))
        asked = _stems(fact.object) - usual
        one_field = kind.narrow and kind.name not in CROSSING
        return [
            (
                near + (term.genus == genus) + (head_word(term.text.lower()) == noun),
                near >= SAME_CHAPTER or one_field or self._told_alike(name, term, asked),
                term,
            )
            for name, near, term in found
        ]

    def _told_alike(self, name: str, term: Term, asked: frozenset[str]) -> bool:
        """Return whether a term is defined, or told of, with words of what is asked."""
        if asked & _stems(term.said):
            return True
        return any(len(asked & words) >= SHARED_WORDS for words in self._about.get(name, ()))

    def _nearness(self, name: str, place: Place) -> int:
        return max(place.nearness(other) for other in self._places[name])

    def _comparable(self, term: Term, own: str, said: str, nearness: int, defined: bool) -> bool:
        """Return whether a term is of the same class as the fact's own."""
        genus = genus_of(said)
        near = nearness >= SAME_CHAPTER
        shared = _shared(term.said, said) if term.said and said else -1
        wide = genus in WORDS["wide"] and not near
        if genus and term.genus == genus and (not wide or shared > SHARED_WORDS):
            return True
        enough = CLOSE.get(term.kind.name, SHARED_WORDS)
        if near and (not defined or term.kind.name in CLOSE) and shared >= enough:
            return True
        if defined:
            return False
        if head_word(term.text.lower()) == head_word(own):
            return term.kind.narrow or nearness > 0
        return term.kind.narrow and kind_of(term.text) is not None

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


def _shared(a: str, b: str) -> int:
    """Return how many words two definitions share."""
    return len(_stems(a) & _stems(b))


def _related(a: str, b: str) -> bool:
    """Return whether one term holds all words of the other, as its general or special case."""
    first, second = _singular(a), _singular(b)
    return any(
        all(any(word in other for other in more) for word in few)
        for few, more in ((first, second), (second, first))
    )


@cache
def _stems(text: str) -> frozenset[str]:
    return frozenset(word[:6] for word in content_words(text))


@cache
def _singular(text: str) -> frozenset[str]:
    return frozenset(word.removesuffix("s") for word in content_words(text))
