"""Training in several processes: the first runs the command, the others share its jobs."""

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ecg_llm import privacy

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch.distributed import ProcessGroup

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_FSDP")
"""Variables by which a launcher tells a process its place."""
PATIENCE = timedelta(days=30)
"""How long the others wait for the first: it may read documents for hours before it trains."""
GRACE = 20.0
"""Seconds that a process which failed leaves the first to say why, and the launcher to end all."""
T = TypeVar("T")


def processes() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Return whether this process is the first, which alone writes files and speaks."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


def sharded() -> bool:
    """Return whether the weights in training are dealt out over the processes (FSDP)."""
    return processes() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def run(command: Callable[[], None]) -> None:
    """Run the command in the first process; in the others what it gives to `together`.

    The others end when it ends well. When a process fails the launcher ends all of them.
    """
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _waiting_room()
    if leads():
        try:
            command()
        except BaseException as end:
            if not isinstance(end, SystemExit) or end.code:
                # Its threads must not outlive Python. NCCL's end would wait for the others.
                dist.destroy_process_group(_waiting_room() if cuda else None)
                raise
        _from_first(None)
    else:
        try:
            _follow()
        except BaseException:
            time.sleep(GRACE)
            raise
    dist.destroy_process_group()


def _follow() -> None:
    """Take part in every job that the first process gives out, until there is no more."""
    while job := _from_first(None):
        environment, work, shared = job
        os.environ |= environment
        privacy.guard_worker()
        work(**shared)


def together(work: Callable[..., T], shared: Mapping[str, Any], own: Mapping[str, Any]) -> T:
    """Call `work` in every process and return the result of the first.

    `shared` are its arguments everywhere, which can be pickled; `own` come on top in the first.
    """
    if processes() > 1:
        guarded = (privacy.VARIABLE, *privacy.OFFLINE, *privacy.QUIET)
        environment = {name: os.environ[name] for name in guarded if name in os.environ}
        _from_first((environment, work, dict(shared)))
    return work(**shared, **own)


@contextmanager
def alone() -> Iterator[None]:
    """Train in the first process by itself, as if it had been started without the others."""
    before = {name: os.environ.pop(name) for name in LAUNCHED if name in os.environ}
    try:
        yield
    finally:
        os.environ |= before


def first(make: Callable[[], T]) -> T:
    """Return in every process what `make` returns in the first; the others do not call it."""
    if processes() == 1:
        return make()
    return cast("T", _from_first(make() if leads() else None))


def wait() -> None:
    """Return once every process has come here."""
    if processes() > 1:
        import torch.distributed as dist

        dist.barrier(group=_waiting_room())


def trained(model: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """Return the weights in training by name, on the CPU; every process calls it.

    They are whole in the first process, and none in the others.
    """
    found = {}
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            full = weights.full_tensor() if hasattr(weights, "full_tensor") else weights
            if leads():
                found[name] = full.detach().cpu().contiguous()
    return found


def put(model: "torch.nn.Module", weights: "Mapping[str, torch.Tensor]") -> None:
    """Give a model its weights in training, by name; every process holds all of them."""
    import torch
    from torch.distributed.tensor import DTensor, distribute_tensor

    _deal_out(model)
    with torch.no_grad():
        for name, held in model.named_parameters():
            if held.requires_grad:
                given = weights[name].to(held.device, held.dtype)
                if isinstance(held, DTensor):
                    given = distribute_tensor(given, held.device_mesh, held.placements)
                held.copy_(given)


def settle(accelerator: "Accelerator", model: "torch.nn.Module") -> None:
    """Let accelerate shard the model as training needs it, before it does so.

    Gradients are summed over the processes in float32, as over the micro-batches. A model that a
    phase before has sharded stays as it is.
    """
    import torch
    from torch.distributed.fsdp import FSDPModule

    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32
        )
    if isinstance(model, FSDPModule):
        plugin.auto_wrap_policy = None
        _deal_out(model)


def _deal_out(model: "torch.nn.Module") -> None:
    """Drop what is gathered of sharded weights at the moment, so that only the parts are left."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@functools.cache
def _waiting_room() -> "ProcessGroup":
    """Return the group in which processes wait without a limit for each other, on the CPU."""
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=PATIENCE)


def _from_first(value: Any) -> Any:
    """Return in every process the value that the first has."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, group=_waiting_room())
    return box[0]
