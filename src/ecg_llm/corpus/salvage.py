"""A damaged PDF made whole again: its objects found by scanning, its page tree rebuilt."""

import base64
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pikepdf

MAX_FILE = 200_000_000
"""Bytes of a file beyond which nothing is tried."""
MAX_STREAM = 64_000_000
"""Bytes that one stream may decode to."""
MAX_DECODED = 256_000_000
"""Bytes that all streams of a file together may decode to."""
MAX_OBJECTS = 1_000_000
MAX_PAGES = 20_000
MAX_NUMBER = 8_388_607
"""Largest object number of a PDF (ISO 32000-1, annex C)."""
MAX_ENDLESS = 100
"""Streams without an end, for each of which qpdf searches the whole file."""
MAX_NAMES = 200
"""Fonts, or pictures, of a page that are looked at."""
MAX_STEPS = 1_000
"""Ancestors of a page, or parts of a font, that are looked at."""
SHOWS = 5
"""Texts shown from which on a stream that nothing refers to is taken for a lost page's content."""
PAPER = (612, 842)
"""Points that hold both A4 and Letter."""
INHERITED = ("/Resources", "/MediaBox", "/CropBox", "/Rotate")
FAILURES = (
    *(pikepdf.PdfError, pikepdf.PasswordError),
    *(ValueError, RuntimeError, TypeError, KeyError, IndexError, AttributeError),
)
"""What pikepdf raises on broken objects."""
FLATE = (b"FlateDecode", b"Fl")
UNDECODED = b"LZWDecode LZW ASCIIHexDecode AHx A85 RunLengthDecode RL Crypt".split()
"""Filters of which no damage can be seen here."""
DEFLATED = (b"x\x01", b"x^", b"x\x9c", b"x\xda", b"H\x89", b"h\xde")
"""How deflated data begins, and text does not."""
STAND_IN = b"""<< /Type /Font /Subtype /Type1 /BaseFont /Times-Roman /Encoding <<
/BaseEncoding /WinAnsiEncoding
/Differences [2 /fi /fl 11 /ff /fi /fl /ffi /ffl 27 /ff /fi /fl /ffi /ffl] >> >>"""
"""Stands for a lost font: most texts use ASCII codes, and TeX's fonts one of these ligatures."""

SPACE = b"\0\t\n\f\r "
GAP = rb"[\0\t\n\f\r ]{1,9}"
NUMBERS = rb"(\d{1,10})" + GAP + rb"(\d{1,5})" + GAP
HEADER = rb"(?<!\d)" + NUMBERS + rb"obj(?![a-z])"
START = re.compile(HEADER)
TOKEN = re.compile(rb"endobj|(?<=>>)[\0\t\n\f\r ]{0,9}stream(\r?\n|\r)|" + HEADER)
REFERENCE = re.compile(rb"(?<!\d)" + NUMBERS + rb"R(?![A-Za-z])")
LENGTH = re.compile(rb"/Length" + GAP + rb"(\d{1,10})(?!\d)(" + GAP + rb"\d{1,5}" + GAP + rb"R)?")
KIDS = re.compile(rb"/Kids[\0\t\n\f\r ]{0,9}(?:\[([^\]]*)|" + NUMBERS + rb"R)")
PARENT = re.compile(rb"/Parent" + GAP + NUMBERS + rb"R")
ROOT = re.compile(rb"/Pages" + GAP + NUMBERS + rb"R")
FILTER = re.compile(rb"/Filter\s{0,9}(\[[^\]]{0,999}\]|/\w{1,99})")
NO_CONTENT = re.compile(rb"/(?:Type|Subtype|FunctionType|ShadingType|PatternType|Length1|N)\b")
SHOW = re.compile(rb"T[jJ](?![A-Za-z])")
NAME = rb"/([^\s/<>()\[\]{}%]{1,127})\s{1,9}"
USED = {
    "/Font": re.compile(NAME + rb"[-+.\d]{1,20}\s{1,9}Tf(?![A-Za-z])"),
    "/XObject": re.compile(NAME + rb"Do(?![A-Za-z])"),
}
"""How a page's content names what it takes from its resources."""
TRAILER = (
    re.compile(rb"/Encrypt" + GAP + rb"\d{1,10}" + GAP + rb"\d{1,5}" + GAP + rb"R"),
    re.compile(rb"/Info" + GAP + rb"\d{1,10}" + GAP + rb"\d{1,5}" + GAP + rb"R"),
    re.compile(rb"/ID\s{0,9}\[\s{0,9}<[0-9A-Fa-f\s]{0,199}>\s{0,9}<[0-9A-Fa-f\s]{0,199}>\s{0,9}\]"),
)


