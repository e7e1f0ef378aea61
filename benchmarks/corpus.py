"""Literature to passages, measured: order, headings, tables, references, speed, memory, refusal.

    python benchmarks/corpus.py ../shared
    python benchmarks/corpus.py ../shared --only cinc --detail

The folder named holds literature/ (the PDFs), truth/ (the Markdown behind those of TRUTH) and
hostile/ (broken PDFs); the key of the papers' headings is benchmarks/keys/cinc.json. Needs
`pip install rapidfuzz`; PyMuPDF4LLM (pip install 'pymupdf>=2', AGPL-3.0) is timed in the same run
if it is installed. Prints a table; exit code 1 if a target is missed.
"""

import argparse
import itertools
import json
import re
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ecg_llm import config, engine
from ecg_llm.corpus import ingest, passages
from ecg_llm.corpus.clean import NUMBERED, heading_places, title_kind
from ecg_llm.embed import SentenceEmbedder

TRUTH = {
    "openstax_heart_twocol": ("heart chapter", 0.985),
    "de_ekg_befundung_twocol": ("German", 0.97),
    "openstax_anatomy_book_300p": ("book", 0.99),
}
KEY = Path(__file__).parent / "keys" / "cinc.json"
NEXT_LINE = 9
"""Words within which the next line of a column must begin in the text."""


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: float
    target: str
    met: bool
    note: str = ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--only", choices=sorted(PARTS), action="append")
    parser.add_argument("--detail", action="store_true", help="say what is missed")
    given = parser.parse_args()
    figures: list[Figure] = []
    for name, part in PARTS.items():
        if not given.only or name in given.only:
            for figure in part(given.shared, given.detail):
                mark = "" if figure.met else "  <-- missed"
                print(
                    f"{figure.what:<58}{figure.value:>9.3f}  {figure.target:<10}{figure.note}{mark}"
                )
                figures.append(figure)
    sys.exit(not all(figure.met for figure in figures))


def truth(shared: Path, detail: bool) -> Iterator[Figure]:
    """Order of words, headings and tables against the text behind the typeset PDFs."""
    from rapidfuzz.distance import LCSseq

    for stem, (name, target) in TRUTH.items():
        wanted = (shared / "truth" / f"{stem}.groundtruth.md").read_text("utf-8")
        got = read(shared / "literature" / f"{stem}.pdf").text
        a, b = words(wanted), words(got)
        order = LCSseq.similarity(a, b) / len(a)
        yield at_least(f"word order, {name}", order, target, f"{len(a):,} words")
        # the typesetter numbered the headings, the truth does not
        found = Counter(plain(NUMBERED.sub("", title)) for _, _, title in heading_places(got))
        keys = Counter(plain(NUMBERED.sub("", title)) for title in titles(wanted))
        recall = (keys & found).total() / keys.total()
        precision = (keys & found).total() / max(found.total(), 1)
        yield at_least(f"headings recall, {name}", recall, 0.99, f"{keys.total()} headings")
        yield at_least(f"headings precision, {name}", precision, 0.95)
        if detail:
            print("   not found:", list((keys - found).elements())[:20])
            print("   not wanted:", list((found - keys).elements())[:20])
        if "book" in name:
            share, total, missed = tables(wanted, got)
            yield at_least(f"tables found, {name}", share, 1.0, f"{total} tables")
            if detail:
                print("   tables missed:", missed)


def cinc(shared: Path, detail: bool) -> Iterator[Figure]:
    """Headings, columns and references of two-column papers against the key."""
    key = json.loads(KEY.read_text("utf-8"))
    right: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    given: Counter[str] = Counter()
    pairs = mixed = entries = listed = 0
    for name, paper in key.items():
        path = shared / "literature" / name
        found = read(path)
        if not found.text:  # its text layer is garbage: only OCR reads it
            continue
        got = Counter(plain(title) for _, _, title in heading_places(found.text))
        numbered = {plain(f"{h['number']} {h['title']}") for h in paper["headings"] if h["number"]}
        others = {plain(h["title"]) for h in paper["headings"] if not h["number"]}
        ignored = {plain(h["title"]) for h in paper["run_in"]} | {plain(paper["title"])}
        got_numbered = {title for title in got if title[:1].isdigit()}
        got_others = set(got) - got_numbered - ignored
        for kind, key_set, got_set in (
            ("numbered", numbered, got_numbered), ("unnumbered", others, got_others),
        ):  # fmt: skip
            right[kind] += len(key_set & got_set)
            wanted[kind] += len(key_set)
            given[kind] += len(got_set)
            if detail and key_set != got_set:
                print("  ", name, "not found", key_set - got_set, "not wanted", got_set - key_set)
        some, bad = columns_mixed(path, found, detail)
        pairs, mixed = pairs + some, mixed + bad
        separate = separated(found.text)
        entries += min(separate, paper["references"])
        listed += paper["references"]
        if detail and separate != paper["references"]:
            print("  ", name, "references", separate, "of", paper["references"])
    for kind in ("numbered", "unnumbered"):
        yield at_least(f"{kind} headings recall, CinC", right[kind] / wanted[kind], 0.95,
                       f"{wanted[kind]} headings")  # fmt: skip
        yield at_least(f"{kind} headings precision, CinC", right[kind] / given[kind], 0.95)
    yield at_most("columns mixed, CinC", mixed / pairs, 0.05, f"{pairs:,} pairs of lines")
    yield at_least("references apart, CinC", entries / listed, 0.90, f"{listed} entries")


