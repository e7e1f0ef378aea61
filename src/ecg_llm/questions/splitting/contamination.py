"""What tested questions share with what was trained on: repeats, runs of 13 words, neighbours."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from ecg_llm.contracts import Embedder
from ecg_llm.questions.checking.twins import Vectors, stem
from ecg_llm.questions.splitting.placing import TRAINED
from ecg_llm.questions.splitting.shingles import Vocabulary, runs
from ecg_llm.questions.words import correct_option, plain_text
from ecg_llm.records import TESTED, Overlap, Passage, Question
from ecg_llm.words import words_of

if TYPE_CHECKING:
    from ecg_llm.questions.splitting.shingles import Numbers

GRAM = 13
"""Words of a run that two texts hardly share by chance (Brown et al. 2020, appendix C)."""
SHORTEST = 8
"""Words from which on a shorter text counts as one run."""
NEIGHBOUR = 0.9
LOOKED_AT = 1000
"""Places of a question's runs that are looked at for the text that shares most of them."""
BLOCK = 1024

Against = Literal["questions", "passages"]


class Contamination(NamedTuple):
    """How many kept questions of one tested subset share something with train."""

    subset: str
    questions: int
    exact: int
    """Asked in train or val in the same words; choice questions with the same right option."""
    ngram_questions: int
    """With a run of 13 words of a train or val question."""
    ngram_passages: int
    """With a run of 13 words of the passages trained on."""
    neighbours: int
    """With a train or val question of nearly the same meaning."""


def overlaps(
    questions: Sequence[Question],
    passages: Sequence[Passage],
    embedder: Embedder | None = None,
    neighbour: float = NEIGHBOUR,
) -> list[Overlap]:
    """Return what each kept test or test_seen question shares with training, sorted by key.

    One row for each question and way of sharing, with the twin that shares most: a train or val
    question in the same words ("exact"), runs of 13 words of question, answer and context in such
    questions and in the passages ("ngram"; a text of 8 to 12 words is one run), and the closest
    train or val question ("embedding").

    Args:
        questions: All; dropped ones do not count.
        passages: Those of the documents trained on.
        embedder: Makes the vectors; without, no neighbours are looked for.
        neighbour: Cosine from which on a question is a neighbour.
    """
    kept = sorted((row for row in questions if row.status == "kept"), key=lambda row: row.key)
    tested = [row for row in kept if row.split in TESTED]
    trained = [row for row in kept if row.split in TRAINED]
    found = list(_exact(tested, trained))
    vocabulary = Vocabulary()
    wanted = {row.question_id: vocabulary.numbers(_text(row)) for row in tested}
    lengths = {min(len(words), GRAM) for words in wanted.values() if len(words) >= SHORTEST}
    sources: dict[Against, dict[str, str]] = {
        "questions": {row.question_id: _text(row) for row in trained},
        "passages": {row.passage_id: row.text for row in passages},
    }
    for against, texts in sources.items():
        held = {name: vocabulary.numbers(text) for name, text in texts.items()}
        for length in sorted(lengths):
            index = _Runs(held, length)
            for row in tested:
                words = wanted[row.question_id]
                if min(len(words), GRAM) == length and (hit := index.find(words)):
                    shared = " ".join(words_of(_text(row))[hit.start : hit.end])
                    found.append(_row(row, "ngram", against, hit.twin, hit.share, shared))
    if embedder is not None:
        found += _neighbours(tested, trained, embedder, neighbour)
    return sorted(found, key=lambda row: row.key)


def summary(questions: Sequence[Question], found: Sequence[Overlap]) -> list[Contamination]:
    """Return one row for every tested subset, tags among them, sorted by name; zeros too."""
    ways: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for overlap in found:
        ways[overlap.question_id].add((overlap.kind, overlap.against))
    members: dict[str, list[str]] = defaultdict(list)
    for row in questions:
        if row.status == "kept" and row.split in TESTED:
            for subset in row.subsets:
                members[subset].append(row.question_id)
    columns = (
        ("exact", "questions"),
        ("ngram", "questions"),
        ("ngram", "passages"),
        ("embedding", "questions"),
    )
    return [
        Contamination(
            subset, len(ids), *(sum(way in ways[name] for name in ids) for way in columns)
        )
        for subset, ids in sorted(members.items())
    ]


