"""Page Markdown made clean whatever engine wrote it, and its sections told apart by kind."""

import html
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ecg_llm.records import PassageKind

HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.*)$")
NUMBERED = re.compile(r"^(\d{1,2}(?:\.\d{1,2})*)\.?\s+(?=\S*[^\W\d])")
LIST_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)]|\[\d{1,3}\])\s")
CAPTION = re.compile(
    r"^(?:fig(?:ure)?|tab(?:le|elle)?|abb(?:ildung)?|box|scheme|algorithm)\.?\s*[A-Z]?\d+[a-z]?"
    r"(?:[.:|)]|\s+[-–—])\s*\S",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"[.!?:;…][\"'”’)\]]*$")

LIGATURES = {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}
SPACES = dict.fromkeys([*map(chr, range(0x2000, 0x200B)), "\u00a0", "\u202f", "\u3000"], " ")
INVISIBLE = dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", "")
SYMBOLS = {
    chr(0xF000 + ord(latin)): symbol
    for latin, symbol in zip(
        "abcdefghiklmnopqrstuwxyzD\xb1\xb3\xa3\xb4\xb0\xae\xb7\xa7\xfc",
        "αβχδεφγηικλμνοπθρστυωξψζΔ±≥≤×°→••✓",
        strict=True,
    )
}
"""Letters of the Symbol and Wingdings fonts, which many PDFs leave in the private-use area."""
CHARACTERS = str.maketrans(
    LIGATURES | SPACES | INVISIBLE | SYMBOLS | {"\u2028": "\n", "\u2029": "\n\n"}
)
BROKEN = re.compile(r"(?P<first>\w[\w-]{0,60})-[ \t]*\n(?P<second>\w+)")
"""A word broken at the end of a line."""
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
BREAK_MARKS = "\u00ad\ufffe\x02"
"""What PDF engines put where a word was broken: soft hyphen, and PDFium's two marks for it."""

LONG_HEADING = 140
"""Characters beyond which a heading is taken for body text (the longest title met has 133)."""
PROSE = re.compile(r"(?:\b[a-zäöüß]+\b[ ,]+){6}")
"""Six words in small letters: a sentence, not names and institutes."""
FOOT = re.compile(r"(?:page|seite|p\.) ?\d+$|.*\b(?:issn|doi)\b.*\d", re.IGNORECASE)
"""A line at the edge of a page, however large its type."""
NUMERALS = re.compile(r"\d+|\b[ivxl]+\b")
"""What differs from page to page in a running line."""
EDGE = 2
"""Lines at the top and the bottom of a page among which running lines are looked for."""
RECURS = 3
"""Pages on which a line at the edge must recur to be a running line."""
AT_EDGE = 0.6
"""Share of its occurrences that a running line has at the edges."""
TICKS = re.compile(r"[\d\s.,+−–%°|-]*")
"""Numbers alone: the labels of a chart's axes, or a page number."""
PROMOTED = frozenset(["abstract", "references", "acknowledgements"])
"""Kinds of matter whose title is taken for a heading wherever it is a line of its own."""
ADDRESS = re.compile(
    r"(?:address(?: for)? correspondence|correspond(?:ing author|ence)(?: to| address)?|"
    r"korrespondenzadresse|anschrift (?:des verfassers|der verfasser(?:in)?))\s*[.:]?",
    re.IGNORECASE,
)
"""Begins the address of an author, on a line of its own or with the address behind it."""

