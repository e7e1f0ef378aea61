"""Sentences of a text, and the facts in them that can be asked for without a language model.

A fact is a sentence "subject verb object" whose verb belongs to a closed list, each with the
question that asks for the object. Whatever might need the sentences around it (pronouns, "the
latter", figures, citations as subjects) is passed over: few good questions serve better than many.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ecg_llm.questions.words import GERMAN, language_of, words_of

SENTENCE_WORDS = (6, 45)
SUBJECT_WORDS = 8
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|vs|fig|figs|tab|approx|ca|dr|prof|no|al|etc|resp|cf|incl|max|min|st|eq"
    r"|bzw|z\. ?b|d\. ?h|u\. ?a|abb|sog|evtl|ggf|vgl|inkl|usw|nr)|\b[A-HJ-UWYZ])\.$",
    re.IGNORECASE,
)
BOUNDARY = re.compile(r"[.!?][\"”’)]*\s+(?=[\"“(]?[A-ZÄÖÜ0-9])")
NOT_PROSE = re.compile(r"\s*(?:[#|>=!<$@`]|[-*+•]\s|\d+[.)]\s|\[\d+\]|class=|\*\*[^*]+\*\*\s*$)")
CITATION = re.compile(r"\s?\[\d+(?:\s?[,–-]\s?\d+)*\]|\s?\((?:see )?(?:Fig(?:ure)?|Table)[^)]*\)")
CONTEXT = re.compile(
    r"\b(?:this|these|those|such|above|below|following|here|former|latter|fig|figure\w*|tables?"
    r"|chapter|section|we|our|us|you|your|see|stud(?:y|ies)|authors?|et al|however|therefore|thus"
    r"|hence|also|moreover|furthermore|instead|otherwise|in turn|again|too|then|likewise|example"
    r"|recall|another|its own|previously|earlier|later on|https?|www|reported|trial|meta-analysis"
    r"|dies\w*|solche\w*|jene\w*|abbildung|tabelle|kapitel|abschnitt|siehe|oben|unten|hier|jedoch"
    r"|daher|deshalb|somit|außerdem|zudem|ebenfalls|dabei|hierbei|dann|wir|ihre?|beitrag)\b"
    r"|@\w|=>|\\|_{2}|\$",
    re.IGNORECASE,
)
"""Words that lean on something outside the sentence."""
BAD_START = re.compile(
    r"(?:it|they|he|she|but|or|and|yet|there|that|what|which|who|one|some|most|many|several|few|all|both|each"
    r"|every|either|neither|any|no|none|other|others|only|if|when|while|although|though|because"
    r"|since|after|before|during|in|on|at|for|with|without|by|from|to|as|of|under|over|among|even"
    r"|two|three|four|five|six|seven|eight|ten|so|such|here|now|overall|additional|further"
    r"|between|despite|unlike|like|not|more|less|much|if|once|until|unless|whether|where|how|why"
    r"|within|inside|outside|behind|along|near|around|next to|due to|prior to|adjacent to"
    r"|(?:anterior|posterior|superior|inferior|lateral|medial|deep|superficial) to"
    r"|today|sometimes|usually|often|typically|normally|generally|rarely|occasionally|finally"
    r"|first|second|third|conversely|similarly|its|their|his|her|approximately|about|nearly"
    r"|the (?:first|second|third|fourth|next|last|same|other|others|resulting|remaining|affected"
    r"|result|reason|goal|aim|purpose|following|whole|rest|two|three|four|five|new|only|term"
    r"|answer|question|idea|concept|word|name|difference|above|more|less|correct|opposite"
    r"|subsequent|final|single|main|present|entire|overall)"
    r"|an? (?:separate|second|third|further|similar|different|related|common|typical|useful|good)"
    r"|es|sie|er|man|beide|alle|einige|viele|manche|andere|wenn|da|weil|bei|in|im|an|am|auf|mit"
    r"|nach|vor|für|als|auch|hier|beim|unter|neben|seit|ohne|zu|zur|zum|durch|über|je|wird|werden|kann|seine?|neue?"
    r"|pflichtangaben)(?![-\w])",
    re.IGNORECASE,
)
IN_SUBJECT = re.compile(
    r"\b(?:that|which|who|whose|where|when|is|are|was|were|be|been|can|may|will|must|should|could"
    r"|has|have|had|does|do|not|if|because|than|it|they|them|patient|patients|person|people|case"
    r"|cases|he|she|less|more|most|\w+est|then|itself|themselves|sind|ist|wird|werden"
    r"|sich)\b|[,;:“”\"]"
    r"|\b(?:and|or|to|of|with|in|for|by|from|the|an?|und|oder|von|zu|mit)$",
    re.IGNORECASE,
)
VAGUE = re.compile(
    r"the (?:\S+ )?(?:changes|findings|answers|results|signs|features|methods|effects|values|causes"
    r"|risk|diagnosis|treatment|pattern|rhythm)",
    re.IGNORECASE,
)
"""Subjects that name something only together with the sentences before them."""
SPLITS_OBJECT = re.compile(
    r"(?:;|:|,? (?:because|whereas|while|although|so that|weil|während|sodass)\b"
    r"|, (?:so|but|which|where|whose|who|since|unless|wobei|aber|da|die|der|das|and (?:may|can))\b"
    r"|, (?:is|are|was|has|have) |, (?:and|or|und) (?:[^\s,]+ ){1,6}(?:is|are|ist|sind|\w+s) "
    r"|,? and (?:is|are|was|has|have|may|can|will|does|do|follows?|makes?|lowers|raises|returns"
    r"|represents|reflects|carries|contains|includes|lies|leads|allows|provides"
    r"|ends|requires|shows|causes|arises?|prevents?|supply|supplies|appears|not|often|usually|therefore)\b).*",
    re.DOTALL,
)
"""What follows the part of an object that answers the question."""

NOUN_PHRASE = r"(?P<subject>\S+(?: \S+){0,11}?)"
ALIAS = r"(?:, (?:also (?:called|known as|termed)|or|called|auch) [^,]+,)?"
ADVERB = r"(?:usually|often|typically|normally|generally|commonly|mainly|in general|always|meist)"
LEAD = re.compile(r"(?P<lead>(?:In|During|Bei|Beim) [^,]{3,70}), (?P<rest>.+)", re.DOTALL)

VALUE_WORDS = (
    r"(?:above|below|at least|at most|less than|more than|longer than|shorter than|greater than"
    r"|about|approximately|roughly|between|from|up to|within|slower than|faster than"
    r"|über|unter|etwa|mindestens|höchstens|zwischen)"
)
MEASURE = re.compile(
    r"\b(?:rates?|intervals?|durations?|amplitude|axis|voltage|frequency|speed|pressure|volume"
    r"|output|cutoff|limits?|thresholds?|length|width|height|depth|angle|dose|level|time|size"
    r"|weight|bandwidth|range|prevalence|incidence|risk|burden|fraction|zeit|dauer|frequenz)\b",
    re.IGNORECASE,
)


class Relation(NamedTuple):
    """A verb that links subject and object, and the question that asks for the object."""

    name: str
    verb: re.Pattern[str]
    question: str
    """Places: {s} the subject, {be} is or are, {do} does or do, {v} the verb's plain form."""
    choice: bool = False
    """Objects of other sentences with this relation make wrong options."""
    language: str = "en"


