"""Read this first: the steps of a study in order, each with its inputs and its function.

    PDFs -> documents -> passages -> splits -> drafts -> checks -> questions -> contamination
         -> variants -> index -> retrieval -> (adapters) -> answers -> scores -> estimates -> report

A stage is a folder of pure functions from rows to rows; here they meet, and only in tables.
Stages are imported inside the functions, so that a command loads only what it runs.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ecg_llm import citing, config, privacy, prompt, registry, steps, store
from ecg_llm.contracts import (
    EMPTY,
    Answerer,
    ChatModel,
    Decoding,
    Embedder,
    Scorer,
    StepError,
    TokenCounter,
    UsageError,
    Writer,
)
from ecg_llm.records import (
    DOCUMENT_REASONS,
    TABLES,
    TESTED,
    Agreement,
    Answer,
    Check,
    Document,
    Draft,
    Estimate,
    GivenPassage,
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
    Revision,
    Row,
    Score,
    Standing,
    Training,
    Variant,
    digest,
)
from ecg_llm.steps import Step, Work

if TYPE_CHECKING:
    from ecg_llm.chat import ApiModel, Usage
    from ecg_llm.embed import WatchedEmbedder
    from ecg_llm.local import LocalModel
    from ecg_llm.retrieve.hybrid import HybridIndex
    from ecg_llm.train.tune import Material

WORDING = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
    "config.json",
)  # fmt: skip
BUILD = "parts/index.json"
"""What the last build of the index had to do."""
GIVEN = "given.jsonl"
"""Ready passages that `ecg-llm index --from` took over, in the study folder."""
SHOWING = {"k", "order", "passage_tokens"}
"""Settings of answers that concern arms with passages."""
FACTS = "facts"
"""The name under which answers are looked through for key facts; no judge may have it."""
JUDGING = 3
"""Version of what judges and the model of key facts are asked, and of their rows."""
RETENTION_LIMIT = 200
"""Questions of an outside set and kind, at most, that show what an adapter forgot."""


def study_steps(study: config.Study, folder: Path, models: "Models") -> list[Step]:
    """Return every step of this study, in order."""
    literature = folder / study.literature
    questions = study.questions
    imports = [import_path(imported, folder) for imported in questions.imports]
    revisions = files_of(folder, questions.revisions)
    documents = reading_parameters(study)
    made = [
        Step(
            "documents",
            lambda work: read_documents(work, study, literature),
            "documents.jsonl",
            Document,
            files=(literature, folder / GIVEN),
            parameters=documents,
            products=("texts",),
        ),
        Step(
            "pages",
            lambda work: join_pages(work),
            "pages.jsonl",
            PageQuality,
            inputs=("documents",),
            files=(folder / "texts",),
        ),
        Step(
            "passages",
            lambda work: cut_passages(work, study, models),
            "passages.jsonl",
            Passage,
            inputs=("documents",),
            files=(folder / "texts", folder / GIVEN),
            parameters={
                **study.passages.model_dump(mode="json"),
                "embedder": study.index.embedder,
            },
        ),
        Step(
            "splits",
            lambda work: draw_splits(work, study),
            "splits.jsonl",
            Placement,
            inputs=("documents", "passages"),
            parameters={
                **questions.split.model_dump(mode="json", exclude={"seen"}),
                "kinds_of_passages": study.passages.kinds,
                "seed": study.seed,
            },
        ),
        Step(
            "drafts",
            lambda work: write_drafts(work, study, models),
            "drafts.jsonl",
            Draft,
            inputs=("passages",),
            parameters={
                **_writing_parameters(study),
                "kinds_of_passages": study.passages.kinds,
                "seed": study.seed,
            },
        ),
        Step(
            "checks",
            lambda work: check_drafts(work, study, models),
            "checks.jsonl",
            Check,
            inputs=("passages", "drafts"),
            parameters={
                **questions.checks.model_dump(mode="json"),
                "model": _identity(study, questions.checks.model),
                "prompts": prompt.version(*(f"check_{name}" for name in questions.checks.passes)),
                "language": questions.language,
                "embedder": study.index.embedder,
                "seed": study.seed,
            },
        ),
        Step(
            "questions",
            lambda work: make_questions(work, study, models, imports, revisions),
            "questions.jsonl",
            Question,
            inputs=("documents", "passages", "splits", "drafts", "checks"),
            files=(*imports, *revisions),
            parameters={
                "seen": questions.split.seen,
                "imports": [imported.model_dump(mode="json") for imported in questions.imports],
                "kinds": questions.kinds,
                "language": questions.language,
                "checks": questions.checks.model_dump(mode="json"),
                "embedder": study.index.embedder,
                "seed": study.seed,
            },
        ),
        Step(
            "contamination",
            lambda work: find_contamination(work, study, models),
            "contamination.jsonl",
            Overlap,
            inputs=("passages", "splits", "questions"),
            parameters={
                "kinds_of_passages": study.passages.kinds,
                "embedder": study.index.embedder,
            },
        ),
        Step(
            "variants",
            lambda work: write_variants(work, study, models),
            "variants.jsonl",
            Variant,
            inputs=("passages", "questions"),
            parameters={
                **questions.variants.model_dump(mode="json"),
                "model": _identity(study, questions.variants.model),
                "prompts": prompt.version("write_variants"),
                "similarity": questions.checks.similarity,
                "kinds_of_passages": study.passages.kinds,
                "embedder": study.index.embedder,
                "seed": study.seed,
            },
        ),
        *_retrieval_steps(study, models),
        *_training_steps(study, models),
        *_answer_steps(study, models),
        *_judgement_steps(study, models),
    ]
    ratings = files_of(folder, study.scores.ratings)
    _refuse_unknown_candidates(study, ratings)
    made += [
        Step(
            "scores",
            lambda work: score_answers(work, study, models, ratings),
            "scores.jsonl",
            Score,
            inputs=("passages", "questions", "answers", "facts", "judgements"),
            files=ratings,
            parameters={
                **study.scores.model_dump(mode="json", exclude={"judges", "facts", "ratings"}),
                "embedder": models.search_parameters["embedder"],
                "citing": citing.VERSION,
            },
            version=4,
        ),
        Step(
            "reliability",
            lambda work: measure_reliability(work, study),
            "reliability.jsonl",
            Reliability,
            inputs=("questions", "answers", "judgements", "scores"),
            parameters={"resamples": study.estimates.resamples, "seed": study.seed},
            version=2,
        ),
        Step(
            "estimates",
            lambda work: estimate_scores(work, study, ratings),
            "estimates.jsonl",
            Estimate,
            inputs=("questions", "answers", "judgements", "scores"),
            parameters={**study.estimates.model_dump(mode="json"), "seed": study.seed},
            version=5,
        ),
        Step(
            "standings",
            lambda work: rank_overall(work, study, ratings),
            "standings.jsonl",
            Standing,
            inputs=("questions", "scores", "estimates"),
            parameters={"resamples": study.estimates.resamples, "seed": study.seed},
        ),
        Step(
            "agreement",
            lambda work: compare_layers(work, study, ratings),
            "agreement.jsonl",
            Agreement,
            inputs=("questions", "scores"),
            parameters={"resamples": study.estimates.resamples, "seed": study.seed},
        ),
    ]
    alone = rated_alone(study, folder)
    shown = _of_ratings(study) if alone else study
    aside = ("index", "sweeps", "index-sweep")
    upstream = tuple(step.name for step in made if "/" not in step.name and step.name not in aside)
    made.append(
        Step(
            "report",
            lambda work: write_report(work, shown, steps.bind(folder, made), ratings),
            "report/index.html",
            inputs=upstream,
            files=(folder / "sweeps.jsonl", folder / "index_sweep.jsonl"),
            parameters=shown.model_dump(mode="json"),
        )
    )
    return _resting_on_ratings(made) if alone else made


def rated_alone(study: config.Study, folder: Path) -> bool:
    """Whether the folder holds imported ratings and nothing to ask about: no document, no set."""
    if not files_of(folder, study.scores.ratings) or study.questions.imports:
        return False
    read = folder / "documents.jsonl"
    if (folder / GIVEN).exists() or (read.exists() and read.stat().st_size):
        return False
    from ecg_llm.corpus import ingest

    literature = folder / study.literature
    return not (literature.is_dir() and ingest.find(literature))


def _resting_on_ratings(made: Sequence[Step]) -> list[Step]:
    """Return the steps, those from the scores on without any input from before."""
    names = [step.name for step in made]
    late = names[names.index("scores") :]
    return [
        replace(step, inputs=tuple(name for name in step.inputs if name in late))
        if step.name in late
        else step
        for step in made
    ]


def _refuse_unknown_candidates(study: config.Study, ratings: Sequence[Path]) -> None:
    if set(study.decision.candidates) <= set(study.arms):
        return
    rated = {study.scores.raters.get(row.arm, row.arm) for row in read_ratings(ratings)}
    for name in study.decision.candidates:
        if name not in study.arms and name not in rated:
            raise UsageError(
                f"decision.candidates names {name!r}, which is neither in arms nor was it rated"
                + registry.suggestion(name, [*study.arms, *rated])
            )


def _of_ratings(study: config.Study) -> config.Study:
    """Return the study without the models and arms that its ratings are not about."""
    rated = set(study.scores.raters.values())
    pairs = tuple(pair for pair in study.estimates.comparisons if rated.issuperset(pair))
    return study.model_copy(
        update={
            **{section: {} for section in ("models", "adapters", "sweeps", "arms")},
            "scores": study.scores.model_copy(update={"judges": {}, "facts": config.Facts()}),
            "estimates": study.estimates.model_copy(update={"comparisons": pairs}),
        }
    )


def _writing_parameters(study: config.Study) -> dict[str, object]:
    """Return what decides the drafts: of the settings, those that the writer heeds."""
    settings = study.questions
    heeded = {"writer", "kinds", "per_window", "window", "limit", "language"}
    if settings.writer == "extractive":
        from ecg_llm.questions.writing import EXTRACTIVE

        return {**settings.model_dump(mode="json", include=heeded), "version": EXTRACTIVE}
    heeded |= {"types", "difficulties", "joined", "max_tokens", "temperature"}
    names = (*(f"write_{kind}" for kind in settings.kinds), "write_joined", "write_repair")
    return {
        **settings.model_dump(mode="json", include=heeded),
        "models": [_identity(study, name) for name in settings.writers],
        "prompts": prompt.version(*names),
    }


def files_of(folder: Path, globs: Sequence[str]) -> tuple[Path, ...]:
    """Return the files that these globs find, sorted."""
    return tuple(sorted({path for glob in globs for path in folder.glob(glob)}))


def _training_steps(study: config.Study, models: "Models") -> list[Step]:
    """Return a step for each nano model and each adapter, and the one that joins their tables."""
    found = []
    for name, model in study.models.items():
        if isinstance(model, config.NanoModelConfig):
            found.append(
                Step(
                    f"training/{name}",
                    _bound(train_nano, study, name, models),
                    f"parts/training/{name}.jsonl",
                    Training,
                    inputs=("passages", "splits", "questions"),
                    parameters={**model.model_dump(mode="json"), "seed": study.seed},
                    products=(f"models/{name}",),
                )
            )
    for name, adapter in study.trained.items():
        base = study.models[adapter.model]
        needs = (f"training/{adapter.model}",) if base.kind == "nano" else ()
        replay = [models.folder / place for place in [adapter.pretrain.replay] if place]
        shown = models.search_parameters if adapter.mix.passages else None
        needs = (*needs, "index") if shown else needs
        found.append(
            Step(
                f"training/{name}",
                _bound(train_adapter, study, name, models),
                f"parts/training/{name}.jsonl",
                Training,
                inputs=("passages", "splits", "questions", "variants", *needs),
                files=(*models.wording(adapter.model), *replay),
                parameters={
                    **adapter.model_dump(mode="json", exclude=set(config.ADAPTER_ASIDE)),
                    "base": _identity(study, adapter.model),
                    "weights": models.fingerprint(adapter.model),
                    "kinds_of_passages": study.passages.kinds,
                    "prompts": prompt.version("open", "choice", "context", "passages"),
                    "index": shown,
                    "seed": study.seed,
                },
                products=(f"adapters/{name}",),
            )
        )
    varied = [step for step in found if step.name.partition("/")[2] in study.swept]
    sweeps = _joined("sweeps", Training, varied)
    kept = [step for step in found if step not in varied]
    return [*found, _joined("training", Training, kept), sweeps, *_retention_steps(study, models)]


def _retention_steps(study: config.Study, models: "Models") -> list[Step]:
    """Return a step for what each adapter forgot, and the one that joins their tables."""
    found = [
        Step(
            f"retention/{name}",
            _bound(measure_retention, study, name, models),
            f"parts/retention/{name}.jsonl",
            Retention,
            inputs=("questions", f"training/{name}"),
            parameters={
                "base": _identity(study, adapter.model),
                "limit": RETENTION_LIMIT,
                "prompts": prompt.version("open", "choice", "context"),
                "seed": study.seed,
            },
        )
        for name, adapter in study.trained.items()
        if name not in study.swept
    ]
    joined = _joined("retention", Retention, found)
    # With the table of the losses, so that one target brings all that training tells up to date.
    return [*found, replace(joined, inputs=(*joined.inputs, "training"))]


def _retrieval_steps(study: config.Study, models: "Models") -> list[Step]:
    """Return the steps that build the index, measure it, and compare variants of it."""
    searched = models.search_parameters
    return [
        Step(
            "index",
            lambda work: build_index(work, study, models),
            "index.json",
            inputs=("documents", "passages"),
            products=() if "://" in study.index.store else (study.index.store,),
            parameters={
                "store": study.index.store,
                "embedder": searched["embedder"],
                "terms": searched["terms"],
                "kinds": study.passages.kinds,
            },
        ),
        Step(
            "retrieval",
            lambda work: measure_retrieval(work, study, models),
            "retrieval.jsonl",
            Retrieval,
            inputs=("passages", "questions", "index"),
            parameters={**searched, "limit": study.answers.limit, "seed": study.seed},
        ),
        Step(
            "index-sweep",
            lambda work: sweep_index(work, study, models),
            "index_sweep.jsonl",
            IndexVariant,
            inputs=("documents", "passages", "questions"),
            files=(models.folder / "texts", models.folder / GIVEN),
            parameters={
                **searched,
                "sweep": list(study.index.sweep),
                "passages": study.passages.model_dump(mode="json"),
                "k": study.answers.k,
                "limit": study.answers.limit,
                "seed": study.seed,
            },
        ),
    ]


def _answer_steps(study: config.Study, models: "Models") -> list[Step]:
    """Return a step for each arm, and the one that joins their tables."""
    found = []
    for name, arm in study.arms.items():
        needs = ["questions"]
        if arm.retrieve:
            needs += ["passages", "index"]
        if study.models[arm.model].kind == "nano":
            needs.append(f"training/{arm.model}")
        if arm.adapter:
            needs.append(f"training/{arm.adapter}")
        found.append(
            Step(
                f"answers/{name}",
                _bound(answer_arm, study, name, models),
                f"parts/answers/{name}.jsonl",
                Answer,
                inputs=tuple(needs),
                files=models.wording(arm.model),
                parameters={
                    **study.answers.model_dump(
                        mode="json", exclude=set() if arm.retrieve else SHOWING
                    ),
                    **arm.model_dump(mode="json"),
                    "model": _identity(study, arm.model),
                    "weights": models.fingerprint(arm.model),
                    "index": models.search_parameters if arm.retrieve else None,
                    "embedder": (
                        models.search_parameters["embedder"]
                        if study.models[arm.model].kind == "extractive"
                        else None
                    ),
                    "prompts": prompt.version("open", "choice", "context", "passages"),
                    "seed": study.seed,
                },
                version=3,
            )
        )
    return [*found, _answers_joined(found)]


def _judgement_steps(study: config.Study, models: "Models") -> list[Step]:
    """Return the steps of key facts and of each judge, and the one that joins their tables."""
    settings = study.scores.facts
    listed = Step(
        "facts",
        lambda work: list_key_facts(work, study, models),
        "facts.jsonl",
        KeyFacts,
        inputs=("questions",),
        parameters={**_facts_parameters(study, "list_facts"), "limit": study.answers.limit},
        version=JUDGING,
    )
    found = [
        Step(
            f"judgements/{name}",
            _bound(judge_answers, study, name, models),
            f"parts/judgements/{name}.jsonl",
            Judgement,
            inputs=("passages", "questions", "answers"),
            parameters=_judge_parameters(study, name),
            version=JUDGING,
        )
        for name in study.scores.judges
    ]
    if settings.model:
        found.append(
            Step(
                f"judgements/{FACTS}",
                lambda work: check_key_facts(work, study, models),
                f"parts/judgements/{FACTS}.jsonl",
                Judgement,
                inputs=("questions", "answers", "facts"),
                parameters=_facts_parameters(study, "check_facts"),
                version=JUDGING,
            )
        )
    return [listed, *found, _joined("judgements", Judgement, found)]


def _judge_parameters(study: config.Study, name: str) -> dict[str, object]:
    """Return what decides a judge's judgements besides what it is shown."""
    judge = study.scores.judges[name]
    return {
        **judge.model_dump(mode="json"),
        "model": _identity(study, judge.model),
        "prompts": prompt.version("verdict", "ranking", "ask_again"),
        "seed": study.seed,
    }


