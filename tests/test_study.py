"""The whole chain on a small study: the invariants of the tables, and the commands on them."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import run_cli

from ecg_llm.records import (
    DOCUMENT_REASONS,
    METRICS,
    QUESTION_REASONS,
    TABLES,
    Answer,
    Document,
    Draft,
    Estimate,
    Passage,
    Question,
    Score,
)

Rows = Callable[[type[Any]], list[Any]]
READ = ("ok", "partial")


def test_a_second_run_does_nothing(study: Path) -> None:
    before = {path: path.read_bytes() for path in study.glob("*.jsonl")}
    run = run_cli("run", "-C", str(study), "--json")
    assert {step["state"] for step in json.loads(run.stdout)["steps"]} == {"done"}
    assert {path: path.read_bytes() for path in study.glob("*.jsonl")} == before
    assert not list((study / "partial").rglob("*.jsonl"))


def test_tables_are_sorted_and_every_file_of_the_folder_is_a_row(study: Path, rows: Rows) -> None:
    for row in TABLES.values():
        if row.table != "ratings":
            keys = [made.key for made in rows(row)]
            assert keys == sorted(keys), row.table
    documents = rows(Document)
    assert {row.path for row in documents} == {
        path.name for path in (study / "literature").iterdir()
    }
    failed = [row for row in documents if row.status not in READ]
    assert [(row.path, row.reason) for row in failed] == [("page.pdf", "not_a_pdf")]
    assert all(row.reason in DOCUMENT_REASONS for row in documents)


def test_passages_are_spans_of_their_document(study: Path, rows: Rows) -> None:
    documents = {row.doc_id: row for row in rows(Document) if row.status in READ}
    texts = {key: (study / "texts" / f"{key}.md").read_bytes().decode() for key in documents}
    passages = rows(Passage)
    assert {row.doc_id for row in passages} == set(documents)
    for row in passages:
        assert texts[row.doc_id][row.start : row.end] == row.text
        assert 1 <= row.page_from <= row.page_to <= documents[row.doc_id].pages
        starts = documents[row.doc_id].page_starts
        assert starts[row.page_from - 1] <= row.start


def test_questions_rest_on_evidence_and_splits_do_not_leak(rows: Rows) -> None:
    passages = {row.passage_id: row for row in rows(Passage)}
    questions = rows(Question)
    written = [row for row in questions if row.set == "written" and row.status == "kept"]
    assert len(written) >= 20
    for row in written:
        assert row.evidence in passages[row.passage_id].text
        assert row.doc_id == passages[row.passage_id].doc_id
    assert all(row.reason in QUESTION_REASONS for row in questions)
    assert all((row.status == "kept") == (row.reason == "") for row in questions)
    groups = {
        split: {row.group for row in questions if row.split == split and row.set == "written"}
        for split in ("train", "val", "test", "test_seen")
    }
    assert not (groups["train"] | groups["val"]) & groups["test"]
    assert groups["test_seen"] <= groups["train"]
    assert all(groups.values())
    train_evidence = {row.evidence for row in written if row.split == "train"}
    seen_evidence = {row.evidence for row in written if row.split == "test_seen"}
    assert not train_evidence & seen_evidence
    for row in questions:
        if row.status == "kept" and row.kind == "choice":
            assert len(set(row.options)) == len(row.options) >= 2
            assert row.answer in "ABCDEFGH"[: len(row.options)]


def test_every_tested_question_has_one_answer_an_arm_and_every_answer_its_scores(
    study: Path, rows: Rows
) -> None:
    questions = {row.question_id: row for row in rows(Question)}
    answers = rows(Answer)
    by_arm = Counter(row.arm for row in answers)
    assert set(by_arm) == {"base", "tuned+rag", "extractive"}
    assert len(set(by_arm.values())) == 1
    for row in answers:
        assert questions[row.question_id].split in ("test", "test_seen")
        assert bool(row.passages) == (row.arm != "base")
    passages = {row.passage_id for row in rows(Passage)}
    assert {shown.passage_id for row in answers for shown in row.passages} <= passages
    scores = rows(Score)
    scored = Counter((row.question_id, row.arm, row.metric) for row in scores)
    assert set(scored.values()) == {1}
    for row in answers:
        kind = questions[row.question_id].kind
        wanted = "accuracy" if kind == "choice" else "rougeL"
        assert scored[row.question_id, row.arm, wanted] == 1
    assert {row.metric for row in scores} <= set(METRICS)
    assert all((row.value is not None) == (row.status == "scored") for row in scores)


def test_estimates_count_every_question(rows: Rows) -> None:
    questions = {row.question_id: row for row in rows(Question)}
    wanted = Counter(
        (questions[row.question_id].subset, row.arm)
        for row in rows(Answer)
        if questions[row.question_id].kind == "choice"
    )
    found = {
        (row.subset, row.arm): row.questions
        for row in rows(Estimate)
        if row.metric == "accuracy" and not row.against
    }
    assert found == dict(wanted)


def test_the_report_is_one_file_that_names_what_was_not_read(study: Path, rows: Rows) -> None:
    html = (study / "report" / "index.html").read_text()
    assert "page.pdf" in html
    assert "nano" in html
    assert "not a medical device" in html.lower()
    assert 'src="http' not in html
    assert "<svg" in html
    assert str(len(rows(Draft))) in html


@pytest.mark.slow
def test_a_wanted_difference_is_planned_for_from_the_study_at_hand(study: Path) -> None:
    run = run_cli("estimates", "--power", "0.03", "--json", "-C", str(study))
    told = [row for row in json.loads(run.stdout)["power"] if row["needed_questions"] is not None]
    assert told
    for row in told:
        assert row["needed_questions"] >= row["needed_clusters"] >= 2
        assert row["needed_questions_adjusted"] >= row["needed_questions"]
    refused = run_cli("estimates", "--power", "-1", "-C", str(study))
    assert refused.returncode == 2
    assert "give a number above 0" in refused.stderr


@pytest.mark.slow
def test_standings_and_agreement_are_commands(study: Path) -> None:
    shown = run_cli("standings", "-C", str(study)).stdout
    assert all(word in shown for word in ("median", "extractive", "%"))
    rows = json.loads(run_cli("agreement", "--json", "-C", str(study)).stdout)["agreement"]
    assert {row["level"] for row in rows} == {"arms", "answers"}


def test_the_files_beside_the_report_are_those_of_its_figures_and_tables(study: Path) -> None:
    report = study / "report"
    html = (report / "index.html").read_text()
    assert len(list((report / "figures").glob("*.svg"))) == html.count("<figure>")
    tables = {file.suffix for file in (report / "tables").iterdir()}
    assert tables == {".csv", ".md", ".tex"}
    assert len(list((report / "tables").glob("*.tex"))) == html.count("<table")


def test_ask_answers_with_a_citation_that_is_the_text_of_the_page(study: Path) -> None:
    run = run_cli("ask", "--json", "-C", str(study), "What is the PR interval?")
    assert run.returncode == 0, run.stderr
    reply = json.loads(run.stdout)
    assert reply["answered"]
    assert reply["arm"] == "extractive"
    assert "PR interval" in reply["answer"]
    cited = reply["citations"][0]
    text = (study / "texts" / f"{cited['doc_id']}.md").read_text()
    assert cited["text"] in text
    assert cited["path"] in {f"{path.name}" for path in (study / "literature").iterdir()}


def test_ask_says_when_the_literature_does_not_answer(study: Path) -> None:
    run = run_cli("ask", "-C", str(study), "Who won the football world cup in 1954?")
    assert run.returncode == 3
    assert "does not answer" in run.stdout


def test_search_finds_the_chapter_and_survives_any_query(study: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_text('Wenckebach second-degree AV block\nP-R "quoted\nR/S > 1 AND (\n*:*\n+-&&\n')
    run = run_cli("search", "--file", str(queries), "-C", str(study), "-k", "3")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 5
    hits = json.loads(lines[0])["hits"]
    assert len(hits) == 3
    assert hits[0]["path"] == "03-av-block.pdf"


def test_show_traces_a_score_to_the_page(study: Path) -> None:
    run = run_cli(
        "show", "scores", "--where", "metric=rougeL", "--where", "arm=extractive", "--trace",
        "-n", "1", "-C", str(study),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    for word in ("score", "answer", "question", "shown", ".pdf, page"):
        assert word in run.stdout
    assert "page.pdf" in run_cli("show", "documents", "-C", str(study)).stdout


def test_status_says_done_and_what_an_edit_makes_stale(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    lines = (copy / "questions.jsonl").read_text().splitlines(keepends=True)
    (copy / "questions.jsonl").write_text("".join(lines[:-1]))
    run = run_cli("status", "--json", "-C", str(copy))
    states = {row["step"]: row["state"] for row in json.loads(run.stdout)["steps"]}
    assert states["documents"] == "done"
    assert states["questions"] == "edited"
    assert states["answers/base"] == "stale" or states["training/base"] == "stale"
    assert states["report"] == "waiting"


def test_a_torn_table_is_named_with_its_line(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    with (copy / "passages.jsonl").open("a") as file:
        file.write('{"passage_id": 5}\n')
    run = run_cli("run", "-C", str(copy))
    assert run.returncode == 1
    assert "passages.jsonl, line" in run.stderr
    assert "Traceback" not in run.stderr


def test_manifests_name_versions_and_no_host_was_contacted(study: Path) -> None:
    for path in (study / "manifests").rglob("*.json"):
        manifest = json.loads(path.read_text())
        assert manifest["hosts"] == []
        assert manifest["packages"]["torch"]
