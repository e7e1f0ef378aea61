"""Requests to a judge: replies as they come, and one more chance for those that cannot be read."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from ecg_llm.chat import without_thinking
from ecg_llm.contracts import (
    EMPTY,
    ChatModel,
    Decoding,
    LikelihoodModel,
    Message,
    Messages,
    Progress,
    Reply,
    Schema,
)
from ecg_llm.prompt import harmless, prompt_sha, render
from ecg_llm.records import Answer, Judgement, KeyFacts, digest
from ecg_llm.score.choice import json_objects
from ecg_llm.score.overlap import compared

BATCH = 32
"""Requests that a model in this process reads together, always the same ones."""
QUEUED = 512
"""Requests given at once to a server, to keep it busy."""
NOTHING = "(nothing)"
"""What stands for a first reply without text: some servers refuse a turn that has none."""
UNREAD = ("error", "refused")
"""Statuses of replies whose text is no judgement."""
NO_OBJECT = "it holds no JSON object of its own, or ones that disagree or break off"
EMPTY_ANSWER = "empty answer, not shown to the judge"
NOT_JUDGED = "the judge was not asked"
Problem = Callable[[str], str]
"""A reply's text -> what is wrong with it in a few words; empty: it can be read."""
Judged = TypeVar("Judged", Judgement, KeyFacts)


class Request(NamedTuple):
    """What a judge is asked for one row."""

    row_id: str
    messages: Messages
    schema: Schema
    problem: Problem


class Asked(NamedTuple):
    """A judgement to be made."""

    row: Judgement
    """All that is known without the reply."""
    request: Request | None
    """None: there is nothing to ask; the row says why."""


class Heard(NamedTuple):
    """What came of a request; the reply's tokens are those of both replies."""

    row_id: str
    prompt_sha: str
    reply: Reply
    """The last one; its reason says why it cannot be read and is empty where it can."""
    former: str
    """The text of a first reply that could not be read."""


def hear(
    model: ChatModel,
    requests: Sequence[Request],
    decoding: Decoding,
    done: Collection[str] = (),
    progress: Progress = lambda done, total: None,
) -> Iterator[Heard]:
    """Yield what came of each request that is not in `done`, as the replies come.

    A reply that the request's `problem` finds fault with, or without text, is asked for once more,
    in the same chat; the second one stands, whatever it is. Failed and refused requests are not
    asked again here. Batches of a model in this process are the same whether or not some of their
    rows are done.

    Raises:
        ServerError: the model cannot be reached; what was yielded before is good.
    """
    together = isinstance(model, LikelihoodModel)
    size = BATCH if together else QUEUED
    for start in range(0, len(requests), size):
        batch = requests[start : start + size]
        missing = [request for request in batch if request.row_id not in done]
        asked = batch if together and missing else missing
        told = len(batch) - len(asked)
        for heard in _heard(model, asked, decoding):
            told += 1
            progress(start + told, len(requests))
            if heard.row_id not in done:
                yield heard
        progress(start + len(batch), len(requests))


def _heard(model: ChatModel, requests: Sequence[Request], decoding: Decoding) -> Iterator[Heard]:
    again: list[tuple[Request, Reply, Messages]] = []
    chats, schemas = [r.messages for r in requests], [r.schema for r in requests]
    for place, reply in model.replies(chats, decoding, schemas):
        request = requests[place]
        wrong = _wrong(request, reply)
        if wrong and (reply.status not in UNREAD or reply.reason == EMPTY):
            again.append((request, reply, _again(request.messages, reply.text, wrong)))
        else:
            sha = prompt_sha(request.messages)
            yield Heard(request.row_id, sha, replace(reply, reason=wrong), "")
    chats, schemas = [chat for *_, chat in again], [request.schema for request, *_ in again]
    for place, reply in model.replies(chats, decoding, schemas):
        request, first, _ = again[place]
        yield Heard(
            request.row_id,
            prompt_sha(request.messages),
            replace(
                reply,
                reason=_wrong(request, reply),
                tokens_in=first.tokens_in + reply.tokens_in,
                tokens_out=first.tokens_out + reply.tokens_out,
            ),
            first.text or NOTHING,
        )


