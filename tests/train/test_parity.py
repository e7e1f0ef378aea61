import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_adapters
import tiny_study as here
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ecg_llm import local
from ecg_llm.chat import ApiModel
from ecg_llm.config import ApiModelConfig
from ecg_llm.contracts import StepError, Task
from ecg_llm.local import LocalModel
from ecg_llm.prompt import question_messages
from ecg_llm.testing import FakeServer
from ecg_llm.train import export, nano, parity, template
from ecg_llm.train.export import Source
from ecg_llm.train.parity import Measured, Verdict


@pytest.fixture(scope="module")
def source(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return tiny_adapters.write(tiny, tmp_path_factory.mktemp("adapters") / "tuned")


@pytest.fixture(scope="module")
def trained(source: Source) -> Measured:
    return tiny_adapters.record(source)


@pytest.fixture(scope="module")
def merged(source: Source, trained: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "merged"
    return export.export(source, "merged", out, trained, tiny_adapters.facts(source)).folder


def verdict(trained: Measured, folder: Path) -> Verdict:
    return parity.compare(trained, parity.measure_again(LocalModel(str(folder)), trained))


def test_probes_are_half_choices_and_those_of_val_first() -> None:
    train = [template.example(question) for question in here.TRAIN]
    val = [template.example(question) for question in here.VAL]
    questions = [*here.TRAIN[:16], *here.VAL]
    probes = parity.probes(train, val, questions, seed=1, count=20)
    asked = [probe for probe in probes if probe.options]
    assert len(probes) == 20
    assert len(asked) == 12, "only eight open questions are there"
    of_val = [item["prompt"] for item in val]
    assert all(probe.chat in of_val for probe in asked[:6])
    assert asked[0].options[1] == "The correct answer is B."
    assert probes == parity.probes(train, val, questions, seed=1, count=20)
    assert probes != parity.probes(train, val, questions, seed=2, count=20)
    assert len({str(probe.messages) for probe in probes}) == 20
    assert len(parity.probes(train, val, here.VAL, seed=1)) == len(here.TRAIN) + len(here.VAL)


def test_the_record_holds_what_the_model_did(source: Source, trained: Measured) -> None:
    model = LocalModel(source.base, adapter=source.folder)
    held = model.load()
    reading, probe = trained.readings[0], trained.probes[0]
    prompt = local.chat_ids(held.tokenizer, probe.chat)
    ids = torch.tensor([[*prompt, *reading.reply]])
    with torch.no_grad():
        logits = held.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert logits.argmax(-1).tolist() == list(reading.reply) == list(reading.likeliest)
    found = [float(row[token]) for row, token in zip(logits, reading.reply, strict=True)]
    assert reading.logprobs == pytest.approx(found, abs=1e-4)
    ((reference, *_),) = model.likelihoods([probe.chat], [[probe.reference]])
    assert reading.reference == pytest.approx(reference.logprob / reference.tokens, abs=1e-4)
    assert len(reading.options) == len(probe.options) == 4
    assert trained.dtype == "float32"
    assert trained.special.ends == ("1 <|end|>", "2 <|end_of_turn|>")


def test_the_record_is_read_back_and_equal_models_give_equal_bytes(
    source: Source, trained: Measured, tmp_path: Path
) -> None:
    again = parity.measure(LocalModel(source.base, adapter=source.folder), trained.probes)
    parity.write(tmp_path, again)
    assert (tmp_path / parity.FILE).read_bytes() == (source.folder / parity.FILE).read_bytes()
    assert parity.read(tmp_path) == trained
    assert parity.read_verdict(tmp_path) is None
    (tmp_path / parity.FILE).write_text('{"trained": {"model": "x"')
    assert parity.read(tmp_path) is None


def test_a_model_that_is_measured_keeps_its_generation_settings(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    before = model.generation_config.to_dict()
    around = LocalModel.around(model, AutoTokenizer.from_pretrained(tiny))
    parity.measure(around, tiny_adapters.probes(4))
    assert model.generation_config.to_dict() == before


def test_the_merged_model_behaves_as_trained_in_any_batch(trained: Measured, merged: Path) -> None:
    other = parity.measure_again(LocalModel(str(merged), batch=3), trained)
    found = parity.compare(trained, other)
    assert found.failures == ()
    assert found.probes == len(trained.probes)
    assert {check.name: check.value for check in found.checks}["token agreement"] == 1.0


def change_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text("utf-8").replace("'|>' +", "'|> ' +"), "utf-8")


def swap_tokenizer(folder: Path) -> None:
    other = nano.train_tokenizer(["Anno 1812 war der Winter kalt."] * 20, here.TINY)
    other.save_pretrained(folder)


def scale_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= 1.02
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def forget_an_end(folder: Path) -> None:
    settings = GenerationConfig.from_pretrained(folder)
    settings.eos_token_id = [2]
    settings.save_pretrained(folder)


def forget_the_bos(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    settings = here.read(path)
    settings.pop("bos_token")
    path.write_text(json.dumps(settings), "utf-8")


def take_the_base(folder: Path) -> None:
    base = folder.parent / "base.safetensors"
    shutil.copyfile(base, folder / "model.safetensors")


def shorten_the_vocabulary(folder: Path) -> None:
    settings = here.TINY.model_copy(update={"vocabulary": 300})
    tokenizer = nano.train_tokenizer(here.TEXTS, settings)
    nano.random_model(tokenizer, settings, 1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (change_template, "The chat template writes another text for 12 of 12 prompts."),
        (swap_tokenizer, "The tokenizer makes other tokens of 12 of 12 prompts."),
        (scale_a_weight, "The mean difference of the log-likelihood per token is"),
        (forget_an_end, "Special tokens changed: end 1 <|end|>, 2 <|end_of_turn|> became 2 <|"),
        (forget_the_bos, "Special tokens changed: BOS 0 <|begin|> became none"),
        (take_the_base, "tokens of the trained model's replies would be others (agreement 0."),
        (shorten_the_vocabulary, "tokens of the trained model's replies would be others"),
    ],
)
def test_what_breaks_a_model_is_named(
    tiny: Path,
    trained: Measured,
    merged: Path,
    tmp_path: Path,
    tamper: Callable[[Path], None],
    sentence: str,
) -> None:
    folder = tmp_path / "tampered"
    shutil.copytree(merged, folder)
    shutil.copyfile(tiny / "model.safetensors", tmp_path / "base.safetensors")
    tamper(folder)
    found = verdict(trained, folder)
    assert sentence in " ".join(found.failures)
    assert not found.ok


def test_weights_that_are_no_numbers_are_a_sentence(
    trained: Measured, merged: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "nan"
    shutil.copytree(merged, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(StepError, match="probabilities that are no numbers"):
        verdict(trained, folder)


def test_rounding_to_16_bits_passes_its_own_limits_only(tiny: Path) -> None:
    """Of a model that learned something: one of chance has near ties everywhere."""
    trained = parity.measure(LocalModel(str(tiny)), tiny_adapters.probes(12))
    model = AutoModelForCausalLM.from_pretrained(tiny).to(torch.bfloat16).eval()
    rounded = LocalModel.around(model, AutoTokenizer.from_pretrained(tiny))
    other = parity.measure_again(rounded, trained)
    assert other.dtype == "bfloat16"
    assert parity.compare(trained, other).failures == ()
    assert parity.compare(trained, other, parity.EXACT).failures


def test_no_prompt_is_a_sentence(source: Source) -> None:
    with pytest.raises(StepError, match="no prompt to compare"):
        parity.measure(LocalModel(source.base), [])


def api(server: FakeServer) -> ApiModel:
    return ApiModel(ApiModelConfig(kind="api", base_url=server.base_url, model="fake"))


def chosen(trained: Measured) -> Measured:
    """Return a record in which the model answers every choice question with its letter."""
    readings = tuple(
        reading.model_copy(update={"text": probe.options[1], "reply": (5,) * 8})
        if probe.options
        else reading.model_copy(update={"text": f"It lasts {i} ms.", "reply": (5,) * 8})
        for i, (probe, reading) in enumerate(zip(trained.probes, trained.readings, strict=True))
    )
    return trained.model_copy(update={"readings": readings})


def test_a_server_with_the_same_replies_passes(trained: Measured) -> None:
    record = chosen(trained)
    said = {
        probe.chat[-1]["content"]: reading.text
        for probe, reading in zip(record.probes, record.readings, strict=True)
    }

    def reply(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        assert body["temperature"] == 0
        assert body["max_tokens"] == record.max_tokens
        return said[messages[-1]["content"]]

    with FakeServer(reply) as server:
        found = parity.compare_server(record, api(server))
    assert found.failures == ()
    values = {check.name: check.value for check in found.checks}
    assert values["equal replies"] == values["equal words at the start"] == 1.0
    assert values["choices changed"] == "0 of 6"


def test_a_server_with_other_replies_is_named(trained: Measured) -> None:
    with FakeServer(lambda messages, body: "The correct answer is C.") as server:
        found = parity.compare_server(chosen(trained), api(server))
    said = " ".join(found.failures)
    assert "0.000 of the greedy replies are those of the trained model" in said
    assert "words of the greedy replies come before the first other one" in said
    assert "6 of 6 choice questions get another answer, at most 1 may." in said


def test_a_server_that_gives_no_reply_is_named(trained: Measured) -> None:
    with FakeServer(lambda messages, body: "  ") as server:
        found = parity.compare_server(chosen(trained), api(server))
    assert "The server gave no reply to 12 of 12 prompts (the reply is empty)." in found.failures


def test_a_choice_is_asked_as_arms_ask_it(trained: Measured) -> None:
    asked = question_messages(Task(here.VAL[0], here.VAL[0].options))
    assert asked in [probe.chat for probe in trained.probes]