def _facts_parameters(study: config.Study, task: str) -> dict[str, object]:
    """Return what decides the replies of the model of key facts to this prompt."""
    settings = study.scores.facts
    return {
        **settings.model_dump(mode="json"),
        "model": _identity(study, settings.model),
        "prompts": prompt.version(task, "ask_again"),
        "seed": study.seed,
    }


def read_documents(work: Work, study: config.Study, literature: Path) -> Iterator[Row]:
    """Read the literature folder; texts go to texts/<doc_id>.md before their row is kept."""
    from ecg_llm.corpus import given, ingest

    given_rows = steps.read_table(work.folder / GIVEN, GivenPassage)
    if not literature.is_dir() and not given_rows:
        raise StepError(
            f"There is no folder {literature}; make it and put your papers in, "
            f"or set `literature` in study.yaml."
        )
    texts = work.folder / "texts"
    texts.mkdir(exist_ok=True)
    given_documents = given.documents(given_rows)
    rows = {row.path: row for row in work.made(Document)}
    before, now = work.previous.get("parameters"), reading_parameters(study)
    decide = set(now) - ingest.PER_ROW
    if isinstance(before, dict) and all(before.get(key) == now[key] for key in decide):
        old = steps.read_table(work.folder / "documents.jsonl", Document)
        rows = {row.path: row for row in old} | rows
    known = {
        path: ingest.Read(row, read_text(work.folder, row))
        for path, row in rows.items()
        if not row.pages or pages_file(work.folder, row).exists()
    }
    used: set[Path] = set()
    paths: set[str] = set()
    found_files = (
        ingest.ingest(literature, study.documents, known, work.progress, work.remark)
        if literature.is_dir()
        else ()
    )
    for found in found_files:
        text, pages = text_file(work.folder, found.row), pages_file(work.folder, found.row)
        if found.text:
            store.write_text(text, found.text)
            used.add(text)
        if found.pages:
            store.write(pages, found.pages)
        same = known.get(found.row.path)
        if found.pages or (same and same.row.doc_id == found.row.doc_id):
            used.add(pages)
        if found.row.reason == "near_duplicate":
            used.discard(text)
        paths |= {found.row.path, found.row.doc_id}
        yield found.row
    for path in (*texts.glob("*.md"), *texts.glob("*.jsonl")):
        if path not in used:
            path.unlink()
    for row in given_documents:
        if row.path in paths:
            raise StepError(
                f"{GIVEN} and {study.literature} both hold a document named {row.path}; give the "
                f"passages another doc_id."
            )
        yield row


