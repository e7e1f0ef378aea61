"""Chat with any OpenAI-compatible server: retries, one reply cache, structured output."""

import json
import random
import re
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecg_llm.config import ApiModelConfig, environment_key
from ecg_llm.contracts import (
    EMPTY,
    Decoding,
    EgressError,
    Messages,
    Reply,
    Schema,
    ServerError,
    StepError,
)
from ecg_llm.records import digest

if TYPE_CHECKING:
    from openai import OpenAI

RETRIES = 3
PAUSE = 0.5
"""Seconds before the first retry of a reply that is no completion; doubled each time."""
THOUGHT = re.compile(
    r"<(?P<tag>think(?:ing)?|thought|reasoning|seed:think)>.*?(?:</(?P=tag)>|\Z)", re.DOTALL
)
THOUGHT_WITHOUT_START = re.compile(
    r"\A.*(?:</(?:think(?:ing)?|thought|reasoning|seed:think)>|<\|channel\|>final<\|message\|>)",
    re.DOTALL,
)
OPENINGS = 200
"""Times that a cache which others are opening is tried, 50 ms apart."""
CHARACTERS_PER_TOKEN = 3
"""English medical text has about 4 a token, German 3; fewer makes the estimate an upper one."""
FORMS = ("json_schema", "json_object", "")
"""What a server is asked to enforce; one that refuses gets the next."""
DISPENSABLE = ("temperature", "top_p", "seed")
"""Parameters that some servers refuse by name, and do without."""


@dataclass
class Usage:
    """What a model has been asked for since it was made, replies from the cache apart."""

    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """In the currency of price_in and price_out."""
    seconds: float = 0.0
    """Summed over the requests, of which several run at once."""