class Salvaged(NamedTuple):
    """What was saved; page numbers count from 1 in the file written."""

    pages: int
    """Pages written: those that the file says it had, or else those found."""
    counted: bool
    """Whether the file says how many pages it had; if not, there may have been more."""
    lost: tuple[int, ...]
    """Pages left blank, since nothing of them was found: they keep the others' numbers right."""
    cut: tuple[int, ...]
    """Pages with what is left of their text."""
    doubtful: tuple[int, ...]
    """Pages whose text is all there, though not the fonts that say how it reads, or a picture."""

    @property
    def found(self) -> int:
        """Pages of which something is left."""
        return self.pages - len(self.lost)

    @property
    def whole(self) -> int:
        """Pages that miss nothing."""
        return self.found - len(self.cut) - len(self.doubtful)


class _Object(NamedTuple):
    generation: int
    place: tuple[int, int]
    """Where its first definition stands: offset, and index in an object stream."""
    body: bytes
    data: bytes | None = None
    """A stream's bytes as they are in the file."""
    whole: bool = True


class _Plan(NamedTuple):
    slots: list[int | None]
    """The number of each page's object, None for a lost one."""
    counted: bool
    """Whether the file says that it has so many."""


def salvage(path: Path, target: Path, password: str = "") -> Salvaged | None:
    """Write all that can be saved of a PDF, unencrypted; return what, or None if no page can.

    Args:
        path: The damaged PDF.
        target: The file to write.
        password: Opens an encrypted file.
    """
    if path.stat().st_size > MAX_FILE:
        return None
    data = path.read_bytes()
    scan = _Scan(data)
    plan = _plan(scan.objects, scan.referred)
    # what qpdf makes of a file keeps most, but costs without a limit
    is_safe = not scan.bomb and scan.endless <= MAX_ENDLESS
    saved = _saved(path, target, password, scan) if is_safe else None
    if not saved or saved.pages < len(plan.slots) or saved.whole < saved.pages:
        rebuilt = BytesIO(_rebuilt(scan.objects, data))
        saved = _saved(rebuilt, target, password, scan, plan, saved) or saved
    return saved and saved._replace(counted=plan.counted)


def expected_pages(data: bytes) -> int:
    """Return how many pages a PDF's bytes say that it has, 0 if they do not say."""
    scan = _Scan(data)
    plan = _plan(scan.objects, scan.referred)
    return len(plan.slots) if plan.counted else 0


