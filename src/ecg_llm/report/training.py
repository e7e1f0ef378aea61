"""What training did: curves, examples, settings, sweeps, what was learned and what forgotten."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ecg_llm.config import Adapter, Study
from ecg_llm.records import Estimate, Question, Retention, Training
from ecg_llm.report import results
from ecg_llm.report.counts import CountTable
from ecg_llm.report.figures import Curve, curve_plot
from ecg_llm.report.forgetting import ForgottenRow, forgetting, sentence, shown

PHASES = {"pretrain": "pretraining", "tune": "fine-tuning"}
METHODS = {
    "lora": "LoRA", "qlora": "QLoRA", "dora": "DoRA", "rslora": "rsLoRA", "full": "all weights",
}  # fmt: skip
INFINITE = float("inf")
EXAMPLES = {
    "examples": "Examples",
    "open": "Open",
    "choice": "Choice",
    "with_passages": "With passages",
    "abstaining": "Of these, abstaining",
    "joined": "Joined",
    "variants": "Other wordings",
    "left_out": "Left out by the mixture",
    "without_answer": "Without an answer",
    "too_long": "Left out, longer than the limit",
    "truncated": "Truncated",
    "unusable": "Left out, not shown by the chat template",
    "longest": "Tokens of the longest",
    "longest_left_out": "Tokens of the longest left out",
}
"""Counts in the record of an adapter, with their names for readers."""
ALWAYS = {"examples", "open", "choice", "without_answer", "too_long", "truncated", "longest"}
"""Counts that are shown even where all are zero: nothing was dropped in silence."""


class Job(NamedTuple):
    """One phase of one training job."""

    name: str
    phase: str
    """A key of PHASES."""
    steps: int
    tokens: int
    kept: int | None
    """The step whose weights were kept; None where it was not noted."""
    loss: float | None
    """Of the last step."""
    eval_loss: float | None
    """Of the weights that were kept."""
    eval_choice: float | None


class Variant(NamedTuple):
    """One variant of a sweep; the figures are None where it was not trained."""

    name: str
    values: tuple[object, ...]
    job: Job | None
    best: bool


class SweepLines(NamedTuple):
    """The variants of one sweep, best first."""

    name: str
    criterion: str
    """What the order goes by: loss or choice."""
    settings: tuple[str, ...]
    """Names of the settings that vary."""
    variants: tuple[Variant, ...]


class Plot(NamedTuple):
    """A figure of a training job."""

    svg: str
    caption: str


class Learned(NamedTuple):
    """How much more likely an adapter made the reference answers of one subset."""

    subset: str
    row: results.DifferenceRow
    documents: int


class TrainingFigures(NamedTuple):
    """What the report says about training."""

    plots: list[Plot]
    tables: list[CountTable]
    learned: list[Learned]
    forgotten: list[ForgottenRow]
    sentences: list[str]


def training_figures(
    study: Study,
    rows: Sequence[Training],
    sweep_rows: Sequence[Training],
    retained: Sequence[Retention],
    estimates: Sequence[Estimate],
    questions: Sequence[Question],
    records: Mapping[str, Mapping[str, object]],
) -> TrainingFigures | None:
    """Return what was trained and what came of it; None without anything.

    `records` are the tuning.json of adapters, by name.
    """
    found = forgetting(retained, questions, study.estimates.resamples, study.seed)
    tables = [
        _job_table(jobs(rows), study, records),
        _settings_table([name for name in study.adapters if _is_in(name, rows)], study),
        _example_table([name for name in study.trained if _is_in(name, rows)], records),
        *(_sweep_table(lines) for lines in sweeps(study, [*rows, *sweep_rows])),
    ]
    made = TrainingFigures(
        _plots(rows, _guessing(questions)),
        [table for table in tables if table],
        learned(study, estimates),
        [shown(row) for row in found],
        [sentence(row, base_of(study, row.adapter)) for row in found],
    )
    return made if any(made) else None


def jobs(rows: Sequence[Training]) -> list[Job]:
    """Return the figures of every job and phase, in order of the table."""
    made = []
    for (name, phase), job in _by_job(rows).items():
        kept = next((row.step for row in job if row.kept), None)
        upto = [row for row in job if kept is None or row.step <= kept]
        made.append(
            Job(
                name, phase, job[-1].step, max(row.tokens for row in job), kept,
                _last(row.loss for row in job), _last(row.eval_loss for row in upto),
                _last(row.eval_choice for row in upto),
            )
        )  # fmt: skip
    return made


def sweeps(study: Study, rows: Sequence[Training]) -> list[SweepLines]:
    """Return every sweep of which something was trained, its variants best first.

    The order goes by the choice accuracy on val where the adapter keeps weights by it, else by the
    loss on val; the other decides between equals.
    """
    tuned = {job.name: job for job in jobs(rows) if job.phase == "tune"}
    made = []
    for name, sweep in study.sweeps.items():
        adapter = study.adapters[sweep.adapter]
        variants = sweep.variants(adapter)
        if not set(variants) & set(tuned):
            continue
        settings = tuple(dict.fromkeys(key for line in sweep.settings for key in line))
        criterion = "choice" if adapter.keep == "choice" else "loss"
        order = sorted(variants, key=lambda variant: _place(tuned.get(variant), criterion))
        first = _place(tuned.get(order[0]), criterion)
        made.append(
            SweepLines(
                name, criterion, settings,
                tuple(
                    Variant(
                        variant,
                        tuple(getattr(variants[variant], key) for key in settings),
                        tuned.get(variant),
                        first[0] < INFINITE and _place(tuned.get(variant), criterion) == first,
                    )
                    for variant in order
                ),
            )
        )  # fmt: skip
    return made


def learned(study: Study, estimates: Sequence[Estimate]) -> list[Learned]:
    """Return the differences in likelihood of reference answers that adapters alone made."""
    made = []
    for row in estimates:
        if row.metric != "reference_likelihood" or not row.against or row.value is None:
            continue
        if not {row.arm, row.against} <= set(study.arms):
            continue
        pair = results.turned(row) if study.arms[row.against].adapter else row
        arm, against = study.arms[pair.arm], study.arms[pair.against]
        if arm.adapter and arm.model_copy(update={"adapter": ""}) == against:
            shown_row = results.difference_row(pair, [(pair.arm, pair.against)])
            made.append(Learned(row.subset, shown_row, row.clusters))
    return made


def stopped(job: Job, settings: Adapter, record: Mapping[str, object]) -> str:
    """Return whether a job was stopped early: "no", "yes" or "–" where its record is silent."""
    if not settings.patience or job.phase != "tune":
        return "no"
    found = record.get("stopped_early")
    return "–" if not isinstance(found, bool) else "yes" if found else "no"


def example_counts(record: Mapping[str, object]) -> dict[str, int]:
    """Return the counts of training examples in an adapter's record, by name."""
    counts = record.get("train")
    if not isinstance(counts, Mapping):
        return {}
    return {str(name): n for name, n in counts.items() if isinstance(n, int)}


