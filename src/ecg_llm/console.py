"""What a person sees in the terminal: progress with ETA, tables, sentences; figures as JSON."""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ecg_llm.contracts import Progress, Remark

if TYPE_CHECKING:
    from rich.console import Console

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Signs that would act on the terminal."""
PERIOD = 15.0
"""Seconds between two progress lines where there is no terminal."""


def say(text: str) -> None:
    """Write a sentence to standard error, where it does not disturb figures."""
    sys.stderr.write(CONTROL.sub("", text) + "\n")
    sys.stderr.flush()


def figures(value: object) -> None:
    """Write a value to standard output as one line of JSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def out(text: str) -> None:
    """Write a line of the answer to standard output, without signs that act on the terminal."""
    sys.stdout.write(CONTROL.sub("", text) + "\n")


def write(piece: str) -> None:
    """Write a piece of the answer to standard output at once."""
    sys.stdout.write(CONTROL.sub("", piece))
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Write a table to standard output; columns of numbers are aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for number, column in enumerate(columns):
        values = [row[number] for row in rows]
        right = bool(values) and all(isinstance(value, int | float) for value in values)
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    _console().print(made)


class Bar:
    """How far a step is: call it with (done, total); a remark stands beside."""

    def __init__(self, show: Progress, words: Remark) -> None:
        self._show = show
        self.remark = words

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` is done."""
        self._show(done, total)


@contextmanager
def progress(name: str) -> Iterator[Bar]:
    """Show how far a step is: a bar with ETA on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _lines(name)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None, remark="")
        yield Bar(
            lambda done, total: bar.update(task, completed=min(done, total), total=total),
            lambda words: bar.update(task, remark=words),
        )


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 0.4 s, 12 s, 3 min 20 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


def _lines(name: str) -> Bar:
    started = time.monotonic()
    last = [started]
    remark = [""]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if done and done < total and now - last[0] >= PERIOD:
            last[0] = now
            left = duration((now - started) / done * (total - done))
            said = f", {remark[0]}" if remark[0] else ""
            say(f"  {name}: {done:,} of {total:,}, about {left} left{said}")

    return Bar(show, lambda words: remark.__setitem__(0, words))


def _cell(value: object) -> str:
    from rich.markup import escape

    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    return escape(CONTROL.sub("", str(value)))


def _console() -> "Console":
    from rich.console import Console

    made = Console(soft_wrap=False, highlight=False)
    if not made.is_terminal:
        made.width = 120
    return made
