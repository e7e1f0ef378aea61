"""Does a text say otherwise than a claim? By quantities, leads, directions and negations."""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from ecg_llm.words import (
    DISTINGUISHING,
    DISTINGUISHING_STARTS,
    FUNCTION_WORDS,
    plain_number,
    stem,
    stems,
)

KEPT = 4096
"""Texts whose quantities, directions and negations are kept: passages are read for many claims."""
KEPT_WORDS = 50_000
NUMBER_WORDS = {
    word: value
    for value, words in enumerate(
        (
            "two zwei",
            "three drei",
            "four vier",
            "five fünf",
            "six sechs",
            "seven sieben",
            "eight acht",
            "nine neun",
            "ten zehn",
        ),
        start=2,
    )
    for word in words.split()
}
UNITS = {
    spelling: (unit, factor)
    for unit, factor, spellings in (
        ("ms", 1, "ms msec millisecond milliseconds millisekunde millisekunden"),
        ("ms", 1000, "s sec second seconds sekunde sekunden"),
        ("bpm", 1, "bpm beats /min schläge"),
        ("mV", 1, "mv millivolt"),
        ("mm", 1, "mm"),
        ("mm", 10, "cm"),
        ("%", 1, "% percent prozent"),
        ("degrees", 1, "° degrees grad"),
        ("minutes", 1, "minute minutes minuten"),
        ("hours", 1, "hour hours stunde stunden"),
        ("days", 1, "day days tag tage tagen"),
        ("weeks", 1, "week weeks woche wochen"),
        ("months", 1, "month months monat monate monaten"),
        ("years", 1, "year years jahr jahre jahren"),
        ("Hz", 1, "hz"),
        ("mg", 1, "mg"),
        ("mmol", 1, "mmol"),
    )
    for spelling in spellings.split()
}
"""Unit that each spelling stands for, and how many of it are one of the spelling."""
NUMERAL = r"\d+(?:[.,]\d+)*"
MINUS = "−–-"
QUANTITY = re.compile(
    rf"(?<![\w.,#])(minus\s+|(?<![^\s(\[/:=<>≤≥~])[{MINUS}](?=\d))?"
    rf"({NUMERAL}|{'|'.join(NUMBER_WORDS)})(?!\w*[^\W\d_]\d)"
    rf"(?:\s*(?:to|bis|-|–|and|und|or|oder)\s*(?:plus\s+|\+)?(minus\s+|[{MINUS}])?({NUMERAL}))?"
    rf"(?:[\s-]*({'|'.join(sorted(map(re.escape, UNITS), key=len, reverse=True))})(?![^\W\d_]))?"
)
"""A dash before a number is its sign where nothing stands before the dash."""
_LEAD = r"(?:I{2,3}|aV[RLF]|V\d)"
_LIST = r"(?:\s*(?:,|/|-|–|&|and|und|or|oder|to|bis)\s*)+"
LEAD = re.compile(
    rf"(?<!\w)(?:V(\d)\s*(?:to|through|bis|-|–)\s*V(\d)|[A-Za-z]{{1,6}}\d+[A-Za-z]?|aV[RLF]|I{{2,3}}"
    rf"|IV|I(?={_LIST}{_LEAD}(?!\w)))(?!\w)"
)
"""Leads, and whatever else is named by letters and digits; I only in a list of leads."""
LEAD_ONE = re.compile(rf"(?<!\w)(?:(?i:leads?|ableitung(?:en)?|in)\s+|\|\s*|{_LEAD}{_LIST})I(?!\w)")
"""Lead I, which a single I elsewhere is not."""
ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4"}
NUMBERED = re.compile(
    r"\b(?P<kind>types?|typs?|mobitz|class(?:es)?|klassen?|grades?|grad|phases?|stages?|stadium"
    r"|groups?|gruppen?)[\s-]+(?P<after>iv|i{1,3}|\d)(?![\w.,°]*\d)(?!\w)"
    r"|(?<![\w.,])(?P<before>iv|i{1,3}|\d)(?:\.|°|st|nd|rd)?[\s-]*(?=degree\b|grades\b|gradig)"
    r"|\b(?P<line>erst|zweit|dritt)(?=linien|gradig)",
    re.IGNORECASE,
)
"""Numbers that name a type, a degree or the like."""
ORDINALS = {
    word: number
    for number, words in enumerate(
        (
            "first erste ersten erster erstes erstem erst #1 1st",
            "second zweite zweiten zweiter zweites zweitem zweit #2 2nd",
            "third dritte dritten dritter drittes drittem dritt #3 3rd",
            "fourth vierte vierten vierter viertes viertem #4 4th",
            "#5",
            "last letzte letzten letzter letztes letztem",
        ),
        start=1,
    )
    for word in words.split()
}
AXES = tuple(
    tuple(tuple(pole.split()) for pole in axis)
    for axis in (
        ("long longer prolong lengthen lang lange verlänger", "short kurz kurze verkürz"),
        (
            "increas rise rises rising faster fast accelerat high higher elevated raise raised "
            "erhöh steig zunahme hoch hohe hoher hohes hohen höher schnell",
            "decreas reduc fall falls falling slower slow decelerat low lower erniedrig abnahme "
            "niedrig langsam",
        ),
        ("elevat hebung", "depress senkung"),
        (
            "left links linke linken linker linkes linksventr",
            "right rechts rechte rechten rechter rechtes rechtsventr",
        ),
        (
            "above over exceed more greater at_least > ≥ mehr über größer mindestens",
            "below under less fewer at_most < ≤ weniger unter kleiner höchstens",
        ),
        ("wide wider widen broad breit breiter verbreit", "narrow schmal"),
        ("positive upright positiv", "negative inverted negativ"),
        ("before precede vor vorher", "after follow nach nachher"),
        (
            "anterior vorderwand",
            "posterior hinterwand",
            "inferior hinterwand",
            "superior",
            "lateral seitenwand",
        ),
        (
            "tall large hoch peaked spitz spitze spitzen",
            "small flat flatten klein niedrig flach flache flachen",
        ),
        ("regular regelm", "irregular unregelm"),
        ("early früh", "late spät"),
        ("anterograde antegrad", "retrograde retrograd"),
        ("begin begins onset start", "end ends"),
        ("improve improves better besser", "worsen worse verschlecht"),
        ("men male männer", "women female frauen"),
        ("systol", "diastol"),
        ("acute akut akute akuten akuter akutes akutem", "chronic chronisch"),
        (
            "atrial atria atrium vorhof supraventric supraventrik",
            "ventric ventrik kammer",
        ),
        (
            "recommended indicated advised empfohlen indiziert",
            "contraindicated avoid harmful kontraindiziert vermeid schädlich",
        ),
        ("sensitiv", "specific spezifi"),
        ("orthodrom", "antidrom"),
        ("manifest", "conceal"),
        ("sodium natrium", "potassium kalium", "calcium kalzium", "magnes"),
        ("paroxysm", "persist", "permanent"),
    )
)
"""Words that exclude each other where they stand in the same place; five letters or more of a word
stand for all words that begin so. Words that begin with one of DISTINGUISHING_STARTS exclude each
other where they go on alike."""
OTHERS = "others"
"""Axis of the further words.DISTINGUISHING: each excludes those that the claim does not hold."""
LONG = 5
"""Letters from which on the beginning of a word stands for it."""
ROOT = 3
"""Letters of what is too much or too little: hyper|kal|emia, hypo|kal|ämie."""
ENDING = re.compile(r"e[mnrs]?$")
"""Of German adjectives."""
NEGATORS = frozenset(
    re.findall(
        r"\S+",
        """
    not no never without cannot neither nor lack lacks absence none t
    kein keine keinen keiner nicht ohne nie
    """,
    )
)
UNPLACED = NEGATORS | FUNCTION_WORDS | ROMAN.keys()
"""Words whose opposites are found otherwise, or that have none."""
REACH = 3
"""Words on either side of such a word that tell what it is said of."""
NEGATORS_AFTER = frozenset(["absent", "missing", "fehlt", "fehlen"])
ENDS = frozenset(",;:.!?") | {"but", "whereas", "while", "because", "sondern", "aber", "weil"}
"""Where what a negation is said of ends."""
SOFT = re.compile(
    r"\b(?:non|un|in|dis)\w{4,}|\b(?:fail\w*|exclud\w*|los[et]\w*|lack\w*|avoid\w*|instead|rather"
    r"|only|free|no longer|absent|missing|hardly|rare\w*|prevent\w*|contraindic\w*|discontinu\w*"
    r"|stop\w*|fehl\w*|selten\w*|nur|vermeid\w*)\b"
)
"""Words that say "not" without it."""
TOKEN = re.compile(r"at_least|at_most|#\d|[^\W_]+(?:[.,]\d+)?|[<>≤≥]|[,;:.!?]")


