"""The rows of every table, frozen and validated, and the digest that names them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Split = Literal["train", "val", "test", "test_seen", "none"]
TESTED: tuple[Split, ...] = ("test", "test_seen")
"""The splits that arms are scored on."""
QuestionKind = Literal["open", "choice"]
ReplyStatus = Literal["ok", "refused", "truncated", "error"]
QuestionType = Literal[
    "fact", "criterion", "mechanism", "comparison", "differential", "threshold", "management"
]
Difficulty = Literal["easy", "medium", "hard"]
CheckName = Literal["grounded", "closed_book", "options_only"]
PassageKind = Literal[
    "body",
    "abstract",
    "caption",
    "table",
    "authors",
    "contents",
    "references",
    "acknowledgements",
    "funding",
    "index",
]


class Reason(NamedTuple):
    """Why something was not read, and what a person can do about it."""

    meaning: str
    remedy: str


OCR_REMEDY = "apt install tesseract-ocr tesseract-ocr-deu ghostscript; pip install 'ecg-llm[ocr]'"

DOCUMENT_REASONS: Mapping[str, Reason] = {
    "": Reason("read in full", ""),
    "unread_pages": Reason(
        "some pages hold no readable text", "`ecg-llm show pages` names each and why"
    ),
    "truncated": Reason(
        "the file is damaged or cut off, and pages of it are lost", "get the file again"
    ),
    "scanned": Reason("its pages are pictures without text", OCR_REMEDY),
    "garbled": Reason("its text layer holds signs, not words", OCR_REMEDY),
    "drawing": Reason("its pages hold drawings or pictures but no text", "look at the file"),
    "ocr_failed": Reason(
        "OCR found no words on its pages in time",
        "look at the file; raise documents.ocr_seconds in study.yaml if it is legible",
    ),
    "blank": Reason("nothing is written on any page", "leave it out with documents.exclude"),
    "no_pages": Reason("the file has no pages", "get the file again"),
    "empty": Reason("the file holds no bytes or no text", "get the file again"),
    "not_a_pdf": Reason(
        "the file is named .pdf but is something else", "give it its own suffix, or get it again"
    ),
    "unsupported": Reason(
        "this kind of file is not read", "save it as PDF, DOCX, Markdown, HTML, JATS or text"
    ),
    "unreadable_file": Reason("the file could not be opened", "check its rights"),
    "encrypted": Reason("the file needs a password", "add it to documents.passwords in study.yaml"),
    "corrupt": Reason("the file is damaged beyond repair", "get the file again"),
    "too_large": Reason(
        "the file, or what it unpacks to, is larger than documents.max_mb",
        "raise documents.max_mb in study.yaml, or split the file",
    ),
    "crashed": Reason("the reader process died on this file", "save it anew with another program"),
    "timeout": Reason(
        "reading took longer than documents.timeout", "raise documents.timeout in study.yaml"
    ),
    "memory": Reason(
        "reading took more than documents.memory_mb", "raise documents.memory_mb in study.yaml"
    ),
    "same_content": Reason("another path holds the same bytes", "nothing: the other is used"),
    "near_duplicate": Reason("another document says nearly the same", "nothing: the other is used"),
    "by_pattern": Reason("excluded by documents.exclude", "nothing: you asked for it"),
}
"""Every reason a document can carry, with what it means and what mends it."""

PAGE_REASONS: Mapping[str, Reason] = {
    "": Reason("read", ""),
    "scanned": Reason("the page is a picture without text", OCR_REMEDY),
    "garbled": Reason("the page's text layer holds signs, not words", OCR_REMEDY),
    "blank": Reason("nothing is written on the page", "nothing to do"),
    "drawing": Reason("the page holds drawings or pictures but no text", "look at the page"),
    "lost": Reason("the file is damaged and the page is lost", "get the file again"),
    "ocr_failed": Reason(
        "OCR found no words on the page in time",
        "look at the page; raise documents.ocr_seconds in study.yaml if it is legible",
    ),
}
"""Every reason a page can carry."""

VARIANT_REASONS: Mapping[str, str] = {
    "unparsed": "the model's reply is not in the form asked for",
    "same": "it says the question again, word for word",
    "numbers": "its numbers are not those of the question and its source",
    "unsupported": "its answer is not close to the source or the reference",
    "not_self_contained": "it points at a text, study, figure or patient that is not shown",
    "wrong_language": "it is not in the language of the question",
    "tested": "it comes too close to a tested question",
}

QUESTION_REASONS: Mapping[str, str] = {
    "": "kept",
    "no_reply": "the writer did not reply, refused, or was cut off; the note says which",
    "unparsed": "the writer's reply was not in the requested form",
    "surplus": "the writer was not asked for so many questions",
    "bad_row": "a row of an imported file is not a question",
    "option_count": "a choice question needs at least two options (four when written here)",
    "duplicate_options": "two options say the same",
    "no_key": "the right option is not named or not among the options",
    "all_of_the_above": "an option refers to the other options",
    "not_self_contained": "the question points at a study, figure, table or patient not shown",
    "not_medical": "the question is about the text, a study's figures or software, not medicine",
    "wrong_language": "the question is not in the language asked for",
    "too_short": "the question or its answer is too short to be meaningful",
    "too_long": "the question or its answer is too long",
    "no_evidence": "the quoted evidence does not occur in the passage",
    "not_grounded": "the answer is not supported by the passage",
    "duplicate": "another question says the same",
    "repeats_import": "a question written here says what a question of an imported set says",
    "not_confirmed": "the checking model, shown the source, does not confirm the answer",
    "rejected": "a person has rejected the question",
    "near_duplicate_of_train": "a test question too close to a training question",
    "shared_evidence": "a test_seen question rests on a span that a training question uses",
    "unknown_document": "an imported question names a document that the study does not have",
    "filtered": "left out by the set's own filter or limit in study.yaml",
}
"""Every reason a question can be dropped for, with what it means."""

QUESTION_FLAGS: Mapping[str, str] = {
    "solved_options_only": "the checking model finds the right option without the question",
    "solved_closed_book": "the checking model answers without having read the source",
    "unchecked": "a reply of the checking model is missing or unreadable",
}
"""What a kept question can be marked with."""


def digest(*parts: object, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of the parts as canonical JSON.

    Equal content gives equal digests in every process and on every machine.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


class Row(BaseModel):
    """A row of a table: frozen, without unknown columns, NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    table: ClassVar[str]
    key_columns: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> tuple[Any, ...]:
        """The values of the key columns; unique in the table and its sort order."""
        return tuple(getattr(self, column) for column in self.key_columns)


