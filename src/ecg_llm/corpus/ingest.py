"""A folder of files to documents: a row, a text and page records for every file, read or not."""

import hashlib
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from ecg_llm import config, engine, registry
from ecg_llm.contracts import Page, Progress, Reading, ReadingError, Remark
from ecg_llm.corpus import duplicates, formats, ocr, pdf, quality, textlayer
from ecg_llm.corpus.clean import NUMBERED, clean_pages, heading_places, join, title_kind
from ecg_llm.corpus.salvage import salvage
from ecg_llm.records import DOCUMENT_REASONS, Document, PageQuality

NOISE = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
LICENCES = (
    (re.compile(r"creativecommons\.org/licenses/(by[a-z-]*)/(\d\.\d)", re.IGNORECASE), "CC {} {}"),
    (re.compile(r"creativecommons\.org/publicdomain/(zero)/(\d\.\d)", re.IGNORECASE), "CC0 {1}"),
    (re.compile(r"\bCC[ -](BY(?:[ -](?:NC|ND|SA))*)\b[ -]?(\d\.\d)?", re.IGNORECASE), "CC {} {}"),
    (re.compile(r"\b(CC0)\b ?(\d\.\d)?"), "CC0 {1}"),
    (
        re.compile(
            r"Creative\s+Commons\s+(Attribution(?:[\s-]+(?:Non-?Commercial|Share-?Alike|"
            r"No-?Deriv(?:ative)?s?(?:\s+Works)?))*)(?:[^.\d]{0,40}?(\d\.\d))?",
            re.IGNORECASE,
        ),
        "CC {} {}",
    ),
)
RETRIED = ("timeout", "memory", "crashed", "unreadable_file", "too_large")
"""Reasons that may have gone when the file is read again."""
PER_ROW = frozenset(
    ["ocr", "timeout", "memory_mb", "max_mb", "ocr_seconds", "exclude", "tags", "groups",
     "near_duplicate"]
)  # fmt: skip
"""Settings that change single rows: the others are as good as new."""
FEW_WORDS = 30
"""Words below which a text must show common words of a language to be of it."""
STOP_WORDS = {
    "en": frozenset(["the", "of", "and", "in", "to", "is", "with", "was", "for", "that", "are"]),
    "de": frozenset(["der", "die", "und", "das", "ist", "mit", "von", "den", "bei", "eine", "zu"]),
}
HEAD = 10_000
"""Characters at either end of a text in which a licence is looked for."""
SEARCHED = 50_000_000
"""Bytes of a file up to which its metadata are searched for a licence."""
SAMPLE = 3_000
"""Characters by which the language is told."""
BATCH = 4
"""Pages recognised together, so that the programs start seldom and all cores are busy."""

Status = Literal["ok", "partial", "unreadable", "duplicate", "excluded"]


class Read(NamedTuple):
    """What one file came to."""

    row: Document
    text: str = ""
    """Empty unless the status is ok or partial."""
    pages: tuple[PageQuality, ...] = ()
    sketch: duplicates.Sketch = ()
    """Empty unless there is a text."""


class Job(NamedTuple):
    """One file to read, for a worker process."""

    file: str
    path: str
    doc_id: str
    settings: config.Documents

    @property
    def password(self) -> str:
        """The password that study.yaml gives for this path."""
        return password_of(self.path, self.settings)


class Waiting(NamedTuple):
    """A file some pages of which wait for OCR."""

    job: Job
    reading: Reading
    layer: tuple[textlayer.LayerPage, ...]
    pages: tuple[int, ...]
    """Those that wait, from 0."""
    saved: bool
    """The pages are of what was salvaged of a damaged file."""


class OcrJob(NamedTuple):
    """Some pages of one file to recognise, for a worker process."""

    job: Job
    pages: tuple[int, ...]
    saved: bool


