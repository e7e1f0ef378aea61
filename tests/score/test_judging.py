"""What a person is told after a judge's step: what failed, what could not be read, what to do."""

import json

import pytest

from ecg_llm import pipeline, store
from ecg_llm.config import Study
from ecg_llm.records import Answer, KeyFacts, Question
from ecg_llm.steps import Work
from ecg_llm.testing import FakeServer

VERDICT = json.dumps({"reason": "So.", "verdict": "correct", "harm": "none"})
FACTS = json.dumps({"facts": ["PR is long."]})
QUESTIONS = [
    Question(
        question_id=f"q{i}",
        set="s",
        kind="open",
        question=f"What is {i}?",
        reference="PR is long.",
        split="test",
    )
    for i in range(3)
]


@pytest.fixture
def folder(tmp_path):
    answers = [Answer(question_id=f"q{i}", arm="a", text=f"It is {i}.") for i in range(3)]
    answers[2] = answers[2].model_copy(update={"status": "error", "reason": "timeout"})
    store.write(tmp_path / "questions.jsonl", QUESTIONS)
    store.write(tmp_path / "answers.jsonl", answers)
    store.write(tmp_path / "passages.jsonl", [])
    listed = [KeyFacts(question_id=f"q{i}", facts=("PR is long.",)) for i in range(3)]
    store.write(tmp_path / "facts.jsonl", listed)
    return tmp_path


def notes(make, folder, reply, *name, done=(), fault=None):
    """Return the rows and the notes of a step whose model replies like this."""
    with FakeServer(lambda messages, body: reply, fault=fault or (lambda *_: "")) as server:
        study = Study.model_validate(
            {
                "title": "t",
                "models": {
                    "m": {
                        "kind": "api",
                        "base_url": server.base_url,
                        "model": "fake",
                        "family": "y",
                    }
                },
                "scores": {"facts": {"model": "m"}, "judges": {"first": {"model": "m"}}},
            }
        )
        work = Work(folder, list(done), folder / "scratch", lambda done, total: None, {})
        rows = list(make(work, study, *name, pipeline.Models(study, folder)))
    return rows, work.notes


def fail(number, body):
    return 400


STEPS = {
    "judge first": (pipeline.judge_answers, ("first",), "judgements --where judge=first", 2),
    "the model that lists key facts": (pipeline.list_key_facts, (), "facts", 3),
    "the model that looks for key facts": (
        pipeline.check_key_facts,
        (),
        "judgements --where judge=facts",
        2,
    ),
}


@pytest.mark.parametrize("whose", STEPS)
def test_replies_that_cannot_be_read_are_told_with_what_shows_and_what_mends_them(folder, whose):
    make, name, show, asked = STEPS[whose]
    rows, (note,) = notes(make, folder, "I would rather not say.", *name)
    assert note.startswith(f"{asked} of {asked} replies of {whose} could not be read (it holds no")
    assert f"`ecg-llm show {show}` has them" in note
    assert "set models.m.revision, so that it is asked anew" in note

    kept = [row for row in rows if row.prompt_sha][:1]
    _, (again,) = notes(make, folder, "I would rather not say.", *name, done=kept)
    assert again == note, "those of the run that was stopped count"


@pytest.mark.parametrize("whose", STEPS)
def test_replies_that_failed_are_told_with_what_asks_for_them_again(folder, whose):
    make, name, _, asked = STEPS[whose]
    _, (note,) = notes(make, folder, "", *name, fault=fail)
    assert note.startswith(f"{asked} of {asked} replies of {whose} failed (")
    assert "`ecg-llm run --retry` asks for them again" in note


def test_what_was_read_is_not_worth_a_word(folder):
    rows, told = notes(pipeline.judge_answers, folder, VERDICT, "first")
    assert len(rows) == 3, "also the failed answer has a row"
    assert told == []
    rows, told = notes(pipeline.list_key_facts, folder, FACTS)
    assert [row.facts for row in rows] == [("PR is long.",)] * 3
    assert told == []
