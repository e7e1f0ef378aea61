"""Tables on disk: read, replace atomically, append row by row and resume after a kill."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from pydantic import ValidationError

from ecg_llm.records import Row

R = TypeVar("R", bound=Row)


class TableError(Exception):
    """A table that cannot be read: names the file, the line and what is wrong."""


def read(path: Path, row: type[R]) -> list[R]:
    """Return the rows of a table in file order; an absent file is an empty table.

    Raises:
        TableError: a line is not a row of this table, or a key occurs twice.
    """
    rows: list[R] = []
    keys: dict[tuple[object, ...], int] = {}
    for number, line in _lines(path):
        try:
            made = row.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(place) for place in problem["loc"])
            raise TableError(f"{path}, line {number}: {where} {problem['msg']}") from None
        if made.key in keys:
            raise TableError(
                f"{path}, line {number}: the key {made.key} stands in line {keys[made.key]} too"
            )
        keys[made.key] = number
        rows.append(made)
    return rows


def write(path: Path, rows: Iterable[Row]) -> None:
    """Replace a table by these rows, sorted by key: equal tables are equal bytes."""
    ordered = sorted(rows, key=lambda row: row.key)
    with replacing(path) as file:
        for row in ordered:
            file.write(line_of(row))


def line_of(row: Row) -> bytes:
    """Return the row as one line of JSON, UTF-8, columns in declared order."""
    return row.model_dump_json().encode("utf-8") + b"\n"


def read_json(path: Path) -> dict[str, object] | None:
    """Return a JSON object from a file, or None if the file is absent or torn."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: object) -> None:
    """Replace a file by this value as indented JSON with sorted keys."""
    with replacing(path) as file:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
        file.write(text.encode("utf-8") + b"\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text, UTF-8, line ends as they are."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "replace"))


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes this path's place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Partial:
    """Rows of an unfinished step, appended and flushed one by one.

    Opening cuts a torn last line, so that what `rows` holds is what the file holds.
    """

    def __init__(self, path: Path, row: type[R]) -> None:
        self.path = path
        self._row = row
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[Row] = []
        good = 0
        if path.exists():
            data = path.read_bytes()
            for line in data.splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                try:
                    self.rows.append(row.model_validate_json(line))
                except ValidationError:
                    break
                good += len(line)
        self._file = path.open("ab")
        self._file.truncate(good)

    def append(self, row: Row) -> None:
        """Write one row and hand it to the operating system."""
        self._file.write(line_of(row))
        self._file.flush()

    def close(self) -> None:
        """Close the file; the rows stay for the next run."""
        self._file.close()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or "absent"."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "absent"


def folder_digest(path: Path, pattern: str = "**/*") -> str:
    """Return one SHA-256 over the relative paths and bytes of a folder's files, or "absent"."""
    if path.is_file():
        return file_digest(path)
    if not path.is_dir():
        return "absent"
    total = hashlib.sha256()
    for file in sorted(path.glob(pattern)):
        if file.is_file():
            total.update(file.relative_to(path).as_posix().encode("utf-8", "surrogateescape"))
            total.update(b"\0" + _digest_or_not(file).encode() + b"\n")
    return total.hexdigest()


def ends_digest(paths: Iterable[Path], length: int = 2**20) -> str:
    """Return one SHA-256 over the sizes of files and the bytes at both their ends."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            size = path.stat().st_size
            total.update(f"{path.name} {size}\n".encode() + file.read(length))
            file.seek(max(0, size - length))
            total.update(file.read(length))
    return total.hexdigest()[:16]


def _digest_or_not(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return "unreadable"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line