_KIND_TITLES: dict[PassageKind, str] = {
    "abstract": "abstract|structured abstract|summary|synopsis|executive summary|zusammenfassung|"
    "kurzfassung|kurzzusammenfassung|keywords|key words|index terms|schlüsselwörter",
    "authors": "authors|author|author information|author affiliations|affiliations|contributors|"
    "about the author|about the authors|author contributions|authors' contributions|"
    "author contribution|correspondence|corresponding author|address for correspondence|"
    "contact information|autor|autoren|autorin|autorinnen|autorinnen und autoren|"
    "autorenverzeichnis|mitarbeiterverzeichnis|korrespondenzadresse|anschrift des verfassers|"
    "anschrift der verfasser",
    "contents": "contents|table of contents|list of figures|list of tables|list of abbreviations|"
    "inhalt|inhaltsverzeichnis|inhaltsübersicht|abbildungsverzeichnis|tabellenverzeichnis|"
    "abkürzungsverzeichnis",
    "references": "references|reference|reference list|references and notes|bibliography|"
    "literature|literature cited|cited literature|works cited|further reading|literatur|"
    "literaturverzeichnis|literaturangaben|literaturhinweise|weiterführende literatur|quellen|"
    "quellenverzeichnis|quellenangaben|referenzen",
    "acknowledgements": "acknowledgements|acknowledgments|acknowledgement|acknowledgment|"
    "danksagung|danksagungen|dank",
    "funding": "funding|funding sources|source of funding|sources of funding|funding statement|"
    "funding information|financial support|financial disclosure|financial disclosures|disclosure|"
    "disclosures|disclosure statement|conflict of interest|conflicts of interest|"
    "conflict of interest statement|competing interests|declaration of interest|"
    "declaration of interests|declaration of competing interest|förderung|finanzierung|"
    "finanzielle unterstützung|interessenkonflikt|interessenkonflikte|interessenskonflikt",
    "index": "index|subject index|author index|register|sachregister|sachverzeichnis|"
    "stichwortverzeichnis|personenregister",
}
TITLES = {title: kind for kind, titles in _KIND_TITLES.items() for title in titles.split("|")}
"""Whole headings that mark front and back matter, English and German; never matched as prefixes."""
BODY_TITLES = frozenset(
    ["introduction", "einleitung", "einführung", "background and introduction", "hintergrund"]
)
"""Unnumbered headings that end an abstract or a contents list whatever their level."""
USUAL_TITLES = BODY_TITLES | {
    "methods", "materials and methods", "results", "discussion", "results and discussion",
    "conclusion", "conclusions", "methoden", "methodik", "material und methoden", "ergebnisse",
    "diskussion", "schlussfolgerung", "schlussfolgerungen", "fazit",
}  # fmt: skip
"""Titles taken for headings where they stand alone with a number, as "1. Introduction"."""


class Section(NamedTuple):
    """A stretch of text under one heading path and of one kind."""

    start: int
    end: int
    headings: tuple[str, ...]
    kind: PassageKind


def clean_pages(pages: Sequence[str], *, printed: bool = True) -> list[str]:
    """Return the pages' Markdown, one string a page, cleaned and without running lines.

    Args:
        pages: Markdown of each page, as an engine gave it.
        printed: The pages come from a PDF: what its layout did to the text is undone too, and a
            soft hyphen inside a line is a hyphen that its producer drew so; elsewhere it is
            invisible.
    """
    cleaned = [clean_characters(page, "-" if printed else "") for page in pages]
    if any(BROKEN.search(page) for page in cleaned):
        words = (word for page in cleaned for word in re.findall(r"[\w-]+", page.lower()))
        vocabulary = Counter(words)
        cleaned = [join_hyphens(page, vocabulary) for page in cleaned]
    cleaned = without_running_lines(cleaned)
    lines = [_headings_mended(page, printed) for page in cleaned]
    lines = _headings_levelled(_front_demoted(lines))
    return [_tidy("\n".join(page)) for page in lines]


