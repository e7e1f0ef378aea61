"""Other wordings of training questions, with short and long answers, written by a language model.

One request a question gives all of its variants. Each is checked as it comes, by its numbers, its
words and its vectors; what fails stays as a row with the reason.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from ecg_llm.config import Questions
from ecg_llm.contracts import ChatModel, Decoding, Embedder, Message, Progress, Reply
from ecg_llm.prompt import prompt_sha, render
from ecg_llm.questions.checking import grounding
from ecg_llm.questions.checking.twins import NearIndex, texts_of
from ecg_llm.questions.checking.verify import UNSEEN
from ecg_llm.questions.checking.wording import not_self_contained
from ecg_llm.questions.splitting.contamination import NEIGHBOUR
from ecg_llm.questions.words import plain_text
from ecg_llm.questions.writing.generate import (
    LANGUAGES,
    UnparsedReply,
    first_problem,
    listed,
    window_text,
)
from ecg_llm.records import TESTED, Passage, Question, Variant, digest
from ecg_llm.words import language_of, numbers, support

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PLAN: Mapping[str, str] = {
    "short": "a short question, answered by a phrase",
    "long": "a question that asks for an explanation, answered in two to four sentences",
}
ASKED = 2
"""Times that a question is asked for, at most, with other seeds: refused, cut off, unreadable."""
SENTENCE = re.compile(r"(?<=[.!?])\s+")


class Wording(BaseModel):
    """One variant as the model replies it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    question: str
    answer: str


class _Job(NamedTuple):
    """One question to be worded anew."""

    row: Question
    source: tuple[Passage, ...]
    lengths: tuple[str, ...]
    """Of each of its variants, in order."""
    messages: list[Message]


def variants(
    questions: Sequence[Question],
    passages: Sequence[Passage],
    model: ChatModel,
    settings: Questions,
    decoding: Decoding,
    embedder: Embedder | None = None,
    done: Collection[tuple[Any, ...]] = (),
    progress: Progress = lambda done, total: None,
) -> Iterator[Variant]:
    """Yield the variants of every question of `worded`, as the replies come.

    Each question gives `settings.variants.paraphrases` rows, their lengths in turn, whatever the
    model replied: kept, dropped for a reason of VARIANT_REASONS (of its wording, of
    QUESTION_REASONS), or "error" with what went wrong.
    What a reply holds beyond them is not used. A reply that is refused, cut off or unreadable is
    asked for once more. The tokens of a question's requests stand in its first row.

    Args:
        questions: All, tested ones included, which no variant may come close to.
        passages: Those that models may see.
        model: Who writes.
        settings: `variants`, and of `checks` the similarity.
        decoding: How it writes.
        embedder: Without one, answers and tested questions are compared by their words alone.
        done: Keys of rows that need not be made again; a question is asked again unless all of
            its rows are there.
        progress: Called with (questions done, all).

    Raises:
        ServerError: the model cannot be reached; what was yielded before is good.
    """
    known = {passage.passage_id: passage for passage in passages}
    jobs = [_job(row, known, settings) for row in worded(questions, passages)]
    left = [job for job in jobs if not set(_keys(job)) <= set(done)]
    if not left:
        return
    checker = _Checker(questions, settings, embedder)
    made = len(jobs) - len(left)
    for job, reply in _asked(left, model, decoding):
        yield from _rows(job, reply, model.name, checker)
        made += 1
        progress(made, len(jobs))


def worded(questions: Sequence[Question], passages: Sequence[Passage]) -> list[Question]:
    """Return the questions that get other wordings: open, kept, of train, their passages at hand.

    Without its source nobody could tell whether a longer answer is right.
    """
    known = {passage.passage_id for passage in passages}
    return [
        row
        for row in questions
        if row.status == "kept"
        and row.split == "train"
        and row.kind == "open"
        and row.reference.strip()
        and known.issuperset(_source_ids(row))
    ]


