"""From files to scored answers: a flow of counts in which nothing goes missing, and its chart."""

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ecg_llm.records import (
    DOCUMENT_REASONS,
    QUESTION_REASONS,
    TESTED,
    Answer,
    Document,
    Draft,
    Passage,
    Question,
    Row,
    Score,
)
from ecg_llm.report.figures import INK, LINE, MUTED, WIDTH, Data, blank, svg

WRITTEN = "written"
"""The set of the questions that are made here."""
EXPERTS = "human"
"""The metric whose scores are ratings of people, not of answers made here."""
SPLITS: Mapping[str, str] = {"train": "for training", "val": "for validation", "none": "unused"}
FATES: Mapping[str, str] = {
    "error": "failed",
    "refused": "refused",
    "unparsed": "could not be read",
    "unjudged": "the judge gave no usable reply",
    "not_applicable": "metric does not apply",
}
"""What became of a row, by its status."""
LISTED = 5
"""Reasons that a side box names at most; the rest is added up."""

LEFT, RIGHT = 2.08, 2.28
"""Inches at which the boxes of the flow end, and those beside them start."""
LETTERS = 13.6
"""Characters to an inch of a line: fewer than most typefaces need at this size."""
LEADING, PAD, GAP = 0.152, 0.075, 0.2
"""Inches from line to line, of air in a box, and between boxes."""

R = TypeVar("R", bound=Row)


class Part(NamedTuple):
    """Some of the rows of a step, and what they have in common."""

    name: str
    rows: int


class Step(NamedTuple):
    """One kind of rows: `total` is what came in, `left` what went on, `lost` the difference."""

    total: int
    made: str
    """What the rows are: "files found" ..."""
    left: int
    kept: str
    """What those are that went on."""
    lost: tuple[Part, ...]
    """By reason, the most frequent first."""
    lost_as: str
    parts: tuple[Part, ...] = ()
    """What `total` consists of, where it has several sources."""
    left_parts: tuple[Part, ...] = ()
    """What `left` consists of."""
    how: str = ""
    """How the total comes about, in a formula."""
    follows: bool = True
    """Whether the rows were made from those of the step before."""


class Line(NamedTuple):
    """A line of a box; counts stand out, what they consist of is quiet."""

    text: str
    loud: bool = False


class Box(NamedTuple):
    """A box of the chart with the one beside it."""

    main: tuple[Line, ...]
    side: tuple[Line, ...] = ()
    leads: bool = False
    """Whether an arrow leads on to the next."""


def steps(
    documents: Sequence[Document],
    passages: Sequence[Passage],
    drafts: Sequence[Draft],
    questions: Sequence[Question],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    kinds: Sequence[str],
) -> list[Step]:
    """Return the steps that have rows, in the order of the chain.

    In each, the total is the number of rows of the table and equals what went on plus what was
    lost. `kinds` are the kinds of passages that the study uses.
    """
    made = [
        _files(documents),
        _passages(passages, kinds),
        _drafts(drafts),
        _questions(questions, bool(drafts)),
        _tested(questions),
        _answers(answers),
        _scores(scores, bool(answers)),
    ]
    return [
        step._replace(follows=step.follows and bool(before and before.total))
        for before, step in zip([None, *made], made, strict=False)
        if step.total
    ]


def chart(made: Sequence[Step]) -> str:
    """Return the flow as an SVG: what went on down the left, what was lost beside it."""
    figure = blank()
    boxes = _boxes(made)
    tops = [GAP / 2]
    for box in boxes:
        tops.append(tops[-1] + max(_height(box.main), _height(box.side)) + GAP)
    figure.set_layout_engine("none")
    figure.set_size_inches(WIDTH, tops[-1] - GAP / 2)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(tops[-1] - GAP / 2, 0))
    axes.axis("off")
    for box, top, below in zip(boxes, tops, tops[1:], strict=False):
        _draw(axes, 0.02, LEFT, top, box.main, MUTED)
        if box.side:
            _draw(axes, RIGHT, WIDTH - 0.02, top, box.side, LINE)
            level = top + PAD + LEADING / 2
            _arrow(axes, (LEFT, level), (RIGHT, level))
        if box.leads:
            _arrow(axes, (LEFT / 2, top + _height(box.main)), (LEFT / 2, below))
    return svg(figure, "Flow of counts from files to scores: what went on and what was lost, with "
               "the reason", data(made))  # fmt: skip