class SetAside(BaseModel):
    """A stretch of a document that is no content: kept and marked, used by no stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: PassageKind | Literal["hidden"]
    heading: str = ""
    """The heading that told; empty where something else did."""
    page_from: int
    page_to: int
    characters: int


class Document(Row):
    """One file of the literature folder, read or not."""

    table: ClassVar[str] = "documents"
    key_columns: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    """Relative to the literature folder, with forward slashes."""
    doc_id: str
    """The first 16 hex digits of the file's SHA-256; empty if it could not be opened."""
    title: str = ""
    language: str = ""
    """ISO 639-1, or empty if undecided."""
    licence: str = ""
    tags: tuple[str, ...] = ()
    group: str = ""
    """Documents of one group never stand on both sides of a split; default: doc_id."""
    pages: int = 0
    page_starts: tuple[int, ...] = ()
    """Offset in texts/<doc_id>.md at which each page starts; one entry a page."""
    engine: str = ""
    engine_version: str = ""
    quality: dict[str, int | float | str | tuple[int, ...]] = {}
    set_aside: tuple[SetAside, ...] = ()
    """What is no content, and why it was taken for that."""
    status: Literal["ok", "partial", "unreadable", "duplicate", "excluded"]
    reason: str = ""
    """A key of DOCUMENT_REASONS."""
    note: str = ""
    """What the reader said, for a person; what to do about it where something can be done."""


