"""Adapters with random weights on the tiny model: what exports and the parity gate are tried on."""

from pathlib import Path

import tiny_study as here
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ecg_llm import local, store
from ecg_llm.local import LocalModel
from ecg_llm.train import card, parity, template
from ecg_llm.train.export import Source
from ecg_llm.train.parity import Measured, Probe

SHAPES: dict[str, dict[str, object]] = {
    "lora": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "lm_head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
}
"""Adapters by what makes their merging different; the tiny model ties its embeddings."""


def write(base: Path, out: Path, shape: str = "lora", seed: int = 1) -> Source:
    """Write an adapter that changes what the base says a lot."""
    with local.quiet():
        model = AutoModelForCausalLM.from_pretrained(base)
        settings = LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM", **SHAPES[shape])  # type: ignore[arg-type]
        tuned = get_peft_model(model, settings)
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if "lora_" in name and "magnitude" not in name:
                    weight.copy_(0.15 * torch.randn(weight.shape, generator=chance))
                elif "magnitude" in name:
                    weight.mul_(1 + 0.1 * torch.rand(weight.shape, generator=chance))
        tuned.save_pretrained(out, save_embedding_layers=False)
    record = {
        "name": "tuned",
        "base": str(base),
        "base_weights": local.weights_digest(base),
        "revision": "",
        "settings": {"method": shape, "rank": 8, "learning_rate": 1e-4, "mix": {"passages": 0.3}},
        "seed": seed,
        "train": {"examples": 24, "choice": 16},
        "val": {"examples": 6},
        "parameters": 100_000,
        "parameters_trained": 5_000,
        "versions": {"peft": "0.21.2"},
    }
    store.write_json(out / local.RECORD, record)
    parity.write(out, parity.measure(LocalModel(str(base), adapter=out), probes(12)))
    return Source("tuned", str(base), "", out, shape)


def probes(count: int) -> list[Probe]:
    """Return probes from the tiny study's questions."""
    train = [template.example(question) for question in here.TRAIN]
    val = [template.example(question) for question in here.VAL]
    return parity.probes(train, val, here.VAL, seed=1, count=count)


def record(source: Source) -> Measured:
    """Return what the trained model did."""
    found = parity.read(source.folder)
    assert found is not None
    return found


def facts(source: Source) -> card.Facts:
    """Return what a card says of the adapter."""
    return card.Facts(here.read(source.folder / local.RECORD), "A study", base=source.base)