class Quantity(NamedTuple):
    """A number with its unit."""

    value: float
    unit: str
    """Empty: none that is known."""

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}".rstrip()


class _Direction(NamedTuple):
    word: str
    axis: str
    poles: frozenset[str]
    """More than one where a word is ambiguous: a Hinterwand is inferior or posterior."""
    beside: frozenset[str]
    """Stems of the words around it."""
    said: frozenset[str]
    """Stems of its sentence."""


class _Near(NamedTuple):
    """How much a direction of a text is said of what the claim says it of."""

    beside: int
    """Stems around both in common."""
    said: int
    """Stems of both sentences in common; those that share two more decide between equals."""


def contradiction(claim: str, text: str, given: str = "") -> str:
    """Return what of a claim a text does not hold or turns round, in a few words, or "".

    Every quantity and lead of the claim must stand in the text or in what was `given` (the
    question); 0.12 s is 120 ms. A direction (longer, left, hyper ...) is turned round where more
    of the words beside it stand in the text beside its opposite than beside the same, and a
    negation where what it is said of is affirmed there, or the other way round. Whether the text is
    about the same thing is not asked.
    """
    if absent := lacking(claim, text, given):
        return f"not there: {', '.join(absent)}"
    turned = _turned(claim, text)
    if turned:
        return f"the other way round: {turned}"
    denied = _denied(claim, text)
    return f"negated on one side: {denied}" if denied else ""


