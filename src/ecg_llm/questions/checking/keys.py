"""The right options of a set: their letters dealt evenly, and whether their length tells them."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ecg_llm.questions.words import correct_option
from ecg_llm.records import LETTERS, Question


def balanced(rows: Sequence[Question], seed: int) -> list[Question]:
    """Return the rows with the options of the kept choice questions shuffled.

    Letters are dealt in turn to the questions in an order drawn from the seed, so that the counts
    of the letters differ by at most one (for each number of options).
    """
    decks: Mapping[int, list[Question]] = defaultdict(list)
    for row in rows:
        if row.kind == "choice" and row.status == "kept":
            decks[len(row.options)].append(row)
    shuffled: dict[str, Question] = {}
    for count, members in decks.items():
        rng = random.Random(f"{seed} {count}")
        order = sorted(members, key=lambda row: row.question_id)
        rng.shuffle(order)
        for number, row in enumerate(order):
            place = number % count
            right = correct_option(row)
            others = [option for option in row.options if option != right]
            rng.shuffle(others)
            options = (*others[:place], right, *others[place:])
            shuffled[row.question_id] = row.model_copy(
                update={"options": options, "answer": LETTERS[place]}
            )
    return [shuffled.get(row.question_id, row) for row in rows]


def letter_balance(rows: Sequence[Question]) -> dict[str, int]:
    """Return how often each letter is the right one among the kept choice questions."""
    counts = Counter(row.answer for row in rows if row.kind == "choice" and row.status == "kept")
    return dict(sorted(counts.items()))


def longest_key_z(rows: Sequence[Question]) -> float:
    """Return how many standard errors more often than by chance the right option is the longest.

    Chance is one in the number of options; of k options that tie for the longest each counts 1/k.
    Above 2 the length gives answers away. 0 if there is no choice question, or all options of
    each are equally long.
    """
    excess = variance = 0.0
    for row in rows:
        if row.kind != "choice" or row.status != "kept" or len(row.options) < 2:
            continue
        lengths = [len(option) for option in row.options]
        longest = max(lengths)
        hit = len(correct_option(row)) == longest
        chance, ties = 1 / len(lengths), lengths.count(longest)
        excess += (1 / ties if hit else 0.0) - chance
        variance += chance / ties - chance**2
    return excess / math.sqrt(variance) if variance else 0.0
