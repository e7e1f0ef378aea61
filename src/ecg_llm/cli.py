"""The command ecg-llm: parse, call, print; a stage is imported only inside its command."""

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ecg_llm import console
from ecg_llm.contracts import EcgLlmError, MissingPackage, StepError, UsageError

NANO_NOTE = "A nano model exercises the chain; its numbers say nothing about medicine."
SHOWN = 40
"""Lines of a list that a terminal shows."""
STEPS = {
    "documents": "Read every file of the literature folder.",
    "pages": "Gather how far each page of each document can be trusted.",
    "passages": "Cut the documents into passages with exact offsets and pages.",
    "splits": "Place every document on one side of the split, frozen once drawn.",
    "retrieval": "Measure how well retrieval finds the sources of the tested questions.",
    "answers": "Ask every arm every question of the tested splits.",
    "standings": "Rank the arms over all layers of evaluation.",
    "agreement": "Measure how far the layers, and judges and experts, say the same.",
    "report": "Write the report, one HTML file, with its figures and tables beside it.",
}
"""Commands that make one step and what it needs."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="From a folder of medical literature to evidence: which adaptation of an open-weight "
    "language model should you deploy? Not a medical device.",
)
questions_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
scores_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
rate_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    questions_app,
    name="questions",
    help="Write, check, import and place questions; `questions export` and `import`.",
)
app.add_typer(scores_app, name="scores", help="Score every answer; `scores parse` reads letters.")
app.add_typer(rate_app, name="rate", help="Ratings by people: import and export.")

StudyFolder = Annotated[
    Path, typer.Option("--study", "-C", help="The study folder (default: this folder).")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Setting for this call, like answers.k=10; may be repeated."),
]
Limit = Annotated[
    int | None,
    typer.Option(help="At most this many windows to write from and questions a subset to answer."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Figures as JSON on standard output.")]
Retry = Annotated[bool, typer.Option(help="Make rows that ended in an error again.")]


def main() -> None:
    """Run the command line; exit codes 0, 1 (a step failed), 2 (usage), 3 (`ask`: no answer)."""
    # Before torch is loaded: threads that spin while they wait make a shared machine crawl.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    sys.argv[1:] = [argument for argument in arguments if argument != "--debug"]
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from ecg_llm.train import parallel

            parallel.run(app)
        else:
            app(standalone_mode=True)
    except EcgLlmError as error:
        if debug:
            raise
        console.say(f"ecg-llm: {error}")
        sys.exit(2 if isinstance(error, UsageError | MissingPackage) else 1)
    except OSError as error:
        known = (
            errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST,
        )  # fmt: skip
        if debug or error.errno not in known:
            raise
        what = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "cannot be written"
        console.say(
            f"ecg-llm: the disk {what} ({error.filename or error.strerror}); "
            f"mend that and run again: what was done is kept."
        )
        sys.exit(1)
    except KeyboardInterrupt:
        console.say("ecg-llm: stopped; the same command goes on from here.")
        sys.exit(130)


@app.command()
def run(
    study: StudyFolder = Path(),
    to: Annotated[str, typer.Option(help="Last step to run.")] = "report",
    overrides: Overrides = None,
    limit: Limit = None,
    retry: Retry = False,
    as_json: AsJson = False,
) -> None:
    """Run every step that is not up to date, and print the result."""
    results = _run(study, to, overrides, limit, retry=retry)
    if as_json:
        console.figures(
            {
                "steps": [result._asdict() for result in results],
                "report": str(study / "report" / "index.html"),
            }
        )
    elif to == "report":
        _print_summary(study)
    elif to == "questions":
        _print_questions(study, overrides)
    elif to in _JSON:
        _print_step(study, to)


def _step_command(name: str) -> Callable[..., None]:
    def command(
        study: StudyFolder = Path(),
        overrides: Overrides = None,
        limit: Limit = None,
        retry: Retry = False,
        as_json: AsJson = False,
    ) -> None:
        _run(study, name, overrides, limit, retry=retry)
        found = _JSON[name](study)
        if as_json:
            console.figures(found)
        else:
            _print_step(study, name)
        if name == "documents" and not found["read"]:
            raise StepError(
                "None of the files could be read; the list above says why and what to do."
                if found["documents"]
                else "There is no file in the literature folder; put your papers in."
            )

    command.__doc__ = STEPS[name]
    return command


for _name in STEPS:
    app.command(_name)(_step_command(_name))


@app.command()
def estimates(
    study: StudyFolder = Path(),
    overrides: Overrides = None,
    limit: Limit = None,
    retry: Retry = False,
    power: Annotated[
        float | None,
        typer.Option(help="Say how many questions a difference like .03 needs to be found."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Means with intervals, paired differences and ranks; --power plans the next study."""
    from ecg_llm import config
    from ecg_llm.commands import estimates as estimating

    if power is not None:
        estimating.check_wanted(power)
    _run(study, "estimates", overrides, limit, retry=retry)
    settings = config.load(study, overrides or ())
    if power is None:
        if as_json:
            console.figures(_JSON["estimates"](study))
        else:
            _print_tables(estimating.estimates(study, settings))
        return
    rows = estimating.planned(study, power)
    if as_json:
        console.figures({"power": [row._asdict() for row in rows]})
        return
    _print_tables([estimating.planning(rows)])
    console.say(
        f"Questions (of documents) it takes to find a difference of {power:g} with 80 % power at a "
        "two-sided 5 %, if they vary and cluster as here; corrected: at the first step of Holm's "
        "correction over the comparisons of that metric and subset; - where arms "
        "never differ or all questions come from one source."
    )