class _Scan:
    """The objects found in a file's bytes, by number; the last whole definition of each counts."""

    def __init__(self, data: bytes) -> None:
        self.objects: dict[int, _Object] = {}
        self.referred: set[int] = set()
        self.bomb = False
        self.endless = 0
        self.encrypted = bool(TRAILER[0].search(data))
        self._sound: dict[tuple[int, int], bool] = {}
        self._budget = MAX_DECODED
        self._end = 0
        position = 0
        for _ in range(MAX_OBJECTS):
            match = START.search(data, position)
            if not match:
                break
            position = self._take(data, match)

    def decode(self, data: bytes, filters: Sequence[bytes]) -> tuple[bytes, bool]:
        """Return (what a stream decodes to, whether that is all), within the file's budget."""
        whole = True
        for name in filters[:4]:
            limit = min(MAX_STREAM, self._budget)
            if limit <= 0:
                self.bomb = True
                return b"", True
            if name == b"ASCII85Decode":
                data = _decode_ascii85(data)
            elif name in FLATE:
                data, complete = _inflate(data, limit)
                whole = whole and complete
                self.bomb = self.bomb or len(data) >= limit
            else:
                return b"", name in UNDECODED
        self._budget -= len(data)
        return (data, whole) if self._budget > 0 else (b"", True)

    def is_sound(self, found: _Object) -> bool:
        """Tell whether an object is whole and, unless it is a picture, decodes to its end."""
        if found.data is None or not found.whole or self.encrypted:
            return found.whole
        if _is(found.body, b"Image", b"Subtype"):
            return True
        if found.place not in self._sound:
            self._sound[found.place] = self.decode(found.data, _filters(found.body))[1]
        return self._sound[found.place]

    def _take(self, data: bytes, match: re.Match[bytes]) -> int:
        """Note the object that starts here; return where to look for the next."""
        number, generation, place = int(match[1]), int(match[2]), (match.start(), 0)
        token = TOKEN.search(data, match.end())
        end = token.start() if token else len(data)
        body = data[match.end() : end].strip(SPACE)
        if not token or not token[1]:
            # what the end of the file cuts off is an object if its brackets close
            if token or body.count(b"<<") == body.count(b">>") > 0:
                self._add(number, _Object(generation, place, body))
            return end
        start = token.end()
        end, whole = self._stream_end(data, start, body)
        self.endless += not whole
        found = _Object(generation, place, body, data[start:end], whole)
        if _is(body, b"ObjStm"):
            self._unpack(found)
        elif _is(body, b"XRef"):
            self.decode(data[start:end], _filters(body))  # only to see a bomb
        else:
            self._add(number, found)
        return end

    def _stream_end(self, data: bytes, start: int, body: bytes) -> tuple[int, bool]:
        """Return (where a stream's bytes end, whether they are complete)."""
        match = LENGTH.search(body)
        if match and not match[2]:
            end = start + int(match[1])
            if data[end : end + 20].lstrip().startswith(b"endstream"):
                return end, True
        if self._end < start:
            # kept for the next stream, since every search may run to the end of the file
            place = data.find(b"endstream", start)
            self._end = place if place >= 0 else len(data)
        if following := START.search(data, start, self._end):
            return following.start(), False
        return self._end, self._end < len(data)

    def _unpack(self, stream: _Object) -> None:
        """Note the objects in an object stream, as far as it can be decoded."""
        text, whole = self.decode(stream.data or b"", _filters(stream.body))
        first = re.search(rb"/First\s{0,9}(\d{1,9})", stream.body)
        start = int(first[1]) if first else 0
        words = [int(word) for word in text[:start].split() if word.isdigit() and len(word) < 11]
        pairs = sorted(zip(words[1::2], words[::2], strict=False))
        ends = [start + offset for offset, _ in pairs[1:]] + [len(text)]
        for index, ((offset, number), end) in enumerate(zip(pairs, ends, strict=False)):
            if end < len(text) or (whole and end == len(text)):
                body = text[start + offset : end].strip(SPACE)
                self._add(number, _Object(0, (stream.place[0], index), body))

    def _add(self, number: int, found: _Object) -> None:
        self.referred.update(_references(found.body))
        old = self.objects.get(number)
        if 0 < number <= MAX_NUMBER and found.body and (found.whole or not (old and old.whole)):
            self.objects[number] = found._replace(place=old.place) if old else found


def _inflate(data: bytes, limit: int) -> tuple[bytes, bool]:
    """Return (what can be inflated, whether that is all of it)."""
    decoder = zlib.decompressobj()
    parts: list[bytes] = []
    # in small steps, as what a step gave before an error in it is lost
    for start in range(0, len(data), 128):
        try:
            parts.append(decoder.decompress(data[start : start + 128], limit))
        except zlib.error:
            break
        limit -= len(parts[-1])
        if decoder.eof or limit <= 0:
            return b"".join(parts), True
    return b"".join(parts), False


def _decode_ascii85(data: bytes) -> bytes:
    try:
        return base64.a85decode(data.partition(b"~")[0])
    except ValueError:
        return b""


