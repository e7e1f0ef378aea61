"""Studies of imported ratings alone: no literature, no question set, no arm that answers."""

from pathlib import Path
from typing import Any

import pytest
from support import run_cli

from ecg_llm import config, pipeline, store
from ecg_llm.commands import estimates, init
from ecg_llm.contracts import UsageError
from ecg_llm.records import Document, Estimate, Rating, Score
from ecg_llm.steps import read_table

ARMS = {
    "models": {"m": {"kind": "extractive"}},
    "arms": {"base": {"model": "m"}, "rag": {"model": "m", "retrieve": True}},
}
GRADES = ("incorrect", "partially incorrect", "correct but incomplete", "correct")


def ratings(folder: Path) -> Path:
    """Write marks for three systems on five questions, and return the folder."""
    rows = [
        Rating(set="hand", question=f"Q{i}?", arm=arm, answer="A", label=GRADES[(i * step) % 4])
        for i in range(5)
        for step, arm in enumerate(("LLama", "LLama + RAG", "Other"), start=1)
    ]
    (folder / "literature").mkdir(parents=True)
    store.write(folder / "ratings" / "hand.jsonl", rows)
    return folder


def inputs_of_scores(study: config.Study, folder: Path) -> tuple[str, ...]:
    made = pipeline.study_steps(study, folder, pipeline.Models(study, folder))
    return next(step.inputs for step in made if step.name == "scores")


def test_ratings_alone_rest_on_nothing_that_comes_before_scores(tmp_path: Path) -> None:
    folder = ratings(tmp_path)
    study = config.parse(ARMS)
    assert pipeline.rated_alone(study, folder)
    made = pipeline.study_steps(study, folder, pipeline.Models(study, folder))
    names = [step.name for step in made]
    late = names[names.index("scores") :]
    assert late[-1] == "report"
    assert {name for step in made if step.name in late for name in step.inputs} <= set(late)
    assert made[names.index("answers/rag")].inputs  # asked for by name they work as ever


@pytest.mark.parametrize("more", ["paper", "documents", "passages", "questions"])
def test_what_can_be_asked_about_is_asked_about(tmp_path: Path, more: str) -> None:
    folder = ratings(tmp_path)
    raw = {"questions": {"imports": [{"path": "q.jsonl"}]}} if more == "questions" else {}
    if more == "paper":
        (folder / "literature" / "paper.md").write_text("# P waves\n")
    if more == "documents":  # the folder of a finished study may have been moved away
        (folder / "literature").rmdir()
        row = Document(path="a.md", doc_id="0", status="ok")
        store.write(folder / "documents.jsonl", [row])
    if more == "passages":
        (folder / pipeline.GIVEN).write_text('{"passage_id": "p", "text": "P waves"}\n')
    study = config.parse(raw)
    assert not pipeline.rated_alone(study, folder)
    assert "answers" in inputs_of_scores(study, folder)


def test_without_ratings_nothing_is_reported(tmp_path: Path) -> None:
    (tmp_path / "literature").mkdir()
    assert not pipeline.rated_alone(config.parse({}), tmp_path)
    assert "answers" in inputs_of_scores(config.parse({}), tmp_path)


def decided(folder: Path, candidates: list[str], **scores: object) -> tuple[str, ...]:
    """Return the candidates that the report of this folder is given."""
    study = config.parse({**ARMS, "scores": scores, "decision": {"candidates": candidates}})
    made = pipeline.study_steps(study, folder, pipeline.Models(study, folder))
    decision: Any = made[-1].parameters["decision"]
    return tuple(decision["candidates"])


def test_rated_systems_may_be_candidates_by_the_name_they_are_rated_under(tmp_path: Path) -> None:
    folder = ratings(tmp_path)
    assert decided(folder, ["LLama", "Other"]) == ("LLama", "Other")
    assert decided(folder, ["rag"], raters={"LLama + RAG": "rag"}) == ("rag",)
    assert decided(folder, ["base", "Other"]) == ("base", "Other")  # the report says of base: none
    with pytest.raises(UsageError, match=r'names \'LLma\', which is neither .* mean "LLama"\?'):
        decided(folder, ["LLma", "Other"])


def test_a_candidate_of_a_study_without_ratings_is_one_of_its_arms(tmp_path: Path) -> None:
    assert decided(tmp_path, ["base"]) == ("base",)
    with pytest.raises(UsageError, match=r'names \'bse\', .*did you mean "base"\?'):
        decided(tmp_path, ["bse"])


