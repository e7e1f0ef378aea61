"""People's corrections of questions: what a sheet changed, and the questions with it applied."""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ecg_llm.questions.checking.verify import OPTIONS, SET, option_problem
from ecg_llm.questions.exchange.cells import CONTROL
from ecg_llm.questions.exchange.sheets import LOCKED, OPTION, TEXTS, SheetRow, told
from ecg_llm.questions.words import correct_option, quoted_span
from ecg_llm.records import LETTERS, QUESTION_REASONS, Passage, Question, Revision, digest

HELD = ("filtered", "repeats_import", "near_duplicate_of_train", "shared_evidence")
"""Reasons that are no matter of a question's own text, and that no person's word lifts."""
EXPORT_ANEW = "export the questions anew and correct them there"


class Outcome(NamedTuple):
    """What a sheet brought; a row with a problem changes nothing."""

    revisions: list[Revision]
    problems: list[str]
    """One sentence a refused row: its line, why, what to do."""
    unchanged: int
    """Rows that say what the question says."""
    ignored: tuple[str, ...]
    """Columns that no question has."""


def file_name(by: str) -> str:
    """Return the name, without suffix, of the file that a person's revisions are kept in."""
    return re.sub(r"[^\w-]+", "-", by.lower()).strip("-_") or digest(by)


def revisions(
    rows: Sequence[SheetRow],
    questions: Sequence[Question],
    by: str,
    at: str,
    earlier: Sequence[Revision],
    passages: Sequence[Passage],
) -> Outcome:
    """Return what was changed in a sheet, as rows to be kept and applied, and what is refused.

    White space and line ends are no change. A cell counts as changed if it says something else
    than the question said when the sheet was made and than it says now. If the key or an option
    changes, both columns are noted, since the order of options is not lasting; if a question that
    stands in the sheet as kept changes, "status" is noted too: a person wants it so.

    Args:
        rows: The sheet.
        questions: The study's questions as last made.
        by: Who changed them.
        at: When the sheet was read, ISO 8601.
        earlier: All revisions that the study has, also those not yet applied to `questions`.
        passages: What the questions rest on, for evidence.
    """
    numbers = {row.question_id: row.revision for row in questions}
    trail: Mapping[str, list[Revision]] = defaultdict(list)
    for revision in sorted(earlier, key=lambda revision: revision.key):
        trail[revision.question_id].append(revision)
    pending = [r for r in earlier if r.revision > numbers.get(r.question_id, r.revision)]
    current = {row.question_id: row for row in applied(questions, pending)[0]}
    texts = {passage.passage_id: passage.text for passage in passages}
    lines: Mapping[str, list[int]] = defaultdict(list)
    for row in rows:
        lines[row.cells.get("question_id", "")].append(row.line)
    made: list[Revision] = []
    problems: list[str] = []
    unchanged = 0
    for row in rows:
        name = row.cells.get("question_id", "")
        found: dict[str, tuple[str, str]] | str = _refused(row, lines[name], current)
        if not found:
            question = current[name]
            found = _changes(row, question, trail[name], texts.get(question.passage_id, ""))
        if isinstance(found, str):
            problems.append(f"line {row.line}, {name or 'no question'}: {found}.")
        elif found:
            note = row.cells.get("note", "")
            latest = max([current[name].revision, *(r.revision for r in trail[name])])
            made += [
                Revision(
                    question_id=name, revision=latest + 1, column=column, before=before,
                    after=after, by=by, at=at, note="" if column == "note" else note,
                )
                for column, (before, after) in found.items()
            ]  # fmt: skip
        else:
            unchanged += 1
    known = {*LOCKED, *TEXTS, "answer", "status", "note"}
    columns = dict.fromkeys(name for row in rows for name in row.cells)
    ignored = [name for name in columns if name not in known and not _option_column(name)]
    return Outcome(made, problems, unchanged, tuple(ignored))


def _option_column(name: str) -> bool:
    letter = name.removeprefix(OPTION).upper()
    return name.startswith(OPTION) and len(letter) == 1 and letter in LETTERS


