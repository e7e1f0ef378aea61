"""Facts in the parts of a text that are no prose: glossaries, lists with a lead-in, tables."""

import re
from collections.abc import Iterator

from ecg_llm.questions.writing.facts import Fact
from ecg_llm.questions.writing.patterns import PARTS, WORDS, Relation, verb_at
from ecg_llm.questions.writing.phrases import is_plural, is_term
from ecg_llm.questions.writing.sentences import Sentence, readable, words_in
from ecg_llm.questions.writing.usage import Usage
from ecg_llm.words import language_of

GLOSSARY = re.compile(r"glossary|definitions|key terms|terminology|glossar|begriffe", re.IGNORECASE)
ENTRY = re.compile(
    r"(?:^|\^|\n)[ \t]*(?:[-*+•] )?(?P<raw>\**(?P<term>[^\n^:|]{3,60}?)\**\s?\n?: ?"
    r"(?P<said>[^\n^|:]{15,300}?))"
    r"(?=\s*(?:\^|\n|\[\d+\]:))"
)
LIST = re.compile(
    r"(?m)^(?P<lead>(?![-*+•|]|\d+[.)])[^\n]{10,}:|#+ [^\n]{10,})[ ]*\n+"
    r"(?P<items>(?:[ ]*(?:[-*+•]|\d+[.)])[ ]+[^\n]+(?:\n[^\n\-*+•#|][^\n]*)*\n*)+)"
)
NUMBERS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COUNT = "|".join(NUMBERS[2:])
ENDS = r"(?: (?:are|include|comprise))?(?: as follows| the following)?$"
MANY = (
    rf"(?:{PARTS}|criteria|indications|contraindications|symptoms|signs|findings|steps|risk factors"
    r"|complications|drugs|diagnoses|factors|recommendations|variables)"
)
HEADED = re.compile(
    r"(?:The |There are |The following are )?(?:the )?(?:(?:several|many|various|following"
    rf"|important|recognized|main|major|common|typical) )*(?:(?P<count>{COUNT}) )?"
    rf"(?P<whole>(?:[\w-]+ ){{0,3}}?{MANY} (?:of|for|in|to|that cause|involved in)"
    rf" (?P<subject>[^:]{{3,70}}?)){ENDS}",
    re.IGNORECASE,
)
HEADED_GERMAN = re.compile(
    r"(?:Die )?(?P<whole>(?:Kriterien|Ursachen|Zeichen|Symptome|Indikationen|Befunde|Formen"
    r"|Merkmale)"
    r" (?:der|des|einer|eines|für|von|bei) (?P<subject>[^:]{3,70}?))(?: sind| umfassen)?$"
)
HAS_PARTS = re.compile(
    r"(?P<subject>[^:]{3,60}?) (?:has|have|contains?|consists? of|(?:is|are|can be) divided into"
    rf"|includes?) (?P<whole>(?P<count>{COUNT}) (?:[\w-]+ ){{0,3}}?{MANY})$"
)
COUNTED = re.compile(
    rf"(?P<whole>(?P<count>{COUNT}) (?:[\w-]+ )?[\w-]+s"
    r" (?:influence|affect|cause|determine|regulate|control|make up|form|suggest|favou?r|support)"
    r" (?P<subject>[^:]{3,70}))$",
    re.IGNORECASE,
)
DESCRIBED = re.compile(
    r"(?m)^[ ]*(?:[-*+•]|\d+[.)])[ ]+"
    r"(?P<raw>(?P<term>[^\n:|.]{4,60}):\** (?P<said>[^\n:|]{15,300}))$"
)
ANSWER_WORDS = 120
HEAD_WORDS = 8
NUMBERED = re.compile(r"\d|\b[IVX]+$")
DESCRIBES = re.compile(r"(?:description|definition|meaning|bedeutung|beschreibung)", re.IGNORECASE)
FUNCTION = re.compile(r"(?:(?:primary|main) )?(?:function|role)s?", re.IGNORECASE)
RANGE = re.compile(
    r"normal (?:range|values?|duration|limits?)|threshold|cutoff|upper limit|lower limit"
    r"|normalbereich|normalwert|grenzwert",
    re.IGNORECASE,
)