def clean_characters(text: str, soft_hyphen: str = "-") -> str:
    """Return the text with entities, ligatures, spaces and control characters put right.

    NFC and the seven Latin ligatures only: NFKC would turn "m²" into "m2".
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    if "&" in text:
        text = html.unescape(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = text.translate(CHARACTERS)
        text = re.sub(rf"(?<=\w)[{BREAK_MARKS}][ \t]*\n(?=\w)", "-\n", text)
        text = re.sub(r"((?:\b\w)|[A-Z\d])\ufffe[ \t]*(?=\w)", r"\1-", text)
        text = re.sub(r"\ufffe[ \t]*(?=\w)", "", text)
        text = re.sub(r"(?<=\w)\u00ad(?=\w)", soft_hyphen, text).replace("\u00ad", "")
        text = unicodedata.normalize("NFC", text)
    if CONTROL.search(text) or "\f" in text:
        text = re.sub(r"(?<=\w)\x02[ \t]*\n(?=\w)", "-\n", text)
        text = re.sub(r"\x02[ \t]*(?=\w)", "", text)
        text = CONTROL.sub("", re.sub(r"[\f\v]", "\n", text))
    return text


def join_hyphens(text: str, vocabulary: Counter[str]) -> str:
    """Return the text with words broken at line ends joined.

    A hyphen that belongs to the word stays: the document writes the compound elsewhere, or a
    capital, a digit or a single letter stands beside it ("T-wave", "12-lead", "QRS-Komplex"), or
    it is suspended ("Vorhof- und Kammer").
    """

    def joined(match: re.Match[str]) -> str:
        first, second = match["first"], match["second"]
        if second.lower() in ("and", "or", "to", "und", "oder", "bzw", "bis", "als", "sowie"):
            return f"{first}- {second}"
        whole, compound = (first + second).lower(), f"{first}-{second}".lower()
        last = re.split(r"-", first)[-1]
        if vocabulary[whole] or vocabulary[compound]:
            keep = vocabulary[compound] > vocabulary[whole]
        else:
            keep = (
                len(last) == 1
                or not second[0].islower()
                or last[-1].isdigit()
                or (last.isupper() and len(last) > 1)
            )
        return f"{first}-{second}" if keep else first + second

    return BROKEN.sub(joined, text)


def without_running_lines(pages: Sequence[str]) -> list[str]:
    """Return the pages without headers, footers and page numbers that recur at their edges.

    A line that also recurs within the pages is text. A running line that is a heading keeps its
    first occurrence: it may be the title.
    """
    split = [page.split("\n") for page in pages]
    edges = [_edges(lines) for lines in split]
    counts = Counter(
        shape
        for lines, at in zip(split, edges, strict=True)
        for shape in {_shape(lines[index]) for index in at}
    )
    everywhere = Counter(_shape(line) for lines in split for line in lines)
    running = {
        shape
        for shape, count in counts.items()
        if shape and count >= RECURS and count > AT_EDGE * everywhere[shape]
    }
    seen: set[str] = set()
    for lines, at in zip(split, edges, strict=True):
        for index in at:
            shape = _shape(lines[index])
            if HEADING.match(lines[index]) and shape in running - seen:
                seen.add(shape)
            elif shape in running:
                lines[index] = ""
    cleaned = ["\n".join(lines) for lines in split]
    return cleaned if any(page.strip() for page in cleaned) else list(pages)


def join(pages: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Return the pages as one text, and the offset at which each page starts.

    A sentence that runs over a page break is not broken there, nor is a word.
    """
    text, starts = "", []
    parts: list[str] = []
    length = 0
    for page in pages:
        if length and page:
            last, first = text.rsplit("\n", 1)[-1], page.split("\n", 1)[0]
            if _is_paragraph(last) and _is_paragraph(first) and first[0].islower():
                broken = re.search(r"[a-zäöüß]-$", last)
                if broken:
                    parts[-1] = parts[-1][:-1]
                    length -= 1
                gap = "" if broken else " " if not SENTENCE_END.search(last) else "\n\n"
            else:
                gap = "\n\n"
            parts.append(gap)
            length += len(gap)
        starts.append(length)
        if page:
            parts.append(page)
            length += len(page)
            text = page
    return "".join(parts), tuple(starts)


def sections(text: str) -> list[Section]:
    """Return the text as consecutive sections that cover it, each with its kind.

    A section starts with its heading, if it has one. Front and back matter is told by whole
    headings (`TITLES`), which rule the headings below them too; tables and captions are sections
    of their own under the same headings.
    """
    found: list[Section] = []
    path: list[tuple[int, str, PassageKind]] = []
    starts = heading_places(text)
    bounds = [0, *(start for start, _, _ in starts), len(text)]
    headings = [(0, 0, ""), *starts]
    for index, (start, level, title) in enumerate(headings):
        if level:
            while path and path[-1][0] >= level:
                path.pop()
            inherited = path[-1][2] if path else "body"
            path.append((level, title, _kind(title, inherited)))
        end = bounds[index + 1]
        if start == end:
            continue
        names = tuple(name for _, name, _ in path)
        kind: PassageKind = path[-1][2] if path else "body"
        found.extend(_parts(text, start, end, names, kind))
    return _with_authors(text, found)


