"""Fine-tuning with transformers and PEFT: an adapter, or all weights, on the replies alone."""

import gc
import importlib.util
import random
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecg_llm import local, store
from ecg_llm.config import ADAPTER_ASIDE, Adapter
from ecg_llm.contracts import MissingPackage, Progress, Remark, StepError, UsageError
from ecg_llm.prompt import ChoiceReply, choice_reply
from ecg_llm.records import LETTERS, Question, Training, digest
from ecg_llm.train import batches, jobs, memory, parallel, parity, template
from ecg_llm.train.batches import Item
from ecg_llm.train.template import Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from ecg_llm.train.trainer import Look

RECORD = "tuning.json"
SPEED = "speed.json"
FIT = "fit.json"
"""How many examples are computed at once since memory ran out; survives a kill."""
PACKAGES = ("torch", "transformers", "peft", "accelerate")


class Material(NamedTuple):
    """All that an adapter learns from and is watched by."""

    train: Sequence[Example]
    val: Sequence[Example] = ()
    choices: Sequence[Question] = ()
    """Choice questions of the val split."""
    trained_choices: Sequence[Question] = ()
    """Of the train split: with those of val they make the prompts of the parity check."""
    texts: Sequence[str] = ()
    """Passages of train documents, for continued pretraining."""
    replay: Sequence[str] = ()
    """General text that is mixed into it."""
    counts: Mapping[str, int] = {}
    """What the training examples are made of."""


class Data(NamedTuple):
    """Examples as tokens, and what was left out."""

    items: list[Item]
    too_long: list[int]
    """Their lengths."""
    unusable: list[str]
    """Why the chat template cannot show them."""


def tune(
    base: str | Path,
    revision: str,
    material: Material,
    settings: Adapter,
    out: Path,
    *,
    seed: int,
    name: str = "adapter",
    progress: Progress = lambda done, total: None,
    remark: Remark = lambda words: None,
) -> list[Training]:
    """Fine-tune a model on examples and return the logged steps; loss falls on replies only.

    `out` becomes the folder of a PEFT adapter (of a whole model for method full), at once and
    complete, with tuning.json (settings, examples used and left out, versions), parity.json (what
    the trained model says, before it was saved), speed.json and the TensorBoard logs in runs/. A
    call that was killed goes on from its last checkpoint and ends with the same weights; work lies
    beside `out`. Where memory runs out, half as many examples are computed at once, from the last
    checkpoint on.

    Raises:
        UsageError: the base cannot be trained so, or no example can be used; says why.
        MissingPackage: a package that the settings need is not installed.
        StepError: the loss is no number any more, or the disk is full.
    """
    check_settings(settings, name)
    folder = Path(base)
    weights = local.weights_digest(folder) if folder.is_dir() else f"{base}@{revision}"
    kept = settings.model_dump(mode="json", exclude=set(ADAPTER_ASIDE))
    asked = [q.model_dump(mode="json") for q in (*material.choices, *material.trained_choices)]
    rest = material._replace(choices=(), trained_choices=())
    identity = digest(weights, rest, asked, kept, seed, name)
    place = jobs.begin(out, identity)
    if place is None:
        return store.read(out / jobs.ROWS, Training)
    while True:
        fit = store.read_json(place / FIT) or {}
        now = settings.model_copy(update=fit)
        try:
            rows = parallel.together(
                _attempt,
                {
                    "base": str(base), "revision": revision, "weights": weights,
                    "material": material, "settings": now, "place": place, "seed": seed,
                    "name": name,
                },
                {"progress": progress, "remark": remark},
            )  # fmt: skip
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            remark("memory ran out: half as many examples at once")
        else:
            jobs.finish(place, out)
            return rows
        _free()


def remarks(folder: Path) -> list[str]:
    """Return what a person should know of an adapter that was trained, in sentences."""
    record = store.read_json(folder / RECORD) or {}
    train = record.get("train")
    counts: Mapping[str, Any] = train if isinstance(train, Mapping) else {}
    found = []
    if left := counts.get("too_long"):
        found.append(
            f"{left:,} of {left + counts['examples']:,} examples are longer than max_length and "
            f"left out, the longest of {counts['longest_left_out']:,} tokens; none was cut"
        )
    if unusable := counts.get("unusable"):
        found.append(f"{unusable:,} examples are left out: the chat template cannot show them")
    if record.get("stopped_early"):
        found.append("stopped early: validation got no better")
    return found