class PageQuality(Row):
    """One page of a document, read or not, and how far its text can be trusted."""

    table: ClassVar[str] = "pages"
    key_columns: ClassVar[tuple[str, ...]] = ("doc_id", "page")

    doc_id: str
    page: int
    """1-based."""
    status: Literal["read", "unread"]
    reason: str = ""
    """A key of PAGE_REASONS."""
    recognised: bool = False
    """The text comes from OCR."""
    characters: int = 0
    words: int = 0
    control_characters: int = 0
    """That the engine gave and the clean-up took out."""
    headings: int = 0
    tables: int = 0
    hidden: int = 0
    """Characters that nobody sees on the page: set aside."""
    suspicious: float | None = None
    """Share of its words that are not in the PDF's own text layer of this page."""
    lost: float | None = None
    """Share of the words of the PDF's own text layer that are not in its text."""


class Passage(Row):
    """A piece of a document's text: `text == document_text[start:end]`."""

    table: ClassVar[str] = "passages"
    key_columns: ClassVar[tuple[str, ...]] = ("passage_id",)

    passage_id: str
    doc_id: str
    start: int
    end: int
    page_from: int
    """1-based; 0 where a ready passage names no page."""
    page_to: int
    section: str = ""
    """Headings above the passage, outermost first, joined by " > "."""
    kind: PassageKind = "body"
    hidden: bool = False
    """The text is invisible on the page (white, tiny): never shown to a model."""
    text: str
    tokens: int

    @classmethod
    def id_for(cls, doc_id: str, start: int, end: int, text: str) -> str:
        """Return the passage_id of this span of this document."""
        return digest(doc_id, start, end, text)


class GivenPassage(Row):
    """A passage that `ecg-llm index --from` took over ready-made."""

    table: ClassVar[str] = "given"
    key_columns: ClassVar[tuple[str, ...]] = ("passage_id",)

    passage_id: str = Field(min_length=1)
    text: str
    doc_id: str = ""
    """Empty: the passage is a document of its own."""
    title: str = ""
    section: str = ""
    page: int = Field(default=0, ge=0, lt=10**6)
    """0: not known."""
    language: str = ""
    """ISO 639-1; empty: told from the text."""


class Draft(Row):
    """A writer's reply about one window of passages, as it came."""

    table: ClassVar[str] = "drafts"
    key_columns: ClassVar[tuple[str, ...]] = ("draft_id",)

    draft_id: str
    """digest(passage_ids, kind)."""
    passage_ids: tuple[str, ...]
    kind: QuestionKind
    plan: tuple[str, ...] = ()
    """What was asked for, "type/difficulty" of each question."""
    reply: str = ""
    """JSON {"questions": [{"question", "answer", "evidence", "distractors"?, "type"?,
    "difficulty"?}]} if status is ok."""
    status: ReplyStatus = "ok"
    reason: str = ""
    attempts: int = 1
    """Requests that it took."""
    model: str = ""
    prompt_sha: str = ""
    tokens_in: int = 0
    """Of all attempts."""
    tokens_out: int = 0


class Check(Row):
    """A model's reply about one written question before it is used, as it came."""

    table: ClassVar[str] = "checks"
    key_columns: ClassVar[tuple[str, ...]] = ("question_id", "check", "permutation")

    question_id: str
    check: CheckName
    permutation: int = 0
    """The options, in the order of their text, were shown rotated left by this many places."""
    reply: str = ""
    status: ReplyStatus = "ok"
    reason: str = ""
    model: str = ""
    prompt_sha: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


class Placement(Row):
    """The side of the split on which one document stands; frozen once drawn."""

    table: ClassVar[str] = "splits"
    key_columns: ClassVar[tuple[str, ...]] = ("doc_id",)

    doc_id: str
    path: str
    group: str
    """Documents of one group stand on one side: named so, or holding the same text."""
    split: Split
    why: str
    """How the group came there: pinned, by tag, too large, drawn, filled ..."""
    tokens: int = 0
    """Of the document's usable passages: what the shares are shares of."""
    drawn: str = ""
    """Digest of the settings that the split was drawn under."""


