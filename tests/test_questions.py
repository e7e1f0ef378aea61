"""Questions as a user meets them: preview, run, sheet out and back in, splits that stay."""

import json
import re
import shutil
from pathlib import Path

import openpyxl
import pytest
from support import HANDBOOK, run_cli

from ecg_llm import config, endpoints, pipeline, prompt, steps
from ecg_llm.commands import questions as asked
from ecg_llm.commands import show
from ecg_llm.contracts import StepError, UsageError
from ecg_llm.records import Check, Draft, Overlap, Placement, Question, Revision
from ecg_llm.steps import read_table
from ecg_llm.testing import FakeServer

STUDY = """
documents:
  tags: {{essential: ["01-*"], special: ["03-*", "12-*"]}}
questions:
  writer: llm
  model: [server, other]
  window: 512
  joined: 0.3
  checks: {{model: server}}
  split: {{tags: {{essential: train}}, test: ["12-*"]}}
  imports: [{{path: handbook, name: handbook}}]
models:
  server: {{kind: api, base_url: "{one}", model: fake, price_in: 1000}}
  other: {{kind: api, base_url: "{two}", model: fake, revision: second, price_in: 1000}}
"""


def reply(messages, body):
    """Write questions by the plan, confirm most of them, and guess letters by their place."""
    text = messages[-1]["content"]
    if '"verdict"' in text:
        verdict = "unsupported" if "bundle branch" in text.split("Answer:")[-1] else "supported"
        return json.dumps({"why": "It says so.", "verdict": verdict})
    if "<<<TEXT" not in text:
        return json.dumps({"answer": "B"})
    source, lines = text.split("<<<TEXT")[1], re.findall(r"^\d+\. from .*", text, re.MULTILINE)
    found = re.findall(r"(?<=\. )[A-Z][^.#|:;\n]{40,160}\.(?= )", source)
    items = []
    for line, sentence in zip(lines, found, strict=False):
        kind, level = re.search(r"type (\w+), difficulty (\w+)", line).groups()
        items.append({
            "type": kind, "difficulty": level, "answer": sentence, "evidence": sentence,
            "question": f"What is true of {' '.join(sentence.split()[:7]).rstrip(',')}?",
        })  # fmt: skip
        if "distractors" in text:
            items[-1]["distractors"] = [f"{a} {sentence[:-1]}" for a in ("Not", "Never", "Hardly")]
    return json.dumps({"questions": items})


@pytest.fixture(scope="module")
def servers():
    with FakeServer(reply) as one, FakeServer(reply) as two:
        yield one, two


def make(folder, to="contamination", retry=False):
    settings = config.load(folder)
    models = pipeline.Models(settings, folder)
    bound = steps.bind(folder, pipeline.study_steps(settings, folder, models))
    return {name: steps.run(bound, name, retry=retry) for name in steps.needed(bound, to)}


def table(folder, row):
    return read_table(folder / f"{row.table}.jsonl", row)


def unmade(folder, servers):
    (folder / "literature").mkdir(parents=True)
    for chapter in ("01-normal-ecg", "03-av-block", "12-recording-pacing"):
        shutil.copy(HANDBOOK / f"{chapter}.pdf", folder / "literature")
    one, two = (server.base_url for server in servers)
    (folder / "study.yaml").write_text(STUDY.format(one=one, two=two))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, servers):
    """The study with its questions; tests must not change it."""
    folder = unmade(tmp_path_factory.mktemp("questions") / "study", servers)
    make(folder)
    return folder


@pytest.fixture
def study(made, tmp_path):
    """A copy to change."""
    return Path(shutil.copytree(made, tmp_path / "study"))


def test_what_a_model_wrote_is_checked_placed_and_counted(made):
    study = made
    drafts, questions = table(study, Draft), table(study, Question)
    assert {draft.model for draft in drafts} == {"fake", "fake@second"}
    assert all(draft.plan for draft in drafts)
    written = [row for row in questions if row.set == "written"]
    kept = [row for row in written if row.status == "kept"]
    assert len(kept) > 30
    assert {(row.type, row.difficulty) for row in kept} >= {("fact", "easy")}
    assert len({row.type for row in kept}) == 7
    assert any(row.reason == "not_confirmed" for row in written)
    assert not any("solved_options_only" in row.flags for row in kept)
    checked = table(study, Check)
    looked_at = {row.question_id for row in checked}
    later = ("not_confirmed", "repeats_import", "near_duplicate_of_train", "shared_evidence")
    assert looked_at == {row.question_id for row in written if row.reason in ("", *later)}
    sides = {row.doc_id: row for row in table(study, Placement)}
    for row in questions:
        if row.doc_id and row.split in ("train", "val", "test"):
            assert sides[row.doc_id].split == row.split
        if row.split == "test_seen" and row.doc_id:
            assert sides[row.doc_id].split in ("train", "val")
    assert {"tag essential", "pinned"} <= {row.why for row in sides.values()}
    special = show.find(study, "questions", "", ["tags=special"])
    assert {row.key for row in special} == {row.key for row in questions if "special" in row.tags}
    subsets = {name for row in questions for name in row.subsets}
    assert {"special/test", "essential/test_seen", "handbook/test_seen"} <= subsets
    tested = {row.question_id for row in questions if row.split in ("test", "test_seen")}
    assert {row.question_id for row in table(study, Overlap)} <= tested


