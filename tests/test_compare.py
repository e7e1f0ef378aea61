"""`ecg-llm compare`: ratings and pages, and the real logs of two programs that ran nano models."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ecg_llm.cli import app
from ecg_llm.commands import compare as comparing
from ecg_llm.contracts import UsageError
from ecg_llm.records import GRADES, Rating
from ecg_llm.stats import compare
from ecg_llm.store import line_of

HEAD = "Question,Answer,Model,Incorrect,Partially incorrect,Correct but incomplete,Correct\n"


def sheet(path: Path, grade_of: dict[str, int], also: str = "") -> Path:
    """Write a sheet of one rater in the paper's shape: 12 questions, a grade a system."""
    rows = [
        f"Question {i}?,An answer,{system}," + ",".join("x" if g == grade else "" for g in range(4))
        for i in range(12)
        for system, grade in grade_of.items()
    ]
    path.write_text(HEAD + "\n".join(rows) + "\n" + also, "utf-8")
    return path


def test_raters_in_several_files_and_shapes_are_averaged(tmp_path: Path) -> None:
    first = sheet(tmp_path / "first.csv", {"tuned": 3, "base": 1})
    second = tmp_path / "second.jsonl"
    ratings = [
        Rating.model_validate({
            "set": "x", "question": f"Question {i}?", "arm": arm, "rater": "Dr. Two",
            "answer": "", "label": list(GRADES)[grade],
        })
        for i in range(12) for arm, grade in (("tuned", 2), ("base", 1))
    ]  # fmt: skip
    second.write_bytes(b"".join(map(line_of, ratings)))
    found = comparing.compared([str(first), str(second)], [], 1000, 0)
    means = {row.arm: row.value for row in found.estimates if not row.against}
    partly, mostly, right = (GRADES[grade] for grade in list(GRADES)[1:])
    assert means == {"base": partly, "tuned": pytest.approx((mostly + right) / 2)}
    assert {row.metric for row in found.estimates} == {"human"}


def test_defects_of_ratings_are_counted(tmp_path: Path) -> None:
    surplus = "Question 0?,An answer,base,,x,,\nQuestion 99?,An answer,base,x,x,,\n"
    path = sheet(tmp_path / "rated.csv", {"tuned": 3, "base": 1}, surplus)
    found = comparing.compared([str(path)], [], 1000, 0)
    assert "1 rows dropped that repeat another, 1 rows with several marks" in found.notes[0]
    assert "Scores missing in Experts' rating (0-1), left out: base 1." in comparing.notes(found)


