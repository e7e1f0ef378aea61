"""Open answers as a blinded, shuffled sheet for raters, in the shape that `rate import` reads."""

import csv
import io
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecg_llm import config, steps, store
from ecg_llm.contracts import UsageError
from ecg_llm.questions.exchange.cells import guarded, unguarded
from ecg_llm.records import GRADES, Answer, Question, digest

if TYPE_CHECKING:
    from ecg_llm.score.human import Imported

KEY = ".key.json"
"""What the name of a sheet's key ends with."""
CODE = re.compile(r"[0-9a-f]{8}")


class Sheet(NamedTuple):
    """What was written: the number of answers and the file that names the arms."""

    rows: int
    key: Path


def export(folder: Path, study: config.Study, file: Path) -> Sheet:
    """Write question, answer and a code for the arm, with empty columns for the marks.

    Questions are in order, answers of a question shuffled with the study's seed; the arm behind
    each code is in <file>.key.json, which raters do not get. Codes differ from question to
    question, so that an arm cannot be recognised. No text is run or changed by a spreadsheet.
    """
    questions = {
        row.question_id: row
        for row in steps.read_table(folder / "questions.jsonl", Question)
        if row.kind == "open"
    }
    answers = [
        row
        for row in steps.read_table(folder / "answers.jsonl", Answer)
        if row.question_id in questions and row.repeat == 0 and row.status in ("ok", "truncated")
    ]
    random.Random(study.seed).shuffle(answers)
    answers.sort(key=lambda row: row.question_id)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    grades = (grade.capitalize() for grade in GRADES)
    writer.writerow(["Question", "Answer", "Model", *grades, "Note"])
    key = {}
    for row in answers:
        code = digest(study.seed, row.question_id, row.arm, length=8)
        key[code] = row.arm
        asked = questions[row.question_id].question
        writer.writerow([guarded(asked), guarded(row.text), code, "", "", "", "", ""])
    store.write_text(file, "\ufeff" + text.getvalue())  # without the mark, ≥ is garbled in Excel
    key_file = file.with_name(file.name + KEY)
    store.write_json(key_file, key)
    return Sheet(len(answers), key_file)


def unblinded(imported: "Imported", file: Path) -> "Imported":
    """Return imported ratings with the arms' names, and the texts, as they were before `export`.

    The key lies beside the sheet. Raters send back copies under other names, so every key there
    is tried, the sheet's own first; a sheet without codes needs none.

    Raises:
        UsageError: the systems are codes and no key there knows them.
    """
    from ecg_llm.score import human

    keys = sorted(file.parent.glob("*.key.json"), key=lambda path: path.name != f"{file.name}{KEY}")
    names: dict[str, str] = {}
    for path in keys:
        for code, arm in (store.read_json(path) or {}).items():
            names.setdefault(code, str(arm))
    systems = {row.arm for row in imported.ratings}
    unknown = [name for name in systems if name not in names]
    if systems and len(unknown) == len(systems) and all(map(CODE.fullmatch, systems)):
        raise UsageError(
            f"The systems in {file} are codes, and no key beside it knows them; put the "
            f"{KEY} file that `ecg-llm rate export` wrote into the same folder."
        )
    return human.restored(imported, lambda name: names.get(name, name), unguarded)
