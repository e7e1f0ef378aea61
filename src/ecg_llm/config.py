"""study.yaml as frozen models; an unknown key is an error with a suggestion."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from ecg_llm.contracts import UsageError
from ecg_llm.records import CheckName, Difficulty, PassageKind, QuestionType
from ecg_llm.registry import suggestion

FILE = "study.yaml"


class Section(BaseModel):
    """A part of study.yaml."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Documents(Section):
    """How the literature folder is read."""

    engine: str = "liteparse"
    """PDF engine by name (liteparse, pdfium; docling, mineru, opendataloader, pymupdf4llm if
    installed) or "module:attribute"."""
    timeout: float = Field(default=300, gt=0)
    """Seconds after which a file is given up."""
    memory_mb: int = Field(default=2048, ge=128)
    """Memory limit of a reader process, in MiB."""
    max_mb: int = Field(default=1024, ge=1)
    """A larger file is not read, in MiB."""
    workers: int = Field(default=0, ge=0)
    """Reader processes; 0 means one a core."""
    ocr: Literal["auto", "never"] = "auto"
    """auto: scanned and garbled pages go to ocrmypdf if it is installed."""
    ocr_seconds: float = Field(default=15, gt=0)
    """Seconds after which the recognition of a page is given up."""
    passwords: dict[str, SecretStr] = {}
    """Glob of paths: the password that opens them; it is shown nowhere."""
    near_duplicate: float = Field(default=0.95, gt=0, le=1)
    """Share of common word sequences from which on a document is a duplicate; 1: never."""
    exclude: tuple[str, ...] = ()
    """Globs of paths to leave out."""
    tags: dict[str, tuple[str, ...]] = {}
    """Tag: globs of the paths that carry it."""
    groups: dict[str, tuple[str, ...]] = {}
    """Group: globs of the documents that must stay on one side of a split."""


class Passages(Section):
    """How documents are cut."""

    tokens: int = Field(default=256, ge=16)
    """Budget of a passage, counted with the embedder's tokenizer (or characters, see unit)."""
    overlap: int = Field(default=0, ge=0)
    """Units that a passage repeats from the one before."""
    unit: Literal["tokens", "characters"] = "tokens"
    kinds: tuple[PassageKind, ...] = ("body", "abstract", "table", "caption")
    """Kinds of passages that the index and the writers use."""


class ImportedSet(Section):
    """A question file of the user's own."""

    path: str
    """JSON lines, JSON, CSV or XLSX, relative to the study folder; "handbook": the bundled one."""
    name: str = ""
    """Name of the set; default: the file's stem."""
    split: Literal["auto", "test", "test_seen", "train", "val"] = "auto"
    """auto: test_seen where the question names a document in train or val, else test."""
    where: dict[str, str | tuple[str, ...]] = {}
    """Field: value or values that a row must have to be used."""
    limit: int | None = Field(default=None, ge=1)
    """Use a seeded sample of this many rows."""

    @property
    def set_name(self) -> str:
        """Return the name of the set."""
        return self.name or Path(self.path).stem

    key_from: Literal[0, 1] | None = None
    """What the first option is counted as where the file gives right options by number; to be set
    where the file itself does not show it."""