def password_of(path: str, settings: config.Documents) -> str:
    """Return the password that study.yaml gives for a path, empty if none."""
    for glob, password in settings.passwords.items():
        if _matches(path, (glob,)):
            return password.get_secret_value()
    return ""


def find(folder: Path, exclude: Sequence[str] = ()) -> list[Path]:
    """Return every file below a folder, sorted; hidden files and systems' own are no files.

    Args:
        folder: Where to look; links to folders are followed, each folder once. A folder that
            cannot be opened is in the list itself.
        exclude: Globs of relative paths, or of names, to leave out.
    """
    found: list[Path] = []
    seen: set[str] = set()

    def closed(error: OSError) -> None:
        found.append(Path(error.filename))

    for here, folders, names in os.walk(folder, onerror=closed, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = [] if real in seen else [name for name in folders if not _is_noise(name)]
        if real not in seen:
            found.extend(Path(here, name) for name in names if not _is_noise(name))
        seen.add(real)
    return sorted(path for path in found if not _matches(_relative(path, folder), exclude))


def ingest(
    folder: Path,
    settings: config.Documents,
    known: Mapping[str, Read],
    progress: Progress | None = None,
    remark: Remark | None = None,
) -> Iterator[Read]:
    """Yield what every file of the folder came to, in order of completion.

    The text of `page_starts[i]` on is page i + 1's Markdown. Whatever is wrong with a file, its
    row says so. Rows that turn out to be near duplicates, and those of the documents that they
    repeat, come once more at the end.

    Args:
        folder: The literature folder.
        settings: How to read.
        known: Path: what it came to in an earlier run with equal settings; a file whose bytes
            are the same is not read again, unless what stood in the way may have gone.
        progress: Called with (files done, files), and with pages while OCR runs.
        remark: Called with the pages read a second.
    """
    everything: list[Read] = []
    for found in _read_all(folder, settings, known, progress, remark):
        everything.append(found._replace(text="", pages=()))
        yield found
    everything.sort(key=lambda found: found.row.path)
    sketches = [(found.row, found.sketch) for found in everything]
    changed = duplicates.marked(sketches, settings.near_duplicate)
    yield from map(Read, changed)


def _read_all(
    folder: Path,
    settings: config.Documents,
    known: Mapping[str, Read],
    progress: Progress | None,
    remark: Remark | None,
) -> Iterator[Read]:
    files = {_relative(path, folder): path for path in find(folder)}
    meter = _Meter(len(files), progress, remark)
    jobs: list[Job] = []
    with ThreadPoolExecutor(settings.workers or os.cpu_count() or 1) as pool:
        digests = list(pool.map(_digest, files.values()))
        firsts = _firsts(list(files), [doc_id for doc_id, _ in digests], settings)
        for (path, file), (doc_id, problem) in zip(files.items(), digests, strict=True):
            job = Job(str(file), path, doc_id, settings)
            row = _row_unread(job, problem, firsts)
            old = known.get(path)
            if row is None and old and old.row.doc_id == doc_id and _holds(old, settings):
                fresh = _row(job, "ok")
                sketch = duplicates.sketch(old.text) if old.text else ()
                again = old.row.model_copy(update={"group": fresh.group, "tags": fresh.tags})
                yield meter.passed(old._replace(row=again, sketch=sketch))
            elif row is None:
                jobs.append(job)
            else:
                yield meter.passed(Read(row))
    meter.start()
    waiting: list[Waiting] = []
    for outcome in engine.run(
        read_file, jobs, workers=settings.workers, timeout=settings.timeout,
        memory_mb=settings.memory_mb,
    ):  # fmt: skip
        if isinstance(outcome.value, Waiting):
            waiting.append(outcome.value)
        else:
            yield meter.passed(outcome.value or Read(_row_failed(outcome)))
    if not waiting:
        return
    for outcome in engine.run(
        finish, _recognised(waiting, settings, meter), workers=settings.workers,
        timeout=settings.timeout, memory_mb=settings.memory_mb,
    ):  # fmt: skip
        yield meter.passed(outcome.value or Read(_row_failed(outcome)))


def read_file(job: Job) -> Read | Waiting:
    """Return what one file came to, or what waits for OCR: sniffed, read, cleaned and judged."""
    path = Path(job.file)
    try:
        if path.stat().st_size > job.settings.max_mb << 20:
            raise ReadingError("too_large", f"{path.stat().st_size >> 20} MiB.")
        suffix = path.suffix.lower()
        is_ = formats.sniff(path)
        if is_ == "pdf" or (suffix == ".pdf" and not is_):
            return _read_pdf(job, path)
        kind = formats.SUFFIXES.get(suffix, is_)
        if not kind:
            note = f"The file is {formats.describe(path)}: save it as DOCX or PDF."
            raise ReadingError("unsupported", note)
        note = f"It is named {suffix} but is {formats.describe(path)}, and was read as that."
        named = suffix in formats.SUFFIXES
        return document(job, formats.read(path.read_bytes(), kind), (), note="" if named else note)
    except ReadingError as error:
        return Read(_row(job, "unreadable", error.reason, error.note))
    except OSError as error:
        return Read(_row(job, "unreadable", "unreadable_file", f"{error.strerror or error}."))


def _read_pdf(job: Job, path: Path) -> Read | Waiting:
    engine_of_pdf = registry.find("pdf", job.settings.engine)()
    with tempfile.TemporaryDirectory() as folder:
        reading, source = pdf.read(engine_of_pdf, path, job.password, Path(folder))
        password = job.password if source == path else ""
        layer = textlayer.read(source, password)
    reading = replace(
        reading,
        title=reading.title or layer.title,
        licence=reading.licence or licence_address(path),
    )
    wanted = tuple(i for i, page in enumerate(reading.pages) if page.unread in ocr.REASONS)
    if wanted and job.settings.ocr == "auto" and ocr.command()[0]:
        return Waiting(job, reading, layer.pages, wanted, source != path)
    return document(job, reading, layer.pages, printed=True)


def recognise_pages(item: OcrJob) -> dict[int, Page]:
    """Return the pages that OCR could read, by index."""
    job = item.job
    reader = pdf.LiteparseEngine()  # others glue or mix the words of a recognised page
    with tempfile.TemporaryDirectory() as folder:
        source, password = Path(job.file), job.password
        if item.saved:
            source, password = Path(folder) / "saved.pdf", ""
            salvage(Path(job.file), source, job.password)
        seconds = job.settings.ocr_seconds
        return ocr.recognise(source, item.pages, reader, password=password, seconds=seconds)


def finish(waiting: Waiting) -> Read:
    """Return what a file came to whose pages have been through OCR."""
    recognised = tuple(
        index + 1 for index in waiting.pages if not waiting.reading.pages[index].unread
    )
    return document(waiting.job, waiting.reading, waiting.layer, recognised, printed=True)


def _recognised(
    waiting: Sequence[Waiting], settings: config.Documents, meter: "_Meter"
) -> list[Waiting]:
    """Return the files with the pages that OCR could read in place."""
    items = [
        OcrJob(one.job, one.pages[at : at + BATCH], one.saved)
        for one in waiting
        for at in range(0, len(one.pages), BATCH)
    ]
    found: dict[str, dict[int, Page]] = {one.job.path: {} for one in waiting}
    meter.recognising(sum(len(item.pages) for item in items))
    for outcome in engine.run(
        recognise_pages, items, workers=settings.workers, memory_mb=settings.memory_mb,
        timeout=2 * BATCH * settings.ocr_seconds + 30,
    ):  # fmt: skip
        found[outcome.item.job.path] |= outcome.value or {}
        meter.recognised(len(outcome.item.pages))
    made = []
    for one in waiting:
        pages = list(one.reading.pages)
        for index in one.pages:
            pages[index] = found[one.job.path].get(index, Page("", "ocr_failed"))
        made.append(one._replace(reading=replace(one.reading, pages=tuple(pages))))
    return made


class _Meter:
    """Files done, pages read, and how fast."""

    def __init__(self, files: int, progress: Progress | None, remark: Remark | None) -> None:
        self._files, self._progress, self._remark = files, progress, remark
        self._done = self._pages = self._to_recognise = self._recognised = 0
        self._started = time.monotonic()

    def start(self) -> None:
        """Count the speed from now on."""
        self._pages, self._started = 0, time.monotonic()

    def passed(self, found: Read) -> Read:
        """Return what a file came to, counted."""
        self._done += 1
        self._pages += found.row.pages
        self._say(f"{self._pages:,} pages, {self._pages / self._seconds():.0f} pages/s")
        if self._progress:
            self._progress(self._done, self._files)
        return found

    def recognising(self, pages: int) -> None:
        """Say how many pages go to OCR."""
        self._to_recognise, self._started = pages, time.monotonic()
        self._say(f"OCR of {pages} pages")

    def recognised(self, pages: int) -> None:
        """Count pages that have been through OCR."""
        self._recognised += pages
        left = self._seconds() / self._recognised * (self._to_recognise - self._recognised)
        self._say(f"OCR: {self._recognised} of {self._to_recognise} pages, {left:.0f} s left")
        if self._progress:
            self._progress(self._done, self._files)

    def _say(self, words: str) -> None:
        if self._remark:
            self._remark(words)

    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 0.1)


