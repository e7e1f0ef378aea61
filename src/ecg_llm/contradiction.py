"""Does a text say otherwise than a claim? By quantities, leads, directions and negations."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from ecg_llm.words import FUNCTION_WORDS, plain_number

KEPT = 50_000
"""Texts whose quantities, directions and negations are kept: passages are read for many claims."""
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
QUANTITY = re.compile(
    rf"(?<![\w.,])(\d+(?:[.,]\d+)*|{'|'.join(NUMBER_WORDS)})(?!\w*[^\W\d_]\d)"
    r"(?:\s*(?:to|bis|-|–|and|und|or|oder)\s*(\d+(?:[.,]\d+)*))?"
    rf"(?:[\s-]*({'|'.join(sorted(map(re.escape, UNITS), key=len, reverse=True))})(?![^\W\d_]))?"
)
LEAD = re.compile(
    r"(?<!\w)(?:V(\d)\s*(?:to|through|bis|-|–)\s*V(\d)|[A-Za-z]{1,6}\d+[A-Za-z]?|aV[RLF]|I{2,3}|IV)"
    r"(?!\w)"
)
"""Leads, and whatever else is named by letters and digits."""
AXES = tuple(
    tuple(tuple(pole.split()) for pole in axis)
    for axis in (
        ("long longer prolong lengthen verlänger", "short shorter shorten verkürz"),
        (
            "increas rise rises rising faster fast accelerat higher raise raised erhöh "
            "steig zunahme",
            "decreas reduc fall falls falling slower slow decelerat lower erniedrig abnahme",
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
        ("anterior vorderwand", "inferior posterior hinterwand"),
        ("superior", "inferior"),
        ("tall large hoch", "small flat klein niedrig"),
        ("regular regelm", "irregular unregelm"),
        ("early früh", "late spät"),
        ("anterograde antegrad", "retrograde retrograd"),
        ("first begin begins onset start", "last end ends"),
        ("improve improves better besser", "worsen worse verschlecht"),
        ("men male männer", "women female frauen"),
        ("systol", "diastol"),
        ("acute akute akuten", "chronic chronisch"),
        ("atrial atria atrium vorhof", "ventric kammer"),
        ("orthodrom", "antidrom"),
        ("manifest", "conceal"),
        ("sodium natrium", "potassium kalium", "calcium kalzium", "magnes"),
        ("paroxysm", "persist", "permanent"),
    )
)
"""Words that exclude each other where they stand in the same place; five letters or more of a word
stand for all words that begin so."""
REACH = 3
"""Words on either side of such a word that tell what it is said of."""
NEGATORS = frozenset(
    re.findall(
        r"\S+",
        """
    not no never without cannot neither nor lack lacks absence none t
    kein keine keinen keiner nicht ohne nie
    """,
    )
)
NEGATORS_AFTER = frozenset(["absent", "missing", "fehlt", "fehlen"])
ENDS = frozenset(",;:.!?") | {"but", "whereas", "while", "because", "sondern", "aber", "weil"}
"""Where what a negation is said of ends."""
SOFT = re.compile(
    r"\b(?:non|un|in|dis)\w{4,}|\b(?:fail\w*|exclud\w*|los[et]\w*|lack\w*|avoid\w*|instead|rather"
    r"|only|free|no longer|absent|missing|hardly|rare\w*|prevent\w*|contraindic\w*|discontinu\w*"
    r"|stop\w*|fehl\w*|selten\w*|nur|vermeid\w*)\b"
)
"""Words that say "not" without it."""
TOKEN = re.compile(r"at_least|at_most|[^\W_]+(?:[.,]\d+)?|[<>≤≥]|[,;:.!?]")


class Quantity(NamedTuple):
    """A number with its unit."""

    value: float
    unit: str
    """Empty: none that is known."""

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}".rstrip()


class _Direction(NamedTuple):
    word: str
    axis: int
    pole: int
    beside: frozenset[str]
    """Stems of the words around it."""


def contradiction(claim: str, text: str, given: str = "") -> str:
    """Return what of a claim a text does not hold or turns round, in a few words, or "".

    Every quantity and lead of the claim must stand in the text or in what was `given` (the
    question); 0.12 s is 120 ms. A direction (longer, left, elevation ...) is turned round where
    the words beside it stand in the text beside its opposite, and a negation where what it is
    said of is affirmed there, or the other way round. Whether the text is about the same thing is
    not asked.
    """
    lacking = _lacking(claim, text, given)
    if lacking:
        return f"not there: {', '.join(lacking)}"
    turned = _turned(claim, text)
    if turned:
        return f"the other way round: {turned}"
    denied = _denied(claim, text)
    return f"negated on one side: {denied}" if denied else ""


def stems(text: str) -> frozenset[str]:
    """Return the beginnings, of five letters, of the content words of a text."""
    return frozenset(word[:5] for word in _tokens(text) if _carries(word))


@lru_cache(KEPT)
def quantities(text: str) -> frozenset[Quantity]:
    """Return the quantities of a text, times in ms and lengths in mm; "two" is 2."""
    found = set()
    for match in QUANTITY.finditer(text.lower()):
        unit, factor = UNITS.get(match[3] or "", ("", 1))
        for number in filter(None, (match[1], match[2])):
            spelled = NUMBER_WORDS.get(number)
            plain = plain_number(number)
            if spelled is not None or plain.count(".") < 2:
                value = float(plain) if spelled is None else spelled
                found.add(Quantity(round(value * factor, 4), unit))
    return frozenset(found)


@lru_cache(KEPT)
def leads(text: str) -> frozenset[str]:
    """Return the leads and other names with digits in a text; V1 to V3 are three."""
    found: set[str] = set()
    for match in LEAD.finditer(text):
        if match[1]:
            found |= {f"V{number}" for number in range(int(match[1]), int(match[2]) + 1)}
        else:
            found.add(match[0])
    return frozenset(found)


def _lacking(claim: str, text: str, given: str) -> list[str]:
    held = quantities(text) | quantities(given)
    values = {quantity.value for quantity in held}
    lacking = [
        str(quantity)
        for quantity in sorted(quantities(claim))
        if quantity not in held
        and Quantity(quantity.value, "") not in held
        and not (quantity.unit == "" and quantity.value in values)
    ]
    return lacking + sorted(leads(claim) - leads(text) - leads(given))


def _turned(claim: str, text: str) -> str:
    held = _directions(text)
    for said in _directions(claim):
        same = other = -1
        for found in held:
            if found.axis == said.axis:
                common = len(found.beside & said.beside)
                if found.pole == said.pole:
                    same = max(same, common)
                else:
                    other = max(other, common)
        if other > max(same, 0):
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
    return tuple(
        _Direction(word, axis, pole, _beside(tokens, place, axis))
        for place, word in enumerate(tokens)
        for axis, pole in _poles(word)
    )


def _beside(tokens: tuple[str, ...], place: int, axis: int) -> frozenset[str]:
    found = set()
    # what stands behind a comma is said of this word, what stands before one of another
    for side, ends in ((reversed(tokens[:place]), ",;."), (iter(tokens[place + 1 :]), ";.")):
        left = REACH
        for word in side:
            if word in ends or not left:
                break
            if word[0].isalnum():
                left -= 1
                if word not in FUNCTION_WORDS and all(of != axis for of, _ in _poles(word)):
                    found.add(word[:5])
    return frozenset(found)


@lru_cache(KEPT)
def _poles(word: str) -> tuple[tuple[int, int], ...]:
    return tuple(
        (number, pole)
        for number, axis in enumerate(AXES)
        for pole, starts in enumerate(axis)
        if any(word == start or (len(start) >= 5 and word.startswith(start)) for start in starts)
    )


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
            yield word[:5]


def _carries(word: str) -> bool:
    return word.isalpha() and word not in FUNCTION_WORDS


@lru_cache(KEPT)
def _tokens(text: str) -> tuple[str, ...]:
    plain = text.lower().replace("at least", "at_least")
    plain = plain.replace("at most", "at_most").replace("up to", "at_most")
    return tuple(TOKEN.findall(plain))
