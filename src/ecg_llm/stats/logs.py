"""What evaluation programs write, to scores: lm-evaluation-harness, Inspect, our own, any CSV.

Formats as written by lm-evaluation-harness 0.4 (`--log_samples`) and Inspect (log version 2; its
`value_to_float` says what the letters C, I, P and N count as).
"""

import csv
import importlib
import io
import json
import math
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ecg_llm import store
from ecg_llm.contracts import Block, MissingPackage, UsageError
from ecg_llm.records import Question, Score, digest

COLUMNS = ("system", "item", "score")
"""Columns a CSV must have; cluster and metric may join them, others are ignored."""
JUDGED = ("item", "a", "b", "preferred")
"""Columns of a CSV of preferences, a judgement a row; cluster and rater may join them."""
TIE = "tie"
DEFAULT_METRIC = "score"
MARKS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""What Inspect's scorers write for correct, incorrect, partly correct and no answer."""
NO_VALUE = ("", "nan", "na", "null", "none")
NO_PREFERENCE = NO_VALUE[:-1]
"""Of two answers "none" may mean a tie as well."""
KNOWN = "a scores.jsonl or folder of ours, lm-eval's samples_*.jsonl, an Inspect log, or CSV"
DATED = re.compile(r"(?P<name>.*)_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?)")
"""The name of a file of lm-evaluation-harness, without its suffix."""
SAMPLE = re.compile(r"samples/(?P<shell>.*_epoch_\d+)(/sample)?\.json")
"""A sample in an Inspect log, in one piece or in parts."""
ZSTANDARD = 93
"""Compression of newer Inspect logs, which Python reads from 3.14 on."""
NO_METRIC = frozenset(
    {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
    | {"doc_hash", "prompt_hash", "target_hash", "bypass"}
)
"""What a line of lm-evaluation-harness holds besides metrics."""
Json = Mapping[str, Any]


class Results(NamedTuple):
    """What one run or file says: scores with systems as arms, and where each item belongs."""

    scores: list[Score]
    subsets_of: dict[str, tuple[str, ...]]
    cluster_of: dict[str, str]
    lower: frozenset[str] = frozenset()
    """Metrics of which less is better."""
    notes: tuple[str, ...] = ()
    """What a reader should know: an unfinished run, a metric that was left out."""
    tasks: bool = False
    """Its subsets are tasks, which may be taken together."""
    blocks: tuple[Block, ...] = ()
    """Preferences: blocks of two, in the order shown."""
    unsaid: tuple[tuple[str, str], ...] = ()
    """(item, system) of both answers of each judgement without a preference."""
    ours: bool = False
    """Scores of this program, whose metrics are those of records.METRICS; elsewhere the same names
    may stand for something else."""

    @property
    def systems(self) -> set[str]:
        """The systems that these results name."""
        judged = {arm for block in self.blocks for arm in block.arms}
        return {score.arm for score in self.scores} | judged | {arm for _, arm in self.unsaid}


class Sample(NamedTuple):
    """One item of a log."""

    item: str
    cluster: str
    repeat: int
    values: Mapping[str, float | None]
    """Metric -> score; None where it is missing."""


def read(path: Path, cluster: str = "") -> dict[str, Results]:
    """Return the results of each run that a file or folder holds, by a name that tells them apart.

    A folder is a study of ours or is searched for logs. Beside a scores.jsonl, questions.jsonl
    gives subset and cluster of each question. In a CSV, an empty or NaN score is a missing one,
    which leaves the mean, and a system and item that occur more than once are repeats, which are
    averaged, as the epochs of Inspect are.

    A CSV with the columns JUDGED holds preferences: `preferred` is one of the two names in a and b,
    in the order shown, else the letter a or b, or TIE; an empty one is missing and counted.

    Args:
        path: the file or folder.
        cluster: column of the CSV, field of lm-evaluation-harness's `doc` or of Inspect's sample
            metadata that names what items come from; empty: the column `cluster`, else none.

    Raises:
        UsageError: there is nothing here, or it is of another kind, broken or empty.
        MissingPackage: an Inspect log is compressed with zstandard, which this Python cannot read.
    """
    try:
        if path.is_dir():
            return _read_folder(path, cluster)
        return _read_file(path, cluster)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8; compare reads {KNOWN}.") from error
    except store.TableError as error:
        raise UsageError(f"{error}; compare reads {KNOWN}.") from error
    except (csv.Error, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({error}); compare reads {KNOWN}.") from error


def _read_folder(folder: Path, cluster: str) -> dict[str, Results]:
    if (folder / "scores.jsonl").exists():
        return {str(folder): _read_own(folder / "scores.jsonl")}
    found: dict[str, Results] = {}
    runs: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("samples_*.json*")):
        dated = DATED.fullmatch(path.stem)
        runs[str(path.parent / dated["date"]) if dated else str(path.parent)].append(path)
    for name, paths in runs.items():
        found[name] = _read_harness(paths, cluster)
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".eval" or (path.suffix == ".json" and _is_inspect(path)):
            found[str(path)] = _read_inspect(path, cluster)
    if not found:
        raise UsageError(f"{folder} holds no log; compare reads {KNOWN}.")
    return found


def _read_file(path: Path, cluster: str) -> dict[str, Results]:
    suffix = path.suffix.lower()
    if suffix == ".eval":
        return {str(path): _read_inspect(path, cluster)}
    if suffix not in (".jsonl", ".json"):
        return {str(path): _read_csv(path, path.read_text(encoding="utf-8-sig"), cluster)}
    if not path.is_file():
        raise UsageError(f"There is no file {path}; check the path.")
    with path.open(encoding="utf-8") as file:
        head = next((line for line in file if line.strip()), "")
    if suffix == ".jsonl":
        first = _parsed(head)
        if isinstance(first, dict) and "doc_id" in first:
            return {str(path): _read_harness([path], cluster)}
        return {str(path): _read_own(path)}
    whole = _loaded(path)
    if isinstance(whole, dict) and "eval" in whole:
        return {str(path): _read_inspect(path, cluster)}
    if isinstance(whole, dict) and isinstance(whole.get("results"), dict):
        dated = DATED.fullmatch(path.stem)
        pattern = f"samples_*_{dated['date']}.jsonl" if dated else "samples_*.jsonl"
        samples = sorted(path.parent.glob(pattern))
        if not samples:
            raise UsageError(
                f"{path} holds only totals, and paired statistics need each item: "
                "run lm-eval again with --log_samples."
            )
        return {str(path): _read_harness(samples, cluster)}
    if isinstance(whole, list) and whole and isinstance(whole[0], dict) and "doc_id" in whole[0]:
        return {str(path): _read_harness([path], cluster)}
    raise UsageError(f"{path} is no log that compare knows; it reads {KNOWN}.")


def _read_own(path: Path) -> Results:
    scores = store.read(path, Score)
    questions = store.read(path.with_name("questions.jsonl"), Question)
    asked = {score.question_id for score in scores}
    known = [question for question in questions if question.question_id in asked]
    return Results(
        scores,
        {question.question_id: question.subsets for question in known},
        {question.question_id: question.group for question in known if question.group},
        ours=True,
    )


def _read_csv(path: Path, text: str, named: str) -> Results:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(
        io.StringIO(text, newline=""), restval="", strict=True, delimiter=delimiter
    )
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    if "system" not in names:
        names = ["system" if name == "model" else name for name in names]
    reader.fieldnames = names
    source = named.lower() or "cluster"
    used = (*COLUMNS, *JUDGED, "metric", "rater", source)
    if twice := sorted(name for name in used if names.count(name) > 1):
        raise UsageError(f"{path} has the column {twice[0]} twice; rename or remove one of them.")
    preferences = set(JUDGED) <= set(names) and not set(COLUMNS) <= set(names)
    lacking = [] if preferences else [column for column in COLUMNS if column not in names]
    if named and named.lower() not in names:
        lacking.append(named)
    if lacking:
        raise UsageError(
            f"{path} lacks the column {', '.join(lacking)}; a CSV needs {', '.join(COLUMNS)} "
            f"and may have cluster and metric, or {', '.join(JUDGED)} for preferences."
        )
    if preferences:
        return _read_preferences(path, reader, source)
    results = Results([], {}, {})
    repeats: Counter[tuple[str, str, str]] = Counter()
    for row in reader:
        system, item, score = ((row[column] or "").strip() for column in COLUMNS)
        if not (system or item or score):
            continue
        where = f"{path}, line {reader.line_num}"
        _check_length(row, where)
        if not system or not item:
            raise UsageError(f"{where}: a row needs a system and an item; fill them in.")
        metric = (row.get("metric") or "").strip() or DEFAULT_METRIC
        cluster = (row.get(source) or "").strip()
        if results.cluster_of.setdefault(item, cluster) != cluster:
            raise UsageError(f"{where}: item {item} stands in two clusters; correct one of them.")
        value = _cell(score, where)
        repeat = repeats[system, item, metric]
        repeats[system, item, metric] += 1
        results.scores.append(_score(system, item, metric, repeat, value))
    return results


def _read_preferences(path: Path, rows: "csv.DictReader[str]", named: str) -> Results:
    results = Results([], {}, {})
    blocks: list[Block] = []
    unsaid: list[tuple[str, str]] = []
    repeats: Counter[tuple[str, str, frozenset[str]]] = Counter()
    for row in rows:
        item, a, b, preferred = ((row[column] or "").strip() for column in JUDGED)
        if not (item or a or b or preferred):
            continue
        where = f"{path}, line {rows.line_num}"
        _check_length(row, where)
        if not (item and a and b):
            raise UsageError(f"{where}: a judgement needs an item, a and b; fill them in.")
        if a == b:
            raise UsageError(f"{where}: a and b are both {a}; name two systems.")
        cluster = (row.get(named) or "").strip()
        if results.cluster_of.setdefault(item, cluster) != cluster:
            raise UsageError(f"{where}: item {item} stands in two clusters; correct one of them.")
        places = {a: (1, 2), b: (2, 1)}.get(preferred) or {
            "a": (1, 2), "b": (2, 1), TIE: (1, 1)
        }.get(preferred.lower())  # fmt: skip
        if places:
            rater = (row.get("rater") or "").strip()
            key = item, rater, frozenset((a, b))
            blocks.append(Block(item, rater, (a, b), places, (1, 1), repeats[key]))
            repeats[key] += 1
        elif preferred.lower() in NO_PREFERENCE:
            unsaid += [(item, a), (item, b)]
        else:
            raise UsageError(
                f"{where}: preferred is {preferred!r}; write {a}, {b} or {TIE}, or leave it empty."
            )
    if not blocks:
        raise UsageError(f"{path} holds no preference; fill in the column preferred.")
    return results._replace(blocks=tuple(blocks), unsaid=tuple(unsaid))


def _check_length(row: Mapping[Any, Any], where: str) -> None:
    """Refuse a row with more cells than the header, which a comma in a cell makes, say."""
    surplus = [cell for cell in row.get(None) or () if cell.strip()]
    if surplus:
        raise UsageError(
            f"{where}: {surplus[-1]!r} stands beyond the last column; put a cell that holds the "
            "delimiter in quotation marks."
        )


def _cell(text: str, where: str) -> float | None:
    """Return the score of a CSV, or None for a missing one."""
    if text.lower() in NO_VALUE:
        return None
    value = _number(text)
    if value is None:
        raise UsageError(f"{where}: the score {text!r} is not a number; correct it there.")
    return value


def _read_harness(paths: Sequence[Path], cluster: str) -> Results:
    """Return the results of one run of lm-evaluation-harness: the samples of its tasks."""
    dated = DATED.fullmatch(paths[0].stem)
    beside = (
        sorted(paths[0].parent.glob(f"*_{dated['date']}.json"))
        if dated
        else sorted(paths[0].parent.glob("*results*.json"))[-1:]
    )
    totals = next((whole for whole in map(_loaded, beside) if isinstance(whole, dict)), {})
    system = _model_of(totals) or paths[0].parent.name.replace("__", "/")
    samples: dict[str, list[Sample]] = {}
    lower: set[str] = set()
    unread: list[str] = []
    bare: list[str] = []
    for path in paths:
        task = (DATED.fullmatch(path.stem) or {"name": path.stem})["name"].removeprefix("samples_")
        rows = _harness_rows(path)
        metrics = _harness_metrics(rows)
        unread += [f"{metric} of {task}" for metric in metrics["skipped"]]
        if not any(metrics.values()):
            bare.append(task)
        known = _fields(rows, "doc", cluster, path)
        samples[task] = [_harness_sample(task, row, metrics["kept"], known) for row in rows]
        better = _object(_object(totals.get("higher_is_better")).get(task))
        lower |= {
            metric
            for sample in samples[task]
            for metric in sample.values
            if better.get(metric.partition(",")[0]) is False
        }
    notes = [f"{system}: {', '.join(unread)} left out: not one number an item."] if unread else []
    notes += [f"{system}: {', '.join(bare)} left out: no metric in it."] if bare else []
    return _results(system, samples, frozenset(lower), notes)


def _harness_rows(path: Path) -> list[Json]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        rows = _parsed(text)
        rows = rows if isinstance(rows, list) else [rows]
    else:
        rows = [_parsed(line) for line in text.split("\n") if line.strip()]
    if not rows:
        raise UsageError(f"{path} holds no samples; run lm-eval again with --log_samples.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or "doc_id" not in row:
            raise UsageError(
                f"{path}, line {number} is not a sample of lm-eval: it is cut off or lacks doc_id."
            )
    return rows


def _harness_metrics(rows: Sequence[Json]) -> dict[str, list[str]]:
    """Return the metrics that are numbers ("kept") and those that are something else."""
    names: dict[str, bool] = {}
    for row in rows:
        for name in _metrics_of(row):
            names[name] = names.get(name, False) or _number(row.get(name)) is not None
    return {
        "kept": [name for name, number in names.items() if number],
        "skipped": [name for name, number in names.items() if not number],
    }


def _metrics_of(row: Json) -> list[str]:
    """Return the metrics of a line; older versions do not name them."""
    named = row.get("metrics")
    names = named if isinstance(named, list) else [key for key in row if key not in NO_METRIC]
    return [str(name) for name in names if name != "bypass"]


def _harness_sample(
    task: str, row: Json, metrics: Sequence[str], clusters: Mapping[int, str]
) -> Sample:
    kind = str(row.get("filter") or "none")
    ending = "" if kind == "none" else f",{kind}"
    # The hash tells items apart that bear one number in two versions of a task.
    item = f"{task}/{row['doc_id']}/{str(row.get('doc_hash') or '')[:12]}"
    own = _metrics_of(row)
    values = {name + ending: _number(row.get(name)) for name in metrics if name in own}
    return Sample(item, clusters.get(id(row), ""), 0, values)


def _model_of(totals: Json) -> str:
    """Return the model's name; of a folder on some disk its last part."""
    arguments = _object(totals.get("config")).get("model_args")
    name = str(totals.get("model_name") or "")
    if not name and isinstance(arguments, str):
        name = arguments.partition("pretrained=")[2].partition(",")[0]
    return PurePosixPath(name).name if name.startswith((".", "/", "~")) else name


def _is_inspect(path: Path) -> bool:
    """Whether a JSON file is a log of Inspect; its first keys say so."""
    with path.open(encoding="utf-8", errors="replace") as file:
        start = file.read(2000)
    return start.lstrip().startswith("{") and '"version"' in start and '"eval"' in start


def _read_inspect(path: Path, cluster: str) -> Results:
    log, samples = _inspect_zip(path) if path.suffix == ".eval" else _inspect_json(path)
    about = log.get("eval")
    if not isinstance(about, dict) or not about.get("model") or not about.get("task"):
        raise UsageError(f"{path} is no log of Inspect, or one of a version that is not known.")
    if not samples:
        raise UsageError(
            f"{path} holds no samples; run Inspect again without --no-log-samples, to the end."
        )
    task, system = str(about["task"]), str(about["model"])
    found = [_inspect_values(sample) for sample in samples]
    numbers = {name for values in found for name, value in values.items() if value is not None}
    given = {name for values in found for name in values}
    known = _fields(samples, "metadata", cluster, path)
    made = [
        Sample(
            f"{task}/{sample.get('id')}/{_input_digest(sample)}", known.get(id(sample), ""),
            _epoch(sample) - 1, {name: values.get(name) for name in numbers},
        )
        for sample, values in zip(samples, found, strict=True)
    ]  # fmt: skip
    notes = []
    if given - numbers:
        names = ", ".join(sorted(given - numbers))
        notes.append(f"{system}: {names} of {task} left out: no number or grade.")
    if log.get("status") not in (None, "success"):
        notes.append(
            f"{system}: the log of {task} is unfinished (status {log['status']}); "
            f"it holds {len(samples):,} {'sample' if len(samples) == 1 else 'samples'}."
        )
    if not numbers:
        raise UsageError(f"{path} holds no score that is a number or a grade; score it first.")
    return _results(system, {task: made}, frozenset(), notes)


def _inspect_json(path: Path) -> tuple[Json, list[Json]]:
    log = _loaded(path)
    if not isinstance(log, dict):
        raise UsageError(f"{path} is cut off or no JSON; get the log again.")
    samples = log.get("samples")
    if not isinstance(samples, list):
        return log, []
    return log, [sample for sample in samples if isinstance(sample, dict)]


def _inspect_zip(path: Path) -> tuple[Json, list[Json]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {entry.filename: entry.compress_type for entry in archive.infolist()}
            if ZSTANDARD in names.values() and not hasattr(zipfile, "ZIP_ZSTANDARD"):
                try:  # it adds the compression to zipfile
                    importlib.import_module("zipfile_zstd")
                except ImportError:
                    raise MissingPackage(
                        "zipfile-zstd", "zipfile-zstd", f"Reading {path.name}"
                    ) from None

            def member(name: str) -> Json:
                whole = json.loads(archive.read(name)) if name in names else {}
                return whole if isinstance(whole, dict) else {}

            # A run that broke off has no header, but what it started with.
            log = dict(member("header.json") or member("_journal/start.json"))
            if "header.json" not in names:
                log.setdefault("status", "started")
            samples: list[Json] = []
            for name in names:
                if SAMPLE.fullmatch(name):
                    sample = dict(member(name))
                    apart = name.removesuffix("sample.json") + "metadata.json"
                    if name.endswith("/sample.json") and apart in names:
                        sample["metadata"] = member(apart)
                    samples.append(sample)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise UsageError(f"{path} is no Inspect log, or a broken one ({error}).") from error
    return log, samples


def _inspect_values(sample: Json) -> dict[str, float | None]:
    """Return the scores of a sample by scorer, or by scorer and key; none if it failed."""
    values: dict[str, float | None] = {}
    for scorer, score in _object(sample.get("scores")).items():
        value = score.get("value") if isinstance(score, dict) else score
        if isinstance(value, dict):
            values |= {f"{scorer}/{key}": _graded(part) for key, part in value.items()}
        else:
            values[str(scorer)] = _graded(value)
    return values


def _epoch(sample: Json) -> int:
    number = _number(sample.get("epoch"))
    return int(number) if number and 0 < number < 10**6 else 1


def _graded(value: object) -> float | None:
    return GRADES[value] if isinstance(value, str) and value in GRADES else _number(value)


def _input_digest(sample: Json) -> str:
    """Return what the model was asked, as a digest: ids alone are numbers in some order."""
    asked = sample.get("input")
    turns = asked if isinstance(asked, list) else [asked]
    said = [turn.get("content") if isinstance(turn, dict) else turn for turn in turns]
    kept = _object(sample.get("attachments"))
    text = json.dumps(said, ensure_ascii=False)
    for name, whole in kept.items():
        text = text.replace(f"attachment://{name}", str(whole))
    return digest(text, length=12)


def _results(
    system: str, samples: Mapping[str, Sequence[Sample]], lower: frozenset[str], notes: list[str]
) -> Results:
    """Return the results of one system on some tasks; halves of characters become "?"."""
    made = Results([], {}, {}, lower, tuple(map(_whole, notes)), tasks=True)
    system = _whole(system)
    for task, found in samples.items():
        for sample in found:
            item = _whole(sample.item)
            made.subsets_of[item] = (_whole(task),)
            if sample.cluster:
                made.cluster_of[item] = _whole(sample.cluster)
            for metric, value in sample.values.items():
                made.scores.append(_score(system, item, _whole(metric), sample.repeat, value))
    return made


def _score(system: str, item: str, metric: str, repeat: int, value: float | None) -> Score:
    return Score(
        question_id=item, arm=system, repeat=repeat, metric=metric, value=value,
        status="error" if value is None else "scored",
    )  # fmt: skip


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _fields(rows: Sequence[Json], part: str, name: str, path: Path) -> dict[int, str]:
    """Return the field of this name of each row, by the row's identity.

    Raises:
        UsageError: a name is given, and no row has the field.
    """
    if not name:
        return {}
    parts = {id(row): row.get(part) for row in rows}
    held = {key: value for key, value in parts.items() if isinstance(value, dict)}
    found = {key: str(value[name]) for key, value in held.items() if value.get(name) is not None}
    if not found:
        known = sorted({str(field) for value in held.values() for field in value})
        raise UsageError(
            f"No sample of {path} has the field {name!r}; "
            f"there are: {', '.join(known) or 'no fields'}."
        )
    return found


def _object(value: object) -> Json:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    """Return a value as a finite number, or None."""
    if isinstance(value, str):
        value = MARKS.get(value.strip().lower(), value)
    if not isinstance(value, bool | int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _loaded(path: Path) -> Any:
    return _parsed(path.read_text(encoding="utf-8"))


def _parsed(text: str) -> Any:
    """Return what a text of JSON says, or None."""
    try:
        return json.loads(text)
    except ValueError:
        return None
