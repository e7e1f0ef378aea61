"""Noun phrases and answers: which name a thing by themselves, and which say what it is."""

import re

from ecg_llm.questions.writing.patterns import KINDS, MODALS, WORDS, verb_at
from ecg_llm.questions.writing.sentences import words_in
from ecg_llm.questions.writing.usage import Usage

SUBJECT_WORDS = 8
SHORT_WORDS = frozenset({"eye", "ear", "leg", "arm", "pus", "hip", "gut"})
NO_TERM = re.compile(
    r"[,;:“”\"]|(?:\b(?:and|or|to|of|with|in|for|by|from|the|an?|und|oder|von)$)"
    r"|\b\w+est\b|[a-z]ly\b(?<!family)(?<!assembly)(?<!early)"
    r"|\b[Tt]he (?:two|three|four)\b|\b(?:both|all|other|another|same|various|different|similar"
    r"|certain|specific|particular|following)\b"
    r"|\bin turn\b|-then?\b|\b\w+(?:ologist|ician)s?\b"
    r"|^\w+ing (?:the|an?|on|in|at|with|to) "
)
"""Signs that a phrase is more or less than a noun phrase, or that it points back."""
PLACED = re.compile(
    r"\w+(?:ior|ial|eral|deep) to |(?:located|found|situated|embedded|attached|surrounding|lying"
    r"|included|contained|superior|inferior) (?:in|on|at|between|within|to|near|along|the) ",
    re.IGNORECASE,
)
"""Beginnings of a sentence that is turned round: "superior to the sulcus is ..."."""
BREAK = re.compile(
    r" (?:of|in|with|for|from|on|at|by|between|over|to|during|within|responsible|that|and) | \("
)
PLURAL = re.compile(
    r"[a-z](?<!s)(?<!i)(?<!u)s$|(?:atri|gangli|crani|mitochondri|bacteri|medi)a$"
    r"|(?:bronch|nucle|alveol|thromb|stimul|gyr|sulc|ram)i$|ae$|^(?:people|data)$"
)
SINGULAR = frozenset(
    {"diabetes", "pons", "rabies", "herpes", "biceps", "triceps", "quadriceps", "lens", "series"}
    | {"ascites", "torsades"}
)
CUT = re.compile(
    r"(?:;|:|,? (?:because|whereas|while|although|so that|weil|während|sodass)\b"
    r"|, (?:so|but|which|where|whose|who|since|unless|thus|thereby|resulting|causing|as|wobei|aber"
    r"|da|die|der|das|and (?:may|can))\b"
    r"|, (?:is|are|was|has|have) |, (?:and|or|und) (?:[^\s,]+ ){1,6}(?:is|are|ist|sind|\w+s) "
    r"|,? and (?:is|are|was|has|have|may|can|will|does|do|follows?|makes?|lowers|raises|returns"
    r"|represents|reflects|carries|contains|includes|lies|leads|allows|provides"
    r"|ends|requires|shows|becomes|causes|arises?|prevents?|supply|supplies|appears|not|often|usually"
    r"|therefore)\b).*",
    re.DOTALL,
)
"""What follows the part of an answer that answers the question."""
DEFINES = re.compile(
    r"\b(?:of|that|which|in|between|with|where|whose|who|by|from|than|without|to|for|at|on|during"
    r"|around|after|before|through|against|der|die|das|des|von|zwischen|mit|ohne)\b"
)
"""Words without which "the X" or "a Y" names a thing and does not define it."""
BACKWARD = re.compile(
    r"^(?:\w+ )?the (?:two|virus|pathogen|antigen|signal|stimulus|message|organism|bacteri\w+|drug"
    r"|patient|fluid|information|molecules?|substance|complex|enzyme|receptors?|domains?|process"
    r"|area|region|structures?|cells?|tissues?|ligand|current|wave|vessels?|tube|same)\b"
    r"(?! (?:of|in|for|between|from)\b)"
)
"""An object that begins with what only an earlier sentence tells."""
GERMAN_SUPERLATIVE = re.compile(r"\b[a-zäöüß]{3,}ste[nrs]?\b")
EVENT = re.compile(
    r"\b(?:has|have|begins?|enters?|contracts?|relax(?:es)?|increases?|decreases?|rises?|falls?"
    r"|drops?|becomes?|reach(?:es)?|exceeds?|binds?|opens?|closes?|moves?|stimulates?|fails?"
    r"|loses?|receives?|occurs?|declines?|spreads?|arrives?|flows?)\b"
)
"""Verbs of a "when" clause that tells an event."""
SAYING = frozenset({"it", "they", "is", "are", "was", "were", "has", "have", *MODALS})
"""Words of a whole clause before "is called"."""
LIFE = frozenset({"infancy", "childhood", "adolescence", "adulthood", "life", "pregnancy"})
"""Times in which so much happens that "What happens during ...?" does not tell what is meant."""
NAMED = frozenset({"drug", "disorder", "hormone", "test", "rhythm", "block"})
"""Kinds of which a name of one or two words says exactly what is meant."""
TRUNKS = frozenset({"artery", "vein", "nerve"})
"""Kinds of which a name of two words does."""
SPECIFIC_WORDS = 3
THE_ONE = re.compile(
    r"(?:(?:to|in|into|on|at|within|along|from|through) )?the "
    r"(?!(?:\S+ )?(?:[a-z]+(?:tions?|sions?|ments?|ances?|ences?|thesis)|release|growth|rates?"
    r"|amounts?|levels?|uptake|loss|rest|flow|entry|use|wall|surface)\b)[^,;:]+$"
)
"""An object that is one certain thing: "the pupil", not "the release of hormones"."""
POINTS_BACK = re.compile(
    r"\b(?:the|both) (?:two|three|four|other|same|first|second|entire|whole) \w+$"
    r"|\b(?:the|an) (?:area|tube|vessel|structure|system|process|organ|tissue|region|problem)$"
)


