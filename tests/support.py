"""What several tests need: the command as a process, and a small study of four chapters."""

import shutil
import subprocess
import sys
from pathlib import Path

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
answers: {k: 2, passage_tokens: 900, max_tokens_open: 8, max_tokens_choice: 6, limit: 5}
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
    (folder / "literature" / "page.pdf").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "study.yaml").write_text(STUDY)
    return folder
