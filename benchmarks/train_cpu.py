"""Fine-tuning on a CPU, measured: useful tokens a second beside the published script and TRL.

    python benchmarks/train_cpu.py
    python benchmarks/train_cpu.py --size demo --rounds 1

All trainings learn 128 of the bundled questions (of the handbook, or written from it by the
extractive writer) on a nano model of random weights, with the same adapter and steps of 32, in
bfloat16 (autocast) and in float32. A ladder leads from the published script to ours, one change a
rung, so that the gain has shares. Useful tokens are those of the examples: padding does not count.
Each training is a process of its own, which warms up with a step and then trains an epoch; the
rungs take turns in every round, and medians over the rounds are shown. Memory is the peak of the
resident set above its level before the first step. The operations of matrix products are counted
beside, since they do not depend on what else the machine does. First the loss and the gradient of a
step are computed both ways and compared.

Needs `pip install trl`. Prints the tables, writes results/train_cpu.{json,md}; exit code 1 if a
target is missed.
"""

import argparse
import itertools
import json
import math
import random
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import training
from torch.utils.flop_counter import FlopCounterMode
from training import STEP, Figure, at_least, at_most

from ecg_llm import config, local, pipeline, steps
from ecg_llm.commands.init import make_demo
from ecg_llm.records import Passage, Question
from ecg_llm.train import batches, memory, nano, template, tune
from ecg_llm.train.batches import Item
from ecg_llm.train.trainer import Feed

SEED = 20261126
SIZES = {
    "nano": config.NanoModelConfig(kind="nano"),
    "demo": config.NanoModelConfig(kind="nano", hidden=192, layers=4, vocabulary=2048),
}
PRECISIONS = ("bfloat16", "float32")
EPOCH = 4
"""Steps that are timed."""
FASTER = 2.0
"""Times as fast as the published script, wanted of ours."""


class Rung(NamedTuple):
    """A training of the ladder: what it changes of the one before it."""

    name: str
    change: str
    gain: str = ""
    """What the gain over the rung before it is put down to; empty: on no ladder."""


LADDER = (
    Rung("published", "plain Trainer as in the published script"),
    Rung("kept", "activations are kept", "recomputation"),
    Rung("loss_tokens", "output layer at tokens with loss alone", "output layer"),
    Rung("sorted", "steps sorted by length before they are cut", "padding"),
    Rung("planned", "micro-batches as planned", "micro-batches"),
    Rung("ours", "fused AdamW: ours", "optimizer"),
)
TRL = Rung("trl", "TRL's defaults, no LoRA on the output layer")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="nano")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("RUNG", "PRECISION", "FOLDER"), help="in itself")
    given = parser.parse_args()
    if given.one:
        rung, precision, folder = given.one
        print(json.dumps(measure(rung, precision, Path(folder), SIZES[given.size])))
        return
    machine = training.machine()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        items = prepare(folder, SIZES[given.size])
        same = agreement(folder, items)
        runs = rounds(folder, given.size, given.rounds)
    found = summary(items, runs, SIZES[given.size])
    figures = judged(runs, same)
    text = report(machine, given.size, given.rounds, items, found, figures, runs)
    print(text)
    kept = {"machine": machine, "size": given.size, "agreement": same, "runs": runs, **found}
    kept["figures"] = [figure._asdict() for figure in figures]
    training.keep("train_cpu" if given.size == "nano" else f"train_cpu_{given.size}", kept, text)
    sys.exit(not all(figure.met for figure in figures))


def prepare(folder: Path, size: config.NanoModelConfig) -> list[Item]:
    """Write a nano model, its tokenizer and a sample of the examples; return these."""
    study = folder / "study"
    make_demo(study)
    settings = config.load(study)
    bound = steps.bind(
        study, pipeline.study_steps(settings, study, pipeline.Models(settings, study))
    )
    for needed in steps.needed(bound, "questions"):
        steps.run(bound, needed)
    texts = [row.text for row in steps.read_table(study / "passages.jsonl", Passage)]
    questions = steps.read_table(study / "questions.jsonl", Question)
    tokenizer = nano.train_tokenizer(texts, size)
    examples = [template.example(row) for row in questions if row.status == "kept"]
    items = tune.tokenized(tokenizer, examples, size.context).items
    items = random.Random(SEED).sample(items, EPOCH * STEP)
    with local.quiet():
        nano.random_model(tokenizer, size, SEED).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "items.json").write_text(json.dumps(items))
    return items


def adapter(precision: str, optimizer: str) -> config.Adapter:
    """Return the published adapter without what needs a GPU: 4 bit and the paged optimizer."""
    return training.settings(method="lora", precision=precision, optimizer=optimizer)