class Span(BaseModel):
    """A stretch of a passage, in its own characters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passage_id: str
    text: str


class Question(Row):
    """An open or multiple-choice question; dropped ones stay, with the reason."""

    table: ClassVar[str] = "questions"
    key_columns: ClassVar[tuple[str, ...]] = ("question_id",)

    question_id: str
    """Set at creation, never recomputed."""
    set: str
    """"written" for questions made here, else the name of the imported set."""
    kind: QuestionKind
    type: QuestionType | Literal[""] = ""
    difficulty: Difficulty | Literal[""] = ""
    question: str
    options: tuple[str, ...] = ()
    answer: str = ""
    """The letter of the right option; empty for open questions."""
    reference: str = ""
    """The reference answer in words."""
    context: str = ""
    """Text that belongs to the question (an abstract, say) and is shown to every arm."""
    evidence: str = ""
    """The quoted span of the passage, or of an imported question's document, that the answer rests
    on."""
    passage_id: str = ""
    joined: tuple[Span, ...] = ()
    """Spans of further passages, where the answer joins several."""
    doc_id: str = ""
    tags: tuple[str, ...] = ()
    """Tags of the document: each makes a set of its own."""
    group: str = ""
    """The source document's group: the cluster of the statistics."""
    split: Split = "none"
    language: str = "en"
    licence: str = ""
    status: Literal["kept", "dropped"] = "kept"
    reason: str = ""
    """A key of QUESTION_REASONS."""
    note: str = ""
    flags: tuple[str, ...] = ()
    """Keys of QUESTION_FLAGS."""
    generator: str = ""
    """Writer or import file that made the question."""
    revision: int = 0
    """How often a person has changed it; revisions.jsonl says who changed what."""
    revised_by: str = ""

    @property
    def subset(self) -> str:
        """Name of the part of the evaluation this question belongs to, "set/split"."""
        return f"{self.set}/{self.split}"

    @property
    def subsets(self) -> tuple[str, ...]:
        """Every part of the evaluation that it counts in: its own, and one for each tag."""
        return (self.subset, *(f"{tag}/{self.split}" for tag in self.tags if tag != self.set))


class Overlap(Row):
    """Something a tested question shares with what was trained on."""

    table: ClassVar[str] = "contamination"
    key_columns: ClassVar[tuple[str, ...]] = ("question_id", "kind", "against")

    question_id: str
    subset: str
    kind: Literal["exact", "ngram", "embedding"]
    """The same question; a run of 13 words in common; vectors close together."""
    against: Literal["questions", "passages"]
    """Compared with the questions of train, or with the passages of its documents."""
    twin: str
    """The question_id or passage_id that shares most."""
    value: float
    """1; the share of the question's 13-grams that occur there; the cosine."""
    shared: str = ""
    """The words in common."""


class Revision(Row):
    """One column of one question changed by a person; an input of the questions."""

    table: ClassVar[str] = "revisions"
    key_columns: ClassVar[tuple[str, ...]] = ("question_id", "revision", "column")

    question_id: str
    revision: int
    """1 for the first change of a question, and so on."""
    column: str
    before: str
    """As JSON where the column is no text."""
    after: str
    by: str
    at: str
    """When it was imported, ISO 8601."""
    note: str = ""


class Training(Row):
    """One logged step of one training job."""

    table: ClassVar[str] = "training"
    key_columns: ClassVar[tuple[str, ...]] = ("adapter", "phase", "step")

    adapter: str
    """Name of the adapter, or of the nano model."""
    phase: Literal["pretrain", "tune"]
    step: int
    loss: float | None = None
    eval_loss: float | None = None
    eval_choice: float | None = None
    learning_rate: float | None = None
    tokens: int = 0
    """Tokens seen up to this step, padding left out."""
    kept: bool = False
    """Whether the weights of this step are those that were kept."""


class Retention(Row):
    """One question outside the corpus, before and after an adapter was trained: what it forgot."""

    table: ClassVar[str] = "retention"
    key_columns: ClassVar[tuple[str, ...]] = ("adapter", "question_id")

    adapter: str
    question_id: str
    set: str
    kind: QuestionKind
    before: float | None = None
    """By the base: 1 where the right option is the likeliest, else 0; of an open question the mean
    log-likelihood of the reference's tokens, in nats."""
    after: float | None = None
    """The same by base and adapter."""
    status: Literal["scored", "not_applicable"] = "scored"
    reason: str = ""