class Splits(Section):
    """How documents are divided; globs first, then shares of the remaining groups."""

    train: float | tuple[str, ...] = 0.8
    val: float | tuple[str, ...] = 0.1
    test: float | tuple[str, ...] = 0.1
    seen: float = Field(default=0.1, ge=0, lt=1)
    """Share of the passages of train documents with a kept question whose questions are held back
    for test_seen."""
    tags: dict[str, Literal["train", "val", "test"]] = {}
    """Tag of documents: the split that they all go to, like {essential: train}."""
    related: float = Field(default=0.2, gt=0, le=1)
    """Share of the shorter document's 8-word runs that occur in the other, from which on the two
    stay on one side; 1: never."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> "Splits":
        shares = [s for s in (self.train, self.val, self.test) if isinstance(s, float)]
        if any(not 0 <= share <= 1 for share in shares):
            raise ValueError("questions.split: shares lie between 0 and 1")
        if len(shares) == 3 and abs(sum(shares) - 1) > 0.001:
            raise ValueError(
                f"questions.split: the shares of train, val and test make {sum(shares):g}, not 1"
            )
        return self


class Checks(Section):
    """How written questions are checked, beyond what is always checked."""

    similarity: float = Field(default=0.5, ge=0, le=1)
    """Least cosine between question and answer and the sentences of the source closest to them; 0:
    off."""
    duplicate: float = Field(default=0.95, gt=0, le=1)
    """Cosine from which on two questions with the same numbers say the same; 1: off."""
    model: str = ""
    """Entry of models that checks every written question; empty: none."""
    passes: tuple[CheckName, ...] = ("grounded", "closed_book", "options_only")
    """grounded: is the answer right by the source. closed_book and options_only: is it found
    without the source, and without even the question."""
    max_tokens: int = Field(default=1024, ge=1)


class Variants(Section):
    """Other wordings of training questions, so that one fact is learned from several sides."""

    model: str = ""
    """Entry of models that writes them; empty: none."""
    paraphrases: int = Field(default=2, ge=1, le=8)
    """Other wordings of each open question of the train split."""
    lengths: tuple[Literal["short", "long"], ...] = Field(default=("short", "long"), min_length=1)
    """Lengths of the answers that they ask for: a phrase, or two to four sentences of the
    source."""
    max_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.7, ge=0)


class Questions(Section):
    """Who writes questions, and which are kept."""

    writer: Literal["extractive", "llm"] = "extractive"
    model: str | Annotated[tuple[str, ...], Field(min_length=1)] = ""
    """Entry of models that writes, for writer: llm; several share the windows."""
    kinds: tuple[Literal["open", "choice"], ...] = Field(default=("open", "choice"), min_length=1)
    per_window: int = Field(default=3, ge=1)
    """Questions of each kind asked for per window, dealt to its passages."""
    types: tuple[QuestionType, ...] = Field(default=get_args(QuestionType), min_length=1)
    """Types of questions that a language model is asked for, spread evenly."""
    difficulties: tuple[Difficulty, ...] = Field(default=get_args(Difficulty), min_length=1)
    joined: float = Field(default=0, ge=0, le=1)
    """Windows of two distant passages of one document, for questions that join facts, per ordinary
    window; for writer: llm."""
    window: int = Field(default=1024, ge=1)
    """Consecutive passages of a document are joined up to this many tokens."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many windows, a seeded sample over all documents."""
    language: Literal["en", "de", "text"] = "text"
    """Language of the questions; text: that of the passage."""
    max_tokens: int = Field(default=4096, ge=1)
    temperature: float = Field(default=0.1, ge=0)
    checks: Checks = Checks()
    variants: Variants = Variants()
    split: Splits = Splits()
    revisions: tuple[str, ...] = ("revisions/*.jsonl",)
    """What people changed, as `ecg-llm questions import` keeps it; relative to the study folder."""
    imports: tuple[ImportedSet, ...] = ()

    @property
    def writers(self) -> tuple[str, ...]:
        """Return the entries of models that write."""
        return (self.model,) if isinstance(self.model, str) else self.model


class LocalModelConfig(Section):
    """Open weights in this process."""

    kind: Literal["local"]
    id: str
    """A Hugging Face id or a folder."""
    revision: str = "main"
    quantization: Literal["none", "nf4"] = "none"
    """nf4 needs CUDA and bitsandbytes."""
    batch: int = Field(default=8, ge=1)
    price_hour: float = Field(default=0.0, ge=0)
    """Of an hour of the machine it runs on, for the cost shown."""
    family: str = ""
    """The family of models it belongs to, like llama; empty: told from its name."""


class NanoModelConfig(Section):
    """A Llama of a few million parameters, trained here: it exercises the chain, nothing else."""

    kind: Literal["nano"]
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    vocabulary: int = 4096
    context: int = 2048
    tokens: int = 600_000
    """Tokens of pretraining on the passages of train documents."""
    batch: int = Field(default=16, ge=1)
    price_hour: float = Field(default=0.0, ge=0)
    """Of an hour of the machine it runs on, for the cost shown."""