def is_term(
    phrase: str,
    usage: Usage,
    *,
    german: bool = False,
    introduced: bool = False,
    defined: bool = False,
) -> bool:
    """Return whether a noun phrase names a thing by itself, without the sentences around it.

    A phrase that the sentence introduces ("... are called graded potentials") may be general; so
    may one that it defines, "endocrine glands", if not "the glands".
    """
    words = words_in(re.sub(r"\([^)]*\)", "", phrase))
    if not words or len(words) > SUBJECT_WORDS or phrase.count("(") != phrase.count(")"):
        return False
    if words[0] in WORDS["no_start"] or WORDS["not_in_subject"] & set(words):
        return False
    if NO_TERM.search(phrase) or PLACED.match(phrase):
        return False
    if (tail := re.search(r" the (\w+)$", phrase.lower())) and tail[1] in (
        WORDS["generic"] | WORDS["vague"]
    ):
        return False
    article = words[0] in ("the", "a", "an")
    if article and (len(words) == 1 or words[1] in WORDS["no_head"]):
        return False
    core = words[1:] if article else words
    if core[0] == "type" and not re.search(r"type (?:\d|[IVX]+\b)", phrase):
        return False
    if german:
        return words[0] not in WORDS["leaning"]
    if not any(any(c.isalpha() for c in word) for word in core) or len("".join(core)) < 3:
        return False
    if len(core) == 1 and len(core[0]) < 4 and not re.search(r"[A-Z0-9].?[A-Z0-9]", phrase):
        return core[0] in SHORT_WORDS
    head = words_in(head_of(phrase)) or core
    if introduced:
        return not usage.is_heading(phrase) and (len(core) > 1 or not _only_generic(core))
    if len(words) == 1 and words[0] in WORDS["classes"]:
        return True
    named = re.search(r"\([A-Z]{2,}", phrase) is not None
    exempt = named or (defined and words[0] != "the" and len(core) > 1 and len(head) > 1)
    if not exempt and (
        _only_generic(core)
        or (_only_generic(head) and not (words[0] == "the" and " of " in phrase))
    ):
        return False
    whole = re.search(r" (?:of|for|in|between) ", phrase) is None
    if words[0] == "the" and whole and len(core) < 3 and core[-1] in WORDS["vague"]:
        return False
    if words[0] == "the" and len(core) == 1 and not usage.takes_the(core[0]):
        return False
    parts = phrase.split()
    verbs = (verb_at(parts, at) for at in range(1, len(parts) - 1))
    if WORDS["adverbs"].intersection(core) or any(
        v and (v[0].aux != "do" or v[0].words > 1) for v in verbs
    ):
        return False
    return not usage.is_heading(phrase)


def _only_generic(words: list[str]) -> bool:
    """Return whether a noun and what stands before it do not say which one is meant."""
    before = all(
        word in WORDS["generic"]
        or ("-" not in word and word.endswith(("able", "ible", "ed", "ing", "er")))
        for word in words[:-1]
    )
    return before and words[-1] in WORDS["generic"]


