"""A study so small that training takes a second; for tests and the processes they kill."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecg_llm.config import NanoModelConfig
from ecg_llm.records import Question
from ecg_llm.train import template
from ecg_llm.train.tune import Material

TEXTS = [
    f"A PR interval longer than {200 + i} ms means first-degree AV block in patient group {i}. "
    f"The QRS complex shows the depolarization of the ventricles and lasts less than {100 + i} ms."
    for i in range(40)
]
TINY = NanoModelConfig(
    kind="nano", hidden=64, layers=2, heads=2, vocabulary=400, context=512, tokens=12_000
)


def choice(i: int, split: str = "train") -> Question:
    return Question.model_validate(
        {
            "question_id": f"q{i:03}",
            "set": "written",
            "kind": "choice",
            "question": f"How long is the PR interval in patient group {i}?",
            "options": [f"{200 + i} ms", f"{100 + i} ms", "10 ms", "2 s"],
            "answer": "ABCD"[i % 4],
            "reference": f"{200 + i} ms",
            "split": split,
        }
    )


def open_question(i: int, reference: str = "It means first-degree AV block.") -> Question:
    return Question(
        question_id=f"o{i:03}",
        set="written",
        kind="open",
        question=f"What does a PR interval of {200 + i} ms mean?",
        reference=reference,
        split="train",
    )


TRAIN = [choice(i) for i in range(16)] + [open_question(i) for i in range(8)]
VAL = [choice(i, "val") for i in range(20, 26)]


def material(train: Sequence[Question] = (), val: Sequence[Question] | None = None) -> Material:
    """Return what an adapter learns from, by default TRAIN and VAL."""
    held_out = VAL if val is None else val
    return Material(
        [template.example(question) for question in train or TRAIN],
        [template.example(question) for question in held_out],
        [question for question in held_out if question.kind == "choice"],
        texts=TEXTS,
    )


def in_a_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code that may use this module's names as `here`, with `sys.argv[1:]` the arguments."""
    folder = str(Path(__file__).parent)
    start = f"import sys; sys.path.insert(0, {folder!r}); import tiny_study as here\n"
    return subprocess.run(
        [sys.executable, "-c", start + code, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value