def check_settings(settings: Adapter, name: str) -> None:
    """Raise for settings that this machine cannot follow, before anything is loaded.

    Raises:
        UsageError: 4 bit without CUDA, or an optimizer that cannot be sharded.
        MissingPackage: a package is not installed.
    """
    import torch

    if settings.method == "qlora" and not torch.cuda.is_available():
        raise UsageError(
            f"adapters.{name}: method qlora needs a CUDA GPU; use method: lora on this machine."
        )
    special = "8bit" in settings.optimizer or settings.optimizer.startswith("paged_")
    if special and parallel.sharded():
        # bitsandbytes issue 1633: its kernels read past the part that a process holds.
        raise UsageError(
            f"adapters.{name}.optimizer: {settings.optimizer} cannot work on sharded weights; take "
            f"adamw_torch_fused, whose states FSDP deals out over the processes."
        )
    if (special or settings.method == "qlora") and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackage("bitsandbytes", "'ecg-llm[cuda]'", f"adapters.{name}")
    for logger in ("mlflow", "wandb"):
        if logger in settings.report_to and importlib.util.find_spec(logger) is None:
            raise MissingPackage(logger, f"'ecg-llm[{logger}]'", f"adapters.{name}.report_to")


def _attempt(
    *,
    base: str,
    revision: str,
    weights: str,
    material: Material,
    settings: Adapter,
    place: Path,
    seed: int,
    name: str,
    progress: Progress = lambda done, total: None,
    remark: Remark = lambda words: None,
) -> list[Training]:
    """Train from where the work in `place` stands; save the result.

    Where memory runs out, what the next attempt is to compute at once is written down.

    Raises:
        StepError: memory ran out in one of several processes, or with a single example.
    """
    try:
        return _train(
            base, revision, weights, material, settings, place,
            seed=seed, name=name, progress=progress, remark=remark,
        )  # fmt: skip
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        store.write_json(place / FIT, _halved(place, name, error))
        if parallel.processes() > 1:
            # The others are in the middle of a step, where nothing reaches them.
            raise StepError(
                f"{name}: memory ran out; run again: training goes on from the last checkpoint "
                f"with half as many examples at once."
            ) from error
        raise


def _train(
    base: str,
    revision: str,
    weights: str,
    material: Material,
    settings: Adapter,
    place: Path,
    *,
    seed: int,
    name: str,
    progress: Progress,
    remark: Remark,
) -> list[Training]:
    """Train from where the work in `place` stands, with what fits into memory; save the result."""
    import torch

    from ecg_llm.train.trainer import Watching

    cuda = torch.cuda.is_available()
    tokenizer = local.load_tokenizer(base, revision)
    shape = memory.shape_of(base, revision)
    limit = min(settings.max_length, shape.context)
    data = tokenized(tokenizer, material.train, limit)
    if not data.items:
        if data.unusable:
            raise UsageError(f"adapters.{name}: {data.unusable[0]}")
        raise UsageError(
            f"adapters.{name}: none of the {len(material.train)} training examples can be used "
            f"({len(data.too_long)} are longer than {limit} tokens, "
            f"{material.counts.get('without_answer', 0)} questions have no answer); raise "
            f"max_length or write more questions."
        )
    val = tokenized(tokenizer, material.val, limit)
    machine = memory.Machine(cuda, memory.available(cuda), parallel.processes(), parallel.sharded())
    plan = parallel.first(
        lambda: memory.plan(
            shape,
            settings,
            [len(item["input_ids"]) for item in data.items],
            [sum(label >= 0 for label in item["labels"]) for item in data.items],
            machine,
        )
    )
    remark(memory.sentence(plan, settings))
    if not (plan.fits or settings.micro_batch):
        raise UsageError(f"adapters.{name}: {memory.advice(plan, settings)}")
    _check_disk(place, memory.checkpoint_bytes(shape, settings), name)
    if parallel.leads():
        store.write_json(place / "plan.json", {"micro_batch": plan.micro_batch})

    model = trainable(base, revision, settings, name, seed)
    checked = template.check(tokenizer, local.end_ids(model, tokenizer))
    packed = (cuda if settings.packing is None else settings.packing) and parallel.first(
        lambda: batches.keeps_apart(model, data.items)
    )
    parameters = model.num_parameters(), model.num_parameters(only_trainable=True)
    tuning = jobs.Job(
        name, "tune", place / "tune", seed, settings.epochs, settings.learning_rate,
        plan.accumulation, packed, plan.checkpointing,
    )  # fmt: skip
    made: list[jobs.Trained] = []
    if settings.pretrain.epochs > 0:
        blocks = jobs.blocks(
            tokenizer, material.texts, limit, seed, material.replay, settings.pretrain.replay_share
        )
        rate = settings.pretrain.learning_rate or settings.learning_rate
        job = tuning._replace(
            phase="pretrain",
            folder=place / "pretrain",
            epochs=settings.pretrain.epochs,
            learning_rate=rate,
            packed=False,
        )
        watching = Watching(
            save_steps=settings.save_steps, save_last=True, progress=progress, remark=remark
        )
        made.append(jobs.train(model, _pad(tokenizer), blocks, settings, job, watching))
    watching = Watching(
        look=look(tokenizer, val.items, material.choices, settings, seed) if val.items else None,
        eval_steps=settings.eval_steps,
        keep=settings.keep if val.items else "last",
        patience=settings.patience,
        save_steps=settings.save_steps,
        progress=progress,
        remark=remark,
    )
    result = place / "result"
    logs = "tensorboard" in settings.report_to and parallel.leads()
    callbacks = [_tensorboard(result / "runs")] if logs else []
    made.append(
        jobs.train(model, _pad(tokenizer), data.items, settings, tuning, watching, callbacks)
    )
    rows = [row for phase in made for row in phase.rows]
    record = {
        "name": name,
        "base": base,
        "base_weights": weights,
        "revision": revision,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "train": {**material.counts, **_counts(data)},
        "val": _counts(val),
        "packed": packed,
        "stopped_early": made[-1].stopped_early,
        "parameters": parameters[0],
        "parameters_trained": parameters[1],
        "learned_reply": tokenizer.decode([i for i in checked.labels if i >= 0]),
        "versions": {package: metadata.version(package) for package in PACKAGES},
    }
    trained = parallel.trained(model) if parallel.sharded() else None
    if parallel.leads():
        with local.quiet():
            _save(model, tokenizer, record, result, trained)
    choices = [*material.choices, *material.trained_choices]
    probes = parity.probes(material.train, material.val, choices, seed)
    # Sharded weights are only seen by all processes together, and through the outermost module.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    read = model if parallel.sharded() else inner
    measured = parity.measure(local.LocalModel.around(read.eval(), tokenizer, batch=4), probes)
    if not parallel.leads():
        return rows
    parity.write(result, measured)
    seconds = sum(phase.seconds for phase in made)
    store.write_json(
        result / SPEED,
        {
            "tokens_per_s": round(sum(phase.tokens for phase in made) / max(seconds, 1e-9), 1),
            "seconds": round(seconds, 1),
            "peak_mb": max(phase.memory for phase in made) >> 20,
            "plan": memory.sentence(plan, settings),
        },
    )
    store.write(result / jobs.ROWS, rows)
    return rows


