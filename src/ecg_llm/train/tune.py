"""Fine-tuning with TRL and PEFT, and continued pretraining: killed jobs go on where they were."""

import importlib.util
import random
import shutil
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ecg_llm import local, store
from ecg_llm.config import Adapter
from ecg_llm.contracts import MissingPackage, Progress, UsageError
from ecg_llm.records import Question, Training, digest
from ecg_llm.train import template

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

ROWS = "training.jsonl"
RECORD = "tuning.json"
JOB = "job.json"
COMPLETE = "complete"
"""Marks a checkpoint that was written to its end."""
SECONDS_BETWEEN_CHECKPOINTS = 20.0
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


class Data(NamedTuple):
    """Tokenised questions, and how many were left out and why."""

    items: list[dict[str, list[int]]]
    too_long: int
    without_answer: int


def tune(
    base: str | Path,
    revision: str,
    train: Sequence[Question],
    val: Sequence[Question],
    texts: Sequence[str],
    settings: Adapter,
    out: Path,
    *,
    seed: int,
    name: str = "adapter",
    progress: Progress | None = None,
) -> list[Training]:
    """Fine-tune a model on questions and return the logged steps; loss falls on replies only.

    `out` becomes the folder of a PEFT adapter (of a whole model for method full), at once and
    complete, with tuning.json (examples used and left out, parameters, versions) and the
    TensorBoard logs in runs/. A call that was killed goes on from its last checkpoint and ends
    with the same weights; work lies beside `out`.

    Raises:
        UsageError: the base cannot be trained so; says why.
        MissingPackage: a package that the settings need is not installed.
    """
    _check(settings, name)
    base = str(base)
    weights = local.weights_digest(Path(base)) if Path(base).is_dir() else revision
    rows = [[question.model_dump(mode="json") for question in part] for part in (train, val)]
    kept = settings.model_dump(mode="json", exclude={"report_to", "save_steps"})
    place = begin(out, digest(base, weights, rows, list(texts), kept, seed, name))
    if place is None:
        return store.read(out / ROWS, Training)
    tokenizer = local.load_tokenizer(base, revision)
    model = _trainable(base, revision, settings, name, seed)
    checked = template.check(tokenizer, local.end_ids(model, tokenizer))
    limit = min(settings.max_length, local.context(model))
    data = _data(tokenizer, train, limit)
    if not data.items:
        raise UsageError(
            f"adapters.{name}: none of the {len(train)} training questions can be used "
            f"({data.too_long} are longer than {limit} tokens, {data.without_answer} have no "
            f"answer); raise max_length or write more questions."
        )
    val_data = _data(tokenizer, val, limit)
    made: list[Training] = []
    if settings.pretrain_epochs > 0:
        made += pretrain(
            model,
            blocks(tokenizer, texts, limit, seed),
            place / "pretrain",
            name=name,
            seed=seed,
            epochs=settings.pretrain_epochs,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            progress=progress,
        )
    made += _supervise(model, tokenizer, data, val_data, settings, place, name, seed, progress)
    record = {
        "name": name,
        "base": base,
        "revision": revision,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "train": _counts(data),
        "val": _counts(val_data),
        "parameters": model.num_parameters(),
        "parameters_trained": model.num_parameters(only_trainable=True),
        "learned_reply": tokenizer.decode([i for i in checked.labels if i >= 0]),
        "versions": {package: metadata.version(package) for package in PACKAGES},
    }
    _save(model, tokenizer, record, place / "result")
    store.write(place / "result" / ROWS, made)
    finish(place, out)
    return made


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

    steps = _steps(len(data), batch, epochs)
    arguments = TrainingArguments(
        **_arguments(folder, seed, steps),
        per_device_train_batch_size=batch,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        weight_decay=0.01,
        optim="adamw_torch",
        include_num_input_tokens_seen="all",
    )
    items = [torch.tensor(row) for row in data]
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in items],
        data_collator=default_data_collator,
        callbacks=[_watch(progress, steps, last=True)],
    )
    return _run(trainer, name, "pretrain")


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


def _check(settings: Adapter, name: str) -> None:
    """Raise for settings that this machine cannot follow, before anything is loaded."""
    import torch

    if settings.method == "qlora" and not torch.cuda.is_available():
        raise UsageError(
            f"adapters.{name}: method qlora needs a CUDA GPU; use method: lora on this machine."
        )
    if settings.packing and settings.method != "full" and "lm_head" in settings.targets:
        raise UsageError(
            f"adapters.{name}: packing does not go with an adapter on lm_head; "
            f"set packing: false or take lm_head out of targets."
        )
    needs_bitsandbytes = settings.method == "qlora" or settings.optimizer.startswith("paged_")
    if needs_bitsandbytes and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackage("bitsandbytes", "'ecg-llm[cuda]'", f"adapters.{name}")
    if "mlflow" in settings.report_to and importlib.util.find_spec("mlflow") is None:
        raise MissingPackage("mlflow", "'ecg-llm[mlflow]'", f"adapters.{name}.report_to")