class Variant(Row):
    """Another wording of a training question, with an answer of another length."""

    table: ClassVar[str] = "variants"
    key_columns: ClassVar[tuple[str, ...]] = ("question_id", "number")

    question_id: str
    number: int
    """From 1."""
    length: str = ""
    """Length that was asked for, short or long."""
    question: str = ""
    reference: str = ""
    status: Literal["kept", "dropped", "error"] = "kept"
    reason: str = ""
    """Why it was dropped, a key of VARIANT_REASONS, or what went wrong."""
    model: str = ""
    prompt_sha: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


class Citation(BaseModel):
    """A passage that an arm was shown, with the retrieval score."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    passage_id: str
    score: float


class Retrieval(Row):
    """What retrieval found for one tested question; without sources where none is known."""

    table: ClassVar[str] = "retrieval"
    key_columns: ClassVar[tuple[str, ...]] = ("question_id",)

    question_id: str
    sources: tuple[str, ...]
    """The passages that hold the question's evidence."""
    hits: tuple[Citation, ...] = ()
    """The best passages found by the question alone, best first."""
    ranks: tuple[int | None, ...] = ()
    """Place of each source among the hits, from 1; None: not among them."""


class IndexVariant(Row):
    """How well one variant of the index finds the sources of the tested questions."""

    table: ClassVar[str] = "index_sweep"
    key_columns: ClassVar[tuple[str, ...]] = ("variant",)

    variant: str
    settings: dict[str, str | int | float]
    """What was varied, by its name in study.yaml."""
    passages: int
    questions: int
    """Tested ones whose source is known."""
    shown: float
    """Share of them with a source among the answers.k best."""
    hit_1: float
    hit_5: float
    hit_20: float
    mrr: float
    ndcg_10: float
    recall_20: float
    index_seconds: float
    """To embed and store all passages; 0 where another variant has the same."""
    search_ms: float
    """A question, asked alone."""


class Latency(Row):
    """How long one answer took; outside of all digests, since no two runs agree."""

    table: ClassVar[str] = "latencies"
    key_columns: ClassVar[tuple[str, ...]] = ("question_id", "arm", "repeat", "permutation")

    question_id: str
    arm: str
    repeat: int = 0
    permutation: int = 0
    seconds: float
    """Of the model: of a batch in this process its share; 0 where a kept reply was used."""
    search_seconds: float = 0.0
    """Of the retrieval, its share of the batch."""
    together: int = 1
    """Answers that were made at once."""
    memory_mb: int = 0
    """Of the process that held the model, with all that it held: on a GPU the most since the arm
    began, else what was resident; 0 where a server answered."""


class Answer(Row):
    """What one arm replied to one question, once."""

    table: ClassVar[str] = "answers"
    key_columns: ClassVar[tuple[str, ...]] = ("question_id", "arm", "repeat", "permutation")

    question_id: str
    arm: str
    repeat: int = 0
    permutation: int = 0
    """Options were rotated left by this many places: option i stood at i - permutation (mod n)."""
    text: str = ""
    status: ReplyStatus = "ok"
    reason: str = ""
    passages: tuple[Citation, ...] = ()
    """In the order in which the prompt held them."""
    option_logprobs: tuple[float, ...] = ()
    """Sum of log-probabilities of each option's text, in the question's own (unrotated) order."""
    option_tokens: tuple[int, ...] = ()
    reference_logprob: float | None = None
    reference_tokens: int | None = None
    model: str = ""
    """name@revision+adapter."""
    prompt_sha: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


class Judgement(Row):
    """A judge's reply about one or more answers, as it came."""

    table: ClassVar[str] = "judgements"
    key_columns: ClassVar[tuple[str, ...]] = ("judgement_id",)

    judgement_id: str
    """digest(judge, question_id, mode, order, repeat), and the permutation for one answer alone."""
    judge: str
    question_id: str
    mode: Literal["verdict", "ranking", "facts"]
    order: tuple[str, ...]
    """Arms whose answers are judged, in the order shown; those without a text are left out there.
    """
    repeat: int = 0
    reply: str = ""
    former: str = ""
    """The first reply, where it could not be read and the judge was asked again."""
    status: ReplyStatus = "ok"
    reason: str = ""
    model: str = ""
    prompt_sha: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


