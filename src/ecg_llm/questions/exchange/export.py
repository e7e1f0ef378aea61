"""Kept questions to the files that other programs train and test with."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ecg_llm import store
from ecg_llm.contracts import Task, UsageError
from ecg_llm.prompt import context_text, one_line, question_messages, target_reply
from ecg_llm.questions.exchange import card
from ecg_llm.questions.exchange.card import SPLITS, filled
from ecg_llm.records import LETTERS, TESTED, Document, Question, Split
from ecg_llm.registry import suggestion

PLACES: Mapping[str, str] = {
    "chat": "{}.jsonl",
    "alpaca": "{}.json",
    "sharegpt": "{}.jsonl",
    "dataset": "data/{}.parquet",
}
"""Forms with one file a split, and where it lies; the other forms have one a tested subset."""
SOURCE = ("question_id", "licence")
ABOUT = ("set", "split", "type", "difficulty", "language", "doc_id", "licence")
COLUMNS = (
    "question_id", "set", "kind", "type", "difficulty", "question", "options", "answer",
    "reference", "context", "evidence", "passage_id", "joined", "doc_id", "tags", "group",
    "language", "licence", "flags", "generator", "revision",
)  # fmt: skip
"""Columns of the data set: those of questions.jsonl, but for who changed it and why dropped."""

Fields = dict[str, Any]


class Exported(NamedTuple):
    """A file that was written."""

    path: Path
    rows: int
    """Questions in it; 0 for cards and task files."""


class File(NamedTuple):
    """A file to write: its place in the folder, what it holds, and how many questions."""

    name: str
    data: bytes
    rows: int = 0


def export(
    questions: Sequence[Question],
    documents: Sequence[Document],
    folder: Path,
    form: str,
    title: str,
) -> list[Exported]:
    """Write the kept questions into a folder, in one of FORMS; return what was written.

    A card (README.md) says what they are. Questions of each split stand in a file of their own.
    `lm-eval` and `inspect` get the tests alone, a task for each set (and tag), split and kind.
    Equal questions give equal bytes.

    Raises:
        UsageError: no such form, nothing to export, or a folder that holds other files.
    """
    if form not in FORMS:
        raise UsageError(f"There is no form {form!r} of export{suggestion(form, FORMS)}")
    files = files_of(questions, documents, form, title)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder to export into.")
    if foreign := sorted(_present(folder) - {file.name for file in files}):
        raise UsageError(
            f"{folder} holds files that are not of this export ({foreign[0]}); "
            "name another folder, or empty this one."
        )
    written = []
    for file in files:
        path = folder / file.name
        with store.replacing(path) as out:
            out.write(file.data)
        written.append(Exported(path, file.rows))
    return written


def files_of(
    questions: Sequence[Question], documents: Sequence[Document], form: str, title: str
) -> list[File]:
    """Return the files of an export, the card first.

    Raises:
        UsageError: no kept question is in a split of this form.
    """
    leaving = _leaving(questions, documents, form)
    if not leaving:
        wanted = "a test split" if form not in PLACES else "a split"
        raise UsageError(
            f"No kept question is in {wanted}, so there is nothing to export as {form}; "
            "see: ecg-llm show questions"
        )
    places: dict[str, str] = {}
    tasks: dict[str, list[Question]] = {}
    if form in PLACES:
        split_files = list(_split_files(leaving, form))
        places = {file.name: SPLITS[split].name for split, file in split_files}
        files = [file for _, file in split_files]
    else:
        tasks = _tasks(leaving)
        files = list(_task_files(tasks, form))
    text = card.card(leaving, questions, documents, form, title, places, list(tasks))
    return [File("README.md", text.encode("utf-8")), *files]


def rows_of(questions: Sequence[Question], form: str) -> list[Fields]:
    """Return the rows of these questions in one form, sorted by question_id."""
    return [ROWS[form](question) for question in sorted(questions, key=lambda q: q.question_id)]


def _leaving(
    questions: Sequence[Question], documents: Sequence[Document], form: str
) -> list[Question]:
    """Return the questions of this form, each with its own or its document's licence."""
    licences = {d.doc_id: d.licence for d in documents if d.licence and d.doc_id}
    splits = SPLITS if form in PLACES else TESTED
    return sorted(
        (
            q.model_copy(update={"licence": q.licence or licences.get(q.doc_id, "")})
            for q in questions
            if q.status == "kept" and q.split in splits
        ),
        key=lambda q: q.question_id,
    )


def _present(folder: Path) -> set[str]:
    """Return the files in a folder, but for hidden ones and what Python itself leaves there."""
    places = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        place.as_posix()
        for place in places
        if not any(part.startswith((".", "__pycache__")) for part in place.parts)
    }


def _prompt(question: Question) -> str:
    """Return what arms and training show: one user turn."""
    return question_messages(Task(question, question.options))[0]["content"]


