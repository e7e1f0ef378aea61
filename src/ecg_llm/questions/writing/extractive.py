"""Questions written without a language model, from facts that the passages state.

Open questions are answered by the text's own sentence, list or definition. Choice questions ask for
a definition, for the term that a definition belongs to, or for a value; their wrong options are of
the right one's kind (anatomical structure, drug, rhythm, unit ...) and come from elsewhere in the
corpus. Language: the text's.

Type and difficulty follow the relation (patterns.toml): definitions, names and places are easy;
relations, values and criteria are medium; comparisons, reasons, what happens when, and lists of
several things are hard.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ecg_llm.config import Questions
from ecg_llm.contracts import Window
from ecg_llm.questions.writing import EXTRACTIVE
from ecg_llm.questions.writing.facts import Fact
from ecg_llm.questions.writing.generate import draft_id
from ecg_llm.questions.writing.items import Item, Pool, choice_items, open_item
from ecg_llm.records import Draft, Passage, QuestionKind, digest


class ExtractiveWriter:
    """Writes up to settings.per_window questions of each kind from each window.

    `corpus` is where wrong options come from; without it, the windows of each call, so that a
    window's choice questions then depend on the others in the call.
    """

    def __init__(self, settings: Questions, seed: int, corpus: Sequence[Passage] = ()) -> None:
        self._settings = settings
        self._seed = seed
        self._corpus = corpus

    @property
    def name(self) -> str:
        """Name with version."""
        return EXTRACTIVE

    def write(self, windows: Sequence[Window]) -> Iterator[Draft]:
        """Yield one draft for every window and kind, in order; it may hold no question."""
        given = self._corpus or [passage for window in windows for passage in window.passages]
        pool = Pool([passage for passage in given if not passage.hidden])
        for window in windows:
            for kind in self._settings.kinds:
                yield self._draft(window.passages, kind, pool)

    def _draft(self, window: Sequence[Passage], kind: QuestionKind, pool: "Pool") -> Draft:
        draft = draft_id(window, kind)
        facts = [
            (number, fact)
            for number, passage in enumerate(window)
            for fact in pool.facts_in(passage)
            if self._settings.language in ("text", fact.language)
        ]
        items: Iterable[tuple[int, Item]]
        if kind == "open":
            items = ((n, item) for n, fact in facts if (item := open_item(fact, window[n], pool)))
        else:
            items = (
                (n, item) for n, fact in facts for item in self._choices(fact, window[n], pool)
            )
        questions = [
            {
                "question": item.question,
                "answer": item.answer,
                "evidence": item.evidence,
                "distractors": list(item.distractors),
                "type": item.type,
                "difficulty": item.difficulty,
            }
            for item in _dealt(list(items), self._settings.per_window, draft)
        ]
        return Draft(
            draft_id=draft,
            passage_ids=tuple(passage.passage_id for passage in window),
            kind=kind,
            reply=json.dumps({"questions": questions}, ensure_ascii=False),
            model=self.name,
        )

    def _choices(self, fact: Fact, passage: Passage, pool: Pool) -> Iterator[Item]:
        # Seeded by the fact, so that a window's questions do not depend on the others.
        rng = random.Random(digest(self._seed, fact.question, fact.sentence.text))
        repeated = pool.repeats(fact, passage)
        for item in choice_items(fact, passage, pool, rng):
            yield item._replace(weak=item.weak or repeated)


def _dealt(items: Sequence[tuple[int, Item]], count: int, draft: str) -> list[Item]:
    """Return up to `count` items, dealt to the passages in turn, of many forms, one a sentence.

    An item comes with the number of its passage; weak ones go last. The draft draws among equals,
    or two copies of a glossary would give the same questions.
    """
    left = list(items)
    chosen: list[Item] = []
    passages: Counter[int] = Counter()
    forms: Counter[str] = Counter()

    def rank(number: int, item: Item) -> tuple[bool, int, int, int, str]:
        drawn = digest(draft, item.question)
        return item.weak, passages[number], forms[item.form], item.place, drawn

    while left and len(chosen) < count:
        number, best = min(left, key=lambda it: rank(*it))
        passages[number] += 1
        forms[best.form] += 1
        chosen.append(best)
        left = [
            (n, item)
            for n, item in left
            if item.evidence != best.evidence and item.question != best.question
        ]
    return chosen
