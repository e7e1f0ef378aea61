"""A study whose writer, arm and judge are behind a server; and servers that are not there."""

import json
import re
from pathlib import Path

import pytest
from support import make_study, run_cli

from ecg_llm.records import Answer, Judgement, Question, Score
from ecg_llm.steps import read_table
from ecg_llm.testing import FakeServer

pytestmark = pytest.mark.slow

STUDY = """
title: A study with servers
passages: {{tokens: 128}}
questions:
  writer: llm
  model: server
  per_window: 1
  limit: 8
  split: {{train: 0.8, val: ["10-*.pdf"], test: ["12-*.pdf"], seen: 0.2}}
  imports: [{{path: handbook, name: handbook, split: test_seen}}]
models:
  server: {{kind: api, base_url: "{url}", model: fake}}
arms:
  api: {{model: server}}
  api+rag: {{model: server, retrieve: true}}
answers: {{limit: 4}}
scores: {{judges: {{one: {{model: server, related: allow}}}}}}
estimates: {{resamples: 1000}}
"""


def reply(messages: list[dict[str, str]], body: dict[str, object]) -> str:
    """Write, answer or judge, by what the prompt asks for."""
    text = messages[-1]["content"]
    if '"verdict"' in text:
        return '{"verdict": "correct", "harm": "none", "reason": "It says so.", "quote": ""}'
    if "<<<TEXT" in text:
        source = text.split("<<<TEXT")[1].split("TEXT>>>")[0]
        sentences = [s for s in re.findall(r"[A-Z][^.#|]{40,250}\.", source) if " is " in s]
        if not sentences:
            return '{"questions": []}'
        evidence = sentences[0]
        subject, _, rest = evidence.partition(" is ")
        question = {
            "question": f"In electrocardiography, what is {subject[0].lower()}{subject[1:]}?",
            "answer": evidence,
            "evidence": evidence,
            "distractors": [f"It is {n} times {rest}" for n in ("two", "three", "four")],
        }
        if '"distractors"' not in text:
            del question["distractors"]
        return json.dumps({"questions": [question]})
    return "The correct answer is B." if "B) " in text else "It is 120 to 200 ms [1]."


def test_writer_arms_and_judge_behind_one_server(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s")
    with FakeServer(reply, model="fake") as server:
        (folder / "study.yaml").write_text(STUDY.format(url=server.base_url))
        run = run_cli("run", "-C", str(folder))
        assert run.returncode == 0, run.stderr
        asked = len(server.requests)
        questions = read_table(folder / "questions.jsonl", Question)
        answers = read_table(folder / "answers.jsonl", Answer)
        assert {row.arm for row in answers} == {"api", "api+rag"}
        assert all(row.status == "ok" for row in answers)
        assert any(row.set == "written" and row.status == "kept" for row in questions)
        judged = read_table(folder / "judgements.jsonl", Judgement)
        kinds = {row.question_id: row.kind for row in questions}
        assert len(judged) == sum(kinds[row.question_id] == "open" for row in answers)
        verdicts = [
            row for row in read_table(folder / "scores.jsonl", Score) if row.metric == "verdict"
        ]
        assert verdicts
        assert {row.value for row in verdicts} == {1.0}
        for table in folder.glob("*.jsonl"):
            if table.name != "timings.jsonl":
                table.unlink()
        again = run_cli("run", "-C", str(folder))
        assert again.returncode == 0, again.stderr
        assert len(server.requests) == asked, "the second run asks nothing: every reply is cached"
    manifest = json.loads((folder / "manifests" / "answers" / "api.json").read_text())
    assert "key" in manifest


def test_a_server_that_is_down_is_one_sentence_and_keeps_what_was_done(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s")
    (folder / "study.yaml").write_text(STUDY.format(url="http://127.0.0.1:9/v1"))
    run = run_cli("run", "-C", str(folder))
    assert run.returncode == 1
    assert "127.0.0.1:9" in run.stderr
    assert "Traceback" not in run.stderr
    assert (folder / "passages.jsonl").stat().st_size
    doctor = run_cli("doctor", "-C", str(folder))
    assert doctor.returncode == 1
    assert "127.0.0.1:9" in doctor.stdout


def test_a_model_folder_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s")
    (folder / "weights").mkdir()
    (folder / "study.yaml").write_text(
        "models: {a: {kind: local, id: weights}}\narms: {a: {model: a}}\n"
    )
    run = run_cli("run", "-C", str(folder))
    assert run.returncode in (1, 2)
    assert "weights" in run.stderr
    assert "Traceback" not in run.stderr
