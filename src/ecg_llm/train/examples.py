"""Questions to training examples: the mixture, shown passages, joined questions, other wordings.

Every draw is seeded and has a stream of its own, so that switching one part of the mixture on or
off leaves the draws of the others as they are; the order of the rows given does not matter.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain, islice
from typing import NamedTuple

from ecg_llm.config import Mixture
from ecg_llm.contracts import NO_ANSWER, Retriever
from ecg_llm.prompt import target_reply
from ecg_llm.records import LETTERS, Passage, Question, Variant
from ecg_llm.train.template import Example, example
from ecg_llm.words import stems

COUNTS = (
    "open", "choice", "variants", "joined", "with_passages", "abstaining", "left_out",
    "without_answer",
)  # fmt: skip
PARTS = (2, 3)
"""Questions that one example joins."""
LONGEST = 120
"""Words of the replies that are joined, at most: what the answers of arms have room for."""
LOOKED_AT = 64
"""Passages that are drawn to find distractors, of the same document and of others."""
TOLD = 0.8
"""Share of a reference's words from which on a passage may well hold the answer."""
OPENERS = re.compile(
    r"(?:after|an?|are|as|at|before|between|by|can|could|did|do|does|during|for|from|had|has|have"
    r"|how|if|in|into|is|may|might|of|on|over|should|the|through|to|under|was|were|what|when|where"
    r"|which|while|who|whom|whose|why|will|with|within|would"
    r"|auf|aus|bei|durch|für|im|ist|kann|mit|nach|sind|um|unter|von|wann|warum|weshalb|welche[mnrs]?"
    r"|wer|werden|wie|wieso|wird|wodurch|wofür|womit|worin|woran|worauf|woraus|wo|zu[mr]?)\b",
    re.IGNORECASE,
)
"""Words that questions begin with and that are written small inside a sentence."""


class Made(NamedTuple):
    """Examples, and how many of each sort there are.

    open + choice + variants + joined are all examples; with_passages are those of them that show
    passages, and abstaining those of these that lack the right one. open + choice + left_out +
    without_answer are all questions given.
    """

    items: list[Example]
    counts: dict[str, int]


class _Item(NamedTuple):
    """One example in the making; several questions where it joins them."""

    key: str
    parts: tuple[Question, ...]

    @property
    def question(self) -> Question:
        """What is asked."""
        first = self.parts[0]
        if len(self.parts) == 1:
            return first
        return first.model_copy(update={"question": joined_question(self.parts)})

    @property
    def right(self) -> tuple[str, ...]:
        """The passages that the reply rests on; empty if one part names none."""
        found = [_right(part) for part in self.parts]
        return tuple(dict.fromkeys(chain.from_iterable(found))) if all(found) else ()


def examples(
    questions: Sequence[Question],
    passages: Mapping[str, Passage],
    variants: Sequence[Variant],
    mix: Mixture,
    seed: int,
    retriever: Retriever | None = None,
) -> Made:
    """Return the examples that this mixture makes of the questions, in the order of their ids.

    Every question is asked once as arms ask it, unless its kind is too many for `mix.choice`. Kept
    variants of the open ones are further examples, and so are joined questions. A seeded share of
    all shows passages (RAFT, Zhang et al. 2024, arXiv 2403.10131): the right one among distractors,
    which an open reply cites by its key; where the right one is missing the open reply is
    contracts.NO_ANSWER. A choice question is answered in any case.

    Args:
        questions: Kept ones of the train split.
        passages: By id: the usable passages of the documents trained on. A question whose passage
            is not among them is asked without.
        variants: Other wordings, whatever their status and question.
        mix: The mixture.
        seed: Of every draw.
        retriever: Finds the distractors by the question, as passages are found for an answer; those
            it does not find, and all of them without one, are drawn.
    """
    rows = sorted(filter(_has_answer, questions), key=lambda row: row.key)
    wordings = _wordings(rows, variants if mix.variants else ())
    chosen = _mixed(rows, wordings, mix, seed)
    plain = [_Item(row.question_id, (row,)) for row in chosen]
    reworded = [item for row in chosen for item in wordings.get(row.question_id, ())]
    joined = _joined([row for row in chosen if row.kind == "open"], passages, mix, seed)
    items = [*plain, *reworded, *joined]
    shown = _Shown(passages, mix, seed, retriever).of(items)
    made = [
        example(item.question, shown.get(item.key, ()), _reply(item, shown.get(item.key, ()), mix))
        for item in items
    ]
    return Made(
        made,
        _counts(
            questions,
            chosen,
            variants=len(reworded),
            joined=len(joined),
            with_passages=len(shown),
            abstaining=sum(
                not _holds(shown[item.key], item.right)
                for item in items
                if item.key in shown and item.parts[0].kind == "open"
            ),
        ),
    )


