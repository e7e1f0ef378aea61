"""Check this machine and the models of a study, and say what to do about what is missing."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from ecg_llm import config, pipeline, privacy
from ecg_llm.contracts import EcgLlmError, UsageError
from ecg_llm.records import OCR_REMEDY

if TYPE_CHECKING:
    from ecg_llm.train.memory import Shape


class Check(NamedTuple):
    """One thing looked at; ok is None for something optional that is absent."""

    ok: bool | None
    name: str
    found: str
    advice: str = ""


def check(folder: Path) -> list[Check]:
    """Return the checks of this machine and, if the folder holds a study, of its models."""
    checks = [
        Check(sys.version_info >= (3, 11), "Python", sys.version.split()[0], "3.11 or newer"),
        _memory(),
        _disk(folder),
        _gpu(),
        _ocr(),
    ]
    if (folder / config.FILE).exists():
        checks += _study(folder)
    return [c._replace(advice="") if c.ok else c for c in checks]


def _memory() -> Check:
    total = psutil.virtual_memory().total / 2**30
    found = f"{total:.0f} GiB, {os.cpu_count()} cores"
    return Check(total >= 4, "memory", found, "4 GiB are needed even for nano models")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder if folder.is_dir() else Path()).free / 2**30
    return Check(free >= 2, "disk", f"{free:.0f} GiB free", "free some space")


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
        missing = not importlib.util.find_spec("bitsandbytes")
        return Check(
            None if missing else True, "GPU", found, "pip install 'ecg-llm[cuda]' for 4 bit"
        )
    return Check(None, "GPU", "none", "nano models and model servers work without one")


def _ocr() -> Check:
    from ecg_llm.corpus import ocr

    have = bool(ocr.command()[0])
    return Check(
        True if have else None,
        "OCR",
        "ocrmypdf and tesseract" if have else "not installed",
        f"for scans: {OCR_REMEDY}",
    )


def _study(folder: Path) -> list[Check]:
    from ecg_llm.corpus.ingest import find

    study = config.load(folder)
    literature = folder / study.literature
    files = len(find(literature)) if literature.is_dir() else 0
    checks = [Check(files > 0, "literature", f"{files} files in {literature}", "put papers there")]
    for name, model in study.models.items():
        if isinstance(model, config.ApiModelConfig):
            checks.append(_server(name, model))
        elif isinstance(model, config.LocalModelConfig):
            inside = folder / model.id
            local = inside.is_dir() or Path(model.id).is_dir()
            found = model.id if local else f"{model.id} (Hugging Face cache)"
            checks.append(
                Check(True if local else None, f"model {name}", found, "download it first")
            )
    for name in study.adapters:
        checks += adapter(folder, study, name)
    judges = [*study.scores.judges, *([pipeline.FACTS] if study.scores.facts.model else [])]
    return [*checks, *(_judge(study, name) for name in judges)]


def _judge(study: config.Study, name: str) -> Check:
    """Return whether a judge is related to those whose questions and answers it judges."""
    try:
        warnings = pipeline.kinship(study, name)
    except EcgLlmError as error:
        return Check(False, f"judge {name}", str(error))
    return Check(None if warnings else True, f"judge {name}", " ".join(warnings) or "no kin")


def adapter(folder: Path, study: config.Study, name: str) -> list[Check]:
    """Return whether this machine has the packages and the memory to train an adapter.

    The lengths of its examples are not known here: all are taken to be as long as they may be.
    """
    import torch

    from ecg_llm.train import memory, tune

    label, settings = f"adapter {name}", study.trained[name]
    try:
        tune.check_settings(settings, name)
    except EcgLlmError as error:
        return [Check(False, label, str(error))]
    cuda = torch.cuda.is_available()
    try:
        shape = _shape(folder, study, settings.model)
    except EcgLlmError as error:
        return [Check(False, label, str(error))]
    if shape is None:
        return [Check(None, label, f"{settings.model} is not on this machine", "download it first")]
    machine = memory.Machine(cuda, memory.available(cuda))
    plan = memory.plan(shape, settings, [], [], machine)
    advice = "" if plan.fits else memory.advice(plan, settings)
    return [Check(plan.fits, label, f"at most {memory.sentence(plan, settings)}", advice)]


def _shape(folder: Path, study: config.Study, name: str) -> "Shape | None":
    """Return the shape of a model to be tuned, or None if it would have to be downloaded.

    Raises:
        UsageError: it is none that can be tuned.
    """
    from huggingface_hub import try_to_load_from_cache

    from ecg_llm.train import memory

    model = study.models[name]
    if isinstance(model, config.NanoModelConfig):
        made = folder / "models" / name
        return memory.shape_of(str(made)) if made.is_dir() else memory.shape_of_nano(model)
    if not isinstance(model, config.LocalModelConfig):
        raise UsageError(
            f"model {name} is of kind {model.kind}; only local and nano models can be tuned."
        )
    for place in (folder / model.id, Path(model.id)):
        if place.is_dir():
            return memory.shape_of(str(place))
    try:
        cached = try_to_load_from_cache(model.id, "config.json", revision=model.revision)
    except ValueError:  # neither a folder nor an id
        return None
    return memory.shape_of(str(Path(cached).parent)) if isinstance(cached, str) else None


def _server(name: str, model: config.ApiModelConfig) -> Check:
    """Return whether a model server answers and offers the model."""
    from openai import OpenAI, OpenAIError

    label = f"model {name}"
    try:
        key = config.environment_key(model.key_env)
        with (
            privacy.guard([privacy.host_of(model.base_url)]),
            OpenAI(base_url=model.base_url, api_key=key, timeout=10, max_retries=0) as client,
        ):
            offered = [entry.id for entry in client.models.list()]
    except EcgLlmError as error:
        return Check(False, label, str(error))
    except OpenAIError as error:
        return Check(
            False, label, f"{model.base_url}: {error}", "start the server or correct base_url"
        )
    if offered and model.model not in offered:
        return Check(
            False, label, f"{model.base_url} does not offer {model.model}", f"it has: {offered[:5]}"
        )
    return Check(True, label, f"{model.model} at {model.base_url}")
