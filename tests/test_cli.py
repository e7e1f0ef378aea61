"""The command line: quick to start, one sentence an error, exit codes that scripts can trust."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import run_cli as ecg

from ecg_llm.commands import init


def test_importing_and_help_load_no_heavy_library() -> None:
    code = "import sys; sys.argv=['ecg-llm']; import ecg_llm, ecg_llm.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"torch", "transformers", "numpy", "lancedb", "matplotlib", "openai", "trl", "yaml"}
    assert not heavy & set(loaded)


def test_help_makes_nothing(tmp_path: Path) -> None:
    for arguments in ((), ("run",), ("rate",), ("scores",)):
        run = subprocess.run(
            [sys.executable, "-m", "ecg_llm.cli", *arguments, "--help"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0
        assert "Usage" in run.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("answers: {kk: 10}", 'unknown key answers.kk; did you mean "k"?'),
        ("models: {base: {kind: nano, hiden: 64}}", 'did you mean "hidden"?'),
        ("models: {base: {kind: nanno}}", "models.base"),
        ("arms: {a: {model: bass}}\nmodels: {base: {kind: nano}}", 'did you mean "base"?'),
        ("answers: [", "is not valid YAML"),
        ("- a", "must hold keys and values"),
        ("answers: {k: many}", "answers.k"),
        ("documents: {engine: litparse}\nliterature: lit", 'did you mean "liteparse"?'),
    ],
)
def test_a_bad_study_is_one_sentence_and_exit_code_2(tmp_path: Path, yaml: str, said: str) -> None:
    (tmp_path / "study.yaml").write_text(yaml)
    (tmp_path / "lit").mkdir()
    (tmp_path / "lit" / "a.pdf").write_bytes(b"%PDF-1.4")
    run = ecg("run", "-C", str(tmp_path))
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_no_study_and_no_literature_say_what_to_do(tmp_path: Path) -> None:
    run = ecg("run", "-C", str(tmp_path))
    assert run.returncode == 2
    assert "ecg-llm init" in run.stderr
    assert ecg("init", str(tmp_path / "new")).returncode == 0
    (tmp_path / "new" / "literature").rmdir()
    run = ecg("documents", "-C", str(tmp_path / "new"))
    assert run.returncode == 1
    assert "There is no folder" in run.stderr


def test_an_empty_literature_folder_is_said(tmp_path: Path) -> None:
    assert ecg("init", str(tmp_path / "new")).returncode == 0
    run = ecg("run", "-C", str(tmp_path / "new"))
    assert run.returncode == 1
    assert "holds no documents" in run.stderr
    (tmp_path / "new" / "literature" / "a.pdf").write_bytes(b"\x89PNG\r\n")
    run = ecg("run", "-C", str(tmp_path / "new"))
    assert run.returncode == 1
    assert "None of the 1 files" in run.stderr
    assert "not_a_pdf" in ecg("show", "documents", "-C", str(tmp_path / "new")).stdout
    run = ecg("documents", "-C", str(tmp_path / "new"))
    assert run.returncode == 1
    assert "a.pdf" in run.stdout
    assert "PNG" in ecg("show", "documents", "-C", str(tmp_path / "new")).stdout


def test_documents_name_every_file_and_page_not_read_and_what_to_do(tmp_path: Path) -> None:
    from reportlab.pdfgen.canvas import Canvas

    assert ecg("init", str(tmp_path / "s")).returncode == 0
    folder = tmp_path / "s" / "literature"
    (folder / "picture.pdf").write_bytes(b"\x89PNG\r\n")
    canvas = Canvas(str(folder / "paper.pdf"))
    canvas.drawString(72, 700, "The P wave lasts less than 120 ms in healthy adults.")
    canvas.showPage()
    canvas.showPage()
    canvas.drawString(72, 700, "References")
    canvas.drawString(72, 650, "[1] Wave A. The first of all the waves of the heart. Heart 2001.")
    canvas.save()
    run = ecg("documents", "-C", str(tmp_path / "s"), "--json")
    assert run.returncode == 0
    found = json.loads(run.stdout)
    assert (found["read"], found["failed"]) == (1, 1)
    assert [(line["path"], line["page"], line["reason"]) for line in found["not_read"]] == [
        ("picture.pdf", None, "not_a_pdf"), ("paper.pdf", 2, "blank"),
    ]  # fmt: skip
    assert all(line["remedy"] for line in found["not_read"])
    shown = ecg("show", "documents", "--id", "paper.pdf", "-C", str(tmp_path / "s")).stdout
    assert "references, p. 3" in shown
    assert "heading 'References'" in shown
    pages = ecg("pages", "-C", str(tmp_path / "s"), "--json")
    assert json.loads(pages.stdout)["reason"] == {"-": 2, "blank": 1}


def test_a_password_is_named_in_no_error(tmp_path: Path) -> None:
    assert ecg("init", str(tmp_path / "s")).returncode == 0
    run = ecg(
        "documents", "-C", str(tmp_path / "s"), "--set", "documents.passwords={a.pdf: 19871224}"
    )
    assert run.returncode == 2
    assert "quotes" in run.stderr
    assert "19871224" not in run.stderr + run.stdout


def test_init_refuses_to_overwrite_and_checks_paths(tmp_path: Path) -> None:
    assert ecg("init", str(tmp_path)).returncode == 0
    again = ecg("init", str(tmp_path))
    assert again.returncode == 2
    assert "holds a study already" in again.stderr
    assert ecg("init", str(tmp_path / "b"), "--literature", "nowhere").returncode == 2
    assert ecg("init", str(tmp_path / "b"), "--questions", "nowhere.csv").returncode == 2
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("preset", [*init.PRESETS, "demo"])
def test_every_preset_is_a_study(tmp_path: Path, preset: str) -> None:
    made = init.make(tmp_path / "s", preset)
    assert (tmp_path / "s" / "study.yaml").exists()
    assert made


def test_unknown_step_table_and_set_are_usage_errors(tmp_path: Path) -> None:
    ecg("init", str(tmp_path / "s"))
    for arguments in (
        ("run", "--to", "anwsers"),
        ("show", "anwsers"),
        ("run", "--set", "answers"),
        ("run", "--set", "answers.kk=3"),
        ("run", "--limit", "0"),
        ("search",),
    ):
        run = ecg(*arguments, "-C", str(tmp_path / "s"))
        assert run.returncode == 2, arguments
        assert "Traceback" not in run.stderr


def test_status_and_plugins_as_json(tmp_path: Path) -> None:
    ecg("init", str(tmp_path / "s"))
    run = ecg("status", "--json", "-C", str(tmp_path / "s"))
    states = {row["step"]: row["state"] for row in json.loads(run.stdout)["steps"]}
    assert states["documents"] == "absent"
    assert states["answers/base"] == "waiting"
    assert "liteparse" in json.loads(ecg("plugins", "--json").stdout)["pdf"]