def _relation(name: str, verb: str, question: str, choice: bool = False) -> Relation:
    language = "de" if name.startswith("de_") else "en"
    return Relation(name, re.compile(verb), question, choice, language)


_BE = rf"(?P<be>is|are)(?: {ADVERB})?"
_DO = rf"(?:{ADVERB} )?(?P<do>"
_SAYS = r"(?:is|are|has|have|does|do|can|may|lies|lie|arises?|describes?|shows?|begins?|uses?)\b"
RELATIONS: Sequence[Relation] = (
    _relation("contrast", rf"(?P<be>{_SAYS})[^;]+, whereas (?P<other>(?:\S+ ){{1,7}}?){_SAYS}",
              "How {do} {s} differ from {other}?"),
    _relation("contrast", rf"Unlike (?P<other>[^,]{{3,60}}), {NOUN_PHRASE} (?P<be>{_SAYS})",
              "How {do} {s} differ from {other}?"),
    _relation("reason", r"(?P<be>is|are|can|may|should|must) (?P<rest>[^\s,;]+(?: [^\s,;]+){0,13}?)"
              r",? because", "Why {be} {s} {rest}?"),
    _relation("definition", rf"{_BE} defined (?:as|by)", "How {be} {s} defined?", True),
    _relation("term", rf"{_BE} (?:called|known as|termed)", "What {be} {s} called?", True),
    _relation("cause", rf"{_BE} (?:caused|induced) by", "What causes {s}?"),
    _relation("source", rf"{_BE} (?:produced|secreted|generated) by", "What produces {s}?"),
    _relation("sign", rf"{_BE} (?:characterized|marked|recognized) by", "What characterizes {s}?"),
    _relation("diagnosis", rf"{_BE} (?P<v>diagnosed|confirmed|identified) (?=when|by|if|from)",
              "How {be} {s} {v}?"),
    _relation("therapy", rf"{_BE} (?P<v>treated|managed|prevented) (?=with|by)",
              "How {be} {s} {v}?"),
    _relation("measure", rf"{_BE} (?P<v>measured|calculated|estimated|computed|corrected|recorded)"
              r" (?=from|by|with|as)", "How {be} {s} {v}?"),
    _relation("parts", rf"{_BE} (?P<v>divided|classified|subdivided|graded|grouped)"
              r" (?=into|by|as|according to)", "How {be} {s} {v}?"),
    _relation("caution", rf"{_BE} (?P<v>contraindicated|indicated|recommended|needed|required)"
              r" (?=in|when|if|after|before)", "When {be} {s} {v}?"),
    _relation("place", rf"{_BE} (?P<v>located|situated|found|placed) (?=(?:in|at|on|within|between"
              r"|behind|near|along|inside) [^\d]+$)", "Where {be} {s} {v}?", True),
    _relation("advice", r"(?P<be>should) be (?P<v>treated|managed|placed|measured|interpreted)"
              r" (?=as|with|by|on|from)", "How should {s} be {v}?"),
    _relation("occasion", r"(?P<be>should) be (?P<v>avoided|stopped|recorded|repeated|given|used"
              r"|considered|excluded) (?=in|when|if|after|before)", "When should {s} be {v}?"),
    _relation("value", rf"{_BE} (?=(?:{VALUE_WORDS} )?[+-−]?\d)", "What {be} {s}?"),
    _relation("identity", rf"{_BE} (?=(?:an?|the) )", "What {be} {s}?", True),
    _relation("meaning", rf"{_DO}represents?|reflects?|denotes?|describes?|refers? to"
              r"|corresponds? to|means?)", "What {do} {s} {v}?", True),
    _relation("composition", rf"{_DO}consists? of|comprises?|contains?)", "What {do} {s} {v}?",
              True),
    _relation("origin", rf"{_DO}results? from|arises? from|originates? from|stems? from)",
              "What {do} {s} {v}?"),
    _relation("inference", rf"{_DO}suggests?|indicates?|points? to|favou?rs?|excludes?)",
              "What {do} {s} {v}?"),
    _relation("effect", rf"{_DO}causes?|produces?|leads? to|results? in|prolongs?|shortens?"
              r"|reduces?|increases?|lengthens?|inhibits?|imitates?|mimics?|separates?"
              r"|supplies|activates?|prevents?|requires?|receives?|secretes?|regulates?"
              r"|stimulates?|transports?)", "What {do} {s} {v}?"),
    _relation("showing", rf"{_DO}shows?)", "What {do} {s} show?"),
    _relation("time", rf"{_DO}occurs?|begins?|ends?|appears?|develops?)"
              r" (?=when|after|before|during|if)", "When {do} {s} {v}?"),
    _relation("length", rf"{_DO}lasts?)(?= .*\d)", "How long {do} {s} last?"),
    _relation("site", rf"{_DO}lies|lie|arises?|originates?|runs?) (?=in|at|on|within|between"
              r"|behind|near|along|inside|from|through)", "Where {do} {s} {v}?"),
    _relation("de_definition", rf"Unter {NOUN_PHRASE} versteht man", "Was versteht man unter {s}?",
              True),
    _relation("de_sign", rf"{NOUN_PHRASE} (?P<be>ist|sind) durch (?P<object>.+) gekennzeichnet",
              "Wodurch {be} {s} gekennzeichnet?"),
    _relation("de_finding", rf"(?P<prep>Bei|Beim) {NOUN_PHRASE} (?P<v>finden|findet) sich",
              "Was {v} sich {prep} {s}?"),
    _relation("de_finding", rf"(?P<prep>Bei|Beim) {NOUN_PHRASE} (?P<v>entstehen|entsteht)",
              "Was {v} {prep} {s}?"),
    _relation("de_identity", r"(?P<be>ist|sind) (?=(?:eine?|der|die|das) )", "Was {be} {s}?", True),
    _relation("de_meaning", r"(?P<v>bezeichnet|beschreibt|bedeutet)", "Was {v} {s}?", True),
    _relation("de_showing", r"(?P<v>zeigt|zeigen)", "Was {v} {s}?"),
    _relation("de_effect", r"(?P<v>führen|führt) (?=zu)", "Wozu {v} {s}?"),
    _relation("de_origin", r"(?P<v>entsteht|entstehen) (?=durch)", "Wodurch {v} {s}?"),
)  # fmt: skip
"""Read in this order: the first verb that the sentence has after a fit subject counts."""

