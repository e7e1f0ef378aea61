"""The other forms of what a query names: abbreviations, synonyms and German terms, from a file."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import yaml

from ecg_llm.contracts import UsageError
from ecg_llm.records import digest
from ecg_llm.registry import suggestion
from ecg_llm.retrieve.terms import query_terms

BUNDLED = "ecg"
FORMAT = 1
"""Of how forms are found and added; another number makes another version."""
NAME_WEIGHT = 0.8
"""Of each term of the usual English name, where the query says it otherwise."""
FORM_WEIGHT = 0.2
"""Of each other form, over its terms: most of them are rare words or repeat the name's."""

_WORD = re.compile(r"[^\W_]+")
_HYPHEN = re.compile(r"(?<=\w)[-‐‑](?=\w)")
_POSSESSIVE = re.compile(r"['’]s\b")
_ENDING = re.compile(r"(?<=\w{4})(?:(?<!ck)ers?|e[mn]?s?|ns?|s)$")
"""Plural and case of English and German, where four letters stay: waves, Wellen, hochgradiger;
but not that of blocker, which is no block."""
_SPELLINGS = (
    ("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ae", "a"), ("oe", "o"), ("ue", "u"),
    ("isation", "ization"),
)  # fmt: skip
"""Replaced one after the other: Präexzitation and Praeexzitation end the same."""
_FILE = ("sources", "any_case", "exclusions", "concepts")
_LISTS = ("synonyms", "abbreviations", "german", "german_abbreviations", "ambiguous", "source")

Key = tuple[str, ...]
"""The words of a form: folded for a name, as written for an abbreviation."""


class Expansion(NamedTuple):
    """A concept that a query names."""

    found: str
    """As the query writes it."""
    other: tuple[str, ...]
    """The forms that the query does not hold, the usual English name first."""
    named: bool
    """Whether the query holds the usual English name, in whatever number or spelling."""


@dataclass(frozen=True)
class Concept:
    """One meaning and the forms that stand for it."""

    name: str
    """The usual English name."""
    synonyms: tuple[str, ...] = ()
    abbreviations: tuple[str, ...] = ()
    german: tuple[str, ...] = ()
    german_abbreviations: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    """Forms of other meanings too: given for a query, never found in one."""
    source: tuple[str, ...] = ()
    """Keys of Lexicon.sources."""

    @property
    def names(self) -> tuple[str, ...]:
        """The forms that are found in any case."""
        return (self.name, *self.synonyms, *self.german)

    @property
    def short(self) -> tuple[str, ...]:
        """The forms that are found as they are written."""
        return (*self.abbreviations, *self.german_abbreviations)

    @property
    def forms(self) -> tuple[str, ...]:
        """All forms."""
        return (*self.names, *self.short, *self.ambiguous)


@dataclass(frozen=True)
class Lexicon:
    """Concepts, and where a query names them."""

    concepts: tuple[Concept, ...] = ()
    any_case: tuple[str, ...] = ()
    """Abbreviations that are no word in any language: found in any case."""
    exclusions: tuple[str, ...] = ()
    """Phrases, in any case, inside which nothing is found."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Key: publication."""

    @classmethod
    def load(cls, place: str, folder: Path) -> "Lexicon":
        """Return the lexicon at a place: "ecg" (bundled), a YAML file, or "" (without concepts).

        Args:
            place: config.Index.lexicon.
            folder: Of the study, which a file is relative to.

        Raises:
            UsageError: the file cannot be read or is no lexicon; names the line or the form.
        """
        if not place:
            return cls()
        bundled = resources.files("ecg_llm").joinpath("retrieve", "ecg.yaml")
        path = bundled if place == BUNDLED else folder / place
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"index.lexicon: {path} cannot be read ({error}); name a YAML file, {BUNDLED} or "
                f"nothing."
            ) from error
        return parse(text, str(path))

    @cached_property
    def version(self) -> str:
        """Digest of all that decides an expansion."""
        concepts = [[concept.names, concept.short, concept.ambiguous] for concept in self.concepts]
        weights = (NAME_WEIGHT, FORM_WEIGHT)
        return digest(FORMAT, weights, concepts, self.any_case, self.exclusions)

    def expand(self, query: str) -> tuple[Expansion, ...]:
        """Return the concepts that a query names, in its order, each once.

        Whole words are compared, from left to right, the longest form at each place, without
        overlaps. A name is found in any case, in the plural, with German endings, a possessive,
        umlauts as ä or ae, and hyphens as such, as blanks or left out; an abbreviation as it is
        written, in the plural too. The time grows with the length of the query.
        """
        text = unicodedata.normalize("NFC", query)
        words = list(_WORD.finditer(_POSSESSIVE.sub("  ", text)))
        written = [word.group() for word in words]
        fold = {word: _folded(word) for word in set(written)}
        folded = [fold[word] for word in written]
        found: dict[int, list[str]] = {}
        at = 0
        while at < len(words):
            length, concept = self._longest(written, folded, at)
            if concept is not None:
                form = text[words[at].start() : words[at + length - 1].end()]
                found.setdefault(concept, []).append(form)
            at += length
        return tuple(_expansion(self.concepts[concept], forms) for concept, forms in found.items())

    def _longest(
        self, written: Sequence[str], folded: Sequence[str], at: int
    ) -> tuple[int, int | None]:
        """Return the words of the longest form here, at least 1, and the place of its concept."""
        places, starts = self._places, self._starts
        best: tuple[int, int | None] = (1, None)
        for end in range(at + 1, len(written) + 1):
            whole, name = tuple(written[at:end]), tuple(folded[at:end])
            for key in (name, (*whole[:-1], _singular(whole[-1])), whole):
                if key in places:
                    best = (end - at, places[key])
            if whole not in starts and name not in starts:
                break
        return best

    @cached_property
    def _places(self) -> dict[Key, int | None]:
        """Key -> place of its concept; None for an exclusion."""
        places: dict[Key, int | None] = {
            key: None for form in self.exclusions for key in _name_keys(form)
        }
        for place, concept in enumerate(self.concepts):
            for _, keys in _found_by(concept, self.any_case):
                places.update(dict.fromkeys(keys, place))
        return places

    @cached_property
    def _starts(self) -> set[Key]:
        """All that keys of several words begin with."""
        return {key[:end] for key in self._places for end in range(1, len(key))}