class ApiModel:
    """A chat model behind an OpenAI-compatible server.

    `cache` is an SQLite file that several models and processes may share; None keeps no replies.
    Nothing is opened before `generate`, and everything is closed after it.
    """

    def __init__(self, settings: ApiModelConfig, cache: Path | None = None) -> None:
        self.settings = settings
        self.usage = Usage()
        self._cache = cache
        self._lock = threading.Lock()
        self._sent = threading.local()
        """Requests sent for the prompt that this thread is at: the client repeats some itself."""
        self._reached = False
        self._lost = 0
        self._limit = "max_tokens"
        self._form = 0
        self._refused: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """model@revision."""
        return self.settings.name

    def generate(
        self,
        prompts: Sequence[Messages],
        decoding: Decoding,
        schema: Schema | None = None,
    ) -> list[Reply]:
        """Return one reply a prompt, in order; see `replies`."""
        found = dict(self.replies(prompts, decoding, schema))
        return [found[place] for place in range(len(prompts))]

    def replies(
        self,
        prompts: Sequence[Messages],
        decoding: Decoding,
        schema: Schema | Sequence[Schema] | None = None,
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (place of the prompt, its reply) as the replies come, those in the cache first.

        Timeouts, lost connections and the statuses 408, 409, 429 and 5xx are tried three times
        more, with jitter; after that the reply has status "error" and is not kept in the cache. A
        reply cut at max_tokens is "truncated", one withheld by a filter or refused is "refused",
        one without text is an "error". Thinking text is removed.

        Raises:
            ServerError: the server cannot be reached, refuses the key, does not know the model,
                or has failed too many requests in a row to go on.
            EgressError: the study does not allow this host.
            UsageError: the variable named by key_env is not set.
        """
        schemas = schema if isinstance(schema, Sequence) else [schema] * len(prompts)
        places: dict[str, list[int]] = defaultdict(list)
        for place, (messages, form) in enumerate(zip(prompts, schemas, strict=True)):
            places[self._key(messages, decoding, form)].append(place)
        with _open_cache(self._cache) as cache:
            missing = []
            for key, same in places.items():
                if reply := cache.get(key):
                    self.usage.cached += 1
                    yield from ((place, reply) for place in same)
                else:
                    missing.append(key)
            if not missing:
                return
            first = {key: places[key][0] for key in missing}
            wanted = {key: (prompts[place], schemas[place]) for key, place in first.items()}
            with closing(self._ask_all(wanted, decoding)) as asked:
                for key, reply in asked:
                    if reply.status != "error":
                        cache.put(key, self.name, reply)
                    yield from ((place, reply) for place in places[key])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return an upper estimate of each text's tokens: one for every three characters."""
        return [-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts]

    def _key(self, messages: Messages, decoding: Decoding, schema: Schema | None) -> str:
        chat = [[message["role"], message["content"]] for message in messages]
        return digest(self.name, asdict(decoding), schema, chat, length=32)

    def _ask_all(
        self,
        prompts: Mapping[str, tuple[Messages, Schema | None]],
        decoding: Decoding,
    ) -> Generator[tuple[str, Reply], None, None]:
        """Yield (key, reply) in the order in which replies arrive."""
        with ExitStack() as stack:
            client = stack.enter_context(closing(self._client()))
            pool = ThreadPoolExecutor(self.settings.concurrency, "chat")
            stack.callback(pool.shutdown, cancel_futures=True)
            futures = {
                pool.submit(self._ask, client, messages, decoding, schema): key
                for key, (messages, schema) in prompts.items()
            }
            for future in as_completed(futures):
                yield futures[future], future.result()

    def _client(self) -> "OpenAI":
        import openai

        def count(request: object) -> None:
            self._sent.number = getattr(self._sent, "number", 0) + 1

        return openai.OpenAI(
            base_url=self.settings.base_url,
            api_key=environment_key(self.settings.key_env),
            timeout=self.settings.timeout,
            max_retries=RETRIES,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [count]}),
        )

    def _ask(
        self,
        client: "OpenAI",
        messages: Messages,
        decoding: Decoding,
        schema: Schema | None,
    ) -> Reply:
        """Return the server's reply to one prompt, or an error reply that says what failed."""
        self._sent.number = 0
        reply = self._reply_or_failure(client, messages, decoding, schema)
        return replace(reply, attempts=self._sent.number)

    def _reply_or_failure(
        self, client: "OpenAI", messages: Messages, decoding: Decoding, schema: Schema | None
    ) -> Reply:
        import openai

        reason = ""
        for attempt in range(RETRIES + 1):
            if attempt:  # status 200, but no completion: the client itself asks once
                time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1))
            started = time.monotonic()
            try:
                completion = self._request(client, messages, decoding, schema)
                return self._reply(completion, time.monotonic() - started)
            except openai.APIConnectionError as error:
                self._raise_if_refused(error)
                return self._failure(_reason(error), reached=_was_reached(error))
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
                    return self._failure(_reason(error), reached=True)
                return Reply("", "error", _reason(error))
            except (openai.APIError, ValueError) as error:
                reason = _reason(error)
        return self._failure(reason, reached=True)

    def _request(
        self,
        client: "OpenAI",
        messages: Messages,
        decoding: Decoding,
        schema: Schema | None,
    ) -> Any:
        """Send one request; what the server refuses is left out, for good once that has helped."""
        import openai

        limit, refused = self._limit, self._refused
        form = self._form if schema is not None else len(FORMS) - 1
        while True:
            body: dict[str, Any] = {
                "model": self.settings.model,
                "messages": [dict(message) for message in messages],
                "temperature": decoding.temperature,
                "seed": decoding.seed,
                limit: decoding.max_tokens,
            }
            if decoding.top_p != 1.0:  # some servers refuse temperature and top_p together
                body["top_p"] = decoding.top_p
            if FORMS[form]:
                body["response_format"] = _response_format(FORMS[form], schema or {})
            for name in refused:
                body.pop(name, None)
            try:
                completion = client.chat.completions.create(**body)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                named = {name for name in DISPENSABLE if name in body and _names(error, name)}
                if limit == "max_tokens" and _names(error, "max_completion_tokens"):
                    limit = "max_completion_tokens"
                elif named:
                    refused = refused | named
                elif FORMS[form]:
                    form += 1
                else:
                    raise
                continue
            self._limit, self._refused = limit, refused
            if schema is not None:
                self._form = form
            return completion

    def _reply(self, completion: Any, seconds: float) -> Reply:
        """Return what a completion holds, with its usage counted."""
        import openai

        if not isinstance(completion, openai.types.chat.ChatCompletion):
            raise ServerError(
                f"{self.settings.base_url} answered with something else than a chat completion; "
                "check that base_url ends as the server wants (often /v1)."
            )
        tokens_in = completion.usage.prompt_tokens if completion.usage else 0
        tokens_out = completion.usage.completion_tokens if completion.usage else 0
        with self._lock:
            self._reached = True
            self._lost = 0
            self.usage.requests += 1
            self.usage.seconds += seconds
            self.usage.tokens_in += tokens_in
            self.usage.tokens_out += tokens_out
            self.usage.cost += (
                tokens_in * self.settings.price_in + tokens_out * self.settings.price_out
            ) / 1e6
        if not completion.choices:
            return Reply("", "error", "the reply holds no choice", tokens_in, tokens_out)
        choice = completion.choices[0]
        text = without_thinking(_text(choice.message.content))
        if choice.message.refusal or choice.finish_reason == "content_filter":
            reason = choice.message.refusal or "withheld by the server's content filter"
            return Reply(text, "refused", reason, tokens_in, tokens_out)
        if choice.finish_reason == "length":
            return Reply(text, "truncated", "cut at max_tokens", tokens_in, tokens_out)
        if not text:
            return Reply("", "error", EMPTY, tokens_in, tokens_out)
        return Reply(text, "ok", "", tokens_in, tokens_out)

    def _failure(self, reason: str, *, reached: bool) -> Reply:
        """Return an error reply, or give up on a server that is down."""
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
                "when it is well: the replies so far are kept."
            )
        return Reply("", "error", reason)

    @staticmethod
    def _raise_if_refused(error: BaseException) -> None:
        """Raise the egress guard's own error where that is what broke the connection."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, EgressError):
                raise cause
            cause = cause.__cause__ or cause.__context__


def without_thinking(text: str) -> str:
    """Return the text without the thoughts before it; an unclosed one reaches to the end."""
    return THOUGHT_WITHOUT_START.sub("", THOUGHT.sub("", text)).strip()


def _text(content: object) -> str:
    """Return the text of a message, which some servers send as a list with thoughts in it."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(str(part.get("text", "")) for part in parts)