@pytest.mark.slow
def test_a_preview_keeps_nothing_but_replies_and_tells_what_all_would_take(tmp_path, servers):
    study = unmade(tmp_path / "study", servers)
    shown = run_cli("questions", "--preview", "2", "-C", str(study))
    assert shown.returncode == 0, shown.stderr
    assert "evidence: " in shown.stdout
    assert re.search(r"The study has \d+ windows", shown.stderr)
    assert re.search(r"about [\d,]+ requests, [\d,]+ tokens, cost [\d,.]+", shown.stderr)
    assert not (study / "drafts.jsonl").exists()
    before = sum(len(server.requests) for server in servers)
    again = run_cli("questions", "--preview", "2", "-C", str(study), "--json")
    figures = json.loads(again.stdout)
    assert sum(len(server.requests) for server in servers) == before
    assert len(figures["samples"]) == 2
    make(study, "drafts")
    drafts = table(study, Draft)
    assert figures["requests"] == pytest.approx(len(drafts), rel=0.2)
    asked_for = sum(len(server.requests) for server in servers) - before
    assert asked_for == len(drafts) - sum(len(s["drafts"]) for s in figures["samples"])


def test_an_expert_corrects_in_a_sheet_and_the_trail_says_who_changed_what(study):
    sheet = study / "for-experts.xlsx"
    asked.export(study, config.load(study), sheet, "", ["status=kept"])
    book = openpyxl.load_workbook(sheet)
    page = book.active
    columns = {cell.value: cell.column for cell in page[1]}

    def cell(row, name):
        return page.cell(row, columns[name])

    open_row = next(r for r in range(2, page.max_row) if cell(r, "kind").value == "open")
    ids = [cell(r, "question_id").value for r in (open_row, open_row + 1)]
    cell(open_row, "reference").value = "Corrected by an expert."
    cell(open_row + 1, "status").value = "dropped"
    book.save(sheet)
    back = run_cli("questions", "import", str(sheet), "--by", "Dr. Ada", "-C", str(study), "--json")
    assert back.returncode == 0, back.stderr
    assert {row["question_id"] for row in json.loads(back.stdout)["revisions"]} == set(ids)
    make(study)
    rows = {row.question_id: row for row in table(study, Question)}
    assert rows[ids[0]].reference == "Corrected by an expert."
    assert (rows[ids[0]].revision, rows[ids[0]].revised_by) == (1, "Dr. Ada")
    assert (rows[ids[1]].status, rows[ids[1]].reason) == ("dropped", "rejected")
    (trail,) = (study / "revisions").glob("*.jsonl")
    changed = {(row.question_id, row.column): row for row in read_table(trail, Revision)}
    assert changed[ids[0], "reference"].after == "Corrected by an expert."
    assert all(row.by == "Dr. Ada" and row.at for row in changed.values())
    # The same old sheet from somebody else, with another text, is a conflict and not lost work.
    cell(open_row, "reference").value = "Somebody else's."
    book.save(sheet)
    outcome = asked.bring_back(study, sheet, "Dr. Bob")
    assert any(ids[0] in problem and "Dr. Ada" in problem for problem in outcome.problems)
    assert not any(row.question_id == ids[0] for row in outcome.revisions)


@pytest.mark.slow
def test_a_new_paper_moves_no_document_and_no_question(study):
    before = {row.doc_id: row.split for row in table(study, Placement)}
    old = {row.question_id for row in table(study, Question)}
    shutil.copy(HANDBOOK / "07-supraventricular-rhythms.pdf", study / "literature")
    results = make(study)
    after = {row.doc_id: row.split for row in table(study, Placement)}
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    assert old <= {row.question_id for row in table(study, Question)}
    assert results["drafts"].state == "done"


