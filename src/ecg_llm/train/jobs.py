"""Training jobs: they go on after a kill, log the same steps, and pretrain on plain text."""

import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ecg_llm import local, store
from ecg_llm.contracts import Progress, UsageError
from ecg_llm.records import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

ROWS = "training.jsonl"
JOB = "job.json"
COMPLETE = "complete"
"""Marks a checkpoint that was written to its end."""
COLUMNS = ("loss", "eval_loss", "eval_choice", "learning_rate")
SECONDS_BETWEEN_CHECKPOINTS = 20.0
WARMUP = 0.03
"""Share of the pretraining steps."""


def begin(out: Path, identity: str) -> Path | None:
    """Return the folder beside `out` where this job works, or None if `out` is its result.

    The work of another job there is thrown away; that of a killed one is kept.
    """
    place = out.with_name(out.name + ".partial")
    if (store.read_json(out / JOB) or {}).get("job") == identity:
        shutil.rmtree(place, ignore_errors=True)
        return None
    if (store.read_json(place / JOB) or {}).get("job") != identity:
        shutil.rmtree(place, ignore_errors=True)
        store.write_json(place / JOB, {"job": identity})
    return place


def finish(place: Path, out: Path) -> None:
    """Put the result of a job in its place and remove its checkpoints."""
    shutil.copyfile(place / JOB, place / "result" / JOB)
    if out.exists():
        shutil.rmtree(out)
    (place / "result").replace(out)
    shutil.rmtree(place)


def pretrain(
    model: "PreTrainedModel",
    data: Sequence[Sequence[int]],
    folder: Path,
    *,
    name: str,
    seed: int,
    epochs: float,
    batch: int,
    learning_rate: float,
    progress: Progress | None = None,
) -> list[Training]:
    """Train the model in place on blocks of tokens, every token carrying loss; return the steps."""
    import torch
    from transformers import Trainer, TrainingArguments, default_data_collator

    steps = total_steps(len(data), batch, epochs)
    settings = TrainingArguments(
        **arguments(folder, seed, steps),
        per_device_train_batch_size=batch,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(WARMUP * steps),
        weight_decay=0.01,
        optim="adamw_torch_fused",
        include_num_input_tokens_seen="all",
    )
    items = [torch.tensor(row) for row in data]
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=[{"input_ids": row, "labels": row} for row in items],
        data_collator=default_data_collator,
        callbacks=[watch(progress, steps, last=True)],
    )
    return run(trainer, name, "pretrain")


def blocks(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], length: int, seed: int
) -> list[list[int]]:
    """Return the texts in a random order as blocks of `length` tokens, the last ones dropped.

    Every text starts with the BOS and ends with the EOS token, where the tokenizer has them.

    Raises:
        UsageError: there is no text.
    """
    order = list(texts)
    random.Random(seed).shuffle(order)
    before = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    after = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    stream = [
        token for text in order for token in (*before, *local.text_ids(tokenizer, text), *after)
    ]
    if not texts:
        raise UsageError("There is no passage to pretrain on; set pretrain_epochs to 0.")
    length = min(length, len(stream))
    return [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]


def arguments(folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """Return the arguments of transformers' Trainer that every phase shares."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "seed": seed,
        "bf16": _bf16_is_fast(),
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "logging_steps": max(1, steps // 200),
        "save_strategy": "no",  # the watcher says when
        "save_total_limit": 2,
        "disable_tqdm": True,
    }


def _bf16_is_fast() -> bool:
    """Return whether this machine multiplies bf16 in hardware."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(able.get(feature) for feature in ("avx512_bf16", "amx_bf16", "bf16"))


def total_steps(items: int, batch: int, epochs: float) -> int:
    """Return the optimizer steps of so many epochs."""
    return max(1, round(-(-items // batch) * epochs))


def run(trainer: "Trainer", name: str, phase: Literal["pretrain", "tune"]) -> list[Training]:
    """Train from the last complete checkpoint, or from the start, and return the logged steps."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    last = _last_checkpoint(Path(trainer.args.output_dir))
    with local.quiet():
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    rows: dict[int, dict[str, Any]] = {}
    for entry in trainer.state.log_history:
        if "loss" in entry or "eval_loss" in entry:  # the others sum up the whole run
            row = rows.setdefault(entry["step"], {})
            row |= {column: entry[column] for column in COLUMNS if column in entry}
            row["tokens"] = entry["num_input_tokens_seen"]
    return [
        Training(adapter=name, phase=phase, step=step, **row) for step, row in sorted(rows.items())
    ]


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that was written to its end; torn ones are removed."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / COMPLETE).exists():
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def watch(
    progress: Progress | None,
    save_steps: int,
    *,
    evaluate: Callable[[], float | None] | None = None,
    last: bool = False,
) -> "TrainerCallback":
    """Return the callback that tells progress, asks for checkpoints and marks them complete.

    `evaluate` gives the eval_choice of each evaluation; there is one at the end, too.

    A checkpoint is due every `save_steps` steps or 20 seconds, and at the end if `last`, but only
    where a step has just been logged: so that the losses logged after a restart are the same.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        saved_at = time.monotonic()
        saved_step = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress is not None:
                progress(state.global_step, state.max_steps)
            at_end = state.global_step >= state.max_steps
            due = (
                state.global_step - self.saved_step >= save_steps
                or time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS
            )
            logged = state.global_step % args.logging_steps == 0
            control.should_save = (last and at_end) or (due and logged and not at_end)
            control.should_log |= at_end
            control.should_evaluate |= evaluate is not None and at_end

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if evaluate is not None:
                state.log_history[-1]["eval_choice"] = evaluate()

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
            self.saved_at = time.monotonic()
            self.saved_step = state.global_step

    return Watch()