TERM = Relation("term", "fact", "easy", "What is meant by the term “{s}”?", 1)
GERMAN_TERM = Relation("term", "fact", "easy", "Was bedeutet der Begriff „{s}“?", 1)
PARTS_OF = Relation("list", "criterion", "hard", "What are the {whole}?", 0)
WHICH = Relation("list", "criterion", "hard", "Which {whole}?", 0)
GERMAN_LIST = Relation("list", "criterion", "hard", "Was sind die {whole}?", 0)
TRAIT = Relation("trait", "criterion", "medium", "What is characteristic of {s}?", 3)
GERMAN_TRAIT = Relation("trait", "criterion", "medium", "Was ist kennzeichnend für „{s}“?", 3)
ROLE = Relation("function", "mechanism", "medium", "What is the function of {s}?", 2)
NORMAL = Relation("value", "threshold", "medium", "What is the {head} of {s}?", 0)
GERMAN_NORMAL = Relation("value", "threshold", "medium", "{what} {s}: Welcher {head} gilt?", 0)


def facts_in_lists(text: str, section: str, usage: Usage) -> Iterator[Fact]:
    """Yield the facts of the glossaries, lists and tables of a passage."""
    if GLOSSARY.search(section):
        yield from _entries(text, usage)
    else:
        yield from _lists(text, usage)
        yield from _described(text, usage)
    yield from _rows(text, usage)


def _entries(text: str, usage: Usage) -> Iterator[Fact]:
    """Yield the terms of a glossary; one that the passage's beginning cuts is left out."""
    for found in ENTRY.finditer(text):
        if found.start() == 0 and not text.startswith(("#", "^", "-", "*")):
            continue
        if fact := _defined(found["term"], found["said"], found["raw"], usage):
            yield fact


def _defined(term: str, said: str, raw: str, usage: Usage) -> Fact | None:
    term, said = readable(term).strip(" *"), readable(said).strip(" ;,.")
    said = re.sub(r"^\(also,? [^()]*(?:\([^()]*\))?[^()]*\) ", "", said)
    said = re.sub(r"^\((?!also)[^()]*\) ", "", said)
    words = words_in(said)
    if (
        len(words) < 4
        or len(term.split()) > 6
        or not _plain(f"{term} {said}")
        or words[0] in WORDS["no_object"] - {"several", "many", "various", "different", "most"}
        or words[0] in ("name", "term", "word")
        or any((found := verb_at(words, at)) and found[0].aux == "does" for at in (0, 1))
        or not re.search(r"[a-zA-Z]{3}", term)
        or all(word in WORDS["generic"] for word in words_in(term))
        or term.count("(") != term.count(")")
        or said.count("(") != said.count(")")
        or term.endswith((".", "?"))
    ):
        return None
    language = language_of(said) or language_of(raw) or "en"
    relation = GERMAN_TERM if language == "de" else TERM
    several = re.match(r"(?:\w+ )?(?:\w+s|group|set) (?:of|that)\b", said)
    number = "are" if several or (is_plural(term) and words[0] != "one") else "is"
    return Fact(
        relation=relation,
        question=relation.question.format(s=usage.lowered(term, language)),
        subject=usage.lowered(term, language),
        object=said,
        sentence=Sentence(raw.strip(), f"{said[0].upper()}{said[1:]}."),
        number=number,
        language=language,
        predicate=f"{number} described as “{said}”" if language == "en" else "",
    )


def _plain(text: str) -> bool:
    """Return whether a text has no word that leans on something outside it."""
    words = words_in(text)
    return not (WORDS["leaning"] | WORDS["technical"]).intersection(words) and not re.search(
        r"\w- \w|[?!|]|\balso\b(?!,)", text
    )


def _lists(text: str, usage: Usage) -> Iterator[Fact]:
    for found in LIST.finditer(text):
        lead_raw = re.split(r"(?<=[.!?]) (?=[A-ZÄÖÜ])", found["lead"])[-1]
        lead = readable(lead_raw).strip("# :")
        lead = re.sub(r"^\d+(?:\.\d+)*\.? ", "", lead)
        items = [
            readable(item)
            for item in re.split(r"(?m)^[ ]*(?:[-*+•]|\d+[.)])[ ]+", found["items"])
            if item.strip()
        ]
        ends_here = found.end() >= len(text.rstrip())
        if fact := _headed(lead, items, ends_here, usage):
            start = found.end("lead") - len(lead_raw)
            raw = text[start : found.end()].strip()
            yield fact._replace(sentence=Sentence(raw, fact.object))


