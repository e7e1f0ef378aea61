import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_study as here
import torch
from safetensors.torch import load_file
from support import make_study

import ecg_llm
from ecg_llm import store
from ecg_llm.config import Adapter
from ecg_llm.contracts import StepError, UsageError
from ecg_llm.records import Training
from ecg_llm.train import jobs, parity, tune

FSDP2 = Path(ecg_llm.__file__).parent / "configs" / "accelerate" / "fsdp2.yaml"
LAUNCHERS = {
    "whole": ("--multi_gpu", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
    "sharded": (f"--config_file={FSDP2}",),
}
"""Every process holds the whole model (DDP), or a part of every weight (FSDP2)."""
SETTINGS = Adapter(
    epochs=3, eval_steps=2, learning_rate=1e-3, precision="float32", packing=False, keep="loss",
    batch=8, save_steps=1,
)  # fmt: skip
JOBS = {
    "lora": SETTINGS,
    "full": SETTINGS.model_copy(update={"method": "full", "patience": 2, "learning_rate": 3e-2}),
    "phases": Adapter.model_validate(
        SETTINGS.model_dump() | {"method": "full", "pretrain": {"epochs": 1}}
    ),
    "packed": SETTINGS.model_copy(
        update={"method": "dora", "packing": True, "checkpointing": True, "micro_batch": 1}
    ),
}
TRAIN = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny_study as here
from ecg_llm.config import Adapter
from ecg_llm.train import parallel, parity, tune

if parallel.sharded():
    # accelerate shards on accelerators only: so the CPU is declared to be one.
    import torch
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))

def command():
    base, out, kill, *jobs = sys.argv[1:]
    parity.COUNT = parity.MAX_TOKENS = 4
    def progress(done, total):
        print("at step", done)
        if done == int(kill):
            os.kill(os.getpid(), signal.SIGKILL)
    for job in jobs:
        name, settings = job.split("=", 1)
        tune.tune(base, "", here.material(), Adapter.model_validate_json(settings),
            Path(out) / name, seed=3, progress=progress)

parallel.run(command) if parallel.processes() > 1 else command()
"""
ROLES = """
import os, socket, sys
from ecg_llm import privacy
from ecg_llm.contracts import EgressError
from ecg_llm.train import parallel

parallel.GRACE = 0

def work(word, own="silent"):
    said = parallel.first(lambda: own)
    parallel.wait()
    with parallel.alone():
        assert parallel.processes() == 1 and parallel.leads() and "RANK" not in os.environ
    try:
        socket.getaddrinfo("example.org", 443)
        guarded = "no"
    except EgressError:
        guarded = os.environ["HF_HUB_OFFLINE"]
    print(parallel.processes(), parallel.leads(), word, own, said, guarded)

def command():
    with privacy.guard([]):
        parallel.together(work, {"word": "shared"}, {"own": "spoken"})
        parallel.together(work, {"word": sys.argv[1]}, {})
    sys.exit(int(sys.argv[2]))

