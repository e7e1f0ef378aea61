import importlib.util
import json
import shutil
import signal
from pathlib import Path

import pytest
import tiny_study as here
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ecg_llm import local, store
from ecg_llm.config import Adapter, Pretraining
from ecg_llm.contracts import Decoding, MissingPackage, UsageError
from ecg_llm.local import LocalModel
from ecg_llm.prompt import choice_reply
from ecg_llm.records import Training
from ecg_llm.train import jobs, template, tune, validation

SETTINGS = Adapter(
    epochs=3, eval_steps=4, learning_rate=1e-3, dropout=0.1, batch=8, save_steps=1, keep="last"
)
CUT = Adapter(
    epochs=1, learning_rate=1e-2, batch=8, micro_batch=8, packing=False, precision="float32"
)
TUNE = """
import os, pathlib, signal
from ecg_llm.config import Adapter
from ecg_llm.train import tune
def progress(done, total):
    if done == 7:
        os.kill(os.getpid(), signal.SIGKILL)
tune.tune(sys.argv[1], "", here.material(), Adapter.model_validate_json(sys.argv[3]),
    pathlib.Path(sys.argv[2]), seed=3, progress=progress)
"""


def train(base: Path, out: Path, settings: Adapter, **more: object) -> list[Training]:
    return tune.tune(base, "", here.material(), settings, out, seed=3, **more)  # type: ignore[arg-type]


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def tuned(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "tuned"
    train(tiny, out, SETTINGS)
    return out


def test_the_folder_is_an_ordinary_adapter_with_its_record(tiny: Path, tuned: Path) -> None:
    with local.quiet():
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tuned)
    record = here.read(tuned / tune.RECORD)
    assert record["train"]["examples"] == len(here.TRAIN)
    assert record["train"]["tokens_with_loss"] < record["train"]["tokens"]
    assert record["learned_reply"] == "The correct answer is A.<|end_of_turn|>"
    assert 0 < record["parameters_trained"] < record["parameters"]
    assert record["versions"]["peft"]
    assert list((tuned / "runs").iterdir()), "TensorBoard has nothing to show"
    assert not tuned.with_name("tuned.partial").exists()


def test_the_rows_hold_loss_evaluation_and_tokens(tuned: Path) -> None:
    rows = store.read(tuned / jobs.ROWS, Training)
    assert len({row.key for row in rows}) == len(rows) == 9
    assert all(row.loss is not None and row.learning_rate is not None for row in rows)
    evaluated = [row for row in rows if row.eval_loss is not None]
    assert [row.step for row in evaluated] == [4, 8, 9]
    assert all(row.eval_choice in {i / len(here.VAL) for i in range(7)} for row in evaluated)
    record = here.read(tuned / tune.RECORD)
    assert rows[-1].tokens == 3 * record["train"]["tokens"]
    assert rows[-1].loss < rows[0].loss  # type: ignore[operator]


def test_the_same_seed_gives_the_same_bytes(tiny: Path, tuned: Path, tmp_path: Path) -> None:
    train(tiny, tmp_path / "again", SETTINGS)
    assert weights(tmp_path / "again") == weights(tuned)
    for name in ("adapter_config.json", jobs.ROWS):
        assert (tmp_path / "again" / name).read_bytes() == (tuned / name).read_bytes()


@pytest.mark.parametrize(
    ("pretrain_epochs", "targets", "keep"),
    [
        (0, SETTINGS.targets, "loss"),
        pytest.param(3, ("q_proj", "lm_head"), "last", marks=pytest.mark.slow),
    ],
)
def test_a_killed_tuning_ends_with_the_same_weights(
    tiny: Path, tmp_path: Path, pretrain_epochs: float, targets: tuple[str, ...], keep: str
) -> None:
    changed = {"pretrain": Pretraining(epochs=pretrain_epochs), "targets": targets, "keep": keep}
    settings = SETTINGS.model_copy(update=changed)
    whole = train(tiny, tmp_path / "whole", settings)
    out = tmp_path / "killed"
    killed = here.in_a_process(TUNE, tiny, out, settings.model_dump_json())
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    steps: list[int] = []
    rows = train(tiny, out, settings, progress=lambda done, _: steps.append(done))
    first = 2 if pretrain_epochs else 6  # the whole pretraining, then
    assert steps[0] == first
    assert 6 in steps, "the last complete checkpoint is that of step 6"
    assert not {3, 4, 5} & set(steps)
    assert rows == whole
    assert {row.phase for row in rows} == ({"pretrain", "tune"} if pretrain_epochs else {"tune"})
    assert weights(out) == weights(tmp_path / "whole")