def heading_places(text: str) -> list[tuple[int, int, str]]:
    """Return (offset, level, title) of every heading; a bold line alone has level 7."""
    places = []
    offset = 0
    fenced = False
    blank_before = True
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            match = HEADING.match(line)
            if match:
                title = re.sub(r"[*_]{2,}|(?<!\s)\s++#++$", "", match[2]).strip()
                places.append((offset, len(match[1]), title))
            elif blank_before and (bold := re.fullmatch(r"\*\*([^*]{2,80})\*\*:?", line.strip())):
                after = lines[index + 1] if index + 1 < len(lines) else ""
                if not after.strip() or title_kind(bold[1]):
                    places.append((offset, 7, bold[1].strip()))
        blank_before = not line.strip()
        offset += len(line) + 1
    return places


def title_kind(title: str) -> PassageKind | None:
    """Return the kind of matter that this whole heading names, or None for body text."""
    bare = re.sub(r"^(?:\d+(?:\.\d+)*|[IVX]+|[A-Z])[.):]?\s+", "", title.strip(" *_#"))
    for name in (title, bare):
        key = " ".join(name.strip(" *_#.:;–—-").lower().replace("’", "'").split())
        if key in TITLES:
            return TITLES[key]
    return None


def _kind(title: str, inherited: PassageKind) -> PassageKind:
    own = title_kind(title)
    if own:
        return own
    if NUMBERED.match(title) or title.strip(" .:").lower() in BODY_TITLES:
        return "body"
    return inherited


def _parts(
    text: str, start: int, end: int, headings: tuple[str, ...], kind: PassageKind
) -> Iterator[Section]:
    """Yield a section's stretches of prose, tables and captions."""
    if kind not in ("body", "abstract"):
        yield Section(start, end, headings, kind)
        return
    current: PassageKind = kind
    since = offset = start
    after_blank = True
    for line in text[start:end].splitlines(keepends=True):
        stripped = line.strip()
        if stripped:
            found: PassageKind = kind
            if stripped.startswith("|") and stripped.count("|") > 1:
                found = "table"
            elif after_blank:
                found = "caption" if CAPTION.match(stripped.lstrip("*_ ")) else kind
            elif current == "caption":
                found = "caption"
            if found != current and offset > since and text[since:offset].strip():
                yield Section(since, offset, headings, current)
                since = offset
            current = found
        after_blank = not stripped
        offset += len(line)
    yield Section(since, end, headings, current)


def _with_authors(text: str, found: list[Section]) -> list[Section]:
    """Return the sections with names between the title and the abstract marked as authors."""
    for index, section in enumerate(found[:4]):
        if section.kind == "abstract" and index:
            for before in range(index):
                part = found[before]
                body = re.sub(r"^#.*$", "", text[part.start : part.end], flags=re.MULTILINE)
                prose = PROSE.search(body)
                first = part.kind == "body" and part.headings == found[0].headings
                if first and body.strip() and not prose and len(body) < 2500:
                    found[before] = part._replace(kind="authors")
    return found


def _edges(lines: Sequence[str]) -> list[int]:
    filled = [index for index, line in enumerate(lines) if line.strip()]
    return sorted({*filled[:EDGE], *filled[-EDGE:]})


def _shape(line: str) -> str:
    """Return what stays the same of a running line from page to page; empty for other lines."""
    bare = line.strip().strip("*_# ").lower()
    if not bare or len(bare) > 120 or line.startswith("|") or re.match(r"[-*_=`]+$", bare):
        return ""
    text = HEADING.match(line) or (bare[-1] in ".!?" and len(bare.split()) > 3)
    if text and not FOOT.match(bare):
        return bare  # "Case 1", "Case 2" ... is content; only the same words again are not
    return NUMERALS.sub("#", bare)


