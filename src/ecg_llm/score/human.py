"""Experts' ratings: imported with every defect listed, and turned into scores."""

import csv
import difflib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
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
WHOLE = re.compile(r"(\d{1,9})([.,]0+)?")
"""A whole number, also as spreadsheets save it: 1.0."""


class Defect(NamedTuple):
    """What is wrong with rows of a file; as text, one line that names the place first."""

    set: str
    lines: tuple[int, ...]
    """Of the file, 1-based; none where a row is absent."""
    arm: str
    question: str
    what: str = ""

    @property
    def place(self) -> str:
        """The file, its lines and the system, without any text of question or answer."""
        numbers = ", ".join(str(number) for number in self.lines)
        where = f", line{'s' if len(self.lines) > 1 else ''} {numbers}" if numbers else ""
        return f"{self.set}{where}: {self.arm}"

    def __str__(self) -> str:
        return f"{self.place} | {self.question}" + (f" ({self.what})" if self.what else "")


class Imported(NamedTuple):
    """The ratings of a file, and what was wrong with it."""

    ratings: list[Rating]
    duplicates_dropped: int
    """Surplus rows that repeat another one."""
    duplicates: list[Defect]
    conflicts: list[Defect]
    """Rows that contradict each other: none of them is among the ratings."""
    double_marked: list[Defect]
    """Rows with several marks: among the ratings as "unrated"."""
    missing_mark: list[Defect]
    """Rows without a mark, a question or a system: among the ratings as "unrated"."""
    remarks: list[str]
    """What was overlooked in the file: misspelt heads, stray blanks, occasions not read."""
    lines: dict[tuple[str, str], list[int]]
    """(set, question): the lines that are about it."""


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
    remarks: list[str] = []
    if text.lstrip().startswith("{"):
        lines = list(_json_lines(path, text))
    else:
        lines = list(_csv_lines(path, text, set_name, remarks))
    if not lines:
        raise UsageError(f"{path} holds no ratings; its columns should be {SHAPE}.")
    return _sorted_out(lines)._replace(remarks=remarks)


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


def _csv_lines(path: Path, text: str, set_name: str, remarks: list[str]) -> Iterator[_Line]:
    head = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    named: dict[str, int] = {}
    blanks: Counter[bool] = Counter()
    unread: dict[str, list[int]] = {}
    before, first = 0, True
    try:
        for raw in reader:
            number, before = before + 1, reader.line_num
            cells = [cell.strip() for cell in raw]
            if not any(cells):
                continue
            if first:
                first = False
                if len(cells) < 7:
                    raise UsageError(f"{path} has {len(cells)} columns, not the seven {SHAPE}.")
                if sum(len(cell) > len("falsch") for cell in cells[3:7]) >= 2:
                    remarks += _misspelt(path, set_name, cells[3:7])
                    named = {cell.lower(): i for i, cell in enumerate(cells) if i >= 7}
                    continue
            blanks.update(
                bool(cell) for cell, was in zip(cells[3:7], raw[3:7], strict=True) if cell != was
            )
            rating, occasion = _rating(cells, named, set_name)
            if occasion and not WHOLE.fullmatch(occasion):
                unread.setdefault(occasion, []).append(number)
            yield _Line(number, rating)
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num} is not CSV: {error}.") from error
    places = [(blanks[True], "around", "mark"), (blanks[False], "in", "empty cell")]
    if told := [f"{where} {n} {what}{'s' * (n > 1)}" for n, where, what in places if n]:
        remarks.append(f"{set_name}: blanks {' and '.join(told)} were overlooked")
    for occasion, numbers in unread.items():
        where = f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        remarks.append(
            f"{set_name}, {where}: occasion {occasion!r} is no whole number from 0 on and was read "
            "as 0"
        )


