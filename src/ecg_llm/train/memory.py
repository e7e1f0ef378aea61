"""How much memory a training job takes, and the micro-batch that fits."""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecg_llm import local
from ecg_llm.config import Adapter, NanoModelConfig
from ecg_llm.train import nano

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MARGIN = 0.9
"""Share of the free memory that a plan may fill: the rest is for what is not counted."""
NF4 = 0.5 + 4 / 64
"""Bytes of a weight in NF4: 4 bits, and a float32 scale for each block of 64 (Dettmers et al. 2023,
QLoRA, section 3; without the double quantisation that would bring the scale to 0.127 bits)."""
CUDA_CONTEXT = 600 * 2**20
"""What CUDA, cuBLAS and their workspaces take before the first tensor."""
LOSS_BYTES = 12
"""Bytes of a logit in backward: its softmax and two gradients in float32 (the 16-bit logit and its
float32 copy, which forward holds, take less)."""
ALLOCATOR = 1.4
"""Bytes that glibc's allocator may hold besides each byte of activations on a CPU: it gives freed
tensors back late and in pieces (measured on Linux: 0.3 for method full, 1.3 to 1.4 for lora)."""
SHORTEST = 128
"""Tokens of an example below which no shorter ones are advised."""
GIB = 2**30


class Linear(NamedTuple):
    """A linear layer: the name of its module, and its widths."""

    name: str
    inputs: int
    outputs: int
    copies: int = 1
    """How many of them stand in one array, as experts do."""

    @property
    def size(self) -> int:
        """Number of weights, the bias left out."""
        return self.inputs * self.outputs * self.copies


class Shape(NamedTuple):
    """What of a causal language model decides the memory of its training."""

    parameters: int
    """All, a matrix that is tied once."""
    embeddings: int
    """Parameters of the input embeddings."""
    output: Linear
    """The output layer; its weights are the embeddings' if `tied`."""
    linears: tuple[Linear, ...]
    """Linear layers inside the blocks that text passes."""
    experts: tuple[Linear, ...]
    """Layers of experts, one for each that a token uses; counted as in 16 bit."""
    adapted: tuple[Linear, ...]
    """What gets an adapter under all-linear. Of a mixture of experts that may be all experts of a
    block; PEFT takes two ranks for gate and up in one array, so they count as twice as many."""
    stacked: int
    """Weights of experts that get an adapter."""
    norms: int
    """Normalisations, over all blocks."""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    tied: bool
    fused: bool = True
    """Whether attention is computed without an array of its weights."""


class Machine(NamedTuple):
    """What a job runs on."""

    cuda: bool
    available: int
    """Bytes of each device."""
    devices: int = 1
    sharded: bool = False
    """Whether weights, gradients and states are dealt out over the devices (FSDP)."""


class Plan(NamedTuple):
    """How the steps of a job are cut, and the memory this takes with the longest examples."""

    micro_batch: int
    """Examples that a device computes at once."""
    accumulation: int
    """Micro-batches a step and device; the last may be smaller."""
    checkpointing: bool
    length: int
    """Tokens of an example, of the longest ones."""
    needed: int
    """Bytes."""
    available: int
    """Bytes."""
    parts: dict[str, int]
    """Bytes by part."""
    fits: bool
    remedies: tuple[str, ...] = ()
    """Changes of the settings that each make it fit, where it does not."""


def shape_of(path_or_id: str, revision: str = "main") -> Shape:
    """Return the shape of a causal language model, from its config alone.

    Raises:
        UsageError: not a causal language model, or not on this machine.
    """
    return shape_of_model(local.skeleton(path_or_id, revision))


def shape_of_nano(settings: NanoModelConfig) -> Shape:
    """Return the shape that a nano model of these settings will have."""
    import torch
    from transformers import LlamaForCausalLM

    architecture = nano.architecture(settings, settings.vocabulary)
    with torch.device("meta"):
        return shape_of_model(LlamaForCausalLM(architecture))