def _headings_mended(page: str, printed: bool) -> list[str]:
    """Return a page's lines: emphasis and rules dropped, headings split, joined or demoted."""
    blocks = [block for block in re.split(r"\n\s*\n", page) if block.strip()]
    words = [block for block in blocks if not TICKS.fullmatch(block)]
    mended: list[str] = []
    fenced = False
    for raw in words if printed and words else blocks:
        if fenced or raw.lstrip().startswith("```"):
            fenced ^= raw.count("```") % 2 == 1
            mended.append(raw)
            continue
        block = _plain(raw.strip("\n"))
        if re.fullmatch(r"[\s*_-]*", block) and (
            not block.strip() or len(re.sub(r"\s", "", block)) >= 3
        ):
            continue
        heading = HEADING.match(block)
        last = mended[-1] if mended else ""
        above = HEADING.fullmatch(last)
        if heading is None:
            before = mended[-2] if len(mended) > 1 else ""
            broken = above and (above[2].endswith("-") or not _goes_on(before, block))
            if above and broken and _runs_on(above[2], block):
                mended[-1] = _glued(above[2], block)
            elif printed and _goes_on(last, block):
                mended[-1] = _glued(last, block)
            else:
                mended.append(block)
        elif above and above[2].endswith("-"):
            mended[-1] = f"{above[1]} {_glued(above[2], heading[2])}"
        elif _is_body(heading[2]):
            joins = printed and _goes_on(last, heading[2])
            mended[-1:] = [_glued(last, heading[2])] if joins else [*mended[-1:], heading[2]]
        else:
            rest = "\n".join(block.split("\n")[1:])
            mended.extend([*_split_numbers(heading[1], heading[2]), *filter(None, [rest])])
    return [line for block in mended for line in (*block.split("\n"), "")]


def _plain(block: str) -> str:
    """Return a block without emphasis marks and backslashes; a bold title becomes a heading."""
    bold = re.fullmatch(r"\s*\*\*([^*\n]{2,80}?)\*\*:?\s*", block)
    if bold and (title_kind(bold[1]) or (NUMBERED.match(bold[1]) and not _is_body(bold[1]))):
        return f"{'#' * (2 + _depth(bold[1]))} {bold[1].strip()}"
    line = block.strip()
    number = NUMBERED.match(line)
    if ADDRESS.fullmatch(line):
        return f"## {line}"
    if (title_kind(line) in PROMOTED and line[0].isupper() and line[-1].isalpha()) or (
        number and line[number.end() :].lower() in USUAL_TITLES
    ):
        return f"## {line}"
    if re.match(r"\[\d{1,3}\]\s", line):
        block = re.sub(r"(?<=\S) (?=\[\d{1,3}\] [^\W\d_])", "\n\n", block)
    if "*" in block:
        block = re.sub(
            r"(?<![*\\])(\*{2,3})(?=[^\s*])((?:(?!\*\*).)*[^\s*\\])\1(?!\*)", r"\2", block
        )
        block = re.sub(r"(?<![\w*\\])\*(?=[^\s*])([^*\n]*[^\s*\\])\*(?![\w*])", r"\1", block)
    if "\\" in block:
        block = re.sub(r"\\([*_#<>\[\]()~`.!+-])", r"\1", block)
    return block


def _is_body(title: str) -> bool:
    """Tell body text, captions, references and stray marks from a heading."""
    if title_kind(title):
        return False
    letters = sum(character.isalpha() for character in title)
    return (
        len(title) > LONG_HEADING
        or letters < 2
        or letters * 2 < len(title.replace(" ", ""))
        or bool(CAPTION.match(title))
        or bool(FOOT.match(title))
        or bool(re.match(r"\[\d+\]|[-•*]\s|\d{3,}\s", title))
        or (title[0].islower() and not re.match(r"[a-z]{1,2}[A-Z]", title))
        or bool(re.search(r"[,;]$|\S@\S|https?://|www\.", title))
        or (title.endswith(".") and len(title.split()) > 6)
        or bool(re.search(r"[.!?]\s+(?:[A-Z]\w+\s+){1,2}[a-z]+\s+\w+", title[12:]))
    )


