"""The interfaces that components fill, and the exceptions that a person may see.

EcgLlmError
├── UsageError        wrong call or study.yaml; exit code 2
├── StepError         a step could not be done; exit code 1
│   ├── ServerError   a model server is down or refuses us
│   └── EgressError   a connection that this study does not allow
└── MissingPackage    an optional package is needed; names the pip line
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict, runtime_checkable

from ecg_llm.records import Answer, Draft, Passage, Question, ReplyStatus, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_ANSWER = "The literature given does not answer this."
"""The sentence with which an arm abstains; prompts, parsers and tests share it."""


class EcgLlmError(Exception):
    """One sentence saying what is wrong and what to do."""


class UsageError(EcgLlmError):
    """The call or the configuration is wrong."""


class StepError(EcgLlmError):
    """A step could not be done; what was done before is kept."""


class ServerError(StepError):
    """A model server cannot be reached or refuses the request for good."""


class EgressError(StepError, OSError):
    """A connection to a host that this study does not allow was refused."""


class MissingPackage(EcgLlmError):
    """An optional package is needed."""

    def __init__(self, package: str, extra: str, purpose: str, licence: str = "") -> None:
        under = f" ({licence})" if licence else ""
        super().__init__(f"{purpose} needs the package {package}{under}: pip install {extra}")


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Messages = Sequence[Message]
Schema = Mapping[str, object]
"""A JSON schema."""
EMPTY = "the reply is empty"
"""Reason of a reply without text."""
TokenCounter = Callable[[Sequence[str]], list[int]]
"""Texts -> number of tokens of each, special tokens not counted."""
Progress = Callable[[int, int], None]
"""Called with (done, total) while a long piece of work goes on."""
Remark = Callable[[str], None]
"""Called with a few words that a person may read beside the progress ("81 pages/s")."""


@dataclass(frozen=True)
class Decoding:
    """How replies are sampled; temperature 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """What a model said, or why it did not."""

    text: str
    status: ReplyStatus = "ok"
    reason: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    attempts: int = 1
    """Requests it took."""
    seconds: float = field(default=0.0, compare=False)
    """From the request to the whole reply; of a batch its share, of a kept reply 0."""

    @property
    def may_differ(self) -> bool:
        """Whether the model answered, but with nothing of use: another seed may give more."""
        return self.status in ("refused", "truncated") or self.reason == EMPTY


class Likelihood(NamedTuple):
    """Log-probability of a continuation, summed over its tokens, and their number."""

    logprob: float
    tokens: int


