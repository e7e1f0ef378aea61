"""Experts' ratings: imported with every defect listed, and turned into scores."""

import csv
import difflib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from ecg_llm.contracts import UsageError
from ecg_llm.records import GRADES, Question, Rating, Score, digest

LABELS: tuple[str, ...] = get_args(Rating.model_fields["label"].annotation)
"""The four grades, worst first, and "unrated"."""
SHAPE = "Question, Answer, Model, " + ", ".join(grade.capitalize() for grade in GRADES)
NO_MARKS = frozenset({"", "-", "0", "false", "falsch", "n", "no", "nein"})
"""Cells that are no mark, in lower case; anything else is one."""
NO_MARK = "no mark"
SEVERAL = "several marks: "


class Imported(NamedTuple):
    """The ratings of a file, and what was wrong with it, one line of text a defect."""

    ratings: list[Rating]
    duplicates_dropped: int
    """Surplus rows that repeat another one."""
    duplicates: list[str]
    conflicts: list[str]
    """Rows that contradict each other: none of them is among the ratings."""
    double_marked: list[str]
    """Rows with several marks: among the ratings as "unrated"."""
    missing_mark: list[str]
    """Rows without a mark, a question or a system: among the ratings as "unrated"."""


class _Line(NamedTuple):
    number: int
    rating: Rating


def read_ratings(path: Path, set_name: str) -> Imported:
    """Return the ratings of a CSV file in the paper's shape, or of our own JSON lines.

    CSV columns go by position: question, answer, system and one column of marks for each grade,
    worst first; then, by name and optional, rater, occasion and note. Cells are stripped,
    anything but a blank or a "no" is a mark. The delimiter is a comma, semicolon or tab.

    Args:
        path: The file.
        set_name: Name of the set of questions, for the ratings and the lists of defects.

    Raises:
        UsageError: the file cannot be read, is of another shape, or has its columns of marks
            in another order.
    """
    text = _text(path)
    if text.lstrip().startswith("{"):
        lines = list(_json_lines(path, text))
    else:
        lines = list(_csv_lines(path, text, set_name))
    if not lines:
        raise UsageError(f"{path} holds no ratings; its columns should be {SHAPE}.")
    return _sorted_out(lines)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    if b"\0" in data:
        raise UsageError(f"{path} is not a text file; save the sheet as CSV (UTF-8).")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")  # what spreadsheets in Western Europe write


def _json_lines(path: Path, text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield _Line(number, Rating.model_validate_json(line))
            except ValidationError as error:
                problem = error.errors()[0]
                where = ".".join(str(place) for place in problem["loc"])
                raise UsageError(
                    f"{path}, line {number} is not a rating: {where} {problem['msg']}."
                ) from error


def _csv_lines(path: Path, text: str, set_name: str) -> Iterator[_Line]:
    head = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    named: dict[str, int] = {}
    before, first = 0, True
    try:
        for cells in reader:
            number, before = before + 1, reader.line_num
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if first:
                first = False
                if len(cells) < 7:
                    raise UsageError(f"{path} has {len(cells)} columns, not the seven {SHAPE}.")
                if sum(len(cell) > len("falsch") for cell in cells[3:7]) >= 2:
                    _check_order(path, cells[3:7])
                    named = {cell.lower(): i for i, cell in enumerate(cells) if i >= 7}
                    continue
            yield _Line(number, _rating(cells, named, set_name))
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num} is not CSV: {error}.") from error


def _check_order(path: Path, heads: Sequence[str]) -> None:
    """Refuse a file whose columns of marks are named, but not worst first."""
    for head, grade in zip(heads, GRADES, strict=False):
        near = difflib.get_close_matches(head.lower(), GRADES, n=1, cutoff=0.8)
        if near and near[0] != grade:
            raise UsageError(
                f"{path}: the column {head!r} stands where {grade!r} should; "
                f"the columns should be {SHAPE}."
            )