def plain(questions: Sequence[Question], mix: Mixture) -> Made:
    """Return one example a question that has an answer, in the order given: for validation."""
    rows = [row for row in questions if _has_answer(row)]
    made = [example(row, (), target_reply(row, mix.choice_reply)) for row in rows]
    return Made(made, _counts(questions, rows))


def joined_question(parts: Sequence[Question]) -> str:
    """Return several questions as an expert asks them at once: "What is A? And how does B ...?"."""
    *before, last = (
        _closed(part.question, "?" if OPENERS.match(part.question) else ".") for part in parts
    )
    if OPENERS.match(last) and not last[:2].isupper():
        conjunction = "Und" if parts[-1].language == "de" else "And"
        last = f"{conjunction} {last[0].lower()}{last[1:]}"
    return " ".join([*before, last])


def _has_answer(row: Question) -> bool:
    if row.kind == "open":
        return bool(row.reference.strip())
    return bool(row.answer) and row.answer in LETTERS[: len(row.options)]


def _counts(
    questions: Sequence[Question],
    chosen: Sequence[Question],
    *,
    variants: int = 0,
    joined: int = 0,
    with_passages: int = 0,
    abstaining: int = 0,
) -> dict[str, int]:
    answered = sum(map(_has_answer, questions))
    found = {
        "open": sum(row.kind == "open" for row in chosen),
        "choice": sum(row.kind == "choice" for row in chosen),
        "variants": variants,
        "joined": joined,
        "with_passages": with_passages,
        "abstaining": abstaining,
        "left_out": answered - len(chosen),
        "without_answer": len(questions) - answered,
    }
    return {name: found[name] for name in COUNTS}


def _rng(seed: int, *names: str) -> random.Random:
    return random.Random("/".join((str(seed), *names)))


def _wordings(rows: Sequence[Question], variants: Sequence[Variant]) -> dict[str, list[_Item]]:
    """Return the kept wordings of each open question, as questions with answers of their own."""
    known = {row.question_id: row for row in rows if row.kind == "open"}
    found: dict[str, list[_Item]] = defaultdict(list)
    for variant in sorted(variants, key=lambda variant: variant.key):
        row = known.get(variant.question_id)
        if row and variant.status == "kept" and variant.question and variant.reference.strip():
            said = {"question": variant.question, "reference": variant.reference}
            key = f"{row.question_id}#{variant.number}"
            found[row.question_id].append(_Item(key, (row.model_copy(update=said),)))
    return found