EVALUATION = re.compile(
    r"(?:an?|the|eine?|der|die|das) (?:\S+ )?(?:\S+ )?(?:common|frequent|useful|good|better|best"
    r"|major|important|strong|poor|reliable|rare|possible|simple|key|well-known|recent|serious"
    r"|markers?|signs?|causes?|reasons?|results?|problem|challenge|helpful|clues?|consequence|risk"
    r"|exception|matter|example|same|most|first|subject|topic|focus|only|case|finding|treatment"
    r"|therapy|drugs?|leading|expected|recommended|reasonable|basic|emergency|further|next|reference"
    r"|terms?|words?|concepts?|names?|path|tradition|basis"
    r"|häufig\w*|wichtig\w*|erste|zweite)\b",
    re.IGNORECASE,
)
"""Objects of "is a" that evaluate the subject and do not say what it is."""
NO_OBJECT = re.compile(
    r"(?:and|or|of|yet|but|nor|not|is|are|was|be|has|have|can|may|will|should|includes?|occurs?|refers?"
    r"|involves?|depends?|indicates?|often|usually|it|they|them|und|oder|ist|sind|nicht)\b"
)
PARTICIPLE = re.compile(r"(?:\bge\w+t|\w+iert|\bver\w+t|\w+en)$")
NAME = re.compile(
    r"(?:Mobitz|Wenckebach|Brugada|Wellens|Purkinje|His|Holter|Einthoven|Wilson|Goldberger|Bachmann"
    r"|Sokolow|Cornell|Bazett|Fridericia|Osborn|Epsilon|Ebstein|Fallot|Marfan|Chagas|Takotsubo"
    r"|Doppler|Valsalva|Starling|Korotkoff|Eisenmenger|Kawasaki|Lown|Romhilt|Spodick)\b"
    r"|\S+ (?:sign|syndrome|criteri\w+|score|formula|law|disease)\b"
)
"""Beginnings that keep their capital where the corpus does not tell: people's names."""
GERMAN_ADJECTIVE = re.compile(r"[A-ZÄÖÜ]\w+(?:e|er|es|en|em) [A-ZÄÖÜ]")