def _is(body: bytes, kind: bytes, key: bytes = b"Type") -> bool:
    return bool(re.search(rb"/" + key + rb"\s{0,9}/" + kind + rb"(?![A-Za-z])", body))


def _filters(body: bytes) -> list[bytes]:
    match = FILTER.search(body)
    return re.findall(rb"/(\w{1,99})", match[1]) if match else []


def _references(text: bytes) -> Iterator[int]:
    return (int(match[1]) for match in REFERENCE.finditer(text))


def _integer(body: bytes, key: bytes, most: int) -> int:
    """Return the key's number, 0 if there is none or it is too large."""
    match = re.search(rb"/" + key + GAP + rb"(\d{1,9})(?!\d)", body)
    return int(match[1]) if match and int(match[1]) <= most else 0


def _plan(objects: Mapping[int, _Object], referred: set[int]) -> _Plan:
    """Return the pages that the file says it has, or else those found, in their order."""
    nodes = {
        number: found.body
        for number, found in objects.items()
        if _is(found.body, b"Pages") or (b"/Kids" in found.body and b"/Count" in found.body)
    }
    pages = [number for number, found in objects.items() if _is(found.body, b"Page")]
    pages = sorted(pages, key=lambda number: objects[number].place)[:MAX_PAGES]
    # a page is an object, so that no file has more pages than object numbers
    most = min(max(chain(objects, referred), default=0), MAX_PAGES)
    counts = {number: _integer(body, b"Count", most) for number, body in nodes.items()}
    root = _root(objects, counts)
    leaves, torn = _walk(objects, nodes, root)
    if any(leaf in objects for leaf in leaves):
        slots = _filled(objects, leaves, pages)
        gaps = [index for index, slot in enumerate(slots, 1) if slot is None]
        # the count of a tree that lacks nothing may be a lie
        more = counts[root] - len(slots) if gaps or torn else 0
        if more <= 0 or len(pages) != counts[root]:
            end = gaps[-1] if gaps else len(slots)
            return _Plan([*slots[:end], *[None] * more, *slots[end:]], True)
    linearised = [found.body for found in objects.values() if b"/Linearized" in found.body]
    said = max((_integer(body, b"N", most) for body in linearised), default=0)
    total = max(said, len(pages), *counts.values())
    return _Plan([*pages, *[None] * (total - len(pages))], bool(said or counts.get(root)))


def _root(objects: Mapping[int, _Object], counts: Mapping[int, int]) -> int:
    """Return the number of the page tree's root, 0 if it is lost."""
    catalogs = [found.body for found in objects.values() if _is(found.body, b"Catalog")]
    named = [int(match[1]) for body in catalogs if (match := ROOT.search(body))]
    topmost = [number for number in counts if b"/Parent" not in objects[number].body]
    known = [number for number in named if number in counts] or topmost
    return max(known, key=lambda number: counts[number], default=0)


def _walk(
    objects: Mapping[int, _Object], nodes: Mapping[int, bytes], root: int
) -> tuple[list[int], bool]:
    """Return (what the tree's leaves refer to, found or not; whether a list of them is torn)."""
    leaves: list[int] = []
    torn = False
    seen: set[int] = set()
    stack = [root]
    while stack and len(leaves) < MAX_PAGES:
        number = stack.pop()
        if number not in nodes:
            leaves.append(number)
        elif number not in seen:
            seen.add(number)
            match = KIDS.search(nodes[number])
            kids = match[1] if match else None
            if match and match[2] and int(match[2]) in objects:
                kids = objects[int(match[2])].body.strip(b"[]")
            torn = torn or kids is None or bool(REFERENCE.sub(b"", kids).strip())
            stack.extend([*islice(_references(kids or b""), MAX_PAGES)][::-1])
    return leaves, torn


def _filled(
    objects: Mapping[int, _Object], leaves: Sequence[int], pages: Sequence[int]
) -> list[int | None]:
    """Return the leaves, each lost one replaced by the pages that call it their parent."""
    children: dict[int, list[int | None]] = {}
    for number in pages:
        if match := PARENT.search(objects[number].body):
            children.setdefault(int(match[1]), []).append(number)
    slots: list[int | None] = []
    for leaf in leaves:
        slots.extend([leaf] if leaf in objects else children.pop(leaf, [None]))
    return slots[:MAX_PAGES]