class KeyFacts(Row):
    """The facts that a good answer to an open question states, as a model listed them."""

    table: ClassVar[str] = "facts"
    key_columns: ClassVar[tuple[str, ...]] = ("question_id",)

    question_id: str
    facts: tuple[str, ...] = ()
    reply: str = ""
    former: str = ""
    """The first reply, where it could not be read and the model was asked again."""
    status: ReplyStatus = "ok"
    reason: str = ""
    model: str = ""
    prompt_sha: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


class Rating(Row):
    """A person's mark for one answer, as imported; an input of the scores."""

    table: ClassVar[str] = "ratings"
    key_columns: ClassVar[tuple[str, ...]] = ("set", "question", "arm", "rater", "occasion")

    set: str
    question: str
    arm: str
    """The raters' raw name of the system."""
    rater: str = ""
    occasion: int = 0
    answer: str
    label: Literal[
        "incorrect", "partially incorrect", "correct but incomplete", "correct", "unrated"
    ]
    note: str = ""


class Score(Row):
    """One metric of one answer, whatever happened to it."""

    table: ClassVar[str] = "scores"
    key_columns: ClassVar[tuple[str, ...]] = (
        "question_id",
        "arm",
        "repeat",
        "permutation",
        "metric",
        "rater",
        "occasion",
    )

    question_id: str
    arm: str
    repeat: int = 0
    permutation: int = 0
    metric: str
    rater: str = ""
    occasion: int = 0
    value: float | None = None
    """Set exactly when status is "scored"."""
    label: str = ""
    """The letter read, the verdict given ..."""
    note: str = ""
    """The parser, signature or encoder that produced the value."""
    against: str = ""
    """The arm compared with, for pairwise metrics."""
    status: Literal["scored", "unparsed", "error", "unjudged", "not_applicable"] = "scored"
    """unparsed, error: of the answer; unjudged: the judge or checker gave no usable reply."""


class Estimate(Row):
    """A statistic of one arm, or of the difference between two, on one subset."""

    table: ClassVar[str] = "estimates"
    key_columns: ClassVar[tuple[str, ...]] = ("metric", "subset", "arm", "against", "method")

    metric: str
    subset: str
    arm: str
    against: str = ""
    """The arm subtracted, for differences; empty for a mean."""
    method: str
    """How value and interval were computed, e.g. mean/wilson, difference/cluster_bootstrap."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    test: str = ""
    """How p was computed: mcnemar, sign_flip ..."""
    p_sign: float | None = None
    """Of the sign test over clusters: who wins more of them, whatever by how much."""
    wins: int | None = None
    """Questions on which `arm` scored higher; `losses`: lower; the others are equal."""
    losses: int | None = None
    effect: float | None = None
    """The difference in standard deviations of the questions' differences (Cohen's d_z)."""
    error: float | None = None
    """Standard error of a difference that power goes by: of whole clusters, and no smaller than of
    as many separate questions."""
    freedom: float | None = None
    """Its degrees of freedom."""
    detectable: float | None = None
    """The smallest difference that this design finds with 80 % power at a two-sided 5 %; None too
    where the test cannot reach 5 %, as with five documents."""
    detectable_adjusted: float | None = None
    """The same at Holm's first step: 5 % over the comparisons of its metric and subset."""
    rank: int | None = None
    rank_adjusted: int | None = None
    rank_low: int | None = None
    """`rank_low` to `rank_high`: 95 % interval of `rank`."""
    rank_high: int | None = None
    p_best: float | None = None
    """Share of the draws of other documents in which no arm is higher, shared among equals."""
    rank_questions: int | None = None
    """Questions that ranks rest on: those that all arms with any value have."""
    questions: int = 0
    clusters: int = 0
    missing: int = 0
    missing_as: str = ""
    seed: int = 0


