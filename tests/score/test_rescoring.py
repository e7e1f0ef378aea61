"""The scores step on a study whose arm is behind a server."""

import json
from pathlib import Path

import pytest

from ecg_llm import config, pipeline, steps
from ecg_llm.records import Answer, Score
from ecg_llm.testing import FakeServer

STUDY = """
title: A study to be scored twice
questions:
  checks: {{similarity: 0, duplicate: 1}}
  imports: [{{path: asked.jsonl, name: hand, split: test}}]
models: {{server: {{kind: api, base_url: "{url}", model: fake}}}}
arms: {{api: {{model: server}}}}
"""
ASKED = 5


@pytest.fixture
def folder(tmp_path):
    """A folder with a document and five open questions."""
    (tmp_path / "literature").mkdir()
    text = "# PR interval\n\nThe normal PR interval of adults lasts 120 to 200 ms.\n"
    (tmp_path / "literature" / "a.md").write_text(text)
    rows = [
        {"question": f"What is interval {n}?", "answer": f"Interval {n} lasts {n}0 to 200 ms."}
        for n in range(ASKED)
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def scored(folder: Path, url: str, *overrides: str) -> list[Score]:
    """Bring the study up to its scores, as `ecg-llm run --to scores` does."""
    (folder / "study.yaml").write_text(STUDY.format(url=url))
    settings = config.load(folder, overrides)
    models = pipeline.Models(settings, folder)
    bound = steps.bind(folder, pipeline.study_steps(settings, folder, models))
    for name in steps.needed(bound, "scores"):
        steps.run(bound, name)
    return steps.read_table(folder / "scores.jsonl", Score)


@pytest.mark.slow
def test_rescoring_asks_no_model_and_leaves_the_answers(folder):
    """Paper, 3.4 no. 11: without items stored, a new metric meant new answers."""
    with FakeServer(lambda messages, body: "The interval lasts 120 to 200 ms.") as server:
        first = scored(folder, server.base_url)
        asked = len(server.requests)
        files = [folder / "answers.jsonl", folder / "manifests" / "answers" / "api.json"]
        before = [file.read_bytes() for file in files]
        assert asked == ASKED
        assert {row.text for row in steps.read_table(folder / "answers.jsonl", Answer)} == {
            "The interval lasts 120 to 200 ms."
        }
        again = scored(folder, server.base_url, "scores.layer=3")
        less = scored(folder, server.base_url, "scores.bertscore=false")
        assert len(server.requests) == asked
    assert [file.read_bytes() for file in files] == before
    bert = [[row for row in rows if row.metric == "bertscore"] for rows in (first, again, less)]
    assert [len(rows) for rows in bert] == [ASKED, ASKED, 0]
    assert bert[0][0].value != bert[1][0].value
    assert "layer 3 of 6" in bert[1][0].note
    others = [{row.key: row for row in rows if "bert" not in row.metric} for rows in (first, again)]
    assert others[0] == others[1]
