"""Training jobs: they go on after a kill, log the same steps, and say what stopped them."""

import errno
import math
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ecg_llm import local, privacy, store
from ecg_llm.config import Adapter
from ecg_llm.contracts import StepError, UsageError
from ecg_llm.records import Training
from ecg_llm.train import batches, parallel
from ecg_llm.train.batches import Collator, Item

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from ecg_llm.train.trainer import StepTrainer, Watching

ROWS = "training.jsonl"
JOB = "job.json"
SPEED = "speed.json"
COLUMNS = ("loss", "eval_loss", "eval_choice", "learning_rate")


class Job(NamedTuple):
    """One phase of training: what is not the adapter's own setting."""

    name: str
    phase: Literal["pretrain", "tune"]
    folder: Path
    """Its checkpoints."""
    seed: int
    epochs: float
    learning_rate: float
    micro_batches: int
    """Of a step and process."""
    packed: bool
    checkpointing: bool = False


class Trained(NamedTuple):
    """What a phase gave."""

    rows: list[Training]
    tokens: int
    """Trained on by this process, before a restart not counted."""
    seconds: float
    """In steps."""
    memory: int
    """Most bytes held."""
    stopped_early: bool


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


def train(
    model: "PreTrainedModel",
    pad: int,
    items: Sequence[Item],
    settings: Adapter,
    job: Job,
    watching: "Watching",
    callbacks: "Sequence[TrainerCallback]" = (),
) -> Trained:
    """Train the model in place, from the last complete checkpoint if there is one.

    If `watching` keeps the best weights, the model has them in the end.

    Raises:
        UsageError: no such schedule or optimizer.
        StepError: the loss is no number any more; checkpoints are kept.
    """
    from safetensors.torch import load_file

    from ecg_llm.train import trainer

    steps = batches.steps(len(items), settings.batch, job.epochs, job.seed)
    collator = Collator(pad, job.packed, local.takes(model, "logits_to_keep"))
    watch = trainer.Watch(watching, job.name)
    with local.quiet():
        arguments = _arguments(settings, job, len(steps))
    made = trainer.StepTrainer(
        model=model,
        args=arguments,
        train_dataset=items,
        compute_loss_func=batches.loss,
        callbacks=[watch, *callbacks],
    )
    made.feed = trainer.Feed(items, steps, job.micro_batches, collator)
    made.watching = watching
    parallel.settle(made.accelerator, model)
    rows = _run(made, job)
    plain = made.accelerator.unwrap_model(made.model, keep_fp32_wrapper=False)
    if not parallel.sharded():
        # accelerate would take the model for prepared and leave the next phase in full precision.
        plain._is_accelerate_prepared = False
    if "wandb" in settings.report_to:
        _end_wandb_run()
    kept = made.state.best_global_step if watching.keep != "last" else None
    if kept:
        parallel.wait()
        parallel.put(plain, load_file(job.folder / trainer.BEST.format(kept)))
        parallel.wait()
    else:
        kept = rows[-1].step
    rows = [row.model_copy(update={"kept": row.step == kept}) for row in rows]
    early = made.state.global_step < made.state.max_steps
    return Trained(rows, watch.tokens, watch.seconds, watch.memory, early)


def speed(phases: Sequence[Trained]) -> dict[str, float]:
    """Return tokens a second, seconds and peak memory of a job, as far as this process saw it."""
    seconds = sum(phase.seconds for phase in phases)
    return {
        "tokens_per_s": round(sum(phase.tokens for phase in phases) / max(seconds, 1e-9), 1),
        "seconds": round(seconds, 1),
        "peak_mb": max(phase.memory for phase in phases) >> 20,
    }


@contextmanager
def on_disk(place: Path, name: str) -> Iterator[None]:
    """Turn what a full disk raises, in whatever library, into one sentence.

    Raises:
        StepError: the disk is full; what was done is kept.
    """
    try:
        yield
    except Exception as error:  # of several libraries, each with a class of its own
        if _disk_is_full(error, place):
            raise StepError(
                f"{name}: the disk filled while {place} was written; make room and run again: "
                f"training goes on from the last whole checkpoint."
            ) from error
        raise


def check_names(settings: Adapter, name: str) -> None:
    """Raise for a schedule or optimizer that cannot be made from its name alone.

    Raises:
        UsageError: names it.
    """
    import torch
    from transformers import Trainer, TrainingArguments, get_scheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    try:
        get_scheduler(settings.schedule, torch.optim.SGD([parameter], 0.1), 0, 2)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"adapters.{name}.schedule: {settings.schedule} cannot be used "
            f"({str(error).splitlines()[0]}); take cosine, linear, constant_with_warmup or "
            f"inverse_sqrt."
        ) from error
    try:
        with local.quiet():
            arguments = TrainingArguments(output_dir="", optim=settings.optimizer, use_cpu=True)
            Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(
            f"adapters.{name}.optimizer: {settings.optimizer} cannot be used "
            f"({str(error).splitlines()[0]}); take adamw_torch_fused, or on a GPU "
            f"paged_adamw_32bit or paged_adamw_8bit."
        ) from error