def speed(shared: Path, detail: bool) -> Iterator[Figure]:
    """Pages a second of one process, from file to passages with their quality; beside a peer."""
    paths = [
        path for path in sorted((shared / "literature").glob("*.pdf")) if "SCAN" not in path.name
    ]
    count = SentenceEmbedder("minilm").count_tokens
    count(["warm"])
    read(paths[0])
    pages, seconds = timed(paths, lambda path: cut(path, count))
    yield at_least("pages a second, one process", pages / seconds, 80, f"{pages} pages")
    few = [path for path in paths if "300p" not in path.name]
    if find_spec("pymupdf4llm"):
        from ecg_llm.corpus.engines import PymupdfEngine

        _, own = timed(few, lambda path: cut(path, count))
        pages, peer = timed(few, lambda path: len(PymupdfEngine().read(path).pages))
        note = f"{pages / peer:.1f} pages/s, the peer's"
        yield at_least("times pymupdf4llm, same files", peer / own, 20, note)


def memory(shared: Path, detail: bool) -> Iterator[Figure]:
    """Largest memory of a worker over 2,000 pages."""
    book = shared / "literature" / "openstax_anatomy_book_300p.pdf"
    jobs = [job(book)._replace(path=f"{number}.pdf") for number in range(5)]
    peaks = [outcome.value for outcome in engine.run(peak_after, jobs, workers=1)]
    yield at_most("largest worker, MB, over 1,995 pages", max(peaks), 600, f"{peaks}")


def hostile(shared: Path, detail: bool) -> Iterator[Figure]:
    """Files that are broken on purpose: a row with a reason each, in time."""
    settings = config.Documents(timeout=30)
    folder = shared / "hostile"
    started = time.monotonic()
    rows = [found.row for found in ingest.ingest(folder, settings, {})]
    seconds = time.monotonic() - started
    files = len(list(folder.iterdir()))
    good = [
        row for row in rows
        if (row.status in ("ok", "partial") and row.quality["characters"])
        or (row.status in ("unreadable", "duplicate") and row.reason)
    ]  # fmt: skip
    if detail:
        for row in sorted(rows, key=lambda row: row.path):
            print(f"   {row.path:<48}{row.status:<11}{row.reason:<16}{row.note[:60]}")
    yield at_least("hostile files with a text or a reason", len(good) / files, 1.0,
                   f"{files} files, {seconds:.0f} s")  # fmt: skip


PARTS: dict[str, Callable[[Path, bool], Iterator[Figure]]] = {
    "truth": truth, "cinc": cinc, "speed": speed, "memory": memory, "hostile": hostile,
}  # fmt: skip


def at_least(what: str, value: float, target: float, note: str = "") -> Figure:
    """Return a figure that must not be below its target."""
    return Figure(what, value, f">= {target:g}", value >= target, note)


def at_most(what: str, value: float, target: float, note: str = "") -> Figure:
    """Return a figure that must not be above its target."""
    return Figure(what, value, f"<= {target:g}", value <= target, note)


def job(path: Path) -> ingest.Job:
    """Return the job of one file, without OCR."""
    return ingest.Job(str(path), path.name, "0" * 16, config.Documents(ocr="never"))


def read(path: Path) -> ingest.Read:
    """Return what a file comes to, without OCR."""
    found = ingest.read_file(job(path))
    assert isinstance(found, ingest.Read)
    return found


def cut(path: Path, count: Any) -> int:
    """Return the pages of a file that was read and cut into passages."""
    found = read(path)
    passages.cut(found.row, found.text, count, config.Passages())
    return found.row.pages


def timed(paths: Sequence[Path], work: Callable[[Path], Any]) -> tuple[int, float]:
    """Return (pages, seconds) of this work on these files."""
    started = time.monotonic()
    results = [work(path) for path in paths]
    seconds = time.monotonic() - started
    return sum(pages for pages in results if isinstance(pages, int)), seconds