def _trainable(
    base: str, revision: str, settings: Adapter, name: str, seed: int
) -> "PreTrainedModel":
    """Return the base ready for training: with a fresh adapter, or whole."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    whole = settings.method == "full" or not torch.cuda.is_available()
    model = local.load_model(
        base,
        revision,
        torch.float32 if whole else torch.bfloat16,
        "nf4" if settings.method == "qlora" else "none",
    )
    if settings.method == "full":
        return model
    layers = {module.rsplit(".", 1)[-1] for module, _ in model.named_modules()}
    if missing := sorted(set(settings.targets) - layers):
        raise UsageError(
            f"adapters.{name}.targets: {base} has no layers named {', '.join(missing)}."
        )
    set_seed(seed)
    return get_peft_model(
        model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.targets),
            task_type="CAUSAL_LM",
        ),
    )


def _data(tokenizer: "PreTrainedTokenizerBase", questions: Sequence[Question], limit: int) -> Data:
    """Return the questions as tokens with their loss mask; none is cut to the limit."""
    items = []
    too_long = without_answer = 0
    for question in questions:
        if not (question.answer if question.kind == "choice" else question.reference):
            without_answer += 1
            continue
        masked = template.loss_mask(tokenizer, template.example(question))
        if len(masked.ids) > limit:
            too_long += 1
            continue
        items.append({"input_ids": masked.ids, "labels": masked.labels})
    return Data(items, too_long, without_answer)


def _counts(data: Data) -> dict[str, int]:
    return {
        "examples": len(data.items),
        "too_long": data.too_long,
        "without_answer": data.without_answer,
        "tokens": sum(len(item["input_ids"]) for item in data.items),
        "tokens_with_loss": sum(i >= 0 for item in data.items for i in item["labels"]),
    }


def _supervise(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    data: Data,
    val: Data,
    settings: Adapter,
    place: Path,
    name: str,
    seed: int,
    progress: Progress | None,
) -> list[Training]:
    """Train the model in place on the replies and return the logged steps."""
    import torch
    from datasets import Dataset
    from transformers import Trainer
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    steps = _steps(len(data.items), settings.batch * settings.accumulation, settings.epochs)
    try:
        arguments = SFTConfig(
            **_arguments(place / "tune", seed, steps),
            per_device_train_batch_size=settings.batch,
            per_device_eval_batch_size=settings.batch,
            gradient_accumulation_steps=settings.accumulation,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            optim=settings.optimizer,
            eval_strategy="steps" if val.items else "no",
            eval_steps=settings.eval_steps,
            prediction_loss_only=True,
            include_num_input_tokens_seen="non_padding",
            report_to=["mlflow"] if "mlflow" in settings.report_to else "none",
            gradient_checkpointing=torch.cuda.is_available(),
            packing=settings.packing,
            # Nothing is too long here, and a limit would let TRL cut.
            max_length=settings.max_length if settings.packing else None,
        )
    except ValueError as error:
        raise UsageError(f"adapters.{name}: {error}") from error
    callbacks = [_watch(progress, settings.save_steps, evaluate=bool(val.items))]
    if "tensorboard" in settings.report_to:
        callbacks.append(_tensorboard(place / "result" / "runs"))
    options: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": Dataset.from_list(data.items),
        "eval_dataset": Dataset.from_list(val.items) if val.items else None,
        "processing_class": tokenizer,
        "callbacks": callbacks,
    }
    if settings.method == "full" or "lm_head" not in settings.targets:
        return _run(SFTTrainer(**options), name, "tune")
    # TRL 1.16 computes its loss from lm_head's own weights and refuses an adapter on it.
    if arguments.gradient_checkpointing:
        model.enable_input_require_grads()
    collator = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
    return _run(Trainer(**options, data_collator=collator), name, "tune")


def _arguments(folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """Return the training arguments that every phase shares."""
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
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return any(able.get(feature) for feature in ("avx512_bf16", "amx_bf16", "bf16"))


def _steps(items: int, batch: int, epochs: float) -> int:
    return max(1, round(-(-items // batch) * epochs))


def _run(trainer: "Trainer", name: str, phase: Literal["pretrain", "tune"]) -> list[Training]:
    """Train from the last complete checkpoint, or from the start, and return the logged steps."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    last = _last_checkpoint(Path(trainer.args.output_dir))
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    rows: dict[int, dict[str, Any]] = {}
    for entry in trainer.state.log_history:
        row = rows.setdefault(entry["step"], {"tokens": entry.get("num_input_tokens_seen", 0)})
        row |= {k: entry[k] for k in ("loss", "eval_loss", "learning_rate") if k in entry}
    return [
        Training(adapter=name, phase=phase, step=step, **row)
        for step, row in sorted(rows.items())
        if "loss" in row or "eval_loss" in row
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


def _watch(
    progress: Progress | None, save_steps: int, *, evaluate: bool = False, last: bool = False
) -> "TrainerCallback":
    """Return the callback that tells progress, asks for checkpoints and marks them complete.

    A checkpoint is due every `save_steps` steps or 20 seconds, and at the end if `last`, but only
    where a step has just been logged: so that the losses logged after a restart are the same.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
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
            control.should_evaluate |= evaluate and at_end

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
            self.saved_at = time.monotonic()
            self.saved_step = state.global_step

    return Watch()


def _tensorboard(folder: Path) -> "TrainerCallback":
    """Return the callback that logs to TensorBoard in this folder."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))


def _save(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    record: dict[str, Any],
    folder: Path,
) -> None:
    """Write the adapter or the whole model with its record and a card."""
    adapter = folder / "adapter_config.json"
    if record["settings"]["method"] == "full":
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    else:
        model.save_pretrained(folder, save_embedding_layers=False)
        settings = store.read_json(adapter) or {}
        # PEFT keeps a set, whose order differs between processes.
        store.write_json(
            adapter, {**settings, "target_modules": sorted(record["settings"]["targets"])}
        )
    store.write_json(folder / RECORD, record)
    store.write_text(
        folder / "README.md",
        f"# {record['name']}\n\nFine-tuned with ECG-LLM from {Path(record['base']).name} on "
        f"{record['train']['examples']} questions; every setting is in {RECORD}.\n",
    )
