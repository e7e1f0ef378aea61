"""Architectures whose attention, cache or layers are not those of Llama."""

from pathlib import Path
from typing import Any

import pytest
import tiny_study as here
import torch
from test_batches import gradients, reference
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BartForCausalLM,
    BloomConfig,
    FalconH1Config,
    Gemma2Config,
    GptOssConfig,
    Lfm2Config,
    MiniMaxConfig,
    PreTrainedConfig,
    Qwen3NextConfig,
    RwkvConfig,
)

from ecg_llm.contracts import Decoding, Messages, UsageError
from ecg_llm.local import LocalModel, chat_ids, may_pack, quiet, reply_ids
from ecg_llm.train import batches, template
from ecg_llm.train.batches import Collator, Item

VOCABULARY = here.TINY.vocabulary
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
    "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3,
}  # fmt: skip
EAGER: dict[str, PreTrainedConfig] = {
    "gemma2": Gemma2Config(**SMALL, head_dim=16),
    "gpt-oss": GptOssConfig(**SMALL, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=2),
}
"""Without a fused attention in transformers: soft caps, sinks, and positions in the attention."""
RECURRENT: dict[str, PreTrainedConfig] = {
    "qwen3-next": Qwen3NextConfig(
        **SMALL | {"num_hidden_layers": 4}, head_dim=16, linear_num_value_heads=2,
        linear_num_key_heads=2, linear_key_head_dim=16, linear_value_head_dim=16, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16,
    ),
    "lfm2": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
    "falcon-h1": FalconH1Config(
        **SMALL, head_dim=16, mamba_n_heads=4, mamba_d_head=16, mamba_d_ssm=64, mamba_d_state=8,
        mamba_n_groups=1,
    ),
    "minimax": MiniMaxConfig(
        **SMALL, head_dim=16, layer_types=["linear_attention", "full_attention"], block_size=8,
        num_local_experts=2, num_experts_per_tok=1,
    ),
    "rwkv": RwkvConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, context_length=512
    ),
}  # fmt: skip
"""With states that are not keys and values; in RWKV's the padding would leave a trace."""
PROMPTS: list[Messages] = [
    [{"role": "user", "content": text}]
    for text in ("What is a PR interval?", "PR?", "How long is a wide QRS complex? " * 3)
]
REPLIES = [["200 ms", "x", "a wide QRS complex"], ["yes"], ["no", "120 ms, no less"]]


def write(folder: Path, settings: PreTrainedConfig, tokenizer: Path) -> None:
    """Write a model of this architecture with random weights that are strong enough to differ."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(settings)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(3)
    with quiet():
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


@pytest.mark.parametrize("family", [*EAGER, *RECURRENT])
def test_a_batch_is_read_and_written_as_prompts_alone(
    family: str, tiny: Path, tmp_path: Path
) -> None:
    write(tmp_path, (EAGER | RECURRENT)[family], tiny)
    model = LocalModel(str(tmp_path), batch=3)
    held = model.load()
    found = model.likelihoods(PROMPTS, REPLIES)
    for prompt, group, row in zip(PROMPTS, REPLIES, found, strict=True):
        for text, likelihood in zip(group, row, strict=True):
            start, reply = chat_ids(held.tokenizer, prompt), reply_ids(held.tokenizer, text)
            with torch.no_grad():
                logits = held.model(torch.tensor([start + reply]), use_cache=False).logits[0]
            logprobs = logits[len(start) - 1 : -1].log_softmax(-1)
            naive = float(logprobs.gather(1, torch.tensor([reply]).T).sum())
            assert likelihood.logprob == pytest.approx(naive, rel=1e-4)
    decoding = Decoding(max_tokens=6)
    alone = LocalModel(str(tmp_path), batch=1).generate(PROMPTS, decoding)
    assert model.generate(PROMPTS, decoding) == alone


@pytest.mark.parametrize("family", EAGER)
def test_examples_are_learned_packed_and_padded_as_alone(
    family: str, tiny: Path, tmp_path: Path
) -> None:
    write(tmp_path, EAGER[family], tiny)
    held = LocalModel(str(tmp_path)).load()
    masked = [
        template.loss_mask(held.tokenizer, template.example(row)) for row in here.TRAIN[14:18]
    ]
    items: list[Item] = [{"input_ids": one.ids, "labels": one.labels} for one in masked]
    wanted = reference(held.model, items)
    apart = may_pack(held.model) and batches.keeps_apart(held.model, items)
    # Bloom is told no positions, and gpt-oss looks past where they start anew.
    assert apart == (family == "gemma2")
    for packed in {False, apart}:
        found = gradients(held.model, Collator(0, packed, True), [items])
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("family", RECURRENT)
def test_a_state_that_is_carried_on_forbids_packing(family: str) -> None:
    """In an untrained Lfm2 an example moves the logits of the next by some thousandths."""
    assert not may_pack(AutoModelForCausalLM.from_config(RECURRENT[family]))


def test_decoders_that_follow_an_encoder_are_refused(tiny: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "d_model"), 32)
    BartForCausalLM(BartConfig(vocab_size=VOCABULARY, **sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="BartForCausalLM, not a causal language model"):
        LocalModel(str(tmp_path)).generate(PROMPTS, Decoding())