def peak_after(one: ingest.Job) -> int:
    """Return the largest memory of this process so far, in MB, after reading a file."""
    found = read(Path(one.file))
    assert found.text
    # ru_maxrss would be that of the process which started this one
    status = Path("/proc/self/status").read_text("ascii", "replace")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    return int(peak[1]) >> 10


def words(text: str) -> list[str]:
    """Return the words of a Markdown text."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())


def plain(title: str) -> str:
    """Return a title as letters and digits alone, so that marks and spaces do not count."""
    return "".join(words(title))


def titles(markdown: str) -> list[str]:
    """Return the titles of a truth file's headings."""
    return [line.lstrip("#").strip() for line in markdown.split("\n") if re.match(r"#{1,6} ", line)]


def tables(wanted: str, got: str) -> tuple[float, int, list[str]]:
    """Return (share of the tables that are found with most cells, how many, those missed)."""
    ours = [set(map(plain, re.split(r"[|\n]", block))) for block in blocks(got)]
    missed = []
    theirs = blocks(wanted)
    for block in theirs:
        cells = {plain(cell) for cell in re.split(r"[|\n]", block)} - {""}
        best = max((len(cells & found) / len(cells) for found in ours), default=0.0)
        if best < 0.5:
            missed.append(f"{best:.2f} {block[:60]!r}")
    return 1 - len(missed) / len(theirs), len(theirs), missed


def blocks(markdown: str) -> list[str]:
    """Return the tables of a Markdown text."""
    return re.findall(r"(?:^\|.*\n?){2,}", markdown, re.MULTILINE)


def separated(text: str) -> int:
    """Return how many entries of the reference list begin a paragraph, in order from 1 on."""
    starts = [
        start for start, _, title in heading_places(text) if title_kind(title) == "references"
    ]
    after = text[starts[-1] :] if starts else text
    number = 0
    for line in after.split("\n\n"):
        match = re.match(r"[-*\s]*[\[(]?(\d{1,3})[\]).\s]", line)
        if match and int(match[1]) == number + 1:
            number += 1
    return number


def columns_mixed(path: Path, found: ingest.Read, detail: bool) -> tuple[int, int]:
    """Return (pairs of lines that follow one another in a column, those apart in the text).

    The lines come from PDFium's own boxes, not from the engine that is measured.
    """
    import pypdfium2

    starts = [*found.row.page_starts, len(found.text)]
    pairs = bad = 0
    for number, page in enumerate(pypdfium2.PdfDocument(path)):
        text = words(found.text[starts[number] : starts[number + 1] + 200].replace("-\n", ""))
        places: dict[tuple[str, ...], list[int]] = {}
        for at in range(len(text) - 2):
            places.setdefault(tuple(text[at : at + 3]), []).append(at)
        middle = page.get_width() / 2
        rows = box_lines(page)
        sides = [[r for r in rows if r[2] <= middle + 8], [r for r in rows if r[1] >= middle - 8]]
        if min(sum(len(words(row[3])) > 4 for row in side) for side in sides) < 8:
            continue
        for side in sides:
            for above, below in itertools.pairwise(side):
                one, two = words(above[3]), words(below[3])
                if len(one) < 5 or len(two) < 5 or not 6 < above[0] - below[0] < 16:
                    continue
                before, after = places.get(tuple(one[-4:-1])), places.get(tuple(two[1:4]))
                if not before or not after:
                    continue
                pairs += 1
                if not any(0 < b - a <= NEXT_LINE for a in before for b in after):
                    bad += 1
                    if detail:
                        print("  ", path.name, number + 1, above[3][-40:], "|", below[3][:40])
    return pairs, bad


def box_lines(page: Any) -> list[tuple[float, float, float, str]]:
    """Return (height, left, right, text) of a page's lines from the top, split at wide gaps."""
    layer = page.get_textpage()
    rows: list[list[Any]] = []
    boxes = [layer.get_rect(index) for index in range(layer.count_rects())]
    for left, bottom, right, top in sorted(
        boxes, key=lambda box: (-round((box[1] + box[3]) / 2), box[0])
    ):
        text = layer.get_text_bounded(left - 0.5, bottom - 0.5, right + 0.5, top + 0.5).strip()
        level = (bottom + top) / 2
        near = [r for r in rows[-8:] if abs(r[0] - level) < 4 and -3 < left - r[2] < 10]
        if near and text:
            near[0][2], near[0][3] = max(near[0][2], right), f"{near[0][3]} {text}"
        elif text:
            rows.append([level, left, right, text])
    return [(level, left, right, text) for level, left, right, text in rows]


if __name__ == "__main__":
    main()