class ApiModelConfig(Section):
    """Any OpenAI-compatible server."""

    kind: Literal["api"]
    base_url: str
    model: str
    revision: str = ""
    """Free text that names the weights behind the server, so that the cache knows them."""
    key_env: str = ""
    """Environment variable that holds the key."""
    concurrency: int = Field(default=4, ge=1)
    timeout: float = Field(default=600, gt=0)
    price_in: float = 0.0
    """Per million tokens, for the cost shown."""
    price_out: float = 0.0
    price_hour: float = Field(default=0.0, ge=0)
    """Of an hour of the server, where it is your own and not paid by the token."""
    family: str = ""
    """The family of models it belongs to, like claude; empty: told from its name."""

    @property
    def name(self) -> str:
        """model@revision; the address is no part of it, so that a server may move."""
        return "@".join(filter(None, (self.model, self.revision)))


class ExtractiveModelConfig(Section):
    """No language model: the best sentences of the best passages."""

    kind: Literal["extractive"]
    sentences: int = Field(default=2, ge=1)
    price_hour: float = Field(default=0.0, ge=0)
    """Of an hour of the machine it runs on, for the cost shown."""


ModelConfig = Annotated[
    LocalModelConfig | NanoModelConfig | ApiModelConfig | ExtractiveModelConfig,
    Field(discriminator="kind"),
]


class Pretraining(Section):
    """Continued pretraining on the passages of train documents, before tuning."""

    epochs: float = Field(default=0, ge=0, le=1000)
    learning_rate: float | None = Field(default=None, gt=0)
    """Empty: that of the adapter."""
    replay: str = ""
    """File or folder of plain text (.txt, .md, or .jsonl with a field text) that is mixed in, so
    that less of what the model knew is forgotten; relative to the study folder."""
    replay_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the tokens that are replayed, where there is such text."""


class Mixture(Section):
    """What the examples of fine-tuning are made of."""

    choice: float | None = Field(default=None, ge=0, le=1)
    """Share of choice questions among the examples; of the kind that is too many a seeded sample
    is taken. Empty: all as they are."""
    choice_reply: Literal["sentence", "letter", "option"] = "sentence"
    """sentence: "The correct answer is B." as in the paper; letter: "B"; option: the sentence with
    the option's text."""
    passages: float = Field(default=0, ge=0, le=1)
    """Share of the examples that show passages as retrieval does, so that the model learns to use
    and to cite them."""
    distractors: int = Field(default=2, ge=0)
    """Other passages shown beside the right one; of 256 tokens each, two fit into 1,024."""
    abstain: float = Field(default=0.2, ge=0, le=1)
    """Of the open examples with passages, the share where the right one is missing and the reply
    says so."""
    joined: float = Field(default=0, ge=0)
    """Examples that ask two or three questions of a document at once, per open question."""
    variants: bool = True
    """Use the other wordings and lengths that questions.variants had written."""


ADAPTER_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # As published (PAPER, section 4.1 and its code); 16 x 2 examples a step.
    "paper": {
        "method": "qlora", "rank": 256, "alpha": 128, "dropout": 0.1, "epochs": 2,
        "targets": (
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head",
        ),
        "learning_rate": 2e-4, "schedule": "cosine", "warmup": 0.01, "batch": 32,
        "optimizer": "paged_adamw_32bit", "max_grad_norm": 0.3, "eval_steps": 500,
        "save_steps": 1000, "keep": "choice",
    },
    # One card of 24 GB or more; the rate and rank that hold up over many models.
    "recommended": {
        "method": "qlora", "rank": 64, "alpha": 128, "epochs": 2, "learning_rate": 1e-4,
        "batch": 16, "warmup": 0.03, "patience": 5, "max_length": 1536,
        "mix": {"passages": 0.3, "distractors": 3, "joined": 0.1},
    },
    # One card of 8 to 16 GB.
    "small-gpu": {
        "method": "qlora", "rank": 16, "alpha": 32, "epochs": 2, "learning_rate": 2e-4,
        "batch": 16, "max_length": 768, "optimizer": "paged_adamw_8bit", "patience": 5,
        "mix": {"passages": 0.2, "distractors": 1, "joined": 0.1},
    },
}  # fmt: skip
"""Settings of `preset`; what stands beside it in study.yaml goes first."""


ADAPTER_ASIDE = frozenset(
    {"preset", "report_to", "save_steps", "micro_batch", "checkpointing", "packing"}
)
"""Settings of an adapter that do not decide its weights, but for the rounding of sums and the draw
of dropout's masks."""