parallel.run(command)
"""


NEVER = -1
"""Step at which the first process is not killed."""


def in_two_processes(code: str, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    ended = [(process, *process.communicate(timeout=60)) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, out, err)
        for process, out, err in ended
    ]


def launch(options: Sequence[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=2", *options]
    return subprocess.run(
        [*command, "--main_process_port=0", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def rows_of(folder: Path) -> list[Training]:
    return store.read(folder / jobs.ROWS, Training)


def assert_same(one: Path, two: Path, atol: float = 1e-4) -> None:
    """The same training but for the order of sums, which moves a weight by no more than `atol`."""
    rows, others = rows_of(one), rows_of(two)
    losses = [number for row in rows for number in (row.loss, row.eval_loss) if number is not None]
    again = [number for row in others for number in (row.loss, row.eval_loss) if number is not None]
    assert again == pytest.approx(losses, rel=1e-4)
    without = {"loss": None, "eval_loss": None}
    assert [row.model_copy(update=without) for row in others] == [
        row.model_copy(update=without) for row in rows
    ]
    (file,) = one.glob("*.safetensors")
    torch.testing.assert_close(load_file(two / file.name), load_file(file), rtol=1e-3, atol=atol)


def test_processes_share_jobs_and_only_the_first_speaks() -> None:
    first, second = in_two_processes(ROLES, "again", "0")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout == "2 True shared spoken spoken 1\n2 True again silent silent 1\n"
    assert second.stdout == "2 False shared silent spoken 1\n2 False again silent silent 1\n"


@pytest.mark.slow
def test_a_command_that_fails_ends_every_process() -> None:
    first, second = in_two_processes(ROLES, "again", "2")
    assert first.returncode == 2
    assert second.returncode != 0


def test_what_cannot_be_sharded_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Adapter(targets=("q_proj", "lm_head"))
    tune.trainable(str(tiny), "", settings, "tuned", 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="leave lm_head out"):
        tune.trainable(str(tiny), "", settings, "tuned", 1)
    with pytest.raises(UsageError, match="take adamw_torch_fused"):
        tune.check_settings(Adapter(optimizer="paged_adamw_32bit"), "tuned")


def test_where_memory_runs_out_in_one_process_the_next_run_computes_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> list[Training]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tune, "_train", full)
    monkeypatch.setenv("WORLD_SIZE", "2")
    store.write_json(tmp_path / "plan.json", {"micro_batch": 8})
    with pytest.raises(StepError, match="run again"):
        tune._attempt(
            base="", revision="", weights="", material=here.material(), settings=SETTINGS,
            place=tmp_path, seed=1, name="tuned",
        )  # fmt: skip
    assert here.read(tmp_path / tune.FIT) == {"micro_batch": 4}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("script") / "train.py"
    place.write_text(TRAIN)
    return place


@pytest.fixture(scope="module")
def alone(tiny: Path, script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JOBS, trained in one process."""
    out = tmp_path_factory.mktemp("alone")
    listed = [f"{name}={settings.model_dump_json()}" for name, settings in JOBS.items()]
    run = here.in_a_process(script.read_text(), tiny, out, NEVER, *listed)
    assert run.returncode == 0, run.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_as_one(
    launcher: str, tiny: Path, script: Path, alone: Path, tmp_path: Path
) -> None:
    listed = [f"{name}={settings.model_dump_json()}" for name, settings in JOBS.items()]
    run = launch(LAUNCHERS[launcher], script, tiny, tmp_path, NEVER, *listed)
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(JOBS)
    for name in JOBS:
        one, two = alone / name, tmp_path / name
        assert_same(one, two)
        assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
        assert len(list((two / "runs").iterdir())) == 1, "a second process has written"
        for file in (tune.RECORD, "adapter_config.json", "config.json"):
            if (one / file).exists():
                assert (one / file).read_bytes() == (two / file).read_bytes()
        trained, again = parity.read(one), parity.read(two)
        assert trained is not None
        assert again is not None
        assert parity.compare(trained, again).ok


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_training_goes_on_after_the_first_process_was_killed(
    launcher: str, tiny: Path, script: Path, alone: Path, tmp_path: Path
) -> None:
    job = f"lora={SETTINGS.model_dump_json()}"
    killed = launch(LAUNCHERS[launcher], script, tiny, tmp_path, 6, job)
    assert killed.returncode != 0
    assert not (tmp_path / "lora").exists()
    if launcher == "sharded":
        other = shutil.copytree(tmp_path, tmp_path.with_name("other"))
        with pytest.raises(UsageError, match="of a training under FSDP"):
            tune.tune(tiny, "", here.material(), SETTINGS, other / "lora", seed=3)
    again = launch(LAUNCHERS[launcher], script, tiny, tmp_path, NEVER, job)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split()[:3] == ["at", "step", "5"]
    assert_same(alone / "lora", tmp_path / "lora")


@pytest.mark.slow
def test_a_study_is_trained_as_by_one_process(tmp_path: Path, study: Path) -> None:
    folder = make_study(tmp_path / "study")
    run = launch(LAUNCHERS["whole"], "-m", "ecg_llm.cli", "train", "-C", folder)
    assert run.returncode == 0, run.stderr
    assert "parallel_mode" not in run.stderr, "the nano model is trained without a remark"
    for table in ("passages", "questions"):
        name = f"{table}.jsonl"
        assert (folder / name).read_bytes() == (study / name).read_bytes()
    alone, led = (
        store.read(place / "parts/training/base.jsonl", Training) for place in (study, folder)
    )
    # A launcher gives each process one thread, and threads sum in another order.
    assert [row.loss for row in led] == pytest.approx([row.loss for row in alone], rel=1e-3)
    # In bfloat16, where the machine has it, the sign of a small gradient may turn for a step.
    assert_same(study / "adapters" / "tuned", folder / "adapters" / "tuned", atol=1e-3)


@pytest.mark.slow
def test_a_wrong_setting_is_said_once_and_ends_all(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study")
    settings = ["--set", "adapters.tuned.targets=[nowhere]"]
    run = launch(LAUNCHERS["whole"], "-m", "ecg_llm.cli", "train", "-C", folder, *settings)
    assert run.returncode != 0
    assert run.stderr.count("has no layers named nowhere") == 1