def base_of(study: Study, adapter: str) -> str:
    """Return the name of the model that an adapter was trained on, as sentences say it."""
    return study.trained[adapter].model if adapter in study.trained else "the base"


def _by_job(rows: Sequence[Training]) -> dict[tuple[str, str], list[Training]]:
    made: dict[tuple[str, str], list[Training]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.key):
        made[row.adapter, row.phase].append(row)
    return made


def _last(values: Iterable[float | None]) -> float | None:
    return next((value for value in reversed(list(values)) if value is not None), None)


def _is_in(name: str, rows: Sequence[Training]) -> bool:
    return any(row.adapter == name for row in rows)


def _place(job: Job | None, criterion: str) -> tuple[float, float]:
    """Return what sorts the better job first."""
    loss = INFINITE if job is None or job.eval_loss is None else job.eval_loss
    choice = INFINITE if job is None or job.eval_choice is None else -job.eval_choice
    return (choice, loss) if criterion == "choice" else (loss, choice)


def _guessing(questions: Sequence[Question]) -> float | None:
    """Return the accuracy that guessing would reach on the choice questions of val."""
    options = [
        len(row.options)
        for row in questions
        if (row.split, row.status, row.kind) == ("val", "kept", "choice") and row.options
    ]
    return sum(1 / n for n in options) / len(options) if options else None