def document(
    job: Job,
    reading: Reading,
    layer: Sequence[textlayer.LayerPage],
    recognised: Sequence[int] = (),
    *,
    printed: bool = False,
    note: str = "",
) -> Read:
    """Return what a file came to, from what its reader made of it.

    Args:
        job: The file.
        reading: Its pages.
        layer: What the PDF itself says of each page; empty for other formats.
        recognised: Numbers of the pages that come from OCR.
        printed: It is a PDF, whose layout did things to the text.
        note: What a person should know besides.
    """
    raw = [page.markdown for page in reading.pages]
    pages = clean_pages(raw, printed=printed)
    text, starts = join(pages)
    unread = [_why(page, seen, cleaned) for page, seen, cleaned in _beside(reading, layer, pages)]
    status, reason = _verdict(unread)
    if status in ("ok", "partial") and reading.quality.get("short"):
        status, reason = "partial", "truncated"
    hidden = quality.hidden_spans(
        text, starts, [page.hidden for page in layer], str(reading.quality.get("hidden_text", ""))
    )
    seen = quality.without(text, hidden)
    records = quality.page_records(
        job.doc_id, raw, pages, unread, [page.text for page in layer],
        recognised, starts, hidden,
    )  # fmt: skip
    said = [note, str(reading.quality.get("repaired", "")), _note(unread, job.settings)]
    row = _row(job, status, reason, " ".join(filter(None, said)))
    return Read(
        row.model_copy(
            update={
                "title": _title(reading.title, seen, job.path, printed=printed),
                "language": language(seen),
                "licence": licence(f"{text[:HEAD]}\n{text[-HEAD:]}", reading.licence),
                "pages": len(pages),
                "page_starts": starts if text else (),
                "engine": reading.engine,
                "engine_version": reading.engine_version or version("ecg-llm"),
                "quality": quality.summary(records, text, hidden),
                "set_aside": quality.set_aside(text, starts, hidden),
            }
        ),
        text,
        records,
        duplicates.sketch(text) if text else (),
    )


