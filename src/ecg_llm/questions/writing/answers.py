"""The part of a sentence that answers the question of its fact, without what was not asked for."""

import re

from ecg_llm.questions.writing.facts import Fact
from ecg_llm.questions.writing.patterns import VERBS
from ecg_llm.questions.writing.terms import DEFINING

OTHER_CLAUSE = re.compile(
    r"(?:; (?=[a-z])|, (?:and|but|whereas|while) (?!(?:it|they|its|their|which|that)\b)"
    r"(?=(?:the |an? )?(?:[\w-]+ ){1,7}?(?:is|are|was|has|have|can|may|will|does|refers|arises"
    r"|drains|supplies|represents|originates?|lasts)\b)|, (?:is|are) the )"
)
SURPLUS = re.compile(r", (?:which|where|whose|so(?! that)) |, (?:whereas|while) |; ")
"""What goes on after the part of a sentence that answers its question."""
ASIDE = re.compile(r"; (?:also|along|in|the|an?|its?|they|usually|typically|often)\b")
"""What goes on after the definition in a glossary; "; drains the kidneys" defines."""
AND_MORE = re.compile(r",? and (?:[a-z]+s|has|can|may|will) ")
"""What does so too, except after a definition: there it may define."""
AND_DOES = re.compile(r",? and ([a-z]+s) ([a-z]+)\b")
GOES_ON = re.compile(r",? and (?:has|have|is|are|can|may|will|does|do|[a-z]+s) ")
"""A definition that goes on after what it is cut to may not be the whole one."""
DEFINED_WORDS = 6
"""Words of a definition that may stand without the clause after it."""
FULL_WORDS = 7
"""Words from which a definition in a glossary tells enough to be preferred."""


def answer_of(fact: Fact) -> str:
    """Return the sentence of a fact without what it says after what was asked for."""
    text = fact.sentence.text
    listed = fact.name == "term" and fact.object.lower() == text.removesuffix(".").lower()
    at = 0 if listed else text.find(fact.object) if fact.object else -1
    if fact.relation.type == "comparison" or not text.endswith(".") or at < 0:
        return text
    said = at + len(fact.object)
    if listed and (aside := ASIDE.search(text)):
        said = aside.start()
    elif fact.predicate and fact.name not in DEFINING:
        said = min(said, _second_verb(text, at))
    enough = FULL_WORDS if listed else DEFINED_WORDS if fact.name in DEFINING else 2
    whole = len(text[at:said].split()) >= enough
    more = SURPLUS.match(text, said) or (fact.name not in DEFINING and AND_MORE.match(text, said))
    if whole and more and text[:said].count("(") == text[:said].count(")"):
        return f"{text[:said]}."
    other = OTHER_CLAUSE.search(text, at + len(fact.object))
    return f"{text[: other.start()]}." if other else text


def _second_verb(text: str, at: int) -> int:
    """Return where a sentence goes on with what else its subject does, or its length."""
    for found in AND_DOES.finditer(text, at):
        verb = VERBS.get(f"{found[1]} {found[2]}") or VERBS.get(found[1])
        if verb and verb.aux == "does":
            return found.start()
    return len(text)


def whole_definition(fact: Fact) -> str:
    """Return a definition with the "and has ..." that belongs to it: a part may not be enough."""
    text = fact.sentence.text.removesuffix(".")
    end = text.find(fact.object) + len(fact.object)
    return fact.object + text[end:] if GOES_ON.match(text, end) else fact.object