def join_pages(work: Work) -> Iterator[Row]:
    """Gather what is known of the pages of every document."""
    from ecg_llm.corpus import given

    documents = [row for row in work.table(Document) if row.engine != given.ENGINE]
    for doc_id in sorted({row.doc_id for row in documents if row.doc_id}):
        yield from steps.read_table(work.folder / "texts" / f"{doc_id}.jsonl", PageQuality)


def cut_passages(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Cut every document that was read."""
    from ecg_llm.corpus import given, passages

    documents = work.table(Document)
    readable = [row for row in documents if row.status in ("ok", "partial")]
    if not readable:
        raise StepError(_nothing_read(documents, study.literature))
    rows = [row for row in readable if row.engine != given.ENGINE]
    made = work.made(Passage)
    have = {row.doc_id for row in made} - {made[-1].doc_id if made else ""}  # it may lack its end
    papers = {row.doc_id for row in rows}
    own = {row.passage_id for row in made if row.doc_id in papers}
    for done, row in enumerate(rows, start=1):
        if row.doc_id not in have:
            text = read_text(work.folder, row)
            for passage in passages.cut(row, text, models.embedder.count_tokens, study.passages):
                own.add(passage.passage_id)
                yield passage
        work.progress(done, len(rows))
    ready = steps.read_table(work.folder / GIVEN, GivenPassage)
    for passage in given.passages(ready, models.embedder.count_tokens):
        if passage.passage_id in own:
            raise StepError(
                f"{GIVEN} and {study.literature} both hold a passage {passage.passage_id}; give "
                f"it another passage_id."
            )
        yield passage


def draw_splits(work: Work, study: config.Study) -> Iterator[Row]:
    """Place every document on one side of the split; what was drawn before stays."""
    from ecg_llm.questions.splitting import placing

    rows = placing.placements(
        work.table(Document),
        usable(work.table(Passage), study),
        study.questions.split,
        study.seed,
        steps.read_table(work.folder / "splits.jsonl", Placement),
    )
    work.notes += [
        f"{row.path} moved to {row.split} ({row.why})" for row in rows if ", was " in row.why
    ]
    if not any(row.split == "test" for row in rows):
        work.notes.append("No document is in test: nothing shows what carries over to new ones")
    yield from rows


def write_drafts(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Have the writers ask about every window of passages."""
    from ecg_llm.questions.writing import generate, windows

    passages = usable(work.table(Passage), study)
    made = windows.windows(passages, study.questions, study.seed)
    done = {row.draft_id for row in work.made(Draft)}
    writers = models.writers(passages, done)
    total = len(made) * len(study.questions.kinds)
    failed: list[str] = []
    for number, draft in enumerate(generate.write_together(writers, made), start=1):
        yield draft
        if draft.status == "error":
            failed.append(draft.reason)
        work.progress(len(done) + number, total)
        work.remark(models.spent())
    if failed and len(failed) == total:
        raise StepError(
            f"Not one of {total:,} drafts was written ({failed[0]}); look after the server and run "
            "again."
        )
    if failed:
        work.notes.append(_again(len(failed), total, "drafts were not written", failed[0]))


def check_drafts(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Have the checking model, if there is one, look at every question that was written."""
    from ecg_llm.questions.checking import checks

    settings = study.questions.checks
    if not settings.model:
        return
    if settings.model in study.questions.writers:
        work.notes.append(
            "The checking model also wrote the questions; another one would see more."
        )
    rows = checks.checks(
        verified(work, study, models),
        work.table(Passage),
        models.chat(settings.model),
        study.questions,
        Decoding(settings.max_tokens, seed=study.seed),
        done={row.key for row in work.done},
        progress=work.progress,
    )
    yield from _failures_noted(rows, work, models, "checks have no reply")


def make_questions(
    work: Work,
    study: config.Study,
    models: "Models",
    imports: Sequence[Path],
    revisions: Sequence[Path],
) -> Iterator[Row]:
    """Check what was written, add imported sets and people's corrections, and place it all."""
    from ecg_llm.questions.checking import checks, keys, twins, verify
    from ecg_llm.questions.exchange import importing, revise
    from ecg_llm.questions.splitting import split

    settings = study.questions
    documents = work.table(Document)
    imported = [
        question
        for path, of_set in zip(imports, settings.imports, strict=True)
        for question in importing.read_set(path, of_set, documents, study.seed)
    ]
    written = checks.applied(verified(work, study, models), work.table(Check))
    changes = [row for path in revisions for row in steps.read_table(path, Revision)]
    rows, problems = revise.applied([*written, *imported], changes)
    work.notes += problems
    vectors = twins.Vectors.of(
        models.watched_embedder(work),
        (text for row in rows if row.status == "kept" for text in twins.texts_of(row)),
    )
    cosine = settings.checks.duplicate
    written = [row for row in rows if row.set == verify.SET]
    imported = [row for row in rows if row.set != verify.SET]
    placed = split.assign(
        [*verify.without_imports(written, imported, vectors, cosine), *imported],
        work.table(Placement),
        documents,
        {of_set.set_name: of_set for of_set in settings.imports},
        settings.split,
        study.seed,
        vectors,
        cosine,
    )
    unread = sum("unchecked" in row.flags for row in placed)
    if unread:
        work.notes.append(
            f"{unread:,} questions are kept unchecked: the checking model's replies are missing or "
            "not in the form asked for"
        )
    empty = {of_set.set_name for of_set in settings.imports} - {row.set for row in placed}
    work.notes += [f"The imported set {name} holds no question" for name in sorted(empty)]
    work.notes += split.remarks(placed)
    # Dealt before, for those who look at a few; now for those that are left.
    yield from keys.balanced([row for row in placed if row.set == verify.SET], study.seed)
    yield from (row for row in placed if row.set != verify.SET)


def verified(work: Work, study: config.Study, models: "Models") -> list[Question]:
    """Return the questions of the drafts, kept or dropped by every check without a model."""
    from ecg_llm.questions.checking import verify

    return verify.questions(
        work.table(Draft),
        work.table(Passage),
        study.questions,
        study.seed,
        models.watched_embedder(work),
    )


def find_contamination(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Find what tested questions share with what is trained on."""
    from ecg_llm.questions.splitting import contamination

    yield from contamination.overlaps(
        work.table(Question), training_passages(work, study), models.watched_embedder(work)
    )


def write_variants(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Have a model, if there is one, word the open training questions anew."""
    from ecg_llm.questions.writing import variants

    settings = study.questions.variants
    if not settings.model:
        return
    rows = variants.variants(
        work.table(Question),
        usable(work.table(Passage), study),
        models.chat(settings.model),
        study.questions,
        Decoding(settings.max_tokens, settings.temperature, seed=study.seed),
        models.embedder,
        done={row.key for row in work.done},
        progress=work.progress,
    )
    yield from _failures_noted(rows, work, models, "variants were not written")


def train_nano(work: Work, study: config.Study, name: str, models: "Models") -> Iterator[Row]:
    """Train a nano model from scratch on the passages of train documents."""
    from ecg_llm.train import nano

    settings = study.models[name]
    assert isinstance(settings, config.NanoModelConfig)
    texts = [passage.text for passage in training_passages(work, study)]
    if not texts:
        raise StepError(
            "No passage is in the train split; add documents or change questions.split."
        )
    models.let_go()
    yield from nano.build(
        texts,
        settings,
        work.folder / "models" / name,
        study.seed,
        name=name,
        progress=work.progress,
        remark=work.remark,
    )


def train_adapter(work: Work, study: config.Study, name: str, models: "Models") -> Iterator[Row]:
    """Fine-tune one adapter on the train split."""
    from ecg_llm.train import tune

    settings = study.trained[name]
    base = study.models[settings.model]
    if not isinstance(base, config.LocalModelConfig | config.NanoModelConfig):
        raise UsageError(
            f"adapters.{name} tunes model {settings.model!r}, which is of kind {base.kind}; "
            f"only local and nano models can be tuned."
        )
    tune.check_settings(settings, name)
    material = training_material(work, study, settings, models)
    if not material.train:
        raise UsageError(
            f"adapters.{name}: no question with an answer is in the train split; "
            f"`ecg-llm show questions --where split=train` names the reasons."
        )
    models.let_go()
    out = work.folder / "adapters" / name
    yield from tune.tune(
        models.source(settings.model),
        base.revision if isinstance(base, config.LocalModelConfig) else "",
        material,
        settings,
        out,
        seed=study.seed,
        name=name,
        progress=work.progress,
        remark=work.remark,
    )
    work.notes += tune.remarks(out)


def training_material(
    work: Work, study: config.Study, settings: config.Adapter, models: "Models"
) -> "Material":
    """Return what an adapter learns from and is watched by."""
    from ecg_llm.train import examples, replay, tune

    kept = [row for row in work.table(Question) if row.status == "kept"]
    passages = {row.passage_id: row for row in training_passages(work, study)}
    variants = [row for row in work.table(Variant) if row.status == "kept"]
    trained = [row for row in kept if row.split == "train"]
    held_out = [row for row in kept if row.split == "val"]
    retriever = models.index() if settings.mix.passages else None
    made = examples.examples(trained, passages, variants, settings.mix, study.seed, retriever)
    pretrained = settings.pretrain.epochs > 0
    return tune.Material(
        made.items,
        examples.plain(held_out, settings.mix).items,
        [row for row in held_out if row.kind == "choice"],
        [row for row in trained if row.kind == "choice"],
        [row.text for row in passages.values()] if pretrained else [],
        replay.texts(work.folder, settings.pretrain.replay) if pretrained else [],
        made.counts,
    )


def measure_retention(
    work: Work, study: config.Study, name: str, models: "Models"
) -> Iterator[Row]:
    """Ask base and adapter the imported questions that lie outside the corpus."""
    from ecg_llm.train import retention

    base = study.trained[name].model
    yield from retention.retention(
        name,
        lambda: models.local(base),
        lambda: models.local(base, name),
        work.table(Question),
        RETENTION_LIMIT,
        study.seed,
        done={row.key for row in work.done},
        progress=work.progress,
    )


def build_index(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Bring the index up to the passages."""
    wanted = usable(work.table(Passage), study)
    if not wanted:
        raise StepError(
            f"No visible passage is of the kinds {', '.join(study.passages.kinds)}, so there is "
            "nothing to search; set passages.kinds, or look at: ecg-llm show passages"
        )
    languages = {row.doc_id: row.language for row in work.table(Document)}
    built = models.index().build(wanted, languages, work.progress)
    work.notes.append(
        f"{built.passages:,} passages, {built.embedded:,} embedded now, {built.removed:,} removed"
    )
    # What rests on the index asks what it holds, not where it lies or what a build had to do.
    store.write_json(work.folder / "index.json", built.held)
    store.write_json(work.folder / BUILD, {"store": study.index.store, **built._asdict()})
    yield from ()


def measure_retrieval(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Search for the source of every tested question by the question alone."""
    from ecg_llm.retrieve import measure

    questions = tested(work.table(Question), study)
    rows = usable(work.table(Passage), study)
    yield from measure.measured(questions, rows, models.index(), progress=work.progress)


def sweep_index(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Cut, index and search under every variant of `index.sweep`, each in a store of its own."""
    from ecg_llm.corpus import given, passages
    from ecg_llm.retrieve import sweep

    readable = [row for row in work.table(Document) if row.status in ("ok", "partial")]
    languages = {row.doc_id: row.language for row in readable}
    documents = [row for row in readable if row.engine != given.ENGINE]
    original = work.table(Passage)
    ready = given.passages(
        steps.read_table(work.folder / GIVEN, GivenPassage), models.embedder.count_tokens
    )
    questions = tested(work.table(Question), study)
    done = {row.variant for row in work.made(IndexVariant)}
    embedders = {study.index.embedder: models.embedder}
    variants = study.index_variants
    for number, (name, variant) in enumerate(variants.items(), start=1):
        if name not in done:
            settings = variant.study
            # One folder for each cut and embedder, so that each is embedded once, and whole.
            cut_as = digest(settings.passages.model_dump(mode="json"), settings.index.embedder)
            there = Models(settings, work.folder, work.scratch / cut_as)
            there.embedder = embedders.setdefault(settings.index.embedder, there.embedder)
            cut = [
                passage
                for row in documents
                for passage in passages.cut(
                    row,
                    read_text(work.folder, row),
                    there.embedder.count_tokens,
                    settings.passages,
                )
            ]
            yield sweep.variant(
                name,
                variant.settings,
                questions,
                original,
                usable([*cut, *ready], settings),
                languages,
                there.index(),
                settings.answers.k,
            )
        work.progress(number, len(variants))


def answer_arm(work: Work, study: config.Study, name: str, models: "Models") -> Iterator[Row]:
    """Ask one arm every question of the tested splits; time and memory go beside the table."""
    from ecg_llm import local
    from ecg_llm.answer import arms

    arm = study.arms[name]
    questions = tested(work.table(Question), study)
    if not questions:
        raise StepError(
            "No kept question is in a tested split; `ecg-llm show questions` names the reasons."
        )
    passages = {row.passage_id: row for row in work.table(Passage)} if arm.retrieve else {}
    answerer, count = models.answerer(name)
    elsewhere = study.models[arm.model].kind == "api"
    if not elsewhere:
        local.reset_memory()  # an arm before this one may have taken more
    done = {row.key for row in work.done}
    failed: list[str] = []
    unshown = 0
    with _latencies(latency_file(work.folder, name), done) as kept:
        for answer, latency in arms.answers(
            name,
            questions,
            answerer,
            models.index() if arm.retrieve else None,
            passages,
            study.answers,
            count=count,
            done=done,
            progress=work.progress,
        ):
            memory = 0 if elsewhere else local.memory_used() >> 20
            kept(latency.model_copy(update={"memory_mb": memory}))
            if answer.status == "error":
                failed.append(answer.reason)
            unshown += arm.retrieve and not answer.passages
            yield answer
            work.remark(models.spent())
    if failed:
        work.notes.append(_again(len(failed), 0, "answers failed", failed[0]))
    if unshown:
        work.notes.append(f"{unshown:,} answers were given without a passage: none was found")


@contextmanager
def _latencies(
    path: Path, done: Collection[tuple[object, ...]]
) -> Iterator[Callable[[Latency], None]]:
    """Keep latencies in a file as they come, beside those of the answers in `done`."""
    found = store.Partial(path, Latency)
    found.close()
    rows = {row.key: row for row in found.rows if row.key in done}
    store.write(path, rows.values())
    log = store.Partial(path, Latency)

    def keep(row: Latency) -> None:
        rows[row.key] = row
        log.append(row)

    try:
        yield keep
    finally:
        log.close()
        store.write(path, rows.values())  # a batch that was made again stands there twice


def latency_file(folder: Path, arm: str) -> Path:
    """Return where an arm's latencies lie until they are joined."""
    return folder / "parts" / "latencies" / f"{arm}.jsonl"


def _answers_joined(parts: Sequence[Step]) -> Step:
    """Return the step that joins the arms' answers, and their latencies beside them."""
    joined = _joined("answers", Answer, parts)

    def join(work: Work) -> Iterator[Row]:
        yield from joined.make(work)
        arms = [part.name.partition("/")[2] for part in parts]
        rows = [
            row for arm in arms for row in steps.read_table(latency_file(work.folder, arm), Latency)
        ]
        store.write(work.folder / "latencies.jsonl", rows)

    return replace(joined, make=join)


def judge_answers(work: Work, study: config.Study, name: str, models: "Models") -> Iterator[Row]:
    """Have one judge judge the open answers, in all its modes."""
    from ecg_llm.score.judging import judgements

    settings = study.scores.judges[name]
    work.notes += kinship(study, name)
    same = _judge_parameters(study, name)
    for free in ("modes", "block", "orders", "related"):
        del same[free]  # they decide what is asked, and requests are compared one by one
    rows = judgements(
        name,
        models.chat(settings.model),
        open_items(work.table(Question), work.table(Answer)),
        {row.passage_id: row for row in work.table(Passage)},
        settings,
        study.seed,
        done={row.key[0] for row in work.done},
        progress=work.progress,
        former=_former(work, f"parts/judgements/{name}.jsonl", Judgement, same),
    )
    show = f"judgements --where judge={name}"
    yield from _replies_noted(rows, work, models, settings.model, f"judge {name}", show)


def _replies_noted(
    rows: Iterator[Judgement] | Iterator[KeyFacts],
    work: Work,
    models: "Models",
    entry: str,
    whose: str,
    show: str,
) -> Iterator[Row]:
    """Yield what a model said as rows, show what it cost, and note what failed or is unread.

    `entry` is the model's name in study.yaml; `show` are the arguments that show these rows.
    """
    heard: list[Judgement | KeyFacts] = [*work.made(Judgement), *work.made(KeyFacts)]
    for row in rows:
        heard.append(row)
        yield row
        work.remark(models.spent())
    heard = [row for row in heard if row.prompt_sha]  # the model was asked for no others
    failed = [row.reason for row in heard if row.status == "error"]
    if failed:
        work.notes.append(_again(len(failed), len(heard), f"replies of {whose} failed", failed[0]))
    unread = Counter(row.reason for row in heard if row.reason and row.status != "error")
    if unread:
        note = (
            f"{unread.total():,} of {len(heard):,} replies of {whose} could not be read "
            f"({unread.most_common(1)[0][0]}); `ecg-llm show {show}` has them"
        )
        if isinstance(models.study.models[entry], config.ApiModelConfig):
            note += (
                f"; after changing the server, set models.{entry}.revision, so that it is asked "
                "anew"
            )
        work.notes.append(f"{note}.")


def _former(
    work: Work, output: str, row: type[steps.R], parameters: Mapping[str, object]
) -> list[steps.R]:
    """Return what a judging step's last complete run made, if these parameters were the same.

    A table edited since is no record of what a model said.
    """
    path, last = work.folder / output, work.previous
    before = last.get("parameters")
    same = (
        isinstance(before, dict)
        and all(before.get(key) == value for key, value in parameters.items())
        and last.get("version") == JUDGING
        and last.get("output") == store.file_digest(path)
    )
    return steps.read_table(path, row) if same else []


def check_scores(study: config.Study, waiting: Collection[str]) -> None:
    """Refuse now what one of these steps, yet to be made, would refuse after hours of answers.

    Raises:
        UsageError: a judge is related to a model that wrote questions or training examples, or
            BERTScore cannot be computed as set.
    """
    for name in study.scores.judges:
        if f"judgements/{name}" in waiting:
            kinship(study, name)
    settings = study.scores
    plain = settings.encoder == "minilm" and settings.layer is None and not settings.rescale
    if "scores" in waiting and settings.overlap and settings.bertscore and not plain:
        from ecg_llm.score import bert

        bert.BertScorer(settings.encoder, settings.layer, settings.rescale).check()


def kinship(study: config.Study, judge: str) -> list[str]:
    """Return warnings about a judge that is among its own, in the panel twice, or unknown.

    The model of key facts goes by FACTS, and is refused nothing.

    Raises:
        UsageError: it is related to a model that wrote questions or training examples.
    """
    from ecg_llm.score import families

    def kin(name: str) -> families.Kin:
        model = study.models[name]
        if isinstance(model, config.ApiModelConfig):
            return families.Kin(model.name, families.family(model.name, model.family))
        if isinstance(model, config.LocalModelConfig):
            return families.Kin(model.id, families.family(model.id, model.family))
        return families.Kin(name, frozenset())

    questions = study.questions
    names = questions.writers if questions.writer == "llm" else ()
    writers = [kin(name) for name in (*names, *filter(None, [questions.variants.model]))]
    contestants = [kin(arm.model) for arm in study.arms.values()]
    if judge == FACTS:
        return families.check_facts(kin(study.scores.facts.model), writers, contestants)
    panel = {name: kin(each.model) for name, each in study.scores.judges.items()}
    settings = study.scores.judges[judge]
    return [
        *families.check(judge, settings, panel[judge], writers, contestants),
        *families.check_panel(judge, panel),
    ]


def list_key_facts(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Have the model of scores.facts list the facts of each reference; none where it is not set."""
    from ecg_llm.score import facts

    settings = study.scores.facts
    if not settings.model:
        return
    work.notes += kinship(study, FACTS)
    questions = [row for row in tested(work.table(Question), study) if row.kind == "open"]
    rows = facts.list_facts(
        models.chat(settings.model),
        questions,
        settings,
        study.seed,
        done={row.key[0] for row in work.done},
        progress=work.progress,
        former=_former(work, "facts.jsonl", KeyFacts, _facts_parameters(study, "list_facts")),
    )
    whose = "the model that lists key facts"
    yield from _replies_noted(rows, work, models, settings.model, whose, "facts")


def check_key_facts(work: Work, study: config.Study, models: "Models") -> Iterator[Row]:
    """Have the model of scores.facts look for the key facts in every open answer."""
    from ecg_llm.score import facts

    settings = study.scores.facts
    output, same = f"parts/judgements/{FACTS}.jsonl", _facts_parameters(study, "check_facts")
    rows = facts.check_facts(
        models.chat(settings.model),
        open_items(work.table(Question), work.table(Answer)),
        {row.question_id: row for row in work.table(KeyFacts)},
        settings,
        study.seed,
        done={row.key[0] for row in work.done},
        progress=work.progress,
        former=_former(work, output, Judgement, same),
    )
    whose, show = "the model that looks for key facts", f"judgements --where judge={FACTS}"
    yield from _replies_noted(rows, work, models, settings.model, whose, show)


def open_items(
    questions: Sequence[Question], answers: Sequence[Answer]
) -> list[tuple[Question, Answer]]:
    """Return every answer to an open question, with its question."""
    of = {row.question_id: row for row in questions if row.kind == "open"}
    return [(of[row.question_id], row) for row in answers if row.question_id in of]


def score_answers(
    work: Work, study: config.Study, models: "Models", ratings: Sequence[Path]
) -> Iterator[Row]:
    """Score every answer by every layer that is switched on."""
    from ecg_llm.score import bert, choice, facts, human, overlap, ranking, similarity, verdict
    from ecg_llm.score import citing as cited

    questions = {row.question_id: row for row in work.table(Question)}
    answers = work.table(Answer)
    items = [(questions[answer.question_id], answer) for answer in answers]
    passages = {row.passage_id: row for row in work.table(Passage)}
    rated, names = read_ratings(ratings), study.scores.raters
    if rated and not answers:
        work.notes.append("No arm has answered: the scores are imported ratings alone")
    if unknown := sorted(set(names) - {row.arm for row in rated}):
        work.notes.append(f"scores.raters names systems that no rating has: {', '.join(unknown)}")
    work.notes += human.shared_arms(rated, names)
    marks = human.human_scores(rated, list(questions.values()), names)
    scorers: list[Scorer] = [
        choice.ChoiceScorer(),
        cited.CitationScorer(models.watched_embedder(work), passages),
    ]
    if study.scores.overlap:
        scorers.append(overlap.OverlapScorer())
        if study.scores.bertscore:
            settings = study.scores
            scorers.append(bert.BertScorer(settings.encoder, settings.layer, settings.rescale))
        scorers.append(similarity.SimilarityGrader(models.embedder))
    for done, scorer in enumerate(scorers, start=1):
        yield from scorer.score(items)
        work.progress(done, len(scorers) + 1)
    judgements = work.table(Judgement)
    yield from verdict.verdict_scores(judgements, items, passages)
    ranks = [name for name, judge in study.scores.judges.items() if "ranking" in judge.modes]
    yield from ranking.ranking_scores(judgements, items, ranks)
    if study.scores.facts.model:
        listed = {row.question_id: row for row in work.table(KeyFacts)}
        yield from facts.fact_scores(judgements, listed, items)
    yield from marks


def measure_reliability(work: Work, study: config.Study) -> Iterator[Row]:
    """Measure how far place, slot and length sway arms and judges, and how far judges agree."""
    from ecg_llm.score import asking, ranking
    from ecg_llm.stats import reliability

    questions = {row.question_id: row for row in work.table(Question)}
    cluster_of = {row.question_id: row.group for row in questions.values()}
    items = open_items(list(questions.values()), work.table(Answer))
    judgements, scores = work.table(Judgement), work.table(Score)
    resamples, seed = study.estimates.resamples, study.seed
    yield from reliability.choice_reliability(scores, questions, cluster_of, resamples, seed)
    shown = [answer for _, answer in items if asking.unshown(answer) is None]
    words = {
        (answer.question_id, answer.arm, answer.repeat): len(asking.shown_text(answer).split())
        for answer in shown
    }
    replies = [
        reliability.JudgeReply(
            row.judge, row.question_id, row.mode, bool(row.former), bool(row.reason)
        )
        for row in judgements
        if row.prompt_sha and (row.status != "error" or row.reason == EMPTY)
    ]
    blocks = ranking.blocks(judgements, items)
    yield from reliability.judge_reliability(
        blocks, scores, words, replies, cluster_of, resamples, seed
    )


def estimate_scores(work: Work, study: config.Study, ratings: Sequence[Path]) -> Iterator[Row]:
    """Turn scores into means, paired differences and ranks."""
    from ecg_llm.score import overlap, ranking
    from ecg_llm.stats import corpus, estimate, strength

    subsets_of, cluster_of = belonging(work.table(Question), read_ratings(ratings))
    resamples, seed = study.estimates.resamples, study.seed
    yield from estimate.estimates(
        work.table(Score),
        subsets_of,
        cluster_of,
        study.estimates.comparisons,
        resamples,
        seed,
        progress=work.progress,
    )
    items = open_items(work.table(Question), work.table(Answer))
    blocks = ranking.blocks(work.table(Judgement), items)
    yield from strength.strengths(blocks, subsets_of, cluster_of, resamples, seed)
    if study.scores.overlap:
        yield from corpus.bleu_estimates(
            *overlap.bleu_counts(items),
            subsets_of,
            cluster_of,
            study.estimates.comparisons,
            resamples,
            seed,
        )


def belonging(
    questions: Sequence[Question], ratings: Sequence[Rating]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the subsets that each question counts in, and its cluster, by question_id.

    A question that is known from ratings alone counts in the set of its ratings and is a cluster of
    its own.
    """
    from ecg_llm.score import human

    subsets_of = {row.question_id: row.subsets for row in questions}
    cluster_of = {row.question_id: row.group for row in questions}
    for rating, question_id in zip(ratings, human.question_ids(ratings, questions), strict=True):
        subsets_of.setdefault(question_id, (f"{rating.set}/rated",))
        cluster_of.setdefault(question_id, question_id)
    return subsets_of, cluster_of


def rank_overall(work: Work, study: config.Study, ratings: Sequence[Path]) -> Iterator[Row]:
    """Rank the arms over all layers."""
    from ecg_llm.stats import ranking

    yield from ranking.standings(
        work.table(Estimate),
        work.table(Score),
        *belonging(work.table(Question), read_ratings(ratings)),
        study.estimates.resamples,
        study.seed,
        progress=work.progress,
    )


def compare_layers(work: Work, study: config.Study, ratings: Sequence[Path]) -> Iterator[Row]:
    """Measure how far the layers of evaluation rank arms and answers alike."""
    from ecg_llm.stats import layers

    yield from layers.agreement(
        work.table(Score),
        *belonging(work.table(Question), read_ratings(ratings)),
        study.estimates.resamples,
        study.seed,
        progress=work.progress,
    )


def write_report(
    work: Work, study: config.Study, bound: steps.Study, ratings: Sequence[Path]
) -> Iterator[Row]:
    """Write the report: one HTML file, its figures and tables as files beside it."""
    from ecg_llm.report import exports, report

    tables: dict[str, Sequence[Row]] = {
        name: steps.read_table(work.folder / f"{name}.jsonl", row) for name, row in TABLES.items()
    }
    tables[Rating.table] = read_ratings(ratings)
    manifests = {name: steps.manifest(bound, name) for name in bound.steps if name != "report"}
    html = report.build(
        study,
        tables,
        manifests,
        pictures=worst_pages(work, study),
        records=adapter_records(work.folder, study),
        sweep_rows=steps.read_table(work.folder / "sweeps.jsonl", Training),
    )
    exports.write(html, work.folder / "report")
    yield from ()


def adapter_records(folder: Path, study: config.Study) -> dict[str, Mapping[str, object]]:
    """Return what is recorded of every adapter that was trained."""
    found = {
        name: store.read_json(folder / "adapters" / name / "tuning.json") for name in study.trained
    }
    return {name: record for name, record in found.items() if record}


def worst_pages(work: Work, study: config.Study) -> dict[tuple[str, int], bytes]:
    """Return pictures of the pages whose text can be trusted least."""
    from ecg_llm.corpus import ingest, pictures
    from ecg_llm.report import literature

    worst = literature.worst(work.table(Document), work.table(PageQuality))
    places = [page.place for page in worst if page.path.lower().endswith(".pdf")]
    jobs = [
        pictures.PictureJob(
            str(work.folder / study.literature / page.path),
            page.page,
            ingest.password_of(page.path, study.documents),
        )
        for page in worst
        if page.place in places
    ]
    return dict(zip(places, pictures.draw(jobs), strict=True))


@dataclass
class Models:
    """The models of a study, each loaded when first used; one chat model is held at a time."""

    study: config.Study
    folder: Path
    index_folder: Path | None = None
    """What index.store is relative to, if not the study's folder."""
    _embedder: "Embedder | None" = None
    _held: tuple[tuple[str, str], "LocalModel"] | None = None
    _servers: dict[str, "ApiModel"] = field(default_factory=dict)
    _index: "HybridIndex | None" = None

    @property
    def embedder(self) -> "Embedder":
        """The embedder of the index; its tokenizer counts the tokens of passages."""
        from ecg_llm.embed import embedder_of

        if self._embedder is None:
            self._embedder = embedder_of(self.study)
        return self._embedder

    @embedder.setter
    def embedder(self, made: "Embedder") -> None:
        self._embedder = made

    def watched_embedder(self, work: Work) -> "WatchedEmbedder":
        """Return the embedder, reporting to this step's progress."""
        from ecg_llm.embed import WatchedEmbedder

        work.remark("texts embedded")
        return WatchedEmbedder(self.embedder, work.progress)

    def index(self) -> "HybridIndex":
        """Return the index of this study, opened."""
        from ecg_llm.embed import reranker_of
        from ecg_llm.retrieve.hybrid import HybridIndex
        from ecg_llm.retrieve.lexicon import Lexicon

        if self._index is None:
            self._index = HybridIndex(
                self.index_folder or self.folder,
                self.embedder,
                self.study.index,
                Lexicon.load(self.study.index.lexicon, self.folder),
                reranker_of(self.study),
            )
        return self._index

    @cached_property
    def search_parameters(self) -> dict[str, object]:
        """What decides what is found, wherever the index lies."""
        from ecg_llm.retrieve import hybrid, terms
        from ecg_llm.retrieve.lexicon import Lexicon

        settings = self.study.index
        unused = {"store", "sweep", "lexicon", "embedder", "reranker"}
        unused |= set() if settings.reranker else {"reranked"}
        unused |= set() if settings.dense_weight else {"crowding", "feedback"}
        return {
            **settings.model_dump(mode="json", exclude=unused),
            "embedder": self._model_of_search(settings.embedder),
            "reranker": self._model_of_search(settings.reranker),
            "lexicon": Lexicon.load(settings.lexicon, self.folder).version,
            "terms": terms.VERSION,
            "search": hybrid.VERSION,
        }

    def _model_of_search(self, name: str) -> list[object]:
        """Return what decides the vectors or scores of an embedder or reranker."""
        weights = sorted(Path(name).rglob("*.safetensors")) if name and Path(name).is_dir() else []
        return [name, _identity(self.study, name), store.ends_digest(weights) if weights else ""]

    def source(self, name: str) -> str:
        """Return the folder or id of a local or nano model's weights."""
        settings = self.study.models[name]
        if isinstance(settings, config.LocalModelConfig):
            inside = self.folder / settings.id
            return str(inside) if inside.is_dir() else settings.id
        return str(self.folder / "models" / name)

    def wording(self, name: str) -> tuple[Path, ...]:
        """Return the files that decide the tokens a model in a folder is shown and ends with."""
        settings = self.study.models[name]
        if not isinstance(settings, config.LocalModelConfig):
            return ()
        folder = Path(self.source(name))
        return tuple(folder / file for file in WORDING if (folder / file).is_file())

    def fingerprint(self, name: str) -> str:
        """Return what changes with the weights of a model in a folder: their sizes and ends.

        Hashing the whole of them at every command would take minutes.
        """
        settings = self.study.models[name]
        folder = Path(self.source(name))
        if not isinstance(settings, config.LocalModelConfig) or not folder.is_dir():
            return ""
        return store.ends_digest(sorted(folder.glob("*.safetensors")))

    def chat(self, name: str, adapter: str = "") -> ChatModel:
        """Return the chat model of this entry, with an adapter if one is named."""
        settings = self.study.models[name]
        if isinstance(settings, config.ApiModelConfig):
            return self._server(name, settings)
        if self._held and self._held[0] == (name, adapter):
            return self._held[1]
        self.let_go()
        if isinstance(settings, config.ExtractiveModelConfig):
            raise UsageError(
                f"Model {name!r} is of kind extractive: it answers as an arm, "
                f"but can neither write questions nor judge."
            )
        from ecg_llm.local import LocalModel

        weights = self.folder / "adapters" / adapter if adapter else None
        source = self.source(name)
        if adapter and self.study.trained[adapter].method == "full":
            source, weights = str(weights), None
        if isinstance(settings, config.LocalModelConfig):
            made = LocalModel(
                source,
                revision=settings.revision,
                adapter=weights,
                quantization=settings.quantization,
                batch=settings.batch,
                label=settings.id,
            )
        else:
            made = LocalModel(source, adapter=weights, batch=settings.batch, label=f"nano-{name}")
        self._held = ((name, adapter), made)
        return made

    def local(self, name: str, adapter: str = "") -> "LocalModel":
        """Return the local or nano model of this entry, with an adapter if one is named.

        Raises:
            UsageError: the entry is of another kind.
        """
        from ecg_llm.local import LocalModel

        model = self.chat(name, adapter)
        if not isinstance(model, LocalModel):
            raise UsageError(f"Model {name!r} is not in this process; name one of kind local.")
        return model

    def _server(self, name: str, settings: config.ApiModelConfig) -> "ApiModel":
        from ecg_llm.chat import ApiModel

        if name not in self._servers:
            self._servers[name] = ApiModel(settings, self.folder / "cache.sqlite")
        return self._servers[name]

    def answerer(
        self, arm_name: str, say: Callable[[str], None] | None = None
    ) -> tuple[Answerer, TokenCounter]:
        """Return what answers for this arm, and the tokenizer that its passages are counted by.

        `say`, if given, is called with each piece of a reply as it is written.
        """
        from ecg_llm.answer.arms import ModelAnswerer
        from ecg_llm.answer.extractive import ExtractiveAnswerer

        arm = self.study.arms[arm_name]
        settings = self.study.models[arm.model]
        if isinstance(settings, config.ExtractiveModelConfig):
            answerer = ExtractiveAnswerer(self.embedder, settings.sentences)
            return answerer, self.embedder.count_tokens
        model = self.chat(arm.model, arm.adapter)
        asked = ModelAnswerer(model, self.study.answers, self.study.seed, say)
        return asked, model.count_tokens

    def writers(self, passages: Sequence[Passage], done: Collection[str] = ()) -> list[Writer]:
        """Return what writes questions from these usable passages, drafts in `done` left out."""
        from ecg_llm.questions.writing.extractive import ExtractiveWriter
        from ecg_llm.questions.writing.generate import LlmWriter

        settings = self.study.questions
        if settings.writer == "extractive":
            return [ExtractiveWriter(settings, self.study.seed, passages)]
        decoding = Decoding(settings.max_tokens, settings.temperature, seed=self.study.seed)
        return [LlmWriter(self.chat(name), settings, decoding, done) for name in settings.writers]

    def usages(self) -> "Mapping[str, Usage]":
        """Return what each server has been asked for so far."""
        return {name: model.usage for name, model in self._servers.items()}

    def spent(self) -> str:
        """Return in words what the servers have been asked for so far."""
        used = self.usages().values()
        if not used:
            return ""
        tokens = sum(usage.tokens_in + usage.tokens_out for usage in used)
        cost = sum(usage.cost for usage in used)
        words = [f"{tokens:,} tokens"]
        if cost:
            words.append(f"cost {cost:,.2f}")
        if cached := sum(usage.cached for usage in used):
            words.append(f"{cached:,} from the cache")
        return ", ".join(words)

    def let_go(self) -> None:
        """Free the memory of the model held."""
        held, self._held = self._held, None
        if held:
            held[1].close()


def usable(passages: Sequence[Passage], study: config.Study) -> list[Passage]:
    """Return the passages that models may see: of the chosen kinds and visible on the page."""
    return [row for row in passages if row.kind in study.passages.kinds and not row.hidden]


def reading_parameters(study: config.Study) -> dict[str, object]:
    """Return what decides the text of documents: settings, engine version, OCR here or not."""
    from ecg_llm.corpus import ocr

    settings = study.documents
    command, _ = ocr.command() if settings.ocr == "auto" else ((), "")
    aside = {"workers", "passwords"}
    return {
        **settings.model_dump(mode="json", exclude=aside),
        "passwords": {
            glob: scrypt_digest(password.get_secret_value(), glob)
            for glob, password in settings.passwords.items()
        },
        "engine_version": registry.find("pdf", settings.engine)().version,
        "ocr": "on" if command else "off",
    }


def scrypt_digest(secret: str, salt: str) -> str:
    """Return what changes with a password but is too slow to guess it from (RFC 7914)."""
    import hashlib

    made = hashlib.scrypt(secret.encode(), salt=salt.encode(), n=2**14, r=8, p=1, dklen=8)
    return made.hex()


def training_passages(work: Work, study: config.Study) -> list[Passage]:
    """Return the usable passages of the documents in the train split."""
    trained = {row.doc_id for row in work.table(Placement) if row.split == "train"}
    return [row for row in usable(work.table(Passage), study) if row.doc_id in trained]


def tested(questions: Sequence[Question], study: config.Study) -> list[Question]:
    """Return the kept questions of the tested splits, at most answers.limit of each subset."""
    import random

    kept = [row for row in questions if row.status == "kept" and row.split in TESTED]
    limit = study.answers.limit
    if limit is None:
        return kept
    chosen = []
    for subset in sorted({(row.subset, row.kind) for row in kept}):
        rows = sorted((r for r in kept if (r.subset, r.kind) == subset), key=lambda r: r.key)
        chosen += random.Random(study.seed).sample(rows, min(limit, len(rows)))
    return chosen


def text_file(folder: Path, row: Document) -> Path:
    """Return where the text of a document lies."""
    return folder / "texts" / f"{row.doc_id}.md"


def pages_file(folder: Path, row: Document) -> Path:
    """Return where the records of a document's pages lie until they are gathered."""
    return folder / "texts" / f"{row.doc_id}.jsonl"


def read_text(folder: Path, row: Document) -> str:
    """Return the text of a document; empty if none was kept, as of ready passages."""
    from ecg_llm.corpus import given

    path = text_file(folder, row)
    if row.status not in ("ok", "partial") or row.engine == given.ENGINE or not path.exists():
        return ""
    return path.read_bytes().decode("utf-8")


def read_ratings(paths: Sequence[Path]) -> list[Rating]:
    """Return the imported ratings of these files."""
    return [row for path in paths for row in steps.read_table(path, Rating)]


def import_path(imported: config.ImportedSet, folder: Path) -> Path:
    """Return where the file of an imported set lies; "handbook" is the bundled one.

    Raises:
        UsageError: the study's own table of that name would be written over it.
    """
    if imported.path == "handbook":
        return Path(str(resources.files("ecg_llm").joinpath("demo", "questions.jsonl")))
    place = (folder / imported.path).resolve()
    if place.parent == folder.resolve() and place.suffix == ".jsonl" and place.stem in TABLES:
        raise UsageError(
            f"{place.name} is where the study keeps its own {place.stem}, which would be written "
            "over your file; give the file another name and name that in questions.imports."
        )
    return place


def allowed_hosts(study: config.Study) -> Collection[str]:
    """Return the hosts this study may reach: its own model servers and privacy.allow."""
    servers = [
        privacy.host_of(model.base_url)
        for model in study.models.values()
        if isinstance(model, config.ApiModelConfig)
    ]
    from ecg_llm.retrieve import stores

    return {*servers, *stores.hosts_of(study.index.store), *study.privacy.allow}


def _failures_noted(
    rows: Iterator[Check] | Iterator[Variant], work: Work, models: Models, what: str
) -> Iterator[Row]:
    """Yield what a model server replied as rows, show what it cost, and note what failed."""
    failed: list[str] = []
    for row in rows:
        yield row
        if row.status == "error":
            failed.append(row.reason)
        work.remark(models.spent())
    if failed:
        work.notes.append(_again(len(failed), 0, what, failed[0]))


def _again(count: int, total: int, what: str, reason: str) -> str:
    of = f" of {total:,}" if total else ""
    return f"{count:,}{of} {what} ({reason}); `ecg-llm run --retry` asks for them again."


def _nothing_read(documents: Sequence[Document], literature: str) -> str:
    """Return the sentence for a literature folder without a readable document."""
    if not documents:
        return f"The folder {literature} holds no documents; put your papers in and run again."
    first = documents[0]
    why = (first.note or DOCUMENT_REASONS[first.reason].meaning).rstrip(".")
    return (
        f"None of the {len(documents)} files in {literature} could be read, for example "
        f"{first.path}: {why}; `ecg-llm show documents` names every file and why."
    )


def _identity(study: config.Study, name: str) -> Mapping[str, object] | None:
    """Return what of a model's settings decides its replies."""
    if name not in study.models:
        return None
    ignored = {
        "batch",
        "concurrency",
        "timeout",
        "base_url",
        "key_env",
        "price_in",
        "price_out",
        "price_hour",
    }
    return study.models[name].model_dump(mode="json", exclude=ignored)


def _bound(
    function: Callable[[Work, config.Study, str, Models], Iterator[Row]],
    study: config.Study,
    name: str,
    models: Models,
) -> Callable[[Work], Iterator[Row]]:
    return lambda work: function(work, study, name, models)


def _joined(name: str, row: type[Row], parts: Sequence[Step]) -> Step:
    """Return the step that joins the tables of these steps into one."""

    def join(work: Work) -> Iterator[Row]:
        for part in parts:
            yield from steps.read_table(work.folder / part.output, row)

    return Step(name, join, f"{name}.jsonl", row, inputs=tuple(part.name for part in parts))


def nano_arms(study: config.Study) -> list[str]:
    """Return the arms whose model is a nano model: their numbers say nothing about medicine."""
    return [name for name, arm in study.arms.items() if study.models[arm.model].kind == "nano"]