def _misspelt(path: Path, set_name: str, heads: Sequence[str]) -> Iterator[str]:
    """Yield what is odd about the heads of the marks; refuse them if they are not worst first."""
    for place, (head, grade) in enumerate(zip(heads, GRADES, strict=False), start=4):
        near = difflib.get_close_matches(head.lower(), GRADES, n=1, cutoff=0.8)
        if near and near[0] != grade:
            raise UsageError(
                f"{path}: the column {head!r} stands where {grade!r} should; "
                f"the columns should be {SHAPE}."
            )
        if head.lower() != grade:
            yield f"{set_name}: column {place} is headed {head!r} and was read as {grade!r}"


def _rating(cells: Sequence[str], named: dict[str, int], set_name: str) -> tuple[Rating, str]:
    """Return the rating of a row, and the occasion as it was written."""

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
    whole = WHOLE.fullmatch(occasion)
    rating = Rating.model_validate(
        {
            "set": set_name,
            "question": question,
            "arm": arm,
            "rater": cell(named.get("rater")),
            "occasion": int(whole[1]) if whole else 0,
            "answer": answer,
            "label": label,
            "note": note,
        }
    )
    return rating, occasion


def _sorted_out(lines: Iterable[_Line]) -> Imported:
    """Return the ratings without repeated and contradicting rows, and all defects."""
    by_key: dict[tuple[Any, ...], list[_Line]] = defaultdict(list)
    for line in lines:
        by_key[line.rating.key].append(line)
    found = Imported([], 0, [], [], [], [], [], {})
    dropped = 0
    for same in by_key.values():
        first = same[0].rating
        numbers = tuple(line.number for line in same)
        found.lines.setdefault((first.set, first.question), []).extend(numbers)
        here = Defect(first.set, numbers, first.arm, first.question)
        if any(line.rating != first for line in same):
            found.conflicts.append(here)
            continue
        if len(same) > 1:
            dropped += len(same) - 1
            found.duplicates.append(here)
        found.ratings.append(first)
        if first.label == "unrated":
            several = first.note.startswith(SEVERAL)
            listed = found.double_marked if several else found.missing_mark
            listed.append(here._replace(what=first.note or NO_MARK))
    return found._replace(duplicates_dropped=dropped)


def restored(
    imported: Imported, system: Callable[[str], str], text: Callable[[str], str]
) -> Imported:
    """Return the same with each system's name and each text as these functions give them back."""

    def whole(defects: Sequence[Defect]) -> list[Defect]:
        return [row._replace(arm=system(row.arm), question=text(row.question)) for row in defects]

    return imported._replace(
        ratings=[
            row.model_copy(
                update={
                    "arm": system(row.arm),
                    "question": text(row.question),
                    "answer": text(row.answer),
                }
            )
            for row in imported.ratings
        ],
        duplicates=whole(imported.duplicates),
        conflicts=whole(imported.conflicts),
        double_marked=whole(imported.double_marked),
        missing_mark=whole(imported.missing_mark),
        lines={(name, text(asked)): numbers for (name, asked), numbers in imported.lines.items()},
    )


def incomplete(imported: Sequence[Imported]) -> list[Defect]:
    """Return the questions that lack systems which others of their set have, one a question.

    `arm` lists the systems without any row, whoever rated; unrated and refused rows are rows.
    """
    had: dict[tuple[str, str], set[str]] = defaultdict(set)
    wording: dict[tuple[str, str], str] = {}
    lines: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in imported:
        rows = [(row.set, row.question, row.arm) for row in one.ratings]
        rows += [(row.set, row.question, row.arm) for row in one.conflicts]
        for name, question, arm in rows:
            if question and arm:
                had[name, _folded(question)].add(arm)
                wording.setdefault((name, _folded(question)), question)
        for (name, question), numbers in one.lines.items():
            lines[name, _folded(question)] += numbers
    found = []
    for (name, question), rated in had.items():
        systems = set().union(*(arms for (other, _), arms in had.items() if other == name))
        if lacking := sorted(systems - rated):
            what = f"rated for {len(rated)} of {len(systems)} systems"
            numbers = sorted(lines[name, question])
            found.append(
                Defect(
                    name, tuple(numbers), "without " + "; ".join(lacking),
                    wording[name, question], what,
                )
            )  # fmt: skip
    return found