def data(made: Sequence[Step]) -> Data:
    """Return the flow as a table: every count of the chart, and the reasons it adds up."""
    rows: list[tuple[str, str, int]] = []
    for step in made:
        rows.append((step.made, "all", step.total))
        rows += [(step.made, f"of these {part.name}", part.rows) for part in step.parts]
        rows += [(step.made, f"{step.lost_as}: {part.name}", part.rows) for part in step.lost]
        rows.append((step.made, f"left: {step.kept}", step.left))
        rows += [(step.made, f"left, of these {part.name}", part.rows) for part in step.left_parts]
    return Data(("step", "what", "rows"), rows)


def _files(documents: Sequence[Document]) -> Step:
    read, unread = _parted(documents, lambda row: row.status in ("ok", "partial"))
    partial = sum(row.status == "partial" for row in read)
    return Step(
        len(documents), "files found", len(read), "files read",
        _parts(DOCUMENT_REASONS[r].meaning if (r := row.reason) in DOCUMENT_REASONS
               else r or row.status for row in unread),
        "not read", left_parts=(Part("read in part", partial),) if partial else (),
    )  # fmt: skip


def _passages(passages: Sequence[Passage], kinds: Sequence[str]) -> Step:
    used, aside = _parted(passages, lambda row: row.kind in kinds and not row.hidden)
    return Step(
        len(passages), "passages", len(used), "passages to use",
        _parts(f"{row.kind}{', unseen on the page' if row.hidden else ''}" for row in aside),
        "set aside",
    )  # fmt: skip


def _drafts(drafts: Sequence[Draft]) -> Step:
    usable, failed = _parted(drafts, lambda row: row.status == "ok")
    return Step(
        len(drafts), "drafts of questions", len(usable), "drafts came",
        _parts({"error": "failed", "truncated": "cut off"}.get(row.status, row.status)
               for row in failed),
        "no draft",
    )  # fmt: skip


def _questions(questions: Sequence[Question], drafted: bool) -> Step:
    kept, dropped = _parted(questions, lambda row: row.status == "kept")
    written = sum(row.set == WRITTEN for row in questions)
    imported = Counter(row.set for row in questions if row.set != WRITTEN)
    sources = [Part("written here", written)] if written else []
    sources += [Part(f"imported, {name}", rows) for name, rows in sorted(imported.items())]
    return Step(
        len(questions), "questions", len(kept), "questions kept",
        _parts(QUESTION_REASONS.get(row.reason, row.reason) or row.status for row in dropped),
        "dropped", parts=tuple(sources), follows=drafted,
    )  # fmt: skip


def _tested(questions: Sequence[Question]) -> Step:
    kept = [row for row in questions if row.status == "kept"]
    tested, others = _parted(kept, lambda row: row.split in TESTED)
    splits = Counter(row.split for row in tested)
    return Step(
        len(kept), "", len(tested), "tested",
        _parts(SPLITS[row.split] for row in others), "not tested",
        left_parts=tuple(Part(name, splits[name]) for name in TESTED if splits[name]),
    )  # fmt: skip


def _answers(answers: Sequence[Answer]) -> Step:
    given, failed = _parted(answers, lambda row: row.status in ("ok", "truncated"))
    cut = sum(row.status == "truncated" for row in given)
    return Step(
        len(answers), "answers asked for", len(given), "answers given",
        _parts(FATES[row.status] for row in failed), "no answer",
        left_parts=(Part("cut off at the limit of length", cut),) if cut else (),
        how=_product(answers),
    )  # fmt: skip


def _scores(scores: Sequence[Score], answered: bool) -> Step:
    valued, without = _parted(scores, lambda row: row.status == "scored")
    rated = sum(row.metric == EXPERTS for row in scores)
    parts = (Part("of answers", len(scores) - rated), Part("by experts", rated))
    return Step(
        len(scores), "scores", len(valued), "scores with a value",
        _parts("not rated" if row.metric == EXPERTS else FATES[row.status] for row in without),
        "without a value",
        parts=tuple(part for part in parts if part.rows) if rated else (),
        how="" if rated else "one an answer and metric", follows=answered,
    )  # fmt: skip


