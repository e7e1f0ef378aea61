"""OpenAI-compatible servers: one way to ask and to tell what failed; embeddings and reranking."""

import base64
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, TypeVar

from ecg_llm.config import ApiModelConfig, environment_key
from ecg_llm.contracts import EgressError, ServerError, StepError, TokenCounter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from openai import OpenAI

T = TypeVar("T")

RETRIES = 3
PAUSE = 0.5
"""Seconds before the first retry of an answer that cannot be read; doubled each time."""
TOO_MUCH = (400, 413, 422)
"""Statuses with which servers refuse texts that are too many or too long."""
BATCH = 64
"""Texts a request."""
SHORT = 64
"""Characters below which a text is not what a server finds too long."""
LONG = 1000
"""Characters from which on a query takes so much of a reranker's context that it is cut first."""


class RequestFailed(Exception):
    """A request without an answer; `too_much` where the server may take less."""

    def __init__(self, reason: str, *, too_much: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.too_much = too_much


class Endpoint:
    """A server, asked from several threads, that is given up once it is down."""

    def __init__(self, settings: ApiModelConfig) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._sent = threading.local()
        """Requests sent for what this thread asks: the client repeats some itself."""
        self._reached = False
        self._lost = 0

    @property
    def sent(self) -> int:
        """Requests that this thread's last `ask` took."""
        return int(getattr(self._sent, "number", 0))

    def client(self) -> "OpenAI":
        """Return a client of the server, to be closed.

        Raises:
            UsageError: the variable named by key_env is not set.
        """
        import openai

        def count(request: object) -> None:
            self._sent.number = self.sent + 1

        return openai.OpenAI(
            base_url=self.settings.base_url,
            api_key=environment_key(self.settings.key_env),
            timeout=self.settings.timeout,
            max_retries=RETRIES,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [count]}),
        )

    def ask(self, send: Callable[[], T]) -> T:
        """Return what `send` returns; it may be called again where its answer cannot be read.

        Raises:
            RequestFailed: this request got no answer; another may.
            ServerError: the server cannot be reached, refuses the key, does not know the model,
                or has failed too many requests in a row to go on.
            EgressError: the study does not allow this host.
        """
        import openai

        self._sent.number = 0
        reason = ""
        for attempt in range(RETRIES + 1):
            if attempt:  # status 200, but no answer: the client itself asks once
                time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1))
            try:
                answer = send()
            except openai.APIConnectionError as error:
                _raise_if_not_allowed(error)
                raise self._failure(first_line(error), reached=_was_reached(error)) from error
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                key = self.settings.key_env or "key_env, which study.yaml leaves empty"
                raise ServerError(
                    f"{self.settings.base_url} refused the key ({error.status_code}); check {key}."
                ) from error
            except openai.NotFoundError as error:
                raise ServerError(
                    f"{self.settings.base_url} answered 404 for the model "
                    f"{self.settings.model!r}; check the model's name and that base_url ends as "
                    "the server wants (often /v1)."
                ) from error
            except openai.APIStatusError as error:
                if error.status_code == 429 or error.status_code >= 500:
                    raise self._failure(first_line(error), reached=True) from error
                too_much = error.status_code in TOO_MUCH
                raise RequestFailed(first_line(error), too_much=too_much) from error
            except (openai.APIError, ValueError) as error:
                reason = first_line(error)
            else:
                with self._lock:
                    self._reached = True
                    self._lost = 0
                return answer
        raise self._failure(reason, reached=True)

    def post(self, client: "OpenAI", path: str, body: dict[str, Any]) -> Any:
        """Return the JSON with which the server answers; what is none is a text.

        Raises:
            RequestFailed, ServerError, EgressError: as `ask`.
        """
        return self.ask(lambda: client.post(path, body=body, cast_to=object))

    def _failure(self, reason: str, *, reached: bool) -> RequestFailed:
        """Return a passing failure, or give up on a server that is down."""
        with self._lock:
            self._reached |= reached
            self._lost += 1
            lost = self._lost
        if not self._reached:
            raise ServerError(
                f"No server answers at {self.settings.base_url} ({reason}); start it, or correct "
                "base_url in study.yaml, and run again."
            )
        if lost > max(10, 2 * self.settings.concurrency):
            raise ServerError(
                f"{self.settings.base_url} failed {lost} requests in a row ({reason}); run again "
                "when it is well: what came so far is kept."
            )
        return RequestFailed(reason)