class Sentence(NamedTuple):
    """A sentence as it stands in the text, and as it reads without citations."""

    raw: str
    text: str


class Fact(NamedTuple):
    """A sentence that answers a question."""

    relation: str
    question: str
    subject: str
    """As it stands inside a sentence."""
    object: str
    """The part that answers the question, without the full stop."""
    sentence: Sentence
    number: str
    """is or are: objects of one number fit into one question."""
    language: str


def sentences(text: str) -> list[Sentence]:
    """Return the complete sentences of the prose of a Markdown text, in order."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        if NOT_PROSE.match(block) or re.search(r"\n\s*(?:[-*+•|]\s|#)", block):
            continue
        for raw in _cut(block):
            clean = " ".join(CITATION.sub("", raw).replace("**", "").replace("__", "").split())
            clean = re.sub(r"(?<!\w)[*_](\S[^*_]*)[*_](?!\w)", r"\1", clean)
            if clean[:1].isupper() and clean.endswith("."):
                found.append(Sentence(raw, clean))
    return found


def _cut(block: str) -> Iterator[str]:
    start = 0
    for boundary in BOUNDARY.finditer(block):
        end = len(block[: boundary.end()].rstrip())
        head = block[start:end].rstrip('"”’)')
        # "I.", "5." and "e.g." end no sentence, but "200 ms." and "grade I." mostly do.
        if ABBREVIATION.search(head[-6:]):
            continue
        yield block[start:end]
        start = boundary.end()
    if block[start:].strip():
        yield block[start:].strip()


def stands_alone(sentence: Sentence) -> bool:
    """Return whether a sentence reads without the ones around it."""
    count = len(sentence.text.split())
    return (
        SENTENCE_WORDS[0] <= count <= SENTENCE_WORDS[1]
        and not CONTEXT.search(sentence.text)
        and sentence.text.count("(") == sentence.text.count(")")
        and "?" not in sentence.text
    )


def fact_of(sentence: Sentence, casing: "Casing") -> Fact | None:
    """Return the fact that a sentence states, or None if no pattern fits safely.

    `casing` knows how the subject is written inside a sentence.
    """
    if not stands_alone(sentence):
        return None
    language = language_of(sentence.text) or "en"
    body, lead = sentence.text.removesuffix("."), ""
    if found := LEAD.match(body):
        lead, body = found["lead"], found["rest"]
        if CONTEXT.search(lead) or re.search(r"\b(?:addition|contrast|fact|general)\b", lead):
            return None
        body = body[0].upper() + body[1:]
    fits = [
        (len(found["subject"]), place, found)
        for place, relation in enumerate(RELATIONS)
        if relation.language == language and (found := _match(relation, body))
    ]
    if not fits:
        return None
    # The shortest subject ends at the sentence's first verb.
    _, place, found = min(fits, key=lambda fit: fit[:2])
    relation, groups = RELATIONS[place], found.groupdict()
    if not _is_subject(groups["subject"]) or not _is_object(relation.name, groups, body):
        return None
    question = _question(relation, groups, casing)
    if lead:
        question = f"{lead}, {question[0].lower()}{question[1:]}"
    return Fact(
        relation=relation.name,
        question=question,
        subject=casing.lowered(groups["subject"], language),
        object=SPLITS_OBJECT.sub("", groups["object"]).strip(" ,"),
        sentence=sentence,
        number=_number(groups.get("be") or groups.get("do") or "is"),
        language=language,
    )


def _match(relation: Relation, body: str) -> re.Match[str] | None:
    """Return how a relation fits a sentence, if subject and verb agree in number."""
    verb = relation.verb.pattern
    pattern = verb if "(?P<subject>" in verb else rf"{NOUN_PHRASE}{ALIAS} {verb}"
    if "(?P<object>" not in verb:
        pattern += r"(?:\b|(?<= )) ?(?P<object>.+)"
    found = re.match(pattern, body, re.DOTALL)
    if found is None or relation.language == "de":
        return found
    subject, verb = found["subject"], found.groupdict().get("do") or ""
    head = re.split(r" (?:of|in|with|for|from|on|at|by|between|over|to|during) ", subject)[0]
    plural = " and " in subject or bool(re.search(r"[a-z](?<!s)(?<!i)(?<!u)s$|[a-z]ia$", head))
    return None if verb and plural == (_number(verb) == "is") else found


def _is_subject(subject: str) -> bool:
    words = subject.split()
    if len(words) > SUBJECT_WORDS or BAD_START.match(subject) or IN_SUBJECT.search(subject):
        return False
    if subject.count("(") != subject.count(")") or words[-1].lower().endswith("ly"):
        return False
    if words[0].lower() == "the" and (len(words) < 3 or VAGUE.fullmatch(subject)):
        # "The valve" points back at a valve; "the mitral valve" and "the wall of the heart" do not.
        return False
    return bool(words_of(words[-1]))


def _is_object(relation: str, groups: Mapping[str, str | None], body: str) -> bool:
    text, subject = groups["object"] or "", groups["subject"] or ""
    if relation == "contrast":
        other = (groups["other"] or "").strip()
        different = other.lower() != subject.lower()
        return different and _is_subject(other[:1].upper() + other[1:])
    if NO_OBJECT.match(text) or len(text.split()) < (
        1 if relation in ("value", "length", "term") else 3
    ):
        return False
    verb = groups.get("do") or groups.get("v")
    if verb and body.count(f" {verb} ") > 1:
        return False  # "lead I points to ..., lead II points to ..." answers two questions
    if relation in ("effect", "inference", "showing"):
        return not BAD_START.match(text)
    if relation == "value":
        return MEASURE.search(subject) is not None
    if relation == "reason":
        return not NO_OBJECT.match(groups["rest"] or "") and "," not in subject
    if relation in ("identity", "de_identity"):
        head = re.split(r" (?:of|for|that|with|in|der|des|von|in which)\b|,", text)[0]
        german = relation == "de_identity" and PARTICIPLE.search(text)
        if re.match(r"\w+ing ", subject):
            return False  # "learning the nerves is a tradition" defines nothing
        return not EVALUATION.match(head) and len(text.split()) >= 5 and not german
    return True


def _question(relation: Relation, groups: Mapping[str, str | None], casing: "Casing") -> str:
    verb = groups.get("do") or ""
    values = {
        "s": casing.lowered(groups["subject"] or "", relation.language),
        "be": groups.get("be") or "",
        "do": "does" if _number(verb or groups.get("be") or "is") == "is" else "do",
        "v": groups.get("v") or plain_form(verb),
        "rest": (groups.get("rest") or "").strip(),
        "other": casing.lowered((groups.get("other") or "x").strip()),
        "prep": (groups.get("prep") or "").lower(),
    }
    return relation.question.format(**values)


def _number(verb: str) -> str:
    """Return "is" for a verb of the third person singular, else "are"."""
    return "is" if verb.split()[0].endswith("s") or verb in ("ist", "can", "may") else "are"


def plain_form(verb: str) -> str:
    """Return a verb of the third person without its ending: "refers to" -> "refer to"."""
    first, _, rest = verb.partition(" ")
    if first.endswith("ies") and first != "lies":
        first = first[:-3] + "y"
    elif first.endswith("s"):
        first = first[:-1]
    return f"{first} {rest}".strip()


class Casing:
    """How words are written inside the sentences of a corpus."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = Counter(
            word for text in texts for word in re.findall(r"(?<=[a-zäöü,] )[\w’'-]+", text)
        )

    def lowered(self, phrase: str, language: str = "en") -> str:
        """Return a phrase from a sentence's start as it reads inside a sentence."""
        first = phrase.split()[0]
        if any(c.isupper() or c.isdigit() for c in first[1:]) or (len(first) == 1 and first != "A"):
            return phrase
        small = first[0].lower() + first[1:]
        if self._counts[first] or self._counts[small]:
            keeps = self._counts[first] > self._counts[small]
        elif language == "de":
            keeps = first.lower() not in GERMAN and not GERMAN_ADJECTIVE.match(phrase)
        else:
            keeps = bool(NAME.match(phrase))
        return phrase if keeps else small + phrase[len(first) :]