def shape_of_model(model: "PreTrainedModel") -> Shape:
    """Return the shape of a model, which may be on the meta device."""
    import torch
    from transformers.pytorch_utils import Conv1D

    settings = model.config.get_text_config()
    head = model.get_output_embeddings()
    beside = re.compile(local.beside_text(model) or "(?!)")
    linears, experts, stacked, norms, output = [], [], 0, 0, Linear("", 0, 0)
    used = getattr(settings, "num_experts_per_tok", None) or 1
    for name, module in model.named_modules():
        if beside.fullmatch(name):
            continue
        if isinstance(module, torch.nn.Linear | Conv1D):
            turned = isinstance(module, Conv1D)
            inputs, outputs = module.weight.shape if turned else reversed(module.weight.shape)
            layer = Linear(name, inputs, outputs)
            if module is head:
                output = layer
            else:
                linears.append(layer)
        norms += type(module).__name__.endswith("Norm")
        for weights in module.parameters(recurse=False):
            if weights.dim() == 3:  # (experts, outputs, inputs)
                experts += [Linear(name, weights.shape[2], weights.shape[1])] * used
                stacked += weights.numel()
    adapted = _adapted(model) if experts else tuple(linears)
    embeddings = model.get_input_embeddings().weight
    heads = getattr(settings, "num_attention_heads", None) or 1
    return Shape(
        parameters=sum(weights.numel() for weights in model.parameters()),
        embeddings=embeddings.numel(),
        output=output,
        linears=tuple(linears),
        experts=tuple(experts),
        adapted=adapted,
        stacked=stacked if any(layer.copies > 1 for layer in adapted) else 0,
        norms=norms,
        layers=settings.num_hidden_layers,
        hidden=settings.hidden_size,
        # What leads back from the inside of a block is the widest that any layer reads.
        intermediate=max((layer.inputs for layer in (*linears, *experts)), default=0),
        heads=heads,
        kv_heads=getattr(settings, "num_key_value_heads", None) or heads,
        vocabulary=embeddings.shape[0],
        context=local.context(model),
        tied=head is not None and head.weight is embeddings,
        fused=model.config._attn_implementation != "eager",
    )


def _adapted(model: "PreTrainedModel") -> tuple[Linear, ...]:
    """Return what PEFT adapts of a mixture of experts, as PEFT itself has it.

    It knows the experts of some architectures by name, and leaves those of others as they are.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    beside = local.beside_text(model) or None
    adapter = LoraConfig(
        r=1, target_modules="all-linear", exclude_modules=beside, task_type="CAUSAL_LM"
    )
    with local.quiet(), torch.device("meta"):
        tuned = get_peft_model(AutoModelForCausalLM.from_config(model.config), adapter)
    found = []
    for name, layer in tuned.base_model.model.named_modules():
        if factors := getattr(layer, "lora_A", None):
            first, second = (next(iter(f.values())).weight for f in (factors, layer.lora_B))
            name = name.replace(".base_layer", "")
            found.append(Linear(name, first.shape[1], second.shape[0], first.shape[0]))
    return tuple(found)


def estimate(
    shape: Shape,
    settings: Adapter,
    *,
    micro_batch: int,
    length: int,
    loss_tokens: int,
    checkpointing: bool,
    cuda: bool,
) -> dict[str, int]:
    """Return the bytes that training holds at its peak, by part.

    `micro_batch` examples of `length` tokens are computed at once, and `loss_tokens` of all their
    tokens reach the output layer. The parts add up; the peak is at the start of backward, or of a
    block's recomputation. Weights, gradients and states: Rajbhandari et al. 2020 (ZeRO), section 3;
    activations: what autograd keeps, counted as Korthikanti et al. 2022 (Reducing Activation
    Recomputation, section 4) do, for layers with gates, adapters and fused attention.
    """
    trained = trained_parameters(shape, settings)
    full = settings.method == "full"
    width = _width(settings, cuda)
    adapter = 4 if width == 4 else 6  # bytes a parameter: mixed precision adds a 16-bit copy
    logit = LOSS_BYTES
    if settings.method == "dora" and shape.output in targets(shape, settings):
        logit += 2 * width
    logits = min(loss_tokens, micro_batch * length) * shape.vocabulary * logit
    kept, working = _activations(shape, settings, micro_batch, length, checkpointing, cuda)
    activations = kept + max(0, working - logits)  # the logits are gone when a block is at work
    return {
        "weights": _weights(shape, settings, checkpointing, cuda),
        "adapter": 0 if full else adapter * trained,
        "gradients": 4 * trained + (_new_gradient(shape, activations + logits) if full else 0),
        "optimizer": 0 if _is_paged(settings, cuda) else int(_state_bytes(settings) * trained),
        "activations": activations,
        "logits": logits,
        "cuda": CUDA_CONTEXT if cuda else 0,
        "allocator": 0 if cuda else int(ALLOCATOR * (activations + logits)),
    }


def targets(shape: Shape, settings: Adapter) -> list[Linear]:
    """Return the layers that get an adapter; none for method full."""
    if settings.method == "full":
        return []
    if settings.targets == "all-linear":
        return list(shape.adapted)
    return [
        layer
        for layer in (*shape.linears, shape.output)
        if any(f".{layer.name}".endswith(f".{target}") for target in settings.targets)
    ]


def trained_parameters(shape: Shape, settings: Adapter) -> int:
    """Return how many parameters are trained: r x (inputs + outputs) a layer or expert, or all.

    DoRA (Liu et al. 2024) adds a magnitude for each output.
    """
    if settings.method == "full":
        return shape.parameters
    magnitudes = settings.method == "dora"
    return sum(
        settings.rank * layer.copies * (layer.inputs + layer.outputs) + magnitudes * layer.outputs
        for layer in targets(shape, settings)
    )


def checkpoint_bytes(shape: Shape, settings: Adapter) -> int:
    """Return the bytes of a checkpoint on disk: what is trained, and the optimizer's states."""
    return int((4 + _state_bytes(settings)) * trained_parameters(shape, settings))