def expansion_terms(expansions: Sequence[Expansion]) -> dict[str, float]:
    """Return the terms that expansions add to a query, with weights; a word of the query has 1.

    A form shares its weight among its terms, so that a long one does not count more than a short
    one, and what a term gets from several forms of a concept is limited to the weight of one form.
    A term of several concepts has the highest of its weights.
    """
    added: dict[str, float] = {}
    for expansion in expansions:
        terms: dict[str, float] = {}
        forms = [query_terms(form) for form in expansion.other]
        for form in forms:
            for term in form:
                terms[term] = min(FORM_WEIGHT, terms.get(term, 0.0) + FORM_WEIGHT / len(form))
        if not expansion.named:
            terms.update(dict.fromkeys(forms[0], NAME_WEIGHT))
        for term, weight in terms.items():
            added[term] = max(weight, added.get(term, 0.0))
    return added


@lru_cache(8)
def parse(text: str, name: str) -> Lexicon:
    """Return the lexicon in a YAML text; NO and 12 are words there, like all other values.

    Args:
        text: As `retrieve/ecg.yaml`, whose first lines describe it.
        name: Of the file, for errors.

    Raises:
        UsageError: not YAML, a wrong or missing key, an unknown source, or a form that stands
            twice or for two concepts; names the line or the form.
    """
    try:
        root = yaml.compose(text, yaml.BaseLoader)
        if root is None:
            raise _Wrong("is empty; list `concepts` there, or leave index.lexicon empty")
        lexicon = _lexicon(root)
        _check(lexicon)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise UsageError(f"{name}{line} is not valid YAML; correct it there.") from error
    except RecursionError:
        raise UsageError(f"{name} is nested too deeply for a lexicon; correct it.") from None
    except _Wrong as wrong:
        line = f", line {wrong.node.start_mark.line + 1}" if wrong.node else ""
        raise UsageError(f"{name}{line} {wrong}".rstrip(".?") + wrong.end) from None
    return lexicon


class _Wrong(Exception):
    """What is wrong with a lexicon, to be said of its file, and the node where."""

    def __init__(self, problem: str, node: yaml.Node | None = None) -> None:
        super().__init__(problem)
        self.node = node
        self.end = "?" if problem.endswith("?") else "."


def _lexicon(root: yaml.Node) -> Lexicon:
    top = _fields(root, _FILE)
    concepts = top.get("concepts")
    if not isinstance(concepts, yaml.SequenceNode):
        raise _Wrong("must list `concepts`, each with a name", concepts)
    sources = _fields(top["sources"]) if "sources" in top else {}
    return Lexicon(
        tuple(map(_concept, concepts.value)),
        _texts(top.get("any_case")),
        _texts(top.get("exclusions")),
        {key: _text(node) for key, node in sources.items()},
    )


