"""Windows of passages to drafts of questions, written by one language model or several."""

import json
import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import Queue
from threading import Event, Thread
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from ecg_llm.config import Questions
from ecg_llm.contracts import ChatModel, Decoding, Message, Reply, Window, Writer
from ecg_llm.prompt import prompt_sha, render, template, without_fence
from ecg_llm.questions.writing.windows import Slot, plan
from ecg_llm.records import Difficulty, Draft, Passage, QuestionKind, QuestionType, digest

RETRIES = 3
"""Times that a refused, truncated or empty reply is asked for again."""
LANGUAGES: Mapping[str, str] = {
    "en": "English",
    "de": "German",
    "text": "the language of the text",
}
TYPES: Mapping[str, str] = {
    "fact": "what something is, where it is or what it does",
    "criterion": "what must be found for a diagnosis or a finding",
    "mechanism": "why or how something comes about",
    "comparison": "how two things differ",
    "differential": "what else shows this finding, and what tells them apart",
    "threshold": "a number with its unit",
    "management": "what is to be done",
}
DIFFICULTIES: Mapping[str, str] = {
    "easy": "one step of recall",
    "medium": "a detail or a relation that a resident should know",
    "hard": "several facts must be combined, or applied to a situation",
}
FORM = (
    '{"questions": [{"type": "...", "difficulty": "...", "question": "...", "answer": "...", '
    '"evidence": %s%s}]}'
)
DISTRACTORS = ', "distractors": ["...", "...", "..."]'
NO_REPLY = Reply("", "error", "never asked")


