"""Entries in a PostgreSQL database with pgvector: for corpora and readers past one machine."""

import itertools
import json
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ecg_llm import privacy
from ecg_llm.contracts import MissingPackage, StepError
from ecg_llm.retrieve import arrays
from ecg_llm.retrieve.stores import K1, B, Entry, is_socket, other_width, same_kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXACT = 20_000
"""From this many entries on, vectors are searched through an HNSW index."""
WIDTH = 200
"""Candidates that a search of the HNSW index keeps, at least."""
WIDEST = 1000
"""The most it can keep: who asks for more entries gets an exact search."""
TIMEOUT = 10
"""Seconds to wait for a server that does not answer, if its address names none."""
REMOVED = 1000
"""Entries removed in one transaction."""

PARTS = ("entries", "crowding", "terms", "postings", "totals")
MAKE = """
CREATE TABLE IF NOT EXISTS {entries} (
    entry integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    passage_id text COLLATE "C" NOT NULL UNIQUE, version text NOT NULL, text text NOT NULL,
    terms text NOT NULL, vector vector({dimension}) NOT NULL
);
CREATE TABLE IF NOT EXISTS {crowding} (
    entry integer PRIMARY KEY REFERENCES {entries} ON DELETE CASCADE, crowding real NOT NULL
);
CREATE TABLE IF NOT EXISTS {terms} (
    number integer GENERATED ALWAYS AS IDENTITY, term text COLLATE "C" PRIMARY KEY,
    found integer NOT NULL
);
CREATE TABLE IF NOT EXISTS {postings} (
    term integer, entry integer, often integer NOT NULL, length integer NOT NULL,
    PRIMARY KEY (term, entry) INCLUDE (often, length)
);
CREATE TABLE IF NOT EXISTS {totals} (
    entries bigint NOT NULL, length bigint NOT NULL, changed boolean NOT NULL
);
INSERT INTO {totals} SELECT 0, 0, false WHERE NOT EXISTS (SELECT FROM {totals});
"""
ADD = """
INSERT INTO {entries} (passage_id, version, text, terms, vector)
SELECT a, b, c, d, e::vector
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[]) AS new (a, b, c, d, e)
ON CONFLICT (passage_id) DO NOTHING RETURNING entry, terms
"""
REMOVE = "DELETE FROM {entries} WHERE passage_id = ANY(%s) RETURNING entry, terms"
NAME = """
INSERT INTO {terms} (term, found) SELECT term, 0 FROM unnest(%s::text[]) AS new (term)
WHERE NOT EXISTS (SELECT FROM {terms} AS old WHERE old.term = new.term)
"""
COUNT = """
UPDATE {terms} AS old SET found = found + new.change
FROM unnest(%s::text[], %s::integer[]) AS new (term, change) WHERE old.term = new.term
RETURNING old.term, old.number
"""
LOSE = """
DELETE FROM {postings} AS old USING unnest(%s::integer[], %s::integer[]) AS gone (term, entry)
WHERE old.term = gone.term AND old.entry = gone.entry
"""
VECTORS = """
SELECT passage_id, vector::text, coalesce(crowding, 0)
FROM {entries} LEFT JOIN {crowding} USING (entry) WHERE passage_id = ANY(%s)
"""
# Ordered by the distance alone inside: with a second key the planner does not use the HNSW index.
NEAREST = """
SELECT passage_id, 1 - distance FROM (
    SELECT passage_id, vector <=> %(query)s::vector AS distance FROM {entries}
    ORDER BY vector <=> %(query)s::vector FETCH FIRST %(k)s ROWS WITH TIES
) AS near ORDER BY distance, passage_id LIMIT %(k)s
"""
MATCHING = """
WITH totals AS (
    SELECT entries, greatest(length, 1)::float8 / greatest(entries, 1) AS mean FROM {totals}
), asked AS (
    SELECT number, weight * ln(1 + (entries - found + 0.5) / (found + 0.5)) * (%(k1)s + 1) AS worth
    FROM unnest(%(terms)s::text[], %(weights)s::float8[]) AS asked (term, weight)
    JOIN {terms} USING (term), totals
), best AS (
    SELECT entry, sum(
        worth * often / (often + %(k1)s * (1 - %(b)s + %(b)s * length / mean))
    )::real AS score
    FROM asked JOIN {postings} AS postings ON postings.term = asked.number, totals
    GROUP BY entry ORDER BY score DESC FETCH FIRST %(k)s ROWS WITH TIES
)
SELECT passage_id, score FROM best JOIN {entries} USING (entry)
ORDER BY score DESC, passage_id LIMIT %(k)s
"""


