"""The benchmark for a GPU, at a toy's size on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_gpu_benchmark_ends_with_its_three_trainings(tmp_path: Path) -> None:
    parts = ["published", "ours", "trl", "output_layer"]
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "train_gpu.py"), "--toy", "--out", str(tmp_path)]
        + [word for part in parts for word in ("--only", part)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    rows = (tmp_path / "train_gpu_toy.md").read_text("utf-8").splitlines()
    for start in ("| (a) published", "| (b) TRL", "| (c) ours, as planned"):
        (row, *_) = [row for row in rows if row.startswith(start)]
        assert float(row.split("|")[2].replace(",", "")) > 0
    found = json.loads((tmp_path / "train_gpu_toy.json").read_text("utf-8"))["parts"]
    assert found["output_layer"]["packed"] < 1e-3
    assert found["output_layer"]["padded"] < 1e-3
    assert found["output_layer"]["trl"].startswith("refuses")
