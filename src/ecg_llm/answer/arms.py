"""Every arm is asked the same way: the same tasks, prompt, passages by question, and decoding."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ecg_llm import config, prompt
from ecg_llm.contracts import (
    Answerer,
    ChatModel,
    Decoding,
    EcgLlmError,
    Hit,
    Likelihood,
    LikelihoodModel,
    Progress,
    Reply,
    Retriever,
    StepError,
    Task,
    TokenCounter,
)
from ecg_llm.records import LETTERS, Answer, Citation, Passage, Question, digest

BATCH = 32
"""Tasks answered together. Part of what decides the text: floating-point sums depend on it."""

BRACKETS = re.compile(r"\[(\d{1,4}(?:\s*[,;–-]\s*\d{1,4})*)\]")


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
    retrieve: Retriever | None,
    passages: Mapping[str, Passage],
    settings: config.Answers,
    *,
    count: TokenCounter | None,
    seed: int,
    done: Collection[tuple[object, ...]] = (),
    progress: Progress = lambda done, total: None,
) -> Iterator[Answer]:
    """Yield one arm's answer to every task, in batches of sorted tasks.

    A batch that is wholly in `done` is skipped; one that is partly there is made whole again, so
    that a restart computes the same batches and gives the same text. What fails becomes an answer
    with status "error".

    Args:
        arm: Name of the arm.
        questions: All that the arm is asked, whether done or not.
        answerer: The model side of the arm.
        retrieve: The search side; None for an arm without passages.
        passages: By passage_id; all that the index holds.
        settings: How many passages, repeats and permutations.
        count: The model's tokenizer, which the budget of passages is counted by; None: no budget.
        seed: Of the study. Nothing here is drawn by chance; the answerer has its own.
        done: Keys of answers made by an earlier run.
        progress: Called with (done, total) after each batch.

    Raises:
        EcgLlmError: what a person must mend before the run can go on: a server that is down, a
            host that is not allowed, a wrong setting, an index that is out of date.
    """
    todo = tasks(questions, settings.repeats, settings.permutations)
    asked = _Asked(
        arm,
        {question.question_id: question for question in questions},
        answerer,
        retrieve,
        passages,
        settings,
        count,
    )
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        if any(asked.row_key(key) not in done for key in batch):
            yield from asked.answered(batch)
        progress(start + len(batch), len(todo))


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
    return next(answers(arm, [row], answerer, retriever, passages, once, count=count, seed=0))


def cited(answer: Answer, passages: Mapping[str, Passage]) -> list[tuple[int, Passage]]:
    """Return the passages that an answer's text cites, with their keys, in order of the keys."""
    valid, _ = citations(answer.text, len(answer.passages))
    return [(key, passages[answer.passages[key - 1].passage_id]) for key in sorted(valid)]


def citations(text: str, count: int) -> tuple[list[int], list[int]]:
    """Return the citation keys of a text that name one of `count` passages, and those that do not.

    Keys are in order of first mention, each once: [1], [2, 3], [1][2] and [1-3].
    """
    keys: dict[int, None] = {}
    for match in BRACKETS.finditer(text):
        for part in re.split("[,;]", match[1]):
            ends = [int(number) for number in re.split("[–-]", part)]
            first, last = min(ends), max(ends)
            # "[120-200]" is a range of values, not eighty citations.
            keys |= dict.fromkeys(range(first, last + 1) if last <= count else (first, last))
    return (
        [key for key in keys if 1 <= key <= count],
        [key for key in keys if not 1 <= key <= count],
    )