class Adapter(Section):
    """One fine-tuning job."""

    preset: Literal["", "paper", "recommended", "small-gpu"] = ""
    """Start from the settings of a preset; what else is set goes first."""
    model: str = "base"
    """Entry of models that is tuned."""
    method: Literal["lora", "qlora", "dora", "rslora", "full"] = "lora"
    """lora; qlora: on weights in 4 bit (NF4), needs CUDA; dora: with magnitudes of their own;
    rslora: scaled by the root of the rank; full: all weights."""
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: (
        Literal["all-linear"]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    ) = "all-linear"
    """Layers that get an adapter, by the end of their name; all-linear: all but the output
    layer."""
    epochs: float = Field(default=2, gt=0, le=1000)
    learning_rate: float = Field(default=2e-4, gt=0)
    schedule: str = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps."""
    batch: int = Field(default=16, ge=1)
    """Examples a step, over all devices and however they are cut into micro-batches."""
    micro_batch: int = Field(default=0, ge=0)
    """Examples that a device computes at once; 0: as many as fit."""
    max_length: int = Field(default=1024, ge=16)
    """Tokens; a longer example is left out and counted, never cut."""
    packing: bool | None = None
    """Lay the examples of a micro-batch into one row, apart from each other; empty: on a GPU. Else
    they are sorted by length and padded."""
    checkpointing: bool | None = None
    """Compute activations twice instead of keeping them; empty: where they do not fit."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the computation; auto: bfloat16 where the machine has it in hardware."""
    optimizer: str = "adamw_torch_fused"
    """A name that transformers knows."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    pretrain: Pretraining = Pretraining()
    mix: Mixture = Mixture()
    eval_steps: int = Field(default=100, ge=1)
    """Steps between two looks at the val split, by loss and by choice accuracy."""
    eval_choices: int = Field(default=200, ge=0)
    """Choice questions of the val split, at most, that each look asks."""
    keep: Literal["loss", "choice", "last"] = "loss"
    """Which weights are kept: of the lowest loss or highest choice accuracy on val, or the last."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many looks without a better one; 0: never."""
    save_steps: int = Field(default=100, ge=1)
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("targets"), str) and data["targets"] != "all-linear":
            data = {**data, "targets": [data["targets"]]}
        start = ADAPTER_PRESETS.get(data.get("preset") or "")
        if start is None:
            return data
        mix = data.get("mix", {})
        both = {"mix": {**start.get("mix", {}), **mix}} if isinstance(mix, dict) else {}
        return {**start, **data, **both}


class Sweep(Section):
    """One adapter with several settings, trained by `ecg-llm train --sweep`."""

    adapter: str
    """Entry of adapters that is varied."""
    settings: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Each line is a variant; a list of values in it gives one variant a value."""

    def variants(self, adapter: Adapter) -> dict[str, Adapter]:
        """Return name -> adapter of each variant, like tuned-rank256-alpha128.

        Raises:
            ValueError: a key is no setting of an adapter, or two variants have one name.
        """
        made: dict[str, Adapter] = {}
        start = adapter.model_dump(exclude_unset=True)
        for line in self.settings:
            if not line or any(value in ([], ()) for value in line.values()):
                raise ValueError("each line of settings needs a setting with a value")
            if "preset" in line:
                raise ValueError("a preset cannot be varied; make an adapter of its own for it")
            for chosen in itertools.product(*(_values(key, line[key]) for key in line)):
                changed = dict(zip(line, chosen, strict=True))
                name = "-".join([self.adapter, *(_slug(key, changed[key]) for key in changed)])
                variant = Adapter.model_validate(_merged(start, changed))
                if made.setdefault(name, variant) != variant:
                    raise ValueError(f"two variants would be named {name}; vary one thing a line")
        return made


def _values(key: str, value: object) -> Sequence[object]:
    """Return the values of a sweep's key; a list of names is one value where the setting is one."""
    of_names = key in ("targets", "report_to") and isinstance(value, list)
    if of_names and all(isinstance(name, str) for name in cast("list[object]", value)):
        return [value]
    return value if isinstance(value, list | tuple) else [value]


def _slug(key: str, value: object) -> str:
    """Return what a changed setting adds to a variant's name."""
    parts = value if isinstance(value, list | tuple) else [value]
    words = re.sub(r"[^\w.+-]+", "_", "_".join(map(str, parts))).strip("_")
    return f"{key.rpartition('.')[2]}{words}"


