"""Chat with any OpenAI-compatible server: one reply cache, structured output, streams."""

import json
import re
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecg_llm.config import ApiModelConfig
from ecg_llm.contracts import (
    EMPTY,
    Decoding,
    Messages,
    Reply,
    Schema,
    ServerError,
    StepError,
)
from ecg_llm.endpoints import Endpoint, RequestFailed, first_line, sendable
from ecg_llm.records import digest
from ecg_llm.streaming import Speaker

if TYPE_CHECKING:
    from openai import OpenAI

THOUGHT = re.compile(
    r"<(?P<tag>think(?:ing)?|thought|reasoning|seed:think)>.*?(?:</(?P=tag)>|\Z)", re.DOTALL
)
THOUGHT_WITHOUT_START = re.compile(
    r"\A.*(?:</(?:think(?:ing)?|thought|reasoning|seed:think)>|<\|channel\|>final<\|message\|>)",
    re.DOTALL,
)
UNCERTAIN = re.compile(r"<[a-z:|/]*>?\Z|<\|channel\|>.*", re.DOTALL)
"""An end that may become the start or end of a thought, or a thought in gpt-oss's own form."""
OPENINGS = 200
"""Times that a cache which others are opening is tried, 50 ms apart."""
CHARACTERS_PER_TOKEN = 3
"""English medical text has about 4 a token, German 3; fewer makes the estimate an upper one."""
FORMS = ("json_schema", "json_object", "")
"""What a server is asked to enforce; one that refuses gets the next."""
DISPENSABLE = ("temperature", "top_p", "seed", "stream_options", "stream")
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
        self._endpoint = Endpoint(settings)
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
            with closing(self._ask_all(wanted, decoding, cache)) as asked:
                for key, reply in asked:
                    yield from ((place, reply) for place in places[key])

    def streamed(self, messages: Messages, decoding: Decoding, say: Callable[[str], None]) -> Reply:
        """Return the reply that `generate` gives, having called `say` with its pieces as they came.

        Thoughts are not said, save those of a server that leaves out where they start: the reply
        then follows apart. A reply from the cache or from a server that does not stream is said at
        once. A stream that breaks off is asked for again if nothing was said yet; else the reply
        has status "error" and the text so far.

        Raises:
            ServerError, EgressError, UsageError: as `replies`.
        """
        speaker = Speaker(say)
        key = self._key(messages, decoding, None)
        with _open_cache(self._cache) as cache:
            if reply := cache.get(key):
                self.usage.cached += 1
                speaker.finish(reply.text)
                return reply
            with closing(self._endpoint.client()) as client:
                reply = self._ask(client, messages, decoding, None, speaker)
            if reply.status != "error":
                cache.put(key, self.name, reply)
            return reply

    def kept(
        self, prompts: Sequence[Messages], decoding: Decoding, schemas: Sequence[Schema | None]
    ) -> list[bool]:
        """Return of each prompt whether the cache holds its reply."""
        with _open_cache(self._cache) as cache:
            return [
                cache.get(self._key(messages, decoding, schema)) is not None
                for messages, schema in zip(prompts, schemas, strict=True)
            ]

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
        cache: "_Cache",
    ) -> Generator[tuple[str, Reply], None, None]:
        """Yield (key, reply) in the order in which replies arrive.

        A reply is kept when it comes, not when it is taken: what is taken may be slow or stop.
        """

        def ask(key: str, messages: Messages, schema: Schema | None) -> Reply:
            reply = self._ask(client, messages, decoding, schema)
            if reply.status != "error":
                cache.put(key, self.name, reply)
            return reply

        with ExitStack() as stack:
            client = stack.enter_context(closing(self._endpoint.client()))
            pool = ThreadPoolExecutor(self.settings.concurrency, "chat")
            stack.callback(pool.shutdown, cancel_futures=True)
            futures = {
                pool.submit(ask, key, messages, schema): key
                for key, (messages, schema) in prompts.items()
            }
            for future in as_completed(futures):
                yield futures[future], future.result()

    def _ask(
        self,
        client: "OpenAI",
        messages: Messages,
        decoding: Decoding,
        schema: Schema | None,
        speaker: Speaker | None = None,
    ) -> Reply:
        """Return the server's reply to one prompt, or an error reply that says what failed."""

        def send() -> _Heard:
            started = time.monotonic()
            answer = self._request(client, messages, decoding, schema, streams=speaker is not None)
            heard = self._heard(answer, speaker)
            self._count(heard, time.monotonic() - started)
            return heard

        started = time.monotonic()
        try:
            reply = _reply(self._endpoint.ask(send))
        except RequestFailed as error:
            reply = Reply("", "error", error.reason)
        taken = time.monotonic() - started
        return replace(reply, attempts=self._endpoint.sent, seconds=taken)

    def _request(
        self,
        client: "OpenAI",
        messages: Messages,
        decoding: Decoding,
        schema: Schema | None,
        *,
        streams: bool,
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
            if streams:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
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

    def _heard(self, answer: Any, speaker: Speaker | None) -> "_Heard":
        """Return what the server said, whether it streams or not, having said it to the speaker."""
        import openai

        if isinstance(answer, openai.Stream):
            with answer:
                kind = answer.response.headers.get("content-type", "")
                if "json" in kind:  # it has not heard of streams: the next try is without
                    self._refused |= {"stream", "stream_options"}
                    raise ValueError("the server does not stream")
                if "html" not in kind:
                    return _heard_stream(answer, speaker or Speaker(lambda piece: None))
        if not isinstance(answer, openai.types.chat.ChatCompletion):
            raise ServerError(
                f"{self.settings.base_url} answered with something else than a chat completion; "
                "check that base_url ends as the server wants (often /v1)."
            )
        heard = _heard_whole(answer)
        if speaker is not None:
            speaker.finish(without_thinking(heard.text))
        return heard

    def _count(self, heard: "_Heard", seconds: float) -> None:
        with self._lock:
            self.usage.requests += 1
            self.usage.seconds += seconds
            self.usage.tokens_in += heard.tokens_in
            self.usage.tokens_out += heard.tokens_out
            self.usage.cost += (
                heard.tokens_in * self.settings.price_in
                + heard.tokens_out * self.settings.price_out
            ) / 1e6


class _Heard(NamedTuple):
    """What a server said, before it is judged."""

    text: str = ""
    refusal: str = ""
    finish: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    missing: str = ""
    """Why there is no whole reply."""


def _heard_whole(completion: Any) -> _Heard:
    usage = completion.usage
    tokens = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    if not completion.choices:
        return _Heard("", "", "", *tokens, "the reply holds no choice")
    choice = completion.choices[0]
    text, refusal = _text(choice.message.content), choice.message.refusal or ""
    return _Heard(text, refusal, choice.finish_reason or "", *tokens)


def _heard_stream(stream: Any, speaker: Speaker) -> _Heard:
    """Return what comes in pieces, said as it comes.

    Raises:
        ValueError: the stream broke off before anything was said.
    """
    import openai

    text = refusal = finish = missing = ""
    tokens = (0, 0)
    try:
        for chunk in stream:
            if chunk.usage:
                tokens = (chunk.usage.prompt_tokens or 0, chunk.usage.completion_tokens or 0)
            for choice in chunk.choices[:1]:
                text += _text(choice.delta.content)
                refusal += choice.delta.refusal or ""
                finish = choice.finish_reason or finish
                speaker.hear(_certain(text))
    except (openai.APIError, ValueError) as error:
        missing = f"the stream broke off ({first_line(error)})"
    if not finish:
        missing = missing or "the stream ended before the reply did"
    if missing and not speaker.said:
        raise ValueError(missing)
    speaker.finish(without_thinking(text))
    return _Heard(text, refusal, finish, *tokens, "" if finish else missing)


def _reply(heard: _Heard) -> Reply:
    text = without_thinking(heard.text)
    tokens = (heard.tokens_in, heard.tokens_out)
    if heard.missing:
        return Reply(text, "error", heard.missing, *tokens)
    if heard.refusal or heard.finish == "content_filter":
        reason = heard.refusal or "withheld by the server's content filter"
        return Reply(text, "refused", reason, *tokens)
    if heard.finish == "length":
        return Reply(text, "truncated", "cut at max_tokens", *tokens)
    if not text:
        return Reply("", "error", EMPTY, *tokens)
    return Reply(text, "ok", "", *tokens)


def without_thinking(text: str) -> str:
    """Return the text without the thoughts before it; an unclosed one reaches to the end."""
    return THOUGHT_WITHOUT_START.sub("", THOUGHT.sub("", text)).strip()


def _certain(text: str) -> str:
    """Return what of an unfinished reply will be in the finished one, as far as can be told."""
    return UNCERTAIN.sub("", without_thinking(text)).rstrip()


def _text(content: object) -> str:
    """Return the text of a message, which some servers send as a list with thoughts in it."""
    if not isinstance(content, list):
        return sendable(content) if isinstance(content, str) else ""
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return sendable("".join(str(part.get("text", "")) for part in parts))


def _response_format(form: str, schema: Schema) -> dict[str, object]:
    if form == "json_object":
        return {"type": form}
    return {"type": form, form: {"name": "reply", "strict": True, "schema": dict(schema)}}


def _names(error: Exception, parameter: str) -> bool:
    """Return whether an error speaks of this parameter."""
    return re.search(rf"\b{parameter}\b", str(error)) is not None


class _Cache:
    """Replies by key, in SQLite or nowhere; threads may share it."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def get(self, key: str) -> Reply | None:
        """Return the reply kept under this key."""
        if self._connection is None:
            return None
        with self._lock:
            found = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,))
            row = found.fetchone()
        return Reply(**json.loads(row[0])) if row else None

    def put(self, key: str, model: str, reply: Reply) -> None:
        """Keep a reply; it is on disk when this returns."""
        if self._connection is not None:
            kept = asdict(reply)
            del kept["seconds"]  # a kept reply takes none
            with self._lock:
                self._connection.execute(
                    "INSERT OR REPLACE INTO replies VALUES (?, ?, ?)",
                    (key, model, json.dumps(kept, ensure_ascii=False)),
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
        opened = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        with closing(opened) as connection:
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, model TEXT, reply TEXT)"
            )
            yield _Cache(connection)
    except sqlite3.Error as error:
        raise StepError(
            f"The reply cache {path} cannot be used ({error}); "
            + ("free space" if "full" in str(error) else "delete it")
            + " and run again."
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
