"""A Llama of a few million parameters, trained here from scratch: it exercises the chain."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ecg_llm import local, prompt, store
from ecg_llm.config import Adapter, NanoModelConfig
from ecg_llm.contracts import Progress, Remark
from ecg_llm.records import LETTERS, Training, digest
from ecg_llm.train import jobs, parallel

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

BOS, EOS, EOT, PAD = "<|begin|>", "<|end|>", "<|end_of_turn|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '" + EOT + "' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 splits text into words before merging bytes."""
CARD = """# A nano model

A Llama of {parameters:,} parameters, trained from random weights on {tokens:,} tokens of the
passages of one study. It exercises the chain of ECG-LLM on any machine. It knows no medicine and
hardly any language: nothing it says, and no score it gets, means anything about medicine.
"""
BLOCK = 256
"""Tokens of an example."""
TRAINING = Adapter(
    method="full", batch=8, learning_rate=2e-3, weight_decay=0.01, packing=False, report_to=()
)


def build(
    texts: Sequence[str],
    settings: NanoModelConfig,
    out: Path,
    seed: int,
    *,
    name: str = "nano",
    progress: Progress = lambda done, total: None,
    remark: Remark = lambda words: None,
) -> list[Training]:
    """Train tokenizer and model on these texts and return the logged steps.

    `out` becomes an ordinary Hugging Face folder, at once and complete. A call that was killed
    goes on from its last checkpoint and ends with the same weights; work lies beside `out`.
    """
    place = jobs.begin(out, digest(list(texts), settings.model_dump(mode="json"), seed, name))
    if place is None:
        return store.read(out / jobs.ROWS, Training)
    try:
        with jobs.on_disk(place, name):
            rows = _trained(texts, settings, place, seed, name, progress, remark)
            jobs.finish(place, out)
            return rows
    finally:
        jobs.free()


def _trained(
    texts: Sequence[str],
    settings: NanoModelConfig,
    place: Path,
    seed: int,
    name: str,
    progress: Progress,
    remark: Remark,
) -> list[Training]:
    """Train from where the work in `place` stands; save the result there."""
    from ecg_llm.train.trainer import Watching

    tokenizer = train_tokenizer(texts, settings)
    data = jobs.blocks(tokenizer, texts, min(BLOCK, settings.context), seed)
    model = random_model(tokenizer, settings, seed)
    epochs = settings.tokens / sum(len(block["input_ids"]) for block in data)
    job = jobs.Job(
        name, "pretrain", place / "pretrain", seed, epochs, TRAINING.learning_rate, 1, False
    )
    watching = Watching(save_last=True, progress=progress, remark=remark)
    with parallel.alone():
        made = jobs.train(model, tokenizer.pad_token_id, data, TRAINING, job, watching)
    result = place / "result"
    with local.quiet():
        model.save_pretrained(result)
    tokenizer.save_pretrained(result)
    card = CARD.format(parameters=model.num_parameters(), tokens=made.rows[-1].tokens)
    store.write_text(result / "README.md", card)
    store.write_json(result / jobs.SPEED, jobs.speed([made]))
    store.write(result / jobs.ROWS, made.rows)
    return made.rows


def train_tokenizer(texts: Sequence[str], settings: NanoModelConfig) -> "PreTrainedTokenizerBase":
    """Return a byte-level BPE tokenizer with a chat template of its own."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        [*texts, *_wording()],
        trainers.BpeTrainer(
            vocab_size=settings.vocabulary,
            special_tokens=[BOS, EOS, EOT, PAD, *ROLES],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOT,
        pad_token=PAD,
        additional_special_tokens=[EOS, *ROLES],
        chat_template=TEMPLATE,
        model_max_length=settings.context,
        clean_up_tokenization_spaces=False,
    )


def architecture(settings: NanoModelConfig, vocabulary: int) -> "LlamaConfig":
    """Return the architecture of a nano model."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=8 * settings.hidden // 3 // 16 * 16,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
    )


def random_model(
    tokenizer: "PreTrainedTokenizerBase", settings: NanoModelConfig, seed: int
) -> "PreTrainedModel":
    """Return a Llama with random weights that fits this tokenizer."""
    from transformers import GenerationConfig, LlamaForCausalLM, set_seed

    ends = [tokenizer.convert_tokens_to_ids(token) for token in (EOT, EOS)]
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends,
        "pad_token_id": tokenizer.pad_token_id,
    }
    set_seed(seed)
    config = architecture(settings, len(tokenizer))
    config.update(special)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**special)
    return model


def _wording() -> list[str]:
    """Return what prompts and replies say apart from the question, so that it takes few tokens."""
    names = ("choice", "open", "passages", "context")
    return [*map(prompt.template, names), *map(prompt.choice_reply, LETTERS[:5])]