def plan(
    shape: Shape,
    settings: Adapter,
    lengths: Sequence[int],
    loss_lengths: Sequence[int],
    machine: Machine,
) -> Plan:
    """Return the largest micro-batch that fits into 90 % of a device, with the longest examples.

    `lengths` are the examples' tokens and `loss_lengths` those with loss; without any, examples are
    as long as they may be. What `settings` say of micro-batch and checkpointing is followed. Where
    nothing fits, the smallest is returned, which `fits` denies. On a CPU a micro-batch holds no
    more padded tokens than `local.CPU_TOKENS`, since more are slower.
    """
    limit = min(settings.max_length, shape.context)
    longest = sorted(lengths, reverse=True) or [limit] * settings.batch
    lost = sorted(loss_lengths, reverse=True) or longest
    plans = _plans(shape, settings, longest, lost, machine)
    found = next((made for made in plans if made.fits), plans[-1])
    if found.fits:
        return found
    return found._replace(remedies=_remedies(shape, settings, longest, lost, machine))


def _remedies(
    shape: Shape,
    settings: Adapter,
    longest: Sequence[int],
    lost: Sequence[int],
    machine: Machine,
) -> tuple[str, ...]:
    """Return the changes that make a plan fit: the mildest of each setting, alone if that helps."""
    remedies: dict[str, str] = {}
    for key, value in _changes(settings, longest[0], machine.cuda):
        changed = settings.model_copy(update={key: value})
        shorter = [min(length, changed.max_length) for length in longest]
        plans = _plans(shape, changed, shorter, lost, machine)
        if plans[-1].fits:
            remedies.setdefault(key, f"{key}: {str(value).lower()}")
    method = "qlora" if machine.cuda else "lora"
    if remedies or settings.method == method or (settings.method != "full" and not machine.cuda):
        return tuple(remedies.values())
    changed = settings.model_copy(update={"method": method})
    more = _remedies(shape, changed, longest, lost, machine)
    return tuple(f"method: {method} with {remedy}" for remedy in more)