def _wrong(request: Request, reply: Reply) -> str:
    """Return why a reply cannot be used; empty: it can, even if it was cut off behind that."""
    if reply.status in UNREAD:
        return reply.reason
    problem = request.problem(reply.text)
    return f"{problem} ({reply.reason})" if problem and reply.reason else problem


def _again(messages: Messages, reply: str, problem: str) -> list[Message]:
    """Return the chat that asks for a reply once more."""
    return [
        *messages,
        {"role": "assistant", "content": harmless(reply) or NOTHING},
        {"role": "user", "content": render("ask_again", {"problem": problem})},
    ]


def filled(row: Judged, heard: Heard, model: str) -> Judged:
    """Return a row with what came of its request to this model."""
    reply = heard.reply
    return row.model_copy(
        update={
            "reply": reply.text,
            "former": heard.former,
            "status": reply.status,
            "reason": reply.reason,
            "model": model,
            "prompt_sha": heard.prompt_sha,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
        }
    )


def judgement_id(judge: str, mode: str, answer: Answer) -> str:
    """Return the key of what this judge says in this mode about this answer alone."""
    order = [answer.arm]
    return digest(judge, answer.question_id, mode, order, answer.repeat, answer.permutation)


def unshown(answer: Answer) -> Reply | None:
    """Return what stands for the judge's reply to an answer that it need not see."""
    if answer.status == "error":
        return Reply("", "error", f"the answer failed: {answer.reason}")
    if answer.status == "refused":
        return Reply("", "refused", f"the answer was refused: {answer.reason}")
    return None if shown_text(answer) else Reply("", "ok", EMPTY_ANSWER)


def shown_text(answer: Answer) -> str:
    """Return an answer's text as a judge is shown it.

    Citation keys are taken out, since they would tell which arms looked into the literature.
    """
    return harmless(compared(answer.text)).strip()


def fence(*texts: str) -> str:
    """Return a line to stand before and behind these texts, which their authors cannot foresee."""
    return f"=== {digest(*texts, length=12)} ==="


def last_object(reply: str, keys: Set[str], shown: str = "") -> dict[str, Any]:
    """Return the last JSON object of a reply that is the judge's own, its keys in small letters.

    Prose may stand before and behind it. Objects copied from the text `shown` to the judge, in
    whatever spelling, are not the judge's: they neither count nor contradict. Of the others the
    last one with one of these `keys` is taken. Empty: there is none, two say something else under
    these keys, or one at the end of the reply breaks off. Halves of surrogate pairs, which JSON can
    escape and no UTF-8 file can hold, are replaced.
    """
    said = without_thinking(reply)
    objects = json_objects(said)
    if not objects or "{" in said[objects[-1][1] :]:
        return {}
    theirs = _bare(shown) if "{" in shown else ""
    small = ({key.strip().lower(): one for key, one in value.items()} for value, _ in objects)
    texts = [json.dumps(one, ensure_ascii=False) for one in small]
    own = [json.loads(text) for text in texts if not theirs or _bare(text) not in theirs]
    telling = [one for one in own if keys & one.keys()]
    claims = {json.dumps([one.get(key) for key in keys]).lower() for one in telling}
    if not own or len(claims) > 1:
        return {}
    text = json.dumps((telling or own)[-1], ensure_ascii=False)
    made: dict[str, Any] = json.loads(text.encode("utf-8", "replace").decode("utf-8"))
    return made


def why_unread(row: Judgement | None) -> str:
    """Return why there is no judgement, from its row."""
    if row is None:
        return NOT_JUDGED
    reason = row.reason or NO_OBJECT
    return reason if row.status == "ok" else f"{row.status}: {reason}"


def unchanged(
    former: Iterable[Judged], requests: Iterable[Request], model: ChatModel
) -> dict[str, Judged]:
    """Return, by row_id, the rows that this model gave to the same requests in a former run."""
    shas = {request.row_id: prompt_sha(request.messages) for request in requests}
    return {
        row.key[0]: row
        for row in former
        if row.status != "error"
        and row.model == model.name
        and row.prompt_sha == shas.get(row.key[0])
    }


def _bare(text: str) -> str:
    """Return the letters and digits of a text: what is left whatever quotes or escapes it."""
    unescaped = re.sub(r"\\+u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), text, flags=re.I)
    return re.sub(r"\\+[bfnrt]|[\W_]+", "", unescaped).casefold()
