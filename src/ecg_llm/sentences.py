"""Sentences of a Markdown text, by their exact offsets."""

import re
from collections.abc import Callable, Iterator

ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """
    fig figs tab tabs ref refs eq eqs ch chap vol no nos nr pp p ed eds et al cf ca approx resp
    vs viz e.g i.e a.k.a etc dr prof mr mrs st jr sr inc ltd dept univ hosp med cardiol circ
    electrocardiol physiol j eur int clin engl n.engl dtsch wochenschr max
    z.b d.h u.a u.u o.ä o.a i.d.r s.o s.u v.a z.t i.v p.o s.c i.m b.i.d t.i.d q.d p.r.n abb bzw ggf
    evtl usw inkl exkl vgl bspw sog dipl priv.-doz hrsg aufl bd jh nachm vorm str tel ff fa geb
    jan feb mar apr jun jul aug sep sept oct okt nov dec dez
    """,
    )
)
"""Words before a full stop that rarely end a sentence, in lower case without the last stop."""
ENDING = frozenset(re.findall(r"\S+", "al etc max p.o i.v s.c i.m usw no"))
"""Abbreviations that also end sentences: they do where a word in capitals of its own follows."""
LEADING = frozenset(["e.g", "i.e", "z.b", "d.h"])
"""Abbreviations that what they are about always follows."""
OPENERS = frozenset(
    re.findall(
        r"\S+",
        """
    the a an this these that those in on at for from with when where while if as it its we our they
    he she there unlike because since once under over above below between among another other such
    some many several only remember overall compared of however thus therefore moreover although
    after before during both all each most patients results figure table der die das dies diese
    dieser dieses ein eine einer im am an bei beim zur zum für mit nach vor wenn weil während es er
    sie wir ihr auch sowohl daher dabei patienten abbildung tabelle
    """,
    )
)
STOP = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»«)\]]*+(?=\s)|[。！？]")
NEXT = re.compile(r"\s+[\"'“„‘«(\[*_]*(?:[^\W\d_]?[A-ZÄÖÜÀ-ÝΑ-Ω]|\d|[βα][A-Z]|§)")
LETTERED = frozenset(
    re.findall(
        r"\S+",
        """
    lead leads vitamin hepatitis influenza type types group class grade phase stage factor figure
    table ableitung ableitungen typ gruppe klasse grad stadium
    """,
    )
)
"""Words after which a single capital is a name that may end a sentence."""
WHOLE = re.compile(r"\||#{1,6}\s")
"""Begins table rows and headings, which are never cut."""
ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+")
MONTHS = frozenset(
    re.findall(
        r"\S+",
        """
    january february march april may june july august september october november december januar
    februar märz mai juni juli oktober dezember jahrhundert grades lebensjahr tag woche
    """,
    )
)


def sentences(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of every sentence, in order, without the space around it.

    Headings, table rows and list items stand alone; a line end inside a paragraph ends nothing.
    Full stops of abbreviations ("Fig. 3", "e.g.", "z. B."), numbers ("0.12 s", "am 3. Oktober")
    and initials end no sentence.
    """
    found = []
    for start, end in _blocks(text):
        begin = start
        if WHOLE.match(text, start):
            found.append((start, end))
            continue
        for match in STOP.finditer(text, start, end):
            if match.end() < end and _ends_sentence(text, begin, match):
                found.append((begin, match.end()))
                begin = match.end()
                while begin < end and text[begin].isspace():
                    begin += 1
        if begin < end:
            found.append((begin, end))
    return found


def statements(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of every sentence of the prose; one that opens a list holds the list.

    Headings and table rows are left out.
    """
    found: list[tuple[int, int]] = []
    opened = False
    for start, end in sentences(text):
        if WHOLE.match(text, start):
            opened = False
            continue
        item = ITEM.match(text, start)
        if item and opened:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
        opened = text[end - 1] == ":" or bool(item and opened)
    return found


def plain(text: str) -> str:
    """Return a statement as one sentence on one line: lists without signs and inner full stops."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    made = ""
    for line in lines:
        item = ITEM.match(line)
        if item:
            made = f"{made[:-1]};" if made.endswith(".") else made
            line = line[item.end() :]
        made = f"{made} {line}" if made else line
    return made


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of every paragraph, heading, table row and list item."""
    alone: Callable[[str], object] = re.compile(
        r"#{1,6}\s|\s*\||```|\s*[-*+•]\s|\s*\d{1,3}[.)]\s"
    ).match
    begin = end = offset = 0
    closed = True
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        separate = bool(alone(line))
        if (not bare or separate) and begin < end:
            yield begin, end
            begin = end
        if bare:
            left = offset + len(line) - len(line.lstrip())
            if begin >= end or closed:
                begin = left
            end = offset + len(line.rstrip())
        if bare and (line.startswith(("#", "```")) or bare.startswith("|")):
            yield begin, end
            begin = end
        closed = begin >= end
        offset += len(line)
    if begin < end:
        yield begin, end


def _ends_sentence(text: str, begin: int, stop: re.Match[str]) -> bool:
    """Tell whether this stop ends the sentence that began at `begin`."""
    if stop[0][0] in "。！？":
        return True
    if not NEXT.match(text, stop.end()):
        return False
    if stop[0][0] != ".":
        return True
    before = text[max(begin, stop.start() - 30) : stop.start()].split()
    word = before[-1].lstrip("([\"'„“") if before else ""
    after = re.match(r"\s+[\"'“„(\[]*(\w+)", text[stop.end() : stop.end() + 40])
    following = after[1] if after else ""
    bare = word.lower()
    if word.isdigit():
        # "am 3. Oktober", "des 2. Grades", "2. Methods" are no ends; "in 2008. The" is one
        dated = following.lower() in MONTHS or len(before) == 1
        return not dated and (len(word) > 2 or following.lower() in OPENERS)
    if re.fullmatch("I{1,3}|IV", word) and following.lower() in MONTHS:
        return False  # "AV-Block II. Grades"
    if len(bare) == 1 and bare.isalpha():
        # initials and "z. B."; "lead I. The" and "vitamin K. The" are ends
        named = len(before) > 1 and before[-2].lower() in LETTERED
        return word.isupper() and (named or following.lower() in OPENERS)
    shouted = word.isupper() and len(word) > 1  # "ST." is no saint
    if (bare in ABBREVIATIONS and not shouted) or re.fullmatch(r"(?:[a-zäöü]\.)+[a-zäöü]", bare):
        ends = bare in ENDING or ("." in bare and bare not in LEADING)
        return ends and following.lower() in OPENERS and following[:1].isupper()
    return True
