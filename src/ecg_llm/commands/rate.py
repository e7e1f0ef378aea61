"""Open answers as a blinded, shuffled sheet for raters, in the shape that `rate import` reads."""

import csv
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecg_llm import config, steps, store
from ecg_llm.records import GRADES, Answer, Question, digest

if TYPE_CHECKING:
    from ecg_llm.score.human import Imported


class Sheet(NamedTuple):
    """What was written: the number of answers and the file that names the arms."""

    rows: int
    key: Path


def export(folder: Path, study: config.Study, file: Path) -> Sheet:
    """Write question, answer and a code for the arm, with empty columns for the marks.

    Questions are in order, answers of a question shuffled with the study's seed; the arm behind
    each code is in <file>.key.json, which raters do not get. Codes differ from question to
    question, so that an arm cannot be recognised.
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
    writer.writerow(["Question", "Answer", "Model", *(grade.capitalize() for grade in GRADES)])
    key = {}
    for row in answers:
        code = digest(study.seed, row.question_id, row.arm, length=8)
        key[code] = row.arm
        writer.writerow([questions[row.question_id].question, row.text, code, "", "", "", ""])
    store.write_text(file, text.getvalue())
    key_file = file.with_name(file.name + ".key.json")
    store.write_json(key_file, key)
    return Sheet(len(answers), key_file)


def unblinded(imported: "Imported", file: Path) -> "Imported":
    """Return imported ratings with the arms' names, where the sheet's key lies beside it."""
    key = store.read_json(file.with_name(file.name + ".key.json"))
    if not key:
        return imported
    named = [row.model_copy(update={"arm": key.get(row.arm, row.arm)}) for row in imported.ratings]
    return imported._replace(ratings=named)