def _concept(node: yaml.Node) -> Concept:
    fields = _fields(node, ("name", *_LISTS))
    if "name" not in fields:
        raise _Wrong("has a concept without a name; give it one", node)
    lists = {key: _texts(fields.get(key)) for key in _LISTS}
    return Concept(_text(fields["name"]), **lists)


def _fields(node: yaml.Node, known: Sequence[str] = ()) -> dict[str, yaml.Node]:
    """Return the keys and values of a mapping; without `known` any key is right."""
    if not isinstance(node, yaml.MappingNode):
        raise _Wrong("must hold keys and values", node)
    fields: dict[str, yaml.Node] = {}
    for key_node, value in node.value:
        key = _text(key_node)
        if known and key not in known:
            raise _Wrong(f"has the unknown key {key!r}{suggestion(key, known)}", key_node)
        if key in fields:
            raise _Wrong(f"has the key {key!r} a second time; join the two", key_node)
        fields[key] = value
    return fields


def _texts(node: yaml.Node | None) -> tuple[str, ...]:
    """Return a list of texts; a single text is a list of one."""
    if node is None:
        return ()
    return tuple(map(_text, node.value if isinstance(node, yaml.SequenceNode) else [node]))


def _text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or not _WORD.search(node.value):
        raise _Wrong("must hold a word here", node)
    return " ".join(node.value.split())


def _check(lexicon: Lexicon) -> None:
    """Refuse an unknown source, and a form that stands twice or would be found for two concepts."""
    written = [form for concept in lexicon.concepts for form in concept.short]
    for form in lexicon.any_case:
        if form not in written:
            raise _Wrong(f"lists {form!r} in any_case, which is no concept's abbreviation")
    owners = {key: "the exclusions" for form in lexicon.exclusions for key in _name_keys(form)}
    for concept in lexicon.concepts:
        for key in concept.source:
            if key not in lexicon.sources:
                known = suggestion(key, list(lexicon.sources))
                raise _Wrong(f"gives {concept.name!r} the unknown source {key!r}{known}")
        for form in concept.forms:
            if concept.forms.count(form) > 1:
                raise _Wrong(f"has {form!r} twice in the concept {concept.name!r}; remove one")
        several = [(form, _name_keys(form) | _short_keys(form)) for form in concept.ambiguous]
        found = [(form, keys, concept.name) for form, keys in _found_by(concept, lexicon.any_case)]
        found += [(form, keys, "the ambiguous forms") for form, keys in several]
        for form, keys, owner in found:
            for other in {owners.setdefault(key, owner) for key in keys} - {owner}:
                raise _Wrong(
                    f"has {form!r} in both {other!r} and {owner!r}; leave it in one, or list it as "
                    f"ambiguous in every concept that it may stand for"
                )


def _found_by(concept: Concept, any_case: Sequence[str]) -> list[tuple[str, set[Key]]]:
    """Return the forms by which a concept is found, each with its keys."""
    loose = set(any_case)
    return [(form, _name_keys(form)) for form in concept.names] + [
        (form, _short_keys(form) | (_name_keys(form) if form in loose else set()))
        for form in concept.short
    ]


def _expansion(concept: Concept, found: Sequence[str]) -> Expansion:
    """Return what a query gets for a concept that it names in these forms."""
    held = {_plain(form) for form in found}
    forms: dict[str, str] = {}
    for form in concept.forms:
        forms.setdefault(_plain(form), form)
    other = tuple(form for plain, form in forms.items() if plain not in held)
    name = _name_keys(concept.name)
    return Expansion(found[0], other, any(name & _name_keys(form) for form in found))


def _plain(form: str) -> str:
    """Return a form as terms are made of it: without case, punctuation and possessive."""
    return " ".join(_WORD.findall(_POSSESSIVE.sub("", form))).casefold()


def _name_keys(form: str) -> set[Key]:
    """Return the keys of a name: with its hyphens as blanks, and without them."""
    return {tuple(map(_folded, key)) for key in _short_keys(form)}


def _short_keys(form: str) -> set[Key]:
    """Return the keys of an abbreviation: with its hyphens as blanks, and without them."""
    text = _POSSESSIVE.sub("", unicodedata.normalize("NFC", form))
    return {tuple(_WORD.findall(way)) for way in (text, _HYPHEN.sub("", text))}


def _folded(word: str) -> str:
    """Return a word without case, accents, endings and double spellings."""
    text = _singular(word) if word[:-1].isupper() else word
    text = _ENDING.sub("", text.casefold())
    for other, one in _SPELLINGS:
        text = text.replace(other, one)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return text[:-1] + "i" if len(text) > 4 and text.endswith("y") else text


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 2 and word.endswith("s") else word