def _columns(question: Question, names: Sequence[str]) -> Fields:
    return question.model_dump(include=set(names))


def _chat(question: Question) -> Fields:
    messages = [
        {"role": "user", "content": _prompt(question)},
        {"role": "assistant", "content": target_reply(question)},
    ]
    return {"messages": messages} | _columns(question, SOURCE)


def _alpaca(question: Question) -> Fields:
    turns = {
        "instruction": _prompt(question.model_copy(update={"context": ""})),
        "input": question.context,
        "output": target_reply(question),
    }
    return turns | _columns(question, SOURCE)


def _sharegpt(question: Question) -> Fields:
    turns = [
        {"from": "human", "value": _prompt(question)},
        {"from": "gpt", "value": target_reply(question)},
    ]
    return {"conversations": turns} | _columns(question, SOURCE)


def _dataset(question: Question) -> Fields:
    return _columns(question, COLUMNS)


def _lm_eval(question: Question) -> Fields:
    asked: Fields = {"question_id": question.question_id, "prompt": _prompt(question)}
    if question.kind == "choice":
        asked |= {
            "choices": list(question.options),
            "target": LETTERS.index(question.answer),
        }
    else:
        asked["reference"] = question.reference
    return asked | _columns(question, ABOUT)


def _inspect(question: Question) -> Fields:
    """Return a sample; Inspect itself puts instruction and options around a choice question."""
    if question.kind == "choice":
        parts = [context_text(question.context)] if question.context else []
        asked: Fields = {
            "input": "\n\n".join([*parts, one_line(question.question)]),
            "choices": [one_line(option) for option in question.options],
            "target": question.answer,
        }
    else:
        asked = {"input": _prompt(question), "target": question.reference}
    return {"id": question.question_id} | asked | {"metadata": _columns(question, ABOUT)}


ROWS: Mapping[str, Callable[[Question], Fields]] = {
    "chat": _chat,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "dataset": _dataset,
    "lm-eval": _lm_eval,
    "inspect": _inspect,
}
FORMS = tuple(ROWS)


def _split_files(questions: Sequence[Question], form: str) -> Iterator[tuple[Split, File]]:
    for split, named in SPLITS.items():
        rows = rows_of([q for q in questions if q.split == split], form)
        if rows:
            yield split, File(PLACES[form].format(named.name), WRITERS[form](rows), len(rows))


def _task_files(tasks: Mapping[str, Sequence[Question]], form: str) -> Iterator[File]:
    """Yield the questions of every task and the files that define the tasks."""
    for name, group in tasks.items():
        yield File(f"{name}.jsonl", _lines(rows_of(group, form)), len(group))
    kinds = {name: group[0].kind for name, group in tasks.items()}
    if form == "inspect":
        yield File("ecg_llm.py", filled("inspect.py", {"tasks": list(kinds.items())}))
        return
    yield File("ecg_llm_data.py", filled("lm_eval_data.py", {}))
    for name, kind in kinds.items():
        yield File(f"{name}.yaml", filled(f"lm_eval_{kind}.yaml", {"name": name}))


def _tasks(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Return the questions of every task, by a name that is a Python name too."""
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        for subset in question.subsets:
            groups.setdefault((subset, question.kind), []).append(question)
    tasks: dict[str, list[Question]] = {}
    for (subset, kind), group in sorted(groups.items()):
        plain = re.sub(r"[^a-z0-9]+", "_", f"{subset}_{kind}".lower()).strip("_")
        name, number = f"ecg_llm_{plain}", 1
        # Sets such as "a b" and "a_b" are two.
        while name in tasks:
            number += 1
            name = f"ecg_llm_{plain}_{number}"
        tasks[name] = group
    return tasks


def _lines(rows: Sequence[Fields]) -> bytes:
    """Return a JSON object a line; line ends that only Unicode knows are escaped like others."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return re.sub("[\x85\u2028\u2029]", lambda end: f"\\u{ord(end[0]):04x}", text).encode("utf-8")


def _array(rows: Sequence[Fields]) -> bytes:
    return (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def _parquet(rows: Sequence[Fields]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    spans = pa.list_(pa.struct([("passage_id", text), ("text", text)]))
    types = {"joined": spans, "revision": pa.int64()}
    types |= dict.fromkeys(("options", "tags", "flags"), pa.list_(text))
    # A schema of our own: a column that is empty in one split has its type there too.
    schema = pa.schema([(name, types.get(name, text)) for name in COLUMNS])
    out = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), out)
    data: bytes = out.getvalue().to_pybytes()
    return data


WRITERS: Mapping[str, Callable[[Sequence[Fields]], bytes]] = {
    "chat": _lines,
    "alpaca": _array,
    "sharegpt": _lines,
    "dataset": _parquet,
}