class ModelAnswerer:
    """A chat model as an arm; a `contracts.Answerer`.

    Where the model's probabilities can be read, answers carry the log-likelihood of every option's
    text (choice) or of the reference (open) as the reply to the same prompt.
    """

    def __init__(self, model: ChatModel, settings: config.Answers, seed: int) -> None:
        self.model = model
        self.settings = settings
        self.seed = seed

    @property
    def name(self) -> str:
        """The model's name@revision+adapter."""
        return self.model.name

    def answer(self, arm: str, tasks: Sequence[Task]) -> list[Answer]:
        """Return one answer a task, in order, as the model wrote it."""
        prompts = [prompt.question_messages(task) for task in tasks]
        # Prompts of like length share a batch of the model; the place decides between equals.
        order = sorted(range(len(tasks)), key=lambda i: (len(prompts[i][0]["content"]), i))
        replies: dict[int, Reply] = {}
        for kind, repeat in sorted({(task.question.kind, task.repeat) for task in tasks}):
            group = [
                i for i in order if (tasks[i].question.kind, tasks[i].repeat) == (kind, repeat)
            ]
            decoding = self._decoding(kind, repeat)
            made = self.model.generate([prompts[i] for i in group], decoding)
            replies |= zip(group, made, strict=True)
        likelihoods: dict[int, list[Likelihood]] = {}
        if isinstance(self.model, LikelihoodModel):
            read = self.model.likelihoods(
                [prompts[i] for i in order], [_continuations(tasks[i].question) for i in order]
            )
            likelihoods |= zip(order, read, strict=True)
        return [
            Answer(
                question_id=task.question.question_id,
                arm=arm,
                repeat=task.repeat,
                permutation=task.permutation,
                text=replies[i].text,
                status=replies[i].status,
                reason=replies[i].reason,
                model=self.name,
                prompt_sha=prompt.prompt_sha(prompts[i]),
                tokens_in=replies[i].tokens_in,
                tokens_out=replies[i].tokens_out,
                **_likelihood_columns(task.question, likelihoods.get(i, [])),
            )
            for i, task in enumerate(tasks)
        ]

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

    def answered(self, batch: Sequence[TaskKey]) -> list[Answer]:
        """Return one answer a task, whatever happens; a task that fails, fails alone."""
        try:
            tasks, shown = self._prepared(batch)
            made = self.answerer.answer(self.arm, tasks)
            if [row.key for row in made] != [self.row_key(key) for key in batch]:
                raise ValueError("the answerer did not return one answer a task, in order")
            return [
                row.model_copy(update={"passages": citations})
                for row, citations in zip(made, shown, strict=True)
            ]
        except EcgLlmError:
            raise
        except Exception as error:  # noqa: BLE001 - the one guard: it becomes a row
            if len(batch) > 1:
                return [row for key in batch for row in self.answered([key])]
            return [
                Answer(
                    **batch[0]._asdict(),
                    arm=self.arm,
                    status="error",
                    reason=f"{type(error).__name__}: {error}"[:500],
                    model=self.answerer.name,
                )
            ]

    def row_key(self, key: TaskKey) -> tuple[object, ...]:
        """Return the key of the answer to this task."""
        return (key.question_id, self.arm, key.repeat, key.permutation)

    def _prepared(self, batch: Sequence[TaskKey]) -> tuple[list[Task], list[tuple[Citation, ...]]]:
        """Return the tasks with their passages, and how these were found."""
        found = self._found([self.questions[key.question_id].question for key in batch])
        tasks, shown = [], []
        for key in batch:
            question = self.questions[key.question_id]
            if question.kind == "choice" and not 2 <= len(question.options) <= len(LETTERS):
                raise ValueError(f"a choice question has 2 to {len(LETTERS)} options")
            chosen = found.get(question.question, [])
            tasks.append(
                Task(
                    question,
                    prompt.rotated(question.options, key.permutation),
                    tuple(self.passages[hit.passage_id] for hit in chosen),
                    key.permutation,
                    key.repeat,
                )
            )
            shown.append(
                tuple(Citation(passage_id=hit.passage_id, score=hit.score) for hit in chosen)
            )
        return tasks, shown

    def _found(self, texts: Sequence[str]) -> dict[str, list[Hit]]:
        """Return the passages to show with each question: found by its text and nothing else."""
        if self.retriever is None:
            return {}
        distinct = list(dict.fromkeys(texts))
        hits = self.retriever.search(distinct, self.settings.k)
        return {
            text: self._fitting(found[: self.settings.k])
            for text, found in zip(distinct, hits, strict=True)
        }

    def _fitting(self, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits, best first, that fit into the budget; one that does not is passed by."""
        for hit in hits:
            if hit.passage_id not in self.passages:
                raise StepError(
                    f"The index holds passage {hit.passage_id}, which is not in passages.jsonl; "
                    f"bring it up to date with: ecg-llm index"
                )
        visible = [hit for hit in hits if not self.passages[hit.passage_id].hidden]
        if self.count is None or not visible:
            return visible
        texts = [
            prompt.passage_text(number, self.passages[hit.passage_id])
            for number, hit in enumerate(visible, start=1)
        ]
        chosen, left = [], self.settings.passage_tokens
        for hit, tokens in zip(visible, self.count(texts), strict=True):
            if tokens <= left:
                chosen.append(hit)
                left -= tokens
        return chosen
