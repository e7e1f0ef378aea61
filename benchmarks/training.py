"""What the benchmarks of fine-tuning compare: the published script, TRL's defaults, and ours."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    DataCollatorForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ecg_llm import config
from ecg_llm.train import batches, jobs
from ecg_llm.train.batches import Item
from ecg_llm.train.trainer import Watching

TOGETHER, ACCUMULATED = 16, 2
"""Examples a micro-batch and micro-batches a step of the published script."""
STEP = TOGETHER * ACCUMULATED
RESULTS = Path(__file__).parent / "results"


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: float | None
    wanted: str
    met: bool | None
    """None: there was nothing to compare."""


class Clock(TrainerCallback):
    """Takes the time of a training from its first batch to its last step, logging and all."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.paged = 0
        """Bytes of optimizer states that a paged optimizer holds outside of torch's allocator."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start."""
        synchronize()
        self.seconds = -time.perf_counter()

    def on_train_end(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        """Stop."""
        synchronize()
        self.seconds += time.perf_counter()
        states = [value for row in optimizer.state.values() for value in row.values()]
        self.paged = sum(one.nbytes for one in states if getattr(one, "is_paged", False))


Run = Callable[[Sequence[Item]], Clock]
"""Trains one epoch on these items."""


def settings(**changes: Any) -> config.Adapter:
    """Return the published adapter, with these changes."""
    return config.Adapter.model_validate({"preset": "paper", "report_to": (), **changes})


def lora(adapter: config.Adapter, *, output_layer: bool = True) -> LoraConfig:
    """Return PEFT's settings of an adapter; TRL refuses one on the output layer."""
    targets = [name for name in adapter.targets if output_layer or name != "lm_head"]
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def published(
    model: Any,
    tokenizer: Any,
    adapter: config.Adapter,
    *,
    checkpointing: bool = True,
    only_loss_tokens: bool = False,
    bf16: bool = False,
    fp16: bool = False,
) -> Run:
    """Return a plain Trainer as the published script sets it up: PAPER, section 4.1 and its code.

    Batches in random order, padded to their longest; activations computed twice; the output layer
    at every token. The last two can be switched off, one after the other.
    """
    made = get_peft_model(model, lora(adapter))
    collator: Any = DataCollatorForTokenClassification(tokenizer)
    if only_loss_tokens:
        collator = batches.Collator(tokenizer.pad_token_id, packed=False, keeps_logits=True)

    def run(items: Sequence[Item]) -> Clock:
        clock = Clock()
        with tempfile.TemporaryDirectory() as place:
            arguments = TrainingArguments(
                output_dir=place,
                per_device_train_batch_size=TOGETHER,
                gradient_accumulation_steps=ACCUMULATED,
                num_train_epochs=1,
                activation_checkpointing=checkpointing,
                learning_rate=adapter.learning_rate,
                lr_scheduler_type=adapter.schedule,
                warmup_steps=int(adapter.warmup * len(items) / STEP),
                max_grad_norm=adapter.max_grad_norm,
                optim=adapter.optimizer,
                bf16=bf16,
                fp16=fp16,
                logging_steps=100,
                **_plain(),
            )
            Trainer(
                model=made,
                args=arguments,
                train_dataset=list(items),
                data_collator=collator,
                compute_loss_func=batches.loss if only_loss_tokens else None,
                callbacks=[clock],
            ).train()
        return clock

    return run


def trl_defaults(model: Any, tokenizer: Any, adapter: config.Adapter, *, bf16: bool) -> Run:
    """Return TRL's SFTTrainer as it is without settings, but for batch, LoRA and precision.

    Without the LoRA on the output layer, which TRL 1.16 refuses: its fused loss would bypass it.
    """
    from trl import SFTConfig, SFTTrainer

    made = model

    def run(items: Sequence[Item]) -> Clock:
        nonlocal made
        clock = Clock()
        with tempfile.TemporaryDirectory() as place:
            arguments = SFTConfig(
                output_dir=place,
                per_device_train_batch_size=TOGETHER,
                gradient_accumulation_steps=ACCUMULATED,
                num_train_epochs=1,
                bf16=bf16,
                **_plain(),
            )
            trainer = SFTTrainer(
                model=made,
                args=arguments,
                train_dataset=dataset(items),
                processing_class=tokenizer,
                peft_config=None if made is not model else lora(adapter, output_layer=False),
                callbacks=[clock],
            )
            made = trainer.model
            trainer.train()
        return clock

    return run


def ours(model: Any, pad: int, adapter: config.Adapter, micro_batches: int, **job: bool) -> Run:
    """Return our training of a model that `tune.trainable` made."""

    def run(items: Sequence[Item]) -> Clock:
        clock = Clock()
        with tempfile.TemporaryDirectory() as place:
            what = jobs.Job(
                name="ours",
                phase="tune",
                folder=Path(place),
                seed=0,
                epochs=1,
                learning_rate=adapter.learning_rate,
                micro_batches=micro_batches,
                packed=job.get("packed", False),
                checkpointing=job.get("checkpointing", False),
            )
            jobs.train(model, pad, items, adapter, what, Watching(), [clock])
        return clock

    return run


def _plain() -> dict[str, Any]:
    """Return what says nothing about speed: no reports, no checkpoints, the device that is here."""
    cuda = torch.cuda.is_available()
    return {
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "remove_unused_columns": False,
    }


def dataset(items: Sequence[Item]) -> Dataset:
    """Return items as TRL takes them: as tokens, whose labels it leaves as they are."""
    return Dataset.from_list([dict(item) for item in items])


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def padded_share(items: Sequence[Item], cut: Sequence[Sequence[int]]) -> float:
    """Return the share of padding in these micro-batches."""
    lengths = [[len(items[place]["input_ids"]) for place in part] for part in cut if part]
    return 1 - sum(map(sum, lengths)) / sum(len(part) * max(part) for part in lengths)


def again(file: str, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return the JSON that this file prints last in a process of its own, or {"error": why}."""
    try:
        done = subprocess.run(
            [sys.executable, file, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {seconds:.0f} s"}
    if done.returncode:
        sys.stderr.write(done.stderr[-4000:])
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"error": lines[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    import accelerate
    import peft

    load = os.getloadavg()[0]
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
        "threads": torch.get_num_threads(),
        "load_before": round(load, 1),
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"device": card.name, "device_gib": round(card.total_memory / 2**30, 1)}
    return found


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them the titles, as a Markdown table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def figures_table(figures: Sequence[Figure]) -> str:
    """Return figures beside what is wanted of them."""
    said = {True: "met", False: "missed", None: "not measured"}
    rows = [
        (one.what, "-" if one.value is None else f"{one.value:.3g}", one.wanted, said[one.met])
        for one in figures
    ]
    return table([("figure", "measured", "wanted", ""), *rows])


def at_least(what: str, value: float | None, wanted: float) -> Figure:
    """Return a figure that must not be below what is wanted."""
    return Figure(what, value, f">= {wanted:g}", None if value is None else value >= wanted)


def at_most(what: str, value: float | None, wanted: float) -> Figure:
    """Return a figure that must not be above what is wanted."""
    return Figure(what, value, f"<= {wanted:g}", None if value is None else value <= wanted)


def keep(name: str, found: dict[str, Any], text: str, folder: Path = RESULTS) -> None:
    """Write the results into a folder, as JSON and as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (folder / f"{name}.md").write_text(text, "utf-8")
