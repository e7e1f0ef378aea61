"""Training jobs: they go on after a kill, log the same steps, and say what stopped them."""

import errno
import os
import random
import shutil
from collections.abc import Sequence
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
        StepError: the loss is no number any more, or the disk is full; checkpoints are kept.
    """
    from safetensors.torch import load_file

    from ecg_llm.train import trainer

    steps = batches.steps(len(items), settings.batch, job.epochs, job.seed)
    collator = Collator(pad, job.packed, takes_logits_to_keep(model))
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
    try:
        rows = _run(made, job)
    except Exception as error:  # of several libraries, each with a class of its own
        if _disk_is_full(error, job.folder):
            raise StepError(
                f"{job.name}: the disk filled while a checkpoint was written to {job.folder}; "
                f"make room and run again: training goes on from the checkpoint before."
            ) from error
        raise
    plain = made.accelerator.unwrap_model(made.model, keep_fp32_wrapper=False)
    kept = made.state.best_global_step if watching.keep != "last" else None
    if kept:
        parallel.wait()
        parallel.put(plain, load_file(job.folder / trainer.BEST))
        parallel.wait()
    else:
        kept = rows[-1].step
    rows = [row.model_copy(update={"kept": row.step == kept}) for row in rows]
    early = made.state.global_step < made.state.max_steps
    return Trained(rows, watch.tokens, watch.seconds, trainer.memory_used(), early)


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


def takes_logits_to_keep(model: "PreTrainedModel") -> bool:
    """Return whether the model can compute the logits of some positions alone."""
    import inspect

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(inner).forward).parameters


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
            warmup_steps=int(settings.warmup * steps),
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
