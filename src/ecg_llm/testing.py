"""Fakes and contract checks for authors of components and for this project's own tests."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

import numpy as np

from ecg_llm.contracts import (
    ChatModel,
    Decoding,
    Embedder,
    Messages,
    Reply,
    Reranker,
    Schema,
    StreamingModel,
    Window,
    Writer,
)
from ecg_llm.records import Draft, Passage

ReplyFunction = Callable[[list[dict[str, str]], dict[str, Any]], str | list[dict[str, object]]]
"""(messages, request body) -> content of the reply: a text, or a list of parts."""
Fault = int | Literal["stall", "cut", "broken", ""]
"""A status, no answer at all, a body that ends early, a body that is no JSON; "" for none."""


def letters(texts: Sequence[str]) -> list[list[float]]:
    """Return a vector of letter counts for each text: equal for equal texts, near for near ones."""
    return [[1.0, *(float(text.lower().count(chr(97 + n))) for n in range(15))] for text in texts]


def common_words(query: str, texts: Sequence[str]) -> list[float]:
    """Return the number of the query's words in each text, as a reranker's scores."""
    wanted = set(re.findall(r"\w+", query.lower()))
    return [float(len(wanted & set(re.findall(r"\w+", text.lower())))) for text in texts]


class FakeServer:
    """A real server on 127.0.0.1 that speaks chat (streamed or not), embeddings and reranking.

    Use it as a context manager; `base_url` is what a client needs. `reply` writes each answer of
    /v1/chat/completions, `vectors` those of /v1/embeddings and `relevance` the scores of
    /v1/rerank. The first `fail_first` requests get `fail_status`; `fault` says of each request, by
    its number from 1 and its body, what goes wrong ("cut" ends a stream after half its pieces); a
    request with a parameter or response format named in `rejects` gets 400; `key` is the API key
    asked for, if any; every answer waits `delay` seconds, and a stream as long before each piece of
    `piece` characters. `streams` off: stream=True is overlooked. `finish_reason` may be "length" or
    "content_filter". `requests` holds the bodies of all requests, in order of arrival.
    """

    def __init__(
        self,
        reply: ReplyFunction = lambda messages, body: "ok",
        *,
        vectors: Callable[[Sequence[str]], Sequence[object]] = letters,
        relevance: Callable[[str, Sequence[str]], Sequence[float]] = common_words,
        model: str = "fake",
        fail_first: int = 0,
        fail_status: int = 500,
        fault: Callable[[int, dict[str, Any]], Fault] = lambda number, body: "",
        rejects: Sequence[str] = (),
        key: str = "",
        delay: float = 0.0,
        finish_reason: str = "stop",
        streams: bool = True,
        piece: int = 3,
    ) -> None:
        self.reply = reply
        self.vectors = vectors
        self.relevance = relevance
        self.model = model
        self.fail_first = fail_first
        self.fail_status = fail_status
        self.fault = fault
        self.rejects = rejects
        self.key = key
        self.delay = delay
        self.finish_reason = finish_reason
        self.streams = streams
        self.piece = piece
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """Address for study.yaml, while the server runs."""
        if self._server is None:
            raise RuntimeError("FakeServer is a context manager: use it in a with statement")
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "FakeServer":
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = self._thread = None

    def answer(
        self, path: str, body: dict[str, Any], authorization: str
    ) -> tuple[int, dict[str, Any], Fault]:
        """Return the status and body with which a request is answered, and how it breaks."""
        with self._lock:
            self.requests.append(body)
            number = len(self.requests)
        time.sleep(self.delay)
        if self.key and authorization != f"Bearer {self.key}":
            return 401, _error("wrong API key"), ""
        if number <= self.fail_first:
            why = f"failing on purpose ({number} of {self.fail_first})"
            return self.fail_status, _error(why), ""
        fault = self.fault(number, body)
        if isinstance(fault, int):
            return fault, _error("failing on purpose"), ""
        if body.get("model") != self.model:
            return 404, _error(f"no model named {body.get('model')}"), ""
        for name in (*body, body.get("response_format", {}).get("type", "")):
            if name in self.rejects:
                return 400, _error(f"{name} is not supported"), ""
        makers = {
            "/v1/chat/completions": self._chat,
            "/v1/embeddings": self._embeddings,
            "/v1/rerank": self._scores,
        }
        return 200, {"id": f"made-{number}", "model": self.model, **makers[path](body)}, fault

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        content = self.reply(body["messages"], body)
        return {
            "object": "chat.completion",
            "created": 0,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content},
                    "finish_reason": self.finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": sum(len(m["content"].split()) for m in body["messages"]),
                "completion_tokens": len(str(content).split()),
                "total_tokens": 0,
            },
        }

    def _embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self.vectors(body["input"])
        data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(found)]
        return {"object": "list", "data": data[::-1]}  # the index says which is whose

    def _scores(self, body: dict[str, Any]) -> dict[str, Any]:
        scores = self.relevance(body["query"], body["documents"])
        results = [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
        return {"results": sorted(results, key=lambda one: -one["relevance_score"])}


class _Handler(BaseHTTPRequestHandler):
    """Requests of one FakeServer."""

    fake: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Else every answer waits 40 ms for the client's acknowledgement of its head."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            models = [{"id": self.fake.model, "object": "model", "created": 0, "owned_by": "test"}]
            self._send(200, {"object": "list", "data": models})
        else:
            self._send(404, _error(f"nothing at {self.path}"))

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path not in ("/v1/chat/completions", "/v1/embeddings", "/v1/rerank"):
            self._send(404, _error(f"nothing at {self.path}"))
            return
        body = json.loads(data)
        key = self.headers.get("Authorization", "")
        status, made, fault = self.fake.answer(self.path, body, key)
        if status == 200 and body.get("stream") and self.fake.streams and fault != "stall":
            self._stream(made, fault, usage="stream_options" in body)
        else:
            self._send(status, made, fault)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing on stderr."""

    def _stream(self, made: dict[str, Any], fault: Fault, *, usage: bool) -> None:
        """Send a completion in pieces, as server-sent events in chunks."""
        (choice,) = made["choices"]
        content, size = choice["message"]["content"], self.fake.piece
        if isinstance(content, str):
            content = [content[start : start + size] for start in range(0, len(content), size)]
        else:
            content = [[part] for part in content]
        deltas = [({"content": piece}, None) for piece in content]
        deltas.append(({}, choice["finish_reason"]))
        head = made | {"object": "chat.completion.chunk", "usage": None}
        events = [
            json.dumps(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": end}]})
            for delta, end in deltas
        ]
        if usage:
            events.append(json.dumps(head | {"choices": [], "usage": made["usage"]}))
        events.append("[DONE]")
        if fault == "broken":
            events = ["{{{"]
        if fault == "cut":
            del events[len(content) // 2 :]
            self.close_connection = True
        try:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in events:
                time.sleep(self.fake.delay)
                data = f"data: {event}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if fault != "cut":
                self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has gone

    def _send(self, status: int, body: Mapping[str, object], fault: Fault = "") -> None:
        data = json.dumps(body).encode()
        sent = data[: len(data) // 2] if fault == "cut" else data
        if fault == "broken":
            sent = b"{" * len(data)
        try:
            if fault == "stall":
                self.connection.recv(1)  # until the client gives up
            else:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(sent)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up, as clients with a timeout do
        if fault in ("stall", "cut"):
            self.close_connection = True


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "fake_error"}}


class FakeChatModel:
    """A chat model without a network; `reply` maps a chat to a text or to a whole Reply."""

    def __init__(self, reply: Callable[[Messages], str | Reply], name: str = "fake@1") -> None:
        self.reply = reply
        self._name = name
        self.prompts: list[Messages] = []

    @property
    def name(self) -> str:
        """The name given."""
        return self._name

    def generate(
        self,
        prompts: Sequence[Messages],
        decoding: Decoding,
        schema: Schema | None = None,
    ) -> list[Reply]:
        """Return what `reply` says to each chat; `prompts` keeps them for the test."""
        self.prompts.extend(prompts)
        replies = []
        for messages, tokens_in in zip(
            prompts, self.count_tokens([m[-1]["content"] for m in prompts]), strict=True
        ):
            said = self.reply(messages)
            if isinstance(said, str):
                said = Reply(said, tokens_in=tokens_in, tokens_out=self.count_tokens([said])[0])
            replies.append(said)
        return replies

    def replies(
        self,
        prompts: Sequence[Messages],
        decoding: Decoding,
        schema: Schema | Sequence[Schema] | None = None,
    ) -> Iterator[tuple[int, Reply]]:
        """Yield the replies of `generate` one by one."""
        for place, messages in enumerate(prompts):
            yield place, self.generate([messages], decoding)[0]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of words of each text."""
        return [len(text.split()) for text in texts]


def passage(text: str, *, doc_id: str = "d" * 16, start: int = 0, section: str = "") -> Passage:
    """Return a body passage on page 1 that holds this text."""
    end = start + len(text)
    return Passage(
        passage_id=Passage.id_for(doc_id, start, end, text),
        doc_id=doc_id,
        start=start,
        end=end,
        page_from=1,
        page_to=1,
        section=section,
        text=text,
        tokens=max(1, len(text.split())),
    )


def check_chat_model(model: ChatModel) -> None:
    """Check the contract of a chat model on one short prompt and on a batch.

    Raises:
        AssertionError: says what does not hold.
    """
    assert isinstance(model, ChatModel), "name, generate or count_tokens is missing"
    assert model.name, "the name is empty"
    decoding = Decoding(max_tokens=8)
    prompts: list[Messages] = [
        [{"role": "user", "content": f"What is a normal PR interval? ({i})"}] for i in range(3)
    ]
    assert model.generate([], decoding) == [], "no prompts must give no replies"
    replies = model.generate(prompts, decoding)
    assert len(replies) == len(prompts), "there must be one reply a prompt"
    for reply in replies:
        assert isinstance(reply, Reply), f"{reply!r} is no Reply"
        assert reply.status == "ok" or reply.reason, f"status {reply.status} has no reason"
        assert reply.tokens_in >= 0, "tokens_in is negative"
        assert reply.tokens_out >= 0, "tokens_out is negative"
    streamed = dict(model.replies(prompts, decoding))
    assert sorted(streamed) == [0, 1, 2], "replies must come once for each place"
    again = [reply.text for reply in model.generate(prompts, decoding)]
    assert again == [reply.text for reply in replies], "greedy replies differ between two calls"
    counts = model.count_tokens(["", "one", "one two three"])
    assert len(counts) == 3, "there must be one count a text"
    assert counts == sorted(counts), "a longer text must not count fewer tokens"


def check_streaming(model: StreamingModel) -> None:
    """Check that a chat model streams the reply that it gives at once.

    Raises:
        AssertionError: says what does not hold.
    """
    assert isinstance(model, StreamingModel), "streamed is missing"
    decoding = Decoding(max_tokens=8)
    prompt: Messages = [{"role": "user", "content": "What is a normal PR interval?"}]
    (whole,) = model.generate([prompt], decoding)
    pieces: list[str] = []
    reply = model.streamed(prompt, decoding, pieces.append)
    assert reply.text == whole.text, "the streamed reply is another than that of generate"
    assert reply.status == whole.status, "the streamed reply has another status"
    assert "".join(pieces) == reply.text, "the pieces do not make the reply"


def check_reranker(reranker: Reranker) -> None:
    """Check the contract of a reranker on three short texts.

    Raises:
        AssertionError: says what does not hold.
    """
    assert isinstance(reranker, Reranker), "name or rerank is missing"
    assert reranker.name, "the name is empty"
    texts = ["bread is baked", "atrial fibrillation has no P waves", "bread is baked"]
    scores = list(reranker.rerank("P waves in atrial fibrillation", texts))
    assert len(scores) == len(texts), "there must be one score a text"
    assert np.isfinite(scores).all(), "scores must be numbers"
    assert np.isclose(scores[0], scores[2], atol=1e-2), "equal texts must have equal scores"
    assert not list(reranker.rerank("P waves", [])), "no texts must give no scores"


def check_embedder(embedder: Embedder) -> None:
    """Check the contract of an embedder on three short texts.

    Raises:
        AssertionError: says what does not hold.
    """
    assert isinstance(embedder, Embedder), "name, embed or count_tokens is missing"
    assert embedder.name, "the name is empty"
    texts = ["atrial fibrillation", "an irregular rhythm without P waves", "atrial fibrillation"]
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32, f"vectors are {vectors.dtype}, not float32"
    assert vectors.ndim == 2, "vectors must have the shape (texts, dimension)"
    assert len(vectors) == len(texts), "there must be one row a text"
    norms = np.linalg.norm(vectors, axis=1)
    assert np.allclose(norms, 1, atol=1e-3), "rows must have unit length"
    assert np.allclose(vectors[0], vectors[2], atol=1e-2), "equal texts must have equal vectors"
    counts = embedder.count_tokens(["", *texts])
    assert len(counts) == 4, "there must be one count a text"
    assert counts[0] == 0, "the empty text has no tokens, special ones apart"


def check_writer(writer: Writer) -> None:
    """Check the contract of a writer of questions on two windows.

    Raises:
        AssertionError: says what does not hold.
    """
    assert isinstance(writer, Writer), "name or write is missing"
    assert writer.name, "the name is empty"
    texts = {
        "d": "A PR interval longer than 200 ms is defined as first-degree AV block.",
        "e": "The QRS complex represents depolarization of the ventricles.",
    }
    windows = [Window((passage(text, doc_id=name * 16),)) for name, text in texts.items()]
    drafts = list(writer.write(windows))
    assert all(isinstance(draft, Draft) for draft in drafts), "write must return Drafts"
    assert len({draft.draft_id for draft in drafts}) == len(drafts), "draft_id must be unique"
    covered = {draft.passage_ids for draft in drafts}
    wanted = {tuple(p.passage_id for p in window.passages) for window in windows}
    assert covered == wanted, "every window must have a draft, whatever happened"
    for draft in drafts:
        assert draft.status == "ok" or draft.reason, f"status {draft.status} has no reason"
    assert not list(writer.write([])), "no windows must give no drafts"
