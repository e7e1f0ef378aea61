"""A small study, run once: four chapters of the handbook, every stage, a tiny nano model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecg_llm.records import TABLES, Row
from ecg_llm.steps import read_table

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
HANDBOOK = ROOT / "src" / "ecg_llm" / "demo" / "handbook"
CHAPTERS = ("01-normal-ecg", "03-av-block", "10-chamber-enlargement", "12-recording-pacing")

STUDY = """
title: A small study
questions:
  per_window: 2
  window: 256
  split: {train: 0.8, val: ["10-*.pdf"], test: ["12-*.pdf"], seen: 0.2}
  imports: [{path: handbook, name: handbook, split: test_seen}]
models:
  base: {kind: nano, hidden: 64, layers: 2, heads: 2, vocabulary: 600, tokens: 6000}
  extracts: {kind: extractive}
adapters:
  tuned: {model: base, rank: 4, epochs: 1, batch: 4}
arms:
  base: {model: base}
  tuned+rag: {model: base, adapter: tuned, retrieve: true}
  extractive: {model: extracts, retrieve: true}
answers: {k: 2, passage_tokens: 300, max_tokens_open: 8, max_tokens_choice: 6, limit: 5}
estimates: {resamples: 1000}
"""


def run_cli(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as a user does: in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ecg_llm.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def make_study(folder: Path) -> Path:
    """Make the small study's folder, not yet run."""
    (folder / "literature").mkdir(parents=True)
    for chapter in CHAPTERS:
        shutil.copy(HANDBOOK / f"{chapter}.pdf", folder / "literature")
    (folder / "literature" / "page.pdf").write_text("<html>not a PDF</html>")
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, run to its report; tests must not change it."""
    folder = make_study(tmp_path_factory.mktemp("study") / "small")
    run = run_cli("run", "-C", str(folder), "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["report"].endswith("index.html")
    return folder


@pytest.fixture(scope="session")
def rows(study: Path) -> Callable[[type[Any]], list[Any]]:
    """Give the rows of a table of the small study."""

    def read(row: type[Row]) -> list[Row]:
        return read_table(study / f"{row.table}.jsonl", TABLES[row.table])

    return read


@pytest.fixture
def shared() -> Path:
    """The folder of real inputs beside the repository; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, which this machine does not have")
    return SHARED