@lru_cache(KEPT)
def quantities(text: str) -> frozenset[Quantity]:
    """Return the quantities of a text, times in ms and lengths in mm; "two" is 2.

    Numbers that name a type, a class or a degree are none.
    """
    found = set()
    for match in QUANTITY.finditer(_numbered(text).lower()):
        unit, factor = UNITS.get(match[5] or "", ("", 1))
        for sign, number in ((match[1], match[2]), (match[3], match[4])):
            spelled = NUMBER_WORDS.get(number)
            plain = plain_number(number or "")
            if spelled is not None or (plain and plain.count(".") < 2):
                value = float(plain) if spelled is None else spelled
                found.add(Quantity(round(value * factor * (-1 if sign else 1), 4), unit))
    return frozenset(found)


@lru_cache(KEPT)
def leads(text: str) -> frozenset[str]:
    """Return the leads and other names with digits in a text; V1 to V3 are three."""
    found: set[str] = set()
    text = _numbered(text)
    for match in LEAD.finditer(text):
        if match[1]:
            found |= {f"V{number}" for number in range(int(match[1]), int(match[2]) + 1)}
        else:
            found.add(match[0])
    return frozenset(found | {"I"} if LEAD_ONE.search(text) else found)


@lru_cache(KEPT)
def _numbered(text: str) -> str:
    """Return a text with #2 for the number of "type II", "Mobitz 2", "II. Grades"."""

    def marked(match: re.Match[str]) -> str:
        number = match["after"] or match["before"]
        if not number:
            return f"{match['line']} "
        number = ROMAN.get(number.lower(), number)
        return f"{match['kind']} #{number}" if match["kind"] else f"#{number} "

    return NUMBERED.sub(marked, text)


def lacking(claim: str, text: str, given: str = "") -> list[str]:
    """Return the quantities, numbers of types and leads of a claim that neither text holds."""
    held = quantities(text) | quantities(given)
    values = {quantity.value for quantity in held} | _ordinals(text) | _ordinals(given)
    names = leads(text) | leads(given)
    values |= {int(ROMAN[name.lower()]) for name in names if name.lower() in ROMAN}
    absent = [
        str(quantity)
        for quantity in sorted(quantities(claim))
        if quantity not in held
        and Quantity(quantity.value, "") not in held
        and not (quantity.unit == "" and quantity.value in values)
    ]
    numbered = {int(word[1:]) for word in _tokens(claim) if word[0] == "#"}
    absent += [str(number) for number in sorted(numbered - values)]
    return absent + sorted(leads(claim) - names)


def _ordinals(text: str) -> set[int]:
    return {
        ORDINALS[word] if word in ORDINALS else int(word[1:])
        for word in _tokens(text)
        if word in ORDINALS or word[0] == "#"
    }


def _turned(claim: str, text: str) -> str:
    held = _directions(text)
    words = set(_tokens(claim))
    for said in _directions(claim):
        rest = said.said - {stem(said.word)}
        same, other = _Near(-1, 0), _Near(0, 0)
        for found in held:
            if found.axis != said.axis:
                continue
            near = _Near(len(found.beside & said.beside), len(found.said & rest))
            if found.poles & said.poles:
                same = max(same, near)
            elif said.axis != OTHERS or found.word not in words:
                other = max(other, near)
        if other.beside and (
            (other.beside > same.beside and other.said >= same.said)
            or (other.beside == same.beside and other.said > same.said + 1)
        ):
            return said.word
    return ""


