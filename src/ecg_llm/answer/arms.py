"""Every arm is asked the same way: the same tasks, prompt, passages by question, and decoding."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ecg_llm import config, prompt
from ecg_llm.contracts import (
    Answered,
    Answerer,
    ChatModel,
    Decoding,
    EcgLlmError,
    Hit,
    Likelihood,
    LikelihoodModel,
    Messages,
    Progress,
    Reply,
    Retriever,
    StreamingModel,
    Task,
    TokenCounter,
    UsageError,
    outdated,
)
from ecg_llm.records import LETTERS, Answer, Citation, Latency, Passage, Question, digest

BATCH = 32
"""Tasks answered together. Part of what decides the text: floating-point sums depend on it."""
QUEUED = 512
"""Tasks given at once to a model whose answers do not depend on their company, to keep it busy."""


class TaskKey(NamedTuple):
    """One question as it is asked once."""

    question_id: str
    repeat: int
    permutation: int


def tasks(questions: Sequence[Question], repeats: int, permutations: int) -> list[TaskKey]:
    """Return every task, sorted; open questions have one permutation, choices one an option."""
    return sorted(
        TaskKey(question.question_id, repeat, permutation)
        for question in questions
        for repeat in range(repeats)
        for permutation in range(max(1, min(permutations, len(question.options))))
    )


def answers(
    arm: str,
    questions: Sequence[Question],
    answerer: Answerer,
    retriever: Retriever | None,
    passages: Mapping[str, Passage],
    settings: config.Answers,
    *,
    count: TokenCounter | None,
    done: Collection[tuple[object, ...]] = (),
    progress: Progress = lambda done, total: None,
) -> Iterator[tuple[Answer, Latency]]:
    """Yield one arm's answer to every task and how long it took, as they come.

    Tasks are answered in batches, cut by sorted key. A batch that is wholly in `done` is skipped;
    one that is partly there is made whole again, so that a restart computes the same batches and
    gives the same text. Of an answerer that answers alone only what is missing is asked for. What
    fails becomes an answer with status "error".

    Args:
        arm: Name of the arm.
        questions: All that the arm is asked, whether done or not.
        answerer: The model side of the arm.
        retriever: The search side; None for an arm without passages.
        passages: By passage_id; all that the index holds.
        settings: How many passages, repeats and permutations.
        count: The model's tokenizer, which the budget of passages is counted by; None: no budget.
        done: Keys of answers made by an earlier run.
        progress: Called with (done, total) after each answer.

    Raises:
        EcgLlmError: what a person must mend before the run can go on: a server that is down, a
            host that is not allowed, a wrong setting, an index that is out of date.
    """
    every = tasks(questions, settings.repeats, settings.permutations)
    asked = _Asked(
        arm,
        {question.question_id: question for question in questions},
        answerer,
        retriever,
        passages,
        settings,
        count,
    )
    size = QUEUED if answerer.alone else BATCH
    for start in range(0, len(every), size):
        batch = every[start : start + size]
        missing = [key for key in batch if asked.row_key(key) not in done]
        todo = missing if answerer.alone or not missing else batch
        held = len(batch) - len(todo)
        if held:
            progress(start + held, len(every))
        if not todo:
            continue
        for number, made in enumerate(asked.answered(todo), start=1):
            yield made
            progress(start + held + number, len(every))


def ask(
    question: str,
    arm: str,
    answerer: Answerer,
    retriever: Retriever | None,
    passages: Mapping[str, Passage],
    settings: config.Answers,
    *,
    count: TokenCounter | None,
) -> Answer:
    """Return one arm's answer to a question of the moment, asked as the open questions are.

    Raises:
        EcgLlmError: what a person must mend first, as `answers` says.
    """
    question = question.encode("utf-8", "replace").decode("utf-8")  # a terminal's broken bytes
    row = Question(question_id=digest("ask", question), set="ask", kind="open", question=question)
    once = settings.model_copy(update={"repeats": 1, "permutations": 1})
    made, _ = next(answers(arm, [row], answerer, retriever, passages, once, count=count))
    return made


def at_the_edges(hits: Sequence[Hit]) -> list[Hit]:
    """Return hits, given best first, with the best at both ends and the worst in the middle.

    Models read the middle of a long prompt least (Liu et al. 2024, "Lost in the Middle",
    arXiv 2307.03172).
    """
    return [*hits[::2], *reversed(hits[1::2])]


class ModelAnswerer:
    """A chat model as an arm; a `contracts.Answerer`.

    Where the model's probabilities can be read, answers carry the log-likelihood of every option's
    text (choice) or of the reference (open) as the reply to the same prompt. `say`, if given, is
    called with each piece of a reply as it is written, by models that can be read meanwhile.
    """

    def __init__(
        self,
        model: ChatModel,
        settings: config.Answers,
        seed: int,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.seed = seed
        self.say = say

    @property
    def name(self) -> str:
        """The model's name@revision+adapter."""
        return self.model.name

    @property
    def alone(self) -> bool:
        """Whether the model is behind a server: a local one computes batches."""
        return not isinstance(self.model, LikelihoodModel)

    def answer(self, arm: str, tasks: Sequence[Task]) -> Iterator[Answered]:
        """Yield one answer a task, as the model wrote it."""
        prompts = [prompt.question_messages(task) for task in tasks]
        # Prompts of like length share a batch of the model; the place decides between equals.
        order = sorted(range(len(tasks)), key=lambda i: (len(prompts[i][0]["content"]), i))
        likelihoods: dict[int, list[Likelihood]] = {}
        if isinstance(self.model, LikelihoodModel):
            read = self.model.likelihoods(
                [prompts[i] for i in order], [_continuations(tasks[i].question) for i in order]
            )
            likelihoods |= zip(order, read, strict=True)
        for kind, repeat in sorted({(task.question.kind, task.repeat) for task in tasks}):
            group = [
                i for i in order if (tasks[i].question.kind, tasks[i].repeat) == (kind, repeat)
            ]
            decoding = self._decoding(kind, repeat)
            for place, reply in self._replies([prompts[i] for i in group], decoding):
                i = group[place]
                task = tasks[i]
                yield Answered(
                    Answer(
                        **task.answer_key(arm),
                        text=reply.text,
                        status=reply.status,
                        reason=reply.reason,
                        model=self.name,
                        prompt_sha=prompt.prompt_sha(prompts[i]),
                        tokens_in=reply.tokens_in,
                        tokens_out=reply.tokens_out,
                        **_likelihood_columns(task.question, likelihoods.get(i, [])),
                    ),
                    reply.seconds,
                )

    def _replies(
        self, prompts: Sequence[Messages], decoding: Decoding
    ) -> Iterator[tuple[int, Reply]]:
        if self.say and len(prompts) == 1 and isinstance(self.model, StreamingModel):
            yield 0, self.model.streamed(prompts[0], decoding, self.say)
        else:
            yield from self.model.replies(prompts, decoding)

    def _decoding(self, kind: str, repeat: int) -> Decoding:
        settings = self.settings
        return Decoding(
            settings.max_tokens_choice if kind == "choice" else settings.max_tokens_open,
            settings.temperature,
            settings.top_p,
            self.seed + repeat,
        )