def _merged(start: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with some changed; `mix.choice` is the key choice of the section mix."""
    made = dict(start)
    for key, value in changed.items():
        first, dot, rest = key.partition(".")
        inner = {rest: value} if dot else value
        if isinstance(inner, Mapping):
            if first not in ("mix", "pretrain"):
                raise ValueError(f"{first} is no section of an adapter, but mix and pretrain are")
            made[first] = _merged(made.get(first) or {}, inner)
        else:
            made[first] = inner
    return made


def _blank(value: object) -> object:
    """Return "" for a key that YAML leaves blank."""
    return "" if value is None else value


class Index(Section):
    """What retrieval searches and how."""

    store: str = "index"
    """A folder of the study; object storage, like s3://bucket/path; or a PostgreSQL server with
    pgvector, like postgresql://user@host/database. It is for this study alone. Keys and passwords
    come from the environment."""
    embedder: str = Field(default="minilm", min_length=1)
    """minilm (packaged), a sentence-transformers id or folder, or an entry of models of kind api
    whose server gives embeddings."""
    dense_weight: float = Field(default=0.6, ge=0, le=1)
    """Share of the embedding's score in the mix with BM25."""
    candidates: int = Field(default=200, ge=1)
    """Passages taken from either side before mixing."""
    crowding: float = Field(default=0.5, ge=0, le=1)
    """Share of a passage's likeness to its own neighbours that is taken off its likeness to the
    query: passages that resemble many others come up for everything."""
    feedback: float = Field(default=0.3, ge=0, lt=1)
    """Share of the best passage found in a second look at the candidates; 0: one look."""
    lexicon: Annotated[str, BeforeValidator(_blank)] = "ecg"
    """Abbreviations and synonyms that widen the lexical side of a query: ecg (bundled), or a YAML
    file of your own; empty: none."""
    reranker: Annotated[str, BeforeValidator(_blank)] = ""
    """A cross-encoder's id or folder, or an entry of models of kind api whose server reranks;
    empty: none."""
    reranked: int = Field(default=50, ge=1)
    """Passages of the mix that the reranker reads."""
    sweep: tuple[dict[str, Any], ...] = ()
    """What `ecg-llm index --sweep` varies: settings of passages, index and answers, like
    passages.tokens; a list of values in a line gives one variant a value."""


class Arm(Section):
    """A model, with or without an adapter, with or without retrieval."""

    model: str
    adapter: str = ""
    retrieve: bool = False


class Answers(Section):
    """How every arm is asked; one setting for all."""

    k: int = Field(default=5, ge=1)
    """Passages that a retrieving arm is shown."""
    order: Literal["edges", "rank"] = "edges"
    """edges: the best passage first, the second best last and so on inwards, since models read the
    middle least; rank: best first."""
    passage_tokens: int = Field(default=2048, ge=64)
    """Budget of the passages in a prompt, by the model's own tokenizer."""
    max_tokens_open: int = Field(default=200, ge=1)
    max_tokens_choice: int = Field(default=32, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    permutations: int = Field(default=1, ge=1)
    """Cyclic rotations of the options that every choice question is asked in."""
    repeats: int = Field(default=1, ge=1)
    limit: int | None = None
    """At most this many questions of each set and split, a seeded sample."""


class Judge(Section):
    """A model that grades open answers."""

    model: str
    """Entry of models (kind api or local)."""
    modes: tuple[Literal["verdict", "ranking"], ...] = ("verdict",)
    """verdict: each answer alone, on the experts' scale. ranking: answers side by side."""
    block: int = Field(default=4, ge=2, le=6)
    """Answers ranked in one prompt."""
    orders: int = Field(default=5, ge=5)
    """How often each answer of a question is ranked, every time in another order."""
    related: Literal["refuse", "allow"] = "refuse"
    """What happens where the judge is of the family of models that wrote the questions."""
    max_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.0, ge=0)


class Facts(Section):
    """Key facts: listed once for each reference, then looked for in every answer."""

    model: str = ""
    """Entry of models (kind api or local); empty: no key facts."""
    max_tokens: int = Field(default=1024, ge=1)
    temperature: float = Field(default=0.0, ge=0)


class Scores(Section):
    """Which layers of evaluation are run."""

    overlap: bool = True
    bertscore: bool = True
    encoder: str = "minilm"
    """Encoder of BERTScore: "minilm" (packaged), a folder or a Hugging Face id."""
    layer: int | None = Field(default=None, ge=1)
    """Layer whose vectors BERTScore compares; empty: the one bert-score tuned for this encoder, and
    the last one of others."""
    rescale: bool = False
    """Rescale BERTScore with the baseline that bert-score carries for this encoder."""
    facts: Facts = Facts()
    judges: dict[str, Judge] = {}
    ratings: tuple[str, ...] = ("ratings/*.jsonl",)
    """Imported ratings, relative to the study folder."""
    raters: dict[str, str] = {}
    """The raters' name of a system -> the arm it is, where the two differ."""


class Estimates(Section):
    """The comparisons declared before the run, and the resampling."""

    comparisons: tuple[tuple[str, str], ...] = ()
    """Pairs (a, b) whose difference a - b is tested; empty: all pairs."""
    resamples: int = Field(default=10_000, ge=1_000)

    @field_validator("comparisons")
    @classmethod
    def _each_pair_once(cls, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """Each is a test that the correction counts."""
        seen: set[frozenset[str]] = set()
        for a, b in pairs:
            if a == b:
                raise ValueError(f"estimates.comparisons compares {a} with itself; name two arms")
            if frozenset((a, b)) in seen:
                raise ValueError(
                    f"estimates.comparisons has {a} and {b} twice; a pair is tested once, in "
                    "either order"
                )
            seen.add(frozenset((a, b)))
        return pairs


class Decision(Section):
    """What the report's first screen decides by."""

    candidates: tuple[str, ...] = ()
    """Arms, or systems that people rated, that may be deployed; empty: all. A proprietary one may
    serve as a yardstick only."""
    margin: float = Field(default=0.05, gt=0, lt=1)
    """The smallest difference that would matter to you, as a share: .05 is five points. Where the
    questions are too few to find it, the report says so."""


class Privacy(Section):
    """Hosts this study may reach besides the servers of its own models."""

    allow: tuple[str, ...] = ()


class IndexVariant(NamedTuple):
    """One variant of the index that a sweep compares."""

    settings: dict[str, Any]
    """What differs, by its name in study.yaml."""
    study: "Study"
    """The whole study under these settings."""


class Study(Section):
    """The whole of study.yaml."""

    title: str = "An ECG-LLM study"
    literature: str = "literature"
    """Folder of documents, relative to the study folder."""
    seed: int = Field(default=20251018, ge=0, lt=2**32)
    documents: Documents = Documents()
    passages: Passages = Passages()
    questions: Questions = Questions()
    models: dict[str, ModelConfig] = {}
    adapters: dict[str, Adapter] = {}
    sweeps: dict[str, Sweep] = {}
    index: Index = Index()
    arms: dict[str, Arm] = {}
    answers: Answers = Answers()
    scores: Scores = Scores()
    estimates: Estimates = Estimates()
    decision: Decision = Decision()
    privacy: Privacy = Privacy()

    @cached_property
    def trained(self) -> dict[str, Adapter]:
        """Every adapter by name, those of the sweeps among them.

        Raises:
            ValueError: two of them have one name.
        """
        found = dict(self.adapters)
        for name, sweep in self.sweeps.items():
            for variant, settings in sweep.variants(self.adapters[sweep.adapter]).items():
                if found.setdefault(variant, settings) != settings or variant in self.adapters:
                    raise ValueError(f"sweeps.{name}: there is another adapter named {variant}")
        return found

    @property
    def swept(self) -> set[str]:
        """Return the names of the adapters that only sweeps have: no arm uses them."""
        used = {arm.adapter for arm in self.arms.values()}
        return set(self.trained) - set(self.adapters) - used

    @cached_property
    def index_variants(self) -> "dict[str, IndexVariant]":
        """Return name -> variant of `index.sweep`, like tokens128-k5.

        Raises:
            ValueError: a key cannot be varied or has a wrong value, or two variants have one name.
        """
        made: dict[str, IndexVariant] = {}
        start = self.model_dump(exclude_unset=True)
        for line in self.index.sweep:
            if not line or any(value in ([], ()) for value in line.values()):
                raise ValueError("index.sweep: each line needs a setting with a value")
            for chosen in itertools.product(*(_values(key, line[key]) for key in line)):
                changed = dict(zip(line, chosen, strict=True))
                settings: dict[str, Any] = {**start, "index": {**start.get("index", {})}}
                settings["index"] = {**settings["index"], "store": "index", "sweep": ()}
                for key, value in changed.items():
                    section, _, name = key.partition(".")
                    varied = section in ("passages", "index", "answers") and name
                    if not varied or key in ("index.store", "index.sweep"):
                        raise ValueError(
                            f"index.sweep: {key} cannot be varied; settings of passages, index and "
                            "answers can, like passages.tokens"
                        )
                    settings[section] = {**settings.get(section, {}), name: value}
                label = "-".join(_slug(key, value) for key, value in changed.items())
                variant = IndexVariant(changed, Study.model_validate(settings))
                if made.setdefault(label, variant) != variant:
                    raise ValueError(f"index.sweep: two variants would be named {label}")
        return made

    @model_validator(mode="after")
    def _references_resolve(self) -> "Study":
        wanted: list[tuple[str, str, Mapping[str, object], str]] = []
        for name, sweep in self.sweeps.items():
            if sweep.adapter not in self.adapters:
                raise ValueError(
                    f"sweeps.{name}.adapter names {sweep.adapter!r}, which is not in adapters"
                    + suggestion(sweep.adapter, list(self.adapters))
                )
            try:
                sweep.variants(self.adapters[sweep.adapter])
            except ValidationError as error:
                problems = [_sentence(one, Adapter) for one in error.errors()]
                raise ValueError(f"sweeps.{name}: " + " ".join(problems)) from None
            except ValueError as error:
                raise ValueError(f"sweeps.{name}: {error}") from None
        try:
            _ = self.index_variants
        except ValidationError as error:
            problems = [_sentence(one, Study) for one in error.errors()]
            raise ValueError("index.sweep: " + " ".join(problems)) from None
        for name, arm in self.arms.items():
            wanted.append((f"arms.{name}.model", arm.model, self.models, "models"))
            if arm.adapter:
                wanted.append((f"arms.{name}.adapter", arm.adapter, self.trained, "adapters"))
        for name, adapter in self.adapters.items():
            wanted.append((f"adapters.{name}.model", adapter.model, self.models, "models"))
        for name, judge in self.scores.judges.items():
            wanted.append((f"scores.judges.{name}.model", judge.model, self.models, "models"))
            if not judge.modes:
                raise ValueError(f"scores.judges.{name}.modes: name verdict, ranking or both")
        if "facts" in self.scores.judges:
            raise ValueError("scores.judges: no judge may be named facts; key facts go by it")
        if self.scores.facts.model:
            model = self.scores.facts.model
            wanted.append(("scores.facts.model", model, self.models, "models"))
        if self.questions.writer == "llm":
            for model in self.questions.writers:
                wanted.append(("questions.model", model, self.models, "models"))
        elif self.questions.joined:
            raise ValueError("questions.joined needs a language model: set questions.writer to llm")
        if self.questions.checks.model:
            model = self.questions.checks.model
            wanted.append(("questions.checks.model", model, self.models, "models"))
        if self.questions.variants.model:
            model = self.questions.variants.model
            wanted.append(("questions.variants.model", model, self.models, "models"))
        for pair in self.estimates.comparisons:
            wanted.extend(("estimates.comparisons", arm, self.arms, "arms") for arm in pair)
        raters = self.scores.raters.items()
        wanted += [(f"scores.raters.{name}", arm, self.arms, "arms") for name, arm in raters]
        for where, value, known, section in wanted:
            if value not in known:
                raise ValueError(
                    f"{where} names {value!r}, which is not in {section}"
                    + suggestion(value, list(known))
                )
        sets = [imported.set_name for imported in self.questions.imports]
        for name in sets:
            if sets.count(name) > 1 or name == "written":
                raise ValueError(
                    f"questions.imports: two sets are named {name!r}; give each a name of its own"
                    if name != "written"
                    else "questions.imports: 'written' is the set of questions made here; "
                    "give the imported one another name"
                )
        writers = self.questions.writers if self.questions.writer == "llm" else ()
        asked = (self.questions.checks.model, self.questions.variants.model)
        judges = (*(judge.model for judge in self.scores.judges.values()), self.scores.facts.model)
        for name in (*writers, *filter(None, asked), *filter(None, judges)):
            if self.models[name].kind not in ("api", "local"):
                raise ValueError(
                    f"models.{name} is of kind {self.models[name].kind}, which can neither write "
                    "nor check questions, nor judge; name one of kind api or local"
                )
        if len(writers) > 1 and any(self.models[name].kind != "api" for name in writers):
            raise ValueError("questions.model: only models of kind api write side by side")
        for name, adapter in self.trained.items():
            base = self.models.get(adapter.model)
            if name in self.models:
                raise ValueError(f"adapters.{name}: a model has this name; give it another")
            if isinstance(base, LocalModelConfig) and (
                (adapter.method == "qlora") != (base.quantization == "nf4")
            ):
                bits = "4-bit" if adapter.method == "qlora" else "full"
                raise ValueError(
                    f"adapters.{name}: method {adapter.method} trains on {bits} weights, but "
                    f"models.{adapter.model}.quantization is {base.quantization}, so it would be "
                    f"asked on others; make the two agree"
                )
        for name, arm in self.arms.items():
            if arm.adapter and self.trained[arm.adapter].model != arm.model:
                raise ValueError(
                    f"arms.{name} puts adapter {arm.adapter!r} on model {arm.model!r}, "
                    f"but it was trained on {self.trained[arm.adapter].model!r}"
                )
        for name in (*self.models, *self.trained, *self.arms, *self.scores.judges):
            # They name folders: none may be that of another, or of its unfinished work.
            if not re.fullmatch(r"\w[\w.+-]*", name) or name.endswith((".partial", ".failed")):
                raise ValueError(
                    f"{name!r}: names take letters, digits, '.', '_', '+' and '-', begin with a "
                    "letter or digit, and do not end with .partial or .failed"
                )
        return self


_ENTRIES: Mapping[str, type[BaseModel]] = {
    "adapters": Adapter,
    "sweeps": Sweep,
    "arms": Arm,
    "judges": Judge,
    "imports": ImportedSet,
    "local": LocalModelConfig,
    "nano": NanoModelConfig,
    "api": ApiModelConfig,
    "extractive": ExtractiveModelConfig,
}
"""Sections that stand in a mapping or list, by the last fixed part of their place."""


def load(folder: Path, overrides: Sequence[str] = ()) -> Study:
    """Return the study of this folder, with `key.sub=value` overrides (value is YAML).

    Raises:
        UsageError: no study.yaml, not YAML, unknown key or bad value.
    """
    path = folder / FILE
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"There is no {FILE} in {folder}; make a study with: ecg-llm init {folder}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); check the file.") from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise UsageError(f"{path}{line} is not valid YAML; correct it there.") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise UsageError(f"{path} must hold keys and values, not a {type(raw).__name__}.")
    for override in overrides:
        _set(raw, override)
    return parse(raw, str(path))


def parse(raw: Mapping[str, Any], name: str = FILE) -> Study:
    """Return the study that these keys and values describe.

    Raises:
        UsageError: unknown key ("did you mean") or bad value.
    """
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
        raise UsageError(f"{name}: " + " ".join(problems)) from None


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set takes key=value, for example answers.k=10, not {override!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise UsageError(f"--set {override}: {parent} is a value, not a section.")
    try:
        raw[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: {value!r} is not a YAML value.") from error


def _sentence(problem: Any, root: type[Section] | None = None) -> str:
    """Return one line of a pydantic error as a sentence, with the nearest known key."""
    places = [str(place) for place in problem["loc"]]
    where = ".".join(places)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1], root or Study)
        return f"unknown key {where}{suggestion(places[-1], known)}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"]).rstrip(".") + "."
    if "passwords" in places:
        return f"{where}: give each password as text in quotes."
    return f"{where}: {problem['msg']} (got {problem['input']!r})."


def _known_keys(location: Sequence[str | int], root: type[BaseModel]) -> list[str]:
    """Return the field names of the section at this place, seen from a root."""
    section: type[BaseModel] | None = root
    for place in location:
        if place in _ENTRIES:
            section = _ENTRIES[str(place)]
        elif section is not None and place in section.model_fields:
            annotation = section.model_fields[str(place)].annotation
            is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
            section = cast("type[BaseModel]", annotation) if is_section else None
    return list(section.model_fields) if section else []


def environment_key(name: str) -> str:
    """Return the API key in this environment variable, or "none" where no variable is named.

    Raises:
        UsageError: the variable is named but not set.
    """
    if not name:
        return "none"
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"The environment variable {name} is not set; export it and run again.")
    return value
