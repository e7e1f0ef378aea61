"""What `ecg-llm export` and `parity` do: an adapter for deployment, and whether it behaves so."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ecg_llm import config, registry, steps, store
from ecg_llm.chat import ApiModel
from ecg_llm.contracts import Remark, UsageError
from ecg_llm.local import AGAIN, LocalModel
from ecg_llm.records import Document, Estimate, Question
from ecg_llm.train import card, parity, template
from ecg_llm.train import export as exporting
from ecg_llm.train.parity import Verdict

if TYPE_CHECKING:
    from ecg_llm.pipeline import Models

EXPORTS = "exports"


def behind(bound: steps.Study, name: str) -> str:
    """Return in a sentence that an adapter was trained with other settings or data; or nothing."""
    if steps.states(bound).get(f"training/{name}") in ("done", "edited"):
        return ""
    return (
        f"The adapter {name} was trained with other settings or data than the study has now; "
        f"`ecg-llm train {name}` brings it up to date."
    )


def export(
    bound: steps.Study,
    study: config.Study,
    models: "Models",
    name: str,
    out: Path | None,
    form: str,
    dtype: str,
    converter: Path | None,
    remark: Remark = lambda words: None,
) -> exporting.Made:
    """Write an adapter of this study in a form, by default to exports/NAME-FORM.

    Raises:
        UsageError: no such adapter, form or dtype, or the form cannot be made of it.
        StepError: what was written behaves differently from the trained model.
    """
    for value, known in ((form, exporting.FORMS), (dtype, exporting.DTYPES)):
        if value not in known:
            names = [choice for choice in known if choice]
            raise UsageError(
                f"export takes {', '.join(names)}, not {value!r}"
                f"{registry.suggestion(value, names) or '.'}"
            )
    folder = bound.folder
    source = source_of(folder, study, models, name)
    measured = exporting.trained(source, lambda: probes(folder, study))
    return exporting.export(
        source,
        cast("exporting.Form", form),
        out or folder / EXPORTS / f"{name}-{form}",
        measured,
        facts(bound, study, source),
        dtype=cast("exporting.Dtype", dtype),
        converter=converter,
        remark=remark,
    )


def compare(folder: Path, study: config.Study, models: "Models", name: str, model: str) -> Verdict:
    """Return whether an entry of models behaves as this adapter's trained model.

    An empty `model` stands for base and adapter as the arms use them here.

    Raises:
        UsageError: no such adapter or model, or the adapter has no record of the trained model.
        ServerError: the server cannot be reached.
    """
    source = source_of(folder, study, models, name)
    trained = parity.read(source.folder)
    if trained is None:
        raise UsageError(
            f"{source.folder} holds no {parity.FILE}, the record of the trained model; {AGAIN}."
        )
    if model and model not in study.models:
        raise UsageError(
            f"There is no model {model!r} in study.yaml"
            f"{registry.suggestion(model, list(study.models)) or '.'}"
        )
    settings = study.models[model] if model else None
    if isinstance(settings, config.ApiModelConfig):
        # Without the study's cache of replies: what the server says now is what counts.
        return parity.compare_server(trained, ApiModel(settings))
    chosen = models.chat(model) if model else models.chat(study.trained[name].model, name)
    if not isinstance(chosen, LocalModel):
        raise UsageError(f"models.{model} is no model that can be compared.")
    return parity.compare(trained, parity.measure_again(chosen, trained))


def source_of(folder: Path, study: config.Study, models: "Models", name: str) -> exporting.Source:
    """Return an adapter of this study with the base that it was trained on.

    Raises:
        UsageError: no such adapter, or it is not trained yet.
    """
    if name not in study.trained:
        raise UsageError(
            f"There is no adapter {name!r} in study.yaml"
            f"{registry.suggestion(name, list(study.trained)) or '.'}"
        )
    settings = study.trained[name]
    base = study.models[settings.model]
    revision = base.revision if isinstance(base, config.LocalModelConfig) else ""
    place = folder / "adapters" / name
    if not place.is_dir():
        raise UsageError(f"The adapter {name!r} is not trained yet; do so with: ecg-llm train")
    return exporting.Source(name, models.source(settings.model), revision, place, settings.method)


def probes(folder: Path, study: config.Study) -> list[parity.Probe]:
    """Return the prompts for an adapter without a record: questions of train and val."""
    kept = [
        row
        for row in steps.read_table(folder / "questions.jsonl", Question)
        if row.status == "kept" and (row.answer or row.reference)
    ]
    train, val = ([row for row in kept if row.split == split] for split in ("train", "val"))
    return parity.probes(
        [template.example(row) for row in train],
        [template.example(row) for row in val],
        [row for row in (*val, *train) if row.kind == "choice"],
        study.seed,
    )


def facts(bound: steps.Study, study: config.Study, source: exporting.Source) -> card.Facts:
    """Return what the study knows about an adapter, for its card; results only if up to date."""
    folder = bound.folder
    current = steps.states(bound)["estimates"] in ("done", "edited")
    settings = study.trained[source.name]
    base = study.models[settings.model]
    manifests = {
        path.stem: manifest
        for path in sorted((folder / "manifests").glob("*.json"))
        if (manifest := store.read_json(path)) is not None
    }
    return card.Facts(
        record=store.read_json(source.folder / "tuning.json")
        or {"name": source.name, "settings": settings.model_dump(mode="json")},
        title=study.title,
        documents=steps.read_table(folder / "documents.jsonl", Document),
        estimates=steps.read_table(folder / "estimates.jsonl", Estimate) if current else [],
        arms=[name for name, arm in study.arms.items() if arm.adapter == source.name],
        manifests=manifests,
        base=source.base,
        base_name=base.id
        if isinstance(base, config.LocalModelConfig)
        else f"nano model {settings.model}",
        nano=base.kind == "nano",
    )


def table(verdict: Verdict) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Return the checks as columns and rows."""
    return ("check", "value", "limit", "ok"), card.checks(verdict)


def figures(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict for --json."""
    return {
        "ok": verdict.ok,
        **verdict.model_dump(mode="json", exclude={"checks"}),
        "checks": [
            {key: value for key, value in check.model_dump(mode="json").items() if key != "failure"}
            for check in verdict.checks
        ],
        "failures": list(verdict.failures),
    }