class Written(BaseModel):
    """One question as a writer replies it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    question: str
    answer: str
    evidence: str | tuple[str, ...]
    """Several spans where the answer joins several passages."""
    distractors: tuple[str, ...] = ()
    type: str = ""
    difficulty: str = ""

    @property
    def spans(self) -> tuple[str, ...]:
        """Return the quoted spans."""
        return (self.evidence,) if isinstance(self.evidence, str) else self.evidence


class UnparsedReply(ValueError):
    """A reply that is not {"questions": [...]}; the message says where it is not."""


def parse(reply: str) -> list[Written | str]:
    """Return the questions of a reply; for an item that is no question, a text saying why.

    One code fence around the whole reply is taken off; nothing else is mended.

    Raises:
        UnparsedReply: the reply as a whole is not {"questions": [...]}.
    """
    return [_written(item) for item in listed(reply, "questions")]


def listed(reply: str, key: str) -> list[object]:
    """Return the list that stands under this key of a JSON reply.

    Raises:
        UnparsedReply: the reply as a whole is not {key: [...]}.
    """
    try:
        value = json.loads(without_fence(reply))
    except (ValueError, RecursionError) as error:
        raise UnparsedReply(f"not JSON ({error})") from None
    items = value.get(key) if isinstance(value, dict) else None
    if not isinstance(items, list):
        raise UnparsedReply(f'no list under "{key}"')
    return items


def first_problem(error: ValidationError) -> str:
    """Return where an item of a reply is not in the form asked for, and why."""
    problem = error.errors()[0]
    return f"{'.'.join(str(place) for place in problem['loc'])} {problem['msg']}".strip()


def _written(item: object) -> Written | str:
    try:
        # Through JSON, since a strict tuple does not take a list.
        return Written.model_validate_json(json.dumps(item))
    except ValidationError as error:
        return first_problem(error)


def schema(kind: QuestionKind, count: int, joined: bool = False) -> dict[str, object]:
    """Return the JSON schema of a reply with up to `count` questions."""
    text: dict[str, object] = {"type": "string"}
    spans = {"type": "array", "items": text, "minItems": 2, "maxItems": 2}
    fields: dict[str, object] = {
        "type": text | {"enum": list(get_args(QuestionType))},
        "difficulty": text | {"enum": list(get_args(Difficulty))},
        "question": text,
        "answer": text,
        "evidence": spans if joined else text,
    }
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


def draft_id(window: Sequence[Passage], kind: QuestionKind) -> str:
    """Return the key of the draft that a writer makes of this window."""
    return digest([passage.passage_id for passage in window], kind)


@dataclass
class _Job:
    """One draft in the making."""

    window: Window
    kind: QuestionKind
    plan: Sequence[Slot]
    messages: Sequence[Message]
    best: Reply = NO_REPLY
    questions: int = -1
    """That `best` holds; -1 if it is not in the form asked for."""
    flaw: str = ""
    """What is wrong with the form of `best`."""
    problem: str = ""
    """What the model is told is wrong with `best`; empty if nothing, or if it was told before."""
    told: bool = False
    asked: int = 0
    attempts: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class LlmWriter:
    """A chat model that writes questions of each kind from each window, by its plan.

    Drafts in `done` (their draft_ids) are not written again. `pause` is the number of seconds
    before the first round of retries; it doubles from round to round, with jitter.
    """

    def __init__(
        self,
        model: ChatModel,
        settings: Questions,
        decoding: Decoding,
        done: Collection[str] = (),
        pause: float = 0.5,
    ) -> None:
        self._model = model
        self._settings = settings
        self._decoding = decoding
        self._done = done
        self._pause = pause

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._model.name

    def write(self, windows: Sequence[Window]) -> Iterator[Draft]:
        """Yield one draft for every window and kind, as the replies come.

        A reply that is not the JSON asked for goes back once with the parser's complaint; of two
        such replies the one with more questions is kept, and verify.questions drops what is
        unreadable, with its reason. Refused, truncated and empty replies are asked for up to
        three times more, each time with another seed.
        """
        jobs = [
            self._job(window, kind)
            for window in windows
            for kind in self._settings.kinds
            if draft_id(window.passages, kind) not in self._done
        ]
        for attempt in range(RETRIES + 1):
            again: list[_Job] = []
            for job in self._ask(jobs, attempt):
                if self._settled(job):
                    yield self._draft(job)
                else:
                    again.append(job)
            if not again:
                return
            if any(not job.problem for job in again):
                time.sleep(self._pause * 2**attempt * random.uniform(0.5, 1))
            jobs = again

    def _ask(self, jobs: Sequence[_Job], attempt: int) -> Iterator[_Job]:
        """Yield the jobs as they are replied to, with what came of it."""
        count = self._settings.per_window
        forms = [schema(job.kind, count, job.window.joined) for job in jobs]
        decoding = replace(self._decoding, seed=self._decoding.seed + attempt)
        prompts = [self._prompt(job) for job in jobs]
        for place, reply in self._model.replies(prompts, decoding, forms):
            job = jobs[place]
            job.asked += 1
            job.attempts += reply.attempts
            job.tokens_in += reply.tokens_in
            job.tokens_out += reply.tokens_out
            questions, problem = _judged(reply)
            job.told |= bool(job.problem)
            job.problem = "" if job.told else problem
            if questions > job.questions or job.best.status != "ok":
                job.best, job.questions, job.flaw = reply, questions, problem
            yield job

    def _settled(self, job: _Job) -> bool:
        """Return whether a job is done, for better or worse."""
        return job.asked > RETRIES or not (job.problem or job.best.may_differ)

    def _prompt(self, job: _Job) -> Sequence[Message]:
        if not job.problem:
            return job.messages
        return [
            *job.messages,
            Message(role="assistant", content=job.best.text),
            Message(role="user", content=render("write_repair", {"problem": job.problem})),
        ]

    def _job(self, window: Window, kind: QuestionKind) -> _Job:
        slots = plan(window, kind, self._settings)
        lines = (
            f"{n}. {_source(window, slot)}: type {slot.type}, difficulty {slot.difficulty}"
            for n, slot in enumerate(slots, start=1)
        )
        values = {
            "plan": "\n".join(lines),
            "types": _explained(TYPES, self._settings.types),
            "difficulties": _explained(DIFFICULTIES, self._settings.difficulties),
            "language": LANGUAGES[self._settings.language],
            "joined": f"{template('write_joined')}\n" if window.joined else "",
            "text": window_text(window.passages),
            "form": FORM
            % (
                '["...", "..."]' if window.joined else '"..."',
                DISTRACTORS if kind == "choice" else "",
            ),
        }
        messages = [Message(role="user", content=render(f"write_{kind}", values))]
        return _Job(window, kind, slots, messages)

    def _draft(self, job: _Job) -> Draft:
        best = job.best
        note = best.reason
        if job.flaw:
            note = "asked twice in vain"
        elif best.status == "truncated":
            note = f"{best.reason} ({self._decoding.max_tokens}); raise questions.max_tokens"
        return Draft(
            draft_id=draft_id(job.window.passages, job.kind),
            passage_ids=tuple(passage.passage_id for passage in job.window.passages),
            kind=job.kind,
            plan=tuple(f"{slot.type}/{slot.difficulty}" for slot in job.plan),
            reply=best.text,
            status=best.status,
            reason=note,
            attempts=job.attempts,
            model=self._model.name,
            prompt_sha=prompt_sha(job.messages),
            tokens_in=job.tokens_in,
            tokens_out=job.tokens_out,
        )


def write_together(writers: Sequence[Writer], windows: Sequence[Window]) -> Iterator[Draft]:
    """Yield the drafts of several writers at work at once, as they come.

    Windows are dealt to the writers in turn, document by document, so that which writer a window
    gets depends on its document alone.
    """
    if len(writers) == 1:
        yield from writers[0].write(windows)
        return
    hands: list[list[Window]] = [[] for _ in writers]
    for window in windows:
        start = int(digest(window.passages[0].doc_id, length=8), 16)
        hands[(start + window.number) % len(writers)].append(window)
    arrived: Queue[Draft | BaseException | None] = Queue()
    stopped = Event()
    threads = [
        Thread(target=_deliver, args=(writer, hand, arrived, stopped), daemon=True)
        for writer, hand in zip(writers, hands, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        working = len(threads)
        while working:
            found = arrived.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                working -= 1
            else:
                yield found
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def _deliver(
    writer: Writer,
    windows: Sequence[Window],
    arrived: "Queue[Draft | BaseException | None]",
    stopped: Event,
) -> None:
    """Put a writer's drafts into the queue, then None or what stopped it."""
    try:
        for draft in writer.write(windows):
            if stopped.is_set():
                break
            arrived.put(draft)
        arrived.put(None)
    except BaseException as error:  # noqa: BLE001 - raised again where the drafts are read
        arrived.put(error)


def window_text(window: Sequence[Passage]) -> str:
    """Return the passages of a window as one text, numbered, each new section under its heading."""
    parts: list[str] = []
    section = ""
    for number, passage in enumerate(window, start=1):
        if passage.section and passage.section != section:
            section = passage.section
            parts.append(f"Section: {section}")
        parts.append(f"[{number}] {passage.text}")
    return "\n\n".join(parts)


def _source(window: Window, slot: Slot) -> str:
    return "from both passages" if window.joined else f"from passage [{slot.passage + 1}]"


def _explained(meanings: Mapping[str, str], names: Sequence[str]) -> str:
    return "; ".join(f"{name} = {meanings[name]}" for name in names) + "."


def _judged(reply: Reply) -> tuple[int, str]:
    """Return how many questions a reply holds (-1: unreadable) and what is wrong with its form."""
    if reply.status != "ok":
        return -1, ""
    try:
        items = parse(reply.text)
    except UnparsedReply as error:
        return -1, str(error)
    problems = [item for item in items if isinstance(item, str)]
    return len(items) - len(problems), "; ".join(problems)
