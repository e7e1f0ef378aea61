"""Map a function over items in recycled worker processes, with a time and a memory limit each."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, NamedTuple

import psutil

from ecg_llm import privacy
from ecg_llm.contracts import Progress

POLL = 0.1
"""Seconds between two looks at the workers' time and memory: a bomb fills some 200 MiB in it."""
RECYCLE = 256
"""Items after which a worker is replaced, so that what a library leaks stays bounded."""

Failure = Literal["", "timeout", "memory", "crashed", "error"]


class Outcome(NamedTuple):
    """What became of one item."""

    item: Any
    value: Any
    """The function's result; None after a failure."""
    failure: Failure = ""
    note: str = ""


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    index: int | None = None
    started: float = 0.0
    finished: int = field(default=0)


def run(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    workers: int = 0,
    timeout: float = 300,
    memory_mb: int = 4096,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Yield the outcome of every item, in order of completion; nothing is lost or raised.

    A worker that dies, hangs longer than `timeout` seconds or holds more than `memory_mb` MiB
    is replaced and its item comes back with the failure. `function` must be importable by name.

    Args:
        function: A module-level function of one item.
        items: What to map over; must be picklable.
        workers: Processes; 0 means one a core.
        timeout: Seconds for one item.
        memory_mb: Resident memory of a worker and the programs it starts.
        progress: Called with (done, total) after each item.
    """
    context = multiprocessing.get_context("spawn")
    queue = list(range(len(items)))[::-1]
    count = min(workers or os.cpu_count() or 1, len(items))
    pool = [_start(context, function) for _ in range(count)]
    done = 0
    try:
        while done < len(items):
            for slot, worker in enumerate(pool):
                if worker.index is None and queue:
                    if worker.finished >= RECYCLE or not worker.process.is_alive():
                        _stop(worker)
                        worker = pool[slot] = _start(context, function)
                    _give(worker, queue.pop(), items)
            wait([worker.pipe for worker in pool if worker.index is not None], POLL)
            for slot, worker in enumerate(pool):
                if worker.index is None:
                    continue
                outcome = _outcome(worker, items, timeout, memory_mb)
                if outcome is None:
                    continue
                if outcome.failure in ("timeout", "memory", "crashed"):
                    _stop(worker)
                    pool[slot] = _start(context, function)
                worker.index = None
                worker.finished += 1
                done += 1
                yield outcome
                if progress:
                    progress(done, len(items))
    finally:
        for worker in pool:
            _stop(worker)


def _start(context: Any, function: Callable[[Any], Any]) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, index: int, items: Sequence[Any]) -> None:
    worker.index = index
    worker.started = time.monotonic()
    try:
        worker.pipe.send(items[index])
    except (BrokenPipeError, ConnectionError):
        worker.process.kill()  # found dead by the next look, which names the item


def _stop(worker: _Worker) -> None:
    """End a worker, and the programs that it started."""
    started = _family(worker)[1:]
    worker.process.kill()
    worker.process.join()
    for program in started:
        with suppress(psutil.Error):
            program.kill()
    worker.process.close()
    worker.pipe.close()


def _outcome(
    worker: _Worker, items: Sequence[Any], timeout: float, memory_mb: int
) -> Outcome | None:
    """Return what the worker's item came to, or None while it is still at work."""
    assert worker.index is not None
    item = items[worker.index]
    if worker.pipe.poll():
        try:
            failure, value = worker.pipe.recv()
        except (EOFError, ConnectionError):
            return Outcome(item, None, "crashed", _exit(worker))
        return Outcome(item, None, failure, value) if failure else Outcome(item, value)
    if not worker.process.is_alive():
        return Outcome(item, None, "crashed", _exit(worker))
    if time.monotonic() - worker.started > timeout:
        return Outcome(item, None, "timeout", f"no result after {timeout:g} s")
    held = _memory(worker) >> 20
    if held > memory_mb:
        return Outcome(item, None, "memory", f"held {held} MiB of {memory_mb} allowed")
    return None


def _family(worker: _Worker) -> list[psutil.Process]:
    """Return a worker's process and those that it started; empty if it is gone."""
    try:
        process = psutil.Process(worker.process.pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _memory(worker: _Worker) -> int:
    """Return the bytes of memory that a worker and its programs hold."""
    total = 0
    for process in _family(worker):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _exit(worker: _Worker) -> str:
    worker.process.join(1)
    code = worker.process.exitcode
    return f"killed by signal {-code}" if code and code < 0 else f"exit code {code}"


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Answer items until the parent closes the pipe or dies."""
    privacy.guard_worker()
    while True:
        try:
            item = pipe.recv()
        except (EOFError, ConnectionError, KeyboardInterrupt):
            return
        try:
            reply: tuple[Failure, Any] = ("", function(item))
        except MemoryError:
            reply = ("memory", "the reader ran out of memory")
        except Exception as error:  # noqa: BLE001 - the one guard: it becomes a row
            reply = ("error", f"{type(error).__name__}: {error}")
        try:
            pipe.send(reply)
        except (BrokenPipeError, ConnectionError):
            return