def _plans(
    shape: Shape,
    settings: Adapter,
    longest: Sequence[int],
    lost: Sequence[int],
    machine: Machine,
) -> list[Plan]:
    """Return the plans that the settings allow: the fastest first, the smallest last."""
    share = -(-settings.batch // machine.devices)
    sizes = [size for size in reversed(_powers_of_two(share)) if size < share]
    sizes = [min(settings.micro_batch, share)] if settings.micro_batch else [share, *sizes]
    if not (machine.cuda or settings.micro_batch):
        sizes = [size for size in sizes if size * longest[0] <= local.CPU_TOKENS] or [1]
    ways = (False, True) if settings.checkpointing is None else (settings.checkpointing,)
    plans = []
    for checkpointing, size in itertools.product(ways, sizes):
        parts = _at_the_longest(
            shape, settings, longest[:size], lost[:size], size, checkpointing, machine.cuda
        )
        if machine.sharded:
            parts = _dealt_out(shape, parts, machine.devices)
        needed = sum(parts.values())
        plans.append(
            Plan(
                micro_batch=size,
                accumulation=-(-share // size),
                checkpointing=checkpointing,
                length=longest[0],
                needed=needed,
                available=machine.available,
                parts=parts,
                fits=needed <= MARGIN * machine.available,
            )
        )
    return plans


def _dealt_out(shape: Shape, parts: dict[str, int], devices: int) -> dict[str, int]:
    """Return the bytes of a device that holds its share, and gathers what it computes with.

    At once that is a block, the next one, the embeddings and the output layer.
    """
    width = parts["weights"] / shape.parameters
    inside = (sum(layer.size for layer in shape.linears) + shape.stacked) / shape.layers
    output = 0 if shape.tied else shape.output.size
    dealt = {
        name: -(-parts[name] // devices)
        for name in ("weights", "adapter", "gradients", "optimizer")
    }
    gathered = int(width * (2 * inside + shape.embeddings + output))
    return {**parts, **dealt, "gathered": gathered}


def _changes(settings: Adapter, longest: int, cuda: bool) -> Iterator[tuple[str, object]]:
    """Yield the settings that a person might change to save memory, the mildest first."""
    if settings.micro_batch > 1:
        yield "micro_batch", 1
    if settings.checkpointing is False:
        yield "checkpointing", True
    if settings.method == "full":
        yield "method", "lora"
    if cuda and settings.method != "qlora":
        yield "method", "qlora"
    if settings.method != "full":
        for rank in reversed(_powers_of_two(settings.rank - 1)):
            yield "rank", rank
    for length in reversed(_powers_of_two(longest - 1)):
        if length >= SHORTEST:
            yield "max_length", length


def _at_the_longest(
    shape: Shape,
    settings: Adapter,
    longest: Sequence[int],
    lost: Sequence[int],
    size: int,
    checkpointing: bool,
    cuda: bool,
) -> dict[str, int]:
    """Return the estimate for the longest examples, or for pretraining where it takes more."""
    if _is_packed(settings, cuda):
        length, loss_tokens = -(-sum(longest) // len(longest)), sum(lost)
    else:
        length, loss_tokens = longest[0], size * lost[0]
    both = [(settings, length, loss_tokens)]
    if settings.pretrain.epochs:
        block = min(settings.max_length, shape.context)
        padded = settings.model_copy(update={"packing": False})
        both.append((padded, block, size * block))
    made = [
        estimate(
            shape,
            phase,
            micro_batch=size,
            length=tokens,
            loss_tokens=with_loss,
            checkpointing=checkpointing,
            cuda=cuda,
        )
        for phase, tokens, with_loss in both
    ]
    return max(made, key=lambda parts: sum(parts.values()))


def available(cuda: bool) -> int:
    """Return the bytes that a job may take: free on the GPU, or in memory and the cgroup."""
    import psutil
    import torch

    if cuda:
        # What PyTorch keeps of tensors that are gone is free to this process.
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0] + cached)
    return min(int(psutil.virtual_memory().available), cgroup_free(Path("/")))


def cgroup_free(root: Path) -> int:
    """Return the bytes left to this process's control groups; a very large number without a limit.

    Pages of files that were read count as used there, and are given back when memory is short.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        groups = []
    left = 2**62
    for line in ("0::/", *groups):
        _, kinds, group = line.split(":", 2)
        v2 = not kinds
        if not v2 and "memory" not in kinds.split(","):
            continue
        top = root / ("sys/fs/cgroup" if v2 else "sys/fs/cgroup/memory")
        names = ("max", "current") if v2 else ("limit_in_bytes", "usage_in_bytes")
        place = top / group.lstrip("/")
        for folder in (place, *place.parents):
            try:
                limit, used = (int((folder / f"memory.{name}").read_text()) for name in names)
                stat = dict(
                    row.split() for row in (folder / "memory.stat").read_text().splitlines()
                )
            except (OSError, ValueError):
                continue  # no limit here, or no such group
            left = min(left, limit - used + int(stat.get("inactive_file", 0)))
    return max(left, 0)


def sentence(plan: Plan, settings: Adapter) -> str:
    """Return what a plan takes and how it cuts a step, in a line."""
    unit = GIB if plan.needed >= GIB else 2**20
    parts = [
        f"{name.replace('cuda', 'CUDA')} {_number(size / unit)}"
        for name, size in plan.parts.items()
        if size / unit >= 0.05
    ]
    more = ", activations computed twice" if plan.checkpointing else ""
    paged = _is_paged(settings, bool(plan.parts["cuda"]))
    more += ", the optimizer's states outside if need be" if paged else ""
    return (
        f"about {size(plan.needed)} of {size(plan.available)} free: {', '.join(parts)}; "
        f"micro-batches of {plan.micro_batch}, {plan.accumulation} a step{more}"
    )


def advice(plan: Plan, settings: Adapter) -> str:
    """Return one sentence on what would fit, where a plan does not."""
    what = "an example" if plan.micro_batch == 1 else f"{plan.micro_batch} examples"
    rank = "" if settings.method == "full" else f" of rank {settings.rank}"
    cure = (
        f"set {' or '.join(plan.remedies)}"
        if plan.remedies
        else "take a smaller model, or a machine with more memory"
    )
    return (
        f"{settings.method}{rank} with {what} of {plan.length:,} tokens at once takes about "
        f"{size(plan.needed)}, and {size(plan.available)} are free, of which a tenth is left "
        f"alone; {cure}."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on the GPU or in this process."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def size(number: float) -> str:
    """Return bytes as people read them."""
    unit, name = (GIB, "GiB") if number >= GIB else (2**20, "MiB")
    return f"{_number(number / unit)} {name}"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _weights(shape: Shape, settings: Adapter, checkpointing: bool, cuda: bool) -> int:
    """Return the bytes of the weights, and of their 16-bit copies while a step computes."""
    inside = sum(layer.size for layer in shape.linears)
    if settings.method == "qlora":
        return int(NF4 * inside) + 2 * (shape.parameters - inside)
    width = _weight_width(settings, cuda)
    held = width * shape.parameters
    if width == 2 or _width(settings, cuda) == 4:
        return held
    if settings.method == "full":
        return held + 2 * (shape.parameters - shape.embeddings)
    # Autocast makes the copies of frozen weights anew, and backward holds them.
    return held + 2 * inside // (shape.layers if checkpointing else 1)


def _new_gradient(shape: Shape, kept: int) -> int:
    """Return the bytes of the largest gradient before it is added to that of the step.

    A tied matrix gets one from the output layer, which waits until the end of backward, when
    `kept` is free again, for that of the embeddings and their sum.
    """
    size = 4 * shape.embeddings
    return size + max(0, 2 * size - kept) if shape.tied else size


def _weight_width(settings: Adapter, cuda: bool) -> int:
    """Return the bytes of a weight that is not in 4 bit."""
    whole = settings.method == "full" or settings.precision == "float32"
    return 2 if cuda and not whole else 4


def _width(settings: Adapter, cuda: bool) -> int:
    """Return the bytes of an activation."""
    import torch

    from ecg_llm.train import jobs

    if cuda and settings.precision == "auto" and not torch.cuda.is_available():
        return 2  # of a GPU that is elsewhere: those since Ampere multiply in bfloat16
    return 2 if jobs.bf16(settings.precision) else 4


def _activations(
    shape: Shape, settings: Adapter, micro_batch: int, length: int, checkpointing: bool, cuda: bool
) -> tuple[int, int]:
    """Return the bytes kept from forward to backward, and those of the block at work."""
    tokens = micro_batch * length
    width = _width(settings, cuda)
    # A token may see those of its row; every block holds that mask in its own precision.
    mask = tokens * (tokens if _is_packed(settings, cuda) else length)
    blocks = _kept(shape, settings, cuda) * tokens + shape.layers * mask * width
    if not shape.fused:
        # Scores, and the softmax of float32 in the precision of the values.
        blocks += shape.layers * shape.heads * mask * (2 * width + (4 if width == 2 else 0))
    # Gradients of its widest activations, and matrices made of weights.
    working = 3 * shape.intermediate * width * tokens + _workspace(shape, settings)
    if shape.stacked and any(layer.copies > 1 for layer in targets(shape, settings)):
        # PEFT adds the product of the factors to all experts, whichever a token uses.
        mixed = width < _weight_width(settings, cuda)
        blocks += (12 if mixed else 8) * shape.stacked
    if not checkpointing:
        return blocks + mask, working
    inputs = max(width, _weight_width(settings, cuda)) * shape.hidden * tokens
    return shape.layers * inputs + mask, blocks // max(shape.layers, 1) + working


def _kept(shape: Shape, settings: Adapter, cuda: bool) -> int:
    """Return the bytes a token that the blocks keep for backward, without attention masks.

    Each linear layer's result and what it reads, the result of the activation function, what each
    normalisation reads in float32, and keys and values as often as there are heads. Under mixed
    precision, and with dropout, every layer reads a copy of its own.
    """
    width = _width(settings, cuda)
    adapted = [layer for layer in targets(shape, settings) if layer != shape.output]
    layers = (*shape.linears, *shape.experts)
    mixed = width == 2
    results = sum(layer.outputs for layer in layers)
    apart = {(layer.name.rpartition(".")[0], layer.inputs) for layer in layers}
    shared = sum(inputs for _, inputs in apart)
    read = sum(layer.inputs for layer in layers) if mixed or settings.dropout else shared
    repeated = 2 * shape.hidden * (shape.heads - shape.kv_heads) // shape.heads
    kept = width * (results + read + shape.layers * (shape.intermediate + repeated))
    kept += 4 * shape.norms * shape.hidden
    if settings.method == "full":
        return kept + width * shape.norms * shape.hidden
    kept += width * settings.rank * len(adapted)
    if settings.dropout:
        kept += (1 if cuda else 4) * sum(layer.inputs for layer in adapted)
    if settings.method == "dora":
        kept += 2 * width * sum(layer.outputs for layer in adapted)
    return kept


def _workspace(shape: Shape, settings: Adapter) -> int:
    """Return the bytes of the largest matrix that is made of weights and dropped again."""
    if settings.method == "qlora":
        return 2 * max((layer.size for layer in shape.linears), default=0)
    if settings.method == "dora":  # PEFT multiplies the factors by way of an identity matrix
        largest = max(targets(shape, settings), key=lambda layer: layer.size, default=None)
        return 4 * (largest.inputs**2 + 3 * largest.size) if largest else 0
    return 0


def _is_packed(settings: Adapter, cuda: bool) -> bool:
    return cuda if settings.packing is None else settings.packing


def _is_paged(settings: Adapter, cuda: bool) -> bool:
    """Return whether the optimizer's states leave the GPU where memory is short."""
    return cuda and settings.optimizer.startswith("paged_")


def _state_bytes(settings: Adapter) -> float:
    """Return the bytes of the optimizer's states a trained parameter."""
    name = settings.optimizer
    if name.startswith(("sgd", "adafactor", "lomo", "adalomo")):
        return 0.1
    states = 3 if "ademamix" in name else 2 if "adam" in name or "galore" in name else 1
    if "8bit" in name:
        return states * (1 + 4 / 256)  # with a float32 scale for each block of 256
    return states * (0.5 + 4 / 128 if "4bit" in name else 4)


def _powers_of_two(limit: int) -> list[int]:
    """Return 1, 2, 4 ... up to the limit."""
    return [1 << i for i in range(limit.bit_length())]
