"""Chat with any OpenAI-compatible server: retries, one reply cache, structured output."""

import json
import re
import sqlite3
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecg_llm.config import ApiModelConfig, environment_key
from ecg_llm.contracts import Decoding, EgressError, Messages, Reply, ServerError, StepError
from ecg_llm.records import digest

if TYPE_CHECKING:
    from openai import OpenAI

RETRIES = 3
THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
THOUGHT_WITHOUT_START = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL)
CHARACTERS_PER_TOKEN = 3
"""English medical text has about 4 a token, German 3; fewer makes the estimate an upper one."""


@dataclass
class Usage:
    """What a model has been asked for since it was made, replies from the cache apart."""

    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """In the currency of price_in and price_out."""


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
        self._reached = False
        self._lost = 0
        self._enforces_schema = True
        self._limit = "max_tokens"

    @property
    def name(self) -> str:
        """model@revision; the address is no part of it, so that a server may move."""
        return "@".join(filter(None, (self.settings.model, self.settings.revision)))

    def generate(
        self,
        prompts: Sequence[Messages],
        decoding: Decoding,
        schema: Mapping[str, object] | None = None,
    ) -> list[Reply]:
        """Return one reply a prompt, in order, asking only for those that the cache lacks.

        Timeouts, lost connections and the statuses 408, 409, 429 and 5xx are tried three times
        more; after that the reply has status "error" and is not kept in the cache. A reply cut
        at max_tokens is "truncated", one withheld by a filter or refused is "refused", one
        without text is an "error". Thinking text is removed.

        Raises:
            ServerError: the server cannot be reached, refuses the key, does not know the model,
                or has failed too many requests in a row to go on.
            EgressError: the study does not allow this host.
            UsageError: the variable named by key_env is not set.
        """
        keys = [self._key(messages, decoding, schema) for messages in prompts]
        wanted = dict(zip(keys, prompts, strict=True))
        with _open_cache(self._cache) as cache:
            replies = {key: reply for key in wanted if (reply := cache.get(key))}
            self.usage.cached += len(replies)
            missing = [key for key in wanted if key not in replies]
            if missing:
                with closing(self._ask_all(missing, wanted, decoding, schema)) as asked:
                    for key, reply in asked:
                        replies[key] = reply
                        if reply.status != "error":
                            cache.put(key, self.name, reply)
        return [replies[key] for key in keys]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return an upper estimate of each text's tokens: one for every three characters."""
        return [-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts]

    def _key(
        self, messages: Messages, decoding: Decoding, schema: Mapping[str, object] | None
    ) -> str:
        chat = [[message["role"], message["content"]] for message in messages]
        return digest(self.name, asdict(decoding), schema, chat, length=32)

    def _ask_all(
        self,
        keys: Sequence[str],
        prompts: Mapping[str, Messages],
        decoding: Decoding,
        schema: Mapping[str, object] | None,
    ) -> Generator[tuple[str, Reply], None, None]:
        """Yield (key, reply) in the order in which replies arrive."""
        with ExitStack() as stack:
            client = stack.enter_context(closing(self._client()))
            pool = ThreadPoolExecutor(self.settings.concurrency, "chat")
            stack.callback(pool.shutdown, cancel_futures=True)
            futures = {
                pool.submit(self._ask, client, prompts[key], decoding, schema): key for key in keys
            }
            for future in as_completed(futures):
                yield futures[future], future.result()

    def _client(self) -> "OpenAI":
        import openai

        return openai.OpenAI(
            base_url=self.settings.base_url,
            api_key=environment_key(self.settings.key_env),
            timeout=self.settings.timeout,
            max_retries=RETRIES,
        )

    def _ask(
        self,
        client: "OpenAI",
        messages: Messages,
        decoding: Decoding,
        schema: Mapping[str, object] | None,
    ) -> Reply:
        """Return the server's reply to one prompt, or an error reply that says what failed."""
        import openai

        try:
            completion = self._request(client, messages, decoding, schema)
        except openai.APIConnectionError as error:
            self._raise_if_refused(error)
            return self._failure(_reason(error), reached=isinstance(error, openai.APITimeoutError))
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            key = self.settings.key_env or "key_env, which study.yaml leaves empty"
            raise ServerError(
                f"{self.settings.base_url} refused the key ({error.status_code}); check {key}."
            ) from error
        except openai.NotFoundError as error:
            raise ServerError(
                f"{self.settings.base_url} answered 404 for the model {self.settings.model!r}; "
                "check the model's name and that base_url ends as the server wants (often /v1)."
            ) from error
        except openai.APIStatusError as error:
            if error.status_code == 429 or error.status_code >= 500:
                return self._failure(_reason(error), reached=True)
            return Reply("", "error", _reason(error))
        except (openai.APIError, ValueError) as error:
            return self._failure(_reason(error), reached=True)
        return self._reply(completion)

    def _request(
        self,
        client: "OpenAI",
        messages: Messages,
        decoding: Decoding,
        schema: Mapping[str, object] | None,
    ) -> Any:
        """Send one request; what the server does not know is left out once and for all."""
        import openai

        structured = schema is not None and self._enforces_schema
        limit = self._limit
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [dict(message) for message in messages],
            "temperature": decoding.temperature,
            "seed": decoding.seed,
            limit: decoding.max_tokens,
        }
        if decoding.top_p != 1.0:  # some servers refuse temperature and top_p together
            body["top_p"] = decoding.top_p
        if structured:
            named = {"name": "reply", "strict": True, "schema": dict(schema or {})}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            return client.chat.completions.create(**body)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if limit == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit = "max_completion_tokens"
                return self._request(client, messages, decoding, schema)
            if not structured:
                raise
            # Only a server that takes the same request without the schema lacks schemas.
            del body["response_format"]
            completion = client.chat.completions.create(**body)
            self._enforces_schema = False
            return completion

    def _reply(self, completion: Any) -> Reply:
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
            self.usage.tokens_in += tokens_in
            self.usage.tokens_out += tokens_out
            self.usage.cost += (
                tokens_in * self.settings.price_in + tokens_out * self.settings.price_out
            ) / 1e6
        if not completion.choices:
            return Reply("", "error", "the reply holds no choice", tokens_in, tokens_out)
        choice = completion.choices[0]
        text = without_thinking(choice.message.content or "")
        if choice.message.refusal or choice.finish_reason == "content_filter":
            reason = choice.message.refusal or "withheld by the server's content filter"
            return Reply(text, "refused", reason, tokens_in, tokens_out)
        if choice.finish_reason == "length":
            return Reply(text, "truncated", "cut at max_tokens", tokens_in, tokens_out)
        if not text:
            return Reply("", "error", "the reply is empty", tokens_in, tokens_out)
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
    """Return the text without <think> parts; an unclosed one reaches to the end."""
    return THOUGHT_WITHOUT_START.sub("", THOUGHT.sub("", text)).strip()


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
            connection.execute("PRAGMA journal_mode=WAL")
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