def test_the_terminal_shows_the_tables_of_what_it_tells(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    rows = [
        f"{s},q{i},{i % k == 0:d},m{m:02}"
        for k, s in enumerate("abcdefghijk", 1) for i in range(24) for m in range(10)
    ]  # fmt: skip
    path.write_text("system,item,score,metric\n" + "\n".join(rows), "utf-8")
    found = comparing.compared([str(path)], [], 200, 0)
    lines = comparing.story(found, 0.05)
    assert lines[0].startswith("m00: Highest mean: a, 100.0 %")
    assert lines[-1].startswith("... and 2 more")
    shown = list(comparing.tables(found, 0.05))
    assert len(lines) - 1 == len(shown) // 2 == 8
    assert [(len(table.rows), table.more) for table in shown[:2]] == [(11, 0), (40, 15)]
    assert all(len(row) == len(table.columns) for table in shown for row in table.rows)
    assert {row[5] for row in shown[1].rows} >= {"first better", "too few items to tell"}


def test_pairs_are_found_in_names_with_colons(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    systems = ("a:1", "b", "c")
    rows = [f"{s},q{i},{(i * k) % 3 == 0:d}" for k, s in enumerate(systems, 1) for i in range(9)]
    path.write_text("system,item,score\n" + "\n".join(rows), "utf-8")
    found = comparing.compared([str(path)], ["a:1:b", "c:a:1"], 1000, 0)
    assert found.comparisons == (("a:1", "b"), ("c", "a:1"))
    for pair, words in (("a", "takes two systems like a:b"), ("b:d", "'d'.*known")):
        with pytest.raises(UsageError, match=words):
            comparing.compared([str(path)], [pair], 1000, 0)


def test_a_folder_gets_the_page_its_figures_and_tables_and_nothing_of_others(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.csv"
    rows = [f"{s},q{i},{i % k == 0:d}" for k, s in enumerate("abcd", 1) for i in range(40)]
    path.write_text("system,item,score\n" + "\n".join(rows), "utf-8")
    found = comparing.compared([str(path)], [], 1000, 0)
    out = tmp_path / "out"
    page = comparing.write(out, found, [str(path)], 0.05)
    assert page.read_text("utf-8").count("<svg") == 2
    assert len(list((out / "figures").glob("*.svg"))) == 2
    assert len(list((out / "tables").glob("*.tex"))) == 2
    data = json.loads((out / "comparison.json").read_text("utf-8"))
    assert {row["system"] for row in data["means"]} == set("abcd")
    assert "a is ahead of all" in data["findings"][0]["sentences"][1]
    (out / "figures" / "old.svg").write_text("old")
    before = page.read_bytes()
    comparing.write(out, found, [str(path)], 0.05)
    assert page.read_bytes() == before
    assert not (out / "figures" / "old.svg").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for taken in (path, tmp_path / "mine"):
        with pytest.raises(UsageError, match=r"is a file|holds other files"):
            comparing.write(taken, found, [], 0.05)


def test_tables_for_programs_hold_small_numbers_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    rows = [f"{s},q{i},{(i % 5 + k) * 1e-6}" for k, s in enumerate("ab", 1) for i in range(40)]
    path.write_text("system,item,score\n" + "\n".join(rows), "utf-8")
    found = comparing.compared([str(path)], [], 1000, 0)
    comparing.write(tmp_path / "out", found, [str(path)], 0.05)
    (file,) = (tmp_path / "out" / "tables").glob("*-means*.csv")
    first = next(csv.DictReader(file.read_text("utf-8").splitlines()))
    low, value, high = (float(first[f"Mean{end}"]) for end in (" low", "", " high"))
    assert low < value < high
    assert value == pytest.approx(4e-6)
    (plot,) = (tmp_path / "out" / "figures").glob("*-score.svg")
    assert "1e−6" in plot.read_text("utf-8")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.csv"
    path.write_text("system,item,score\na,q1,1\nb,q1,0\na,q2,1\nb,q2,0\n", "utf-8")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="File name too long"):
        comparing.check(tmp_path / ("x" * 300))
    found = comparing.compared([str(path)], [], 1000, 0)
    with pytest.raises(UsageError, match="cannot be written"):
        comparing.write(tmp_path / "file" / "out", found, [], 0.05)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "r.csv"]


@pytest.mark.parametrize("option", [("--seed", "-1"), ("--resamples", "100000000")])
def test_numbers_out_of_range_are_refused(option: tuple[str, str], tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["compare", str(tmp_path), *option])
    assert refused.exit_code == 2
    assert f"Invalid value for '{option[0]}'" in refused.output


def run(folder: Path, *arguments: object) -> None:
    """Run a peer as a user does, without a network, and fail with what it said."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hub"),
        "XDG_DATA_HOME": str(folder / "data"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nano models in a folder, with sixty questions on twenty patients."""
    sys.path.insert(0, str(Path(__file__).parent / "train"))
    try:
        import tiny_study as here
    finally:
        sys.path.pop(0)
    from ecg_llm.train import nano

    folder = tmp_path_factory.mktemp("peers")
    for seed, name in ((1, "base"), (2, "tuned")):
        nano.build(here.TEXTS, here.TINY, folder / name, seed=seed)
    rng = random.Random(7)
    rows = [
        {
            "question": f"How long is the PR interval in patient group {i}?",
            "options": [f"{rng.randrange(100, 999)} ms" for _ in range(4)],
            "gold": rng.randrange(4),
            "patient": f"p{i // 3}",
        }
        for i in range(60)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "intervals.jsonl").write_text(text, "utf-8")
    return folder


HARNESS_TASK = """
task: intervals
dataset_path: json
dataset_kwargs: {data_files: {test: intervals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: brier_score
    higher_is_better: false
metadata: {version: 1.0}
"""


@pytest.mark.slow
def test_logs_of_lm_evaluation_harness_are_compared_in_pairs(models: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install --group peers")
    from scipy.stats import norm
    from statsmodels.stats.contingency_tables import mcnemar

    (models / "tasks").mkdir()
    (models / "tasks" / "intervals.yaml").write_text(HARNESS_TASK, "utf-8")
    for name in ("base", "tuned"):
        run(
            models, "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "8",
            "--model_args", f"pretrained={models / name},dtype=float32", "--include_path", "tasks",
            "--tasks", "intervals", "--output_path", "said", "--log_samples",
        )  # fmt: skip
    found = compare.compare([models / "said"], metrics=["acc"])
    totals = {}
    for path in (models / "said").glob("*/results_*.json"):
        whole = json.loads(path.read_text("utf-8"))
        totals[Path(whole["model_name"]).name] = whole["results"]["intervals"]
    means = {mean["system"]: mean for mean in found["means"]}
    assert set(means) == set(totals) == {"base", "tuned"}
    for system, mean in means.items():
        assert mean["value"] == pytest.approx(totals[system]["acc,none"])
        assert (mean["items"], mean["clusters"]) == (60, 60)
    right: dict[str, list[bool]] = {}
    for path in sorted((models / "said").glob("*/samples_*.jsonl")):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        name = path.parent.name.rpartition("__")[2]
        right[name] = [row["acc"] == 1 for row in sorted(rows, key=lambda row: row["doc_id"])]
    pairs = list(zip(right["base"], right["tuned"], strict=True))
    table = [[pairs.count((a, b)) for b in (True, False)] for a in (True, False)]
    (difference,) = found["differences"]
    assert (difference["wins"], difference["losses"]) == (table[0][1], table[1][0])
    assert difference["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    # What the tool itself offers takes the two for systems that were asked different questions.
    spread = sum(totals[s]["acc_stderr,none"] ** 2 for s in totals) ** 0.5
    unpaired = 2 * norm.sf(abs(difference["value"]) / spread)
    assert difference["p"] != pytest.approx(unpaired, abs=0.02)
    clustered = compare.compare([models / "said"], cluster="patient")
    assert {mean["clusters"] for mean in clustered["means"]} == {20}
    (note, _) = clustered["notes"]
    assert "brier_score of intervals left out: not one number an item" in note


INSPECT_TASK = """
import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, mean, scorer
from inspect_ai.solver import generate

ROWS = [json.loads(line) for line in Path("intervals.jsonl").read_text("utf-8").splitlines()]


@scorer(metrics=[accuracy()])
def digit():
    async def score(state, target):
        found = any(sign.isdigit() for sign in state.output.completion)
        return Score(value=CORRECT if found else INCORRECT)

    return score


@scorer(metrics={"*": [mean()]})
def size():
    async def score(state, target):
        return Score(value={"characters": len(state.output.completion)})

    return score


@task
def intervals():
    samples = [Sample(input=r["question"], metadata={"patient": r["patient"]}) for r in ROWS]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=[digit(), size()])
"""


@pytest.mark.slow
def test_logs_of_inspect_are_compared_in_pairs(models: Path) -> None:
    pytest.importorskip("inspect_ai", reason="needs inspect-ai: pip install --group peers")
    import numpy as np
    from scipy.stats import permutation_test

    (models / "asked.py").write_text(INSPECT_TASK, "utf-8")
    for name in ("base", "tuned"):
        run(
            models, "inspect_ai", "eval", "asked.py", "--display", "none", "--model", f"hf/{name}",
            "-M", f"model_path={models / name}", "-M", f"tokenizer_path={models / name}",
            "-M", "device=cpu", "--max-tokens", "6", "--temperature", "1", "--seed", "3",
            "--epochs", "2", "--log-dir", "logs",
        )  # fmt: skip
    found = compare.compare([models / "logs"], cluster="patient")
    run(models, "inspect_ai", "log", "convert", "logs", "--to", "json", "--output-dir", "plain")
    assert compare.compare([models / "plain"], cluster="patient") == found
    logs: dict[str, Any] = {}
    for path in (models / "plain").glob("*.json"):
        log = json.loads(path.read_text("utf-8"))
        logs[log["eval"]["model"]] = log
    assert set(logs) == {"hf/base", "hf/tuned"}
    told = {(mean["system"], mean["metric"]): mean for mean in found["means"]}
    for system, log in logs.items():
        for score in log["results"]["scores"]:
            metric = {"digit": "digit", "characters": "size/characters"}[score["name"]]
            (total,) = score["metrics"].values()
            assert told[system, metric]["value"] == pytest.approx(total["value"])
            assert (told[system, metric]["items"], told[system, metric]["clusters"]) == (60, 20)
    sizes = {
        system: np.array([
            sum(s["scores"]["size"]["value"]["characters"] for s in log["samples"]
                if s["metadata"]["patient"] == f"p{patient}")
            for patient in range(20)
        ]) / 120
        for system, log in logs.items()
    }  # fmt: skip
    test = permutation_test(
        (sizes["hf/base"], sizes["hf/tuned"]), lambda a, b: (a - b).sum(),
        permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1),
    )  # fmt: skip
    (row,) = (row for row in found["differences"] if row["metric"] == "size/characters")
    assert row["value"] == pytest.approx(test.statistic)
    assert row["p"] == pytest.approx(test.pvalue, abs=0.02)


def test_the_example_of_the_how_to_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "compare.md").read_text("utf-8")
    parts = {name: page.split(f"```{name}\n")[1].split("```")[0] for name in ("csv", "python")}
    (tmp_path / "results.csv").write_text(parts["csv"], "utf-8")
    monkeypatch.chdir(tmp_path)
    exec(parts["python"], {})
    said = page.split("prints `")[1].split("`")[0]
    assert capsys.readouterr().out.strip() == said
