"""Where the passages of an index lie: the interface of a store, and the one at a place."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from ecg_llm import privacy
from ecg_llm.contracts import StepError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OBJECTS = ("s3", "gs", "az", "abfss")
"""Schemes of object storage that LanceDB reads and writes."""
AZURE = {"AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "ENDPOINT", "AZURITE_BLOB_STORAGE_URL"}
ENDPOINTS = {
    "s3": {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "ENDPOINT_URL", "ENDPOINT"},
    "gs": {"GOOGLE_BASE_URL", "BASE_URL"},
    "az": AZURE,
    "abfss": AZURE,
}
"""Variables of the environment, in either case, that lead LanceDB to another host."""
YES = ("1", "true", "on", "yes", "y")
SERVERS = ("postgresql", "postgres")
SECRETS = {"password", "sslpassword", "oauth_client_secret"}
"""Parameters of an address that study.yaml must not hold."""
ELSEWHERE = {"host", "hostaddr", "service", "servicefile"}
"""Parameters with which an address names one host and leads to another."""
K1 = 1.2
"""How soon more of the same term in an entry adds less."""
B = 0.75
"""How much longer entries count less."""

NEIGHBOURS = 10
COPY = 0.95
"""Of crowding: see Store.vectors."""


class Entry(NamedTuple):
    """One passage as a store holds it."""

    passage_id: str
    version: str
    """Digest of all that was indexed of the passage: another one is another entry."""
    text: str
    terms: tuple[str, ...]
    """What the lexical side matches, in the order of the text, repeated as there; none is empty or
    holds a blank."""
    vector: "NDArray[np.float32]"
    """Unit length, shape (dimension,)."""


@runtime_checkable
class Store(Protocol):
    """Entries with exact or nearly exact search by vector and BM25 search by terms."""

    def held(self) -> dict[str, str]:
        """Return passage_id -> version of every entry; empty where nothing was built."""

    def remove(self, passage_ids: Sequence[str]) -> None:
        """Remove entries; their text leaves the disk at `finish` at the latest."""

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries whose passage_id is not held."""

    def finish(self) -> None:
        """Bring the search structures up to the entries."""

    def entries(self, passage_ids: Sequence[str]) -> dict[str, Entry]:
        """Return these entries by passage_id; one that is not held is left out."""

    def vectors(
        self, passage_ids: Sequence[str]
    ) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Return (vector, crowding) of these entries, one row each; 0 for one that is not held.

        Crowding is the mean cosine of an entry's NEIGHBOURS nearest others at `finish`, copies (a
        cosine of COPY or more) not counted: what lies in a crowd is near to every query.
        """

    def nearest(self, vectors: "NDArray[np.float32]", k: int) -> list[dict[str, float]]:
        """Return passage_id -> cosine of the k nearest entries of each row, best first."""

    def matching(self, queries: Sequence[Mapping[str, float]], k: int) -> list[dict[str, float]]:
        """Return passage_id -> BM25 score of the k best entries of each query, best first.

        A query maps terms to weights; an entry's score is the sum over its terms of weight times
        idf tf (K1 + 1) / (tf + K1 (1 - B + B length / mean length)) with idf =
        ln(1 + (N - n + 1/2) / (n + 1/2)) (Robertson and Zaragoza 2009, "The Probabilistic Relevance
        Framework: BM25 and Beyond"; this idf is never negative). Entries without any of the terms
        are not found.
        """


def open_store(place: str, folder: Path, name: str, dimension: int) -> Store:
    """Return the store at a place; nothing is read or written yet.

    Args:
        place: config.Index.store: a folder, a URI of object storage or of a PostgreSQL server.
        folder: Of the study, which a relative place is relative to.
        name: Of the index within the store, of the form kind-digest: it changes with the embedder
            and the analysis of terms. `finish` drops the store's other indexes of its kind, so two
            studies need two places.
        dimension: Of the vectors.

    Raises:
        UsageError: the place is none of these, holds a password, or names its host in a parameter.
        MissingPackage: PostgreSQL is asked for without its client.
    """
    scheme, found, _ = place.partition("://")
    if not found:
        from ecg_llm.retrieve.lance import LanceStore

        return LanceStore(folder / place, folder / place, name, dimension)
    _address(place)
    if scheme in OBJECTS:
        from ecg_llm.retrieve.lance import LanceStore

        return LanceStore(place, folder / "index", name, dimension)
    if scheme in SERVERS:
        from ecg_llm.retrieve.postgres import PostgresStore

        return PostgresStore(place, name, dimension)
    raise UsageError(
        f"index.store: {scheme}:// is not known; name a folder, object storage "
        f"({', '.join(f'{one}://' for one in OBJECTS)}) or a server (postgresql://)."
    )


def other_width(place: Path | str, held: int, given: int, way: str) -> StepError:
    """Return the error of vectors that are as long as no other in the store.

    Args:
        place: Of the store.
        held: Numbers of a vector that it holds.
        given: Numbers of a vector of the embedder.
        way: How to remove the index.
    """
    return StepError(
        f"The index in {place} holds vectors of {held} numbers, and the embedder gives {given}; "
        f"make it anew: {way} and run: ecg-llm index"
    )


def same_kind(one: str, other: str) -> bool:
    """Return whether two names of indexes differ in their digest alone."""
    return one.rpartition("-")[0] == other.rpartition("-")[0]


def hosts_of(place: str) -> tuple[str, ...]:
    """Return the hosts that the address of a store names: those the study may reach for it.

    None for a folder or sockets; for a bucket its provider's (of Azure and S3 that of the account
    and region in the environment). A host that the environment alone names is not among them.

    Raises:
        UsageError: as `open_store`.
    """
    scheme, found, _ = place.partition("://")
    if not found:
        return ()
    parts = _address(place)
    if scheme in SERVERS:
        hosts = map(_host, parts.netloc.rpartition("@")[2].split(","))
        return tuple(host for host in hosts if not is_socket(host))
    if scheme == "gs":
        return "storage.googleapis.com", "oauth2.googleapis.com"
    if scheme == "s3" and (region := os.environ.get("AWS_REGION")):
        by_name = os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in YES
        return (f"{parts.netloc}." * by_name + f"s3.{region}.amazonaws.com",)
    if scheme in ("az", "abfss"):
        named = parts.netloc.partition("@")[2].partition(".")[0]
        if account := named or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
            return (f"{account}.blob.core.windows.net",)
    return ()


def admit_objects(place: str) -> None:
    """Let LanceDB connect to a place in object storage, wherever the environment leads it.

    Raises:
        EgressError: the study does not allow that host.
        UsageError: the environment does not say which host it is.
    """
    scheme = place.partition("://")[0]
    leading = [
        value for name, value in sorted(os.environ.items()) if name.upper() in ENDPOINTS[scheme]
    ]
    hosts = [privacy.host_of(value) for value in leading if value] or hosts_of(place)
    if not hosts:
        raise UsageError(
            f"Where {place} lies is not known; set AWS_REGION or, for Azure, "
            f"AZURE_STORAGE_ACCOUNT_NAME in the environment."
        )
    for host in hosts:
        privacy.admit(host)


def is_socket(host: str) -> bool:
    """Return whether what libpq takes for a host is a socket of this machine."""
    return host[:1] in ("", "/", "@")


def _host(part: str) -> str:
    """Return the host of host:port or [host]:port."""
    bare = part[1:].partition("]")[0] if part.startswith("[") else part.partition(":")[0]
    return unquote(bare).lower()


def _address(place: str) -> SplitResult:
    """Return the parts of an address that may stand in study.yaml."""
    try:
        parts = urlsplit(place, allow_fragments=False)
        parameters = parse_qs(parts.query, keep_blank_values=True)
    except ValueError:
        raise UsageError("index.store is not a valid address; correct it.") from None
    if parts.password is not None or SECRETS & parameters.keys():
        raise UsageError(
            "index.store holds a password, and study.yaml is no place for one; for PostgreSQL put "
            "it into PGPASSWORD or a pgpass file, for object storage into its own variables."
        )
    if elsewhere := ELSEWHERE & parameters.keys():
        raise UsageError(
            f"index.store leads elsewhere with its parameter {min(elsewhere)}; name the host "
            f"between // and the database, a folder of sockets as %2Ffolder."
        )
    return parts
