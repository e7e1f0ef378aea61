"""Passages to windows, windows to drafts of questions written by a language model."""

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from ecg_llm.config import Questions
from ecg_llm.contracts import ChatModel, Decoding, Message, Reply
from ecg_llm.prompt import prompt_sha, render, template
from ecg_llm.records import Draft, Passage, QuestionKind, digest

LANGUAGES: Mapping[str, str] = {
    "en": "English",
    "de": "German",
    "text": "the language of the text",
}
REPAIR = (
    "This was not the JSON object asked for: {problem}. Write the same questions again as one JSON "
    "object in the form asked for, and nothing else."
)


class Written(BaseModel):
    """One question as a writer replies it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    question: str
    answer: str
    evidence: str
    distractors: tuple[str, ...] = ()


class UnparsedReply(ValueError):
    """A reply that is not {"questions": [...]}; the message says where it is not."""


def parse(reply: str) -> list[Written | str]:
    """Return the questions of a reply; for an item that is no question, a text saying why.

    One code fence around the whole reply is taken off; nothing else is mended.

    Raises:
        UnparsedReply: the reply as a whole is not {"questions": [...]}.
    """
    text = reply.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.partition("\n")[2].removesuffix("```")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnparsedReply(f"not JSON ({error})") from None
    items = value.get("questions") if isinstance(value, dict) else None
    if not isinstance(items, list):
        raise UnparsedReply('no list under "questions"')
    return [_written(item) for item in items]


def _written(item: object) -> Written | str:
    try:
        # Through JSON, since a strict tuple does not take a list.
        return Written.model_validate_json(json.dumps(item))
    except ValidationError as error:
        problem = error.errors()[0]
        return f"{'.'.join(str(place) for place in problem['loc'])} {problem['msg']}".strip()


def schema(kind: QuestionKind, count: int) -> dict[str, object]:
    """Return the JSON schema of a reply with up to `count` questions."""
    text = {"type": "string"}
    fields: dict[str, object] = {"question": text, "answer": text, "evidence": text}
    if kind == "choice":
        fields["distractors"] = {"type": "array", "items": text, "minItems": 3, "maxItems": 3}
    item = {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"questions": {"type": "array", "items": item, "maxItems": count}},
        "required": ["questions"],
        "additionalProperties": False,
    }


def windows(
    passages: Sequence[Passage], settings: Questions, seed: int
) -> list[tuple[Passage, ...]]:
    """Return consecutive passages of one document, joined up to settings.window tokens.

    Hidden passages are left out; the caller gives only the kinds it wants. A passage larger than
    the window stands alone. With settings.limit the result is a seeded sample that takes windows
    from every document in turn.
    """
    documents: dict[str, list[Passage]] = defaultdict(list)
    for passage in sorted(passages, key=lambda p: (p.doc_id, p.start, p.end)):
        if not passage.hidden:
            documents[passage.doc_id].append(passage)
    joined = {doc_id: _joined(members, settings.window) for doc_id, members in documents.items()}
    if settings.limit is None:
        return [window for found in joined.values() for window in found]
    return _sample(joined, settings.limit, random.Random(seed))


def _joined(passages: Sequence[Passage], budget: int) -> list[tuple[Passage, ...]]:
    found: list[list[Passage]] = []
    tokens = 0
    for passage in passages:
        if not found or tokens + passage.tokens > budget:
            found.append([])
            tokens = 0
        found[-1].append(passage)
        tokens += passage.tokens
    return [tuple(window) for window in found]


def _sample(
    joined: Mapping[str, list[tuple[Passage, ...]]], limit: int, rng: random.Random
) -> list[tuple[Passage, ...]]:
    """Return `limit` windows, one a document in turn, in document order."""
    queues = [rng.sample(found, len(found)) for found in joined.values()]
    rng.shuffle(queues)
    turns = max(map(len, queues), default=0)
    ordered = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    return sorted(ordered[:limit], key=lambda window: (window[0].doc_id, window[0].start))


def draft_id(window: Sequence[Passage], kind: QuestionKind, repeat: int = 0) -> str:
    """Return the key of the draft that a writer makes of this window."""
    return digest([passage.passage_id for passage in window], kind, repeat)


class LlmWriter:
    """A chat model that writes settings.per_window questions of each kind from each window."""

    def __init__(self, model: ChatModel, settings: Questions, decoding: Decoding) -> None:
        self._model = model
        self._settings = settings
        self._decoding = decoding

    @property
    def name(self) -> str:
        """Name of the model and digest of the prompts: all that decides the drafts."""
        prompts = [template(f"write_{kind}") for kind in self._settings.kinds]
        return f"{self._model.name}/{digest(prompts, REPAIR, length=8)}"

    def write(self, windows: Sequence[Sequence[Passage]]) -> list[Draft]:
        """Return one draft for every window and kind, in order.

        A reply that is not the JSON asked for is sent back once with the parser's complaint; if
        the second is no better, the first is kept, and verify.questions drops it with its reason.
        """
        drafts: list[Draft] = []
        for kind in self._settings.kinds:
            drafts.extend(self._write(windows, kind))
        kinds = len(self._settings.kinds)
        return [drafts[k * len(windows) + w] for w in range(len(windows)) for k in range(kinds)]

    def _write(self, windows: Sequence[Sequence[Passage]], kind: QuestionKind) -> list[Draft]:
        prompts = [self._messages(window, kind) for window in windows]
        form = schema(kind, self._settings.per_window)
        replies = self._model.generate(prompts, self._decoding, form)
        problems = {i: problem for i, r in enumerate(replies) if (problem := _problem(r))}
        again = [
            [
                *prompts[i],
                Message(role="assistant", content=replies[i].text),
                Message(role="user", content=REPAIR.format(problem=problem)),
            ]
            for i, problem in problems.items()
        ]
        repaired = dict(
            zip(problems, self._model.generate(again, self._decoding, form), strict=True)
        )
        return [
            self._draft(window, kind, prompts[i], replies[i], repaired.get(i))
            for i, window in enumerate(windows)
        ]

    def _draft(
        self,
        window: Sequence[Passage],
        kind: QuestionKind,
        messages: Sequence[Message],
        first: Reply,
        second: Reply | None,
    ) -> Draft:
        best, note = first, first.reason
        if second is not None:
            good = second.status == "ok" and not _problem(second)
            best, note = (second, "") if good else (first, "asked twice in vain")
        return Draft(
            draft_id=draft_id(window, kind),
            passage_ids=tuple(passage.passage_id for passage in window),
            kind=kind,
            reply=best.text,
            status=best.status,
            reason=note,
            model=self._model.name,
            prompt_sha=prompt_sha(messages),
            tokens_in=first.tokens_in + (second.tokens_in if second else 0),
            tokens_out=first.tokens_out + (second.tokens_out if second else 0),
        )

    def _messages(self, window: Sequence[Passage], kind: QuestionKind) -> list[Message]:
        values = {
            "count": str(self._settings.per_window),
            "language": LANGUAGES[self._settings.language],
            "text": window_text(window),
        }
        return [Message(role="user", content=render(f"write_{kind}", values))]


def window_text(window: Sequence[Passage]) -> str:
    """Return the passages of a window as one text, each new section under its heading."""
    parts: list[str] = []
    section = ""
    for passage in window:
        if passage.section and passage.section != section:
            section = passage.section
            parts.append(f"[{section}]")
        # The markers around the text must stay the only ones.
        parts.append(passage.text.replace("TEXT>>>", "TEXT"))
    return "\n\n".join(parts)


def _problem(reply: Reply) -> str:
    """Return what is wrong with the form of a reply; empty if nothing, or if it has failed."""
    if reply.status != "ok":
        return ""
    try:
        items = parse(reply.text)
    except UnparsedReply as error:
        return str(error)
    return "; ".join(item for item in items if isinstance(item, str))