def _runs_on(title: str, block: str) -> bool:
    """Tell whether a block goes on with the sentence that a heading began."""
    if LIST_ITEM.match(block) or block.startswith(("|", "#", "`")) or title_kind(title):
        return False
    first = block.lstrip()[:1]
    if title.endswith("-"):
        return first.islower()
    return first.islower() and len(title.split()) > 3 and not re.match(r"\w{1,2}[A-Z)]", block)


def _goes_on(last: str, block: str) -> bool:
    """Tell whether a block goes on with the paragraph or list item that the layout broke off."""
    line = last.rsplit("\n", 1)[-1]
    if not line or re.match(r"[#|`]", line) or not re.match(r"[^\W\d_(]", block):
        return False
    if SENTENCE_END.search(line) or len(last) < 40 or LIST_ITEM.match(block):
        return False
    open_end = re.search(r"(?:,|\b(?:and|or|of|the|in|with|und|oder|der|die|das|mit|von))$", line)
    return block[0].islower() or bool(open_end)


def _glued(first: str, second: str) -> str:
    if not first.endswith("-"):
        return f"{first} {second}"
    suspended = re.match(r"(?:and|or|und|oder|bzw)\b", second)
    if suspended:
        return f"{first} {second}"
    return first[:-1] + second if second[:1].islower() else first + second


def _split_numbers(marks: str, title: str) -> list[str]:
    """Return "## 2. Methods 2.1. Study population" as its two headings."""
    number = NUMBERED.match(title)
    below = rf"(.*?\D)\s+({re.escape(number[1])}\.1\.?\s+\D.*)" if number else ""
    match = re.fullmatch(below, title)
    if not match:
        return [f"{marks} {title}"]
    return [f"{marks} {match[1]}", "", f"{marks[:5]}# {match[2]}"]


def _depth(title: str) -> int:
    """Return 0 for "2. Methods", 1 for "2.1. Study population" and for what has no number 0."""
    match = NUMBERED.match(title)
    return match[1].count(".") if match else 0


def _front_demoted(pages: list[list[str]]) -> list[list[str]]:
    """Return the pages with headings between the title and the abstract as plain lines.

    They are names and institutes set in large type.
    """
    if not pages:
        return pages
    places = [(index, HEADING.match(line)) for index, line in enumerate(pages[0])]
    titles = [(index, match[2]) for index, match in places if match]
    for number, (at, title) in enumerate(titles):
        if title_kind(title) == "abstract":
            front = pages[0][titles[0][0] : at]
            if any(PROSE.search(line) for line in front):
                break
            for index, between in titles[1:number]:
                if not title_kind(between):
                    pages[0][index] = between
            break
    return pages


def _headings_levelled(pages: list[list[str]]) -> list[list[str]]:
    """Return the pages with numbered headings at the level that their numbers tell.

    Type sizes mislead engines: without this, "3. Results" may come below "2. Methods".
    """
    matches = [
        (page, index, match)
        for page in pages
        for index, line in enumerate(page)
        if (match := HEADING.match(line))
    ]
    levels = Counter(
        len(match[1]) - _depth(match[2]) for _, _, match in matches if NUMBERED.match(match[2])
    )
    if levels.total() < 3:
        return pages
    base = max(levels.most_common(1)[0][0], 1)
    for page, index, match in matches:
        if NUMBERED.match(match[2]):
            level = base + _depth(match[2])
        elif title_kind(match[2]) and abs(len(match[1]) - base) < 3:
            level = base
        else:
            continue
        page[index] = f"{'#' * min(level, 6)} {match[2]}"
    return pages


def _is_paragraph(line: str) -> bool:
    return bool(line.strip()) and not re.match(r"[#|`>]|\s*[-*+•]\s", line)


def _tidy(page: str) -> str:
    page = re.sub(r"(?<![ \t])[ \t]++$", "", page, flags=re.MULTILINE)
    page = re.sub(r"(?<=\S)[ \t]{2,}(?=\S)", " ", page)
    return re.sub(r"\n{3,}", "\n\n", page).strip()


def page_at(starts: Sequence[int], offset: int) -> int:
    """Return the 1-based page that holds this offset of the text."""
    return max(bisect_right(starts, offset), 1)