def _mixed(
    rows: Sequence[Question], wordings: Mapping[str, Sequence[_Item]], mix: Mixture, seed: int
) -> list[Question]:
    """Return the rows without those of which there are too many for the share of choices.

    An open question weighs as many examples as it becomes. Where one kind is missing altogether,
    no share can be had and the other stays.
    """
    choices = [row for row in rows if row.kind == "choice"]
    opens = [row for row in rows if row.kind == "open"]
    share = mix.choice
    if share is None or (0 < share < 1 and not (choices and opens)):
        return list(rows)
    weights = {
        row.question_id: 1 + len(wordings.get(row.question_id, ())) + mix.joined for row in opens
    }
    room = round(sum(weights.values()) * share / (1 - share)) if share < 1 else len(choices)
    rng = _rng(seed, "mix")
    if room < len(choices):
        choices = rng.sample(choices, room)
    else:
        left = len(choices) * (1 - share) / share if share else sum(weights.values())
        drawn, opens = rng.sample(opens, len(opens)), []
        for row in drawn:
            left -= weights[row.question_id]
            if left < -1e-6:
                break
            opens.append(row)
    return sorted([*choices, *opens], key=lambda row: row.key)


def _joined(
    rows: Sequence[Question], passages: Mapping[str, Passage], mix: Mixture, seed: int
) -> list[_Item]:
    """Return seeded runs of questions that stand next to each other in one document.

    A question is joined again only when all others have been, as far as runs go.
    """
    wanted = round(mix.joined * len(rows))
    documents: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for row in rows if wanted else ():
        if row.doc_id and not row.context:
            documents[row.doc_id, row.language].append(row)
    runs: list[tuple[Question, ...]] = []
    for members in documents.values():
        members.sort(key=lambda row: (_place(row, passages), row.key))
        for size in PARTS:
            for start in range(len(members) - size + 1):
                run = tuple(members[start : start + size])
                if sum(len(row.reference.split()) for row in run) <= LONGEST:
                    runs.append(run)
    _rng(seed, "joined").shuffle(runs)
    used: set[str] = set()
    fresh, again = [], []
    for run in runs:
        names = {row.question_id for row in run}
        if names & used:
            again.append(run)
        else:
            fresh.append(run)
            used |= names
    made = [_Item("+".join(row.question_id for row in run), run) for run in fresh + again]
    return sorted(made[:wanted])


def _place(row: Question, passages: Mapping[str, Passage]) -> int:
    """Return where in its document a question was asked from."""
    passage = passages.get(row.passage_id)
    return passage.start if passage else 0


