"""A small study, run once: four chapters of the handbook, every stage, a tiny nano model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import SHARED, make_study, run_cli

from ecg_llm.records import TABLES, Row
from ecg_llm.steps import read_table


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