def _beside(
    reading: Reading, layer: Sequence[textlayer.LayerPage], pages: Sequence[str]
) -> Iterator[tuple[Page, textlayer.LayerPage, str]]:
    for index, (page, cleaned) in enumerate(zip(reading.pages, pages, strict=True)):
        yield page, layer[index] if index < len(layer) else textlayer.LayerPage(), cleaned


def _why(page: Page, seen: textlayer.LayerPage, cleaned: str) -> str:
    """Return why a page is unread, a key of PAGE_REASONS."""
    if cleaned:
        return ""
    if page.unread in ("", "blank"):
        return "drawing" if seen.drawn else "blank"
    return page.unread


def _verdict(unread: Sequence[str]) -> tuple[Status, str]:
    """Return a document's status and reason from those of its pages."""
    counts = Counter(unread)
    if not any(unread):
        return "ok", ""
    if counts[""]:
        return "partial", "truncated" if counts["lost"] else "unread_pages"
    if counts["lost"]:
        return "unreadable", "truncated"
    return "unreadable", counts.most_common(1)[0][0]


def language(text: str) -> str:
    """Return the ISO 639-1 code of a text's language, or "" if it shows none."""
    from py3langid import classify

    words = re.findall(r"[^\W\d_]{2,}", text[:SAMPLE])
    if len(words) < FEW_WORDS:
        common = {
            code: sum(word.lower() in stop for word in words) for code, stop in STOP_WORDS.items()
        }
        best = max(common, key=lambda code: common[code])
        return best if common[best] >= 2 and common[best] >= 2 * min(common.values()) else ""
    code, _ = classify(" ".join(words))
    return code if len(code) == 2 else ""