@pytest.mark.slow
def test_the_report_decides_among_the_rated_candidates(tmp_path: Path) -> None:
    folder = ratings(tmp_path / "study")
    (folder / "study.yaml").write_text(
        """
models: {m: {kind: extractive}}
arms: {base: {model: m}}
decision: {candidates: [LLama, Other, base]}
"""
    )
    run = run_cli("report", "-C", str(folder))
    assert run.returncode == 0, run.stderr
    card = (folder / "report" / "index.html").read_text("utf-8")
    assert "Without results that could decide: base." in card
    assert "LLama and Other" in card or "Other and LLama" in card


@pytest.mark.slow
def test_two_rated_systems_that_are_made_one_arm_are_refused(tmp_path: Path) -> None:
    folder = ratings(tmp_path / "study")
    (folder / "study.yaml").write_text(
        """
models: {m: {kind: extractive}}
arms: {base: {model: m}}
scores: {raters: {LLama: base, LLama + RAG: base}}
"""
    )
    run = run_cli("report", "-C", str(folder))
    assert run.returncode == 2
    assert "makes 'LLama' and 'LLama + RAG' one arm, base" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("difference", [0.0, -1.0, float("nan"), float("inf"), 2.0])
def test_only_a_difference_that_two_arms_can_have_is_planned_for(difference: float) -> None:
    with pytest.raises(UsageError, match="cannot be planned for"):
        estimates.check_wanted(difference)
    estimates.check_wanted(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("power", ["nan", "2"])
def test_a_difference_that_no_arms_can_have_is_refused_before_anything_is_run(
    tmp_path: Path, power: str
) -> None:
    folder = ratings(tmp_path)
    (folder / "study.yaml").write_text("title: Ratings\n")
    run = run_cli("estimates", "--power", power, "-C", str(folder))
    assert run.returncode == 2
    assert "cannot be planned for" in run.stderr
    assert not (folder / "estimates.jsonl").exists()


HEAD = "Question,Answer,Model,Incorrect,Partially incorrect,Correct but incomplete,Correct\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "usable"),
    [
        ("Q?,A,Base,x,,,\n", True),
        ("Q?,A,Base,,,,\n", False),
        ("Q?,A,Base,x,,,\nQ?,A,Base,,,,x\n", False),
    ],
)
def test_a_report_is_proposed_where_something_was_imported(
    tmp_path: Path, rows: str, usable: bool
) -> None:
    (tmp_path / "study.yaml").write_text("title: Ratings\n")
    (tmp_path / "sheet.csv").write_text(HEAD + rows)
    run = run_cli("rate", "import", str(tmp_path / "sheet.csv"), "-C", str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert ("Next: ecg-llm report" in run.stderr) == usable
    assert ("No usable mark was found" in run.stderr) != usable


def test_a_new_study_says_that_ratings_will_do(tmp_path: Path) -> None:
    told = init.make(tmp_path / "study", "nano")
    assert told[-1] == f"Or import ratings: ecg-llm rate import SHEET.csv -C {tmp_path / 'study'}"
    (tmp_path / "papers").mkdir()
    told = init.make(tmp_path / "other", "nano", tmp_path / "papers")
    assert not any("ratings" in line for line in told)


@pytest.mark.slow
def test_raters_names_become_arms_and_unknown_ones_are_told(tmp_path: Path) -> None:
    folder = ratings(tmp_path / "study")
    (folder / "study.yaml").write_text(
        """
models: {m: {kind: extractive}}
arms:
  base: {model: m}
  rag: {model: m, retrieve: true}
scores:
  raters: {LLama: base, LLama + RAG: rag, LLamma: base}
estimates: {resamples: 1000, comparisons: [[rag, base]]}
"""
    )
    run = run_cli("report", "-C", str(folder))
    assert run.returncode == 0, run.stderr
    assert "scores.raters names systems that no rating has: LLamma" in run.stderr
    assert {row.arm for row in read_table(folder / "scores.jsonl", Score)} == {
        "base",
        "rag",
        "Other",
    }
    rows = read_table(folder / "estimates.jsonl", Estimate)
    assert [(row.arm, row.against) for row in rows if row.against] == [("rag", "base")]
    assert "No arm has answered" in (folder / "report" / "index.html").read_text("utf-8")


@pytest.mark.slow
def test_a_folder_with_ratings_but_an_empty_study_is_reported(tmp_path: Path) -> None:
    folder = ratings(tmp_path / "study")
    (folder / "literature").rmdir()
    (folder / "study.yaml").write_text("title: Ratings\n")
    run = run_cli("run", "-C", str(folder))
    assert run.returncode == 0, run.stderr
    assert (folder / "report" / "index.html").exists()
    asked = run_cli("documents", "-C", str(folder))
    assert asked.returncode == 1
    assert "There is no folder" in asked.stderr
