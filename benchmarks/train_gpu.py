"""Fine-tuning on a GPU, measured: QLoRA at Llama 3.1 8B's shape beside its peers.

    python benchmarks/train_gpu.py
    python benchmarks/train_gpu.py --toy --out toy

For a machine with one card of 80 to 141 GB and no network, in less than ten minutes: the weights
are random, made and quantised on the card. Every part is a process of its own with a time limit;
one that fails is reported and the others go on. --toy does the same at a toy's size, without CUDA
too (in 4 bit where bitsandbytes is installed, else with plain LoRA).

Trainings: (a) the published settings, (b) TRL's defaults, (c) ours as planned for this card, and
(c) with no more than half the memory that (a) took. Useful tokens are those of the examples; memory
is the allocator's peak, with what paged optimizers hold beside it. Then: the gradient of a LoRA on
the output layer under each loss, since a fused one may bypass it; a QLoRA adapter merged onto the
dequantised base, and onto the weights from before quantisation; and choice questions by likelihood
in batches beside generation one by one.

Lengths are drawn from log-normal distributions. Prompts: median 34 and 90th percentile 105 tokens,
those of the bundled questions by a tokenizer of 4,096 tokens made on them, and Llama 3.1's system
turn of 25. Replies: median 40 tokens (the published tuned models answer open questions with 26 to
34 words in the median) and the spread of the bundled ones (90th percentile 2.1 times the median).

Model FLOP utilisation after Chowdhery et al. 2022 (PaLM), appendix B: the operations that the
mathematics needs, over time and peak, whatever is recomputed or padded. Frozen weights need no
gradient: 4 a weight and token (forward, and backward to the input), where trained ones need 6.
Attention takes 12 x layers x heads x head size x length a token. The output layer counts at tokens
with loss alone.

Needs `pip install trl 'ecg-llm[cuda]'`. Prints the tables, writes train_gpu.{json,md}; exit code 1
if a target is missed or a part fails.
"""

import argparse
import gc
import importlib.util
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import training
from training import STEP, Figure, at_least, at_most
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from ecg_llm import config, local
from ecg_llm.contracts import Decoding
from ecg_llm.prompt import choice_reply
from ecg_llm.records import LETTERS, Question
from ecg_llm.train import batches, memory, nano, template, tune
from ecg_llm.train.batches import Item

SEED = 20261126
TIME = 580.0
"""Seconds, for all parts."""
PART = 120.0
"""Seconds, for one."""
LLAMA = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=3,
    architectures=["LlamaForCausalLM"],
    dtype="bfloat16",
)
TOY = LlamaConfig.from_dict(
    LLAMA.to_dict()
    | {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
    }
)
PROMPT, REPLY = (34, 105), (40, 84)
"""Median and 90th percentile of the tokens."""
SYSTEM_TURN = 25
LONGEST = 1024
EPOCH, TOY_EPOCH = 8, 1
"""Steps that are timed."""
TOY_RANK = 8
PEAK = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second by the name of the card, from NVIDIA's data sheets."""
FASTER, MEMORY = 3.0, 0.5
"""Wanted of ours: times the published tokens/s, and at most this share of its memory."""
TRAININGS = {
    "published": "(a) published settings",
    "trl": "(b) TRL's defaults, no LoRA on the output layer",
    "ours": "(c) ours, as planned for this card",
    "ours_half": "(c) ours, in half the memory of (a)",
    "ours_padded": "(c) ours, as planned, padded instead of packed",
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", type=Path, default=training.RESULTS)
    parser.add_argument("--only", choices=sorted(PARTS), action="append")
    parser.add_argument("--part", choices=sorted(PARTS), help="run one in this process")
    parser.add_argument("--bytes", type=int, default=0, help="memory that a training may take")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.toy, given.bytes)))
        return
    machine = training.machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if not (given.toy or torch.cuda.is_available()):
        sys.exit("There is no CUDA GPU here; --toy runs the same at a toy's size.")
    started = time.monotonic()
    found: dict[str, Any] = {}
    for name in given.only or PARTS:
        arguments = ["--part", name, *(["--toy"] if given.toy else [])]
        if name == "ours_half":
            taken = found.get("published", {}).get("peak_bytes", 0)
            if not (taken or given.toy):
                found[name] = {"error": "the memory of (a) is not known"}
                continue
            arguments += ["--bytes", str(int(MEMORY * taken))]
        left = TIME - (time.monotonic() - started)
        if left < 10:
            found[name] = {"error": "no time was left"}
            continue
        begun = time.monotonic()
        found[name] = training.again(__file__, arguments, min(PART, left))
        print(f"{name}, {time.monotonic() - begun:.0f} s: {found[name]}", file=sys.stderr)
    figures = judged(found, toy=given.toy)
    text = report(machine, found, figures, given.toy)
    print(text)
    kept = {"machine": machine, "toy": given.toy, "parts": found}
    kept["figures"] = [figure._asdict() for figure in figures]
    training.keep("train_gpu_toy" if given.toy else "train_gpu", kept, text, given.out)
    failed = any("error" in part for part in found.values())
    # a toy's speed and memory say nothing
    sys.exit(failed or (not given.toy and any(figure.met is False for figure in figures)))