class _Shown:
    """Draws the passages that examples show."""

    def __init__(
        self,
        passages: Mapping[str, Passage],
        mix: Mixture,
        seed: int,
        retriever: Retriever | None = None,
    ) -> None:
        self._passages = passages
        self._mix = mix
        self._seed = seed
        self._retriever = retriever
        self._found: dict[str, list[Passage]] = {}

    @cached_property
    def _all(self) -> list[Passage]:
        return sorted(self._passages.values(), key=lambda passage: passage.key)

    @cached_property
    def _of_document(self) -> dict[str, list[Passage]]:
        found: dict[str, list[Passage]] = defaultdict(list)
        for passage in self._all:
            found[passage.doc_id].append(passage)
        return found

    def of(self, items: Sequence[_Item]) -> dict[str, tuple[Passage, ...]]:
        """Return key -> passages in the order shown, of the items that show any."""
        able = [
            item
            for item in items
            if item.right and all(name in self._passages for name in item.right)
        ]
        rng = _rng(self._seed, "passages")
        chosen = rng.sample(able, min(round(self._mix.passages * len(items)), len(able)))
        self._found = self._searched([item.question.question for item in chosen])
        found = {item.key: self._with_right(item) for item in chosen}
        asked = [item for item in chosen if item.parts[0].kind == "open"]
        wanted = round(self._mix.abstain * len(asked))
        # What a context tells is answered without passages.
        for item in [item for item in asked if not item.parts[0].context]:
            if wanted and (others := self._others(item, len(found[item.key]))):
                found[item.key] = others
                wanted -= 1
        return found

    def _with_right(self, item: _Item) -> tuple[Passage, ...]:
        """Return the right passages among others, as many in all whether one or two are right."""
        right = [self._passages[name] for name in item.right]
        others = self._others(item, max(0, self._mix.distractors + 1 - len(right)))
        shown = [*right, *others]
        _rng(self._seed, "order", item.key).shuffle(shown)
        return tuple(shown)

    def _searched(self, queries: Sequence[str]) -> dict[str, list[Passage]]:
        """Return what the retriever finds for each question among the passages trained on."""
        if self._retriever is None:
            return {}
        distinct = list(dict.fromkeys(queries))
        hits = self._retriever.search(distinct, LOOKED_AT)
        return {
            query: [self._passages[id_] for id_, _ in found if id_ in self._passages]
            for query, found in zip(distinct, hits, strict=True)
        }

    def _others(self, item: _Item, count: int) -> tuple[Passage, ...]:
        """Return up to `count` passages that do not tell the answer, the best found first.

        Where the retriever finds too few they are drawn, half of the same document.
        """
        right = [self._passages[name] for name in item.right]
        found = self._found.get(item.question.question, [])
        near = [passage for passage in found if not _tells(passage, item, right)][:count]
        drawn = self._drawn(item, count) if len(near) < count else ()
        return tuple(dict.fromkeys([*near, *drawn]))[:count]

    def _drawn(self, item: _Item, count: int) -> tuple[Passage, ...]:
        rng = _rng(self._seed, "others", item.key)
        right = [self._passages[name] for name in item.right]
        home = {passage.doc_id for passage in right}
        near = [passage for name in sorted(home) for passage in self._of_document[name]]

        def silent(pool: Sequence[Passage]) -> Iterator[Passage]:
            drawn = rng.sample(pool, min(LOOKED_AT, len(pool)))
            return (passage for passage in drawn if not _tells(passage, item, right))

        same = list(islice(silent(near), count))
        far = (passage for passage in silent(self._all) if passage.doc_id not in home)
        other = list(islice(far, count))
        half = max((count + 1) // 2, count - len(other))
        return tuple([*same[:half], *other][:count])


def _tells(passage: Passage, item: _Item, right: Sequence[Passage]) -> bool:
    """Return whether a passage is, overlaps or says what the reply rests on."""
    for other in right:
        if passage.doc_id == other.doc_id and (
            passage.start < other.end and other.start < passage.end
        ):
            return True
    text, words = _plain(passage.text), stems(passage.text)
    for part in item.parts:
        quotes = (part.evidence, *(span.text for span in part.joined))
        if any(quote.strip() and _plain(quote) in text for quote in quotes):
            return True
        answer = stems(_answer(part))
        if answer and len(answer & words) >= TOLD * len(answer):
            return True
    return False


def _answer(row: Question) -> str:
    if row.kind == "choice":
        return row.options[LETTERS.index(row.answer)]
    return row.reference


@lru_cache(4096)
def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _right(row: Question) -> tuple[str, ...]:
    """Return the passages that a question's answer rests on."""
    if not row.passage_id:
        return ()
    return tuple(dict.fromkeys((row.passage_id, *(span.passage_id for span in row.joined))))


def _holds(shown: Sequence[Passage], right: Sequence[str]) -> bool:
    return any(passage.passage_id in right for passage in shown)


def _reply(item: _Item, shown: Sequence[Passage], mix: Mixture) -> str:
    """Return the reply to learn: each part answered in order, cited where passages are shown."""
    if item.parts[0].kind == "choice":
        return target_reply(item.parts[0], mix.choice_reply)
    if shown and not _holds(shown, item.right):
        return NO_ANSWER
    keys = {passage.passage_id: key for key, passage in enumerate(shown, start=1)}
    said = []
    for part in item.parts:
        text = part.reference if len(item.parts) == 1 else _closed(part.reference, ".")
        cited = sorted(keys[name] for name in _right(part) if shown)
        said.append(" ".join([text, *(f"[{key}]" for key in cited)]))
    return " ".join(said)


def _closed(text: str, end: str) -> str:
    """Return a text on one line, with this sign at its end if no sentence ends there."""
    text = " ".join(text.split())
    return text if text.endswith((".", "?", "!", ":", "…")) else text + end