def parse(reply: str) -> list[Wording | str]:
    """Return the variants of a reply; for an item that is none, a text saying why.

    One code fence around the whole reply is taken off; nothing else is mended.

    Raises:
        UnparsedReply: the reply as a whole is not {"variants": [...]}.
    """
    return [_wording(item) for item in listed(reply, "variants")]


def _wording(item: object) -> Wording | str:
    try:
        return Wording.model_validate(item)
    except ValidationError as error:
        return first_problem(error)


def schema(count: int) -> dict[str, object]:
    """Return the JSON schema of a reply with this many variants."""
    item = {
        "type": "object",
        "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
        "required": ["question", "answer"],
        "additionalProperties": False,
    }
    listed = {"type": "array", "items": item, "minItems": count, "maxItems": count}
    return {
        "type": "object",
        "properties": {"variants": listed},
        "required": ["variants"],
        "additionalProperties": False,
    }


def _source_ids(row: Question) -> tuple[str, ...]:
    return tuple(dict.fromkeys((row.passage_id, *(span.passage_id for span in row.joined))))


def _job(row: Question, known: Mapping[str, Passage], settings: Questions) -> _Job:
    source = tuple(known[name] for name in _source_ids(row))
    lengths = settings.variants.lengths
    # The first length differs between questions, so that one variant each gives all lengths.
    start = int(digest(row.question_id, length=8), 16)
    count = settings.variants.paraphrases
    plan = tuple(lengths[(start + number) % len(lengths)] for number in range(count))
    values = {
        "plan": "\n".join(f"{n}. {name}: {PLAN[name]}" for n, name in enumerate(plan, start=1)),
        "language": LANGUAGES.get(row.language, "the language of the question"),
        "question": row.question,
        "answer": row.reference,
        "text": window_text(source),
    }
    return _Job(row, source, plan, [Message(role="user", content=render("write_variants", values))])


def _keys(job: _Job) -> list[tuple[Any, ...]]:
    return [(job.row.question_id, number) for number in range(1, len(job.lengths) + 1)]


def _asked(
    jobs: Sequence[_Job], model: ChatModel, decoding: Decoding
) -> Iterator[tuple[_Job, Reply]]:
    """Yield the last reply to each job as it comes, with the tokens of all."""
    spent: Counter[str] = Counter()
    for attempt in range(ASKED):
        again = []
        forms = [schema(len(job.lengths)) for job in jobs]
        seeded = replace(decoding, seed=decoding.seed + attempt)
        for place, reply in model.replies([job.messages for job in jobs], seeded, forms):
            job = jobs[place]
            read, written = f"{job.row.question_id} in", f"{job.row.question_id} out"
            spent.update({read: reply.tokens_in, written: reply.tokens_out})
            if attempt + 1 < ASKED and (reply.may_differ or _unreadable(reply)):
                again.append(job)
                continue
            reason = reply.reason
            if reply.status == "truncated":
                reason += f" ({decoding.max_tokens}); raise questions.variants.max_tokens"
            yield (
                job,
                replace(reply, reason=reason, tokens_in=spent[read], tokens_out=spent[written]),
            )
        jobs = again


def _unreadable(reply: Reply) -> bool:
    if reply.status != "ok":
        return False
    try:
        return not any(isinstance(item, Wording) for item in parse(reply.text))
    except UnparsedReply:
        return True