def shape(toy: bool) -> LlamaConfig:
    """Return the architecture."""
    return TOY if toy else LLAMA


def quantised() -> bool:
    """Return whether weights are put into 4 bit here."""
    return importlib.util.find_spec("bitsandbytes") is not None


def model_of(toy: bool, *, four_bit: bool = True) -> LlamaForCausalLM:
    """Return a model with random weights, made on the device, in NF4 as published.

    transformers' own way from weights to 4 bit is taken, without the files.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    four_bit = four_bit and quantised()
    dtype = torch.bfloat16 if quantised() else torch.float32
    generator = torch.Generator(device).manual_seed(SEED)
    with torch.device("meta"):
        skeleton = LlamaForCausalLM(shape(toy))
    state = {
        name: torch.ones(weights.shape, dtype=dtype, device=device)
        if weights.dim() == 1
        else torch.empty(weights.shape, dtype=dtype, device=device).normal_(
            0, 0.02, generator=generator
        )
        for name, weights in skeleton.state_dict().items()
    }
    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=False,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    with local.quiet():
        made = LlamaForCausalLM.from_pretrained(
            None,
            config=shape(toy),
            state_dict=state,
            dtype=dtype,
            quantization_config=bits if four_bit else None,
            device_map={"": 0} if device.type == "cuda" else None,
            attn_implementation="sdpa",
        )
    del state
    free()
    return made


def adapter(toy: bool, optimizer: str) -> config.Adapter:
    """Return the published adapter with another optimizer; what this machine lacks is left out."""
    small = {"rank": TOY_RANK} if toy else {}
    return training.settings(
        method="qlora" if quantised() else "lora",
        optimizer=optimizer if quantised() else "adamw_torch",
        precision="auto" if torch.cuda.is_available() else "float32",
        **small,
    )


def free() -> None:
    """Give memory back to the card and forget the peak so far."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def steps_of(toy: bool) -> int:
    """Return the steps that are timed."""
    return TOY_EPOCH if toy else EPOCH


def items_of(toy: bool, steps: int) -> list[Item]:
    """Return examples of random tokens whose lengths are those of questions and answers."""
    rng = random.Random(SEED)

    def drawn(median: float, high: float) -> int:
        return round(rng.lognormvariate(math.log(median), math.log(high / median) / 1.2816))

    made: list[Item] = []
    for _ in range(STEP * steps):
        prompt, reply = SYSTEM_TURN + drawn(*PROMPT), max(2, drawn(*REPLY))
        ids = [rng.randrange(4, shape(toy).vocab_size) for _ in range(prompt + reply)][:LONGEST]
        reply = min(reply, len(ids) - 1)
        made.append({"input_ids": ids, "labels": [-100] * (len(ids) - reply) + ids[-reply:]})
    return made


