import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny_study as here
import torch

from ecg_llm import local, store
from ecg_llm.config import Adapter
from ecg_llm.contracts import StepError
from ecg_llm.records import Training
from ecg_llm.train import batches, nano, tune

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
    saved = tune.validation_loss(held.model, held.tokenizer.pad_token_id, val)
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
            if len(labels) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return true_loss(outputs, labels, num_items_in_batch)

    monkeypatch.setattr(batches, "loss", short_of_memory)
    rows = train(tiny, tmp_path / "short", settings)
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[3:]) == 2
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
