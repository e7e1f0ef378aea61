"""The topic of a passage, for questions whose subject alone may mean several things."""

import re
from functools import cache

from ecg_llm.questions.writing.facts import Fact
from ecg_llm.questions.writing.lists import GERMAN_TERM, TERM
from ecg_llm.questions.writing.patterns import WORDS
from ecg_llm.questions.writing.sentences import words_in
from ecg_llm.questions.writing.terms import DEFINING, bare, noun_of
from ecg_llm.questions.writing.usage import Usage
from ecg_llm.words import content_words, language_of

SHORT = 2
"""Words up to which a subject may mean several things: "macula", "size exclusion"."""
TOPIC_WORDS = 4
MOST_WORDS = 8
"""Different words of topic and question: of more, two questions that differ in one word alone would
look alike to the check of duplicates."""
SHORT_FORMS = {TERM: "What does “{s}” mean?", GERMAN_TERM: "Was bedeutet „{s}“?"}
GIVEN_AWAY = 0.25
"""Share of the answer's words from which a topic that says them tells the answer."""
TELLING = frozenset({"list", "types", "share", "naming"})
"""Relations whose question says more than its subject, or asks for it."""
NUMBERED = re.compile(r"^(?:(?:chapter|kapitel) )?(?:\d+(?:\.\d*)*|[IVX]+)[.:)]* ", re.IGNORECASE)
ABOUT = re.compile(
    r"^(?:an? |the )?(?:overview|introduction|basics|einführung|grundlagen) (?:of|to|in) (?:the )?"
    r"|^(?:the|an?|der|die|das) ",
    re.IGNORECASE,
)
PARTS_OF = re.compile(r"^.*? (?:of|der|des|von) ")
"""What a long heading says before its subject: "Divisions of the Autonomic Nervous System"."""
NO_TOPIC = re.compile(
    r"\b(?:glossary|terms?|terminology|definitions?|introduction|overview|review|summary|abstract"
    r"|background|objectives?|methods?|methodology|materials?|data|results?|discussions?"
    r"|conclusions?|limitations?|references|bibliography|acknowledge?ments?|correspondence|appendix"
    r"|excerpt|contents|preface|questions?|exercises?|answers?|links?|thinking|scoring|scores?"
    r"|challenges?|recordings?|processing|preprocessing|analysis|approach|performance|criteria"
    r"|glossar|begriffe|einleitung|einführung|zusammenfassung|methoden?|ergebnisse|diskussion"
    r"|literatur|literaturverzeichnis|fazit|hintergrund|other|various|further|at a glance"
    r"|comparison|location|shape|size|shared|glance|limits|imitators)\b"
    r"|[^\w\s,’'()-]|^(?:\w+ing(?! and\b)|what|how|why|when|where|who|which) \w",
    re.IGNORECASE,
)
"""Headings of the parts that every work has, and those that are no name of a subject."""


def topic_of(fact: Fact, section: str, usage: Usage) -> str:
    """Return the innermost heading of a section that tells which thing a fact is about, or "".

    Only for a short subject that the heading does not name, and only a heading that does not give
    the answer away.
    """
    subject = set(content_words(bare(fact.subject)))
    told = fact.relation.name in TELLING or fact.relation.type == "comparison"
    told = told or ": " in fact.question
    if told or not 0 < len(bare(fact.subject).split()) <= SHORT:
        return ""
    for heading in reversed(section.split(" > ")):
        topic = _named(heading)
        words = _stems(topic)
        if len({*words_in(topic), *words_in(asked_under("", fact))}) > MOST_WORDS:
            continue
        if not words or words & _stems(" ".join(subject)) or words <= _stems(fact.question):
            continue
        if (language_of(topic) or fact.language) == fact.language and not _tells(topic, fact):
            return _read(topic, fact.language, usage)
    return ""


def asked_under(topic: str, fact: Fact) -> str:
    """Return the question of a fact under a topic, in a short form."""
    form = SHORT_FORMS.get(fact.relation)
    return f"{topic}: {form.format(s=fact.subject) if form else fact.question}"


def _tells(topic: str, fact: Fact) -> bool:
    """Return whether a topic gives the answer away: the class of a definition, or much of it."""
    answer = _stems(fact.object) - _stems(fact.question)
    shared = _stems(topic) & answer
    genus = _stems(noun_of(fact.object)) if fact.name in DEFINING else frozenset()
    return bool(shared & genus) or len(shared) > GIVEN_AWAY * len(answer)


@cache
def _named(heading: str) -> str:
    """Return the subject that a heading names, or ""."""
    topic = ABOUT.sub("", NUMBERED.sub("", heading.strip())).split(": ")[0]
    topic = re.sub(r" ?\([^)]*\)", "", topic).strip()
    if len(topic.split()) > TOPIC_WORDS:
        topic = ABOUT.sub("", PARTS_OF.sub("", topic))
    if len(topic.split()) > TOPIC_WORDS:
        topic = re.split(r", | and ", topic)[0]
    words = words_in(topic)
    if (
        not words
        or len(words) > TOPIC_WORDS
        or NO_TOPIC.search(topic)
        or WORDS["technical"].intersection(words)
        or all(word in WORDS["generic"] for word in content_words(topic))
        or not any(len(word) > 2 and word.isalpha() for word in words)
    ):
        return ""
    return topic


def _read(topic: str, language: str, usage: Usage) -> str:
    """Return a topic with the capitals of a sentence instead of a title's."""
    if language == "de":
        return topic
    return topic[0] + " ".join(map(usage.lowered, topic.split()))[1:]


@cache
def _stems(text: str) -> frozenset[str]:
    return frozenset(word[:6].removesuffix("s") for word in content_words(text))