def _rebuilt(objects: Mapping[int, _Object], data: bytes) -> bytes:
    """Return a PDF without pages that holds every object under its own number."""
    last = max(objects, default=0)
    catalog = _Object(0, (0, 0), b"<< /Type /Catalog /Pages %d 0 R >>" % (last + 2))
    tree = _Object(0, (0, 0), b"<< /Type /Pages /Kids [] /Count 0 >>")
    parts = [b"%PDF-1.7\n"]
    entries = [b"xref\n0 1\n0000000000 65535 f \n"]
    position = len(parts[0])
    for number, found in [*objects.items(), (last + 1, catalog), (last + 2, tree)]:
        body = found.body
        if found.data is not None:
            length = b"<< /Length %d " % len(found.data)
            body = LENGTH.sub(b"", body).replace(b"<<", length, 1)
            body = b"%b\nstream\n%b\nendstream" % (body, found.data)
        parts.append(b"%d %d obj\n%b\nendobj\n" % (number, found.generation, body))
        entries.append(b"%d 1\n%010d %05d n \n" % (number, position, found.generation))
        position += len(parts[-1])
    kept = b" ".join(chain(*(pattern.findall(data)[-1:] for pattern in TRAILER)))
    end = b"trailer\n<< /Size %d /Root %d 0 R %b >>\nstartxref\n%d\n%%%%EOF\n"
    return b"".join([*parts, *entries, end % (last + 3, last + 1, kept, position)])


def _saved(
    source: Path | BytesIO,
    target: Path,
    password: str,
    scan: _Scan,
    plan: _Plan | None = None,
    best: Salvaged | None = None,
) -> Salvaged | None:
    """Write the source's pages unless the target holds more; return what they are.

    Args:
        source: A PDF that qpdf can open or mend.
        target: The file to write.
        password: Opens an encrypted file.
        scan: The objects found in the damaged file.
        plan: The pages of a source that has none; without it, its own are taken.
        best: What the target holds already.
    """
    try:
        with pikepdf.open(source, password=password) as document:
            if plan:
                _plant(document, scan, plan)
            pages = [_whole_page(page.obj) for page in document.pages]
            states = [_state(page, scan) for page in pages]
            lost, cut, doubtful = (
                tuple(number for number, state in enumerate(states, 1) if state == kind)
                for kind in ("lost", "cut", "doubtful")
            )
            saved = Salvaged(len(pages), False, lost, cut, doubtful)
            if not saved.found or (best and (best.whole, best.found) > (saved.whole, saved.found)):
                return None
            stand_in = document.make_indirect(pikepdf.Object.parse(STAND_IN))
            for number in (*cut, *doubtful):
                with suppress(*FAILURES):
                    _lend_fonts(pages[number - 1], scan, stand_in)
            # streams stay as they are: decoding them here would have no limit
            document.save(
                target,
                fix_metadata_version=False,
                compress_streams=False,
                stream_decode_level=pikepdf.StreamDecodeLevel.none,
                object_stream_mode=pikepdf.ObjectStreamMode.disable,
            )
    except FAILURES:
        return None
    return saved


def _plant(document: Any, scan: _Scan, plan: _Plan) -> None:
    """Give the document its pages, blank ones for those of which nothing is left."""
    slots = plan.slots
    orphans = _orphans(scan) if None in slots or not plan.counted else []
    if not plan.counted:
        slots = [*slots, *[None] * (len(orphans) - slots.count(None))]
    pages = []
    for slot in slots:
        page = document.get_object(slot, scan.objects[slot].generation) if slot else None
        if not isinstance(page, pikepdf.Dictionary):
            page = document.make_indirect(pikepdf.Dictionary(Type=pikepdf.Name.Page))
            if not slot and orphans:
                page["/Contents"] = document.get_object(orphans.pop(0), 0)
        pages.append(_whole_page(page))
        page["/Parent"] = document.Root.Pages
    document.Root.Pages.Kids = pikepdf.Array(pages)
    document.Root.Pages.Count = len(pages)