def _continuations(question: Question) -> tuple[str, ...]:
    """Return the replies whose likelihood is read, options in the question's own order."""
    if question.kind == "choice":
        return question.options
    return (question.reference,) if question.reference else ()


def _likelihood_columns(question: Question, read: Sequence[Likelihood]) -> dict[str, Any]:
    if not read:
        return {}
    if question.kind == "choice":
        return {
            "option_logprobs": tuple(found.logprob for found in read),
            "option_tokens": tuple(found.tokens for found in read),
        }
    return {"reference_logprob": read[0].logprob, "reference_tokens": read[0].tokens}


class _Shown(NamedTuple):
    """What retrieval gives one question."""

    hits: tuple[Hit, ...]
    """In the order in which the prompt holds them."""
    seconds: float


@dataclass(frozen=True)
class _Asked:
    """What the batches of one arm have in common."""

    arm: str
    questions: Mapping[str, Question]
    answerer: Answerer
    retriever: Retriever | None
    passages: Mapping[str, Passage]
    settings: config.Answers
    count: TokenCounter | None

    def answered(self, batch: Sequence[TaskKey]) -> Iterator[tuple[Answer, Latency]]:
        """Yield one answer a task, whatever happens; a task that fails, fails alone."""
        left = {self.row_key(key): key for key in batch}
        try:
            tasks, shown = self._prepared(batch)
            together = 1 if self.answerer.alone else len(batch)
            started = time.monotonic()
            for answer, seconds in self.answerer.answer(self.arm, tasks):
                if seconds is None:
                    seconds = (time.monotonic() - started) / len(batch)
                key = left.pop(answer.key, None)
                if key is None:
                    raise ValueError("the answerer gave an answer that it was not asked for")
                yield self._told(answer, shown[key], seconds, together)
            if left:
                raise ValueError("the answerer did not give one answer a task")
        except (EcgLlmError, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - the one guard: it becomes a row
            if len(batch) > 1:
                for key in left.values():
                    yield from self.answered([key])
            elif left:
                failed = Answer(
                    **batch[0]._asdict(),
                    arm=self.arm,
                    status="error",
                    reason=f"{type(error).__name__}: {error}"[:500],
                    model=self.answerer.name,
                )
                yield self._told(failed, _Shown((), 0.0), 0.0, 1)

    def row_key(self, key: TaskKey) -> tuple[object, ...]:
        """Return the key of the answer to this task."""
        return (key.question_id, self.arm, key.repeat, key.permutation)

    @staticmethod
    def _told(
        answer: Answer, shown: _Shown, seconds: float, together: int
    ) -> tuple[Answer, Latency]:
        """Return the answer with what it was shown, and how long both took."""
        citations = tuple(Citation(passage_id=h.passage_id, score=h.score) for h in shown.hits)
        latency = Latency(
            question_id=answer.question_id,
            arm=answer.arm,
            repeat=answer.repeat,
            permutation=answer.permutation,
            seconds=round(seconds, 6),
            search_seconds=round(shown.seconds, 6),
            together=together,
        )
        return answer.model_copy(update={"passages": citations}), latency

    def _prepared(self, batch: Sequence[TaskKey]) -> tuple[list[Task], dict[TaskKey, _Shown]]:
        """Return the tasks with their passages, and what was found for each."""
        for key in batch:
            question = self.questions[key.question_id]
            if question.kind == "choice" and not 2 <= len(question.options) <= len(LETTERS):
                raise ValueError(f"a choice question has 2 to {len(LETTERS)} options")
        found = self._found([self.questions[key.question_id].question for key in batch])
        shown = {key: found[self.questions[key.question_id].question] for key in batch}
        tasks = [
            Task(
                self.questions[key.question_id],
                prompt.rotated(self.questions[key.question_id].options, key.permutation),
                tuple(self.passages[hit.passage_id] for hit in shown[key].hits),
                key.permutation,
                key.repeat,
                searched=self.retriever is not None,
            )
            for key in batch
        ]
        return tasks, shown

    def _found(self, texts: Sequence[str]) -> dict[str, _Shown]:
        """Return the passages to show with each question: found by its text and nothing else."""
        distinct = list(dict.fromkeys(texts))
        if self.retriever is None:
            return dict.fromkeys(distinct, _Shown((), 0.0))
        started = time.monotonic()
        hits = self.retriever.search(distinct, self.settings.k)
        share = (time.monotonic() - started) / len(distinct)
        fitting = (self._fitting(found[: self.settings.k]) for found in hits)
        ordered = (
            at_the_edges(found) if self.settings.order == "edges" else found for found in fitting
        )
        return {
            text: _Shown(tuple(found), share) for text, found in zip(distinct, ordered, strict=True)
        }

    def _fitting(self, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits, best first, that fit into the budget; one that does not is passed by."""
        for hit in hits:
            if hit.passage_id not in self.passages:
                raise outdated(hit.passage_id)
        visible = [hit for hit in hits if not self.passages[hit.passage_id].hidden]
        if self.count is None or not visible:
            return visible
        texts = [
            prompt.passage_text(number, self.passages[hit.passage_id])
            for number, hit in enumerate(visible, start=1)
        ]
        chosen, left = [], self.settings.passage_tokens
        sizes = self.count(texts)
        for hit, tokens in zip(visible, sizes, strict=True):
            if tokens <= left:
                chosen.append(hit)
                left -= tokens
        if not chosen:
            raise UsageError(
                f"answers.passage_tokens is {self.settings.passage_tokens}, and the smallest of "
                f"the passages found takes {min(sizes)} tokens; raise it, or cut passages smaller."
            )
        return chosen
