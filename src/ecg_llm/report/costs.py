"""What an answer of each arm costs: seconds, tokens, memory, and money at the study's prices."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import ceil
from statistics import fmean, median
from typing import NamedTuple

from ecg_llm.config import ApiModelConfig, ModelConfig, Study
from ecg_llm.records import Answer, Latency, Question
from ecg_llm.report.counts import CountTable
from ecg_llm.report.results import listed, ordered

SLOW = 0.95
ANSWERS = 1_000
"""Answers that the money is told for."""
UNKNOWN = "–"


class Cost(NamedTuple):
    """Means of one arm over its answers, failed ones left out; None where not known."""

    arm: str
    open: bool
    """Only answers to open questions count."""
    seconds: float | None
    """Median, retrieval included."""
    slow: float | None
    """95th percentile of the seconds."""
    together: int
    """Most answers that were made at once; from 2 on, the seconds are shares of a batch."""
    tokens_in: float
    tokens_out: float
    passages: float
    memory_mb: int | None
    """Most that the process with the model had taken, whatever it did before."""
    money: float | None
    """Of 1,000 answers, in the currency of the study's prices."""


class Cheapest(NamedTuple):
    """The arm that costs least, and by what."""

    arm: str
    by: str
    """Words that tell the measure and its value."""


def costs(
    study: Study,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    latencies: Sequence[Latency],
) -> list[Cost]:
    """Return a row an arm that answered, in the order of the study.

    Only open questions count where every arm answered some: users ask in words. A price of 0 is
    one that is not set. An hour's price is paid for the seconds of an answer, as if the machine
    did nothing else meanwhile.
    """
    kind = {row.question_id: row.kind for row in questions}
    made = [row for row in answers if row.status != "error"]
    arms = {row.arm for row in made}
    opened = [row for row in made if kind.get(row.question_id) == "open"]
    only_open = {row.arm for row in opened} == arms
    if only_open:
        made = opened
    own: dict[str, list[Answer]] = defaultdict(list)
    for row in made:
        own[row.arm].append(row)
    timed = {row.key: row for row in latencies if row.seconds > 0}
    return [
        _cost(
            arm,
            _model(study, arm),
            only_open,
            own[arm],
            [timed[row.key] for row in own[arm] if row.key in timed],
        )
        for arm in ordered(arms, list(study.arms))
    ]


def cost_table(costs: Sequence[Cost]) -> CountTable | None:
    """Return the costs as a table, columns that nobody has left out; None without any row."""
    if not costs:
        return None
    columns: list[tuple[str, Callable[[Cost], str]]] = [
        ("Seconds, median", lambda row: figure(row.seconds)),
        ("Seconds, 95 %", lambda row: figure(row.slow)),
        ("Tokens read", lambda row: f"{row.tokens_in:,.0f}" if row.tokens_in else UNKNOWN),
        ("Tokens written", lambda row: f"{row.tokens_out:,.0f}" if row.tokens_out else UNKNOWN),
        ("Passages shown", lambda row: f"{row.passages:.1f}" if row.passages else UNKNOWN),
        ("Memory, GB", lambda row: figure(_gigabytes(row))),
        (f"Money, {ANSWERS:,} answers", lambda row: figure(row.money)),
    ]
    known = [(head, text) for head, text in columns if any(text(row) != UNKNOWN for row in costs)]
    rows = tuple((row.arm, *(text(row) for _, text in known)) for row in costs)
    return CountTable(
        "An answer of each arm", ("Arm", *(head for head, _ in known)), rows, note=_note(costs)
    )


def cheapest(costs: Sequence[Cost]) -> Cheapest | None:
    """Return the arm that is cheapest as printed: in money, else in seconds.

    A measure decides only where it is known of every arm, and seconds only where all arms made
    equally many answers at once; None where no measure decides. Memory never does: it is that of a
    process, which may have answered for other arms before.
    """
    if len(costs) < 2:
        return None
    alike = len({row.together for row in costs}) == 1
    measures: list[tuple[Callable[[Cost], float | None], str]] = [
        (lambda row: row.money, f"{{least}} for {ANSWERS:,} answers, against {{next}}"),
        (lambda row: row.seconds if alike else None, "{least} seconds an answer, against {next}"),
    ]
    for measure, words in measures:
        values = [(value, row.arm) for row in costs if (value := measure(row)) is not None]
        if len(values) < len(costs):
            continue
        (least, arm), (second, _) = sorted(values)[:2]
        if figure(least) != figure(second):
            return Cheapest(arm, words.format(least=figure(least), next=figure(second)))
    return None


def figure(value: float | None) -> str:
    """Return a cost to two significant digits, whole numbers in full; a dash for None."""
    if value is None:
        return UNKNOWN
    if value < 0.001:
        return "< 0.001" if value else "0"
    digits = max(0, 1 - int(f"{value:.1e}".partition("e")[2]))  # the exponent once rounded
    return f"{value:,.{digits}f}"


def _gigabytes(row: Cost) -> float | None:
    return None if row.memory_mb is None else row.memory_mb / 1024


def _model(study: Study, arm: str) -> ModelConfig | None:
    return study.models.get(study.arms[arm].model) if arm in study.arms else None


def _cost(
    arm: str,
    model: ModelConfig | None,
    only_open: bool,
    answers: Sequence[Answer],
    latencies: Sequence[Latency],
) -> Cost:
    tokens_in = fmean(row.tokens_in for row in answers)
    tokens_out = fmean(row.tokens_out for row in answers)
    seconds = sorted(row.seconds + row.search_seconds for row in latencies)
    memory = max((row.memory_mb for row in latencies), default=0)
    hour = model.price_hour if model is not None else 0.0
    money: float | None = None
    if isinstance(model, ApiModelConfig) and (model.price_in or model.price_out):
        money = (tokens_in * model.price_in + tokens_out * model.price_out) / 1e6 * ANSWERS
    if hour:
        whole = hour / 3600 * fmean(seconds) * ANSWERS if seconds else None
        money = None if whole is None else (money or 0.0) + whole
    return Cost(
        arm, only_open,
        median(seconds) if seconds else None,
        seconds[ceil(SLOW * len(seconds)) - 1] if seconds else None,
        max((row.together for row in latencies), default=1),
        tokens_in, tokens_out, fmean(len(row.passages) for row in answers), memory or None, money,
    )  # fmt: skip


def _note(costs: Sequence[Cost]) -> str:
    """Return what a reader must know to read the table."""
    words = [f"Of answers to {'open' if costs[0].open else 'all'} questions; tokens are means."]
    batched = [row.arm for row in costs if row.together > 1 and row.seconds is not None]
    if batched:
        who = "All arms" if len(batched) == len(costs) else listed(batched)
        words.append(
            f"{who} made several answers at once, and the seconds are shares of a batch: one "
            "answer alone takes longer."
        )
    if any(row.memory_mb is not None for row in costs):
        words.append(
            "Memory is the most that the process with the model had taken, which may have answered "
            "for other arms before."
        )
    if any(row.money is not None for row in costs):
        words.append(
            "Money at the prices in study.yaml, in their currency; a dash: no price is set."
        )
    else:
        words.append("No price is set in study.yaml, so no money is told.")
    return " ".join(words)
