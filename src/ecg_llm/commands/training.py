"""What `ecg-llm train` tells: every job, its speed and memory, what it forgot, and the sweeps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ecg_llm import steps, store
from ecg_llm.commands import doctor
from ecg_llm.config import NanoModelConfig, Study
from ecg_llm.records import Question, Retention, Row, Training
from ecg_llm.report import training
from ecg_llm.report.forgetting import forgetting, sentence

R = TypeVar("R", bound=Row)


class Table(NamedTuple):
    """A table for the terminal."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]


def summary(folder: Path, study: Study) -> dict[str, Any]:
    """Return the figures of all that was trained: "jobs", "forgetting" and "sweeps".

    A job has adapter, phase, model, method, examples, too_long, steps, kept_step, stopped_early,
    tokens, loss, eval_loss, eval_choice (of the weights kept), tokens_per_s, seconds and peak_mb;
    what is not known is null. Losses are in nats a token, accuracies and differences of choice
    questions are shares. The variants of a sweep stand in order of the criterion they are kept by.
    """
    rows = _parts(folder, "training", [n for n in _names(study) if n not in study.swept], Training)
    varied = _parts(folder, "training", sorted(study.swept), Training)
    return {
        "jobs": [_job(folder, study, job) for job in training.jobs(rows)],
        "forgetting": _forgetting(folder, study),
        "sweeps": {
            lines.name: [_variant(folder, line, lines.settings) for line in lines.variants]
            for lines in training.sweeps(study, [*rows, *varied])
        },
    }


def _parts(folder: Path, step: str, names: Sequence[str], row: type[R]) -> list[R]:
    """Return the rows of these jobs: the joined tables lie behind where one alone was trained."""
    places = [folder / "parts" / step / f"{name}.jsonl" for name in names]
    return [made for place in places for made in steps.read_table(place, row)]


def _names(study: Study) -> list[str]:
    """Return the names of all that is trained, nano models first."""
    nano = [name for name, model in study.models.items() if isinstance(model, NanoModelConfig)]
    return [*nano, *study.trained]


def plans(folder: Path, study: Study, names: Sequence[str]) -> list[str]:
    """Return for each adapter that is about to be trained what it takes in memory, at most."""
    found = [(name, check) for name in names for check in doctor.adapter(folder, study, name)]
    return [
        f"{name}: {check.found}" + (f"; {check.advice}" if check.advice else "")
        for name, check in found
    ]


def tables(found: Mapping[str, Any], *, sweeps: bool = False) -> list[Table]:
    """Return what `summary` found as tables for a person; those of sweeps where asked for."""
    made = []
    if found["jobs"]:
        columns = (
            "job", "method", "examples", "steps", "kept", "val loss", "val choice, %", "tokens/s",
            "peak MB",
        )  # fmt: skip
        made.append(Table("", columns, [_job_cells(job) for job in found["jobs"]]))
    for name, variants in found["sweeps"].items() if sweeps else ():
        settings = list(variants[0]["settings"])
        rows = [
            (
                line["variant"], *map(str, line["settings"].values()), _cell(line["kept_step"]),
                _loss(line["eval_loss"]), _percent(line["eval_choice"]),
                _whole(line["tokens_per_s"]), _cell(line["peak_mb"]),
                "best" if line["best"] else "",
            )
            for line in variants
        ]  # fmt: skip
        columns = (
            "variant", *settings, "kept", "val loss", "val choice, %", "tokens/s", "peak MB", "",
        )  # fmt: skip
        made.append(Table(f"Sweep {name}", columns, rows))
    return made


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return in sentences what adapters forgot, and which examples were left out for length."""
    made = [
        f"{job['adapter']}: {job['too_long']:,} of {job['examples'] + job['too_long']:,} examples "
        f"are longer than the limit and were left out; see adapters.{job['adapter']}.max_length."
        for job in found["jobs"]
        if job["phase"] == "tune" and job["too_long"]
    ]
    return [*made, *(row["words"] for row in found["forgetting"])]


def _job(folder: Path, study: Study, job: training.Job) -> dict[str, Any]:
    settings = study.trained.get(job.name)
    record = store.read_json(folder / "adapters" / job.name / "tuning.json") or {}
    counts = training.example_counts(record)
    early = record.get("stopped_early")
    return {
        "adapter": job.name,
        "phase": job.phase,
        "model": settings.model if settings else "",
        "method": settings.method if settings else "",
        "examples": counts.get("examples"),
        "too_long": counts.get("too_long"),
        "steps": job.steps,
        "kept_step": job.kept,
        "stopped_early": early if settings and job.phase == "tune" else None,
        "tokens": job.tokens,
        "loss": job.loss,
        "eval_loss": job.eval_loss,
        "eval_choice": job.eval_choice,
        **_speed(folder, job.name),
    }


def _speed(folder: Path, name: str) -> dict[str, Any]:
    places = (folder / kind / name / "speed.json" for kind in ("adapters", "models"))
    found = next(filter(None, map(store.read_json, places)), {})
    return {key: found.get(key) for key in ("tokens_per_s", "seconds", "peak_mb")}


def _variant(folder: Path, line: training.Variant, settings: Sequence[str]) -> dict[str, Any]:
    job = line.job
    return {
        "variant": line.name,
        "settings": dict(zip(settings, line.values, strict=True)),
        "kept_step": job.kept if job else None,
        "eval_loss": job.eval_loss if job else None,
        "eval_choice": job.eval_choice if job else None,
        "best": line.best,
        **_speed(folder, line.name),
    }


def _forgetting(folder: Path, study: Study) -> list[dict[str, Any]]:
    rows = _parts(folder, "retention", list(study.trained), Retention)
    if not rows:
        return []
    questions = steps.read_table(folder / "questions.jsonl", Question)
    return [
        {
            "adapter": found.adapter,
            "set": found.set,
            "kind": found.kind,
            "questions": found.questions,
            "not_scored": found.left_out,
            "before": found.before,
            "after": found.after,
            "difference": found.difference.value if found.difference else None,
            "low": found.difference.low if found.difference else None,
            "high": found.difference.high if found.difference else None,
            "lost": found.lost if found.kind == "choice" else None,
            "gained": found.gained if found.kind == "choice" else None,
            "p": found.difference.p if found.difference else None,
            "p_adjusted": found.difference.p_adjusted if found.difference else None,
            "words": sentence(found, training.base_of(study, found.adapter)),
        }
        for found in forgetting(rows, questions, study.estimates.resamples, study.seed)
    ]


def _job_cells(job: Mapping[str, Any]) -> tuple[object, ...]:
    name = job["adapter"] if job["phase"] == "tune" else f"{job['adapter']} (pretraining)"
    early = " (early)" if job["stopped_early"] else ""
    return (
        name, job["method"], _cell(job["examples"]), f"{job['steps']:,}{early}",
        _cell(job["kept_step"]), _loss(job["eval_loss"]), _percent(job["eval_choice"]),
        _whole(job["tokens_per_s"]), _cell(job["peak_mb"]),
    )  # fmt: skip


def _cell(value: object) -> object:
    return "" if value is None else value


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _whole(value: float | None) -> object:
    return "" if value is None else round(value)
