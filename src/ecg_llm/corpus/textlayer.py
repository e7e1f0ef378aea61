"""What a PDF holds page by page beside an engine's reading: its text layer, and hidden text."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pypdfium2
from pypdfium2 import raw

TINY = 2.0
"""Points below which type cannot be read."""
NEAR = 26.0
"""Grey values (of 255) that a text's colour differs at least by from what it stands on."""
FAINT = 26
"""Opacity (of 255) below which a text is not seen."""
CONTRAST = 24
"""Range of grey values (of 255) within a text's box below which it cannot be seen."""
COVER = 0.8
"""Share of a page from which on a picture makes the unseen text over it its OCR layer."""
SHORTEST = 4
"""Letters from which on a hidden text is worth a mark."""
DEPTH = 3
"""Forms within forms that are looked into."""
OBJECTS = 20_000
"""Objects of a page that are looked at; more are no article."""
LONGEST = 14_400.0
"""Points that the side of a page may have (PDF 1.7, annex C); a larger one is not drawn."""
SMALL = 60.0
"""Square points below which a filled path or a picture hides no words."""
SCALE = 1.2
"""Pixels a point of the picture in which doubtful text is looked for."""
PIXELS = 2_000.0
"""Longest side of the picture in which hidden text is looked for."""
INVISIBLE = (3, 7)
"""Text rendering modes that draw nothing."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in points from the page's origin."""


Matrix = tuple[float, float, float, float, float, float]
SAME: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


class LayerPage(NamedTuple):
    """What the file itself says about one page."""

    text: str = ""
    """Its text layer, in the order of the file."""
    hidden: tuple[str, ...] = ()
    """Texts that nobody sees: white on white, tiny, off the page, transparent, covered."""
    drawn: bool = False
    """A picture or a drawing is on the page."""
    picture: bool = False


class Layer(NamedTuple):
    """What the file itself says."""

    title: str = ""
    """Of its metadata: often the template's, or the word processor's name of the file."""
    pages: tuple[LayerPage, ...] = ()


class _Text(NamedTuple):
    item: Any
    box: Box
    doubtful: bool
    """Only a look at the page shows whether it is seen."""
    gone: bool
    """It cannot be seen, whatever the page looks like."""
    mode: int
    scanned: bool = False
    """It lies behind a picture of the whole page: the OCR layer of a scan."""


def read(path: Path, password: str = "") -> Layer:
    """Return what the file says of itself and of every page; nothing if PDFium cannot open it."""
    try:
        document = pypdfium2.PdfDocument(path, password=password or None)
    except pypdfium2.PdfiumError:
        return Layer()
    found = []
    with closing(document):
        for index in range(len(document)):
            try:
                with closing(document[index]) as page:
                    found.append(_page(page))
            except pypdfium2.PdfiumError:
                found.append(LayerPage())
        return Layer(_title(document), tuple(found))


def _title(document: Any) -> str:
    try:
        return " ".join(str(document.get_metadata_value("Title") or "").split())
    except (pypdfium2.PdfiumError, UnicodeDecodeError):
        return ""


def _page(page: Any) -> LayerPage:
    frame: Box = page.get_bbox()
    found, pictures, shapes = _objects(page, frame)
    scanned = any(_covers(picture, frame) for picture in pictures)
    unseen = [text for text in found if text.gone and not (text.mode in INVISIBLE and scanned)]
    doubtful = [text for text in found if text.doubtful and not text.gone]
    if doubtful:
        unseen += _not_shown(page, frame, doubtful)
    with closing(page.get_textpage()) as layer:
        text = layer.get_text_range(errors="replace")
        hidden = _words(layer, unseen)
    return LayerPage(text, hidden, bool(pictures or shapes), bool(pictures))


def _objects(page: Any, frame: Box) -> tuple[list[_Text], list[Box], int]:
    """Return the page's texts, the boxes of its pictures, and the number of its drawings.

    Doubtful is a text of the colour that it stands on, over a picture, or under something opaque;
    text behind a picture of the whole page is a scan's OCR layer.
    """
    texts: list[_Text] = []
    pictures: list[Box] = []
    fills: list[tuple[Box, float | None]] = []
    shapes = 0
    for item, matrix in _walk(page):
        kind = raw.FPDFPageObj_GetType(item)
        if kind == raw.FPDF_PAGEOBJ_TEXT:
            texts.append(_text(item, matrix, frame, fills))
            continue
        shapes += 1
        grey = _fill(item) if kind == raw.FPDF_PAGEOBJ_PATH else None
        if kind == raw.FPDF_PAGEOBJ_IMAGE or grey is not None:
            box = _bounds(item, matrix)
            if _area(box) >= SMALL:
                fills.append((box, grey))
                behind = kind == raw.FPDF_PAGEOBJ_IMAGE and _covers(box, frame)
                for index, text in enumerate(texts):
                    if _inside(text.box, box):
                        texts[index] = text._replace(doubtful=not behind, scanned=behind)
            if kind == raw.FPDF_PAGEOBJ_IMAGE:
                pictures.append(box)
    return texts, pictures, shapes


def _text(
    item: Any, matrix: Matrix, frame: Box, fills: Sequence[tuple[Box, float | None]]
) -> _Text:
    box = _bounds(item, matrix)
    mode = raw.FPDFTextObj_GetTextRenderMode(item)
    grey, alpha = _colour(item)
    size = ctypes.c_float()
    tiny = False
    if box[3] - box[1] < TINY and raw.FPDFTextObj_GetFontSize(item, size):
        a, b, c, d, _, _ = _times(_matrix(item), matrix)
        tiny = 0 < size.value * abs(a * d - b * c) ** 0.5 < TINY
    outside = box[2] < frame[0] or box[0] > frame[2] or box[3] < frame[1] or box[1] > frame[3]
    below = next((fill for place, fill in reversed(fills) if _inside(box, place)), 255.0)
    doubtful = below is None or abs(grey - below) < NEAR
    return _Text(item, box, doubtful, mode in INVISIBLE or alpha < FAINT or tiny or outside, mode)


