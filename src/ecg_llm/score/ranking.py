"""A judge's rankings of answers side by side: balanced blocks, strict readings, shares won."""

import itertools
import math
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial

from ecg_llm.config import Judge
from ecg_llm.contracts import Block, Message
from ecg_llm.prompt import render
from ecg_llm.records import Answer, Judgement, Passage, Question, Score, digest
from ecg_llm.score.asking import (
    NO_OBJECT,
    UNREAD,
    Asked,
    Request,
    fence,
    last_object,
    shown_text,
    unshown,
)
from ecg_llm.score.overlap import blank
from ecg_llm.score.verdict import source_values

SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "ranking": {"type": "string"}},
    "required": ["reason", "ranking"],
    "additionalProperties": False,
}
"""The ranking is a text, since few servers can enforce a list that names every number once."""
NOT_SHOWN = "not shown"
"""Label of an answer that a judge was not shown, and that counts as placed last."""
TOO_FEW = "fewer than two answers with a text, not sent to the judge"
"""Reason of a block that needs no judge."""
KEYS = frozenset({"ranking"})
NAMED = re.compile(r"[\[(]?(?:answer\s*)?#?(\d{1,2})[\])]?\.?", re.IGNORECASE)
TRIES = 8
"""Attempts at a plan without a fault."""
STEPS = 60
"""Exchanges tried for each place of a plan."""
Plan = tuple[tuple[int, ...], ...]
"""Blocks of arms, numbered from 0, by slot."""


def rankings(
    judge_name: str,
    items: Iterable[tuple[Question, Answer]],
    passages: Mapping[str, Passage],
    settings: Judge,
    seed: int,
) -> Iterator[Asked]:
    """Yield the rankings to ask a judge for: blocks of answers to one open question.

    The blocks are drawn over all arms with an answer, so that which of them failed changes none.
    Failed, refused and empty answers are not shown to the judge; a block with fewer than two
    others is not sent, and its row says so. `passages` are by passage_id.
    """
    for (question_id, repeat), (question, texts) in _contests(items).items():
        if len(texts) < 2:
            continue
        for order in design(texts, settings.block, settings.orders, seed, question_id, repeat):
            row = Judgement(
                judgement_id=digest(judge_name, question_id, "ranking", order, repeat),
                judge=judge_name,
                question_id=question_id,
                mode="ranking",
                order=order,
                repeat=repeat,
            )
            shown = [texts[arm] for arm in order if texts[arm]]
            if len(shown) < 2:
                yield Asked(row.model_copy(update={"reason": TOO_FEW}), None)
                continue
            messages = ranking_messages(question, shown, passages.get(question.passage_id))
            problem = partial(_problem, count=len(shown), shown="\n".join(shown))
            yield Asked(row, Request(row.judgement_id, messages, SCHEMA, problem))


def _contests(
    items: Iterable[tuple[Question, Answer]],
) -> dict[tuple[str, int], tuple[Question, dict[str, str]]]:
    """Return (question_id, repeat) -> the open question and arm -> text of its answer as shown.

    The text is empty where the answer is not shown.
    """
    found: dict[tuple[str, int], tuple[Question, dict[str, str]]] = {}
    for question, answer in sorted(items, key=lambda item: item[1].key):
        if question.kind == "open":
            _, texts = found.setdefault((answer.question_id, answer.repeat), (question, {}))
            texts[answer.arm] = "" if unshown(answer) else shown_text(answer)
    return found