@app.command()
def index(
    study: StudyFolder = Path(),
    ready: Annotated[
        Path | None,
        typer.Option(
            "--from", help='Ready passages: a line of {"passage_id", "text", "doc_id"?} each.'
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Measure the variants of index.sweep as well.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Bring the retrieval index up to the passages: what is there already is not embedded again."""
    from ecg_llm.commands import index as indexing
    from ecg_llm.corpus import given

    taken = given.read(ready) if ready else []
    if ready:
        indexing.study_for(study, ready)
    bound, settings, _ = _bound(study, overrides, None)
    if sweep and not settings.index.sweep:
        raise UsageError("study.yaml has no index.sweep; docs/how-to/retrieval.md shows one.")

    def prepare() -> None:
        if ready:
            console.say(indexing.take(study, ready, taken))
        # Asked for by name the index is compared with the passages whatever its manifest says.
        (study / bound.steps["index"].output).unlink(missing_ok=True)

    _run(study, "index", overrides, None, prepare=prepare)
    if sweep:
        _run(study, "index-sweep", overrides, None)
    found = indexing.figures(study)
    variants = indexing.sweep(study) if sweep else []
    if as_json:
        rows = [row.model_dump(mode="json") for row in variants]
        console.figures({**found, **({"sweep": rows} if sweep else {})})
        return
    for label, value in found.items():
        console.out(f"{label}: {value:,}" if isinstance(value, int) else f"{label}: {value}")
    if sweep:
        console.table(*indexing.sweep_table(variants), title="sweep")


@questions_app.callback()
def questions(
    context: typer.Context,
    study: StudyFolder = Path(),
    overrides: Overrides = None,
    limit: Limit = None,
    retry: Retry = False,
    preview: Annotated[
        int | None, typer.Option(help="Show what this many windows give, and what all would take.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write questions, check them, import yours, split by document, look for leaks."""
    if context.invoked_subcommand:
        return
    if preview is not None:
        _preview(study, overrides, preview, as_json)
        return
    _run(study, "contamination", overrides, limit, retry=retry)
    _run(study, "variants", overrides, limit, retry=retry)
    if as_json:
        console.figures(_questions(study, overrides))
    else:
        _print_questions(study, overrides)


def _preview(folder: Path, overrides: Sequence[str] | None, count: int, as_json: bool) -> None:
    from ecg_llm.commands import questions as asked

    if count < 1:
        raise UsageError(f"--preview takes a number of at least 1, not {count}.")
    _run(folder, "passages", overrides, None, quiet=True)
    _, settings, models = _bound(folder, overrides, None)
    with _guarded(settings), console.progress("preview"):
        found = asked.preview(folder, settings, models, count)
    if as_json:
        console.figures(asked.preview_figures(found))
        return
    for line in asked.story(found):
        console.out(line)
    kept = sum(row.status == "kept" for _, _, rows in found.samples for row in rows)
    written = sum(len(rows) for _, _, rows in found.samples)
    console.say(f"{kept} of {written} questions kept. The study has {found.windows:,} windows.")
    if found.requests:
        console.say(
            f"All of them: about {found.requests:,} requests, {found.tokens:,} tokens"
            + (f", cost {found.cost:,.2f}" if found.cost else "")
            + (f", {console.duration(found.seconds)}" if found.seconds else "")
            + ". Nothing is stored but the replies: the run does not ask for these again."
        )
    if found.check_requests:
        console.say(f"The checking model is asked about {found.check_requests:,} times besides.")


@questions_app.command("export")
def questions_export(
    target: Annotated[Path, typer.Argument(help="FILE.xlsx or .csv for people, else a folder.")],
    form: Annotated[
        str, typer.Option(help="chat, alpaca, sharegpt, dataset, lm-eval or inspect.")
    ] = "",
    where: Annotated[
        list[str] | None, typer.Option(help="column=value, like split=test; repeatable.")
    ] = None,
    study: StudyFolder = Path(),
) -> None:
    """Write the questions as a sheet for experts, or in the form of another tool."""
    from ecg_llm import config
    from ecg_llm.commands import questions as asked

    for sentence in asked.export(study, config.load(study), target, form, where or []):
        console.say(sentence)


@questions_app.command("import")
def questions_import(
    file: Annotated[Path, typer.Argument(help="The sheet that came back, .xlsx or .csv.")],
    by: Annotated[str, typer.Option(help="Who made the changes; goes into the trail.")],
    study: StudyFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Bring an expert's corrections back: ids stay, who changed what is kept."""
    from ecg_llm.commands import questions as asked

    outcome = asked.bring_back(study, file, by)
    if as_json:
        changed = [row.model_dump(mode="json") for row in outcome.revisions]
        console.figures({**outcome._asdict(), "revisions": changed})
    else:
        console.out(f"questions changed: {len({row.question_id for row in outcome.revisions}):,}")
        console.out(f"questions unchanged: {outcome.unchanged:,}")
        if outcome.ignored:
            console.out(f"columns not used: {', '.join(outcome.ignored)}")
        if outcome.problems:
            console.out(f"not taken over: {len(outcome.problems):,}")
        for problem in outcome.problems:
            console.out(f"  {problem}")
        if outcome.revisions:
            console.say("`ecg-llm run` makes what rests on them anew.")
    if outcome.problems:
        raise typer.Exit(1)


@app.command()
def train(
    names: Annotated[
        list[str] | None, typer.Argument(help="Adapters; default: all of the study.")
    ] = None,
    study: StudyFolder = Path(),
    overrides: Overrides = None,
    limit: Limit = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Train the variants of `sweeps` as well.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train nano models and adapters on the train split, and see what they forgot."""
    from ecg_llm import registry, steps
    from ecg_llm.commands import training

    bound, settings, _ = _bound(study, overrides, limit)
    for name in names or ():
        if name not in settings.trained:
            known = list(settings.trained)
            raise UsageError(f"There is no adapter {name!r}{registry.suggestion(name, known)}")
    if sweep and not settings.sweeps:
        raise UsageError(
            "study.yaml has no `sweeps`; docs/how-to/fine-tune.md shows how they look."
        )
    chosen = names or [*settings.adapters, *(settings.swept if sweep else ())]
    state = steps.states(bound)
    waiting = [name for name in chosen if state[f"training/{name}"] not in ("done", "edited")]
    for sentence in training.plans(study, settings, waiting):
        console.say(sentence)
    targets = [
        f"training/{name}" if name in settings.swept else f"retention/{name}"
        for name in names or ()
    ]
    for target in [*(targets or ["retention"]), *(["sweeps"] if sweep else [])]:
        _run(study, target, overrides, limit)
    found = training.summary(study, settings)
    if as_json:
        console.figures(found)
        return
    for table in training.tables(found, sweeps=sweep):
        console.table(table.columns, table.rows, title=table.title)
    for line in training.lines(found):
        console.out(line)


@scores_app.callback()
def scores(
    context: typer.Context,
    study: StudyFolder = Path(),
    overrides: Overrides = None,
    limit: Limit = None,
    retry: Retry = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only say what the judges would be asked for.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score every answer by every layer that is switched on."""
    if context.invoked_subcommand:
        return
    if preview:
        _preview_scores(study, overrides, limit, as_json)
        return
    _run(study, "scores", overrides, limit, retry=retry)
    if as_json:
        console.figures(_JSON["scores"](study))
    else:
        _print_step(study, "scores")


def _preview_scores(
    folder: Path, overrides: Sequence[str] | None, limit: int | None, as_json: bool
) -> None:
    from ecg_llm.commands import scores as judging

    _, settings, models = _bound(folder, overrides, limit)
    found = judging.preview(folder, settings, models)
    if as_json:
        console.figures({"judges": [load._asdict() for load in found]})
        return
    console.table(
        ("judge", "mode", "requests", "kept", "tokens", "cost"),
        [(*load[:2], *(f"{n:,}" for n in load[2:5]), f"{load.cost:,.2f}") for load in found],
    )
    for load in found:
        if load.mode == "ranking" and not load.requests:
            console.say(f"Judge {load.judge} has nothing to rank: that takes answers of two arms.")
    console.say(
        "Tokens are estimated, replies at 150; kept ones lie in the cache and cost nothing."
    )


@scores_app.command("parse")
def scores_parse(
    parser: Annotated[
        str, typer.Option(help="strict: the form asked for alone; tolerant: as a reader takes it.")
    ] = "tolerant",
    as_json: AsJson = True,
) -> None:
    """Read the letter out of replies: lines of {"text", "options"} on standard input."""
    from ecg_llm.score import choice

    for line in choice.parse_lines(sys.stdin, parser):
        if as_json:
            console.figures(line)
        else:
            console.out(line["choice"] or "-")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The new study folder.")],
    preset: Annotated[
        str,
        typer.Option(help="nano, small-gpu, recommended or paper; default: what fits the machine."),
    ] = "",
    literature: Annotated[
        Path | None, typer.Option(help="A folder of documents to use where it lies.")
    ] = None,
    questions: Annotated[
        list[str] | None,
        typer.Option(help="Question file to import, as PATH or PATH,field=value; repeatable."),
    ] = None,
) -> None:
    """Make a study folder with a commented study.yaml."""
    from ecg_llm.commands import init as init_module

    chosen = preset or init_module.choose_preset()
    for sentence in init_module.make(folder, chosen, literature, questions or []):
        console.say(sentence)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo study goes.")] = Path("demo-study"),
) -> None:
    """Run the whole chain on the bundled handbook: no GPU, no network, no key."""
    import time

    from ecg_llm.commands import init as init_module

    init_module.make_demo(folder)
    started = time.monotonic()
    results = _run(folder, "report", None, None)
    _print_summary(folder)
    peak = _peak_mb()
    console.out(
        f"{len(results)} steps in {console.duration(time.monotonic() - started)}, "
        f"{peak:,} MB of memory at most."
    )
    console.out(f"Try: ecg-llm ask -C {folder} 'What is the normal PR interval?'")


@app.command()
def status(study: StudyFolder = Path(), as_json: AsJson = False) -> None:
    """Say of every step whether it is up to date."""
    from ecg_llm import steps

    bound, _, _ = _bound(study, None, None)
    found = steps.states(bound)
    rows = {name: steps.manifest(bound, name).get("rows", 0) for name in found}
    if as_json:
        console.figures(
            {"steps": [{"step": n, "state": s, "rows": rows[n]} for n, s in found.items()]}
        )
        return
    console.table(
        ("step", "state", "rows"), [(name, state, rows[name]) for name, state in found.items()]
    )


@app.command()
def show(
    table: Annotated[str, typer.Argument(help="A table, or `config`.")],
    row_id: Annotated[str, typer.Option("--id", help="Rows whose key holds this.")] = "",
    where: Annotated[
        list[str] | None, typer.Option(help="column=value, like status=dropped; repeatable.")
    ] = None,
    trace: Annotated[
        bool, typer.Option(help="Walk from each row to the page it rests on.")
    ] = False,
    number: Annotated[int, typer.Option("-n", help="At most this many rows; 0: all.")] = 20,
    study: StudyFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Show rows of a table, and with --trace the way back to the page."""
    from ecg_llm.commands import show as show_module

    if table == "config":
        console.out(show_module.settings(study))
        return
    rows = show_module.find(study, table, row_id, where or [])
    shown = rows[:number] if number else rows
    if as_json:
        for row in shown:
            console.figures(
                show_module.traced(study, row) if trace else row.model_dump(mode="json")
            )
        return
    if trace:
        for row in shown:
            console.out(show_module.story(study, row))
        return
    if row_id and shown:
        for row in shown:
            console.out(show_module.card(row))
        return
    columns, cells = show_module.columns(table, shown)
    console.table(columns, cells)
    if len(shown) < len(rows):
        console.say(f"{len(shown)} of {len(rows):,} rows; -n 0 shows all.")


@app.command()
def doctor(study: StudyFolder = Path(), as_json: AsJson = False) -> None:
    """Check this machine and, in a study folder, the study's models."""
    from ecg_llm.commands import doctor as doctor_module

    found = doctor_module.check(study)
    if as_json:
        console.figures({"checks": [check._asdict() for check in found]})
    else:
        console.table(
            ("", "check", "found", "what to do"),
            [({True: "ok", False: "!", None: "-"}[c.ok], c.name, c.found, c.advice) for c in found],
        )
    if any(check.ok is False for check in found):
        raise typer.Exit(1)


@app.command()
def plugins(as_json: AsJson = False) -> None:
    """List the components that study.yaml can name."""
    from ecg_llm import registry

    found = registry.names()
    if as_json:
        console.figures(found)
        return
    rows = [(kind, name, place) for kind in found for name, place in sorted(found[kind].items())]
    console.table(("kind", "name", "place"), rows)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")] = "",
    k: Annotated[int, typer.Option("-k", help="Passages a query.")] = 5,
    file: Annotated[
        Path | None, typer.Option(help="One query a line; one line of JSON for each.")
    ] = None,
    study: StudyFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Find passages: retrieval alone."""
    from ecg_llm.commands import ask as asking

    if bool(query.strip()) == bool(file):
        raise UsageError("search takes one query, or --file with one query a line.")
    if file:
        try:
            queries = [
                line.strip() for line in file.read_text("utf-8-sig").split("\n") if line.strip()
            ]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read ({error}); check --file.") from error
    else:
        queries = [query]
    if not queries:
        raise UsageError(f"{file} holds no query; write one a line.")
    _ready(study, "index")
    settings = _bound(study, None, None)[1]
    with _guarded(settings):
        found = asking.search(settings, study, queries, k)
    for asked, hits in zip(queries, found, strict=True):
        if as_json or file:
            console.figures({"query": asked, "hits": hits})
            continue
        if not hits:
            console.out("Nothing found.")
        for hit in hits:
            console.out(f"{hit['score']:.3f}  {hit['path']}{asking.page(hit['page_from'])}")
            console.out(asking.indented(hit["text"]) + "\n")


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    arm: Annotated[
        str,
        typer.Option(help="Arm that answers; default: the first with passages and no nano model."),
    ] = "",
    study: StudyFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Answer a question with citations; exit code 3 if the literature does not answer it."""
    from ecg_llm.commands import ask as asking

    settings = _bound(study, None, None)[1]
    name = asking.choose_arm(settings, arm)
    for step in asking.needs(settings, name):
        _ready(study, step)
    said: list[str] = []

    def say(piece: str) -> None:
        said.append(piece)
        console.write(piece)

    with _guarded(settings):
        reply = asking.ask(settings, study, name, question, None if as_json else say)
    if as_json:
        console.figures(reply)
    else:
        console.out("" if said else reply["answer"])
        for line in asking.story(reply):
            console.out(line)
        console.say(f"\nArm {name}, {console.duration(reply['seconds'])}. Not medical advice.")
        if asking.is_nano(settings, name):
            console.say(NANO_NOTE)
    if not reply["answered"]:
        raise typer.Exit(3)


@rate_app.command("import")
def rate_import(
    files: Annotated[list[Path], typer.Argument(help="Rating files, CSV or JSON lines.")],
    study: StudyFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Import ratings into the study, listing every defect; outside a study: list only."""
    from ecg_llm import config, store
    from ecg_llm.commands import rate as rating
    from ecg_llm.records import GRADES
    from ecg_llm.score import human

    inside = (study / config.FILE).exists()
    if not inside and study != Path():
        config.load(study)
    imported = [rating.unblinded(human.read_ratings(file, file.stem), file) for file in files]
    if inside:
        for file, found in zip(files, imported, strict=True):
            store.write(study / "ratings" / f"{file.stem}.jsonl", found.ratings)
    summary = human.summary(imported)
    if as_json:
        console.figures(summary)
        return
    for name, arms in summary["sets"].items():
        rows = [(arm, *(counts[label] for label in human.LABELS)) for arm, counts in arms.items()]
        console.table(("arm", *human.LABELS), rows, title=name)
    listed = ("duplicates", "conflicts", "double_marked", "missing_mark", "incomplete", "remarks")
    for what in listed:
        if summary[what]:
            console.out(f"{what.replace('_', ' ')}: {len(summary[what])}")
            for line in summary[what]:
                console.out(f"  {line}")
    if not any(row.label in GRADES for found in imported for row in found.ratings):
        console.say("No usable mark was found, so there is nothing new to report.")
    elif inside:
        console.say(f"Next: ecg-llm report -C {study}")
    if not inside:
        console.say("This is not a study folder, so nothing was stored; -C names one.")


@rate_app.command("export")
def rate_export(
    file: Annotated[Path, typer.Argument(help="CSV to write: one row an answer, blinded.")],
    study: StudyFolder = Path(),
) -> None:
    """Write the open answers, blinded and shuffled, for raters to mark; the key lies beside it."""
    from ecg_llm.commands import rate as rating

    _run(study, "answers", None, None, quiet=True)
    written = rating.export(study, _bound(study, None, None)[1], file)
    console.say(f"{written.rows} answers in {file}; the arms behind the codes in {written.key}.")


@app.command()
def export(
    adapter: Annotated[str, typer.Argument(help="The adapter, by its name in study.yaml.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Where it goes; default: exports/ADAPTER-FORM.")
    ] = None,
    form: Annotated[str, typer.Option(help="merged, adapter, ollama, vllm or gguf.")] = "merged",
    dtype: Annotated[
        str, typer.Option(help="float32 or bfloat16; default: as the base is stored.")
    ] = "",
    converter: Annotated[
        Path | None, typer.Option(help="convert_hf_to_gguf.py of llama.cpp, for gguf.")
    ] = None,
    study: StudyFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a trained adapter for deployment, checked against the trained model."""
    from ecg_llm.commands import export as exporting

    bound, settings, models = _bound(study, None, None)
    with _guarded(settings), console.progress(f"export {adapter}") as bar:
        made = exporting.export(
            bound, settings, models, adapter, folder, form, dtype, converter, bar.remark
        )
    if stale := exporting.behind(bound, adapter):
        console.say(stale)
    if as_json:
        console.figures({"folder": str(made.folder), **exporting.figures(made.verdict)})
        return
    console.table(*exporting.table(made.verdict))
    for note in made.notes:
        console.say(note)
    console.out(f"Exported: {made.folder}; README.md there says how to serve it.")


@app.command("parity")
def compare_deployed(
    adapter: Annotated[str, typer.Argument(help="The adapter, by its name in study.yaml.")],
    model: Annotated[
        str, typer.Option(help="Entry of models to compare; default: base and adapter, here.")
    ] = "",
    study: StudyFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Compare what is deployed with the trained model; exit code 1 if it behaves differently."""
    from ecg_llm.commands import export as exporting

    _, settings, models = _bound(study, None, None)
    with _guarded(settings):
        verdict = exporting.compare(study, settings, models, adapter, model)
    if as_json:
        console.figures(exporting.figures(verdict))
    else:
        console.table(*exporting.table(verdict))
        for failure in verdict.failures:
            console.say(failure)
    if not verdict.ok:
        raise typer.Exit(1)


@app.command()
def compare(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FILE...", help="Logs, scores, ratings, preferences, CSV; folders."
        ),
    ],
    against: Annotated[
        str, typer.Option(help="Compare every other system with this one only.")
    ] = "",
    pair: Annotated[
        list[str] | None, typer.Option(help="A declared comparison, a:b; may be repeated.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this metric; may be repeated.")
    ] = None,
    lower: Annotated[
        list[str] | None, typer.Option(help="Less of this metric is better; may be repeated.")
    ] = None,
    cluster: Annotated[
        str, typer.Option(help="Field or column that names what items come from.")
    ] = "",
    margin: Annotated[
        float, typer.Option(min=0, help="Smallest difference that matters, as a share.")
    ] = 0.05,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page, figures and tables.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=1_000, max=1_000_000, help="Bootstrap resamples.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare systems in pairs on the same items: lm-eval and Inspect logs, our scores, CSV."""
    from ecg_llm.commands import compare as comparing

    if out:
        comparing.check(out)
    with console.progress("compare") as bar:
        found = comparing.compared(
            files, pair or (), resamples, seed, bar,
            against=against, metrics=metric or (), lower=lower or (), cluster=cluster,
        )  # fmt: skip
    page = comparing.write(out, found, files, margin) if out else None
    if as_json:
        console.figures(comparing.figures(found, margin))
        return
    for sentence in comparing.story(found, margin):
        console.out(sentence)
    for note in comparing.notes(found):
        console.say(note)
    for shown in comparing.tables(found, margin):
        console.table(shown.columns, shown.rows, title=shown.title)
        if shown.more:
            console.say(f"... and {shown.more:,} more rows: --json and --out have all.")
    if page:
        console.say(f"Page: {page}")


def _bound(
    folder: Path, overrides: Sequence[str] | None, limit: int | None
) -> tuple[Any, Any, Any]:
    """Return the steps bound to the folder, the settings and the models of a study."""
    from ecg_llm import config, pipeline, steps

    changes = list(overrides or [])
    if limit is not None:
        if limit < 1:
            raise UsageError(f"--limit takes a number of at least 1, not {limit}.")
        changes += [f"questions.limit={limit}", f"answers.limit={limit}"]
    settings = config.load(folder, changes)
    models = pipeline.Models(settings, folder)
    return steps.bind(folder, pipeline.study_steps(settings, folder, models)), settings, models


def _guarded(settings: Any) -> Any:
    from ecg_llm import pipeline, privacy

    return privacy.guard(pipeline.allowed_hosts(settings))


def _run(
    folder: Path,
    to: str,
    overrides: Sequence[str] | None,
    limit: int | None,
    *,
    retry: bool = False,
    quiet: bool = False,
    prepare: Callable[[], None] = lambda: None,
) -> list[Any]:
    """Bring the steps up to `to` up to date, saying what each did; return their results.

    `prepare` is called once the study is held alone.
    """
    from ecg_llm import pipeline, registry, steps

    bound, settings, _ = _bound(folder, overrides, limit)
    target = {"train": "retention"}.get(to, to)
    if target not in bound.steps:
        known = [name for name in bound.steps if "/" not in name]
        raise UsageError(f"There is no step {to!r}{registry.suggestion(to, known)}")
    results = []
    needed = steps.needed(bound, target)
    with steps.locked(folder), _guarded(settings) as guard:
        found = steps.states(bound)
        pipeline.check_scores(settings, [n for n in needed if found[n] not in ("done", "edited")])
        prepare()
        for name in needed:
            try:
                with console.progress(name) as bar:
                    result = steps.run(
                        bound,
                        name,
                        progress=bar,
                        remark=bar.remark,
                        hosts=lambda: sorted(guard.contacted),
                        retry=retry,
                    )
            except KeyboardInterrupt:
                console.say("ecg-llm: stopped; the same command goes on from here.")
                raise
            results.append(result)
            if not quiet or result.state == "unfinished":
                console.say(_line(result))
            for note in result.notes:
                console.say(f"  {note}")
        for host in sorted(guard.refused):
            console.say(f"ecg-llm: an attempt to reach {host} was refused; see privacy.allow.")
    return results


def _ready(folder: Path, to: str) -> None:
    """Bring the steps up to `to` up to date for a reader; where they are, nothing is held alone."""
    from ecg_llm import steps

    bound, _, _ = _bound(folder, None, None)
    found = steps.states(bound)
    if any(found[name] not in ("done", "edited") for name in steps.needed(bound, to)):
        _run(folder, to, None, None, quiet=True)


def _line(result: Any) -> str:
    took = console.duration(result.seconds) if result.seconds else "up to date"
    if result.state == "edited":
        took = "up to date, edited by hand"
    rows = f"{result.rows:,} rows" if result.rows else ""
    return f"{result.step:<22}{rows:>14}   {took}"


def _print_summary(folder: Path) -> None:
    from ecg_llm import config, pipeline, steps
    from ecg_llm.records import Estimate
    from ecg_llm.report import report

    settings = config.load(folder)
    estimates = steps.read_table(folder / "estimates.jsonl", Estimate)
    columns, rows = report.summary_table(estimates, list(settings.arms))
    console.table(columns, rows)
    if set(pipeline.nano_arms(settings)) & {row.arm for row in estimates}:
        console.out(NANO_NOTE)
    console.out(f"Report: {folder / 'report' / 'index.html'}")


def _print_tables(tables: Sequence[Any]) -> None:
    for shown in tables:
        if shown.rows:
            console.table(shown.columns, shown.rows, title=shown.title)


def _print_step(folder: Path, name: str) -> None:
    if name in ("standings", "agreement"):
        from ecg_llm.commands import estimates as estimating

        _print_tables(getattr(estimating, name)(folder))
        return
    found = _JSON[name](folder)
    for label, value in found.items():
        if isinstance(value, list):
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {count}" for key, count in value.items())
        console.out(f"{label.replace('_', ' ')}: {value}")
    if name == "documents" and found["not_read"]:
        lines = [
            (line["path"], line["page"] or "all", line["reason"], line["remedy"])
            for line in found["not_read"]
        ]
        console.table(("not read", "page", "why", "what to do"), lines[:SHOWN])
        if len(lines) > SHOWN:
            console.say(f"{len(lines) - SHOWN:,} more; `ecg-llm show pages` names every page.")


def _documents(folder: Path) -> dict[str, Any]:
    from ecg_llm.records import DOCUMENT_REASONS, PAGE_REASONS, Document, PageQuality
    from ecg_llm.steps import read_table

    rows = read_table(folder / "documents.jsonl", Document)
    path_of = {row.doc_id: row.path for row in rows if row.status == "partial"}
    listed = [
        {
            "path": row.path,
            "doc_id": row.doc_id,
            "status": row.status,
            "reason": row.reason,
            "pages": row.pages,
            "pages_read": row.quality.get("pages_read", 0),
            "language": row.language,
            "title": row.title,
            "licence": row.licence,
            "tags": row.tags,
            "set_aside": [part.model_dump() for part in row.set_aside],
        }
        for row in rows
    ]
    missed: list[dict[str, object]] = [
        {
            "path": row.path,
            "page": None,
            "reason": row.reason,
            "why": row.note or DOCUMENT_REASONS[row.reason].meaning,
            "remedy": DOCUMENT_REASONS[row.reason].remedy,
        }
        for row in rows
        if row.status in ("unreadable", "duplicate", "excluded")
    ]
    missed += [
        {
            "path": path_of[page.doc_id],
            "page": page.page,
            "reason": page.reason,
            "why": PAGE_REASONS[page.reason].meaning,
            "remedy": PAGE_REASONS[page.reason].remedy,
        }
        for doc_id in sorted(path_of)
        for page in read_table(folder / "texts" / f"{doc_id}.jsonl", PageQuality)
        if page.status == "unread"
    ]
    read = sum(row.status in ("ok", "partial") for row in rows)
    failed = sum(row.status == "unreadable" for row in rows)
    return {"documents": listed, "read": read, "failed": failed, "not_read": missed}


def _passages(folder: Path) -> dict[str, Any]:
    from ecg_llm.records import Passage
    from ecg_llm.steps import read_table

    rows = read_table(folder / "passages.jsonl", Passage)
    return {"passages": len(rows), "documents": len({row.doc_id for row in rows})}


def _retrieval(folder: Path) -> dict[str, Any]:
    from ecg_llm.records import Retrieval
    from ecg_llm.retrieve import measure
    from ecg_llm.steps import read_table

    rows = read_table(folder / "retrieval.jsonl", Retrieval)
    wanted = ("hit@1", "hit@5", "hit@20", "mrr", "ndcg@10", "recall@20")
    means = {name: round(value, 4) for name, value in measure.means(rows).items()}
    return {
        "questions": len(rows),
        "with a known source": sum(bool(row.sources) for row in rows),
        **{name: means[name] for name in wanted if name in means},
    }


def _counted(name: str, *columns: str) -> Callable[[Path], dict[str, Any]]:
    def count(folder: Path) -> dict[str, Any]:
        from collections import Counter

        from ecg_llm.records import TABLES
        from ecg_llm.steps import read_table

        rows = read_table(folder / f"{name}.jsonl", TABLES[name])
        found: dict[str, Any] = {name: len(rows)}
        for column in columns:
            counts = Counter(str(getattr(row, column)) or "-" for row in rows)
            found[column] = dict(sorted(counts.items()))
        return found

    return count


def _listed(name: str) -> Callable[[Path], dict[str, Any]]:
    def listed(folder: Path) -> dict[str, Any]:
        from ecg_llm.records import TABLES
        from ecg_llm.steps import read_table

        rows = read_table(folder / f"{name}.jsonl", TABLES[name])
        return {"count": len(rows), name: [row.model_dump(mode="json") for row in rows]}

    return listed


def _questions(folder: Path, overrides: Sequence[str] | None) -> dict[str, Any]:
    from ecg_llm import config
    from ecg_llm.commands import questions as asked

    return asked.summary(folder, config.load(folder, overrides or ()))


def _print_questions(folder: Path, overrides: Sequence[str] | None) -> None:
    """Print the figures of the questions: one table a list, the rest as lines."""
    found = _questions(folder, overrides)
    for label, value in found.items():
        if isinstance(value, list) and value:
            columns = [name for name, cell in value[0].items() if not isinstance(cell, Mapping)]
            rows = [[row[name] for name in columns] for row in value]
            console.table([name.replace("_", " ") for name in columns], rows, title=label)
        elif isinstance(value, Mapping) and value:
            console.out(f"{label}: " + ", ".join(f"{key} {n:,}" for key, n in value.items()))
        elif value:
            console.out(f"{label}: {value:,}")


_JSON: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "documents": _documents,
    "pages": _counted("pages", "status", "reason"),
    "passages": _passages,
    "splits": _counted("splits", "split", "why"),
    "contamination": _counted("contamination", "subset", "kind", "against"),
    "retrieval": _retrieval,
    "answers": _counted("answers", "arm", "status"),
    "scores": _counted("scores", "metric", "status"),
    "estimates": _listed("estimates"),
    "standings": _listed("standings"),
    "agreement": _listed("agreement"),
    "report": lambda folder: {"report": str(folder / "report" / "index.html")},
}


def _peak_mb() -> int:
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return int(max(own, workers)) >> 10


if __name__ == "__main__":
    main()
