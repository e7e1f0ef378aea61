"""A folder of files to documents: one row and one text for every file, read or not."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Literal, NamedTuple

from ecg_llm import config, engine, registry
from ecg_llm.contracts import Progress, Reading, ReadingError
from ecg_llm.corpus import formats, pdf
from ecg_llm.corpus.clean import CONTROL, NUMBERED, clean_pages, heading_places, join, title_kind
from ecg_llm.records import Document

NOISE = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
STOP_WORDS = {
    "en": frozenset(["the", "of", "and", "in", "to", "is", "with", "was", "for", "that", "are"]),
    "de": frozenset(["der", "die", "und", "das", "ist", "mit", "von", "den", "bei", "eine", "zu"]),
}
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
RETRIED = ("timeout", "memory", "crashed", "unreadable_file")
"""Reasons that may have gone when the file is read again."""
NOTES = {
    "timeout": "{note}; raise documents.timeout in study.yaml, or leave the file out.",
    "memory": "{note}; raise documents.memory_mb in study.yaml, or leave the file out.",
    "crashed": "{note}; save the file anew with another program, or leave it out.",
}
HEAD = 10_000
"""Characters at either end of a text in which a licence is looked for."""

Status = Literal["ok", "partial", "unreadable", "duplicate", "excluded"]


class Job(NamedTuple):
    """One file to read, for a worker process."""

    file: str
    path: str
    doc_id: str
    settings: config.Documents
    ocr_jobs: int


def find(folder: Path, exclude: Sequence[str] = ()) -> list[Path]:
    """Return every file below a folder, sorted; hidden files and systems' own are no files.

    Args:
        folder: Where to look; links to folders are not followed.
        exclude: Globs of relative paths, or of names, to leave out.
    """
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_noise(name)]
        found.extend(Path(here, name) for name in names if not _is_noise(name))
    return sorted(path for path in found if not _matches(_relative(path, folder), exclude))


def ingest(
    folder: Path,
    settings: config.Documents,
    known: Mapping[str, tuple[Document, str]],
    progress: Progress | None = None,
) -> Iterator[tuple[Document, str]]:
    """Yield (row, text) for every file of the folder, in order of completion.

    The text of `page_starts[i]` on is page i + 1's Markdown; it is empty unless the status is ok
    or partial. Whatever is wrong with a file, its row says so.

    Args:
        folder: The literature folder.
        settings: How to read.
        known: Path: row and text of an earlier run with equal settings; a file whose bytes are
            the same is not read again, unless what stood in the way may have gone.
        progress: Called with (files done, files).
    """
    files = {_relative(path, folder): path for path in find(folder)}
    done = 0
    jobs: list[Job] = []
    firsts: dict[str, str] = {}
    workers = settings.workers or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        digests = pool.map(_digest, files.values())
        for (path, file), (doc_id, problem) in zip(files.items(), digests, strict=True):
            row = _row_unread(path, file, doc_id, problem, settings, firsts)
            old = known.get(path)
            if row is None and old and old[0].doc_id == doc_id and _holds(old[0], settings):
                done += 1
                yield old
            elif row is None:
                jobs.append(Job(str(file), path, doc_id, settings, 1))
            else:
                done += 1
                yield row, ""
            if progress:
                progress(done, len(files))
    share = max((os.cpu_count() or 1) // max(min(workers, len(jobs)), 1), 1)
    outcomes = engine.run(
        read_file,
        [job._replace(ocr_jobs=share) for job in jobs],
        workers=settings.workers,
        timeout=settings.timeout,
        memory_mb=settings.memory_mb,
        progress=(lambda part, _: progress(done + part, len(files))) if progress else None,
    )
    for outcome in outcomes:
        yield outcome.value if not outcome.failure else (_row_failed(outcome), "")


def read_file(job: Job) -> tuple[Document, str]:
    """Return (row, text) of one file: sniffed, read, recognised, cleaned and judged."""
    started = monotonic()
    path = Path(job.file)
    try:
        with path.open("rb") as file:
            is_pdf = path.suffix.lower() == ".pdf" or file.read(5) == b"%PDF-"
        if is_pdf:
            reader = registry.find("pdf", job.settings.engine)()
            reading = reader.read(path)
            recognised: tuple[int, ...] = ()
            if job.settings.ocr == "auto":
                left = job.settings.timeout * 0.9 - (monotonic() - started)
                reading, recognised = pdf.recognise(
                    path, reading, reader, seconds=left, jobs=job.ocr_jobs
                )
            return document(job, reading, recognised, printed=True)
        kind = formats.SUFFIXES[path.suffix.lower()]
        reading = formats.read(path.read_bytes(), kind)
        return document(job, reading, (), printed=False)
    except ReadingError as error:
        return _row(job.path, job.doc_id, job.settings, "unreadable", error.reason, error.note), ""
    except OSError as error:
        note = f"{error.strerror or error}."
        return _row(job.path, job.doc_id, job.settings, "unreadable", "unreadable_file", note), ""


def document(
    job: Job, reading: Reading, recognised: tuple[int, ...], *, printed: bool
) -> tuple[Document, str]:
    """Return (row, text) of a file from what its reader made of it."""
    raw = [page.markdown for page in reading.pages]
    pages = clean_pages(raw, printed=printed)
    text, starts = join(pages)
    unread = tuple(number for number, page in enumerate(pages, start=1) if not page)
    reasons = Counter(page.unread for page in reading.pages)
    status: Status = "ok"
    reason = ""
    if unread:
        status, reason = "partial", "unread_pages"
    if len(unread) == len(pages):
        status = "unreadable"
        reason = "no_readable_page" if reasons["scanned"] + reasons["garbled"] else "empty"
    quality = {
        "pages_expected": len(pages),
        "pages_read": len(pages) - len(unread),
        "unread_pages": unread,
        "ocr_pages": recognised,
        "characters": len(text),
        "characters_per_page": round(len(text) / max(len(pages) - len(unread), 1), 1),
        "control_characters": sum(len(CONTROL.findall(page)) for page in raw),
        "headings": len(heading_places(text)),
        "tables": len(re.findall(r"^\|(?:-+\|)+", text, re.MULTILINE)),
        **reading.quality,
    }
    hidden = _hidden_spans(text, str(reading.quality.get("hidden_text", "")))
    if hidden:
        quality["hidden_spans"] = hidden
    row = _row(job.path, job.doc_id, job.settings, status, reason, _note(reading, unread, job))
    return row.model_copy(
        update={
            "title": _title(reading.title, text, job.path, printed=printed),
            "language": language(text),
            "licence": licence(f"{text[:HEAD]}\n{text[-HEAD:]}", reading.licence),
            "pages": len(pages),
            "page_starts": starts if text else (),
            "engine": reading.engine,
            "engine_version": reading.engine_version or version("ecg-llm"),
            "quality": quality,
        }
    ), text


def language(text: str) -> str:
    """Return "en" or "de" by the share of stop words, or "" if neither shows."""
    words = Counter(re.findall(r"[^\W\d_]+", text[:200_000].lower()))
    counts = {name: sum(words[word] for word in stop) for name, stop in STOP_WORDS.items()}
    best = max(counts, key=lambda name: counts[name])
    clear = counts[best] >= 3 and counts[best] >= 2 * min(counts.values())
    return best if clear and counts[best] >= 0.03 * words.total() else ""


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


def _row_unread(
    path: str,
    file: Path,
    doc_id: str,
    problem: str,
    settings: config.Documents,
    firsts: dict[str, str],
) -> Document | None:
    """Return the row of a file that need not be read, or None for one that must."""
    if _matches(path, settings.exclude):
        return _row(path, doc_id, settings, "excluded", "by_pattern")
    if problem:
        return _row(path, doc_id, settings, "unreadable", "unreadable_file", problem)
    if firsts.setdefault(doc_id, path) != path:
        note = f"The same as {firsts[doc_id]}."
        return _row(path, doc_id, settings, "duplicate", "same_content", note)
    suffix = file.suffix.lower()
    if suffix != ".pdf" and suffix not in formats.SUFFIXES:
        with file.open("rb") as opened:
            if opened.read(5) != b"%PDF-":
                note = "Save it as PDF, Markdown, HTML, JATS or text."
                return _row(path, doc_id, settings, "unreadable", "unsupported", note)
    return None


def _row(
    path: str,
    doc_id: str,
    settings: config.Documents,
    status: Status,
    reason: str = "",
    note: str = "",
) -> Document:
    groups = [name for name, globs in settings.groups.items() if _matches(path, globs)]
    return Document(
        path=path,
        doc_id=doc_id,
        tags=tuple(name for name, globs in settings.tags.items() if _matches(path, globs)),
        group=groups[0] if groups else doc_id,
        status=status,
        reason=reason,
        note=note,
    )


def _row_failed(outcome: engine.Outcome) -> Document:
    job: Job = outcome.item
    reason = "crashed" if outcome.failure == "error" else outcome.failure
    note = NOTES[reason].format(note=outcome.note)
    return _row(job.path, job.doc_id, job.settings, "unreadable", reason, note)


def _holds(row: Document, settings: config.Documents) -> bool:
    """Tell whether an earlier row still says all that can be said about its file."""
    if row.reason in RETRIED or row.status in ("duplicate", "excluded"):
        return False
    waiting = "OCR" in row.note and settings.ocr == "auto"
    return not (waiting and pdf.ocr_command()[0])


def _note(reading: Reading, unread: tuple[int, ...], job: Job) -> str:
    waiting = sum(page.unread in pdf.OCR_REASONS for page in reading.pages)
    if not waiting:
        blank = ", ".join(map(str, unread[:10])) + (" ..." if len(unread) > 10 else "")
        return f"No text on page {blank}." if unread and len(unread) < len(reading.pages) else ""
    pages = "1 page needs" if waiting == 1 else f"{waiting} pages need"
    if job.settings.ocr == "never":
        return f"{pages} OCR: set documents.ocr to auto."
    if pdf.ocr_command()[0]:
        return f"{pages} OCR that did not succeed in time: raise documents.timeout."
    return f"{pages} OCR: apt install tesseract-ocr tesseract-ocr-deu, pip install 'ecg-llm[ocr]'"


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


def _hidden_spans(text: str, hidden: str) -> tuple[int, ...]:
    """Return start, end, start, end ... of the hidden texts in the text."""
    spans: list[tuple[int, int]] = []
    for line in hidden.splitlines():
        pattern = r"[\s*_\\]*".join(map(re.escape, line.split()))
        spans.extend(match.span() for match in re.finditer(pattern, text) if pattern)
    flat: list[int] = []
    for start, end in sorted(spans):
        if flat and start <= flat[-1] + 1:
            flat[-1] = max(flat[-1], end)
        else:
            flat.extend((start, end))
    return tuple(flat)