class Standing(Row):
    """An arm's place over all layers on one subset or on all unseen ones (paper, table 3)."""

    table: ClassVar[str] = "standings"
    key_columns: ClassVar[tuple[str, ...]] = ("subset", "arm")

    subset: str
    """A subset, or "all unseen subsets"."""
    arm: str
    ranks: dict[str, float | None]
    """Layer -> median rank over its metrics; None where not measured."""
    median: float
    """Of the ranks of the layers."""
    median_low: float | None = None
    median_high: float | None = None
    place: int
    """1 + the number of arms with a smaller median; equal medians share a place."""
    place_low: int | None = None
    place_high: int | None = None
    p_first: float | None = None
    """Share of the draws in which no arm has a smaller median, shared among equals."""
    seed: int = 0


class Agreement(Row):
    """How far two metrics, or a judge and the experts, say the same."""

    table: ClassVar[str] = "agreement"
    key_columns: ClassVar[tuple[str, ...]] = ("level", "subset", "a", "b", "measure")

    level: Literal["arms", "answers", "grades"]
    """Order of the arms by their means; order of single answers; grades of the same answers."""
    subset: str
    a: str
    """A metric; for grades a judge's name."""
    b: str
    """A metric; for grades "experts", or an expert's name."""
    measure: str
    """A key of MEASURES: kendall, kendall_within, spearman, kappa, alpha, icc, agreement."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    items: int = 0
    """Arms, answers or graded answers compared."""
    clusters: int = 0
    note: str = ""


class Reliability(Row):
    """How far something that has nothing to do with the content sways an arm or a judge."""

    table: ClassVar[str] = "reliability"
    key_columns: ClassVar[tuple[str, ...]] = ("layer", "instrument", "measure", "detail")

    layer: Literal["choice", "judge"]
    instrument: str
    """The arm that chose; the judge; two judges as "a ~ b"; or "panel", all judges."""
    measure: str
    """A key of MEASURES."""
    detail: str = ""
    """The place or slot, the metric that two judges were compared on ..."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    expected: float | None = None
    """The value without any bias, where there is one."""
    items: int = 0
    clusters: int = 0
    note: str = ""


TABLES: Mapping[str, type[Row]] = {
    row.table: row
    for row in (
        Document,
        PageQuality,
        GivenPassage,
        Passage,
        Placement,
        Draft,
        Check,
        Question,
        Revision,
        KeyFacts,
        Variant,
        Overlap,
        Training,
        Retention,
        Retrieval,
        IndexVariant,
        Answer,
        Latency,
        Judgement,
        Rating,
        Score,
        Reliability,
        Estimate,
        Standing,
        Agreement,
    )
}
"""Row class of each table, in the order of the chain."""


