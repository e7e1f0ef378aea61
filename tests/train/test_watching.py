import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny_study as here
import torch
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaMLP

from ecg_llm import local, store
from ecg_llm.config import Adapter, Pretraining
from ecg_llm.contracts import StepError, UsageError
from ecg_llm.records import Training
from ecg_llm.train import batches, jobs, nano, parity, trainer, tune, validation

OVERFITS = Adapter(
    epochs=8, batch=8, alpha=512, learning_rate=1e-2, eval_steps=3, precision="float32", keep="loss"
)
CURVE = Path(__file__).with_name("curve.json")
FIFTY = Adapter(batch=4, epochs=50 * 4 / 24, precision="float32", packing=False, micro_batch=4)


def train(base: Path, out: Path, settings: Adapter, seed: int = 3) -> list[Training]:
    return tune.tune(base, "", here.material(), settings, out, seed=seed)


def overfit(base: Path, out: Path, settings: Adapter = OVERFITS) -> list[Training]:
    """Train on open questions alone and look at choice questions alone, which soon suffer."""
    material = here.material([here.open_question(i) for i in range(24)])
    return tune.tune(base, "", material, settings, out, seed=3)


def looks(rows: list[Training]) -> dict[int, float]:
    return {row.step: row.eval_loss for row in rows if row.eval_loss is not None}


@pytest.fixture(scope="module")
def overfitted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "overfitted"
    overfit(tiny, out)
    return out


