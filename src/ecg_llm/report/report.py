"""The report of a study: one self-contained HTML file, and a short table for the terminal."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import NamedTuple, TypeVar, cast

from ecg_llm.config import NanoModelConfig, Study
from ecg_llm.records import (
    Agreement,
    Answer,
    Check,
    Document,
    Draft,
    Estimate,
    IndexVariant,
    Judgement,
    KeyFacts,
    Latency,
    Overlap,
    PageQuality,
    Passage,
    Placement,
    Question,
    Rating,
    Reliability,
    Retention,
    Retrieval,
    Row,
    Score,
    Standing,
    Training,
)
from ecg_llm.report import (
    agreeing,
    bytype,
    counts,
    decision,
    differences,
    findings,
    flow,
    instruments,
    judges,
    literature,
    overall,
    questions,
    results,
    retrieval,
    seen,
    training,
)
from ecg_llm.report.figures import arm_styles

R = TypeVar("R", bound=Row)
CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that no page needs: controls, line separators, overrides of the direction of text,
and halves of characters, which cannot be written to a file."""
REPLACEMENT = "\ufffd"


class Summary(NamedTuple):
    """A short table for the terminal."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def build(
    study: Study,
    tables: Mapping[str, Sequence[Row]],
    manifests: Mapping[str, Mapping[str, object]],
    notes: Sequence[str] = (),
    pictures: Mapping[tuple[str, int], bytes] = MappingProxyType({}),
    records: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
    sweep_rows: Sequence[Training] = (),
) -> str:
    """Return the report as one HTML page without any outside asset.

    Equal inputs give equal bytes: no date or random id is in it, and no duration but those of the
    table latencies. Everything from the tables is escaped; model output is data. Control
    characters and overrides of the direction of text, wherever they stand, are shown as \ufffd.

    Args:
        study: the settings.
        tables: name -> rows; absent and empty tables leave their section out.
        manifests: step -> its manifest.
        notes: sentences shown on top.
        pictures: (doc_id, page): PNG of the pages that `literature.worst` names.
        records: adapter -> its tuning.json.
        sweep_rows: logged steps of the variants of sweeps.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files("ecg_llm.report").joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    page = environment.get_template("report.html")
    content = _content(study, tables, manifests, notes, pictures, records, sweep_rows)
    return CONTROL.sub(REPLACEMENT, page.render(**content))


BUSY = ("index",)
"""Steps whose notes say what was done, which differs between runs that come to the same."""
HEADLINES = {
    "accuracy": "choice: right, %",
    "verdict": "judge: verdict",
    "ranking_strength": "judge: strength",
    "reference_similarity": "open: similarity",
    "human": "experts",
    "rougeL": "open: ROUGE-L",
}
"""Metrics of the short table, with their column heads."""


def summary_table(estimates: Sequence[Estimate], order: Sequence[str] = ()) -> Summary:
    """Return a short table of results, arms by headline metrics, arms in this order.

    A cell is "61.2 (52.0 to 69.1)": value and 95 % interval.
    """
    means = {(row.subset, row.arm, row.metric): row for row in estimates if not row.against}
    metrics = [metric for metric in HEADLINES if any(key[2] == metric for key in means)]
    columns = ("subset", "arm", *(HEADLINES[metric] for metric in metrics))
    lines = []
    for subset in sorted({key[0] for key in means}):
        for arm in results.ordered({key[1] for key in means if key[0] == subset}, order):
            cells = [_short_cell(means.get((subset, arm, metric))) for metric in metrics]
            if any(cells):
                lines.append((subset, arm, *cells))
    return Summary(columns, lines)


def _short_cell(row: Estimate | None) -> str:
    if row is None or row.value is None:
        return ""
    limits = f" ({results.interval(row)})" if row.low is not None else ""
    return results.number(row.value, row.metric) + limits


