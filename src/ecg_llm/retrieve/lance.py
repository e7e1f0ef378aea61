"""Entries in a LanceDB table, in a folder or object storage, and arrays beside it to search in."""

import fcntl
import re
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ecg_llm.contracts import EcgLlmError, StepError
from ecg_llm.records import digest
from ecg_llm.retrieve import arrays
from ecg_llm.retrieve.arrays import Arrays
from ecg_llm.retrieve.stores import Entry, admit_objects, other_width, same_kind

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

T = TypeVar("T")

REMOVED = 1000
"""Entries removed by one statement."""
RENEWED = 10.0
"""Seconds after which a search looks again whether an index in object storage was rebuilt."""
KEPT = timedelta(days=36_500)
GONE = timedelta(milliseconds=1)
FAILURES = (OSError, RuntimeError, ValueError, KeyError)
"""What LanceDB and pyarrow raise, whatever is the matter."""
PANIC = "pyo3"
"""How the modules begin whose exceptions LanceDB raises where its own code breaks."""
FULL = re.compile(r"No space left|Disk quota exceeded|\d requested and \d+ written")
"""In what LanceDB, the system and numpy say of a disk that is full."""
FORBIDDEN = re.compile("Permission denied|Read-only file system")
REACHING = re.compile("RetryError|Error performing")
"""In what LanceDB says of object storage that does not serve."""
REASON = re.compile(r'<Code>(\w+)</Code>|message: "([^"]+)"|(Timeout)')
"""Why, within that."""