class ApiEmbedder:
    """Texts to unit vectors by a server's /embeddings.

    A server does not count tokens: `count`, another model's counter, stands in for it.
    """

    def __init__(self, settings: ApiModelConfig, count: TokenCounter) -> None:
        self.settings = settings
        self._count = count
        self._endpoint = Endpoint(settings)
        self._width = 0

    @property
    def name(self) -> str:
        """model@revision."""
        return self.settings.name

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return one unit-length row a text, shape (len(texts), dimension), by several requests.

        Batches that the server finds too large are halved, and a text that it finds too long is
        embedded by its beginning. No text gives the shape (0, 0) before the first vector came.

        Raises:
            StepError: the server does not answer, or with something else than vectors.
            UsageError: the variable named by key_env is not set.
        """
        import numpy as np

        if not texts:
            return np.zeros((0, self._width), np.float32)
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        with ExitStack() as stack:
            client = stack.enter_context(closing(self._endpoint.client()))
            pool = ThreadPoolExecutor(self.settings.concurrency, "embed")
            stack.callback(pool.shutdown, cancel_futures=True)
            parts = list(pool.map(lambda batch: self._rows(client, batch), batches))
        widths = {part.shape[1] for part in parts} | ({self._width} - {0})
        if len(widths) > 1:
            raise self._unusable(f"vectors of {' and of '.join(map(str, sorted(widths)))} numbers")
        self._width = widths.pop()
        rows = np.concatenate(parts)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not norms.all():
            raise self._unusable("a vector that is zero or not finite")
        unit: NDArray[np.float32] = (rows / norms).astype(np.float32)
        return unit

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the counts of the counter given."""
        return self._count(texts)

    def _rows(self, client: "OpenAI", texts: Sequence[str]) -> "NDArray[np.float64]":
        """Return the rows as the server gives them, by as many requests as it takes."""
        import numpy as np

        # Servers refuse a text of nothing.
        wanted = [sendable(text) if text.strip() else "." for text in texts]
        try:
            answer = self._endpoint.post(
                client, "/embeddings", {"model": self.settings.model, "input": wanted}
            )
        except RequestFailed as error:
            smaller = _halves(wanted) if error.too_much else []
            if not smaller:
                raise _refusal(self.settings, "embeddings", error) from error
            return np.concatenate([self._rows(client, part) for part in smaller])
        data = answer.get("data") if isinstance(answer, dict) else None
        try:
            found = {int(one["index"]): _vector(one["embedding"]) for one in data or ()}
            rows = [found[place] for place in range(len(wanted))]
        except (KeyError, TypeError, ValueError) as error:
            given = f"{len(data)} items" if isinstance(data, list) else "no list of vectors"
            raise self._unusable(f"{given} for {len(wanted)} texts") from error
        widths = {len(row) for row in rows}
        if len(found) != len(wanted) or len(widths) > 1 or not min(widths):
            raise self._unusable(f"{len(found)} vectors, not all alike, for {len(wanted)} texts")
        return np.array(rows, dtype=np.float64)

    def _unusable(self, what: str) -> StepError:
        return StepError(
            f"{self.settings.base_url} answered /embeddings with {what}; check that "
            f"{self.settings.model!r} is a model for embeddings."
        )


class ApiReranker:
    """Reads query and passages together, on a server with a /rerank.

    The request and its answer are those that vLLM, llama.cpp's server, Jina and Cohere share.
    """

    def __init__(self, settings: ApiModelConfig) -> None:
        self.settings = settings
        self._endpoint = Endpoint(settings)

    @property
    def name(self) -> str:
        """model@revision."""
        return self.settings.name

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return one score a text; higher is better.

        Texts that the server finds too many are scored by several requests; a query or text that
        it finds too long is read by its beginning.

        Raises:
            StepError: the server does not answer, or with something else than scores.
            UsageError: the variable named by key_env is not set.
        """
        if not texts:
            return []
        with closing(self._endpoint.client()) as client:
            return self._scores(client, sendable(query), [sendable(text) for text in texts])

    def _scores(self, client: "OpenAI", query: str, texts: Sequence[str]) -> list[float]:
        body = {
            "model": self.settings.model,
            "query": query,
            "documents": list(texts),
            "top_n": len(texts),
        }
        try:
            answer = self._endpoint.post(client, "/rerank", body)
        except RequestFailed as error:
            if error.too_much and len(query) >= max(LONG, *map(len, texts)):
                return self._scores(client, query[: len(query) // 2], texts)
            smaller = _halves(texts) if error.too_much else []
            if not smaller:
                raise _refusal(self.settings, "scores", error) from error
            return [score for part in smaller for score in self._scores(client, query, part)]
        results = answer.get("results") if isinstance(answer, dict) else None
        try:
            found = {int(one["index"]): float(one["relevance_score"]) for one in results or ()}
            scores = [found[place] for place in range(len(texts))]
        except (KeyError, TypeError, ValueError) as error:
            given = f"{len(results)} results" if isinstance(results, list) else "no results"
            raise self._unusable(f"{given} for {len(texts)} passages") from error
        if not all(map(math.isfinite, scores)):
            raise self._unusable("a score that is not finite")
        return scores

    def _unusable(self, what: str) -> StepError:
        return StepError(
            f"{self.settings.base_url} answered /rerank with {what}; check that "
            f"{self.settings.model!r} is a model for reranking."
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error, short enough for a table."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def sendable(text: str) -> str:
    """Return the text with lone surrogates, which no tokenizer and no server takes, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _halves(texts: Sequence[str]) -> list[list[str]]:
    """Return these texts as two smaller requests, or half of a single text; nothing if short."""
    middle = len(texts) // 2
    if middle:
        return [list(texts[:middle]), list(texts[middle:])]
    length = len(texts[0])
    return [[texts[0][: length // 2]]] if length > SHORT else []


def _vector(given: object) -> "NDArray[np.floating[Any]]":
    """Return a vector that came as numbers, or as base64 of little-endian float32."""
    import numpy as np

    if isinstance(given, str):
        return np.frombuffer(base64.b64decode(given), dtype="<f4")
    vector = np.array(given, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError("no vector")
    return vector


def _refusal(settings: ApiModelConfig, what: str, error: RequestFailed) -> ServerError:
    return ServerError(
        f"{settings.base_url} gave no {what} ({error.reason}); check the server and that "
        f"{settings.model!r} is a model for that, and run again."
    )


def _was_reached(error: BaseException) -> bool:
    """Return whether a connection was made before it failed, by the HTTP client's own error."""
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")


def _raise_if_not_allowed(error: BaseException) -> None:
    """Raise the egress guard's own error where that is what broke the connection."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, EgressError):
            raise cause
        cause = cause.__cause__ or cause.__context__