def _refused(row: SheetRow, lines: Sequence[int], current: Mapping[str, Question]) -> str:
    name = row.cells.get("question_id", "")
    if row.problem:
        return f"{row.problem}; compare it with the sheet as exported"
    if not name:
        return "question_id is empty; new questions come in through questions.imports"
    if len(lines) > 1:
        return f"it stands in lines {', '.join(map(str, lines))}; keep one of them"
    if name not in current:
        return "the study has no such question; leave question_id as exported"
    if not row.cells.get("revision", "").isdecimal():
        return "revision is no number; leave it as exported"
    return ""


def _changes(
    row: SheetRow, question: Question, history: Sequence[Revision], passage: str
) -> dict[str, tuple[str, str]] | str:
    """Return before and after of every changed column, or why the row is refused."""
    said = told(row, question)
    if isinstance(said, str):
        return said
    number = int(row.cells["revision"])
    if number > question.revision:
        known = question.revision
        return f"the sheet knows revision {number}, the study only {known}; {EXPORT_ANEW}"
    later = [
        revision
        for revision in history
        if number < revision.revision <= question.revision and revision.column != "note"
    ]
    then = _with(question, {r.column: r.before for r in reversed(later)})
    changed = {
        column: value
        for column, value in said.items()
        if _differs(said, column, then) and _differs(said, column, question)
    }
    comment = row.cells.get("note", "")
    if changed and later:
        texts = "; ".join(
            f"{column} is now {_said(question, column)!r}, in the sheet {value!r}"
            for column, value in changed.items()
        )
        people = ", ".join(dict.fromkeys(revision.by for revision in later))
        return f"{people} changed it after the sheet was made ({texts}); {EXPORT_ANEW}"
    if not changed:
        new = comment and all(comment not in (r.note, r.after) for r in later)
        return {"note": (question.note, comment)} if new else {}
    return _validated(question, changed, passage)


def _differs(said: Mapping[str, str], column: str, question: Question) -> bool:
    """Return whether a row says something else than this question; options have no order."""
    if column in ("options", "answer"):
        return _key_of(question, said) != _key_of(question, {})
    return _folded(said[column]) != _folded(_said(question, column))


def _validated(
    question: Question, changed: Mapping[str, str], passage: str
) -> dict[str, tuple[str, str]] | str:
    after = _with(question, changed)
    right = correct_option(question)
    if "reference" not in changed and right and _folded(question.reference) == _folded(right):
        after = after.model_copy(update={"reference": correct_option(after) or after.reference})
    if after.status not in ("kept", "dropped"):
        return f"status is {after.status!r}; write kept or dropped"
    if changed.get("status") == "kept" and question.reason in HELD:
        return f"it cannot be kept: {QUESTION_REASONS[question.reason]}"
    if (changed.keys() - {"status"} or after.status == "kept") and (wrong := standing(after)):
        return wrong
    if "evidence" in changed:
        if not passage:
            return "it has no passage that evidence could be quoted from; leave evidence as it is"
        span = quoted_span(after.evidence, passage)
        if not span:
            return "evidence is not in the passage; quote at least three words as they stand there"
        after = after.model_copy(update={"evidence": span})
    columns = [*TEXTS, *(("options", "answer") if changed.keys() & {"options", "answer"} else ())]
    found = {
        column: (_said(question, column), _said(after, column))
        for column in columns
        if column in ("options", "answer") or _said(question, column) != _said(after, column)
    }
    if (found and after.status == "kept") or "status" in changed:
        found["status"] = (question.status, after.status)
    return found


def _said(question: Question, column: str) -> str:
    if column == "options":
        return json.dumps(question.options, ensure_ascii=False)
    return str(getattr(question, column))


def _with(question: Question, values: Mapping[str, str]) -> Question:
    update: dict[str, object] = dict(values)
    if "options" in values:
        update["options"] = tuple(json.loads(values["options"]))
    return question.model_copy(update=update)


def standing(row: Question) -> str:
    """Return what keeps a question from being asked whatever a person says, or "".

    These checks hold for corrected questions too: there is a question and an answer, options are
    distinct and of the right number, one of them is the key.
    """
    if not row.question:
        return "the question is empty; write one"
    if row.kind == "open":
        return "" if row.reference else "the reference answer is empty; write one"
    count = OPTIONS if row.set == SET else len(row.options)
    if len(row.options) != count:
        return f"it has {len(row.options)} options, and questions written here have {count}"
    if problem := option_problem(row.options):
        return f"{QUESTION_REASONS[problem.reason]} ({problem.note}); correct the options"
    if len(row.answer) != 1 or row.answer not in LETTERS[: len(row.options)]:
        return f"answer is {row.answer!r}; write the letter of one of its options"
    return ""