def free() -> None:
    """Give back the memory of models that nothing refers to any more: they stand in cycles."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _end_wandb_run() -> None:
    """Close the run, which else would take the steps of the next phase or adapter as well."""
    import wandb

    wandb.finish()


def blocks(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    length: int,
    seed: int,
    replay: Sequence[str] = (),
    replay_share: float = 0.0,
) -> list[Item]:
    """Return the texts in a random order as blocks of `length` tokens, every token carrying loss.

    Every text starts with the BOS and ends with the EOS token, where the tokenizer has them; the
    tokens after the last whole block are dropped. Of the blocks, `replay_share` are of the replay
    text, as far as it reaches.

    Raises:
        UsageError: there is no text.
    """
    if not texts:
        raise UsageError("There is no passage to pretrain on; set pretrain.epochs to 0.")
    own = _blocks(tokenizer, texts, length, seed)
    if replay and replay_share:
        other = _blocks(tokenizer, replay, length, seed)
        wanted = round(len(own) * replay_share / (1 - replay_share))
        own += random.Random(seed).sample(other, min(wanted, len(other)))
    return [{"input_ids": row, "labels": row} for row in own]


def _blocks(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], length: int, seed: int
) -> list[list[int]]:
    order = list(texts)
    random.Random(seed).shuffle(order)
    before = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    after = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    stream = [
        token for text in order for token in (*before, *local.text_ids(tokenizer, text), *after)
    ]
    length = min(length, len(stream))
    return [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]


def bf16(precision: str) -> bool:
    """Return whether to compute in bfloat16; auto: where the hardware multiplies it."""
    import torch

    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(able.get(feature) for feature in ("avx512_bf16", "amx_bf16", "bf16"))


def _arguments(settings: Adapter, job: Job, steps: int) -> Any:
    """Return the arguments of transformers' Trainer."""
    import torch
    from transformers import TrainingArguments

    cuda = torch.cuda.is_available()
    if "wandb" in settings.report_to and not privacy.allows("wandb.ai"):
        # It sends from a program of its own, which the guard does not see.
        os.environ["WANDB_MODE"] = "offline"
    loggers = [name for name in settings.report_to if name != "tensorboard"]
    try:
        made = TrainingArguments(
            output_dir=str(job.folder),
            run_name=job.name,
            seed=job.seed,
            bf16=bf16(settings.precision),
            use_cpu=not cuda,
            dataloader_pin_memory=cuda,
            ddp_find_unused_parameters=False,
            max_steps=steps,
            per_device_train_batch_size=1,  # the feed says which examples are computed together
            gradient_accumulation_steps=job.micro_batches,
            activation_checkpointing=job.checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False} if job.checkpointing else None,
            learning_rate=job.learning_rate,
            lr_scheduler_type=settings.schedule,
            warmup_steps=math.ceil(settings.warmup * steps),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            optim=settings.optimizer,
            logging_steps=max(1, steps // 200),
            logging_nan_inf_filter=False,
            include_num_input_tokens_seen="all" if job.packed else "non_padding",
            save_strategy="no",  # the watcher says when
            save_total_limit=2,
            remove_unused_columns=False,
            label_names=["labels"],
            report_to=loggers or "none",
            disable_tqdm=True,
        )
    except ValueError as error:
        raise UsageError(
            f"{job.name}: its settings cannot be used: {str(error).splitlines()[0]}"
        ) from error
    if cuda:
        made._n_gpu = 1  # else one process would cut every micro-batch over all cards it sees
    return made


def _run(made: "StepTrainer", job: Job) -> list[Training]:
    """Train from the last complete checkpoint, or from the start, and return the logged steps."""
    from transformers.trainer_callback import PrinterCallback

    made.remove_callback(PrinterCallback)
    last = parallel.first(lambda: _last_checkpoint(job.folder))
    with local.quiet():
        made.train(resume_from_checkpoint=str(last) if last else None)
    rows: dict[int, dict[str, Any]] = {}
    for entry in made.state.log_history:
        if "loss" in entry or "eval_loss" in entry:  # the others sum up the whole run
            row = rows.setdefault(entry["step"], {})
            row |= {column: entry[column] for column in COLUMNS if column in entry}
            row["tokens"] = entry["num_input_tokens_seen"]
    return [
        Training(adapter=job.name, phase=job.phase, step=step, **row)
        for step, row in sorted(rows.items())
    ]


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that was written to its end; torn ones are removed.

    Raises:
        UsageError: they are sharded and this job is not, or the other way round.
    """
    from ecg_llm.train.trainer import COMPLETE

    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint)
        elif any(checkpoint.glob("pytorch_model_fsdp*")) != parallel.sharded():
            other = "without" if parallel.sharded() else "under"
            raise UsageError(
                f"{folder} holds checkpoints of a training {other} FSDP, and only such a one goes "
                f"on from them; start it so again, or remove {folder} to begin anew."
            )
        else:
            whole.append(checkpoint)
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def _disk_is_full(error: BaseException, folder: Path) -> bool:
    """Return whether this error comes from writing to a full disk, which libraries word freely."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    words = str(error).lower()
    if "no space left" in words:
        return True
    writing = "pytorchstreamwriter" in words or "unexpected pos" in words or "i/o" in words
    return writing and folder.exists() and shutil.disk_usage(folder).free < 2**24