@pytest.fixture(scope="module")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights from a seed: the same on every machine."""
    folder = tmp_path_factory.mktemp("random") / "base"
    tokenizer = nano.train_tokenizer(here.TEXTS, here.TINY)
    with local.quiet():
        nano.random_model(tokenizer, here.TINY, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_weights_of_the_best_look_are_those_that_are_saved(
    tiny: Path, overfitted: Path
) -> None:
    rows = store.read(overfitted / "training.jsonl", Training)
    found = looks(rows)
    best = min(found, key=lambda step: found[step])
    assert best < rows[-1].step, "this training must overfit to show anything"
    assert [row.step for row in rows if row.kept] == [best]
    held = local.LocalModel(str(tiny), adapter=overfitted).load()
    val = tune.tokenized(held.tokenizer, here.material().val, 512).items
    saved = validation.loss(held.model, held.tokenizer.pad_token_id, val)
    assert saved == pytest.approx(found[best], abs=1e-5)


def test_training_stops_when_val_gets_no_better(
    tiny: Path, overfitted: Path, tmp_path: Path
) -> None:
    settings = OVERFITS.model_copy(update={"patience": 1})
    rows = overfit(tiny, tmp_path / "early", settings)
    whole = looks(store.read(overfitted / "training.jsonl", Training))
    found = looks(rows)
    worse = [b for a, b in zip(list(whole), list(whole)[1:], strict=False) if whole[b] > whole[a]]
    assert list(found)[-1] == worse[0]
    assert [row.step for row in rows if row.kept] == [list(found)[-2]]
    assert "stopped early" in tune.remarks(tmp_path / "early")[0]


def test_keeping_by_choice_accuracy_takes_the_first_of_the_highest(
    tiny: Path, tmp_path: Path
) -> None:
    rows = overfit(tiny, tmp_path / "choice", OVERFITS.model_copy(update={"keep": "choice"}))
    found = {row.step: row.eval_choice for row in rows if row.eval_choice is not None}
    best = max(found.values())
    assert [r.step for r in rows if r.kept] == [min(s for s in found if found[s] == best)]


def test_fifty_steps_follow_the_stored_curve(random_base: Path, tmp_path: Path) -> None:
    rows = train(random_base, tmp_path / "fifty", FIFTY)
    losses = [row.loss for row in rows]
    assert len(losses) == 50
    if os.environ.get("ECG_LLM_STORE_CURVE"):  # by hand, when the training is meant to change
        CURVE.write_text(json.dumps([round(loss or 0, 6) for loss in losses]) + "\n")
    # Processors sum in other orders; a wrong mask, rate or data order moves the second digit.
    assert losses == pytest.approx(json.loads(CURVE.read_text()), rel=2e-3)


@pytest.mark.slow
def test_one_seed_repeats_and_another_differs(random_base: Path, tmp_path: Path) -> None:
    first, again = (train(random_base, tmp_path / name, FIFTY) for name in ("first", "again"))
    other = train(random_base, tmp_path / "other", FIFTY, seed=4)
    assert first == again
    assert [row.loss for row in other] != [row.loss for row in first]


def test_a_loss_that_is_no_number_stops_with_what_to_do(tiny: Path, tmp_path: Path) -> None:
    settings = Adapter(method="full", learning_rate=1e30, epochs=4, batch=8, precision="float32")
    with pytest.raises(StepError, match=r"no number any more at step .* lower learning_rate"):
        train(tiny, tmp_path / "nan", settings)
    assert not (tmp_path / "nan").exists()


@pytest.mark.slow
def test_where_memory_runs_out_half_as_many_are_computed_at_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Adapter(epochs=1, batch=8, precision="float32", packing=False)
    wanted = train(tiny, tmp_path / "enough", settings)
    true_loss = batches.loss
    sizes = []

    def short_of_memory(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        if outputs["logits"].requires_grad:
            sizes.append(len(labels))
            if len(labels) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return true_loss(outputs, labels, num_items_in_batch)

    monkeypatch.setattr(batches, "loss", short_of_memory)
    rows = train(tiny, tmp_path / "short", settings)
    assert sizes[0] == 8
    assert "micro-batches of 2" in (tmp_path / "short" / "speed.json").read_text()
    assert [row.loss for row in rows] == pytest.approx([row.loss for row in wanted], rel=1e-5)


def test_memory_that_does_not_hold_one_example_is_a_sentence(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 B")

    monkeypatch.setattr(batches, "loss", full)
    with pytest.raises(StepError, match="memory ran out with a single example; lower max_length"):
        train(tiny, tmp_path / "none", Adapter(epochs=1, batch=2))


@pytest.mark.parametrize("method", ["dora", "rslora"])
def test_every_kind_of_adapter_learns_and_is_loaded_again(
    tiny: Path, tmp_path: Path, method: Any
) -> None:
    settings = Adapter(method=method, epochs=2, batch=8, learning_rate=5e-3, eval_steps=100)
    rows = train(tiny, tmp_path / method, settings)
    assert rows[-1].loss < rows[0].loss  # type: ignore[operator]
    written = json.loads((tmp_path / method / "adapter_config.json").read_text())
    assert (written["use_dora"], written["use_rslora"]) == (method == "dora", method == "rslora")
    prompt = here.material().val[0]["prompt"]
    base, tuned = (local.LocalModel(str(tiny), adapter=a) for a in (None, tmp_path / method))
    assert base.likelihoods([prompt], [["A"]]) != tuned.likelihoods([prompt], [["A"]])


def test_a_few_examples_and_no_val_split_are_enough(tiny: Path, tmp_path: Path) -> None:
    two = here.material([here.choice(0), here.open_question(1)], [])
    (row,) = tune.tune(tiny, "", two, Adapter(batch=16), tmp_path / "two", seed=1)
    assert (row.step, row.eval_loss, row.kept) == (1, None, True)


def test_both_phases_compute_in_the_same_precision(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    true_loss = batches.loss

    def looking(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return true_loss(outputs, labels, num_items_in_batch)

    inside = []
    forward = LlamaMLP.forward

    def watched(self: Any, x: Any) -> Any:
        if torch.is_grad_enabled():
            inside.append(torch.is_autocast_enabled("cpu"))
        return forward(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", watched)
    monkeypatch.setattr(batches, "loss", looking)
    settings = Adapter(
        epochs=1, batch=8, precision="bfloat16", method="full", pretrain=Pretraining(epochs=1)
    )
    rows = train(tiny, tmp_path / "both", settings)
    assert {row.phase for row in rows} == {"pretrain", "tune"}
    assert inside
    assert all(inside)


@pytest.mark.slow
def test_a_job_that_stopped_early_and_was_killed_stops_there_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = OVERFITS.model_copy(update={"patience": 1, "save_steps": 1})
    wanted = overfit(tiny, tmp_path / "undisturbed", settings)

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parity, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            overfit(tiny, tmp_path / "killed", settings)
    assert overfit(tiny, tmp_path / "killed", settings) == wanted


def test_a_look_that_comes_out_otherwise_after_a_restart_keeps_its_own_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Adapter(
        epochs=2, batch=8, learning_rate=1e-2, eval_steps=2, save_steps=2, precision="float32"
    )
    val = [here.material().val[0]]
    looks = iter([1.0, 0.9, 1.0, 1.1, 1.2, 1.3])  # the second is not as good when repeated
    weights = {}

    def measured(model: Any, *_: Any) -> float:
        value = next(looks)
        weights[value] = jobs.parallel.trained(model)
        return value

    def progress(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(validation, "loss", measured)
    monkeypatch.setattr(trainer.Watch, "on_save", _only_first(trainer.Watch.on_save))
    out = tmp_path / "out"
    material = here.material([here.choice(i) for i in range(24)])._replace(val=val, choices=())
    with pytest.raises(KeyboardInterrupt):
        tune.tune(tiny, "", material, settings, out, seed=1, progress=progress)
    rows = tune.tune(tiny, "", material, settings, out, seed=1)
    (kept,) = [row for row in rows if row.kept]
    saved = load_file(out / "adapter_model.safetensors")
    assert kept.eval_loss == 1.0
    found = {name.replace(".default", ""): value for name, value in weights[1.0].items()}
    assert all(torch.equal(saved[name], value) for name, value in found.items() if name in saved)
    assert set(saved) & set(found)


def _only_first(on_save: Any) -> Any:
    """Let the first checkpoint be marked as whole, and no other: as a kill would."""

    def marked(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step <= 2:
            on_save(self, args, state, control, **more)

    return marked


def test_keeping_by_choice_without_a_choice_question_keeps_by_loss_and_says_so(
    tiny: Path, tmp_path: Path
) -> None:
    settings = OVERFITS.model_copy(update={"keep": "choice", "patience": 1})
    material = here.material([here.open_question(i) for i in range(24)])._replace(choices=())
    rows = tune.tune(tiny, "", material, settings, tmp_path / "out", seed=3)
    found = looks(rows)
    assert [row.step for row in rows if row.kept] == [min(found, key=lambda step: found[step])]
    assert any("no choice question" in remark for remark in tune.remarks(tmp_path / "out"))


def test_what_a_job_took_counts_over_its_restarts(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Adapter(epochs=3, batch=8, save_steps=1, eval_steps=100, precision="float32")

    def progress(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune.tune(tiny, "", here.material(), settings, tmp_path / "out", seed=1, progress=progress)
    counted: list[int] = []
    speed = jobs.speed

    def watched(phases: Any) -> Any:
        counted.append(sum(phase.tokens for phase in phases))
        return speed(phases)

    monkeypatch.setattr(jobs, "speed", watched)
    rows = tune.tune(tiny, "", here.material(), settings, tmp_path / "out", seed=1)
    assert counted == [rows[-1].tokens]


def test_a_step_of_more_examples_than_there_are_is_cut_into_few_parts(
    tiny: Path, tmp_path: Path
) -> None:
    train(tiny, tmp_path / "out", Adapter(epochs=1, batch=10_000))
    assert "micro-batches of 16, 2 a step" in (tmp_path / "out" / "speed.json").read_text()


@pytest.mark.slow
def test_another_chat_template_is_another_job(tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    settings = Adapter(epochs=1, batch=8)
    train(base, tmp_path / "out", settings)
    steps: list[int] = []
    template = base / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text.replace("'<|", "'\\n<|"))
    tune.tune(
        base, "", here.material(), settings, tmp_path / "out", seed=3,
        progress=lambda done, total: steps.append(done),
    )  # fmt: skip
    assert steps, "it must be trained again"


def test_memory_that_runs_out_in_the_parity_check_loses_no_training(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(model: Any, probes: Any, **_: Any) -> Any:
        asked.append(model.batch)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(parity, "measure", full)
    rows = train(tiny, tmp_path / "out", Adapter(epochs=1, batch=8))
    assert asked == [4, 1]
    assert rows[-1].kept
    assert any("parity" in remark for remark in tune.remarks(tmp_path / "out"))


def test_a_checkpoint_that_takes_long_is_not_made_every_few_seconds(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    made = []
    on_save = trainer.Watch.on_save

    def slow(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        made.append(state.global_step)
        self._due_at -= 3600  # as if it had taken an hour
        on_save(self, args, state, control, **more)

    monkeypatch.setattr(trainer.Watch, "on_save", slow)
    train(tiny, tmp_path / "out", Adapter(epochs=3, batch=8, save_steps=10**6))
    assert made == [1]


def test_a_resumed_job_needs_no_room_for_what_it_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300))
    with pytest.raises(StepError, match="make room"):
        tune._check_disk(tmp_path, 100, "tuned")
    (tmp_path / "checkpoint").write_bytes(b"0" * 200)
    tune._check_disk(tmp_path, 100, "tuned")


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"schedule": "warmup_stable_decay"}, "schedule: warmup_stable_decay cannot be used"),
        ({"schedule": "cosine_with_min_lr"}, "schedule: cosine_with_min_lr cannot be used"),
        ({"optimizer": "lomo"}, "optimizer: lomo cannot be used"),
    ],
)
def test_a_schedule_or_optimizer_that_needs_more_than_its_name_is_a_sentence(
    tiny: Path, tmp_path: Path, wrong: dict[str, object], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        train(tiny, tmp_path / "out", Adapter().model_copy(update=wrong))


@pytest.mark.slow
def test_a_disk_that_fills_at_a_checkpoint_is_a_sentence_and_loses_nothing(
    tiny: Path, tmp_path: Path
) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        settings = Adapter(rank=16, epochs=6, batch=8, save_steps=1, eval_steps=100)
        # Enough when training starts; then another program takes the rest.
        filler = place / "filler"

        def progress(done: int, total: int) -> None:
            if done == 4:
                free = shutil.disk_usage(place).free
                filler.write_bytes(b"\0" * max(0, free - 50_000))

        with pytest.raises(StepError, match=r"the disk filled .* make room and run again"):
            tune.tune(tiny, "", here.material(), settings, place / "out", seed=1, progress=progress)
        filler.unlink()
        steps: list[int] = []
        tune.tune(
            tiny, "", here.material(), settings, place / "out", seed=1,
            progress=lambda done, total: steps.append(done),
        )  # fmt: skip
        assert steps[0] >= 3, "it goes on from the checkpoint before"
        assert (place / "out" / "adapter_model.safetensors").exists()
    finally:
        subprocess.run(["umount", str(place)], check=True)