def tokenizer_of(toy: bool) -> Any:
    """Return a tokenizer made of the bundled questions, with a chat template."""
    size = config.NanoModelConfig(kind="nano", vocabulary=min(4096, shape(toy).vocab_size))
    texts = [
        " ".join([row.question, row.reference, *row.options]) for row in bundled() for _ in range(3)
    ]
    return nano.train_tokenizer(texts, size)


def bundled() -> list[Question]:
    """Return the bundled expert questions."""
    text = resources.files("ecg_llm").joinpath("demo", "questions.jsonl").read_text("utf-8")
    return [
        Question(
            question_id=row["id"],
            set="handbook",
            kind=row["kind"],
            question=row["question"],
            options=row.get("options", []),
            answer=row.get("answer", "") if row["kind"] == "choice" else "",
            reference=row.get("reference", "") or row.get("answer", ""),
        )
        for row in map(json.loads, text.splitlines())
    ]


def needed_operations(
    shape: memory.Shape, settings: config.Adapter, items: Sequence[Item]
) -> float:
    """Return the floating-point operations that an epoch needs; heads x their size is `hidden`."""
    tokens = sum(len(item["input_ids"]) for item in items)
    lost = sum(label >= 0 for item in items for label in item["labels"])
    squares = sum(len(item["input_ids"]) ** 2 for item in items)
    inside = sum(layer.size for layer in shape.linears)
    adapters = sum(settings.rank * (layer.inputs + layer.outputs) for layer in shape.linears)
    output = shape.output
    at_output = 4 * output.size + 6 * settings.rank * (output.inputs + output.outputs)
    return (
        (4.0 * inside + 6.0 * adapters) * tokens
        + at_output * lost
        + 12.0 * shape.layers * shape.hidden * squares
    )


