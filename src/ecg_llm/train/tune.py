"""Fine-tuning with transformers and PEFT: an adapter, or all weights, on the replies alone."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecg_llm import local, store
from ecg_llm.config import ADAPTER_ASIDE, Adapter, Pretraining
from ecg_llm.contracts import MissingPackage, Progress, Remark, StepError, UsageError
from ecg_llm.records import Question, Training, digest
from ecg_llm.train import batches, jobs, memory, parallel, parity, template, validation
from ecg_llm.train.batches import Item
from ecg_llm.train.template import Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

RECORD = "tuning.json"
FIT = "fit.json"
"""How many examples are computed at once since memory ran out; survives a kill."""
FEW = 20
"""Examples below which a person is told."""
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
    # What tokenizer and template make of examples: both may change while the weights do not.
    seen = tokenized(local.load_tokenizer(str(base), revision), material.train[:8], 10**9).items
    identity = digest(weights, seen, rest, asked, kept, seed, name)
    place = jobs.begin(out, identity)
    if place is None:
        return store.read(out / jobs.ROWS, Training)
    jobs.check_names(settings, name)
    try:
        with jobs.on_disk(place, name):
            return _until_it_fits(
                {
                    "base": str(base), "revision": revision, "weights": weights,
                    "material": material, "settings": settings, "place": place, "seed": seed,
                    "name": name,
                },
                out, progress, remark,
            )  # fmt: skip
    finally:
        jobs.free()


def _until_it_fits(
    job: dict[str, Any], out: Path, progress: Progress, remark: Remark
) -> list[Training]:
    """Try, with half as many examples at once each time that memory runs out."""
    place, settings = job["place"], job["settings"]
    while True:
        fit = store.read_json(place / FIT) or {}
        now = settings.model_copy(update=fit)
        try:
            rows = parallel.together(
                _attempt, {**job, "settings": now}, {"progress": progress, "remark": remark}
            )
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            remark("memory ran out: half as many examples at once")
        else:
            jobs.finish(place, out)
            return rows
        jobs.free()


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
    wanted = record.get("settings")
    keep = wanted.get("keep") if isinstance(wanted, Mapping) else None
    if 0 < counts.get("examples", FEW) < FEW:
        found.append(f"only {counts['examples']:,} examples: too few to learn much from")
    if keep != record.get("kept_by"):
        lacks = (
            "no choice question of val is asked"
            if record.get("kept_by") == "loss"
            else "the val split is empty"
        )
        found.append(f"{lacks}, so weights are kept by: {record.get('kept_by')}")
    if not (folder / parity.FILE).exists():
        found.append("memory did not do for the parity record; export makes one first")
    return found


def kept_by(settings: Adapter, has_val: bool, has_choices: bool) -> str:
    """Return what decides the weights that are kept, given what the val split holds."""
    if not has_val:
        return "last"
    if settings.keep == "choice" and not (has_choices and settings.eval_choices):
        return "loss"
    return settings.keep


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
    if cuda:
        torch.cuda.reset_peak_memory_stats()
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
    alone = settings.model_copy(update={"pretrain": Pretraining()})

    def planned(
        how: Adapter, epochs: float, lengths: Sequence[int], lost: Sequence[int]
    ) -> memory.Plan:
        # A step of more examples than there are would be cut into parts that hold none.
        most = max(1, round(len(lengths) * epochs))
        how = how.model_copy(update={"batch": min(how.batch, most)})
        made = parallel.first(lambda: memory.plan(shape, how, lengths, lost, machine))
        remark(memory.sentence(made, how))
        if not (made.fits or settings.micro_batch):
            raise UsageError(f"adapters.{name}: {memory.advice(made, how)}")
        return made

    plan = planned(
        alone,
        settings.epochs,
        [len(item["input_ids"]) for item in data.items],
        [sum(label >= 0 for label in item["labels"]) for item in data.items],
    )
    _check_disk(place, memory.checkpoint_bytes(shape, settings), name)

    model = trainable(base, revision, settings, name, seed)
    checked = template.check(tokenizer, local.end_ids(model, tokenizer))
    # A model that reads padding as text gets one example at a time.
    one_by_one = plan.accumulation * plan.micro_batch
    cut = plan.accumulation if local.may_pad(model) else one_by_one
    packed = (cuda if settings.packing is None else settings.packing) and parallel.first(
        lambda: batches.keeps_apart(model, data.items)
    )
    if not packed and (settings.packing or (cuda and settings.packing is None)):
        remark("this model does not keep packed examples apart: they are padded")
    parameters = model.num_parameters(), model.num_parameters(only_trainable=True)
    tuning = jobs.Job(
        name, "tune", place / "tune", seed, settings.epochs, settings.learning_rate,
        plan.accumulation if packed else cut, packed, plan.checkpointing,
    )  # fmt: skip
    made: list[jobs.Trained] = []
    if settings.pretrain.epochs > 0:
        blocks = jobs.blocks(
            tokenizer, material.texts, limit, seed, material.replay, settings.pretrain.replay_share
        )
        rate = settings.pretrain.learning_rate or settings.learning_rate
        whole = [len(block["input_ids"]) for block in blocks]
        padded = alone.model_copy(update={"packing": False})
        reading = planned(padded, settings.pretrain.epochs, whole, whole)
        _note_plan(place, reading)
        job = tuning._replace(
            phase="pretrain",
            folder=place / "pretrain",
            epochs=settings.pretrain.epochs,
            learning_rate=rate,
            micro_batches=reading.accumulation,
            packed=False,
            checkpointing=reading.checkpointing,
        )
        watching = Watching(
            save_steps=settings.save_steps, save_last=True, progress=progress, remark=remark
        )
        made.append(jobs.train(model, _pad(tokenizer), blocks, settings, job, watching))
    keep = kept_by(settings, bool(val.items), bool(material.choices))
    watching = Watching(
        look=validation.look(
            tokenizer, val.items, material.choices, settings, seed, min(8, plan.micro_batch)
        )
        if val.items
        else None,
        eval_steps=settings.eval_steps,
        keep=keep,
        patience=settings.patience,
        save_steps=settings.save_steps,
        progress=progress,
        remark=remark,
    )
    _note_plan(place, plan)
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
        "kept_by": keep,
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
    jobs.free()
    measured = _measured(model, tokenizer, material, seed)
    if not parallel.leads():
        return rows
    if measured:
        parity.write(result, measured)
    store.write_json(
        result / jobs.SPEED, {**jobs.speed(made), "plan": memory.sentence(plan, alone)}
    )
    store.write(result / jobs.ROWS, rows)
    return rows


def _note_plan(place: Path, plan: memory.Plan) -> None:
    """Write down what the phase that begins computes at once: half of it, if memory runs out."""
    if parallel.leads():
        store.write_json(place / "plan.json", {"micro_batch": plan.micro_batch})


def _measured(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", material: Material, seed: int
) -> parity.Measured | None:
    """Return what the trained model says; None where memory does not do even for one prompt."""
    choices = [*material.choices, *material.trained_choices]
    probes = parity.probes(material.train, material.val, choices, seed)
    # Sharded weights are only seen by all processes together, and through the outermost module.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    read = model if parallel.sharded() else inner
    for batch in (4, 1):
        try:
            around = local.LocalModel.around(read.eval(), tokenizer, batch=batch)
            return parity.measure(around, probes)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
        jobs.free()
    return None


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
    beside = local.beside_text(model)
    if settings.method == "full":
        for name_of, weights in model.named_parameters():
            if beside and re.match(beside, name_of.rpartition(".")[0]):
                weights.requires_grad_(False)
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
        exclude_modules=(beside if targets == "all-linear" else None) or None,
        use_dora=settings.method == "dora",
        use_rslora=settings.method == "rslora",
        task_type="CAUSAL_LM",
    )
    try:
        with local.quiet():
            tuned = get_peft_model(model, adapter)
    except ValueError as error:
        raise UsageError(
            f"adapters.{name}.targets: {str(error).splitlines()[0][:200]}; all-linear takes every "
            f"linear layer but the output."
        ) from error
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


def _check_disk(place: Path, checkpoint: int, name: str) -> None:
    """Raise unless the checkpoints of a job fit on the disk.

    Raises:
        StepError: they do not.
    """
    import shutil

    needed = 4 * checkpoint  # two kept, one being written, and the weights of the best looks
    free = shutil.disk_usage(place).free
    held = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    if free + held < needed:
        raise StepError(
            f"{name}: its checkpoints take up to {memory.size(needed)} and {memory.size(free)} are "
            f"free at {place}; make room and run again."
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