class Metric(NamedTuple):
    """What a metric means: its layer of evaluation, its name for readers and how it is read."""

    layer: Literal["choice", "text", "judge", "similarity", "human", "other"]
    label: str
    binary: bool
    kind: QuestionKind
    missing_as: float | None
    """The value an unparsed or failed answer counts as; None if it leaves the mean."""


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("choice", "Accuracy, letter written", True, "choice", 0.0),
    "accuracy_likelihood": Metric("choice", "Accuracy, likeliest option", True, "choice", None),
    "accuracy_likelihood_per_token": Metric(
        "choice", "Accuracy, likeliest option per token", True, "choice", None
    ),
    "accuracy_strict": Metric("choice", "Accuracy, letter as asked for", True, "choice", 0.0),
    "accuracy_circular": Metric("choice", "Right wherever the options stand", True, "choice", 0.0),
    "consistency": Metric(
        "choice", "Same option named wherever the options stand", False, "choice", 0.0
    ),
    "bleu": Metric("text", "BLEU (sentence, smoothed)", False, "open", 0.0),
    "bleu_corpus": Metric("text", "BLEU (corpus)", False, "open", 0.0),
    "rouge1_precision": Metric("text", "ROUGE-1 precision", False, "open", 0.0),
    "rouge1_recall": Metric("text", "ROUGE-1 recall", False, "open", 0.0),
    "rouge1": Metric("text", "ROUGE-1 F", False, "open", 0.0),
    "rouge2_precision": Metric("text", "ROUGE-2 precision", False, "open", 0.0),
    "rouge2_recall": Metric("text", "ROUGE-2 recall", False, "open", 0.0),
    "rouge2": Metric("text", "ROUGE-2 F", False, "open", 0.0),
    "rougeL_precision": Metric("text", "ROUGE-L precision", False, "open", 0.0),
    "rougeL_recall": Metric("text", "ROUGE-L recall", False, "open", 0.0),
    "rougeL": Metric("text", "ROUGE-L F", False, "open", 0.0),
    "bertscore_precision": Metric("text", "BERTScore precision", False, "open", 0.0),
    "bertscore_recall": Metric("text", "BERTScore recall", False, "open", 0.0),
    "bertscore": Metric("text", "BERTScore F1", False, "open", 0.0),
    "fact_recall": Metric("text", "Key facts of the reference stated", False, "open", 0.0),
    "verdict": Metric("judge", "Judge's verdict (0-1)", False, "open", 0.0),
    "verdict_correct": Metric("judge", "Judge's verdict is correct", True, "open", 0.0),
    "ranking": Metric("judge", "Rivals that the judge placed below", False, "open", None),
    "ranking_strength": Metric(
        "judge", "Strength in the judge's rankings (log-odds)", False, "open", None
    ),
    "ranking_strength_length": Metric(
        "judge", "Strength at equal length (log-odds)", False, "open", None
    ),
    "reference_similarity": Metric(
        "similarity", "Similarity to the reference, graded (no judge model)", False, "open", 0.0
    ),
    "human": Metric("human", "Experts' rating (0-1)", False, "open", None),
    "words": Metric("other", "Words in the answer", False, "open", None),
    "unread": Metric("other", "Replies without a letter", True, "choice", None),
    "unread_strict": Metric("other", "Replies not in the form asked for", True, "choice", None),
    "facts_contradicted": Metric("other", "Key facts contradicted", False, "open", None),
    "harm": Metric(
        "other", "Harm the judge fears (0 none, .5 possible, 1 severe)", False, "open", None
    ),
    "abstained": Metric("other", "Says that the literature does not answer", True, "open", None),
    "claims_cited": Metric("other", "Statements with a key that was given", False, "open", None),
    "citation_recall": Metric(
        "other", "Statements that a cited passage bears out (no model)", False, "open", None
    ),
    "citation_precision": Metric(
        "other", "Citations that bear out their statement (no model)", False, "open", None
    ),
    "keys_not_given": Metric("other", "Keys that were not given", False, "open", None),
    "reference_likelihood": Metric(
        "other", "Log-likelihood of the reference per token", False, "open", None
    ),
}
"""Every metric the package knows, by the name that scores and estimates carry."""

MEASURES: Mapping[str, str] = {
    "place_share": "Letters named that stand at this place, less keys that do",
    "place_recall": "Right answers where the key stands at this place",
    "recall_spread": "Standard deviation of the right answers over the places of the key",
    "unparsed": "Replies that could not be read",
    "asked_again": "Replies that were asked for a second time",
    "slot_rank": "Mean rank of the answers shown in this slot",
    "slot_effect": "Log-odds of being placed first, a slot further down",
    "swap_consistency": "Pairs placed alike when shown in the other order",
    "length_effect": "Log-odds of being placed first, for twice the words",
    "length_slope": "Change of the verdict for twice the words",
    "agreement": "Equal grades",
    "kappa": "Cohen's kappa, quadratic weights",
    "alpha": "Krippendorff's alpha, ordinal",
    "kendall": "Kendall's tau of the rankings",
    "kendall_within": "Kendall's tau of answers to one question",
    "spearman": "Spearman's rank correlation",
    "icc": "Intraclass correlation ICC(2,1), absolute agreement",
}
"""What a Reliability row may measure, by the name it carries."""

GRADES: Mapping[str, float] = {
    "incorrect": 0.0,
    "partially incorrect": 0.25,
    "correct but incomplete": 0.75,
    "correct": 1.0,
}
"""The experts' scale and its values (paper, section 4.3)."""