def _row(
    row: Question,
    kind: Literal["exact", "ngram", "embedding"],
    against: Against,
    twin: str,
    value: float,
    shared: str = "",
) -> Overlap:
    return Overlap(
        question_id=row.question_id,
        subset=row.subset,
        kind=kind,
        against=against,
        twin=twin,
        value=value,
        shared=shared,
    )


def _answer(row: Question) -> str:
    return row.reference or correct_option(row)


def _text(row: Question) -> str:
    return " ".join(filter(None, (row.question, _answer(row), row.context)))


def _exact(tested: Sequence[Question], trained: Sequence[Question]) -> Iterator[Overlap]:
    asked: dict[tuple[str, ...], str] = {}
    for row in trained:
        for words in _asked(row):
            asked.setdefault(words, row.question_id)
    for row in tested:
        twin = next((asked[words] for words in _asked(row) if words in asked), "")
        if twin:
            yield _row(row, "exact", "questions", twin, 1.0, row.question)


def _asked(row: Question) -> Iterator[tuple[str, ...]]:
    """Yield what makes a question the same as another: what it asks, or that with the answer."""
    if words := stem(row):
        yield (words,)
    yield plain_text(row.question), plain_text(correct_option(row))


class _Hit(NamedTuple):
    """The text that shares most runs with a question."""

    twin: str
    share: float
    """Of the question's runs that occur in any of the texts."""
    start: int
    """Words of the question from which on, and up to which, the twin says the same first."""
    end: int


class _Runs:
    """All runs of one length in some texts, sorted, so that many are found at once."""

    def __init__(self, texts: Mapping[str, "Numbers"], length: int) -> None:
        import numpy as np

        self._length = length
        self._names = list(texts)
        self._texts = texts
        parts = [np.unique(runs(words, length)) for words in texts.values()]
        every = np.concatenate([*parts, np.zeros(0, dtype=np.uint64)])
        order = np.argsort(every, kind="stable")
        self._runs = every[order]
        self._owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[order]

    def find(self, words: "Numbers") -> _Hit | None:
        """Return what shares most with a text, or None if nothing shares a run."""
        import numpy as np

        wanted = runs(words, self._length)
        low = np.searchsorted(self._runs, wanted, side="left")
        counts = np.searchsorted(self._runs, wanted, side="right") - low
        places = np.flatnonzero(counts)
        if not len(places):
            return None
        # The rarest runs tell most; a run that every question has would be looked at for ever.
        owners: list[int] = []
        for place in places[np.argsort(counts[places], kind="stable")]:
            if len(owners) >= LOOKED_AT:
                break
            owners.extend(self._owners[low[place] : low[place] + min(counts[place], LOOKED_AT)])
        twin = self._names[int(np.bincount(owners).argmax())]
        held = set(runs(self._texts[twin], self._length).tolist())
        common = [run in held for run in wanted.tolist()]
        start = common.index(True)
        stop = next((at for at in range(start, len(common)) if not common[at]), len(common))
        return _Hit(twin, len(places) / len(wanted), start, stop - 1 + self._length)


def _neighbours(
    tested: Sequence[Question], trained: Sequence[Question], embedder: Embedder, least: float
) -> Iterator[Overlap]:
    import numpy as np

    if not tested or not trained:
        return
    told = {
        row.question_id: f"{row.question} {_answer(row)}".strip() for row in [*tested, *trained]
    }
    vectors = Vectors.of(embedder, told.values())
    matrix = np.stack([vectors[told[row.question_id]] for row in trained])
    for start in range(0, len(tested), BLOCK):
        rows = tested[start : start + BLOCK]
        cosines = np.stack([vectors[told[row.question_id]] for row in rows]) @ matrix.T
        for row, best, value in zip(rows, cosines.argmax(1), cosines.max(1), strict=True):
            if value >= least:
                yield _row(
                    row, "embedding", "questions", trained[best].question_id,
                    min(round(float(value), 4), 1.0),
                )  # fmt: skip
