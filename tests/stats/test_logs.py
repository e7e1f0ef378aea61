"""Logs as lm-evaluation-harness 0.4.13 and Inspect 0.3.285 write them, cut to what is read."""

import json
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecg_llm import store
from ecg_llm.contracts import MissingPackage, UsageError
from ecg_llm.records import Question, Score
from ecg_llm.stats.logs import Results, read

DATE = "2026-01-02T03-04-05.678901"


def sample(i: int, metrics: dict[str, Any], kind: str = "none", **columns: Any) -> dict[str, Any]:
    return {
        "doc_id": i, "doc": {"question": f"q{i}", "patient": f"p{i // 2}"}, "target": "0",
        "arguments": {}, "resps": [["x"]], "filtered_resps": ["x"], "filter": kind,
        "metrics": list(metrics), "doc_hash": f"{i:064x}", "prompt_hash": "a", "target_hash": "b",
        **metrics, **columns,
    }  # fmt: skip


def harness(
    folder: Path,
    rows: list[dict[str, Any]],
    task: str = "ecg",
    totals: dict[str, Any] | None = None,
) -> Path:
    """Write a run as lm-evaluation-harness does, and give its file of samples."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"results": {task: {}}, "model_name": "org/base", **(totals or {})}
    (folder / f"results_{DATE}.json").write_text(json.dumps(whole), "utf-8")
    path = folder / f"samples_{task}_{DATE}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def inspected(
    samples: list[dict[str, Any]] | None, status: str = "success", task: str = "ecg"
) -> dict[str, Any]:
    return {
        "version": 2, "status": status, "eval": {"model": "hf/base", "task": task},
        "samples": samples,
    }  # fmt: skip


def seen(i: int | str, value: object, epoch: int = 1, **columns: Any) -> dict[str, Any]:
    return {
        "id": i, "epoch": epoch, "input": f"q{i}", "metadata": {"patient": "p"},
        "scores": {"match": {"value": value}}, **columns,
    }  # fmt: skip


def json_log(path: Path, log: object) -> Path:
    path.write_text(json.dumps(log), "utf-8")
    return path


def eval_log(
    path: Path, log: dict[str, Any], *, chunked: bool = False, header: bool = True
) -> Path:
    """Write an .eval file without compression."""
    start = {name: log[name] for name in ("version", "eval")}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("_journal/start.json", json.dumps(start))
        for row in log["samples"]:
            name = f"samples/{row['id']}_epoch_{row['epoch']}"
            if chunked:
                shell = {key: value for key, value in row.items() if key != "metadata"}
                archive.writestr(f"{name}/sample.json", json.dumps(shell))
                archive.writestr(f"{name}/metadata.json", json.dumps(row["metadata"]))
                archive.writestr(f"{name}/messages/0.json", "[]")
            else:
                archive.writestr(f"{name}.json", json.dumps(row))
        if header:
            about = {key: value for key, value in log.items() if key != "samples"}
            archive.writestr("header.json", json.dumps(about))
    return path


def only(path: Path, cluster: str = "") -> Results:
    (results,) = read(path, cluster).values()
    return results


def values(results: Results) -> dict[tuple[str, str, int], float | None]:
    return {(s.question_id.split("/")[1], s.metric, s.repeat): s.value for s in results.scores}


def test_every_number_of_a_sample_is_a_metric_and_filters_are_kept_apart(tmp_path: Path) -> None:
    rows = [
        sample(0, {"acc": 1.0, "acc_norm": 0.0}),
        sample(1, {"acc": 0.0, "acc_norm": float("nan")}),
        sample(0, {"exact_match": True, "bleu": ["a", "b"]}, "strict"),
        sample(0, {"exact_match": False, "bleu": ["a", "b"]}, "flexible"),
    ]
    found = only(harness(tmp_path, rows))
    assert values(found) == {
        ("0", "acc", 0): 1.0, ("1", "acc", 0): 0.0,
        ("0", "acc_norm", 0): 0.0, ("1", "acc_norm", 0): None,
        ("0", "exact_match,strict", 0): 1.0, ("0", "exact_match,flexible", 0): 0.0,
    }  # fmt: skip
    assert {score.arm for score in found.scores} == {"org/base"}
    assert [s.status for s in found.scores if s.value is None] == ["error"]
    assert set(found.subsets_of.values()) == {("ecg",)}
    assert found.notes == ("org/base: bleu of ecg left out: not one number an item.",)


def test_the_totals_beside_say_where_less_is_better_and_the_field_who_belongs_together(
    tmp_path: Path,
) -> None:
    totals = {"higher_is_better": {"ecg": {"acc": True, "brier": False}}}
    rows = [sample(i, {"acc": 1.0, "brier": 0.5}) for i in range(4)]
    rows += [sample(4, {"brier": 0.25}, "cut", doc={"question": "q"})]
    found = only(harness(tmp_path, rows, totals=totals), "patient")
    assert found.lower == {"brier", "brier,cut"}
    assert sorted(found.cluster_of.values()) == ["p0", "p0", "p1", "p1"]
    with pytest.raises(UsageError, match="field 'patent'; there are: patient, question"):
        only(next(tmp_path.glob("samples*")), "patent")


def test_a_folder_gives_each_run_and_a_file_of_totals_its_own(tmp_path: Path) -> None:
    harness(tmp_path / "a", [sample(0, {"acc": 1.0})], "one")
    harness(tmp_path / "a", [sample(0, {"acc": 0.0})], "two")
    json_log(tmp_path / "b.json", inspected([seen(1, "C")]))
    runs = read(tmp_path)
    assert list(runs) == [str(tmp_path / "a" / DATE), str(tmp_path / "b.json")]
    assert set(runs[str(tmp_path / "a" / DATE)].subsets_of.values()) == {("one",), ("two",)}
    (totals,) = (tmp_path / "a").glob("results*")
    assert {score.value for score in only(totals).scores} == {0.0, 1.0}


@pytest.mark.parametrize(
    ("totals", "name"),
    [
        ({"model_name": "/disk/models/tuned"}, "tuned"),
        ({"model_name": "", "config": {"model_args": "pretrained=org/x,dtype=float32"}}, "org/x"),
        ({"model_name": None}, "org/folder"),
    ],
)
def test_the_system_is_the_model_by_its_name(
    tmp_path: Path, totals: dict[str, Any], name: str
) -> None:
    path = harness(tmp_path / "org__folder", [sample(0, {"acc": 1.0})], totals=totals)
    assert {score.arm for score in only(path).scores} == {name}


def test_an_old_log_without_dates_and_lists_of_metrics_is_read(tmp_path: Path) -> None:
    row = {"doc_id": 3, "doc": {"q": 1}, "target": "0", "arguments": [], "acc": 1.0}
    path = json_log(tmp_path / "samples_ecg.json", [row])
    assert values(only(path)) == {("3", "acc", 0): 1.0}


def test_items_with_one_number_and_other_content_are_other_items(tmp_path: Path) -> None:
    ids = [
        {s.question_id for s in only(harness(tmp_path / n, [sample(0, {"acc": 1.0}, **c)])).scores}
        for n, c in (("a", {}), ("b", {}), ("c", {"doc_hash": "f" * 64}))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_grades_numbers_and_parts_of_inspect_become_scores(tmp_path: Path) -> None:
    samples = [seen(i, letter) for i, letter in enumerate("CIPN")]
    samples += [seen(4, True), seen(5, "0.25"), seen(6, {"a": 3, "b": "C", "c": "none of it"})]
    found = only(json_log(tmp_path / "log.json", inspected(samples)))
    given = {(item, metric): value for (item, metric, _), value in values(found).items()}
    assert [given[str(i), "match"] for i in range(7)] == [1.0, 0.0, 0.5, 0.0, 1.0, 0.25, None]
    assert (given["6", "match/a"], given["6", "match/b"]) == (3.0, 1.0)
    assert found.notes == ("hf/base: match/c of ecg left out: no number or grade.",)


def test_epochs_are_repeats_and_failed_samples_are_missing(tmp_path: Path) -> None:
    samples = [seen(1, "C"), seen(1, "I", 2), seen(2, "C"), seen(2, "C", 2, scores=None, error={})]
    found = only(json_log(tmp_path / "log.json", inspected(samples, "cancelled")))
    assert values(found) == {
        ("1", "match", 0): 1.0, ("1", "match", 1): 0.0,
        ("2", "match", 0): 1.0, ("2", "match", 1): None,
    }  # fmt: skip
    assert found.notes == (
        "hf/base: the log of ecg is unfinished (status cancelled); it holds 4 samples.",
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_log_says_the_same_in_every_shape(tmp_path: Path, chunked: bool) -> None:
    log = inspected([seen("a/b", "C"), seen("c", "I"), seen("c", "C", 2)])
    plain = only(json_log(tmp_path / "log.json", log), "patient")
    assert only(eval_log(tmp_path / "log.eval", log, chunked=chunked), "patient") == plain
    assert set(plain.cluster_of.values()) == {"p"}


def test_long_inputs_kept_as_attachments_are_the_same_items(tmp_path: Path) -> None:
    turns = [{"id": "x1", "role": "user", "content": "a long question"}]
    apart = [{"id": "x2", "role": "user", "content": "attachment://abc"}]
    one = json_log(tmp_path / "1.json", inspected([seen(1, "C", input=turns)]))
    kept = {"abc": "a long question"}
    two = json_log(tmp_path / "2.json", inspected([seen(1, "I", input=apart, attachments=kept)]))
    assert set(only(one).subsets_of) == set(only(two).subsets_of)


def test_half_a_character_in_a_name_is_no_reason_to_stop(tmp_path: Path) -> None:
    log = inspected([seen("a\ud800", {"b\udfff": "C"})], task="t\ud800")
    (score,) = only(json_log(tmp_path / "log.json", log)).scores
    assert (score.question_id[:5], score.metric) == ("t?/a?", "match/b?")


def test_a_run_that_broke_off_is_read_as_far_as_it_came(tmp_path: Path) -> None:
    path = eval_log(tmp_path / "log.eval", inspected([seen(1, "C")]), header=False)
    assert "unfinished (status started); it holds 1 sample." in only(path).notes[0]


def test_a_study_folder_is_its_scores(tmp_path: Path) -> None:
    question = Question(
        question_id="q", set="hand", kind="choice", question="?", group="d", split="test"
    )
    store.write(tmp_path / "questions.jsonl", [question])
    score = Score(question_id="q", arm="base", metric="accuracy", value=1.0)
    store.write(tmp_path / "scores.jsonl", [score])
    found = only(tmp_path)
    assert (found.scores, found.subsets_of) == ([score], {"q": ("hand/test",)})
    assert found.cluster_of == {"q": "d"}


def test_a_compressed_log_names_the_package_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = eval_log(tmp_path / "log.eval", inspected([seen(1, "C")]))
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] = 93
            at = data.find(mark, at + 4)
    path.write_bytes(data)
    monkeypatch.delattr(zipfile, "ZIP_ZSTANDARD", raising=False)
    monkeypatch.setitem(sys.modules, "zipfile_zstd", None)
    with pytest.raises(MissingPackage, match="pip install zipfile-zstd"):
        read(path)


def test_what_is_no_log_is_named_with_what_to_do(tmp_path: Path) -> None:
    def says(path: Path, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            read(path)

    totals = harness(tmp_path / "totals", []).parent
    for path in totals.glob("samples*"):
        path.unlink()
    says(next(totals.iterdir()), "only totals.*--log_samples")
    says(totals, "holds no log")
    cut = harness(tmp_path / "cut", [sample(0, {"acc": 1.0}), sample(1, {"acc": 1.0})])
    cut.write_text(cut.read_text("utf-8")[:-40], "utf-8")
    says(cut, "line 2 is not a sample of lm-eval: it is cut off")
    says(json_log(tmp_path / "none.json", inspected(None)), "no samples; run Inspect again")
    says(json_log(tmp_path / "text.json", inspected([seen(1, "B")])), "no score that is a number")
    says(json_log(tmp_path / "other.json", {"a": 1}), "no log that compare knows")
    says(json_log(tmp_path / "wrong.json", {"version": 1, "eval": {}}), "version that is not known")
    (tmp_path / "half.json").write_text('{"version": 2, "eval": {', "utf-8")
    says(tmp_path / "half.json", "no log that compare knows")
    whole = eval_log(tmp_path / "whole.eval", inspected([seen(1, "C")])).read_bytes()
    (tmp_path / "half.eval").write_bytes(whole[: len(whole) // 2])
    says(tmp_path / "half.eval", "no Inspect log, or a broken one")
    (tmp_path / "deep.json").write_text("[" * 100_000, "utf-8")
    says(tmp_path / "deep.json", "cannot be read|no log that compare knows")
    (tmp_path / "empty").mkdir()
    says(tmp_path / "empty", "holds no log")
    says(tmp_path / "none.csv", "cannot be read")
    says(tmp_path / "none.jsonl", "There is no file")
    foreign = tmp_path / "log.jsonl"
    foreign.write_text('{"acc": 1}\n', "utf-8")
    says(foreign, "line 1")
    binary = tmp_path / "scan.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    says(binary, "UTF-8")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["C", "I", "acc", "none", "match"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                max_size=3),
    max_leaves=6,
)  # fmt: skip


def broken(value: Any, data: st.DataObject) -> Any:
    """Return a JSON value with something else somewhere in it."""
    if not isinstance(value, dict | list) or not value or data.draw(st.integers(0, 4)) == 0:
        return data.draw(ANYTHING)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = data.draw(st.sampled_from(keys))
    copy = value.copy()
    copy[key] = broken(copy[key], data)
    return copy


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_whatever_stands_in_a_log_is_read_or_refused_in_a_sentence(
    tmp_path: Path, data: st.DataObject
) -> None:
    samples = broken([sample(0, {"acc": 1.0}), sample(1, {"acc": 0.0})], data)
    totals = broken(
        {"model_name": "m", "config": {"model_args": "x"}, "higher_is_better": {"ecg": {"a": 1}}},
        data,
    )
    log = broken(inspected([seen(1, {"a": 1}), seen(2, "C", attachments={"a": "b"})]), data)
    folder = tmp_path / "run"
    path = harness(folder, samples if isinstance(samples, list) else [samples])
    (folder / f"results_{DATE}.json").write_text(json.dumps(totals), "utf-8")
    for file in (path, folder, json_log(tmp_path / "log.json", log)):
        for cluster in ("", "patient"):
            with suppress(UsageError):
                for results in read(file, cluster).values():
                    items = {score.question_id for score in results.scores}
                    assert items <= set(results.subsets_of)


def test_a_task_without_any_metric_is_told(tmp_path: Path) -> None:
    rows = [sample(i, {}) | {"metrics": ["bypass"]} for i in range(3)]
    found = only(harness(tmp_path / "run", rows))
    assert found.scores == []
    assert found.notes == ("org/base: ecg left out: no metric in it.",)