def _plots(rows: Sequence[Training], guessing: float | None) -> list[Plot]:
    """Return the loss of every job, and its choice accuracy where there is more than one."""
    made = []
    for (name, phase), job in _by_job(rows).items():
        kept = next((row.step for row in job if row.kept), None)
        loss = [
            Curve(title, *zip(*points, strict=True))
            for title, points in (
                ("training", [(row.step, row.loss) for row in job if row.loss is not None]),
                ("validation", [(r.step, r.eval_loss) for r in job if r.eval_loss is not None]),
            )
            if points
        ]
        of = f"of {name} over the steps of {PHASES[phase]}"
        if loss:
            figure = curve_plot(loss, f"Loss {of}", "loss", kept=kept)
            made.append(Plot(figure, f"{name}, {PHASES[phase]}: loss"))
        choice = [(row.step, row.eval_choice) for row in job if row.eval_choice is not None]
        if len(choice) > 1:
            curve = Curve("validation", *zip(*choice, strict=True))
            figure = curve_plot(
                [curve], f"Multiple-choice accuracy on val {of}", "right", percent=True,
                kept=kept, level=guessing,
            )  # fmt: skip
            caption = f"{name}, {PHASES[phase]}: multiple choice on the validation split"
            made.append(Plot(figure, caption))
    return made


def _job_table(
    made: Sequence[Job], study: Study, records: Mapping[str, Mapping[str, object]]
) -> CountTable | None:
    rows = tuple(
        (
            job.name, PHASES[job.phase], job.steps, "–" if job.kept is None else f"{job.kept:,}",
            stopped(job, study.trained[job.name], records.get(job.name, {}))
            if job.name in study.trained else "no",
            job.tokens, _loss(job.loss), _loss(job.eval_loss), _percent(job.eval_choice),
        )
        for job in made
    )  # fmt: skip
    header = (
        "Job", "Phase", "Steps", "Kept step", "Stopped early", "Tokens seen", "Last loss",
        "Validation loss", "Validation accuracy",
    )  # fmt: skip
    note = (
        "Loss is the mean negative log-likelihood of a token that is learned, in nats. Validation "
        "figures are those of the weights that were kept, else the last ones; accuracy is the "
        "share of multiple-choice questions whose right reply is the likeliest."
    )
    return CountTable("Training jobs", header, rows, 2, note) if rows else None


def _settings_table(names: Sequence[str], study: Study) -> CountTable | None:
    rows = []
    for name in names:
        adapter = study.trained[name]
        full = adapter.method == "full"
        targets = (
            "all" if full else "all linear" if adapter.targets == "all-linear"
            else ", ".join(adapter.targets)
        )  # fmt: skip
        rows.append(
            (
                name, adapter.model, METHODS[adapter.method], targets,
                "–" if full else adapter.rank, "–" if full else adapter.alpha,
                f"{adapter.learning_rate:g}", adapter.batch, f"{adapter.epochs:g}",
                f"{adapter.pretrain.epochs:g}", adapter.keep,
            )
        )  # fmt: skip
    header = (
        "Adapter", "On", "Method", "Layers", "Rank", "Alpha", "Learning rate", "Examples a step",
        "Epochs", "Epochs of pretraining", "Kept by",
    )  # fmt: skip
    return CountTable("Settings of adapters", header, tuple(rows), 4) if rows else None


def _example_table(
    names: Sequence[str], records: Mapping[str, Mapping[str, object]]
) -> CountTable | None:
    counts = {name: example_counts(records[name]) for name in names if name in records}
    lines = [
        key
        for key in EXAMPLES
        if any(found.get(key, 0) or (key in found and key in ALWAYS) for found in counts.values())
    ]
    if not lines:
        return None
    rows = [(EXAMPLES[key], *(found.get(key, "–") for found in counts.values())) for key in lines]
    return CountTable("Training examples", ("", *counts), tuple(rows))


def _sweep_table(lines: SweepLines) -> CountTable:
    rows = tuple(
        (
            line.name, *(_setting(value) for value in line.values),
            *(
                ("not trained", "–", "–") if line.job is None
                else (
                    line.job.steps if line.job.kept is None else line.job.kept,
                    _loss(line.job.eval_loss), _percent(line.job.eval_choice),
                )
            ),
            "best" if line.best else "",
        )
        for line in lines.variants
    )  # fmt: skip
    header = (
        "Variant", *(key.replace("_", " ").capitalize() for key in lines.settings), "Kept step",
        "Validation loss", "Validation accuracy", "",
    )  # fmt: skip
    what = "validation accuracy" if lines.criterion == "choice" else "validation loss"
    note = (
        f"Sorted by {what}. The validation split chose among {len(rows)} variants, so the best "
        "figure is somewhat too good; the tested splits are not touched by it."
    )
    return CountTable(f"Sweep {lines.name}", header, rows, note=note)


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
