"""What `ecg-llm train` tells after its work."""

import json

import pytest

from ecg_llm import config, store
from ecg_llm.commands import training
from ecg_llm.records import Retention, Training

STUDY = config.parse(
    {
        "models": {"tiny": {"kind": "nano"}},
        "adapters": {"tuned": {"model": "tiny", "patience": 2}},
        "sweeps": {"grid": {"adapter": "tuned", "settings": [{"rank": [8, 16]}]}},
    }
)


def steps_of(name, losses):
    best = losses.index(min(losses)) + 1
    return [
        Training(
            adapter=name, phase="tune", step=step, loss=loss / 2, eval_loss=loss,
            eval_choice=0.5, tokens=100 * step, kept=step == best,
        )
        for step, loss in enumerate(losses, start=1)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    losses = {"tuned": [2.0, 1.0, 1.5], "tuned-rank8": [2.0, 1.8], "tuned-rank16": [2.0, 1.2]}
    for name, values in losses.items():
        store.write(tmp_path / "parts/training" / f"{name}.jsonl", steps_of(name, values))
    store.write(
        tmp_path / "parts/retention/tuned.jsonl",
        [
            Retention(adapter="tuned", question_id=f"q{i}", set="mmlu", kind="choice",
                      before=1.0, after=float(i > 2))
            for i in range(8)
        ],
    )  # fmt: skip
    place = tmp_path / "adapters" / "tuned"
    record = {"train": {"examples": 90, "too_long": 3}, "stopped_early": True}
    store.write_json(place / "tuning.json", record)
    store.write_json(place / "speed.json", {"tokens_per_s": 1234.5, "seconds": 9.0, "peak_mb": 800})
    return tmp_path


def test_a_job_has_its_figures_speed_and_memory(folder):
    found = training.summary(folder, STUDY)
    (job,) = found["jobs"]
    assert job == {
        "adapter": "tuned", "phase": "tune", "model": "tiny", "method": "lora", "examples": 90,
        "too_long": 3, "steps": 3, "kept_step": 2, "stopped_early": True, "tokens": 300,
        "loss": 0.75, "eval_loss": 1.0, "eval_choice": 0.5, "tokens_per_s": 1234.5,
        "seconds": 9.0, "peak_mb": 800,
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    (table,) = training.tables(found)
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert cells == {
        "job": "tuned", "method": "lora", "examples": 90, "steps": "3 (early)", "kept": 2,
        "val loss": "1.000", "val choice, %": "50.0", "tokens/s": 1234, "peak MB": 800,
    }  # fmt: skip


def test_what_was_left_out_and_forgotten_is_said(folder):
    left_out, forgotten = training.lines(training.summary(folder, STUDY))
    assert left_out.startswith("tuned: 3 of 93 examples are longer than the limit")
    assert forgotten == (
        "tuned answers 3 fewer of 8 multiple-choice questions of mmlu right than tiny, "
        "3 lost and 0 gained: not distinguishable."
    )


def test_the_sweep_is_sorted_by_what_the_adapter_keeps(folder):
    found = training.summary(folder, STUDY)
    assert [(v["variant"], v["settings"], v["best"]) for v in found["sweeps"]["grid"]] == [
        ("tuned-rank16", {"rank": 16}, True), ("tuned-rank8", {"rank": 8}, False),
    ]  # fmt: skip
    table = training.tables(found, sweeps=True)[1]
    assert [len(row) for row in table.rows] == [len(table.columns)] * 2
    assert table.rows[0][:4] == ("tuned-rank16", "16", 2, "1.200")


def test_a_study_without_any_training_has_nothing_to_tell(tmp_path):
    found = training.summary(tmp_path, STUDY)
    assert found == {"jobs": [], "forgetting": [], "sweeps": {}}
    assert training.tables(found, sweeps=True) == []
    assert training.lines(found) == []