@runtime_checkable
class ChatModel(Protocol):
    """A model that replies to chats."""

    @property
    def name(self) -> str:
        """name@revision+adapter: all that decides what the model says besides the prompt."""

    def generate(
        self,
        prompts: Sequence[Messages],
        decoding: Decoding,
        schema: Schema | None = None,
    ) -> list[Reply]:
        """Return one reply a prompt, in order; a failure is a Reply with status "error".

        `schema` is a JSON schema that the reply should satisfy; a model that cannot
        enforce it replies as it can, and the caller parses strictly.
        """

    def replies(
        self,
        prompts: Sequence[Messages],
        decoding: Decoding,
        schema: Schema | Sequence[Schema] | None = None,
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (place of the prompt, its reply) as the replies come; else as `generate`.

        `schema` is one for all, or one for each prompt.
        """

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, or an upper estimate."""


@runtime_checkable
class LikelihoodModel(ChatModel, Protocol):
    """A chat model whose probabilities can be read: local models."""

    def likelihoods(
        self, prompts: Sequence[Messages], continuations: Sequence[Sequence[str]]
    ) -> list[list[Likelihood]]:
        """Return, for each prompt, the likelihood of each of its continuations as the reply."""


@runtime_checkable
class StreamingModel(ChatModel, Protocol):
    """A chat model that can be read while it writes."""

    def streamed(self, messages: Messages, decoding: Decoding, say: Callable[[str], None]) -> Reply:
        """Return the reply to one chat, having called `say` with each piece of it as it came."""


@runtime_checkable
class Embedder(Protocol):
    """Texts to unit vectors."""

    @property
    def name(self) -> str:
        """Model and revision: all that decides the vectors."""

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return one unit-length row a text, shape (len(texts), dimension)."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without special tokens."""


@runtime_checkable
class QueryEmbedder(Embedder, Protocol):
    """An embedder that treats queries in another way than passages."""

    def embed_queries(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return one unit-length row a query, shape (len(texts), dimension)."""


@runtime_checkable
class Reranker(Protocol):
    """Reads a query and a passage together and says how well they match."""

    @property
    def name(self) -> str:
        """Model and revision: all that decides the scores."""

    def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return one score a text; higher is better."""


class Hit(NamedTuple):
    """A passage found, with its score; higher is better."""

    passage_id: str
    score: float


def outdated(passage_id: str) -> StepError:
    """Return the error of an index that holds a passage which the study does not have."""
    return StepError(
        f"The index holds passage {passage_id}, which is not in passages.jsonl; bring it up to "
        f"date with: ecg-llm index"
    )


@runtime_checkable
class Retriever(Protocol):
    """Questions to passages."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the best `k` passages of each query, best first."""


@dataclass(frozen=True)
class Task:
    """One question as an arm sees it: options already permuted, passages already chosen."""

    question: Question
    options: tuple[str, ...] = ()
    passages: tuple[Passage, ...] = ()
    permutation: int = 0
    repeat: int = 0
    searched: bool = False
    """Whether passages were looked for; where none were found, the prompt says so."""

    def answer_key(self, arm: str) -> dict[str, Any]:
        """Return the columns of an arm's answer that say which task it answers."""
        return {
            "question_id": self.question.question_id,
            "arm": arm,
            "repeat": self.repeat,
            "permutation": self.permutation,
        }


class Answered(NamedTuple):
    """An answer and the time it took."""

    answer: Answer
    seconds: float | None = None
    """None: it was made with others, and has its share of their time."""


@runtime_checkable
class Answerer(Protocol):
    """An arm without its retriever: tasks to answers."""

    @property
    def name(self) -> str:
        """name@revision+adapter."""

    @property
    def alone(self) -> bool:
        """Whether an answer is the same in whatever company it is made.

        Then a restart asks only for what is missing; else whole batches are made again, since
        floating-point sums depend on what is computed together.
        """

    def answer(self, arm: str, tasks: Sequence[Task]) -> Iterator[Answered]:
        """Yield one answer a task as they come; a failure is an Answer with status "error"."""


class Window(NamedTuple):
    """What one draft is written from."""

    passages: tuple[Passage, ...]
    """Of one document, in order."""
    joined: bool = False
    """The passages stand apart, and a question is to join facts of both."""
    number: int = 0
    """Place among the document's windows of this sort: the plan of its questions goes by it."""


class Block(NamedTuple):
    """Answers to one question that a judge ranked side by side."""

    question_id: str
    judge: str
    arms: tuple[str, ...]
    """By slot, as they were shown."""
    places: tuple[int, ...]
    """By slot, 1 is best; answers that the judge found equally good share a place."""
    words: tuple[int, ...]
    """By slot, the length of each answer; 0: it was not shown, and is placed behind all that were.
    """
    repeat: int = 0


class NgramCounts(NamedTuple):
    """An open answer by what corpus BLEU counts in it."""

    question_id: str
    arm: str
    repeat: int
    missing: bool
    """The answer failed or was refused, and counts as an empty one."""
    counts: tuple[int, ...]
    """Length of the answer and of the reference, then for n of 1 to 4 the n-grams in common, and
    those of the answer."""


@runtime_checkable
class Writer(Protocol):
    """Windows of passages to drafts of questions."""

    @property
    def name(self) -> str:
        """Writer or model, with version."""

    def write(self, windows: Sequence[Window]) -> Iterator[Draft]:
        """Yield one draft a window and kind as they come; a failure has status "error"."""


@runtime_checkable
class Scorer(Protocol):
    """Answers to scores: one for each (answer, metric) that applies, whatever happened.

    A metric of several answers together has one score, in the row of the first.
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, each a key of records.METRICS."""

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return the scores of these answers; not_applicable where a metric cannot apply."""


@dataclass(frozen=True)
class Page:
    """One page as an engine read it."""

    markdown: str
    unread: str = ""
    """Why the page holds no usable text, a key of records.PAGE_REASONS; empty if it does."""


@dataclass(frozen=True)
class Reading:
    """What an engine made of one file."""

    pages: tuple[Page, ...]
    title: str = ""
    licence: str = ""
    engine: str = ""
    engine_version: str = ""
    quality: Mapping[str, int | float | str | tuple[int, ...]] = field(default_factory=dict)


@runtime_checkable
class PdfEngine(Protocol):
    """A PDF to Markdown, a page at a time."""

    @property
    def name(self) -> str:
        """Name in study.yaml."""

    @property
    def version(self) -> str:
        """Version of the engine: part of what decides the text."""

    def read(self, path: Path, password: str = "") -> Reading:
        """Return every page; raise ReadingError with a reason of DOCUMENT_REASONS."""


class ReadingError(Exception):
    """A file that cannot be read; `reason` is a key of records.DOCUMENT_REASONS."""

    def __init__(self, reason: str, note: str = "") -> None:
        super().__init__(reason, note)
        self.reason = reason
        self.note = note
