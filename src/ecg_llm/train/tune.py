"""Fine-tuning with TRL and PEFT: a LoRA or QLoRA adapter, or all weights, on the replies alone."""

import importlib.util
import random
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecg_llm import local, store
from ecg_llm.config import Adapter
from ecg_llm.contracts import MissingPackage, Progress, UsageError
from ecg_llm.prompt import choice_reply
from ecg_llm.records import LETTERS, Question, Training, digest
from ecg_llm.train import jobs, template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
    from trl import SFTConfig

RECORD = "tuning.json"
CHOICES = 200
"""Choice questions of the val split, at most, that each evaluation asks."""
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
    place = jobs.begin(out, digest(base, weights, rows, list(texts), kept, seed, name))
    if place is None:
        return store.read(out / jobs.ROWS, Training)
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
        made += jobs.pretrain(
            model,
            jobs.blocks(tokenizer, texts, limit, seed),
            place / "pretrain",
            name=name,
            seed=seed,
            epochs=settings.pretrain_epochs,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            progress=progress,
        )
    callbacks = [
        jobs.watch(
            progress,
            settings.save_steps,
            evaluate=_evaluation(model, tokenizer, val, settings.batch, seed)
            if val_data.items
            else None,
        )
    ]
    if "tensorboard" in settings.report_to:
        callbacks.append(_tensorboard(place / "result" / "runs"))
    arguments = _arguments(settings, place / "tune", len(data.items), bool(val_data.items), seed)
    trainer = _trainer(model, tokenizer, data, val_data, arguments, settings, callbacks)
    made += jobs.run(trainer, name, "tune")
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
    with local.quiet():
        _save(model, tokenizer, record, place / "result")
    store.write(place / "result" / jobs.ROWS, made)
    jobs.finish(place, out)
    return made


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
    adapter = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
    with local.quiet():
        tuned = get_peft_model(model, adapter)
    # PEFT would copy the base's embeddings into checkpoints, and ask the hub for their size.
    tuned.save_pretrained = partial(tuned.save_pretrained, save_embedding_layers=False)
    return tuned


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


def _arguments(
    settings: Adapter, folder: Path, examples: int, evaluates: bool, seed: int
) -> "SFTConfig":
    """Return TRL's settings.

    Raises:
        UsageError: no such schedule or optimizer.
    """
    import torch
    from trl import SFTConfig

    steps = jobs.total_steps(examples, settings.batch * settings.accumulation, settings.epochs)
    try:
        return SFTConfig(
            **jobs.arguments(folder, seed, steps),
            per_device_train_batch_size=settings.batch,
            per_device_eval_batch_size=settings.batch,
            gradient_accumulation_steps=settings.accumulation,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup,  # below 1: a share of the steps
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            optim=settings.optimizer,
            eval_strategy="steps" if evaluates else "no",
            eval_steps=settings.eval_steps,
            prediction_loss_only=True,
            include_num_input_tokens_seen="non_padding",
            report_to=["mlflow"] if "mlflow" in settings.report_to else "none",
            activation_checkpointing=torch.cuda.is_available(),
            packing=settings.packing,
            # No example is too long, and with a limit TRL would cut.
            max_length=settings.max_length if settings.packing else None,
        )
    except ValueError as error:
        raise UsageError(f"The adapter's settings cannot be used: {error}") from error


def _trainer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    data: Data,
    val: Data,
    arguments: "SFTConfig",
    settings: Adapter,
    callbacks: "list[TrainerCallback]",
) -> "Trainer":
    """Return TRL's trainer, or transformers' own where an adapter sits on lm_head."""
    import datasets
    from transformers import Trainer
    from trl import SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    datasets.disable_progress_bars()
    options: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": datasets.Dataset.from_list(data.items),
        "eval_dataset": datasets.Dataset.from_list(val.items) if val.items else None,
        "processing_class": tokenizer,
        "callbacks": callbacks,
    }
    if settings.method == "full" or "lm_head" not in settings.targets:
        return SFTTrainer(**options)
    # TRL 1.16 computes the loss from lm_head's own weights and refuses an adapter on it.
    if arguments.activation_checkpointing:
        model.enable_input_require_grads()
    collator = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
    return Trainer(**options, data_collator=collator)


def _evaluation(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    val: Sequence[Question],
    batch: int,
    seed: int,
) -> Callable[[], float | None]:
    """Return what measures the accuracy of the model in training on choice questions of val."""
    asked = [question for question in val if question.kind == "choice" and question.answer]
    chosen = random.Random(seed).sample(asked, min(CHOICES, len(asked)))
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    around = local.LocalModel.around(inner, tokenizer, batch=batch)
    return lambda: choice_accuracy(around, chosen)


def choice_accuracy(model: local.LocalModel, questions: Sequence[Question]) -> float | None:
    """Return the share of choice questions whose right reply is the likeliest; None for none."""
    if not questions:
        return None
    found = model.likelihoods(
        [template.example(question)["prompt"] for question in questions],
        [[choice_reply(letter) for letter in LETTERS[: len(q.options)]] for q in questions],
    )
    right = 0
    for question, likelihoods in zip(questions, found, strict=True):
        best = max(range(len(likelihoods)), key=lambda i: likelihoods[i].logprob, default=-1)
        right += best == LETTERS.index(question.answer)
    return right / len(questions)


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
        model.save_pretrained(folder)
        settings = store.read_json(adapter) or {}
        # PEFT keeps a set, whose order differs between processes.
        targets = sorted(record["settings"]["targets"])
        store.write_json(adapter, {**settings, "target_modules": targets})
    store.write_json(folder / RECORD, record)
    store.write_text(
        folder / "README.md",
        f"# {record['name']}\n\nFine-tuned with ECG-LLM from {Path(record['base']).name} on "
        f"{record['train']['examples']} questions; every setting is in {RECORD}.\n",
    )


def _tensorboard(folder: Path) -> "TrainerCallback":
    """Return the callback that logs to TensorBoard in this folder."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))