def licence(text: str, metadata: str = "") -> str:
    """Return the Creative Commons licence named in the metadata or the text, as "CC BY 4.0"."""
    for source in (metadata, text):
        for pattern, form in LICENCES:
            match = pattern.search(source)
            if match:
                name = re.sub(r"(?i)attribution", "BY", match[1])
                name = re.sub(r"(?i)[\s-]+non-?commercial", "-NC", name)
                name = re.sub(r"(?i)[\s-]+share-?alike", "-SA", name)
                name = re.sub(r"(?i)[\s-]+no-?deriv\w*(?:\s+works)?", "-ND", name)
                return form.format(name.upper().replace(" ", "-"), match[2] or "").strip()
    return ""


def licence_address(path: Path) -> str:
    """Return the address of a Creative Commons licence that a file's metadata name, or ""."""
    data = path.read_bytes() if path.stat().st_size < SEARCHED else b""
    found = re.search(rb"https?://creativecommons\.org/[\w./-]{1,99}", data)
    return found[0].decode("ascii") if found else ""


def _is_noise(name: str) -> bool:
    return name.startswith((".", "~$")) or name.lower() in NOISE


def _relative(path: Path, folder: Path) -> str:
    """Return the path below the folder, with bytes that are no UTF-8 written as escapes."""
    relative = path.relative_to(folder).as_posix()
    return relative.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _matches(path: str, globs: Sequence[str]) -> bool:
    name = PurePosixPath(path).name
    return any(fnmatchcase(path, glob) or fnmatchcase(name, glob) for glob in globs)


def _digest(path: Path) -> tuple[str, str]:
    """Return (doc_id, "") of a file, or ("", why it cannot be opened)."""
    if path.exists() and not path.is_file():
        return "", "This is no ordinary file."
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16], ""
    except OSError as error:
        return "", f"{error.strerror or error}; check the file's rights."


def _firsts(
    paths: Sequence[str], doc_ids: Sequence[str], settings: config.Documents
) -> dict[str, str]:
    """Return, for each content, the path that is read: one that can be, if there is one."""

    def chances(path: str) -> tuple[bool, bool, bool, str]:
        suffix = PurePosixPath(path).suffix.lower()
        known = suffix == ".pdf" or suffix in formats.SUFFIXES
        excluded = _matches(path, settings.exclude)
        return excluded, not known, not password_of(path, settings), path

    firsts: dict[str, str] = {}
    for path, doc_id in zip(paths, doc_ids, strict=True):
        if doc_id and (doc_id not in firsts or chances(path) < chances(firsts[doc_id])):
            firsts[doc_id] = path
    return firsts


