"""The house: the README's tree is the disk, imports go one way, nothing private is committed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [str(script), "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_readme_and_the_reference_are_what_the_code_says() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_every_module_states_its_one_job() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        first = path.read_text("utf-8").split("\n")[0]
        assert first.startswith('"""'), path
        assert len(first) > 20, path


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("corpus/clean.py", "import ecg_llm.score.choice"),
        ("steps.py", "import ecg_llm.corpus.clean"),
        ("records.py", "import ecg_llm.store"),
        ("stats/estimate.py", "import ecg_llm.report.report"),
    ],
)
def test_an_import_against_the_direction_is_caught(tmp_path: Path, module: str, line: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    assert lint_imports(tmp_path).returncode == 0
    path = tmp_path / "src" / "ecg_llm" / module
    path.write_text(path.read_text("utf-8") + f"\n{line}\n", "utf-8")
    broken = lint_imports(tmp_path)
    assert broken.returncode == 1
    assert "BROKEN" in broken.stdout


def test_no_registry_and_no_path_of_a_machine_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    private = re.compile(
        "|".join(["py" + "pi[.]org", "python" + "hosted[.]org", "npm" + "js[.]org"])
        + r"|/(home|root|Users)/\w"
    )
    for name in listed:
        path = ROOT / name
        if path.suffix in (".pdf", ".png") or not path.is_file():
            continue
        found = private.search(path.read_text("utf-8", errors="replace"))
        assert not found, f"{name}: {found and found.group()}"