def _rating(cells: Sequence[str], named: dict[str, int], set_name: str) -> Rating:
    def cell(place: int | None) -> str:
        return cells[place] if place is not None and place < len(cells) else ""

    question, answer, arm = cell(0), cell(1), cell(2)
    marks = [
        grade for place, grade in enumerate(GRADES, start=3) if cell(place).lower() not in NO_MARKS
    ]
    label, note = (marks[0], cell(named.get("note"))) if len(marks) == 1 else ("unrated", NO_MARK)
    if len(marks) > 1:
        note = SEVERAL + ", ".join(marks)
    if not question or not arm:
        label, note = "unrated", f"no {'question' if not question else 'system'}"
    occasion = cell(named.get("occasion"))
    return Rating.model_validate(
        {
            "set": set_name,
            "question": question,
            "arm": arm,
            "rater": cell(named.get("rater")),
            "occasion": int(occasion) if occasion.isdecimal() else 0,
            "answer": answer,
            "label": label,
            "note": note,
        }
    )


def _sorted_out(lines: Iterable[_Line]) -> Imported:
    """Return the ratings without repeated and contradicting rows, and all defects."""
    by_key: dict[tuple[Any, ...], list[_Line]] = defaultdict(list)
    for line in lines:
        by_key[line.rating.key].append(line)
    found = Imported([], 0, [], [], [], [])
    dropped = 0
    for same in by_key.values():
        first = same[0].rating
        if any(line.rating != first for line in same):
            found.conflicts.append(_named(same))
            continue
        if len(same) > 1:
            dropped += len(same) - 1
            found.duplicates.append(_named(same))
        found.ratings.append(first)
        if first.label == "unrated":
            several = first.note.startswith(SEVERAL)
            listed = found.double_marked if several else found.missing_mark
            listed.append(f"{_named(same)} ({first.note or NO_MARK})")
    return found._replace(duplicates_dropped=dropped)


def _named(same: Sequence[_Line]) -> str:
    rating = same[0].rating
    numbers = ", ".join(str(line.number) for line in same)
    plural = "s" if len(same) > 1 else ""
    return f"{rating.set}, line{plural} {numbers}: {rating.arm} | {rating.question}"


def summary(imported: Sequence[Imported]) -> dict[str, Any]:
    """Return counts of labels by arm and all defects, as `rate import --json` prints them."""
    arms: dict[str, Counter[str]] = defaultdict(Counter)
    for one in imported:
        for rating in one.ratings:
            arms[rating.arm][rating.label] += 1
    return {
        "arms": {arm: {label: arms[arm][label] for label in LABELS} for arm in sorted(arms)},
        "duplicates_dropped": sum(one.duplicates_dropped for one in imported),
        "duplicates": [line for one in imported for line in one.duplicates],
        "conflicts": [line for one in imported for line in one.conflicts],
        "double_marked": [line for one in imported for line in one.double_marked],
        "missing_mark": [line for one in imported for line in one.missing_mark],
    }


def question_id(rating: Rating, questions: Sequence[Question]) -> str:
    """Return the id of the study's open question with this text, or one made from the text."""
    return question_ids([rating], questions)[0]


def question_ids(ratings: Sequence[Rating], questions: Sequence[Question]) -> list[str]:
    """Return question_id of each rating, reading the questions once."""
    known: dict[str, str] = {}
    for question in questions:
        if question.kind == "open" and question.status == "kept":
            known.setdefault(_folded(question.question), question.question_id)
    return [
        known.get(_folded(rating.question)) or "rating:" + digest(rating.set, rating.question)
        for rating in ratings
    ]


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def human_scores(ratings: Sequence[Rating], questions: Sequence[Question]) -> list[Score]:
    """Return one score of metric "human" a rating; arms keep the raters' names.

    An unrated answer is "unparsed", so that it stays counted as missing. A nameless rater goes
    by the name of the set; whoever marks the same answer again does so on a later occasion.
    """
    scores: list[Score] = []
    taken: set[tuple[Any, ...]] = set()
    for rating, question in zip(ratings, question_ids(ratings, questions), strict=True):
        value = GRADES.get(rating.label)
        score = Score(
            question_id=question,
            arm=rating.arm,
            metric="human",
            rater=rating.rater or rating.set,
            occasion=rating.occasion,
            value=value,
            label=rating.label,
            note=rating.note,
            status="unparsed" if value is None else "scored",
        )
        while score.key in taken:
            score = score.model_copy(update={"occasion": score.occasion + 1})
        taken.add(score.key)
        scores.append(score)
    return scores