def ranking_messages(
    question: Question, answers: Sequence[str], passage: Passage | None
) -> list[Message]:
    """Return the chat that asks for a ranking of these texts, as "Answer 1" and so on.

    Each stands between two lines that its author could not foresee. The example of a ranking is
    drawn for each question, so that it pulls to no slot.
    """
    line = fence(question.question_id, *answers)
    numbers = [str(number) for number in range(1, len(answers) + 1)]
    example = random.Random(question.question_id).sample(numbers, len(numbers))
    tied = " > ".join([*example[:-2], " = ".join(example[-2:])])
    values = source_values(question, passage) | {
        "count": str(len(answers)),
        "fence": line,
        "answers": "\n\n".join(
            f"Answer {number}:\n{line}\n{text}\n{line}"
            for number, text in zip(numbers, answers, strict=True)
        ),
        "example": tied if len(answers) > 2 else " > ".join(example),
    }
    return [{"role": "user", "content": render("ranking", values)}]


def read_ranking(reply: str, count: int, shown: str = "") -> tuple[int, ...] | None:
    """Return the places of the answers, by slot, that a reply's last JSON object gives.

    1 is best; equally good answers share the place that the number of better ones leaves them.
    None: there is no such object, it is copied from the answers `shown` (see last_object), or its
    ranking does not name every number from 1 to `count` once. Besides "2 > 1 = 3" a list like
    [2, [1, 3]] is read.
    """
    said = last_object(reply, KEYS, shown).get("ranking")
    groups: list[object] = []
    if isinstance(said, str):
        groups = [part.split("=") for part in said.split(">")]
    elif isinstance(said, list):
        groups = [group if isinstance(group, list) else [group] for group in said]
    places: dict[int, int] = {}
    named = 0
    for group in groups:
        assert isinstance(group, list)
        better = named
        for one in group:
            number = None if isinstance(one, list) else NAMED.fullmatch(str(one).strip())
            if number is None:
                return None
            places[int(number[1])] = better + 1
            named += 1
    if named != count or sorted(places) != list(range(1, count + 1)):
        return None
    return tuple(places[number] for number in range(1, count + 1))


def _problem(reply: str, count: int, shown: str) -> str:
    if not last_object(reply, KEYS, shown):
        return NO_OBJECT
    if read_ranking(reply, count, shown) is None:
        return (
            f'its "ranking" does not name each number from 1 to {count} exactly once, with nothing '
            'but ">" and "=" between them'
        )
    return ""


def blocks(
    judgements: Iterable[Judgement], items: Iterable[tuple[Question, Answer]]
) -> list[Block]:
    """Return every ranking that can be read, with the words of each answer as it was shown.

    Answers that were not shown stand behind the others, with no words and the last place.
    """
    contests = _contests(items)
    return [block for row in judgements if (block := _block(row, contests))]


def ranking_scores(
    judgements: Iterable[Judgement],
    items: Iterable[tuple[Question, Answer]],
    judges: Collection[str],
) -> list[Score]:
    """Return the share of rivals that each of these judges placed below an answer, ties half.

    It is the mean over the blocks with the answer that can be read; the note says how many these
    are. Without any the answer is "unjudged". An answer that was not shown is placed below all
    that were, level with others that were not. With the answer of one arm alone nothing can be
    compared: "not_applicable".
    """
    items = list(items)
    contests = _contests(items)
    made: dict[tuple[str, str, int, str], list[tuple[Judgement, float | None]]] = defaultdict(list)
    for judgement in judgements:
        if judgement.mode == "ranking":
            block = _block(judgement, contests)
            for arm in judgement.order:
                share = block and _share(block.places, block.arms.index(arm))
                key = (judgement.judge, judgement.question_id, judgement.repeat, arm)
                made[key].append((judgement, share))
    scores = []
    for question, answer in items:
        if question.kind != "open":
            continue
        _, texts = contests[answer.question_id, answer.repeat]
        for judge in judges:
            heard = made[judge, answer.question_id, answer.repeat, answer.arm]
            update = _outcome(answer, len(texts), heard) | {"rater": judge}
            scores.append(blank("ranking", answer).model_copy(update=update))
    return scores