def _described(text: str, usage: Usage) -> Iterator[Fact]:
    """Yield what the items "term: description" of a list say."""
    found = list(DESCRIBED.finditer(text))
    if len(found) < 2:
        return
    for item in found:
        term, said = readable(item["term"]).strip("* "), readable(item["said"]).strip()
        german = language_of(f"{term} {said}") == "de" or language_of(text) == "de"
        if _plain(f"{term} {said}") and is_term(term, usage, german=german):
            relation = GERMAN_TRAIT if german else TRAIT
            shown = term if german else usage.lowered(term)
            yield Fact(
                relation=relation,
                question=relation.question.format(s=shown),
                subject=shown,
                object=said.rstrip("."),
                sentence=Sentence(item["raw"], f"{term}: {said}"),
                number="is",
                language="de" if german else "en",
            )


def _headed(lead: str, items: list[str], ends_here: bool, usage: Usage) -> Fact | None:
    found = HEADED.match(lead) or HAS_PARTS.match(lead) or COUNTED.match(lead)
    german = None if found else HEADED_GERMAN.match(lead)
    match = found or german
    if not match or len(items) < 2 or not _plain(lead):
        return None
    count = (match.groupdict().get("count") or "").lower()
    if count and NUMBERS[len(items)] != count if len(items) < len(NUMBERS) else True:
        return None
    if not count and ends_here:
        return None  # the passage may end inside the list
    subject = match["subject"]
    if not is_term(subject[0].upper() + subject[1:], usage, german=bool(german)):
        return None
    parts = _short(items)
    if not parts:
        return None
    whole = match["whole"][0].lower() + match["whole"][1:] if found else match["whole"]
    if match.re is HAS_PARTS:
        whole = f"{whole} of {usage.lowered(subject)}"
    elif count and match.re is HEADED:
        whole = f"{count.lower()} {whole}"
    relation = GERMAN_LIST if german else WHICH if match.re is COUNTED else PARTS_OF
    return Fact(
        relation=relation,
        question=relation.question.format(whole=whole),
        subject=subject,
        object="; ".join(part.rstrip(" .;,") for part in parts) + ".",
        sentence=Sentence(lead, lead),
        number="are",
        language="de" if german else "en",
    )


def _short(items: list[str]) -> list[str]:
    """Return the items, or what stands before the first stop of each if they are long."""
    if sum(len(item.split()) for item in items) <= ANSWER_WORDS and all(map(_plain, items)):
        return items
    heads = [re.split(r"[.:;]| is | are ", item)[0] for item in items]
    return heads if all(1 <= len(head.split()) <= HEAD_WORDS for head in heads) else []


def _rows(text: str, usage: Usage) -> Iterator[Fact]:
    """Yield what the rows of the tables say under headings that can be asked about."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.splitlines() if line.strip().startswith("|")]
        if len(lines) < 3 or not re.fullmatch(r"[|:\s-]+", lines[1]):
            continue
        table = [[readable(cell) for cell in line.strip("|").split("|")] for line in lines]
        head, first = table[0], 2
        if not all(head) and all(table[2]):
            head, first = table[2], 3  # a title spans the columns
        for line, row in zip(lines[first:], table[first:], strict=True):
            if len(row) == len(head) and row[0] and _plain(" ".join(row)):
                yield from _cells(head, row, line, usage)


def _cells(head: list[str], row: list[str], raw: str, usage: Usage) -> Iterator[Fact]:
    subject = row[0]
    german = re.search("bereich|wert|bedeutung", " ".join(head).lower()) is not None
    if not is_term(subject, usage, german=True) or len(subject.split()) > 6:
        return
    for name, cell in zip(head[1:], row[1:], strict=True):
        if len(row) == 2 and DESCRIBES.fullmatch(name):
            if fact := _defined(subject, cell, raw, usage):
                yield fact
        elif FUNCTION.fullmatch(name) and len(cell.split()) >= 3 and not NUMBERED.search(subject):
            yield _cell(ROLE, head[0], subject, name, cell, raw, usage)
        elif RANGE.fullmatch(name) and re.search(r"\d", cell):
            relation = GERMAN_NORMAL if german else NORMAL
            yield _cell(relation, head[0], subject, name, cell, raw, usage)


def _cell(
    relation: Relation, what: str, subject: str, name: str, cell: str, raw: str, usage: Usage
) -> Fact:
    german = relation is GERMAN_NORMAL
    shown = subject if german else usage.lowered(subject)
    if not german and not is_plural(shown) and shown.split()[0] != "the":
        shown = f"the {shown}"
    head = name if german else name[0].lower() + name[1:]
    return Fact(
        relation=relation,
        question=relation.question.format(s=shown, head=head, what=what),
        subject=shown,
        object=cell,
        sentence=Sentence(raw, cell),
        number="is",
        language="de" if german else "en",
    )