def _denied(claim: str, text: str) -> str:
    said, stands = _negations(claim), _negations(text)
    of_claim, of_text = stems(claim), stems(text)
    negated_claim = {stem for scope in said for stem in scope}
    negated_text = {stem for scope in stands for stem in scope}
    for scope in said:
        if of_text.intersection(scope) and not negated_text.intersection(scope):
            return " ".join(scope)
    if said and not stands and not SOFT.search(text.lower()):
        return " ".join(said[0])
    for scope in stands:
        if of_claim.issuperset(scope) and not negated_claim.intersection(scope):
            return " ".join(scope)
    return ""


@lru_cache(KEPT)
def _directions(text: str) -> tuple[_Direction, ...]:
    tokens = _tokens(text)
    stops = [-1, *(place for place, word in enumerate(tokens) if word in ".!?"), len(tokens)]
    found = []
    for first, last in pairwise(stops):
        sentence = tokens[first + 1 : last]
        said = frozenset(stem(w) for w in sentence if w[0].isalnum() and w not in FUNCTION_WORDS)
        found += [
            _Direction(word, axis, poles, _beside(sentence, place, axis, root), said)
            for place, word in enumerate(sentence)
            for axis, poles, root in _poles(word)
        ]
    return tuple(found)


def _beside(tokens: tuple[str, ...], place: int, axis: str, root: str) -> frozenset[str]:
    found = {root} if root else set()
    # what stands behind a comma is said of this word, what stands before one of another
    for side, ends in ((reversed(tokens[:place]), ",;"), (iter(tokens[place + 1 :]), ";")):
        left = REACH
        for word in side:
            if word in ends or not left:
                break
            if word[0].isalnum():
                left -= 1
                if word not in FUNCTION_WORDS and all(of != axis for of, _, _ in _poles(word)):
                    found.add(stem(word))
    return frozenset(found)


@lru_cache(KEPT_WORDS)
def _poles(word: str) -> tuple[tuple[str, frozenset[str], str], ...]:
    """Return the axes that a word is on, its poles there, and what it says beside them."""
    found = []
    for number, axis in enumerate(AXES):
        poles, root = set(), ""
        for pole, starts in enumerate(axis):
            for start in starts:
                if word == start or (len(start) >= LONG and word.startswith(start)):
                    poles.add(str(pole))
                    rest = word[len(start) :]
                    root = stem(rest) if len(rest) >= LONG else root
        if poles:
            found.append((str(number), frozenset(poles), root))
    if word in ORDINALS:
        found.append(("ordinal", frozenset([str(ORDINALS[word])]), ""))
    for start in DISTINGUISHING_STARTS:
        root = word.partition(start)[2][:ROOT]
        if len(root) == ROOT:
            found.append((root, frozenset([start]), root))
    bare = ENDING.sub("", word)
    if not found and not DISTINGUISHING.isdisjoint((word, bare)) and word not in UNPLACED:
        found.append((OTHERS, frozenset([stem(bare)]), ""))
    return tuple(found)


@lru_cache(KEPT)
def _negations(text: str) -> tuple[tuple[str, ...], ...]:
    """Return, for each negation, the stems of the two words that it is said of."""
    tokens = _tokens(text)
    scopes = []
    for place, word in enumerate(tokens):
        if word in NEGATORS:
            scopes.append(tuple(_scope(tokens[place + 1 : place + 7])))
        elif word in NEGATORS_AFTER:
            scopes.append(tuple(_scope(tokens[max(0, place - 6) : place][::-1])))
    return tuple(filter(None, scopes))


def _scope(tokens: tuple[str, ...]) -> Iterator[str]:
    left = 2
    for word in tokens:
        if word in ENDS or not left:
            return
        if _carries(word):
            left -= 1
            yield stem(word)


def _carries(word: str) -> bool:
    return word.isalpha() and word not in FUNCTION_WORDS


@lru_cache(KEPT)
def _tokens(text: str) -> tuple[str, ...]:
    plain = _numbered(text).lower().replace("at least", "at_least")
    plain = plain.replace("at most", "at_most").replace("up to", "at_most")
    return tuple(TOKEN.findall(plain))
