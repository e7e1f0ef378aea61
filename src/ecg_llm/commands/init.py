"""Make a study folder: from a preset that fits this machine, or the demo on the handbook."""

import re
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import yaml

from ecg_llm import config, store
from ecg_llm.contracts import UsageError

PRESETS = ("nano", "small-gpu", "recommended", "paper")


def choose_preset() -> str:
    """Return "recommended" on a machine with an NVIDIA GPU, else "nano"."""
    return "recommended" if shutil.which("nvidia-smi") else "nano"


def preset_text(name: str) -> str:
    """Return the commented study.yaml of a preset.

    Raises:
        UsageError: no such preset.
    """
    path = resources.files("ecg_llm").joinpath("configs", f"{name}.yaml")
    if not path.is_file():
        raise UsageError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return path.read_text("utf-8")


def make(
    folder: Path, preset: str, literature: Path | None = None, questions: Sequence[str] = ()
) -> list[str]:
    """Make a study folder and return what was made, in sentences.

    Args:
        folder: The new folder; may exist, but not hold a study.
        preset: A name of PRESETS, or "demo".
        literature: A folder of documents to use where it lies.
        questions: Question files as PATH or PATH,field=value.

    Raises:
        UsageError: the folder holds a study, or a path does not exist.
    """
    path = folder / config.FILE
    if path.exists():
        raise UsageError(f"{folder} holds a study already; choose another folder or delete {path}.")
    text = preset_text(preset)
    if literature:
        if not literature.is_dir():
            raise UsageError(f"There is no folder {literature}; check --literature.")
        place = yaml.safe_dump(str(literature.resolve())).split("\n")[0]
        text = re.sub(r"^literature: .*$", lambda _: f"literature: {place}", text, flags=re.M)
    if questions:
        imports = "".join(_import_lines(entry) for entry in questions)
        text = re.sub(r"^  imports: \[\].*\n", lambda _: f"  imports:\n{imports}", text, flags=re.M)
    config.parse(yaml.safe_load(text), preset)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made ({error}); choose another folder.") from error
    for name in ("ratings",) if literature else ("ratings", "literature"):
        (folder / name).mkdir(exist_ok=True)
    store.write_text(path, text)
    made = [f"{path} with the preset {preset}; every setting is explained in it."]
    if not literature and preset != "demo":
        made.append(f"Put your papers into {folder / 'literature'}, then: ecg-llm run -C {folder}")
        made.append(f"Or import ratings: ecg-llm rate import SHEET.csv -C {folder}")
    return made


def make_demo(folder: Path) -> None:
    """Make the demo study, or leave it as it is if it is there: the handbook and its questions."""
    if not (folder / config.FILE).exists():
        make(folder, "demo")
    literature = folder / "literature"
    handbook = resources.files("ecg_llm").joinpath("demo", "handbook")
    for chapter in handbook.iterdir():
        place = literature / chapter.name
        if chapter.name.endswith(".pdf") and not place.exists():
            with store.replacing(place) as file:
                file.write(chapter.read_bytes())


def _import_lines(entry: str) -> str:
    path, *fields = entry.split(",")
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"There is no question file {path}; check --questions.")
    where = {}
    for pair in fields:
        field, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--questions takes PATH or PATH,field=value, not {entry!r}.")
        where[field] = value
    imported = {"path": str(file.resolve()), "name": "-".join([file.stem, *where.values()])}
    lines = yaml.safe_dump([imported | ({"where": where} if where else {})], sort_keys=False)
    return "".join(f"    {line}\n" for line in lines.splitlines())