def head_of(phrase: str) -> str:
    """Return a noun phrase without its article and what follows its noun."""
    return BREAK.split(re.sub(r"^(?:the|an?) ", "", phrase, flags=re.IGNORECASE))[0]


def is_specific(subject: str) -> bool:
    """Return whether a subject says so exactly what is meant that few things can be said of it."""
    words = re.sub(r"^(?:the|an?) ", "", subject, flags=re.IGNORECASE).split()
    last = words_in(head_of(subject))[-1:]
    kinds = NAMED | TRUNKS if len(words) > 1 else NAMED
    named = any(
        word in kind.words or (kind.endings and word.endswith(kind.endings) and len(word) > 6)
        for kind in KINDS
        if kind.name in kinds
        for word in last
        if len(words) > 1 or word not in WORDS["generic"]
    )
    return len(words) >= SPECIFIC_WORDS or named or re.fullmatch("[A-Z]{2,}", words[0]) is not None


def is_the_one(said: str) -> bool:
    """Return whether what is said names one certain thing, or all of its kind."""
    return THE_ONE.match(said) is not None and " and " not in said


def is_plural(phrase: str) -> bool:
    """Return whether a noun phrase names several things."""
    if phrase.split()[0].lower() in ("a", "an"):
        return False
    plain = re.sub(r"\([^)]*\)", "", phrase)
    last = BREAK.split(plain.strip())[0].split()[-1:]
    return is_joined(plain) or any(PLURAL.search(w) and w.lower() not in SINGULAR for w in last)


def is_joined(phrase: str) -> bool:
    """Return whether a noun phrase names two things: "the production and secretion of PTH"."""
    return " and " in re.split(r" (?:of|in|with|for|from|between|to) ", phrase)[0]


def cut_answer(answer: str) -> str:
    """Return the part of what follows a verb that answers the question."""
    return CUT.sub("", answer).strip(" ,")


def defines(answer: str) -> bool:
    """Return whether "a/an/the ..." says what a thing is, and does not just value it."""
    head = re.split(r" (?:of|for|that|with|in|by|der|des|von|in which|which|found)\b|,", answer)[0]
    german = head.split()[0].lower() in ("der", "die", "das", "ein", "eine")
    said = cut_answer(answer)
    return (
        not WORDS["valuing"].intersection(words_in(head))
        and not re.search(r"\b\w+est\b", head)
        and not (german and GERMAN_SUPERLATIVE.search(head))
        and len(said.split()) >= 4
        and DEFINES.search(said) is not None
        and not POINTS_BACK.search(said)
        and ", it " not in said
    )


def is_reason(asked: list[str]) -> bool:
    """Return whether "Why is X ...?" asks what a sentence with "because" explains."""
    return (
        bool(asked)
        and asked[0] not in WORDS["no_object"] | {"a", "an", "the", "more", "less"}
        and not asked[0].endswith(("ing", "er"))
        and asked[-1] not in ("named", "part", "called", "largely", "mainly", "only")
        and not {"is", "are"} & set(asked)
    )


def says_what(said: str, subject: str, usage: Usage) -> bool:
    """Return whether what is called something says enough to tell what."""
    words = words_in(said)
    article = words[0] in ("the", "a", "an")
    return (
        len(words) >= 4
        and words[0] not in WORDS["no_start"]
        and not (article and words[1] in WORDS["no_head"] - {"process"})
        and not (words[0] == "the" and not DEFINES.search(said))
        and not SAYING & set(words)
        and words[-1] not in ("which", "that")
        and not POINTS_BACK.search(said)
        and not usage.is_heading(said)
        and said.count(",") != 1
        and " in the " not in subject
        and not set(words_in(subject)) - {"the", "a", "an"} <= set(words)
    )


def is_clause(clause: str, name: str, usage: Usage) -> bool:
    """Return whether "What happens when/during ...?" can be asked of a clause."""
    words = words_in(clause)
    if name == "course":
        if LIFE & set(words):
            return False
        return len(words) <= 5 and words[0] not in WORDS["no_lead"] and is_term(clause, usage)
    if WORDS["not_in_subject"] & set(words) - {"has", "have", "not", "does", "do", "than"}:
        return False
    found = EVENT.search(clause)
    subject = clause[: found.start()].strip() if found else ""
    return bool(subject) and is_term(subject, usage)