def trainable(
    base: str, revision: str, settings: Adapter, name: str, seed: int
) -> "PreTrainedModel":
    """Return the base ready for training: with a fresh adapter, or whole.

    Raises:
        UsageError: the base has no such layers, or cannot be loaded.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    whole = settings.method == "full" or not torch.cuda.is_available()
    model = local.load_model(
        base,
        revision,
        torch.float32 if whole or settings.precision == "float32" else torch.bfloat16,
        "nf4" if settings.method == "qlora" else "none",
        # FSDP deals weights out from memory; in 4 bit it can only do so on the GPU.
        on_gpu=settings.method == "qlora" or not parallel.sharded(),
    )
    if settings.method == "full":
        return model
    targets = settings.targets
    if targets != "all-linear":
        layers = {module.rsplit(".", 1)[-1] for module, _ in model.named_modules()}
        if missing := sorted(set(targets) - layers):
            raise UsageError(
                f"adapters.{name}.targets: {base} has no layers named {', '.join(missing)}; "
                f"all-linear takes every linear layer but the output."
            )
    if parallel.sharded() and model.config.tie_word_embeddings and "lm_head" in targets:
        raise UsageError(
            f"adapters.{name}.targets: the output layer of {base} is its embeddings, and FSDP "
            f"cannot shard these under an adapter; leave lm_head out."
        )
    set_seed(seed)
    adapter = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if targets == "all-linear" else list(targets),
        use_dora=settings.method == "dora",
        use_rslora=settings.method == "rslora",
        task_type="CAUSAL_LM",
    )
    with local.quiet():
        tuned = get_peft_model(model, adapter)
    # PEFT would copy the base's embeddings into checkpoints, and ask the hub for their size.
    tuned.save_pretrained = partial(tuned.save_pretrained, save_embedding_layers=False)
    return tuned


def tokenized(
    tokenizer: "PreTrainedTokenizerBase", examples: Sequence[Example], limit: int
) -> Data:
    """Return the examples as tokens with their loss mask; none is cut to the limit."""
    made = Data([], [], [])
    for example in examples:
        try:
            masked = template.loss_mask(tokenizer, example)
        except UsageError as error:
            made.unusable.append(str(error))
            continue
        if len(masked.ids) > limit:
            made.too_long.append(len(masked.ids))
        else:
            made.items.append({"input_ids": masked.ids, "labels": masked.labels})
    return made


def look(
    tokenizer: "PreTrainedTokenizerBase",
    items: Sequence[Item],
    choices: Sequence[Question],
    settings: Adapter,
    seed: int,
) -> "Look":
    """Return what measures a model in training on val: loss a token, choice accuracy."""
    asked = [question for question in choices if question.answer]
    chosen = random.Random(seed).sample(asked, min(settings.eval_choices, len(asked)))

    def found(model: Any) -> dict[str, float]:
        measured = {"eval_loss": validation_loss(model, _pad(tokenizer), items)}
        if chosen:
            around = local.LocalModel.around(model, tokenizer)
            measured["eval_choice"] = choice_accuracy(around, chosen, settings.mix.choice_reply)
        return measured

    return found


def validation_loss(model: "PreTrainedModel", pad: int, items: Sequence[Item]) -> float:
    """Return the mean loss of the tokens that carry loss, in nats; without dropout."""
    import torch

    order = sorted(items, key=lambda item: len(item["input_ids"]))
    collator = batches.Collator(pad, False, jobs.takes_logits_to_keep(model))
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(order), VALIDATED):
            inputs = collator(order[start : start + VALIDATED])
            labels = inputs.pop("labels").to(model.device)
            moved = {k: v.to(model.device) if hasattr(v, "to") else v for k, v in inputs.items()}
            total += float(batches.loss(model(**moved), labels, 1))
            count += int((labels != batches.IGNORED).sum())
    return total / max(count, 1)


VALIDATED = 8
"""Examples of the val split computed at once."""


def choice_accuracy(
    model: local.LocalModel, questions: Sequence[Question], form: ChoiceReply = "sentence"
) -> float:
    """Return the share of choice questions whose right reply is the likeliest."""
    found = model.likelihoods(
        [template.example(question)["prompt"] for question in questions],
        [
            [
                choice_reply(letter, form, option)
                for letter, option in zip(LETTERS, question.options, strict=False)
            ]
            for question in questions
        ],
    )
    right = 0
    for question, likelihoods in zip(questions, found, strict=True):
        best = max(range(len(likelihoods)), key=lambda i: likelihoods[i].logprob, default=-1)
        right += best == LETTERS.index(question.answer)
    return right / len(questions)


def _counts(data: Data) -> dict[str, int]:
    lengths = [len(item["input_ids"]) for item in data.items]
    return {
        "examples": len(data.items),
        "too_long": len(data.too_long),
        "unusable": len(data.unusable),
        "truncated": 0,
        "longest": max(lengths, default=0),
        "longest_left_out": max(data.too_long, default=0),
        "tokens": sum(lengths),
        "tokens_with_loss": sum(i >= 0 for item in data.items for i in item["labels"]),
    }


def _pad(tokenizer: "PreTrainedTokenizerBase") -> int:
    return int(tokenizer.pad_token_id)


def _halved(place: Path, name: str, error: BaseException) -> dict[str, object]:
    """Return the setting that computes half as many examples at once.

    Raises:
        StepError: it was one already.
    """
    planned = (store.read_json(place / "plan.json") or {}).get("micro_batch", 1)
    if not isinstance(planned, int) or planned <= 1:
        raise StepError(
            f"{name}: memory ran out with a single example; lower max_length or rank, set "
            f"checkpointing: true, or take a smaller model; what was done is kept."
        ) from error
    return {"micro_batch": planned // 2}


def _free() -> None:
    """Give back the memory of an attempt that failed."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_disk(place: Path, checkpoint: int, name: str) -> None:
    """Raise unless the checkpoints of a job fit on the disk.

    Raises:
        StepError: they do not.
    """
    import shutil

    needed = 4 * checkpoint  # two kept, one being written, and the weights of the best look
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StepError(
            f"{name}: its checkpoints take up to {needed / 2**30:.1f} GiB and {free / 2**30:.1f} "
            f"GiB are free at {place}; make room and run again."
        )


def _save(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    record: dict[str, Any],
    folder: Path,
    trained: "dict[str, torch.Tensor] | None" = None,
) -> None:
    """Write the adapter or the whole model with its tokenizer, record and a card.

    `trained` are its weights by name, where the model in memory holds but a part of each.
    """
    adapter = folder / "adapter_config.json"
    model.save_pretrained(folder, state_dict=trained)
    if adapter.exists():
        settings = store.read_json(adapter) or {}
        targets = settings.get("target_modules")
        if isinstance(targets, list):
            # PEFT keeps a set, whose order differs between processes.
            store.write_json(adapter, {**settings, "target_modules": sorted(targets)})
    tokenizer.save_pretrained(folder)
    store.write_json(folder / RECORD, record)
    store.write_text(
        folder / "README.md",
        f"# {record['name']}\n\nFine-tuned with ECG-LLM from {Path(record['base']).name} on "
        f"{record['train']['examples']} examples; every setting is in {RECORD}.\n",
    )


def _tensorboard(folder: Path) -> "TrainerCallback":
    """Return the callback that logs to TensorBoard in this folder."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))