def _product(answers: Sequence[Answer]) -> str:
    """Return the number of answers as a product, where every arm was asked the same."""
    arms = {row.arm for row in answers}
    tasks = {(row.question_id, row.repeat, row.permutation) for row in answers}
    times = Counter(question for question, _, _ in tasks)
    if len(arms) * len(tasks) != len(answers):
        return f"{_count(len(arms), 'arm')}, {_count(len(times), 'question')}"
    terms = [
        _count(number, "question") + (f" {often} times" if often > 1 else "")
        for often, number in sorted(Counter(times.values()).items())
    ]
    asked = " + ".join(terms)
    return f"{_count(len(arms), 'arm')} × {f'({asked})' if len(terms) > 1 else asked}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _parted(rows: Iterable[R], goes_on: Callable[[R], bool]) -> tuple[list[R], list[R]]:
    """Return the rows that go on, and the others."""
    went: tuple[list[R], list[R]] = ([], [])
    for row in rows:
        went[not goes_on(row)].append(row)
    return went


def _parts(reasons: Iterable[str]) -> tuple[Part, ...]:
    counts = Counter(reasons)
    return tuple(Part(*item) for item in sorted(counts.items(), key=lambda i: (-i[1], i[0])))


def _boxes(made: Sequence[Step]) -> list[Box]:
    """Return a box for each step, headed by what came of the step before, and one for the end."""
    boxes: list[Box] = []
    waiting: list[Line] = []
    for step in made:
        if waiting and not step.follows:
            boxes.append(_box(waiting))
            waiting = []
        if step.made:
            waiting.append(Line(f"{step.total:,} {step.made}", loud=True))
        waiting += [_line(part) for part in step.parts]
        if step.how:
            waiting.append(Line(f"= {step.how}" if "×" in step.how else step.how))
        side = []
        if step.lost:
            side.append(Line(f"{step.total - step.left:,} {step.lost_as}", loud=True))
            side += [Line(f"{part.name}: {part.rows:,}") for part in _shortened(step.lost)]
        boxes.append(_box(waiting, side, leads=True))
        waiting = [Line(f"{step.left:,} {step.kept}", loud=True)]
        waiting += [_line(part) for part in step.left_parts]
    return [*boxes, _box(waiting)] if waiting else boxes


def _line(part: Part) -> Line:
    return Line(f"{part.rows:,} {part.name}")


def _shortened(parts: Sequence[Part]) -> list[Part]:
    if len(parts) <= LISTED + 1:
        return list(parts)
    return [*parts[:LISTED], Part("for other reasons", sum(p.rows for p in parts[LISTED:]))]


def _box(main: Sequence[Line], side: Sequence[Line] = (), *, leads: bool = False) -> Box:
    return Box(_wrapped(main, LEFT), _wrapped(side, WIDTH - RIGHT), leads)


def _wrapped(lines: Sequence[Line], width: float) -> tuple[Line, ...]:
    return tuple(
        Line(text, line.loud)
        for line in lines
        for text in textwrap.wrap(line.text, int((width - 2 * PAD) * LETTERS))
    )


def _height(lines: Sequence[Line]) -> float:
    return len(lines) * LEADING + 2 * PAD if lines else 0.0


def _draw(
    axes: Any, left: float, right: float, top: float, lines: Sequence[Line], edge: str
) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((left, top), right - left, _height(lines), fill=False, edgecolor=edge,
                  linewidth=0.9)
    )  # fmt: skip
    for number, line in enumerate(lines):
        axes.text(
            left + PAD, top + PAD + (number + 0.5) * LEADING, line.text, va="center_baseline",
            color=INK if line.loud else MUTED, fontweight="bold" if line.loud else "normal",
            fontsize=8.5, parse_math=False,
        )  # fmt: skip


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 0.9,
                                    "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8},
    )  # fmt: skip
