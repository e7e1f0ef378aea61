"""The model card of an export: data, licences, training, results and parity, from the records."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ecg_llm.records import METRICS, Document, Estimate
from ecg_llm.train.parity import Verdict

SHOWN_SETTINGS = (
    "method", "rank", "alpha", "dropout", "targets", "epochs", "learning_rate", "schedule",
    "warmup", "batch", "max_length", "precision", "optimizer", "weight_decay", "max_grad_norm",
    "keep",
)  # fmt: skip
SHOWN_METRICS = (
    "accuracy", "accuracy_likelihood", "reference_similarity", "verdict", "human", "rougeL",
    "bertscore", "reference_likelihood",
)  # fmt: skip
KINDS = {"full": "A full fine-tuning", "merged": "A fine-tuning", "adapter": "An adapter"}


class Facts(NamedTuple):
    """What a study knows about an adapter."""

    record: Mapping[str, Any]
    """tuning.json."""
    title: str = ""
    documents: Sequence[Document] = ()
    estimates: Sequence[Estimate] = ()
    """Of the whole study."""
    arms: Sequence[str] = ()
    """Names of the arms with this adapter."""
    manifests: Mapping[str, Mapping[str, Any]] = {}
    """Step: its manifest."""
    base: str = ""
    """Folder or id of the base model."""
    base_name: str = ""
    """Its name for readers."""
    nano: bool = False


def card(facts: Facts, verdict: Verdict, form: str, serve: str, notes: Sequence[str] = ()) -> str:
    """Return a README.md in Markdown, with the front matter that Hugging Face reads.

    `form` is "adapter" or "merged", `serve` Markdown on how to serve the folder and `notes`
    sentences on what the parity could not see.
    """
    from jinja2 import Environment, StrictUndefined

    record = facts.record
    settings = record.get("settings", {})
    kind = "full" if settings.get("method") == "full" else form
    read = [row for row in facts.documents if row.status in ("ok", "partial")]
    train = record.get("train", {})
    licence = base_licence(facts.base)
    values = {
        "front": yaml.safe_dump(
            _front(facts.base, kind, licence), sort_keys=False, allow_unicode=True, width=100
        ),
        "name": _cell(record.get("name", "")),
        "title": _cell(facts.title),
        "nano": facts.nano,
        "kind": KINDS[kind],
        "base": facts.base_name or Path(facts.base).name,
        "revision": record.get("revision", ""),
        "base_licence": _cell(licence),
        "passages": bool(settings.get("mix", {}).get("passages")),
        "serve": serve,
        "documents": len(read),
        "licences": _counted(row.licence or "not known" for row in read),
        "train": train.get("examples", 0),
        "val": record.get("val", {}).get("examples", 0),
        "counts": [
            (key.replace("_", " "), n) for key, n in train.items() if key != "examples" and n
        ],
        "parameters": f"{record.get('parameters', 0):,}",
        "parameters_trained": f"{record.get('parameters_trained', 0):,}",
        "seed": record.get("seed", ""),
        "settings": [(key, _value(settings[key])) for key in SHOWN_SETTINGS if key in settings],
        "packages": [f"{name} {version}" for name, version in record.get("versions", {}).items()],
        "metrics": _metrics(facts),
        "verdict": verdict,
        "checks": checks(verdict),
        "notes": list(notes),
        "steps": [
            (step, manifest.get("rows", 0), str(manifest.get("finished", ""))[:10])
            for step, manifest in facts.manifests.items()
        ],
    }
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    place = resources.files("ecg_llm.train").joinpath("templates", "model_card.md.jinja")
    return environment.from_string(place.read_text("utf-8")).render(values).rstrip() + "\n"


def checks(verdict: Verdict) -> list[tuple[str, str, str, str]]:
    """Return the checks of a verdict as lines of a table: check, value, limit, ok."""
    return [
        (check.name, _value(check.value), _value(check.limit), "yes" if check.ok else "no")
        for check in verdict.checks
    ]


def base_licence(base: str) -> str:
    """Return the licence that the base's README names in its front matter, or nothing."""
    try:
        text = (Path(base) / "README.md").read_text("utf-8")
        found = re.match(r"---\n(.*?)\n---\s", text, re.DOTALL)
        front = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return ""
    if not isinstance(front, dict):
        return ""
    licence = front.get("license", "")
    return str(front.get("license_name", licence) if licence == "other" else licence)


def _front(base: str, kind: str, licence: str) -> dict[str, object]:
    """Return what Hugging Face reads of a card; a base that lies in a folder has no id there."""
    front: dict[str, object] = {
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["medical", "ecg-llm"],
    }
    if base and not Path(base).exists():
        front["base_model"] = base
    if licence:
        front["license"] = licence
    return front


def _metrics(facts: Facts) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for row in facts.estimates:
        shown = row.metric in SHOWN_METRICS and row.arm in facts.arms and not row.against
        if not shown or row.value is None:
            continue
        interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        label = METRICS[row.metric].label
        lines.append((row.arm, row.subset, label, f"{row.value:.3f}", interval, f"{row.questions}"))
    return lines


def _counted(values: Any) -> list[tuple[str, int]]:
    return [(_cell(value), n) for value, n in sorted(Counter(values).items())]


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return _cell(value)


def _cell(text: object) -> str:
    """Return a text that cannot break out of a line of a Markdown table."""
    plain = " ".join(str(text).split())
    return re.sub(r"([\\|<>\[\]*_`])", r"\\\1", plain)