def test_export_names_what_it_needs_and_import_without_a_name_is_refused(study):
    settings = config.load(study)
    with pytest.raises(UsageError, match=r"\.xlsx or \.csv"):
        asked.export(study, settings, study / "out", "", [])
    written = asked.export(study, settings, study / "out", "chat", ["status=kept"])
    assert any(Path(line.partition(":")[0]).name == "train.jsonl" for line in written)
    with pytest.raises(UsageError, match="--where"):
        asked.export(study, settings, study / "none.xlsx", "", ["kind=nothing"])
    (study / "mine.csv").write_text("an expert's work")
    with pytest.raises(UsageError, match="there already"):
        asked.export(study, settings, study / "mine.csv", "", [])
    assert (study / "mine.csv").read_text() == "an expert's work"
    with pytest.raises(UsageError, match="--by"):
        asked.bring_back(study, study / "sheet.xlsx", " ")


def test_prompts_and_settings_that_the_writer_heeds_make_drafts_stale(made, monkeypatch):
    def state(*changes):
        settings = config.load(made, changes)
        models = pipeline.Models(settings, made)
        bound = steps.bind(made, pipeline.study_steps(settings, made, models))
        return steps.states(bound)

    assert state()["drafts"] == state()["questions"] == "done"
    assert state("questions.difficulties=[hard]")["drafts"] == "stale"
    assert state("questions.checks.passes=[grounded]")["drafts"] == "done"
    assert state("models.server.concurrency=9")["checks"] == "done"
    read = prompt.template
    monkeypatch.setattr(
        prompt, "template", lambda name: read(name) + "!" * (name == "check_grounded")
    )
    assert state()["drafts"] == "done"
    assert state()["checks"] == "stale"
    monkeypatch.setattr(prompt, "template", lambda name: read(name) + "!" * (name == "write_open"))
    assert state()["drafts"] == "stale"


def test_sets_of_one_name_are_refused(tmp_path):
    for sets in ("[{path: a/dev.jsonl}, {path: b/dev.jsonl}]", "[{path: written.jsonl}]"):
        (tmp_path / "study.yaml").write_text(f"questions: {{imports: {sets}}}")
        with pytest.raises(UsageError, match="name"):
            config.load(tmp_path)


def test_a_server_that_fails_is_named_and_asked_again(tmp_path, monkeypatch):
    broken = {"on": True}

    def fault(number, body):
        return 500 if broken["on"] and number % 2 else ""

    with FakeServer(reply, fault=fault) as one, FakeServer(reply) as two:
        study = unmade(tmp_path / "study", (one, two))
        text = (study / "study.yaml").read_text().replace("  checks: {model: server}\n", "")
        (study / "study.yaml").write_text(text.replace("model: [server, other]", "model: server"))
        monkeypatch.setattr(endpoints, "RETRIES", 0)
        notes = make(study, "questions")["drafts"].notes
        failed = sum(draft.status == "error" for draft in table(study, Draft))
        assert 0 < failed < len(table(study, Draft))
        assert any(note.startswith(f"{failed} of ") and "--retry" in note for note in notes)
        reasons = {row.reason for row in table(study, Question) if row.set == "written"}
        assert "no_reply" in reasons
        broken["on"] = False
        assert not make(study, "drafts", retry=True)["drafts"].notes
        assert all(draft.status == "ok" for draft in table(study, Draft))
        broken["on"] = True
        one.fault = lambda number, body: 500
        (study / "cache.sqlite").unlink()
        (study / "manifests" / "drafts.json").unlink()
        with pytest.raises(StepError, match="run again"):
            make(study, "drafts")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{types: []}", "types"),
        ("{difficulties: []}", "difficulties"),
        ("{kinds: []}", "kinds"),
        ("{limit: 0}", "limit"),
        ("{imports: [{path: a.csv, limit: -1}]}", "limit"),
        ("{writer: llm, model: []}", "model"),
        ("{writer: llm, model: base}", "kind nano"),
        ("{checks: {model: extracts}}", "kind extractive"),
        ("{joined: 0.5}", "writer to llm"),
        ("{split: {train: 0.8, val: 0.8, test: -0.6}}", "between 0 and 1"),
        ("{split: {train: 0.8, val: 0.25, test: 0.25}}", "make 1.3"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_a_sentence(tmp_path, settings, said):
    models = "models: {base: {kind: nano}, extracts: {kind: extractive}}"
    (tmp_path / "study.yaml").write_text(f"{models}\nquestions: {settings}")
    with pytest.raises(UsageError, match=said):
        config.load(tmp_path)