def _outcome(
    answer: Answer, arms: int, heard: Sequence[tuple[Judgement, float | None]]
) -> dict[str, object]:
    """Return the columns of a score that say what became of an answer in a judge's rankings."""
    if arms < 2:
        return {"status": "not_applicable", "note": "no other arm answered the question"}
    shares = [share for _, share in heard if share is not None]
    unsent = sum(row.reason == TOO_FEW for row, _ in heard)
    note = f"{len(shares) - unsent} of {len(heard) - unsent} blocks read"
    note += f"; {unsent} not sent: fewer than two answers with a text" if unsent else ""
    reasons = [row.reason or NO_OBJECT for row, share in heard if share is None]
    if reasons:
        note += f"; {reasons[0]}"
    reply = unshown(answer)
    label = NOT_SHOWN if reply else ""
    if reply:
        note = f"placed last: {reply.reason}; {note}"
    if not shares:
        return {"status": "unjudged", "label": label, "note": note}
    value = sum(shares) / len(shares)
    return {"status": "scored", "value": value, "label": label, "note": note}


def _block(
    judgement: Judgement, contests: Mapping[tuple[str, int], tuple[Question, Mapping[str, str]]]
) -> Block | None:
    """Return what a ranking says of all answers of its block; None if it cannot be read."""
    _, texts = contests.get((judgement.question_id, judgement.repeat), (None, {}))
    if judgement.mode != "ranking" or not all(arm in texts for arm in judgement.order):
        return None
    shown = [arm for arm in judgement.order if texts[arm]]
    others = [arm for arm in judgement.order if not texts[arm]]
    if len(shown) < 2:
        places: tuple[int, ...] | None = (1,) * len(shown)
    elif judgement.status in UNREAD:
        return None
    else:
        said = "\n".join(texts[arm] for arm in shown)
        places = read_ranking(judgement.reply, len(shown), said)
    if places is None:
        return None
    return Block(
        judgement.question_id,
        judgement.judge,
        (*shown, *others),
        (*places, *(len(shown) + 1 for _ in others)),
        tuple(len(texts[arm].split()) for arm in (*shown, *others)),
        judgement.repeat,
    )


def _share(places: Sequence[int], slot: int) -> float:
    """Return the share of the others that are placed below a slot, ties half."""
    below = sum(place > places[slot] for place in places)
    level = sum(place == places[slot] for place in places) - 1
    return (below + level / 2) / (len(places) - 1)


def design(
    arms: Collection[str], block: int, orders: int, seed: int, question_id: str, repeat: int = 0
) -> list[tuple[str, ...]]:
    """Return the blocks in which the answers of these arms to one question are ranked.

    A block names up to `block` arms by slot; with fewer arms every block holds them all. Every arm
    is in `orders` blocks, or in one more where the places of the blocks do not come out even; every
    two arms meet about equally often; every arm stands in every slot equally often, to within one;
    no two blocks are equal. There are fewer blocks where there are not so many orders: two arms
    have two. Which arm has which part is drawn for each question by itself.

    Raises:
        ValueError: there are fewer than two arms.
    """
    names = sorted(set(arms))
    if len(names) < 2:
        raise ValueError("a ranking needs at least two arms")
    draw = random.Random(digest(seed, question_id, repeat, names))
    draw.shuffle(names)
    blocks = [tuple(names[arm] for arm in row) for row in plan(len(names), block, orders)]
    draw.shuffle(blocks)
    return blocks