class PostgresStore:
    """An index in tables of the connection's current schema; a `stores.Store`.

    Every change is one transaction and is found at once. One process writes at a time: it holds an
    advisory lock from its first change to `finish`.

    Args:
        place: postgresql://user@host[:port]/database; parameters of libpq may follow.
        name: Of the index.
        dimension: Of the vectors.

    Raises:
        MissingPackage: psycopg is not installed.
    """

    def __init__(self, place: str, name: str, dimension: int) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingPackage(
                "psycopg", "'ecg-llm[postgres]'", "an index in PostgreSQL"
            ) from None
        self.place = place
        self.name = name
        self.dimension = dimension
        self._errors = psycopg.errors
        self._connection: Any = None
        self._locked = False
        self._width = 0

    def held(self) -> dict[str, str]:
        """Return passage_id -> version of every entry; empty where nothing was built.

        Raises:
            StepError: the server cannot be reached or refuses.
        """
        with self._told():
            if not self._built():
                return {}
            return dict(self._run("SELECT passage_id, version FROM {entries}"))

    def remove(self, passage_ids: Sequence[str]) -> None:
        """Remove entries; the server may overwrite their bytes from `finish` on.

        Raises:
            StepError: the server cannot be reached or refuses, or another process writes.
        """
        with self._told():
            self._make()
            for start in range(0, len(passage_ids), REMOVED):
                keys = [_clean(key) for key in passage_ids[start : start + REMOVED]]
                with self._connected().transaction():
                    gone = list(self._run(REMOVE, (keys,)))
                    postings, numbers = self._count(gone, -1)
                    pairs = [(numbers[term], entry) for term, entry, _, _ in postings]
                    self._run(LOSE, tuple(map(list, zip(*pairs, strict=True))) or ([], []))
                    self._run(
                        "DELETE FROM {terms} WHERE found = 0 AND term = ANY(%s)", (list(numbers),)
                    )

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries whose passage_id is not held, in one transaction.

        Raises:
            StepError: the server cannot be reached or refuses, or another process writes.
        """
        if not entries:
            return
        for width in {len(entry.vector) for entry in entries}:
            self._require(self.dimension, width)
        columns = (
            [_clean(entry.passage_id) for entry in entries],
            [entry.version for entry in entries],
            [_clean(entry.text) for entry in entries],
            [_clean(" ".join(entry.terms)) for entry in entries],
            [_written(entry.vector) for entry in entries],
        )
        with self._told():
            self._make()
            with self._connected().transaction():
                new = list(self._run(ADD, columns))
                postings, numbers = self._count(new, 1)
                statement = "COPY {postings} (term, entry, often, length) FROM STDIN"
                with self._connected().cursor().copy(self._sql(statement)) as copy:
                    for term, *rest in postings:
                        copy.write_row((numbers[term], *rest))

    def finish(self) -> None:
        """Bring what is derived from all entries up to them: crowding, HNSW index, statistics.

        Raises:
            StepError: the server cannot be reached or refuses, or another process writes.
        """
        with self._told():
            self._make()
            ((count, changed),) = self._run("SELECT entries, changed FROM {totals}")
            if count < EXACT:
                self._run("DROP INDEX IF EXISTS {hnsw}")
            else:
                # The build is several times slower once its graph outgrows this memory.
                self._run("SET maintenance_work_mem = '1GB'")
                self._run(
                    "CREATE INDEX IF NOT EXISTS {hnsw} ON {entries} "
                    "USING hnsw (vector vector_cosine_ops)"
                )
            if changed:
                self._crowd()
            for other in self._others():
                self._run("DROP TABLE {other} CASCADE", other=other)
            self._run("VACUUM ANALYZE {entries}, {crowding}, {terms}, {postings}, {totals}")
            self._run("SELECT pg_advisory_unlock_all()")
            self._locked = False

    def entries(self, passage_ids: Sequence[str]) -> dict[str, Entry]:
        """Return these entries by passage_id; one that is not held is left out.

        Raises:
            StepError: nothing was built, or the server cannot be reached or refuses.
        """
        import numpy as np

        rows = self._searched(
            "SELECT passage_id, version, text, terms, vector::text FROM {entries} "
            "WHERE passage_id = ANY(%s)",
            ([_clean(key) for key in passage_ids],),
        )
        return {
            key: Entry(
                key,
                version,
                text,
                tuple(terms.split(" ")) if terms else (),
                np.array(json.loads(vector), np.float32),
            )
            for key, version, text, terms, vector in rows
        }

    def vectors(
        self, passage_ids: Sequence[str]
    ) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Return (vector, crowding) of these entries, one row each; 0 for one that is not held.

        An entry's crowding is 0 until `finish`, and that of all is as of the last one.

        Raises:
            StepError: nothing was built, or the server cannot be reached or refuses.
        """
        import numpy as np

        keys = [_clean(key) for key in passage_ids]
        rows = {key: rest for key, *rest in self._searched(VECTORS, (keys,))}
        vectors = np.zeros((len(keys), self.dimension), np.float32)
        crowding = np.zeros(len(keys), np.float32)
        for place, key in enumerate(keys):
            if key in rows:
                vectors[place], crowding[place] = json.loads(rows[key][0]), rows[key][1]
        return vectors, crowding

    def nearest(self, vectors: "NDArray[np.float32]", k: int) -> list[dict[str, float]]:
        """Return passage_id -> cosine of the k nearest entries of each row, best first.

        Raises:
            StepError: nothing was built, or the server cannot be reached or refuses.
        """
        self._require(self.dimension, vectors.shape[1])
        with self._told():
            self._require_held()
            self._widen(k)
        queries = [{"query": _written(vector), "k": k} for vector in vectors]
        return [dict(self._searched(NEAREST, query)) for query in queries]

    def matching(self, queries: Sequence[Mapping[str, float]], k: int) -> list[dict[str, float]]:
        """Return passage_id -> weighted BM25 score of each query's k best entries, best first.

        Raises:
            StepError: nothing was built, or the server cannot be reached or refuses.
        """
        found = []
        for query in queries:
            asked = {_clean(term): float(weight) for term, weight in query.items() if weight > 0}
            values = {"terms": list(asked), "weights": list(asked.values()), "k": k}
            found.append(dict(self._searched(MATCHING, {**values, "k1": K1, "b": B})))
        return found

    def _count(
        self, rows: Iterable[tuple[int, str]], sign: int
    ) -> tuple[list[tuple[str, int, int, int]], dict[str, int]]:
        """Count rows of (entry, terms) in or out; return their postings and the terms' numbers.

        A posting is (term, entry, how often, terms of the entry).
        """
        postings = []
        lengths = []
        for entry, joined in rows:
            terms = joined.split(" ") if joined else []
            lengths.append(len(terms))
            postings += [
                (term, entry, often, len(terms)) for term, often in sorted(Counter(terms).items())
            ]
        found = Counter(term for term, *_ in postings)
        self._run(NAME, (sorted(found),))
        changes = [sign * count for count in found.values()]
        numbers = dict(self._run(COUNT, (list(found), changes)))
        self._run(
            "UPDATE {totals} SET entries = entries + %s, length = length + %s, "
            "changed = changed OR %s",
            (sign * len(lengths), sign * sum(lengths), bool(lengths)),
        )
        return postings, numbers

    def _crowd(self) -> None:
        """Find the crowding of all entries anew: any change of one may change that of others."""
        import numpy as np

        statement = self._sql("SELECT entry, vector FROM {entries}")
        rows = self._connected().cursor(binary=True).execute(statement).fetchall()
        vectors = np.empty((len(rows), self.dimension), np.float32)
        for place, (_, sent) in enumerate(rows):
            vectors[place] = np.frombuffer(sent, ">f4", offset=4)  # after two numbers of 16 bits
        found = arrays.crowding(vectors)
        with self._connected().transaction():
            self._run("DELETE FROM {crowding}")
            self._run("UPDATE {totals} SET changed = false")
            statement = self._sql("COPY {crowding} FROM STDIN")
            with self._connected().cursor().copy(statement) as copy:
                for (entry, _), crowded in zip(rows, found, strict=True):
                    copy.write_row((entry, float(crowded)))

    def _widen(self, k: int) -> None:
        """Let searches by vector keep candidates enough for k entries."""
        width = max(WIDTH, 4 * k)
        if self._connected() and width != self._width:
            self._run(
                "SELECT set_config('hnsw.ef_search', %s, false), "
                "set_config('enable_indexscan', %s, false), "
                "set_config('enable_seqscan', %s, false)",
                # Left to itself the planner reads all entries where that looks about as cheap.
                (str(min(width, WIDEST)), str(k <= WIDEST), str(k > WIDEST)),
            )
            self._width = width

    def _searched(self, statement: str, values: Any) -> list[Any]:
        with self._told():
            try:
                return list(self._run(statement, values))
            except self._errors.UndefinedTable:
                raise StepError(
                    f"{self.place} holds no index of this name; make it with: ecg-llm index"
                ) from None

    def _built(self) -> bool:
        return len(self._own()) == len(PARTS)

    def _own(self) -> list[str]:
        """Return the tables of this index that are there."""
        return [name for name in self._tables() if name in {f"{self.name} {one}" for one in PARTS}]

    def _tables(self) -> list[str]:
        rows = self._run("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return [name for (name,) in rows]

    def _others(self) -> list[str]:
        """Return the tables of the place's other indexes of this kind."""
        split = [(name, *name.rpartition(" ")[::2]) for name in self._tables()]
        return [
            name
            for name, index, part in split
            if part in PARTS and index != self.name and same_kind(index, self.name)
        ]

    def _make(self) -> None:
        """Become the one process that writes, and make the tables; all anew if any is lost."""
        if self._connected() and self._locked:
            return
        ((schema,),) = self._run("SELECT current_schema()")
        if schema is None:
            raise StepError(
                f"The schema that {self.place} leads to does not exist or is closed to this user; "
                f"create it or correct index.store, then run again."
            )
        self._require_held()
        lock = "SELECT pg_try_advisory_lock(hashtextextended('ecg-llm ' || current_schema(), 0))"
        ((self._locked,),) = self._run(lock)
        if not self._locked:
            raise StepError(
                f"Another process is writing the index in {self.place}; wait until it has ended, "
                f"then run again."
            )
        ((extension,),) = self._run("SELECT count(*) FROM pg_extension WHERE extname = 'vector'")
        if not extension:
            self._run("CREATE EXTENSION vector")
        with self._connected().transaction():
            if not self._built():
                for own in self._own():
                    self._run("DROP TABLE {other} CASCADE", other=own)
            for statement in filter(str.strip, MAKE.split(";")):
                self._run(statement)

    def _require_held(self) -> None:
        """Refuse to go on with a table whose vectors are of another length."""
        entries = self._sql("{entries}").as_string()
        # pgvector keeps the length of a column's vectors as the modifier of its type.
        statement = (
            "SELECT atttypmod FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attname = 'vector'"
        )
        for (held,) in self._run(statement, (entries,)):
            self._require(held, self.dimension)

    def _require(self, held: int, given: int) -> None:
        """Refuse vectors of another length than those held."""
        if held != given:
            way = f'drop the tables whose names begin with "{self.name}"'
            raise other_width(self.place, held, given, way)

    def _connected(self) -> Any:
        if self._connection is None or self._connection.closed:
            import psycopg

            given = psycopg.conninfo.conninfo_to_dict(self.place)
            for host in _hosts(given):
                privacy.admit(host)
            address = psycopg.conninfo.make_conninfo(
                self.place, connect_timeout=given.get("connect_timeout", TIMEOUT)
            )
            self._connection = psycopg.connect(address, autocommit=True)
            weakref.finalize(self, self._connection.close)
            self._locked, self._width = False, 0
            # Compiling a search takes longer than running it.
            self._connection.execute("SET jit = off")
            # A plan that is kept would not heed what _widen sets.
            self._connection.execute("SET plan_cache_mode = force_custom_plan")
            self._connection.execute("SET client_min_messages = warning")
        return self._connection

    def _run(self, statement: str, values: Any = None, other: str = "") -> Any:
        return self._connected().execute(self._sql(statement, other), values)

    def _sql(self, statement: str, other: str = "") -> Any:
        from psycopg import sql

        tables = {part: sql.Identifier(f"{self.name} {part}") for part in PARTS}
        return sql.SQL(statement).format(
            **tables,
            hnsw=sql.Identifier(f"{self.name} hnsw"),
            other=sql.Identifier(other),
            dimension=sql.Literal(self.dimension),
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what the server or the client library complains of in one sentence."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            what = " ".join(str(error).split())[:300]
            if isinstance(error, self._errors.InsufficientPrivilege):
                advice = "ask its administrator for the right to create tables there"
            elif isinstance(error, self._errors.DiskFull):
                advice = "its disk is full: make space, then run again"
            elif 'extension "vector"' in what or 'type "vector"' in what:
                advice = "install pgvector on it (its extension is named vector)"
            else:
                advice = "check that it runs, index.store and PGPASSWORD, then run again"
            raise StepError(
                f"PostgreSQL at {self.place} does not serve ({what}); {advice}"
            ) from error


def _hosts(given: Mapping[str, Any]) -> list[str]:
    """Return the hosts that libpq connects to: those of the address, else of the environment."""
    from psycopg.pq import Conninfo

    usual = {option.keyword.decode(): (option.val or b"") for option in Conninfo.get_defaults()}
    named = [
        str(given.get(name) or usual[name].decode()).split(",") for name in ("host", "hostaddr")
    ]
    return [host.lower() for host in itertools.chain(*named) if not is_socket(host)]


def _written(vector: "NDArray[np.float32]") -> str:
    """Return a vector as pgvector reads it."""
    return json.dumps(vector.tolist())


def _clean(text: str) -> str:
    """Return a text without what PostgreSQL cannot hold: NUL and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
