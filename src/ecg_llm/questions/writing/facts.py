"""The facts in single sentences that can be asked for without a language model.

A fact is a sentence of a known shape, or "subject verb object" with a verb of a closed list
(patterns.toml), each with the question that the sentence answers. Whatever might need the sentences
around it (pronouns, "the latter", figures, generic subjects) is passed over.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from ecg_llm.questions.writing.patterns import (
    MODALS,
    SHAPES,
    VERBS,
    WORDS,
    Relation,
    Shape,
    Verb,
    verb_at,
)
from ecg_llm.questions.writing.phrases import (
    BACKWARD,
    SUBJECT_WORDS,
    cut_answer,
    defines,
    head_of,
    is_clause,
    is_joined,
    is_plural,
    is_reason,
    is_specific,
    is_term,
    is_the_one,
    says_what,
)
from ecg_llm.questions.writing.sentences import (
    YEAR,
    Sentence,
    counts_people,
    stands_alone,
    words_in,
)
from ecg_llm.questions.writing.usage import Usage
from ecg_llm.words import language_of

LEAD = re.compile(r"(?P<lead>(?:In|During|For) [^,]{3,70}), (?P<rest>.+)", re.DOTALL)
ALIAS = re.compile(
    r"^(\S+(?: \S+){0,6}?)(?:, (?:also (?:called|known as|termed|referred to as)|or|called)"
    r" [^,]{2,40},)(?= )"
)
NUMBER = re.compile(
    r"(?:(?:above|below|at least|at most|(?:less|more|longer|shorter|greater|slower|faster) than"
    r"|about|approximately|roughly|around|between|from|up to|within|usually|normally|typically"
    r"|only) )*[<>≥≤]? ?[+-−]?\d"
)
VAGUE_OBJECT = re.compile(
    r"^(?:\S+ )?(?:examples?|evidence|opportunity|insight|information|problems?|challenges?) "
    r"|\b(?:variety of|many|several|various|inherent|two|three) (?:\w+ )?(?:factors|mechanisms)"
    r"|\b(?:similar (?!to)|way similar|similar to that)\b|\bas well$|^(?:the same|similar)\b"
    r"|\b(?:some other|among others|and others)\b"
)
PREPOSITION = re.compile(
    r"(?:to|from|with|in|on|at|by|through|into|for|of|over|under|as|along|toward|towards|across"
    r"|around|between|within|inside|outside|above|below|near|behind|after|before|during|when|if|until|because|only|if|than|without|up"
    r"|down|out|off|back|away|forward|backward|upward|downward|more|less|well|together|directly|\w+ly)\b"
)
PARTS_TOLD = re.compile(
    r":|, .* (?:and|or) |\b(?:according to|by)\b"
    r"|^(?:\S+ ){1,5}and (?:\S+ ?){1,4}$"
)
ADJECTIVE = re.compile(r"\w+(?:al|ous|ive|ary|ic|ed|ing)")
GERMAN_PARTICIPLE = re.compile(r"(?:\bge\w+t|\w+iert|\bver\w+t|\w+en)$")
STATES = re.compile(
    r"(?:Normally, )?(?P<subject>\S+(?: \S+){0,7}?) (?:is|are|has|have|can|may|will|would|should"
    r"|must|accounts?|contributes?|represents?|constitutes?|averages?|ranges?|lasts?|lives?"
    r"|reach(?:es)?|falls?|takes?|contains?|holds?|makes?|shows?|requires?|arises?|branch(?:es)?"
    r"|beats?|moves?|begins?|ends?|normally|typically|usually|never|only)\b"
)
OF_ITS_TIME = re.compile(r"\b(?:patient|normal|it|training|United States|\d{4})\b")
"""Words of sentences whose values hold for one case, place or year."""
POSSIBLE = frozenset({"can", "may", "might", "could"})
UNBOUNDED = frozenset(
    ["effect", "link", "use", "content", "sign", "inference", "showing", "purpose", "relation"]
)
"""Relations in which what is only possible is one of many answers."""
LISTS = re.compile(r", (?:and|or) ")
ROUTE = re.compile(r" (?:to|into|through) ")
STATEMENT = Relation("statement", "threshold", "medium", "", 99)
INTRODUCING = frozenset({"definition", "identity", "meaning", "alias", "value", "range", "length"})
"""Relations whose sentence says itself what its subject is."""


class Fact(NamedTuple):
    """A sentence, or a list or table row, that answers a question."""

    relation: Relation
    question: str
    """Empty where the sentence only states a value, or gives one of many right answers."""
    subject: str
    """As it stands inside a sentence."""
    object: str
    """The part that answers the question, without the full stop."""
    sentence: Sentence
    number: str
    """is or are: subjects of one number fit into one question."""
    language: str
    predicate: str = ""
    """What the sentence says of its subject, verb first; empty where it cannot be told."""

    @property
    def name(self) -> str:
        """Name of the relation."""
        return self.relation.name


def fact_of(sentence: Sentence, usage: Usage) -> Fact | None:
    """Return the fact that a sentence states, or None if no shape fits safely.

    `usage` knows how the words of the corpus are written inside its sentences.
    """
    if not stands_alone(sentence) or usage.is_run_together(sentence.text):
        return None
    fact = _stated(sentence, usage)
    if fact and counts_people(sentence.text) and not YEAR.search(fact.question):
        return None
    return fact


def _stated(sentence: Sentence, usage: Usage) -> Fact | None:
    language = language_of(sentence.text) or "en"
    body, lead = sentence.text.removesuffix("."), ""
    for shape in SHAPES:
        found = shape.regex.match(body) if shape.german == (language == "de") else None
        if found and (fact := _shaped(shape, found, sentence, usage, language)):
            return fact
    if language == "de":
        return None
    if (found := LEAD.match(body)) and _is_lead(found["lead"], usage):
        lead, body = found["lead"], found["rest"]
        body = body[0].upper() + body[1:]
    return _said(ALIAS.sub(r"\1", body), lead, sentence, usage)


def statement_of(sentence: Sentence, usage: Usage) -> Fact | None:
    """Return a sentence as a fact without a question, if it stands alone and has a fit subject."""
    found = STATES.match(sentence.text)
    if not found or not stands_alone(sentence) or usage.is_run_together(sentence.text):
        return None
    subject = found["subject"]
    if OF_ITS_TIME.search(sentence.text) or counts_people(sentence.text):
        return None
    if not usage.knows(head_of(subject)):
        return None
    if not is_term(subject[0].upper() + subject[1:], usage):
        return None
    language = language_of(sentence.text) or "en"
    return Fact(STATEMENT, "", usage.lowered(subject), "", sentence, "is", language)


def _is_lead(lead: str, usage: Usage) -> bool:
    phrase = lead.split(" ", 1)[1]
    return not WORDS["no_lead"].intersection(words_in(phrase)[:2]) and is_term(phrase, usage)


def _said(body: str, lead: str, sentence: Sentence, usage: Usage) -> Fact | None:
    """Return the fact of a "subject verb object" sentence: its first verb decides."""
    words = body.split()
    for end in range(1, min(len(words) - 1, SUBJECT_WORDS + 1)):
        if not (found := verb_at(words, end)):
            continue
        verb, after = found
        before = words[: end - 1] if end > 1 and words[end - 1] in WORDS["adverbs"] else words[:end]
        subject, answer = " ".join(before), " ".join(words[after:])
        plural = is_plural(subject)
        if verb.aux == "do" and not plural:
            continue  # a noun: "bundle branch block"
        if verb.aux == "does" and (plural or ADJECTIVE.fullmatch(subject)):
            return None  # a noun: "environmental triggers seem"
        if verb.aux == "is" and is_joined(subject):
            return None
        known = verb.relation.name in INTRODUCING or usage.knows(head_of(subject))
        defined = verb.relation.name in ("identity", "definition")
        if (
            not known
            or not is_term(subject, usage, defined=defined)
            or not _is_object(verb, subject, answer)
        ):
            return None
        asked = usage.lowered(subject)
        question = verb.relation.question.format(aux=verb.aux, s=asked, v=verb.rest)
        if verb.rest.endswith(" from") and verb.relation.name == "link" and ROUTE.search(answer):
            question = f"From where to where {verb.aux} {asked} {verb.rest.removesuffix(' from')}?"
        question = question.replace(" ?", "?")
        if lead:
            question = f"{lead}, {question[0].lower()}{question[1:]}"
        several = verb.aux in ("are", "do") or (plural and verb.aux != "is")
        open_list = verb.relation.many and not (
            is_specific(subject) or is_the_one(cut_answer(answer))
        )
        return Fact(
            relation=verb.relation,
            question="" if open_list else question,
            subject=asked,
            object=cut_answer(answer),
            sentence=sentence,
            number="are" if several else "is",
            language="en",
            predicate="" if lead else f"{' '.join(words[end:after])} {cut_answer(answer)}",
        )
    return None


def _is_object(verb: Verb, subject: str, answer: str) -> bool:
    """Return whether what follows a verb answers its question."""
    words, said = words_in(answer), cut_answer(answer)
    name, needs = verb.relation.name, verb.relation.needs
    if needs == "number":
        if name == "value" and not WORDS["measures"].intersection(words_in(subject)[1:]):
            return False
        sure = verb.aux not in ("can", "may", "could", "might")
        return bool(sure and NUMBER.match(answer)) and not subject.startswith("Normal range")
    if not words or words[0] in WORDS["no_object"]:
        return False
    if name == "identity":
        return verb.aux not in MODALS and defines(answer)
    if name == "alias":
        return len(words) <= 12
    if len(said.split()) < 2 or f" {verb.rest} " in f" {answer} ":
        return False  # "lead I points to ..., lead II points to ..." answers two questions
    if verb.aux in POSSIBLE and name in UNBOUNDED:
        return False
    if name == "cause" and (LISTS.search(said) or verb.aux in POSSIBLE - {"can"}):
        return False  # a list of causes is seldom the whole of them
    if (
        VAGUE_OBJECT.search(answer)
        or BACKWARD.match(answer)
        or (words[0] in VERBS and VERBS[words[0]].aux == "do")
    ):
        return False  # a noun was taken for the verb: "acquired forms include"
    if name in ("sign", "function", "place") and verb.aux in MODALS:
        return False
    if name == "composition":
        return len(words) > 3 or " and " in answer
    if name == "parts":
        return PARTS_TOLD.search(answer) is not None
    if needs == "place":
        return not re.search(r"\d|%|\brest\b|\bcases\b", answer) and len(words) >= 3
    if verb.rest == "become" and words[0].endswith("ed"):
        return False
    if verb.rest == "include" and (verb.aux != "does" or not re.match("[Tt]he ", subject)):
        return False  # what "symptoms include" is seldom the whole of them
    if needs == "list":
        return ", " in said or " and " in said
    if name in ("effect", "link", "inference", "showing") and not PREPOSITION.match(
        verb.rest.split()[-1]
    ):
        return not words[0].endswith("ing") and PREPOSITION.match(answer) is None
    return True


def _shaped(
    shape: Shape, found: re.Match[str], sentence: Sentence, usage: Usage, language: str
) -> Fact | None:
    """Return the fact of a sentence of a known shape."""
    parts = {key: (value or "").strip() for key, value in found.groupdict().items()}
    name, subject, other = shape.relation.name, parts.get("subject", ""), parts.get("other", "")
    answer = parts.get("object") or found.string[found.end() :].strip(" ,")
    told = {"subject": subject, "other": other, "answer": answer, "text": found.string}
    if not _fits(name, parts | told, usage):
        return None
    plural = bool(subject) and is_plural(subject)
    be = "are" if plural else "is"
    asked = usage.lowered(subject, language) if subject else ""
    predicate = ""
    if name == "naming":
        answer = parts["said"] = usage.lowered(parts["said"])
        predicate = f"{parts['aux']} {answer}"
    elif name == "apposition":
        predicate = f"{be} {answer}"
    values = parts | {"s": asked, "is": be, "do": "do" if plural else "does"}
    for key in ("other", "clause"):
        if parts.get(key):
            values[key] = usage.lowered(parts[key])
    values["prep"] = parts.get("prep", "").lower()
    question = shape.relation.question
    if name == "contrast" and " and " in f"{asked} {other}":
        question = "How {do} {s} differ from {other}?"
    return Fact(
        relation=shape.relation,
        question=question.format(**values).replace(" ?", "?"),
        subject=asked,
        object=parts.get("alias") or cut_answer(answer),
        sentence=sentence,
        number=be,
        language=language,
        predicate=predicate,
    )


def _fits(name: str, parts: Mapping[str, str], usage: Usage) -> bool:
    """Return whether what a shape found is safe to ask about."""
    subject, answer, other = parts["subject"], parts["answer"], parts["other"]
    if name == "difference":
        pair = parts["pair"].split(" and ")
        return len(answer.split()) >= 4 and all(is_term(part, usage) for part in pair)
    if name in ("event", "course"):
        return words_in(answer)[0] not in WORDS["no_start"] and is_clause(
            parts["clause"], name, usage
        )
    if name == "share" and re.match(r"(?:\w+ )?(?:people|adults)\b", subject):
        return not {"it", "they", "them"} & set(words_in(parts["rest"]))
    german = name.startswith("de_")
    introduced, defined = name in ("naming", "term"), name == "identity"
    if not is_term(subject, usage, german=german, introduced=introduced, defined=defined):
        return False
    if name == "de_identity":
        return defines(answer) and not GERMAN_PARTICIPLE.search(answer)
    if german:
        return len(answer.split()) >= 2
    if name == "naming":
        right_number = is_plural(subject) == (parts["aux"] == "are")
        return right_number and says_what(parts["said"], subject, usage)
    if other:
        moves = re.search(r"\b(?:is|are) \w+ing\b", parts["text"])
        different = other.lower() != subject.lower() and not re.match(r"\d", other)
        enough = name != "contrast" or len(answer.split()) >= 4
        return different and enough and not moves and is_term(other, usage)
    if name == "term":
        return len(words_in(cut_answer(answer))) >= 4 and usage.knows(subject)
    if name == "identity":
        return is_plural(subject) and defines(answer) and not VAGUE_OBJECT.search(answer)
    if name == "reason":
        return is_reason(words_in(parts["rest"]))
    if name == "apposition":
        return defines(answer) and not re.search(r"\b(?:and|or) (?:an?|the) ", answer[:20])
    return True