def peak_operations() -> float | None:
    """Return what the card can do in a second at most, if it is known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    words = (name, name.replace("-", " "))
    known = sorted(PEAK, key=len, reverse=True)
    return next((PEAK[one] for one in known if all(w in words[1] for w in one.split())), None)


def timed(toy: bool, run: training.Run, settings: config.Adapter) -> dict[str, Any]:
    """Return speed and memory of a training: two steps to warm up, then the epoch."""
    items = items_of(toy, steps_of(toy))
    with local.quiet():
        run(items[: min(2, steps_of(toy)) * STEP])
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        clock = run(items)
    with tempfile.TemporaryDirectory() as place:
        shape(toy).save_pretrained(place)
        operations = needed_operations(memory.shape_of(place), settings, items)
    peak = peak_operations()
    own = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "tokens_per_s": sum(len(item["input_ids"]) for item in items) / clock.seconds,
        "seconds": clock.seconds,
        "tflops": operations / clock.seconds / 1e12,
        "utilisation": operations / clock.seconds / peak if peak else None,
        "allocated_bytes": own,
        "paged_bytes": clock.paged,
        "peak_bytes": own + clock.paged,
    }


def published(toy: bool, _: int) -> dict[str, Any]:
    """Train (a): NF4, the rest in float32, fp16 autocast, activations twice, paged AdamW."""
    from peft import prepare_model_for_kbit_training

    settings = adapter(toy, "paged_adamw_32bit")
    model = prepare_model_for_kbit_training(model_of(toy))
    run = training.published(model, tokenizer_of(toy), settings, fp16=torch.cuda.is_available())
    return timed(toy, run, settings)


def trl(toy: bool, _: int) -> dict[str, Any]:
    """Train (b): SFTConfig() but for the batch, and the same LoRA."""
    settings = adapter(toy, "adamw_torch_fused")
    run = training.trl_defaults(
        model_of(toy), tokenizer_of(toy), settings, bf16=torch.cuda.is_available()
    )
    return timed(toy, run, settings)


def ours_half(toy: bool, limit: int) -> dict[str, Any]:
    """Train (c) in so many bytes, with the optimizer that the preset for small cards has."""
    return ours(toy, limit, optimizer="paged_adamw_8bit")


def ours_padded(toy: bool, limit: int) -> dict[str, Any]:
    """Train (c) with micro-batches that are sorted and padded, not packed."""
    return ours(toy, limit, packing=False)


def ours(
    toy: bool, limit: int, *, optimizer: str = "adamw_torch_fused", packing: bool = True
) -> dict[str, Any]:
    """Train (c): what `ecg-llm train` does, in `limit` bytes; 0: in those that are free."""
    cuda = torch.cuda.is_available()
    settings = adapter(toy, optimizer).model_copy(update={"packing": cuda and packing})
    items = items_of(toy, steps_of(toy))
    with tempfile.TemporaryDirectory() as place:
        shape(toy).save_pretrained(place)
        plan = memory.plan(
            memory.shape_of(place),
            settings,
            [len(item["input_ids"]) for item in items],
            [sum(label >= 0 for label in item["labels"]) for item in items],
            memory.Machine(cuda, int(limit / memory.MARGIN) or memory.available(cuda)),
        )
        base = model_of(toy)
        with patch.object(local, "load_model", lambda *_, **__: base):
            model = tune.trainable(place, "", settings, "ours", SEED)
    packed = bool(settings.packing) and batches.keeps_apart(model, items)
    size = plan.micro_batch
    while True:
        run = training.ours(
            model,
            LLAMA.pad_token_id,
            settings,
            -(-STEP // size),
            packed=packed,
            checkpointing=plan.checkpointing,
        )
        try:
            found = timed(toy, run, settings)
            break
        except Exception as error:
            if not memory.is_out_of_memory(error) or size == 1:
                raise
            size //= 2
        free()
    return {
        **found,
        "plan": memory.sentence(plan, settings),
        "planned_bytes": plan.needed,
        "fits": plan.fits,
        "micro_batch": size,
        "packed": packed,
        "optimizer": settings.optimizer,
    }


def output_layer(toy: bool, _: int) -> dict[str, Any]:
    """Return how far the gradient of a LoRA on the output layer is from plain autograd's."""
    from peft import get_peft_model
    from trl import SFTConfig, SFTTrainer

    model = get_peft_model(model_of(toy), training.lora(adapter(toy, "adamw_torch_fused")))
    fill(model)
    model.eval()
    items = items_of(toy, 1)[:4]
    weights = [one for name, one in model.named_parameters() if "lm_head.lora" in name]
    device = model.device
    count = sum(label >= 0 for item in items for label in item["labels"])

    def gradient(loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value = loss()
        value.backward()
        found = torch.cat([one.grad.float().flatten() for one in weights])
        model.zero_grad()
        return found

    def own_loss() -> torch.Tensor:
        total = torch.zeros((), device=device)
        for item in items:
            ids, labels = (torch.tensor([item[key]], device=device) for key in item)
            part = sum(label >= 0 for label in item["labels"]) / count
            total = total + part * model(input_ids=ids, labels=labels).loss
        return total

    def our_loss(packed: bool) -> torch.Tensor:
        inputs = batches.Collator(3, packed, keeps_logits=True)(items)
        moved = {k: v.to(device) if hasattr(v, "to") else v for k, v in inputs.items()}
        return batches.loss(model(**{k: v for k, v in moved.items() if k != "labels"}),
                            moved["labels"], count)  # fmt: skip

    wanted = gradient(own_loss)
    found: dict[str, Any] = {"norm": float(wanted.norm())}
    for name, packed in (("padded", False), ("packed", True)):
        own = gradient(lambda packed=packed: our_loss(packed))
        found[name] = float((own - wanted).norm() / wanted.norm())
    with tempfile.TemporaryDirectory() as place:
        small = LlamaForCausalLM(TOY)
        arguments = SFTConfig(output_dir=place, bf16=False, report_to="none", use_cpu=True)
        try:
            SFTTrainer(
                model=small,
                args=arguments,
                train_dataset=training.dataset(items_of(True, 1)[:2]),
                processing_class=tokenizer_of(True),
                peft_config=training.lora(adapter(True, "adamw_torch_fused")),
            )
            found["trl"] = "takes a LoRA on the output layer"
        except ValueError as error:
            found["trl"] = f"refuses: {str(error).split('.')[0].split(':')[0]}"
    return found


def merging(toy: bool, _: int) -> dict[str, Any]:
    """Return how far merged models are from the 4-bit base with its adapter, in their logits."""
    from peft import PeftModel, get_peft_model

    items = items_of(toy, 1)[:8]

    def logits(model: Any) -> torch.Tensor:
        model.eval()
        with torch.inference_mode():
            rows = [
                model(input_ids=torch.tensor([item["input_ids"]], device=model.device)).logits[0]
                for item in items
            ]
        return torch.cat(rows).float().cpu()

    def compared(other: torch.Tensor) -> dict[str, float]:
        one, two = wanted.log_softmax(1), other.log_softmax(1)
        return {
            "largest": float((other - wanted).abs().max()),
            "spread": float(wanted.std()),
            "divergence": float((one.exp() * (one - two)).sum(1).mean()),
            "same_token": float((wanted.argmax(1) == other.argmax(1)).float().mean()),
        }

    with tempfile.TemporaryDirectory() as place, local.quiet():
        made = get_peft_model(model_of(toy), training.lora(adapter(toy, "adamw_torch_fused")))
        fill(made)
        made.save_pretrained(place, save_embedding_layers=False)
        wanted = logits(made)
        del made
        free()
        found = {}
        for name in ("dequantised", "before_quantisation"):
            base = model_of(toy, four_bit=name == "dequantised")
            if name == "dequantised" and quantised():
                base = base.dequantize(torch.bfloat16)
            merged = PeftModel.from_pretrained(base, place).merge_and_unload(safe_merge=True)
            found[name] = compared(logits(merged))
            del base, merged
            free()
    return found


def scoring(toy: bool, _: int) -> dict[str, Any]:
    """Return choice questions a second: by likelihood in batches, and by generation one by one."""
    questions = [row for row in bundled() if row.kind == "choice"]
    prompts = [template.example(row)["prompt"] for row in questions]
    replies = [
        [choice_reply(letter) for letter, _ in zip(LETTERS, row.options, strict=False)]
        for row in questions
    ]
    tokenizer = tokenizer_of(toy)
    model = model_of(toy)
    many = local.LocalModel.around(model, tokenizer, batch=32)
    alone = local.LocalModel.around(model, tokenizer, batch=1)
    many.likelihoods(prompts[:4], replies[:4])
    few = prompts[: 4 if toy else 12]
    found: dict[str, Any] = {"questions": len(questions)}
    begun = time.perf_counter()
    many.likelihoods(prompts, replies)
    found["likelihoods"] = len(prompts) / (time.perf_counter() - begun)
    reply = len(local.reply_ids(tokenizer, choice_reply("A"))) + 1
    for name, tokens in (("generated", reply), ("generated_50", 50)):
        begun = time.perf_counter()
        for prompt in few:
            alone.generate([prompt], Decoding(max_tokens=tokens))
        found[name] = len(few) / (time.perf_counter() - begun)
    found["reply_tokens"] = reply
    return found


def fill(model: Any) -> None:
    """Give the B matrices of a fresh adapter values: zeros would hide what is measured."""
    generator = torch.Generator(model.device).manual_seed(SEED)
    for name, one in model.named_parameters():
        if "lora_B" in name:
            one.data.normal_(0, 0.01, generator=generator)


PARTS: dict[str, Callable[[bool, int], dict[str, Any]]] = {
    "published": published,
    "ours": ours,
    "ours_half": ours_half,
    "ours_padded": ours_padded,
    "trl": trl,
    "output_layer": output_layer,
    "merging": merging,
    "scoring": scoring,
}


def judged(found: dict[str, Any], *, toy: bool) -> list[Figure]:
    """Return what is wanted beside what was measured."""

    def value(part: str, *keys: str) -> Any:
        one: Any = found.get(part, {})
        for key in keys:
            one = one.get(key) if isinstance(one, dict) else None
        return one

    def ratio(what: str, name: str) -> float | None:
        ours, theirs = value(name, what), value("published", what)
        return ours / theirs if ours and theirs else None

    exact = 1e-3 if toy and not quantised() else 5e-2  # bfloat16 has three digits
    return [
        at_least("(c) as planned, times tokens/s of (a)", ratio("tokens_per_s", "ours"), FASTER),
        at_most("(c) as planned, share of the memory of (a)", ratio("peak_bytes", "ours"), MEMORY),
        at_least("(c) in half the memory, times tokens/s of (a)",
                 ratio("tokens_per_s", "ours_half"), FASTER),
        at_most("(c) in half the memory, share of the memory of (a)",
                ratio("peak_bytes", "ours_half"), MEMORY),
        at_most("gradient of the output layer's LoRA, padded, off by",
                value("output_layer", "padded"), exact),
        at_most("gradient of the output layer's LoRA, packed, off by",
                value("output_layer", "packed"), exact),
        at_least("same likeliest token, merged onto the dequantised base",
                 value("merging", "dequantised", "same_token"), 0.9),
        at_least("choice questions/s by likelihood, times generation of the reply",
                 value("scoring", "likelihoods") / value("scoring", "generated")
                 if value("scoring", "generated") else None, 5.0),
    ]  # fmt: skip


def report(
    machine: dict[str, Any], found: dict[str, Any], figures: Sequence[Figure], toy: bool
) -> str:
    """Return the tables in Markdown."""
    items = items_of(toy, steps_of(toy))
    tokens = sorted(len(item["input_ids"]) for item in items)
    lost = sum(label >= 0 for item in items for label in item["labels"])
    rows = [("training", "tokens/s", "TFLOP/s", "utilisation", "peak GiB", "of it paged")]
    for name, what in TRAININGS.items():
        part = found.get(name, {"error": "not run"})
        if "error" in part:
            rows.append((what, part["error"], "-", "-", "-", "-"))
            continue
        used = part["utilisation"]
        rows.append(
            (
                what,
                f"{part['tokens_per_s']:,.0f}",
                f"{part['tflops']:.3g}",
                "-" if used is None else f"{used:.1%}",
                f"{part['peak_bytes'] / 2**30:.1f}",
                f"{part['paged_bytes'] / 2**30:.1f}",
            )
        )
    others = [
        f"{name}: {json.dumps(found[name])}"
        for name in ("output_layer", "merging", "scoring")
        if name in found
    ]
    plans = [
        f"{TRAININGS[name]}: {found[name]['plan']}; planned "
        f"{found[name]['planned_bytes'] / 2**30:.1f} GiB, micro-batches of "
        f"{found[name]['micro_batch']}, {'packed' if found[name]['packed'] else 'padded'}, "
        f"{found[name]['optimizer']}."
        for name in ("ours", "ours_half", "ours_padded")
        if "plan" in found.get(name, {})
    ]
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    words = "a toy's shape: speed and memory say nothing" if toy else "Llama 3.1 8B's shape"
    return (
        "\n\n".join(
            [
                "# Fine-tuning on a GPU",
                f"{words}; {len(items)} examples of {sum(tokens):,} tokens (median "
                f"{tokens[len(tokens) // 2]}, longest {tokens[-1]}), {lost:,} with loss; an epoch "
                f"in steps of {STEP}. {facts}.",
                training.table(rows),
                *plans,
                *others,
                training.figures_table(figures),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
