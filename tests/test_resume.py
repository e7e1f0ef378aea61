"""A run that is killed with -9 goes on and ends with the same bytes; a full disk loses nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import make_study, run_cli

from ecg_llm.records import Latency
from ecg_llm.steps import read_table

pytestmark = pytest.mark.slow
TABLES = ("documents", "passages", "drafts", "questions", "retrieval", "training", "answers",
          "scores", "estimates")  # fmt: skip


def kill_when(folder: Path, pattern: str) -> bool:
    """Run the study and kill it with all its workers once a file of this name has rows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ecg_llm.cli", "run", "-C", str(folder)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None:
            if any(path.stat().st_size for path in folder.glob(pattern) if path.is_file()):
                os.killpg(process.pid, signal.SIGKILL)
                return True
            time.sleep(0.02)
        return False
    finally:
        process.wait()


def test_kills_in_the_middle_change_nothing(study: Path, tmp_path: Path) -> None:
    folder = make_study(tmp_path / "killed")
    for pattern in (
        "partial/documents-*.jsonl",
        "partial/questions-*.jsonl",
        "partial/training/*/model.partial/pretrain/checkpoint-*/trainer_state.json",
        "partial/answers/extractive-*.jsonl",
        "partial/scores-*.jsonl",
    ):
        kill_when(folder, pattern)
    run = run_cli("run", "-C", str(folder))
    assert run.returncode == 0, run.stderr
    for name in TABLES:
        ours, theirs = (base / f"{name}.jsonl" for base in (folder, study))
        assert ours.read_bytes() == theirs.read_bytes(), name
    ours, theirs = (read_table(base / "latencies.jsonl", Latency) for base in (folder, study))
    assert [row.key for row in ours] == [row.key for row in theirs]
    # How long answers took is the one thing in the report that no two runs agree in.
    shutil.copy(study / "latencies.jsonl", folder)
    report = "report/index.html"
    (folder / report).unlink()
    assert run_cli("report", "-C", str(folder)).returncode == 0
    assert (folder / report).read_bytes() == (study / report).read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a small disk")
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    place = tmp_path / "small-disk"
    place.mkdir()
    script = f"""
        set -e
        mount -t tmpfs -o size=600k tmpfs {place}
        cp -r {make_study(tmp_path / "original")}/. {place}
        run() {{ {sys.executable} -m ecg_llm.cli run --to questions -C {place}; }}
        if run; then exit 10; else code=$?; fi
        test $code = 1
        mount -o remount,size=200m {place}
        run
    """
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    run = subprocess.run(
        ["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "the disk is full" in run.stderr
    assert "Traceback" not in run.stderr
