"""Real papers, a book, scans, German, Markdown and JATS go to a report without hand work."""

import json
from pathlib import Path

import pytest
from support import run_cli

from ecg_llm.records import Document, Passage, Question
from ecg_llm.steps import read_table

pytestmark = pytest.mark.slow

SMALLER = (
    "documents.ocr=never",
    "models.base={kind: nano, hidden: 64, layers: 2, heads: 2, vocabulary: 600, tokens: 6000}",
    "adapters.tuned={model: base, epochs: 1, rank: 4}",
    "answers.passage_tokens=900",
    "answers.max_tokens_open=8",
    "estimates.resamples=1000",
)


def test_a_folder_of_real_literature_becomes_a_report(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    made = run_cli(
        "init", str(folder), "--preset", "nano", "--literature", str(shared / "literature"),
        "--questions", f"{shared}/questions/all_mcq.jsonl,ecg=strict",
        "--questions", f"{shared}/questions/open_qa_ecg.jsonl",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    settings = [part for change in SMALLER for part in ("--set", change)]
    run = run_cli("run", "-C", str(folder), "--limit", "6", "--json", *settings)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["steps"][-1]["step"] == "report"
    documents = read_table(folder / "documents.jsonl", Document)
    assert len(documents) == len(list((shared / "literature").iterdir()))
    unread = {row.path: row.reason for row in documents if row.status not in ("ok", "partial")}
    assert set(unread) == {
        "cinc2008_0505_twa_SCAN.pdf", "cinc_2009_0557.pdf", "de_ekg_befundung_SCAN.pdf",
    }  # fmt: skip
    assert set(unread.values()) == {"scanned", "garbled"}
    assert {row.language for row in documents if row.doc_id and row.pages} >= {"en", "de"}
    for row in read_table(folder / "passages.jsonl", Passage):
        text = (folder / "texts" / f"{row.doc_id}.md").read_bytes().decode()
        assert text[row.start : row.end] == row.text
    questions = read_table(folder / "questions.jsonl", Question)
    strict = [row for row in questions if row.set == "all_mcq-strict"]
    assert sum(row.reason != "filtered" for row in strict) == 54
    report = (folder / "report" / "index.html").read_text()
    assert all(path in report for path in unread)
