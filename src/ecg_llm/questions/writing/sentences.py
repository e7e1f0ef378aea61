"""Complete sentences of the prose of a Markdown text, as they stand and as they read."""

import re
from typing import NamedTuple

from ecg_llm.questions.writing.patterns import WORDS
from ecg_llm.sentences import sentences as spans

ITEM = re.compile(r"(?m)^\s*(?:[-*+•]\s+|\d+[.)]\s+)")
NOT_PROSE = re.compile(r"\s*(?:[#|>=!<$@`^]|\[\d+\]|class=|\*\*[^*]+\*\*\s*$)")
CITATION = re.compile(
    r"\s?\[\s?\d+(?:\s?[,–-]\s?\d+)*\]|\s?\((?:see )?(?:Fig(?:ure)?|Table)s?\b[^)]*\)"
    r"|\s?\([Ss]teps? \d[^)]*\)|\s?\((?:plural|singular) ?= ?[^)]*\)"
)
"""What a sentence reads better without."""


SENTENCE_WORDS = (6, 45)
LEANS = re.compile(
    r"\balso\b(?! (?:called|known|termed|referred))|\bsuch (?!as\b)|\bas you\b|\bet al\b"
    r"|\b(?:many|some|all|both|most|one|each|two|none) of (?:them|which)\b|\b(?:is|are) being\b"
    r"|\b[Ff]igures?[a-z]?\b|\b(?:a|an)(?: \w+)? different\b"
    r"|\ball (?:of )?(?:the )?other\b|\b(?:of|to|from|with) that (?!of\b|is\b|are\b)[a-z]+\b"
    r"|(?<!and )(?<!, )(?<!; )\bthen\b|\bjust (?:described|mentioned|discussed)\b"
    r"|\b(?:described|explained|mentioned|noted|shown|discussed|listed|given) (?:above|below)\b"
    r"|\bvariety of (?:ways|functions|reasons)\b|\bmany ways\b|\bdepending on the\b"
)
"""Turns of speech that point outside the sentence, or say next to nothing."""
UNTOLD = re.compile(
    r"\b(?:two|three|several|many|some|various|different|a (?:number|couple) of) (?:\w+ )?"
    r"(?:characteristics|reasons|ways|factors|features|respects|properties)\b(?!.*[:(]|, )"
)
"""Announces what only the next sentences tell."""
COUNTS = re.compile(r"\d|percent|%|million|\bone in \w+|\bout of (?:every )?\w+")
POPULATION = re.compile(
    r"\bAmericans?\b|\bUnited States\b|\bworldwide\b|\bannually\b|\b(?:each|every|per) year\b"
    r"|(?:percent|%|million|out of|one in \w+|\d) (?:of )?(?:the |all )?(?:\w+ )?"
    r"(?:people|persons|adults|men|women|children|population|individuals|infants|newborns|patients)\b"
)
"""A number of people holds for the year in which they were counted."""
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
DAMAGED = re.compile(
    r"\w- (?!and|or|to|und|oder|bis)\w|@\w|=>|\\|_{2}|\$|[|?!]|^\W|\.\.|,\.|\([a-z0-9]\)"
)
"""Left-overs of layout and markup."""


class Sentence(NamedTuple):
    """A sentence as it stands in the text, and as it reads without citations."""

    raw: str
    text: str


def sentences(text: str) -> list[Sentence]:
    """Return the complete sentences of the prose and of the list items of a text, in order."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        for part in ITEM.split(block):
            if NOT_PROSE.match(part) or re.search(r"\n\s*[|#]| \^ ", part):
                continue
            prose = part.strip()
            found += [s for start, end in spans(prose) if (s := _read(prose[start:end]))]
    return found


def readable(raw: str) -> str:
    """Return a stretch of a text without citations, emphasis and line breaks."""
    clean = " ".join(CITATION.sub("", raw).replace("**", "").replace("__", "").split())
    return re.sub(r"(?<!\w)[*_](\S[^*_]*)[*_](?!\w)", r"\1", clean)


def words_in(text: str) -> list[str]:
    """Return the words of a phrase, lower case, hyphens and apostrophes within."""
    return re.findall(r"[\w’'-]+", text.lower())


def stands_alone(sentence: Sentence) -> bool:
    """Return whether a sentence reads without the ones around it, and may be about medicine."""
    text = sentence.text
    return (
        SENTENCE_WORDS[0] <= len(text.split()) <= SENTENCE_WORDS[1]
        and not (WORDS["leaning"] | WORDS["technical"]).intersection(words_in(text))
        and not LEANS.search(text)
        and not UNTOLD.search(text)
        and not DAMAGED.search(text)
        and text.count("(") == text.count(")")
        and text.count('"') % 2 == 0
    )


def counts_people(text: str) -> bool:
    """Return whether a text tells how many people there are of a kind, which holds for its year."""
    return COUNTS.search(text) is not None and POPULATION.search(text) is not None


def _read(raw: str) -> Sentence | None:
    clean = readable(raw)
    return Sentence(raw, clean) if clean[:1].isupper() and clean.endswith(".") else None