class LanceStore:
    """An index in a LanceDB table; a `stores.Store`.

    The table is the truth. `finish` tags its state and writes the arrays of that state, which
    searches read: so a search never sees a half-built index, and needs no connection. Arrays that
    are absent or broken are made again from the tagged state.

    Args:
        place: Folder, or a URI of object storage.
        beside: Folder of the arrays: `place`, if that is a folder.
        name: Of the table.
        dimension: Of the vectors.
    """

    def __init__(self, place: Path | str, beside: Path, name: str, dimension: int) -> None:
        self.place = place
        self.name = name
        self.dimension = dimension
        self._beside = beside / f"{name}.search"
        self._connection: Any = None
        self._opened: Any = None
        self._arrays: Arrays | None = None
        self._mark = ""
        self._looked = 0.0

    def held(self) -> dict[str, str]:
        """Return passage_id -> version of every entry; empty where nothing was built.

        Raises:
            StepError: the table is damaged or cannot be reached.
        """
        with self._told():
            table = self._table()
            if table is None:
                return {}
            rows = table.search().select(["passage_id", "version"]).to_arrow()
            keys, versions = (rows[name].to_pylist() for name in ("passage_id", "version"))
            return dict(zip(keys, versions, strict=True))

    def remove(self, passage_ids: Sequence[str]) -> None:
        """Remove entries; their text leaves the disk at `finish`.

        Raises:
            StepError: the table is damaged or cannot be reached.
        """
        with self._told():
            table = self._table()
            if table is None:
                return
            for start in range(0, len(passage_ids), REMOVED):
                quoted = (key.replace("'", "''") for key in passage_ids[start : start + REMOVED])
                table.delete("passage_id IN ({})".format(", ".join(f"'{key}'" for key in quoted)))

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries whose passage_id is not held, as one version of the table.

        Raises:
            StepError: the table is damaged or cannot be reached.
        """
        import numpy as np
        import pyarrow as pa

        if not entries:
            return
        for width in {len(entry.vector) for entry in entries}:
            self._require(self.dimension, width)
        vectors = np.stack([entry.vector for entry in entries]).astype(np.float32)
        flat = pa.array(vectors.ravel())
        rows = pa.table(
            {
                "passage_id": [entry.passage_id for entry in entries],
                "version": [entry.version for entry in entries],
                "text": [entry.text for entry in entries],
                "terms": [list(entry.terms) for entry in entries],
                "vector": pa.FixedSizeListArray.from_arrays(flat, self.dimension),
            },
            schema=self._schema(),
        )
        with self._told():
            # Not a plain add: another process may have added the same entries meanwhile.
            self._made().merge_insert("passage_id").when_not_matched_insert_all().execute(rows)

    def finish(self) -> None:
        """Write the arrays, let searches use them, and remove from the disk what is not held.

        Raises:
            StepError: the table is damaged or cannot be reached.
        """
        with self._told():
            table = self._made()
            with self._alone():
                self._finish(table)
        self._arrays, self._looked = None, 0.0

    def entries(self, passage_ids: Sequence[str]) -> dict[str, Entry]:
        """Return these entries by passage_id; one that is not held is left out.

        Raises:
            StepError: the index was never finished, is damaged or cannot be reached.
        """
        return self._searched(lambda found: found.entries(passage_ids))

    def vectors(
        self, passage_ids: Sequence[str]
    ) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Return (vector, crowding) of these entries, one row each; 0 for one that is not held.

        Raises:
            StepError: the index was never finished, is damaged or cannot be reached.
        """
        return self._searched(lambda found: found.vectors(passage_ids))

    def nearest(self, vectors: "NDArray[np.float32]", k: int) -> list[dict[str, float]]:
        """Return passage_id -> cosine of the k nearest entries of each row, best first.

        Raises:
            StepError: the index was never finished, is damaged or cannot be reached.
        """
        self._require(self.dimension, vectors.shape[1])
        return self._searched(lambda found: found.nearest(vectors, k))

    def matching(self, queries: Sequence[Mapping[str, float]], k: int) -> list[dict[str, float]]:
        """Return passage_id -> weighted BM25 score of each query's k best entries, best first.

        Raises:
            StepError: the index was never finished, is damaged or cannot be reached.
        """
        return self._searched(lambda found: found.matching(queries, k))

    def _finish(self, table: Any) -> None:
        table.optimize(cleanup_older_than=KEPT)
        held = self.held()
        if table.count_rows() != len(held):
            table.delete("true")
            raise StepError(
                f"Two processes wrote the index in {self.place} at once, and it was emptied; "
                f"make it anew with: ecg-llm index"
            )
        mark = digest(sorted(held.items()))
        if self._read(mark, whole=True) is None:
            arrays.write(self._folder(mark), table.to_arrow())
        tags = table.tags.list()
        (table.tags.update if mark in tags else table.tags.create)(mark, table.version)
        for other in set(tags) - {mark}:
            table.tags.delete(other)
        table.optimize(cleanup_older_than=GONE)
        for other in self._names():
            if other != self.name and same_kind(other, self.name):
                self._connected().drop_table(other)
        self._sweep(mark)

    def _searched(self, search: Callable[[Arrays], T]) -> T:
        try:
            return search(self._current())
        except (IndexError, ValueError):
            # The arrays are read in part when they are opened: what is broken may show only now.
            self._arrays = None
            return search(self._current(whole=True))

    def _current(self, whole: bool = False) -> Arrays:
        """Return the arrays of the state finished last, by whatever process."""
        while True:
            mark = self._finished()
            found = self._arrays  # not read twice: another thread may discard it
            if found is not None and mark == self._mark and not whole:
                return found
            try:
                with self._told():
                    self._arrays = self._opened_arrays(mark, whole)
                self._mark = mark
                whole = False  # looked through now
            except StepError:
                # The state may have given way to a newer one while it was being read.
                self._looked = 0.0
                if self._finished() == mark:
                    raise

    def _finished(self) -> str:
        """Return the mark of the state finished last."""
        remote = isinstance(self.place, str)
        if remote and self._arrays and time.monotonic() - self._looked < RENEWED:
            return self._mark
        with self._told():
            table = self._table()
            tags = {} if table is None else table.tags.list()
        if not tags:
            raise StepError(
                f"{self.place} holds no finished index of this name; make it with: ecg-llm index"
            )
        self._looked = time.monotonic()
        return str(max(tags, key=lambda tag: tags[tag]["version"]))

    def _opened_arrays(self, mark: str, whole: bool) -> Arrays:
        if found := self._read(mark, whole):
            return found
        with self._alone():
            if found := self._read(mark, whole):
                return found
            table = self._connected().open_table(self.name)
            table.checkout(mark)
            arrays.write(self._folder(mark), table.to_arrow())
            if isinstance(self.place, str):
                self._sweep(mark)  # no build does so here, if builds run on another machine
            return Arrays(self._folder(mark))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process or thread writes or removes arrays, and hold them off."""
        self._beside.parent.mkdir(parents=True, exist_ok=True)
        with (self._beside.parent / "search.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _folder(self, mark: str) -> Path:
        return self._beside / f"{mark}-{arrays.FORMAT}"

    def _read(self, mark: str, whole: bool = False) -> Arrays | None:
        """Return the arrays of a state, or None where they are absent, broken or of others."""
        try:
            found = Arrays(self._folder(mark), whole)
        except (OSError, ValueError):
            return None
        return found if found.dimension == self.dimension else None

    def _sweep(self, mark: str) -> None:
        """Remove the arrays of other states and of other indexes, and what killed writers left."""
        for beside in self._beside.parent.glob("*.search"):
            if beside == self._beside:
                for folder in set(beside.iterdir()) - {self._folder(mark)}:
                    shutil.rmtree(folder, ignore_errors=True)
            elif same_kind(beside.stem, self.name):
                shutil.rmtree(beside, ignore_errors=True)

    def _connected(self) -> Any:
        if self._connection is None:
            import lancedb

            if isinstance(self.place, str):
                admit_objects(self.place)
            # Every call looks for a newer version: another process may have written one.
            interval = timedelta(0)
            self._connection = lancedb.connect(self.place, read_consistency_interval=interval)
        return self._connection

    def _names(self) -> list[str]:
        return list(self._connected().list_tables().tables)

    def _table(self) -> Any:
        """Return the table, or None where there is none."""
        if isinstance(self.place, Path) and not self.place.exists():
            return None  # to look for a table would make the folder
        if self._opened is None and self.name in self._names():
            table = self._connected().open_table(self.name)
            self._require(table.schema.field("vector").type.list_size, self.dimension)
            self._opened = table
        return self._opened

    def _made(self) -> Any:
        """Return the table, made if it is absent."""
        if isinstance(self.place, Path):
            self.place.mkdir(parents=True, exist_ok=True)
        if self._table() is None:
            self._opened = self._connected().create_table(self.name, schema=self._schema())
        return self._opened

    def _require(self, held: int, given: int) -> None:
        """Refuse vectors of another length than those held."""
        if held != given:
            local = isinstance(self.place, Path)
            way = "delete that folder" if local else "delete what lies there"
            raise other_width(self.place, held, given, way)

    def _schema(self) -> "pa.Schema":
        import pyarrow as pa

        return pa.schema(
            [
                ("passage_id", pa.string()),
                ("version", pa.string()),
                ("text", pa.string()),
                ("terms", pa.list_(pa.string())),
                ("vector", pa.list_(pa.float32(), self.dimension)),
            ]
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell whatever LanceDB or the disk complains of in one sentence."""
        try:
            yield
        except EcgLlmError:
            raise
        except BaseException as error:
            if not (isinstance(error, FAILURES) or type(error).__module__.startswith(PANIC)):
                raise
            raise StepError(self._sentence(str(error))) from error

    def _sentence(self, error: str) -> str:
        """Return what to say of an error of LanceDB or the disk."""
        remote = isinstance(self.place, str)
        if remote and REACHING.search(error):
            reason = REASON.search(error)
            why = f" ({reason[reason.lastindex or 0]})" if reason else ""
            return (
                f"The index in {self.place} cannot be reached or has no such bucket{why}; "
                f"check its address and its keys in the environment, then run again"
            )
        what = textwrap.shorten(re.sub(r",? \S+\.rs:\d+:\d+", "", error), 200, placeholder=" ...")
        if FULL.search(error):
            advice = "the disk is full: make space, then run again"
        elif FORBIDDEN.search(error):
            advice = "allow yourself to write there, then run again"
        elif remote:
            advice = "check its address and its keys in the environment, then run again"
        else:
            advice = "delete that folder and make it anew with: ecg-llm index"
        return f"The index in {self.place} cannot be read or written ({what}); {advice}"
