"""What several tests need: the command as a process, and a small study of four chapters."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
HANDBOOK = ROOT / "src" / "ecg_llm" / "demo" / "handbook"
CHAPTERS = ("01-normal-ecg", "03-av-block", "10-chamber-enlargement", "12-recording-pacing")

CHAPTER = """\
# Blocks and rhythms

First-degree AV block is defined as a PR interval longer than 200 ms with conduction of every P \
wave to the ventricles. This delay is common. Marked first-degree AV block is a PR interval longer \
than 300 ms, and it can cause symptoms.

Mobitz type II block is defined as a sudden nonconducted P wave with constant PR intervals before \
and after the nonconducted P wave. A fusion beat is a hybrid QRS complex that results when a \
supraventricular and a ventricular impulse activate the ventricles together.

Junctional tachycardia is a junctional rhythm faster than 100 bpm. Bigeminy is a rhythm in which \
every second beat is premature. Ventricular fibrillation is a chaotic rhythm without discrete QRS \
complexes [12]. The rate of a ventricular escape rhythm is usually 20 to 40 bpm.

Unlike RBBB, LBBB is uncommon in people without heart disease. Isoproterenol should be avoided in \
congenital long QT syndrome. Biventricular hypertrophy is hard to recognize, because the opposite \
forces of the two ventricles may cancel each other.

The P wave lasts less than 120 ms. Atrial flutter runs at 300 bpm, sinus tachycardia at 150 bpm \
and the sinus node at rest at 60 bpm. A QRS complex of 140 ms is wide, and a QT interval of 480 ms \
is long.

- A list item is a thing in a list of things.

| Term | The table is a grid of cells with text. |
"""
"""What the model-free writer is asked about in several tests."""

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
