from pathlib import Path

import pytest

from ecg_llm import config
from ecg_llm.commands import doctor
from ecg_llm.config import NanoModelConfig
from ecg_llm.train import memory

NANO = "models: {base: {kind: nano}}\n"


def checks(folder: Path, text: str, name: str = "adapter tuned") -> list[doctor.Check]:
    (folder / "literature").mkdir(exist_ok=True)
    (folder / config.FILE).write_text(text, "utf-8")
    return [check for check in doctor.check(folder) if check.name == name]


def test_says_what_an_adapter_takes_before_its_base_is_built(tmp_path: Path) -> None:
    (found,) = checks(tmp_path, NANO + "adapters: {tuned: {batch: 4, max_length: 512}}")
    assert found.ok
    assert found.found.startswith("at most about ")
    assert "MiB: weights" in found.found or "free: weights" in found.found
    assert "micro-batches of 4, 1 a step" in found.found
    assert not found.advice


def test_reads_the_shape_of_a_base_that_is_here(tmp_path: Path, tiny_llama: Path) -> None:
    text = f"models: {{base: {{kind: local, id: {tiny_llama}}}}}\nadapters: {{tuned: {{}}}}"
    (found,) = checks(tmp_path, text)
    assert found.ok


def test_says_what_would_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda cuda: 150 * 2**20)
    text = NANO + "adapters: {tuned: {max_length: 2048, precision: float32}}"
    (found,) = checks(tmp_path, text)
    assert found.ok is False
    assert "of 150 MiB free" in found.found
    assert "max_length: " in found.advice


def test_a_base_that_is_not_here_is_not_fetched(tmp_path: Path) -> None:
    text = "models: {base: {kind: local, id: nobody/such-model}}\nadapters: {tuned: {}}"
    (found,) = checks(tmp_path, text)
    assert found.ok is None
    assert "not on this machine" in found.found


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("{method: qlora}", "CUDA"),
        ("{optimizer: paged_adamw_8bit}", "bitsandbytes"),
        ("{report_to: [wandb]}", "wandb"),
        ("{report_to: [mlflow]}", "mlflow"),
    ],
)
def test_names_what_is_missing(
    adapter: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (found,) = checks(tmp_path, NANO + f"adapters: {{tuned: {adapter}}}")
    assert found.ok is False
    assert said in found.found


def test_a_model_behind_a_server_cannot_be_tuned(tmp_path: Path) -> None:
    text = "models: {base: {kind: extractive}}\nadapters: {tuned: {}}"
    (found,) = checks(tmp_path, text)
    assert found.ok is False
    assert "extractive" in found.found


@pytest.fixture
def tiny_llama(tmp_path: Path) -> Path:
    """A folder with a config and no weights."""
    from transformers import LlamaConfig

    settings = NanoModelConfig(kind="nano")
    made = LlamaConfig(
        vocab_size=settings.vocabulary, hidden_size=64, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=128, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    made.save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"