def applied(
    questions: Sequence[Question], made: Sequence[Revision]
) -> tuple[list[Question], list[str]]:
    """Return the questions as people corrected them, in order, and the corrections that do not fit.

    What one person changed in one question at one time is applied whole or not at all: not where
    the question is gone, or no longer says what the person read, or has been changed by somebody
    else in the same place of the trail. A question that a person keeps is kept whatever the
    automatic checks found, but for HELD and `standing`; one that a person drops is "rejected".
    """
    groups: Mapping[str, dict[tuple[int, str, str], list[Revision]]] = defaultdict(dict)
    for revision in sorted(made, key=lambda r: (r.question_id, r.revision, r.at, r.by, r.column)):
        group = (revision.revision, revision.at, revision.by)
        groups[revision.question_id].setdefault(group, []).append(revision)
    rows = {row.question_id: row for row in questions}
    problems: list[str] = []
    for name, changes in groups.items():
        for (number, at, by), columns in changes.items():
            row = rows.get(name)
            result = _applied(row, columns, number) if row else "the question no longer exists"
            if isinstance(result, str):
                what = f"what {by} changed ({at}) is not applied"
                problems.append(f"{name}: {what}, because {result}; {EXPORT_ANEW}.")
            else:
                rows[name] = result
    return [rows[row.question_id] for row in questions], problems


def _applied(row: Question, group: Sequence[Revision], number: int) -> Question | str:
    if number <= row.revision:
        return f"revision {row.revision} by {row.revised_by} stands in its place"
    before = {revision.column: revision.before for revision in group}
    after = {revision.column: revision.after for revision in group}
    if len(after) < len({(revision.column, revision.after) for revision in group}):
        return "it says two things of one column"
    if unknown := after.keys() - {*TEXTS, "options", "answer", "status", "note"}:
        return f"{min(unknown)} is no column that can be corrected"
    for column in TEXTS:
        if column in after and _folded(before[column]) != _folded(_said(row, column)):
            return f"{column} now reads {_said(row, column)!r}, and then read {before[column]!r}"
    try:
        if after.keys() & {"options", "answer"} and _key_of(row, before) != _key_of(row, {}):
            return f"the options now are {list(row.options)}, key {row.answer}"
        changed = _with(row, {column: text for column, text in after.items() if column != "status"})
    except (ValueError, TypeError) as error:
        return f"its options cannot be read ({error})"
    if after.keys() & {"question", "options", "answer", "reference"}:
        changed = changed.model_copy(update={"flags": ()})  # they are about another text
    changed = _with_status(changed, after.get("status", row.status), group[0].note)
    if changed.status == "kept" and (wrong := standing(changed)):
        return wrong
    return changed.model_copy(update={"revision": number, "revised_by": group[0].by})


def _key_of(row: Question, instead: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the options in no order, and the right one, with these columns in place of the row's.

    The order of the options of a written question is dealt anew at every run.
    """
    options = json.loads(instead["options"]) if "options" in instead else list(row.options)
    letter = instead.get("answer", row.answer)
    place = LETTERS.find(letter) if letter else -1
    right = options[place] if 0 <= place < len(options) else ""
    return sorted(map(_folded, options)), _folded(right)


def _folded(text: str) -> str:
    """Return a text without what a spreadsheet changes or cannot hold: white space, controls."""
    return " ".join(CONTROL.sub("", unicodedata.normalize("NFC", text)).split())


def _with_status(row: Question, status: str, note: str) -> Question:
    if status == "dropped":
        if row.status == "dropped" and row.reason != "rejected":
            return row
        return row.model_copy(update={"status": "dropped", "reason": "rejected", "note": note})
    if row.status == "kept" or row.reason in HELD:
        return row
    return row.model_copy(update={"status": "kept", "reason": "", "note": ""})
