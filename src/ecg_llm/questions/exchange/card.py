"""The card of exported questions: what they are, how they were made and under what licences."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from typing import NamedTuple

import yaml

from ecg_llm.records import QUESTION_FLAGS, QUESTION_REASONS, Document, Question, Split


class Named(NamedTuple):
    """A split under the name that other programs know, and what it is."""

    name: str
    meaning: str


SPLITS: Mapping[Split, Named] = {
    "train": Named("train", "to train with"),
    "val": Named("validation", "to choose between models with, on documents not in train"),
    "test": Named("test", "new questions on documents that are in neither train nor validation"),
    "test_seen": Named("test_seen", "new questions on documents of train"),
}
"""Splits that leave; questions in none stay."""
HUB_LICENCES = frozenset(
    {"mit", "apache-2.0", "cc0-1.0"}
    | {f"cc-by-{number}" for number in ("2.0", "2.5", "3.0", "4.0")}
    | {f"cc-by-sa-{number}" for number in ("3.0", "4.0")}
    | {f"cc-by-nc-{number}" for number in ("2.0", "3.0", "4.0")}
    | {f"cc-by-nc-{kind}-{number}" for kind in ("sa", "nd") for number in ("3.0", "4.0")}
    | {"cc-by-nd-4.0", "cc-by-nc-sa-2.0"}
)
"""Licences that Hugging Face has a name for, those that literature comes under."""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

Line = tuple[str | int, ...]


def card(
    leaving: Sequence[Question],
    questions: Sequence[Question],
    documents: Sequence[Document],
    form: str,
    title: str,
    places: Mapping[str, str],
    tasks: Sequence[str],
) -> str:
    """Return a README.md in Markdown, with the front matter that Hugging Face reads.

    Args:
        leaving: the questions exported, licences filled in.
        questions: all, dropped ones too.
        documents: those that the questions name.
        form: the form of the export.
        title: the study's.
        places: file: split, where `datasets` is to load the folder.
        tasks: their names, where the form has tasks.
    """
    dropped = Counter(q.reason for q in questions if q.status == "dropped")
    flags = Counter(flag for q in leaving for flag in q.flags)
    front = front_matter(leaving, title, places)
    values = {
        "front": yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=100),
        "title": _cell(title),
        "rows": len(leaving),
        "form": form,
        "tasks": list(tasks),
        "splits": _split_lines(leaving),
        "tables": [
            (name, *_by_split(leaving, name)) for name in ("type", "difficulty", "language", "set")
        ],
        "version": version("ecg-llm"),
        "writers": _counted((q.set, q.generator or "not named") for q in leaving),
        "revised": sum(q.revision > 0 for q in leaving),
        "dropped": [(r, QUESTION_REASONS.get(r, r), n) for r, n in sorted(dropped.items())],
        "unplaced": sum(q.status == "kept" and q.split not in SPLITS for q in questions),
        "flags": [(f, QUESTION_FLAGS.get(f, f), n) for f, n in sorted(flags.items())],
        "sources": _sources(leaving, documents),
    }
    return filled("card.md", values).decode("utf-8")


def front_matter(
    questions: Sequence[Question], title: str, places: Mapping[str, str]
) -> dict[str, object]:
    """Return what Hugging Face reads of a card; a licence only where all questions share it."""
    tasks = {"open": "question-answering", "choice": "multiple-choice"}
    kinds = {q.kind for q in questions}
    front: dict[str, object] = {
        "pretty_name": title,
        "language": sorted({q.language for q in questions if q.language}),
        "task_categories": [name for kind, name in tasks.items() if kind in kinds],
        "size_categories": [next((n for most, n in SIZES if len(questions) < most), "n>1M")],
        "tags": ["medical", "electrocardiography", "ecg-llm"],
    }
    licences = {q.licence for q in questions}
    if len(licences) == 1 and (licence := licences.pop()):
        name = hub_licence(licence)
        front |= {"license": name} if name else {"license": "other", "license_name": licence}
    if places:
        files = [{"split": split, "path": path} for path, split in places.items()]
        front["configs"] = [{"config_name": "default", "data_files": files}]
    return front


def hub_licence(licence: str) -> str:
    """Return the name under which Hugging Face knows this licence, or "" if it does not."""
    if found := re.search(r"creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)", licence):
        name = f"cc-{found[1]}-{found[2]}"
    else:
        name = re.sub(r"\s*\(.*", "", licence).strip().lower()
        name = re.sub(r"^cc-?0.*", "cc0-1.0", re.sub(r"\s+", "-", name))
    return name if name in HUB_LICENCES else ""


def filled(name: str, values: Mapping[str, object]) -> bytes:
    """Return a file of templates/ with its places filled."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    place = resources.files("ecg_llm.questions.exchange").joinpath("templates", f"{name}.jinja")
    return environment.from_string(place.read_text("utf-8")).render(values).encode("utf-8")


def _split_lines(questions: Sequence[Question]) -> list[Line]:
    lines: list[Line] = []
    for split, named in SPLITS.items():
        kinds = Counter(q.kind for q in questions if q.split == split)
        if kinds:
            lines.append((*named, kinds.total(), kinds["open"], kinds["choice"]))
    return lines


def _by_split(questions: Sequence[Question], column: str) -> tuple[list[str], list[Line]]:
    """Return the splits that have questions, and for each value how many each of them has."""
    counts = Counter((getattr(q, column), q.split) for q in questions)
    splits = [split for split in SPLITS if any(found == split for _, found in counts)]
    lines: list[Line] = [
        (_cell(value or "not given"), *(counts[value, split] for split in splits))
        for value in sorted({value for value, _ in counts})
    ]
    return [SPLITS[split].name for split in splits], lines


def _counted(pairs: Iterable[tuple[str, str]]) -> list[Line]:
    return [(*map(_cell, pair), n) for pair, n in sorted(Counter(pairs).items())]


def _sources(questions: Sequence[Question], documents: Sequence[Document]) -> list[Line]:
    """Return the documents, and the sets of questions that rest on none, with their licences."""
    names = {d.doc_id: d.title or d.path for d in reversed(documents) if d.doc_id}
    return _counted(
        (names.get(q.doc_id, q.doc_id) or f"set {q.set}", q.licence or "not known")
        for q in questions
    )


def _cell(text: object) -> str:
    """Return a text that cannot break out of a line of a Markdown table."""
    plain = " ".join(str(text).split())
    return re.sub(r"([\\|<>\[\]*_`])", r"\\\1", plain)
