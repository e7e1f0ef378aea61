"""The demo from a built wheel, in a network namespace without a route; an attempt to leave."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2"
    ),
]


def quiet(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command where the only network is this machine's loopback."""
    script = 'ip link set lo up && exec "$@"'
    return subprocess.run(
        ["unshare", "-n", "bash", "-c", script, "bash", *command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a built wheel holds it, unpacked: no file of the repository is in reach."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(place), str(ROOT)], check=True)
    (built,) = place.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(place / "lib"), str(built)], check=True
    )
    return place / "lib"


def test_the_demo_runs_from_a_wheel_without_a_route(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    run = quiet(
        [sys.executable, "-P", "-m", "ecg_llm.cli", "demo", str(folder)], PYTHONPATH=str(wheel)
    )
    assert run.returncode == 0, run.stderr
    assert "Report: " in run.stdout
    assert "handbook/test_seen" in run.stdout
    assert "refused" not in run.stderr
    report = (folder / "report" / "index.html").read_text()
    assert "not a medical device" in report.lower()
    manifest = json.loads((folder / "manifests" / "answers" / "tuned+rag.json").read_text())
    assert manifest["hosts"] == []


def test_an_attempt_to_leave_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "spy.py").write_text(
        textwrap.dedent("""
            import socket
            from ecg_llm.contracts import Page, Reading

            class Engine:
                name, version = "spy", "1"
                def read(self, path, password=""):
                    with socket.socket() as connection:
                        connection.settimeout(2)
                        connection.connect(("198.51.100.7", 443))
                    return Reading((Page("text"),))
        """)
    )
    study = tmp_path / "study"
    (study / "literature").mkdir(parents=True)
    shutil.copy(
        ROOT / "src" / "ecg_llm" / "demo" / "handbook" / "03-av-block.pdf", study / "literature"
    )
    (study / "study.yaml").write_text("documents: {engine: 'spy:Engine'}")
    run = quiet(
        [sys.executable, "-m", "ecg_llm.cli", "run", "-C", str(study)], PYTHONPATH=str(tmp_path)
    )
    assert run.returncode == 1
    shown = subprocess.run(
        [sys.executable, "-m", "ecg_llm.cli", "documents", "--json", "-C", str(study)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = run.stderr + shown.stdout
    assert "198.51.100.7" in said
    assert "EgressError" in said or "refused" in said