def plan(items: Sequence[Item], size: config.NanoModelConfig) -> memory.Plan:
    """Return how ours cuts a step."""
    return memory.plan(
        memory.shape_of_nano(size),
        adapter("float32", "adamw_torch_fused"),
        [len(item["input_ids"]) for item in items],
        [sum(label >= 0 for label in item["labels"]) for item in items],
        memory.Machine(False, memory.available(False)),
    )


def measure(
    rung: str, precision: str, folder: Path, size: config.NanoModelConfig
) -> dict[str, float]:
    """Train in this process and return its speed, peak memory and operations."""
    items: list[Item] = json.loads((folder / "items.json").read_text())
    base = str(folder / "model")
    tokenizer = local.load_tokenizer(base)
    fused = "adamw_torch_fused" if rung in ("ours", "trl") else "adamw_torch"
    settings = adapter(precision, fused)
    bf16 = precision == "bfloat16"
    if rung in ("sorted", "planned", "ours"):
        model = tune.trainable(base, "", settings, rung, SEED)
        cut = training.ACCUMULATED if rung == "sorted" else plan(items, size).accumulation
        run = training.ours(model, tokenizer.pad_token_id, settings, cut)
    else:
        model = local.load_model(base, "", torch.float32)
        if rung == "trl":
            run = training.trl_defaults(model, tokenizer, settings, bf16=bf16)
        else:
            run = training.published(
                model,
                tokenizer,
                settings,
                checkpointing=rung == "published",
                only_loss_tokens=rung == "loss_tokens",
                bf16=bf16,
            )
    with local.quiet():
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        level = resident("VmRSS")
        run(items[:STEP])
        seconds = run(items).seconds
        peak = resident("VmHWM") - level
        with FlopCounterMode(display=False) as counter:
            run(items)
    tokens = sum(len(item["input_ids"]) for item in items)
    return {
        "tokens_per_s": tokens / seconds,
        "peak_mb": peak / 2**20,
        "mflop_per_token": counter.get_total_flops() / tokens / 1e6,
    }


def resident(what: str) -> int:
    """Return the bytes of this process that are in memory now (VmRSS) or were at most (VmHWM)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found
    return int(found[1]) << 10


def agreement(folder: Path, items: Sequence[Item]) -> dict[str, float]:
    """Return how far loss and gradient of a step differ, relatively, between published and ours.

    In float32 without dropout; the published way is the model's own loss on padded batches.
    """
    from transformers import DataCollatorForTokenClassification

    base = str(folder / "model")
    tokenizer = local.load_tokenizer(base)
    model = tune.trainable(base, "", adapter("float32", "adamw_torch"), "check", SEED)
    generator = torch.Generator().manual_seed(SEED)
    weights = [one for one in model.parameters() if one.requires_grad]
    for name, one in model.named_parameters():
        if "lora_B" in name:  # zeros would hide the gradients of the A matrices
            one.data.normal_(0, 0.02, generator=generator)
    model.eval()
    step = range(STEP)
    count = torch.tensor(sum(label >= 0 for place in step for label in items[place]["labels"][1:]))

    def computed(parts: Sequence[Sequence[int]], collator: Any, ours: bool) -> tuple[float, Any]:
        total = 0.0
        for part in parts:
            inputs = collator([items[place] for place in part])
            if ours:
                labels = inputs.pop("labels")
                loss = batches.loss(model(**inputs), labels, count)
            else:
                loss = model(**inputs, num_items_in_batch=count).loss
            loss.backward()
            total += float(loss.detach())
        gradient = torch.cat([one.grad.flatten() for one in weights])
        model.zero_grad()
        return total, gradient

    together = training.TOGETHER
    plain = [step[start : start + together] for start in range(0, STEP, together)]
    lengths = [len(item["input_ids"]) for item in items]
    cut = batches.micro_batches(step, lengths, 4, packed=False)
    collator = batches.Collator(tokenizer.pad_token_id, False, local.takes(model, "logits_to_keep"))
    loss, gradient = computed(plain, DataCollatorForTokenClassification(tokenizer), False)
    own_loss, own_gradient = computed(cut, collator, True)
    return {
        "loss": abs(own_loss - loss) / loss,
        "gradient": float((own_gradient - gradient).norm() / gradient.norm()),
    }


def rounds(folder: Path, size: str, count: int) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Return rung -> precision -> what each round measured; the rungs take turns."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        rung.name: {precision: [] for precision in PRECISIONS} for rung in (*LADDER, TRL)
    }
    for number in range(count):
        for precision in PRECISIONS:
            for rung in (*LADDER, TRL):
                arguments = ["--size", size, "--one", rung.name, precision, str(folder)]
                one = training.again(__file__, arguments, 1200)
                if "error" in one:
                    sys.exit(f"{rung.name}, {precision}: {one['error']}")
                print(f"round {number + 1}: {rung.name} {precision} {one}", file=sys.stderr)
                found[rung.name][precision].append(one)
    return found


def middle(runs: Any, rung: str, precision: str, what: str = "tokens_per_s") -> float:
    """Return the median of a rung's rounds."""
    return statistics.median(one[what] for one in runs[rung][precision])


