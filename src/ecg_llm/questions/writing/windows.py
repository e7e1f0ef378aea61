"""Passages to windows, each with a plan: how many questions, of which type, from which passage."""

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ecg_llm.config import Questions
from ecg_llm.contracts import Window
from ecg_llm.records import Difficulty, Passage, QuestionKind, QuestionType, digest
from ecg_llm.words import content_words

RARE = (2, 8)
"""Passages of a document that a word occurs in, for two of them to be about the same thing."""
APART = 3
"""Passages that lie between the two of a joined window, at least."""


class Slot(NamedTuple):
    """One question to be written."""

    passage: int
    """Place in the window, 0-based."""
    type: QuestionType
    difficulty: Difficulty


def windows(passages: Sequence[Passage], settings: Questions, seed: int) -> list[Window]:
    """Return consecutive passages of one document, joined up to settings.window tokens.

    Hidden passages are left out; the caller gives only the kinds it wants. A passage larger than
    the window stands alone. settings.joined adds windows of two distant passages that share rare
    words. With settings.limit the result is a seeded sample that takes windows from every
    document in turn.
    """
    documents: dict[str, list[Passage]] = defaultdict(list)
    for passage in sorted(passages, key=lambda p: (p.doc_id, p.start, p.end)):
        if not passage.hidden:
            documents[passage.doc_id].append(passage)
    made = {doc_id: _of_document(members, settings) for doc_id, members in documents.items()}
    if settings.limit is None:
        return [window for found in made.values() for window in found]
    return sample(made, settings.limit, seed)


def sample(made: Mapping[str, Sequence[Window]], limit: int, seed: int) -> list[Window]:
    """Return `limit` windows, one a document in turn, in document order."""
    rng = random.Random(seed)
    queues = [rng.sample(found, len(found)) for found in made.values()]
    rng.shuffle(queues)
    turns = max(map(len, queues), default=0)
    ordered = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    return sorted(ordered[:limit], key=lambda w: (w.passages[0].doc_id, w.joined, w.number))


def plan(window: Window, kind: QuestionKind, settings: Questions) -> tuple[Slot, ...]:
    """Return the questions to be written from a window.

    A window shorter than settings.window gets fewer, in proportion, and its passages share them
    by their length: the end of a long document is asked about like its beginning. The kinds take
    other passages, as far as there are enough. Types and
    difficulties take turns along the document, so that each pair comes equally often, and a
    document more or less in the study changes no other document's plan.
    """
    tokens = [passage.tokens for passage in window.passages]
    share = 1.0 if window.joined else min(1.0, sum(tokens) / settings.window)
    count = max(1, round(settings.per_window * share))
    pairs = _pairs(settings)
    start = int(digest(window.passages[0].doc_id, kind, window.joined, length=8), 16)
    start += window.number * settings.per_window
    kinds = settings.kinds
    phase = (kinds.index(kind) + 0.5) / len(kinds)
    return tuple(
        Slot(_place(tokens, (slot + phase) / count), *pairs[(start + slot) % len(pairs)])
        for slot in range(count)
    )


def _pairs(settings: Questions) -> list[tuple[QuestionType, Difficulty]]:
    """Return every pair of a type and a difficulty once, neighbours differing in both."""
    types, levels = settings.types, settings.difficulties
    turn = math.lcm(len(types), len(levels))
    return [
        (types[i % len(types)], levels[(i + i // turn) % len(levels)])
        for i in range(len(types) * len(levels))
    ]


def _place(tokens: Sequence[int], share: float) -> int:
    """Return the place of the passage that holds this share of the tokens."""
    wanted, place = share * sum(tokens), 0
    while place < len(tokens) - 1 and wanted >= tokens[place]:
        wanted -= tokens[place]
        place += 1
    return place


def _of_document(passages: Sequence[Passage], settings: Questions) -> list[Window]:
    found: list[list[Passage]] = []
    tokens = 0
    for passage in passages:
        if not found or tokens + passage.tokens > settings.window:
            found.append([])
            tokens = 0
        found[-1].append(passage)
        tokens += passage.tokens
    ordinary = [Window(tuple(members), number=number) for number, members in enumerate(found)]
    wanted = round(settings.joined * len(ordinary))
    apart = _related(passages, wanted) if wanted else []
    return ordinary + [Window(pair, joined=True, number=n) for n, pair in enumerate(apart)]


def _related(passages: Sequence[Passage], wanted: int) -> list[tuple[Passage, Passage]]:
    """Return pairs of passages that stand apart and share most rare words, each passage once."""
    holders: dict[str, list[int]] = defaultdict(list)
    for place, passage in enumerate(passages):
        for word in dict.fromkeys(content_words(passage.text)):
            if not word[0].isdigit():
                holders[word].append(place)
    shared: dict[tuple[int, int], float] = defaultdict(float)
    for places in holders.values():
        if RARE[0] <= len(places) <= RARE[1]:
            for i, one in enumerate(places):
                for other in places[i + 1 :]:
                    if other - one > APART and passages[one].section != passages[other].section:
                        shared[one, other] += 1 / (len(places) - 1)
    used: set[int] = set()
    found: list[tuple[Passage, Passage]] = []
    for (one, other), _ in sorted(shared.items(), key=lambda item: (-item[1], item[0])):
        if len(found) == wanted:
            break
        if not used & {one, other}:
            used |= {one, other}
            found.append((passages[one], passages[other]))
    return found