def summary(imported: Sequence[Imported]) -> dict[str, Any]:
    """Return counts of labels by arm and all defects, as `rate import --json` prints them.

    "arms" counts over all files, "sets" in each set; defects are lines of text.
    """
    arms: dict[str, Counter[str]] = defaultdict(Counter)
    sets: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for one in imported:
        for rating in one.ratings:
            arms[rating.arm][rating.label] += 1
            sets[rating.set][rating.arm][rating.label] += 1
    return {
        "arms": _counted(arms),
        "duplicates_dropped": sum(one.duplicates_dropped for one in imported),
        "duplicates": [str(defect) for one in imported for defect in one.duplicates],
        "conflicts": [str(defect) for one in imported for defect in one.conflicts],
        "double_marked": [str(defect) for one in imported for defect in one.double_marked],
        "missing_mark": [str(defect) for one in imported for defect in one.missing_mark],
        "incomplete": [str(defect) for defect in incomplete(imported)],
        "remarks": [remark for one in imported for remark in one.remarks],
        "sets": {name: _counted(of_arm) for name, of_arm in sets.items()},
    }


def _counted(arms: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {arm: {label: arms[arm][label] for label in LABELS} for arm in sorted(arms)}


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
        known.get(_folded(rating.question))
        or "rating:" + digest(rating.set, _folded(rating.question))
        for rating in ratings
    ]


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def human_scores(
    ratings: Sequence[Rating],
    questions: Sequence[Question],
    names: Mapping[str, str] = MappingProxyType({}),
) -> list[Score]:
    """Return one score of metric "human" a rating.

    An unrated answer is "unparsed", so that it stays counted as missing. A nameless rater goes
    by the name of the set; whoever marks the same answer again does so on a later occasion.

    Args:
        ratings: as imported.
        questions: of the study; a rating of any other question has an id made from its text.
        names: the raters' name of a system -> the arm it is; others keep their names.

    Raises:
        UsageError: names of one arm are of systems that were rated side by side: on a question
            one rater marked both, or what they answered differs.
    """
    ids = question_ids(ratings, questions)
    _refuse_side_by_side(ratings, ids, names)
    scores: list[Score] = []
    taken: set[tuple[Any, ...]] = set()
    for rating, question in zip(ratings, ids, strict=True):
        value = GRADES.get(rating.label)
        score = Score(
            question_id=question,
            arm=names.get(rating.arm, rating.arm),
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


def shared_arms(ratings: Sequence[Rating], names: Mapping[str, str]) -> list[str]:
    """Return a line for each arm whose ratings stand under several of the raters' names."""
    under: dict[str, set[str]] = defaultdict(set)
    for rating in ratings:
        under[names.get(rating.arm, rating.arm)].add(rating.arm)
    return [
        f"The marks of {arm} stand under several names: {', '.join(sorted(systems))}"
        for arm, systems in sorted(under.items())
        if len(systems) > 1
    ]


def _refuse_side_by_side(
    ratings: Sequence[Rating], ids: Sequence[str], names: Mapping[str, str]
) -> None:
    had: dict[tuple[str, str], list[Rating]] = defaultdict(list)
    for rating, question in zip(ratings, ids, strict=True):
        arm = names.get(rating.arm, rating.arm)
        for other in had[question, arm]:
            by_one = (rating.rater or rating.set) == (other.rater or other.set)
            if rating.arm != other.arm and (
                by_one or _folded(rating.answer) != _folded(other.answer)
            ):
                raise UsageError(
                    f"scores.raters makes {other.arm!r} and {rating.arm!r} one arm, {arm}, but "
                    "both were rated on the same question; give each an arm of its own."
                )
        had[question, arm].append(rating)