def _orphans(scan: _Scan) -> list[int]:
    """Return the streams that show text and that nothing refers to, in their order in the file."""
    numbers = []
    for number, found in sorted(scan.objects.items(), key=lambda item: item[1].place):
        is_free = found.data is not None and number not in scan.referred
        if is_free and found.generation == 0 and not NO_CONTENT.search(found.body):
            content, _ = scan.decode(found.data or b"", _filters(found.body))
            if len([*islice(SHOW.finditer(content), SHOWS)]) == SHOWS:
                numbers.append(number)
    return numbers


def _whole_page(page: Any) -> Any:
    """Return the page with what it has from its ancestors, as it may leave its tree."""
    above = page.get("/Parent")
    for _ in range(MAX_STEPS):
        if not isinstance(above, pikepdf.Dictionary):
            break
        for key in INHERITED:
            if key in above and key not in page:
                page[key] = above[key]
        above = above.get("/Parent")
    if "/MediaBox" not in page:
        page["/MediaBox"] = [0, 0, *PAPER]
    return page


def _state(page: Any, scan: _Scan) -> Literal["whole", "doubtful", "cut", "lost"]:
    """Tell whether a page's text is all there."""
    content, whole = _content(page, scan)
    if not content and not (whole and "/Contents" in page):
        return "lost"
    if not whole:
        return "cut"
    for kind in USED:
        resources = _resources(page, kind)
        for name in _used(content, kind):
            if name not in resources or _is_lost(resources[name], scan):
                return "doubtful"
    return "whole"


def _content(page: Any, scan: _Scan) -> tuple[bytes, bool]:
    """Return (a page's content as far as it can be decoded, whether that is all)."""
    contents = page.get("/Contents")
    parts: list[bytes] = []
    whole = True
    for stream in contents if isinstance(contents, pikepdf.Array) else [contents]:
        try:
            filters = re.findall(rb"/(\w+)", str(stream.get("/Filter", "")).encode())
            part, complete = scan.decode(stream.read_raw_bytes(), filters)
        except FAILURES:
            part, complete = b"", contents is None
        parts.append(part)
        whole = whole and complete and not part.startswith(DEFLATED)
    return b"\n".join(parts).strip(), whole


def _used(content: bytes, kind: str) -> set[str]:
    """Return the names of the resources of a kind that a content takes."""
    names: set[str] = set()
    for match in USED[kind].finditer(content):
        if len(names) < MAX_NAMES and match[1].isascii():
            names.add("/" + match[1].decode())
    return names


def _resources(page: Any, kind: str) -> dict[str, Any]:
    """Return a page's resources of a kind by name; those lost are not among them."""
    try:
        return dict(page["/Resources"][kind])
    except FAILURES:
        return {}


def _is_lost(resource: Any, scan: _Scan) -> bool:
    """Tell whether something is gone of a picture, or of what says what a font's codes mean."""
    objects = scan.objects
    queue = [resource.objgen[0]] if resource.objgen[0] in objects else []
    seen = set(queue)
    while queue and len(seen) < MAX_STEPS:
        found = objects.get(queue.pop())
        if not found or not scan.is_sound(found):
            return True
        queue.extend(set(_references(found.body)) - seen)
        seen.update(queue)
    return False


def _lend_fonts(page: Any, scan: _Scan, stand_in: Any) -> None:
    """Give a page the stand-in for every font it lacks, or its encoding to those without any."""
    fonts = _resources(page, "/Font")
    for name in _used(_content(page, scan)[0], "/Font"):
        font = fonts.setdefault(name, stand_in)
        is_mute = not {"/Encoding", "/ToUnicode", "/DescendantFonts"} & set(font.keys())
        if is_mute and _is_lost(font, scan):
            font["/Encoding"] = stand_in["/Encoding"]
    resources = page.get("/Resources")
    resources = dict(resources) if isinstance(resources, pikepdf.Dictionary) else {}
    page["/Resources"] = pikepdf.Dictionary({**resources, "/Font": pikepdf.Dictionary(fonts)})