def _response_format(form: str, schema: Schema) -> dict[str, object]:
    if form == "json_object":
        return {"type": form}
    return {"type": form, form: {"name": "reply", "strict": True, "schema": dict(schema)}}


def _names(error: Exception, parameter: str) -> bool:
    """Return whether an error speaks of this parameter."""
    return re.search(rf"\b{parameter}\b", str(error)) is not None


def _was_reached(error: BaseException) -> bool:
    """Return whether a connection was made before it failed, by the HTTP client's own error."""
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")


def _reason(error: Exception) -> str:
    """Return the first line of an error, short enough for a table."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


class _Cache:
    """Replies by key, in SQLite or nowhere; used by one thread."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection

    def get(self, key: str) -> Reply | None:
        """Return the reply kept under this key."""
        if self._connection is None:
            return None
        row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return Reply(**json.loads(row[0])) if row else None

    def put(self, key: str, model: str, reply: Reply) -> None:
        """Keep a reply; it is on disk when this returns."""
        if self._connection is not None:
            self._connection.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?)",
                (key, model, json.dumps(asdict(reply), ensure_ascii=False)),
            )


@contextmanager
def _open_cache(path: Path | None) -> Iterator[_Cache]:
    """Open the reply cache; autocommit and WAL, so that a kill loses nothing that was put.

    Raises:
        StepError: the file is not a cache or cannot be written.
    """
    if path is None:
        yield _Cache(None)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, model TEXT, reply TEXT)"
            )
            yield _Cache(connection)
    except sqlite3.Error as error:
        raise StepError(
            f"The reply cache {path} cannot be used ({error}); delete it, or free space, and run "
            "again."
        ) from error


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; SQLite itself does not wait for others that do the same."""
    for _ in range(OPENINGS):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)
        else:
            return
    connection.execute("PRAGMA journal_mode=WAL")