def _rows(job: _Job, reply: Reply, model: str, checker: "_Checker") -> Iterator[Variant]:
    """Yield the rows of one reply, one for each line of the plan."""
    failed = "" if reply.status == "ok" else f"{reply.status}: {reply.reason}".rstrip(": ")
    items = [] if failed or _unreadable(reply) else parse(reply.text)
    earlier = [job.row.question]
    for place, length in enumerate(job.lengths):
        said = items[place] if place < len(items) else "missing"
        row = Variant(
            question_id=job.row.question_id,
            number=place + 1,
            length=length,
            status="error" if failed else "dropped",
            reason=failed or "unparsed",
            model=model,
            prompt_sha=prompt_sha(job.messages),
            tokens_in=0 if place else reply.tokens_in,
            tokens_out=0 if place else reply.tokens_out,
        )
        if isinstance(said, Wording):
            wording = Wording(question=_tidy(said.question), answer=_tidy(said.answer))
            reason = checker.problem(job.row, job.source, wording, earlier)
            earlier.append(wording.question)
            row = row.model_copy(
                update={
                    "question": wording.question,
                    "reference": wording.answer,
                    "status": "dropped" if reason else "kept",
                    "reason": reason,
                }
            )
        yield row


def _tidy(text: str) -> str:
    return " ".join(UNSEEN.sub("", text).split())


class _Checker:
    """Finds what is wrong with a variant, without a language model."""

    def __init__(
        self, questions: Sequence[Question], settings: Questions, embedder: Embedder | None
    ) -> None:
        self._similarity = settings.checks.similarity
        self._embedder = embedder
        self._index = NearIndex()
        tested = [row for row in questions if row.status == "kept" and row.split in TESTED]
        for row in tested:
            self._index.add(row)
        # Of what contamination.overlaps compares by vectors: question and answer together.
        self._tested = _matrix(embedder, [texts_of(row)[-1] for row in tested])

    def problem(
        self, row: Question, source: Sequence[Passage], wording: Wording, earlier: Sequence[str]
    ) -> str:
        """Return the first check that a variant of this question fails, or ""."""
        question, answer = wording.question, wording.answer
        if not question or not answer:
            return "unparsed"
        if plain_text(question) in map(plain_text, earlier):
            return "same"
        text = " ".join(part for p in source for part in (p.section, p.text))
        if _wrong_numbers(row, wording, text):
            return "numbers"
        if not_self_contained(question, (answer,)):
            return "not_self_contained"
        is_in = language_of(f"{question} {answer}")
        if row.language in LANGUAGES and is_in not in ("", row.language):
            return "wrong_language"
        said = row.model_copy(update={"question": question, "reference": answer})
        if self._unsupported(row, said, source, text):
            return "unsupported"
        return "tested" if self._is_tested(said) else ""

    def _unsupported(
        self, row: Question, said: Question, source: Sequence[Passage], text: str
    ) -> bool:
        """Return whether a sentence of the answer, or all of it, is far from the source."""
        if language_of(said.reference) in ("", language_of(text)):
            told = (text, row.reference, row.question, said.question)
            for sentence in SENTENCE.split(said.reference):
                if support(sentence, *told) < grounding.SUPPORT:
                    return True
        if self._embedder is None or not self._similarity:
            return False
        seen = {said.question_id: source}
        return bool(grounding.distant([said], seen, self._embedder, self._similarity))

    def _is_tested(self, said: Question) -> bool:
        """Return whether a variant says what a tested question says, by words or by meaning."""
        if self._index.find(said):
            return True
        if self._embedder is None or not len(self._tested):
            return False
        told = _matrix(self._embedder, [texts_of(said)[-1]])
        return bool((self._tested @ told.T).max() >= NEIGHBOUR)


def _matrix(embedder: Embedder | None, texts: Sequence[str]) -> "NDArray[np.float32]":
    import numpy as np

    if embedder is None or not texts:
        return np.zeros((0, 0), np.float32)
    return embedder.embed(list(texts))


def _wrong_numbers(row: Question, wording: Wording, text: str) -> bool:
    """Return whether a variant has numbers of its own, or none of those that answer."""
    given = numbers(f"{row.question} {row.reference}") | numbers(text)
    if (numbers(wording.question) | numbers(wording.answer)) - given:
        return True
    wanted = numbers(row.reference) - numbers(row.question)
    return bool(wanted) and not wanted & (numbers(wording.answer) | numbers(wording.question))