def _walk(page: Any) -> Iterator[tuple[Any, Matrix]]:
    """Yield the objects of a page in the order in which they are drawn, those of forms too.

    With each comes the matrix that takes its own coordinates to the page's.
    """

    def children(parent: Any, count: Any, get: Any) -> Iterator[Any]:
        return (get(parent, number) for number in range(max(count(parent), 0)))

    stack = [(children(page, raw.FPDFPage_CountObjects, raw.FPDFPage_GetObject), SAME)]
    left = OBJECTS
    while stack and left:
        items, matrix = stack[-1]
        item = next(items, None)
        left -= 1
        if item is None:
            stack.pop()
        elif raw.FPDFPageObj_GetType(item) != raw.FPDF_PAGEOBJ_FORM:
            yield item, matrix
        elif len(stack) <= DEPTH:
            inside = children(item, raw.FPDFFormObj_CountObjects, raw.FPDFFormObj_GetObject)
            stack.append((inside, _times(_matrix(item), matrix)))


def _matrix(item: Any) -> Matrix:
    found = raw.FS_MATRIX()
    if not raw.FPDFPageObj_GetMatrix(item, found):
        return SAME
    return found.a, found.b, found.c, found.d, found.e, found.f


def _times(first: Matrix, then: Matrix) -> Matrix:
    """Return the matrix that applies `first`, then `then` (PDF 1.7, 8.3.4)."""
    if then == SAME:
        return first
    a, b, c, d, e, f = first
    p, q, r, s, t, u = then
    return (
        a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s, e * p + f * r + t,
        e * q + f * s + u,
    )  # fmt: skip


def _bounds(item: Any, matrix: Matrix) -> Box:
    """Return the box of an object on the page."""
    sides = [ctypes.c_float() for _ in range(4)]
    raw.FPDFPageObj_GetBounds(item, *sides)
    left, bottom, right, top = (side.value for side in sides)
    if matrix == SAME:
        return left, bottom, right, top
    a, b, c, d, e, f = matrix
    xs = [a * x + c * y + e for x in (left, right) for y in (bottom, top)]
    ys = [b * x + d * y + f for x in (left, right) for y in (bottom, top)]
    return min(xs), min(ys), max(xs), max(ys)


def _colour(item: Any) -> tuple[float, int]:
    """Return the grey value of an object's fill, and its opacity, both of 255."""
    parts = [ctypes.c_uint() for _ in range(4)]
    if not raw.FPDFPageObj_GetFillColor(item, *parts):
        return 0.0, 255
    red, green, blue, alpha = (part.value for part in parts)
    return 0.299 * red + 0.587 * green + 0.114 * blue, alpha


def _fill(item: Any) -> float | None:
    """Return the grey value that a path is filled with, or None if what is below shows."""
    mode, stroke = ctypes.c_int(), ctypes.c_int()
    if not raw.FPDFPath_GetDrawMode(item, mode, stroke) or not mode.value:
        return None
    grey, alpha = _colour(item)
    return grey if alpha > FAINT else None


def _not_shown(page: Any, frame: Box, texts: Sequence[_Text]) -> list[_Text]:
    """Return the texts in whose place the picture of the page shows nothing.

    White letters on a dark table head are seen, and so is a caption over a tinted box.
    """
    width, height = frame[2] - frame[0], frame[3] - frame[1]
    if not 0 < max(width, height) <= LONGEST or page.get_rotation():
        return []
    scale = min(SCALE, PIXELS / max(width, height))
    picture = page.render(scale=scale, grayscale=True).to_numpy()
    if picture.ndim == 3:
        picture = picture[:, :, 0]
    unseen = []
    for text in texts:
        left, bottom, right, top = text.box
        rows = slice(max(int((frame[3] - top) * scale), 0), int((frame[3] - bottom) * scale) + 1)
        places = slice(max(int((left - frame[0]) * scale), 0), int((right - frame[0]) * scale) + 1)
        box = picture[rows, places]
        if not box.size or int(box.max()) - int(box.min()) < CONTRAST:
            unseen.append(text)
    return unseen


def _words(layer: Any, texts: Sequence[_Text]) -> tuple[str, ...]:
    """Return the texts' words, those that stand on one line as one text."""
    lines: dict[int, list[str]] = {}
    for text in texts:
        size = raw.FPDFTextObj_GetText(text.item, layer, None, 0)
        if size <= 2:
            continue
        buffer = (ctypes.c_ushort * (size // 2 + 1))()
        raw.FPDFTextObj_GetText(text.item, layer, buffer, size)
        words = bytes(buffer)[: size - 2].decode("utf-16-le", "replace")
        lines.setdefault(round(text.box[1]), []).append(" ".join(words.split()))
    joined = (" ".join(filter(None, words)) for words in lines.values())
    return tuple(text for text in joined if sum(map(str.isalnum, text)) >= SHORTEST)


def _inside(box: Box, other: Box) -> bool:
    return (
        other[0] <= box[0] + 1
        and other[1] <= box[1] + 1
        and box[2] - 1 <= other[2]
        and box[3] - 1 <= other[3]
    )


def _covers(box: Box, frame: Box) -> bool:
    """Tell whether a box covers most of the page."""
    common = (
        max(box[0], frame[0]), max(box[1], frame[1]), min(box[2], frame[2]), min(box[3], frame[3]),
    )  # fmt: skip
    return _area(common) >= COVER * _area(frame)


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