def _row_unread(job: Job, problem: str, firsts: Mapping[str, str]) -> Document | None:
    """Return the row of a file that need not be read, or None for one that must."""
    if _matches(job.path, job.settings.exclude):
        return _row(job, "excluded", "by_pattern")
    if problem:
        return _row(job, "unreadable", "unreadable_file", problem)
    if firsts[job.doc_id] != job.path:
        return _row(job, "duplicate", "same_content", f"The same as {firsts[job.doc_id]}.")
    return None


def _row(job: Job, status: Status, reason: str = "", note: str = "") -> Document:
    settings = job.settings
    groups = [name for name, globs in settings.groups.items() if _matches(job.path, globs)]
    return Document(
        path=job.path,
        doc_id=job.doc_id,
        tags=tuple(name for name, globs in settings.tags.items() if _matches(job.path, globs)),
        group=groups[0] if groups else job.doc_id,
        status=status,
        reason=reason,
        note=note,
    )


def _row_failed(outcome: engine.Outcome) -> Document:
    item = outcome.item
    job: Job = item if isinstance(item, Job) else item.job
    reason = "crashed" if outcome.failure == "error" else outcome.failure
    return _row(job, "unreadable", reason, f"{outcome.note}.")


def _holds(old: Read, settings: config.Documents) -> bool:
    """Tell whether an earlier row still says all that can be said about its file."""
    row = old.row
    if row.status in ("ok", "partial") and not old.text:
        return False
    if row.reason in (*RETRIED, "encrypted") or row.status in ("duplicate", "excluded"):
        return False
    recognises = settings.ocr == "auto" and bool(ocr.command()[0])
    if recognises:
        return "OCR" not in row.note  # pages that wait for it, or that it could not read in time
    return not row.quality.get("ocr_pages")


def _note(unread: Sequence[str], settings: config.Documents) -> str:
    """Return what to do about the pages that are not read."""
    waiting = sum(reason in ocr.REASONS for reason in unread)
    if waiting:
        pages = "1 page needs" if waiting == 1 else f"{waiting} pages need"
        remedy = DOCUMENT_REASONS["scanned"].remedy
        return f"{pages} OCR: {'set documents.ocr to auto' if settings.ocr == 'never' else remedy}."
    parts = []
    for reason, words in (
        ("lost", "Lost: page"), ("ocr_failed", "OCR found no words in time on page"),
        ("drawing", "Only drawings on page"), ("blank", "No text on page"),
    ):  # fmt: skip
        numbers = [str(number) for number, why in enumerate(unread, start=1) if why == reason]
        if numbers and len(numbers) < len(unread):
            parts.append(f"{words} {', '.join(numbers[:10])}{' ...' if numbers[10:] else ''}.")
    return " ".join(parts)


def _title(given: str, text: str, path: str, *, printed: bool) -> str:
    """Return the title: as given if the text bears it out, else as the first page shows it.

    Metadata of PDFs often name the template or the word processor's file.
    """
    given = " ".join(given.split())
    front = text[:5000]
    if len(given) > 4 and (not printed or _letters(given) in _letters(front)):
        return given
    headings = [heading for _, _, heading in heading_places(front) if not title_kind(heading)]
    plain = [heading for heading in headings if not NUMBERED.match(heading)]
    lines = [line for line in front.split("\n") if 15 < len(line) < 200 and line[0] not in "|-#"]
    made = re.match(r"(?i)microsoft \w+ -|untitled|.*\.(?:docx?|tex|dvi|indd|pdf|rtf)$", given)
    candidates = (*plain[:1], *lines[:1], *headings[:1], "" if made else given)
    return next((words for words in candidates if words), PurePosixPath(path).stem)


def _letters(words: str) -> str:
    return re.sub(r"\W+", "", words).lower()
