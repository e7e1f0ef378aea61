import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_study as here
from transformers import AutoModelForCausalLM, AutoTokenizer

from ecg_llm import store
from ecg_llm.config import NanoModelConfig
from ecg_llm.contracts import UsageError
from ecg_llm.records import Training
from ecg_llm.train import jobs, nano

BUILD = """
import os, pathlib, signal
from ecg_llm.train import nano, trainer
trainer.SECONDS_BETWEEN_CHECKPOINTS = 0
trainer.SAVING = 1e9
def progress(done, total):
    if done == 6:
        os.kill(os.getpid(), signal.SIGKILL)
nano.build(here.TEXTS, here.TINY, pathlib.Path(sys.argv[1]), seed=1, progress=progress)
"""


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def test_the_folder_is_an_ordinary_hugging_face_model(tiny: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    ids = tokenizer("A PR interval", return_tensors="pt")
    made = model.generate(**ids, max_new_tokens=5)
    assert made.shape[1] <= ids["input_ids"].shape[1] + 5
    assert set(model.generation_config.eos_token_id) == set(
        tokenizer.convert_tokens_to_ids([nano.EOT, nano.EOS])
    )
    assert "knows no medicine" in (tiny / "README.md").read_text("utf-8")
    assert not (tiny.parent / "tiny.partial").exists()


def test_the_default_has_about_six_million_parameters() -> None:
    settings = NanoModelConfig(kind="nano")
    tokenizer = nano.train_tokenizer(here.TEXTS, settings)
    model = nano.random_model(tokenizer, settings, seed=1)
    missing = (settings.vocabulary - len(tokenizer)) * settings.hidden
    assert 5e6 < model.num_parameters() + missing < 6.5e6


def test_it_learns_and_counts_every_token(tiny: Path) -> None:
    rows = store.read(tiny / jobs.ROWS, Training)
    assert [row.step for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0].loss is not None
    assert rows[-1].loss is not None
    assert rows[-1].loss < rows[0].loss - 0.5
    assert rows[-1].tokens == pytest.approx(here.TINY.tokens, rel=0.2)
    assert {(row.adapter, row.phase) for row in rows} == {("nano", "pretrain")}


@pytest.mark.parametrize(
    "text", ["QRS ≥ 120 ms", "  Größe\n\n\tµV ", "it's 1234567 ms", "心電図 🫀"]
)
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_chats_start_with_one_bos_and_end_each_turn(tokenizer: Any) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|begin|><|system|>Be brief.<|end_of_turn|><|user|>Hello?<|end_of_turn|><|assistant|>"
    )
    ids = tokenizer.apply_chat_template(chat, return_dict=False)
    assert ids.count(tokenizer.bos_token_id) == 1


def test_what_is_there_is_not_trained_again_but_another_job_is(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(tiny, out)
    steps: list[int] = []
    rows = nano.build(here.TEXTS, here.TINY, out, 1, progress=lambda done, _: steps.append(done))
    assert rows == store.read(tiny / jobs.ROWS, Training)
    assert not steps
    other = here.TINY.model_copy(update={"tokens": 2_000})
    assert len(nano.build(here.TEXTS, other, out, 1)) < len(rows)


def test_a_killed_training_ends_with_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    killed = here.in_a_process(BUILD, out)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    torn = tmp_path / "killed.partial" / "pretrain" / "checkpoint-99"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"torn")
    steps: list[int] = []
    rows = nano.build(here.TEXTS, here.TINY, out, 1, progress=lambda done, _: steps.append(done))
    assert steps[:2] == [5, 6], "the last complete checkpoint is that of step 5"
    weights = (out / "model.safetensors").read_bytes()
    assert weights == (tiny / "model.safetensors").read_bytes()
    assert rows == store.read(tiny / jobs.ROWS, Training)
    assert (out / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()


def test_another_seed_gives_other_weights(tiny: Path, tmp_path: Path) -> None:
    nano.build(here.TEXTS, here.TINY, tmp_path / "other", 2)
    weights = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert weights != (tiny / "model.safetensors").read_bytes()


def test_no_text_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no passage"):
        nano.build([], here.TINY, tmp_path / "none", 1)


def test_less_text_than_a_block_is_enough(tmp_path: Path) -> None:
    settings = here.TINY.model_copy(update={"tokens": 200})
    assert nano.build(["Short."], settings, tmp_path / "short", 1)