def test_a_model_learns_the_reply_and_to_stop(tiny: Path, tmp_path: Path) -> None:
    settings = Adapter(method="full", epochs=40, learning_rate=3e-3, batch=4)
    question = here.choice(0)
    learned = here.material([question] * 8, [])
    tune.tune(tiny, "", learned, settings, tmp_path / "full", seed=1)
    model = LocalModel(str(tiny), adapter=tmp_path / "full")
    prompt = template.example(question)["prompt"]
    (reply,) = model.generate([prompt], Decoding(max_tokens=32))
    assert (reply.text, reply.status) == (choice_reply("A"), "ok")
    assert validation.choice_accuracy(model, [question]) == 1.0


def test_an_adapter_on_the_head_is_trained_as_in_the_paper(tiny: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"targets": ("q_proj", "lm_head")})
    rows = train(tiny, tmp_path / "head", settings)
    assert rows[-1].loss < rows[0].loss  # type: ignore[operator]
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "head" / "adapter_model.safetensors")
    changed = [name for name, tensor in tensors.items() if "lora_B" in name and tensor.any()]
    assert any("lm_head" in name for name in changed)
    base = LocalModel(str(tiny))
    model = LocalModel(str(tiny), adapter=tmp_path / "head")
    prompt = template.example(here.choice(0))["prompt"]
    assert model.likelihoods([prompt], [["A"]]) != base.likelihoods([prompt], [["A"]])


@pytest.mark.parametrize("changed", [{"packing": True}, {"micro_batch": 5}, {"micro_batch": 1}])
def test_however_a_step_is_cut_the_training_is_the_same(
    tiny: Path, tmp_path: Path, changed: dict[str, object]
) -> None:
    settings = CUT.model_copy(update=changed)
    rows = train(tiny, tmp_path / "cut", settings)
    whole = train(tiny, tmp_path / "whole", CUT)
    assert [row.tokens for row in rows] == [row.tokens for row in whole]
    assert [row.loss for row in rows] == pytest.approx([row.loss for row in whole], rel=1e-5)
    assert rows[-1].eval_loss == pytest.approx(whole[-1].eval_loss, rel=1e-5)


def test_what_cannot_be_learned_whole_is_left_out_and_counted(tiny: Path, tmp_path: Path) -> None:
    long = here.open_question(90, "word " * 600)
    out = tmp_path / "counted"
    tune.tune(tiny, "", here.material([*here.TRAIN, long], []), SETTINGS, out, seed=1)
    counts = here.read(out / tune.RECORD)["train"]
    assert (counts["examples"], counts["too_long"], counts["truncated"]) == (24, 1, 0)
    assert counts["longest"] <= 512 < counts["longest_left_out"]
    assert tune.remarks(out) == [
        f"1 of 25 examples are longer than max_length and left out, the longest of "
        f"{counts['longest_left_out']:,} tokens; none was cut"
    ]
    with pytest.raises(UsageError, match="none of the 1 training examples can be used"):
        tune.tune(tiny, "", here.material([long], []), SETTINGS, tmp_path / "none", seed=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_qlora_without_a_gpu_is_a_sentence(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a CUDA GPU"):
        train(tiny, tmp_path / "out", SETTINGS.model_copy(update={"method": "qlora"}))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"targets": ("q_proj", "w_pack")}, "no layers named w_pack"),
        ({"schedule": "zigzag"}, "zigzag"),
        ({"optimizer": "magic"}, "magic"),
    ],
)
def test_a_wrong_setting_is_a_sentence(
    tiny: Path, tmp_path: Path, wrong: dict[str, object], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        train(tiny, tmp_path / "out", SETTINGS.model_copy(update=wrong))


def test_a_missing_package_is_named(tiny: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("mlflow") or importlib.util.find_spec("bitsandbytes"):
        pytest.skip("the packages are installed")
    with pytest.raises(MissingPackage, match="mlflow"):
        train(tiny, tmp_path / "out", SETTINGS.model_copy(update={"report_to": ("mlflow",)}))
    with pytest.raises(MissingPackage, match="bitsandbytes"):
        train(tiny, tmp_path / "out", SETTINGS.model_copy(update={"optimizer": "paged_adamw_8bit"}))


def test_a_folder_without_a_chat_model_is_a_sentence(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="cannot be loaded as a language model"):
        train(tmp_path / "empty", tmp_path / "out", SETTINGS)
    encoder = tmp_path / "encoder"
    shutil.copytree(tiny, encoder)
    settings = json.loads((encoder / "config.json").read_text("utf-8"))
    settings |= {"model_type": "bert", "architectures": ["BertModel"]}
    (encoder / "config.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(UsageError, match="BertModel, not a causal language model"):
        train(encoder, tmp_path / "out", SETTINGS)


def test_a_changed_question_is_another_job(tiny: Path, tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(tuned, out)
    changed = here.material([*here.TRAIN[1:], here.choice(50)])
    tune.tune(tiny, "", changed, SETTINGS, out, seed=3)
    assert weights(out) != weights(tuned)
