import sys
from pathlib import Path

import pytest
import torch

from ecg_llm.train import nano

sys.path.insert(0, str(Path(__file__).parent))  # for tiny_study, which is no test

import tiny_study as here


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads that wait for each other cost more than they bring on models this small."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "tiny"
    nano.build(here.TEXTS, here.TINY, out, seed=1)
    return out