def _content(
    study: Study,
    tables: Mapping[str, Sequence[Row]],
    manifests: Mapping[str, Mapping[str, object]],
    notes: Sequence[str],
    pictures: Mapping[tuple[str, int], bytes],
    records: Mapping[str, Mapping[str, object]],
    sweep_rows: Sequence[Training],
) -> dict[str, object]:
    """Return what the template shows."""
    documents = _rows(tables, Document)
    passages = _rows(tables, Passage)
    drafts = _rows(tables, Draft)
    asked = _rows(tables, Question)
    answers = _rows(tables, Answer)
    judgements = _rows(tables, Judgement)
    scores = _rows(tables, Score)
    estimates = _rows(tables, Estimate)
    order = list(study.arms)
    styles = arm_styles([*order, *sorted({row.arm for row in estimates} - set(order))])
    declared = study.estimates.comparisons
    counted = counts.count_tables(documents, passages, drafts, asked, answers, judgements, scores)
    sources = counts.sources(documents, passages, asked, _rows(tables, Retrieval))
    beside = instruments.beside(
        study,
        asked,
        answers,
        judgements,
        _rows(tables, KeyFacts),
        scores,
        _rows(tables, Reliability),
        estimates,
        manifests,
        _rows(tables, Rating),
        sources,
    )
    kinds = study.passages.kinds
    made = flow.steps(documents, passages, drafts, asked, answers, scores, kinds)
    return {
        "study": study,
        "notes": [*notes, *_notes_of(manifests)],
        "nano_arms": _nano_arms(study),
        "decision": decision.decide(
            study,
            estimates,
            _rows(tables, Standing),
            asked,
            answers,
            _rows(tables, Latency),
            scores,
        ),
        "findings": findings.findings(estimates, declared, study.decision.margin),
        "doubts": judges.doubts(judgements),
        "overall": overall.overall(_rows(tables, Standing), estimates, order, styles),
        "agreeing": agreeing.agreeing(
            _rows(tables, Agreement), estimates, list(study.scores.judges)
        ),
        "seen": seen.seen(study, estimates, styles),
        "by_type": bytype.by_type(study, asked, scores, styles),
        "layers": results.layers(estimates, asked, order, beside, styles),
        "beside": {name: beside.get(name, instruments.Beside()) for name in results.TITLES},
        "label": results.label,
        "short_label": results.short_label,
        "is_percent": results.is_percent,
        "families": differences.families(estimates, declared, study.decision.margin, order, styles),
        "margin": f"{100 * study.decision.margin:g} points",
        "declared": bool(declared),
        "clustered": not results.apart(estimates),
        "training": training.training_figures(
            study,
            _rows(tables, Training),
            sweep_rows,
            _rows(tables, Retention),
            estimates,
            asked,
            records,
        ),
        "retrieval": retrieval.retrieval_figures(
            study,
            documents,
            passages,
            asked,
            _rows(tables, Retrieval),
            answers,
            scores,
            _rows(tables, Latency),
            _rows(tables, IndexVariant),
        ),
        "flow_chart": flow.chart(made) if made else "",
        "count_tables": counted,
        "unread": counts.unread(documents),
        "literature": literature.literature(documents, _rows(tables, PageQuality), pictures),
        "questions": questions.question_figures(
            study,
            documents,
            passages,
            _rows(tables, Placement),
            drafts,
            _rows(tables, Check),
            asked,
            _rows(tables, Overlap),
        ),
        "documents": len(documents),
        "samples": counts.samples(order, documents, passages, asked, answers, scores, sources),
        "answer_models": _answer_models(answers),
        "packages": _packages(manifests),
        "hosts": sorted({str(h) for m in manifests.values() for h in _list(m.get("hosts"))}),
        "machines": sorted({str(m["machine"]) for m in manifests.values() if m.get("machine")}),
        "steps": [(name, m) for name, m in manifests.items() if m],
        "settings": json.dumps(study.model_dump(mode="json"), indent=2, ensure_ascii=False),
    }


def _rows(tables: Mapping[str, Sequence[Row]], row: type[R]) -> list[R]:
    return cast("list[R]", list(tables.get(row.table, ())))


def _nano_arms(study: Study) -> list[str]:
    return [
        name
        for name, arm in study.arms.items()
        if isinstance(study.models[arm.model], NanoModelConfig)
    ]


def _answer_models(answers: Sequence[Answer]) -> dict[str, str]:
    """Return the full names of the models that answered, by arm."""
    names: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        names[answer.arm].add(answer.model)
    return {arm: ", ".join(sorted(models - {""})) for arm, models in names.items()}


def _packages(manifests: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Return package -> version, or versions where steps ran with different ones."""
    versions: dict[str, set[str]] = defaultdict(set)
    for manifest in manifests.values():
        packages = manifest.get("packages")
        if isinstance(packages, Mapping):
            for package, version in packages.items():
                versions[str(package)].add(str(version))
    return {package: ", ".join(sorted(found)) for package, found in sorted(versions.items())}


def _notes_of(manifests: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return what a reader should be warned of; notes of other steps only say what was done."""
    return [
        f"{name}: {note}"
        for name, manifest in manifests.items()
        if name not in BUSY
        for note in _list(manifest.get("notes"))
    ]


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