def times(runs: Any, rung: str, other: str, precision: str) -> float:
    """Return how many times as fast a rung is as another, in the same round: the median."""
    pairs = zip(runs[rung][precision], runs[other][precision], strict=True)
    return statistics.median(a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs)


def summary(items: Sequence[Item], runs: Any, size: config.NanoModelConfig) -> dict[str, Any]:
    """Return the gain of each rung, its share of the whole, and the padding before and after."""
    shares: dict[str, dict[str, tuple[float, float]]] = {}
    for precision in PRECISIONS:
        gains = {
            rung.gain: times(runs, rung.name, before.name, precision)
            for before, rung in itertools.pairwise(LADDER)
        }
        whole = sum(map(math.log, gains.values()))
        shares[precision] = {
            what: (gain, math.log(gain) / whole if whole else 0.0) for what, gain in gains.items()
        }
    random_order = batches.steps(len(items), training.TOGETHER, 1, SEED)
    both = {"published": random_order}
    collator = batches.Collator(0, False, True)
    order = batches.steps(len(items), STEP, 1, SEED)
    for name, count in (("sorted", 2), ("ours", plan(items, size).accumulation)):
        both[name] = [
            part for part in Feed(items, order, count, collator).cut(0, 1) if part[0] >= 0
        ]
    padding = {name: training.padded_share(items, cut) for name, cut in both.items()}
    precision = {
        rung.name: middle(runs, rung.name, "bfloat16") / middle(runs, rung.name, "float32")
        for rung in (*LADDER, TRL)
    }
    return {"shares": shares, "padding": padding, "bfloat16_over_float32": precision}


def judged(runs: Any, same: dict[str, float]) -> list[Figure]:
    """Return what is wanted beside what was measured."""
    fast = [
        at_least(f"times the published script, {precision}",
                 times(runs, "ours", "published", precision), FASTER)
        for precision in PRECISIONS
    ]  # fmt: skip
    return [
        *fast,
        at_most("relative difference of the loss, float32", same["loss"], 1e-5),
        at_most("relative difference of the gradient, float32", same["gradient"], 1e-4),
    ]


def report(
    machine: dict[str, Any],
    size: str,
    count: int,
    items: Sequence[Item],
    found: dict[str, Any],
    figures: Sequence[Figure],
    runs: Any,
) -> str:
    """Return the tables in Markdown."""
    titles = ["training"]
    for precision in PRECISIONS:
        titles += [f"{precision}: tokens/s", "times published", "peak MB"]
    rows = [(*titles, "bfloat16 / float32", "MFLOP/token")]
    for rung in (*LADDER, TRL):
        cells = [rung.change]
        for precision in PRECISIONS:
            cells += [
                f"{middle(runs, rung.name, precision):,.0f}",
                f"{times(runs, rung.name, 'published', precision):.2f}",
                f"{middle(runs, rung.name, precision, 'peak_mb'):,.0f}",
            ]
        cells.append(f"{found['bfloat16_over_float32'][rung.name]:.2f}")
        cells.append(f"{middle(runs, rung.name, 'float32', 'mflop_per_token'):.0f}")
        rows.append(tuple(cells))
    gains = [("share of the gain", *(f"{precision}: times, share" for precision in PRECISIONS))]
    for what in found["shares"]["float32"]:
        cells = [found["shares"][precision][what] for precision in PRECISIONS]
        gains.append((what, *(f"{gain:.2f}, {share:.0%}" for gain, share in cells)))
    tokens = sum(len(item["input_ids"]) for item in items)
    lost = sum(label >= 0 for item in items for label in item["labels"])
    padding = ", ".join(f"{name} {share:.0%}" for name, share in found["padding"].items())
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    return (
        "\n\n".join(
            [
                "# Fine-tuning on a CPU",
                f"{size} model, {len(items)} examples of {tokens:,} tokens, {lost:,} with loss; an "
                f"epoch in steps of {STEP}; {count} rounds, medians. {facts}.",
                training.table(rows),
                f"Share of padding: {padding}.",
                training.table(gains),
                training.figures_table(figures),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
