"""The word lists, verbs, sentence shapes and kinds of terms of patterns.toml, ready for use."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, cast, get_args

from ecg_llm.records import Difficulty, QuestionType

MODALS = ("can", "may", "could", "might", "must", "should", "will", "would")
NOUN_PHRASE = r"(?P<subject>\S+(?: \S+){0,11}?)"
SAYS = (
    r"(?:is|are|has|have|does|do|can|may|lies|lie|arises?|describes?|shows?|begins?"
    r"|uses?|contains?)"
)
NUMBER = (
    r"(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d+)"
    r"(?: (?:main|major|basic|primary|different|distinct|principal|general|types of|pairs of))?"
)
PARTS = (
    r"(?:types|kinds|forms|classes|groups|stages|phases|layers|divisions|categories|causes|branches"
    r"|parts|regions|components|functions|steps|subdivisions|portions|chambers|valves|bones|criteria"
    r"|muscles|features|sources|lobes|zones|mechanisms|characteristics|properties|elements)"
)


class Relation(NamedTuple):
    """A way in which a sentence states something of its subject, and the question about it."""

    name: str
    type: QuestionType
    difficulty: Difficulty
    question: str
    place: int
    """Its place in patterns.toml: earlier ones are asked about first."""
    needs: str = ""
    """What the object must be: a place, a list or a number; empty for anything."""
    weak: bool = False
    """Whether it is asked about only where a window has nothing better."""
    many: bool = False
    """Whether a sentence mostly gives one of many right answers."""


class Verb(NamedTuple):
    """A verb in one of its forms."""

    relation: Relation
    aux: str
    """is, are, does, do or a modal verb: the question's own verb."""
    rest: str
    """What the question says after the subject."""
    words: int
    """How many words of the sentence it takes; the object follows."""


class Shape(NamedTuple):
    """The shape of a whole sentence."""

    relation: Relation
    regex: re.Pattern[str]
    german: bool


class Kind(NamedTuple):
    """What a term can be."""

    name: str
    ask: tuple[str, str]
    """One and several, as a question says it."""
    words: frozenset[str]
    endings: tuple[str, ...]
    narrow: bool
    """Whether any of them is a plausible alternative to any other."""


def third_person(verb: str) -> str:
    """Return the plain form of a verb with the ending of he, she or it: "carry" -> "carries"."""
    first, _, rest = verb.partition(" ")
    if re.search(r"[^aeiou]y$", first):
        first = first[:-1] + "ies"
    else:
        first += "es" if re.search(r"(?:s|x|ch|sh|o|zz)$", first) else "s"
    return f"{first} {rest}".strip()


def _relation(table: Mapping[str, Any], place: int) -> Relation:
    kind, difficulty = table["type"], table["difficulty"]
    if kind not in get_args(QuestionType) or difficulty not in get_args(Difficulty):
        raise ValueError(f"patterns.toml: {table['name']} is of no known type or difficulty")
    return Relation(
        table["name"],
        cast(QuestionType, kind),
        cast(Difficulty, difficulty),
        table["question"],
        place,
        table.get("object", ""),
        table.get("weak", False),
        table.get("many", False),
    )


def _forms(phrase: str, relation: Relation) -> Iterator[tuple[str, Verb]]:
    """Yield every form of a verb as it stands in a sentence."""
    asked, _, more = (part.strip() for part in phrase.partition("|"))
    count = len(asked.split())
    if asked.split()[0] == "be":
        rest = asked[3:]
        for aux in ("is", "are"):
            yield f"{aux} {rest} {more}", Verb(relation, aux, rest, count)
    else:
        rest = asked
        yield f"{third_person(asked)} {more}", Verb(relation, "does", rest, count)
        yield f"{asked} {more}", Verb(relation, "do", rest, count)
    for modal in MODALS:
        if asked == "be":
            yield f"{modal} be {more}", Verb(relation, modal, "be", 2)
        else:
            yield f"{modal} {asked} {more}", Verb(relation, modal, asked, count + 1)


def _phrases(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split(",") if part.strip()]


def _expanded(regex: str) -> str:
    adverbs = "|".join(sorted(WORDS["adverbs"]))
    for name, value in (
        ("ADVERB", f"(?:{adverbs})"),
        ("NUMBER", NUMBER),
        ("LIST", PARTS),
        ("SAYS", SAYS),
        ("NP", NOUN_PHRASE),
    ):
        regex = re.sub(rf"\b{name}\b", value.replace("\\", r"\\"), regex)
    return regex


_TABLES = tomllib.loads(files(__package__).joinpath("patterns.toml").read_text("utf-8"))

WORDS: Mapping[str, frozenset[str]] = {
    name: frozenset(text.split()) for name, text in _TABLES["words"].items()
}
GENERA: Mapping[str, str] = {
    word: genus for genus, text in _TABLES["genera"].items() for word in text.split()
}
"""The word for a class by its synonyms in definitions."""
ROOTS: Mapping[str, str] = {
    start: root for root, text in _TABLES["roots"].items() for start in text.split()
}
"""An English word by the beginnings of the Latin and Greek words for the same."""
SHAPES: Sequence[Shape] = [
    Shape(
        _relation(table, place),
        re.compile(_expanded(table["regex"]), re.DOTALL),
        table["name"].startswith("de_"),
    )
    for place, table in enumerate(_TABLES["pattern"])
]
VERBS: Mapping[str, Verb] = {
    " ".join(form.split()): verb
    for place, table in enumerate(_TABLES["verb"])
    for phrase in _phrases(table["verbs"])
    for form, verb in _forms(phrase, _relation(table, place))
}
"""Every verb by its words in a sentence."""
LONGEST_VERB = max(len(form.split()) for form in VERBS)
KINDS: Sequence[Kind] = [
    Kind(
        table["name"],
        (table["ask"][0], table["ask"][1]),
        frozenset(table["words"].split()),
        tuple(table.get("endings", "").split()),
        table.get("narrow", False),
    )
    for table in _TABLES["kind"]
]


def verb_at(words: list[str], start: int) -> tuple[Verb, int] | None:
    """Return the longest verb that begins at a word, and where its object begins."""
    places = [
        place
        for place in range(start, min(len(words), start + LONGEST_VERB + 2))
        if place == start or words[place] not in WORDS["adverbs"]
    ][:LONGEST_VERB]
    for count in range(len(places), 0, -1):
        verb = VERBS.get(" ".join(words[place] for place in places[:count]))
        if verb:
            after = places[verb.words] if verb.words < len(places) else places[-1] + 1
            if verb.relation.name == "value" and words[start + 1 : start + 2] == ["the"]:
                return None
            return verb, after
    return None