@cache
def plan(arms: int, block: int, orders: int) -> Plan:
    """Return a balanced incomplete block design, as near as a search comes to one.

    First the sets are made, so that pairs meet evenly, then the slots, so that every arm stands in
    each equally often and before every other as often as behind it.
    """
    size = min(arms, block)
    every = math.perm(arms, size)
    count = min(-(-arms * orders // size), every)
    if size == arms and count == every:
        return tuple(itertools.permutations(range(arms)))
    best: tuple[tuple[int, int], Plan] | None = None
    for attempt in range(TRIES):
        draw = random.Random(digest(arms, block, orders, attempt))
        rows = _sets(arms, size, count, draw)
        _place(rows, draw)
        faults = (count - len(set(map(tuple, rows))), _uneven(rows))
        if best is None or faults < best[0]:
            best = faults, tuple(map(tuple, rows))
        if not any(faults):
            break
    assert best is not None
    return best[1]


def _sets(arms: int, size: int, count: int, draw: random.Random) -> list[list[int]]:
    """Return blocks of different arms, each arm equally often to within one, pairs met evenly."""
    order = draw.sample(range(arms), arms)
    # Runs of a repeated cycle hold every arm equally often and none twice.
    rows = [
        [order[(start + i) % arms] for i in range(size)] for start in range(0, count * size, size)
    ]
    met: dict[tuple[int, int], int] = defaultdict(int)

    def count_pairs(row: list[int], arm: int, sign: int) -> int:
        """Count the meetings of an arm with the others of a row; return the change of squares."""
        change = 0
        for other in row:
            if other != arm:
                pair = (min(arm, other), max(arm, other))
                change += 2 * sign * met[pair] + 1
                met[pair] += sign
        return change

    def exchange(one: list[int], i: int, two: list[int], j: int) -> int:
        change = count_pairs(one, one[i], -1) + count_pairs(two, two[j], -1)
        one[i], two[j] = two[j], one[i]
        return change + count_pairs(one, one[i], 1) + count_pairs(two, two[j], 1)

    for row in rows:
        for i, arm in enumerate(row):
            count_pairs(row[:i], arm, 1)
    if size == arms:
        return rows
    for heat in _cooling(count * size):
        one, two = draw.sample(rows, 2)
        i, j = draw.randrange(size), draw.randrange(size)
        if one[i] in two or two[j] in one:
            continue
        change = exchange(one, i, two, j)
        if change > 0 and draw.random() >= math.exp(-change / heat):
            exchange(one, i, two, j)
    return rows


def _place(rows: list[list[int]], draw: random.Random) -> None:
    """Order the arms of each block, so that slots and precedences are even."""
    stood: dict[tuple[int, int], int] = defaultdict(int)
    before: dict[tuple[int, int], int] = defaultdict(int)
    alike: dict[tuple[int, ...], int] = defaultdict(int)

    def count(row: list[int], sign: int) -> int:
        """Count what a row says; return the change of the squares, precedences weighing least."""
        change = 20 * (2 * sign * alike[tuple(row)] + 1)
        alike[tuple(row)] += sign
        for slot, arm in enumerate(row):
            change += 20 * (2 * sign * stood[arm, slot] + 1)
            stood[arm, slot] += sign
            for other in row[slot + 1 :]:
                lead = before[arm, other] - before[other, arm]
                change += 2 * sign * lead + 1
                before[arm, other] += sign
        return change

    for row in rows:
        draw.shuffle(row)
        count(row, 1)
    for heat in _cooling(len(rows) * len(rows[0])):
        row = draw.choice(rows)
        i, j = draw.sample(range(len(row)), 2)
        change = count(row, -1)
        row[i], row[j] = row[j], row[i]
        change += count(row, 1)
        if change > 0 and draw.random() >= math.exp(-change / (10 * heat)):
            count(row, -1)
            row[i], row[j] = row[j], row[i]
            count(row, 1)


def _cooling(places: int) -> Iterator[float]:
    """Yield the falling temperatures of simulated annealing."""
    steps = STEPS * places
    return (2.0 * 0.05 ** (step / steps) for step in range(steps))


def _uneven(rows: Sequence[Sequence[int]]) -> int:
    """Return by how much an arm's counts of two slots differ more than they have to, summed."""
    slots = range(len(rows[0]))
    stood = {arm: [0] * len(slots) for row in rows for arm in row}
    for row in rows:
        for slot, arm in enumerate(row):
            stood[arm][slot] += 1
    return sum(max(0, max(counts) - min(counts) - 1) for counts in stood.values())
