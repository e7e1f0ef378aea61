"""Questions to splits: whole groups of documents, a held-back part of train, and no leaks."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from ecg_llm.config import ImportedSet, Splits
from ecg_llm.contracts import UsageError
from ecg_llm.questions.verify import SET, Problem, dropped
from ecg_llm.questions.words import NearIndex, words_of
from ecg_llm.records import Document, Question, Split

PARTS: tuple[Split, ...] = ("train", "val", "test")
TRAINED: frozenset[Split] = frozenset({"train", "val"})
"""Splits that training or model selection sees."""


def assign(
    questions: Sequence[Question],
    documents: Sequence[Document],
    settings: Splits,
    imports: Mapping[str, ImportedSet],
    seed: int,
) -> list[Question]:
    """Return the questions, in order, with group and split; leaking ones dropped, split kept.

    Written questions go where their document's group goes (see `document_splits`); those of a
    drawn share `seen` of the passages of train documents go to test_seen. A question of an
    imported set goes where `imports` says by the set's name: "auto" is test_seen if its document
    is in train or val, else test; a split that would put one group on both sides is corrected.
    A test question close to a train question, and a test_seen question that shares evidence with
    one, are dropped.

    Raises:
        UsageError: a glob in questions.split matches no document, or two splits claim a group.
    """
    splits = document_splits(questions, documents, settings, seed)
    groups = document_groups(documents)
    held_back = _held_back(questions, groups, splits, settings.seen, seed)
    placed = []
    for row in questions:
        group = groups.get(row.doc_id, row.group)
        if row.set == SET:
            split = "test_seen" if row.passage_id in held_back else splits.get(group, "none")
        else:
            wanted = imports[row.set].split if row.set in imports else "auto"
            split = _imported_split(wanted, splits.get(group))
        placed.append(row.model_copy(update={"group": group, "split": split}))
    return _without_leaks(placed)


def document_groups(documents: Sequence[Document]) -> dict[str, str]:
    """Return the group of each doc_id; a document of no named group is a group by itself."""
    groups: dict[str, str] = {}
    for document in sorted(documents, key=lambda d: (d.status == "duplicate", d.path)):
        if document.doc_id:
            groups.setdefault(document.doc_id, document.group or document.doc_id)
    return groups


def document_splits(
    questions: Sequence[Question], documents: Sequence[Document], settings: Splits, seed: int
) -> dict[str, Split]:
    """Return the split (train, val or test) of every group of readable documents.

    Globs come first: a group with a matching path goes there whole. The other groups are dealt,
    those with most questions first, each to the split that lacks most of its share of the written
    questions; then splits left empty get a small group, test before val, as far as groups go.

    Raises:
        UsageError: a glob matches no document, or two splits claim one group.
    """
    groups = document_groups(documents)
    readable = [d for d in documents if d.status in ("ok", "partial") and d.doc_id]
    splits = _pinned(readable, groups, settings)
    counts = Counter(groups.get(q.doc_id) for q in questions if q.set == SET and q.status == "kept")
    free = sorted({groups[d.doc_id] for d in readable} - set(splits))
    random.Random(seed).shuffle(free)
    free.sort(key=lambda group: -counts[group])
    shares = {
        part: s for part in PARTS if isinstance(s := getattr(settings, part), float) and s > 0
    }
    if not shares:
        return splits | dict.fromkeys(free, PARTS[0])
    # A group without questions weighs next to nothing, but such groups are shared out too.
    weights = {group: counts[group] + 0.001 for group in free}
    wanted = {part: s / sum(shares.values()) * sum(weights.values()) for part, s in shares.items()}
    dealt: dict[str, Split] = {}
    for group in free:
        part = max(wanted, key=lambda part: wanted[part])
        wanted[part] -= weights[group]
        dealt[group] = part
    _fill_empty(dealt, [part for part in ("train", "test", "val") if part in shares], weights)
    return splits | dealt


def _pinned(
    documents: Sequence[Document], groups: Mapping[str, str], settings: Splits
) -> dict[str, Split]:
    pinned: dict[str, Split] = {}
    for part in PARTS:
        globs = getattr(settings, part)
        for glob in globs if isinstance(globs, tuple) else ():
            hits = [d for d in documents if fnmatchcase(d.path, glob)]
            if not hits:
                raise UsageError(
                    f"questions.split.{part}: {glob!r} matches no readable document; correct it."
                )
            for document in hits:
                group = groups[document.doc_id]
                if pinned.setdefault(group, part) != part:
                    raise UsageError(
                        f"questions.split: {document.path} belongs to the group {group!r}, which "
                        f"{pinned[group]} and {part} both claim; let one of them name it."
                    )
    return pinned


def _fill_empty(
    dealt: dict[str, Split], parts: Sequence[Split], weights: Mapping[str, float]
) -> None:
    """Give each empty split the smallest group with questions of a split that has two or more."""
    for part in parts:
        if part in dealt.values():
            continue
        sizes = Counter(dealt.values())
        spare = [group for group, at in dealt.items() if sizes[at] > 1]
        if spare:
            dealt[min(spare, key=lambda group: (weights[group] < 1, weights[group], group))] = part


def _held_back(
    questions: Sequence[Question],
    groups: Mapping[str, str],
    splits: Mapping[str, Split],
    share: float,
    seed: int,
) -> frozenset[str]:
    """Return the passages of train documents whose questions go to test_seen."""
    passages = sorted(
        {
            row.passage_id
            for row in questions
            if row.set == SET
            and row.passage_id
            and row.status == "kept"
            and splits.get(groups.get(row.doc_id, "")) == "train"
        }
    )
    return frozenset(random.Random(seed).sample(passages, round(share * len(passages))))


def _imported_split(wanted: str, of_document: Split | None) -> Split:
    """Return the split of an imported question whose document, if any, is in `of_document`."""
    seen = of_document in TRAINED
    if wanted in ("auto", "test"):
        return "test_seen" if seen else "test"
    if wanted in TRAINED and of_document == "test":
        return "test"
    return "train" if wanted == "train" else "val" if wanted == "val" else "test_seen"


def _without_leaks(rows: Sequence[Question]) -> list[Question]:
    train = [row for row in rows if row.split == "train" and row.status == "kept"]
    index = NearIndex()
    for row in train:
        index.add(row)
    spans = _Spans(train)
    checked = []
    for row in rows:
        if row.status == "kept" and row.split in ("test", "test_seen"):
            if twin := index.find(row):
                row = dropped(row, Problem("near_duplicate_of_train", f"close to {twin}"))
            elif row.split == "test_seen" and (twin := spans.shared(row)):
                row = dropped(row, Problem("shared_evidence", f"shared with {twin}"))
        checked.append(row)
    return checked


class _Spans:
    """The evidence of train questions: whole sentences in any document, parts in their own."""

    def __init__(self, rows: Iterable[Question]) -> None:
        self._sentences: dict[str, str] = {}
        self._by_document: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for row in rows:
            for sentence in _sentences(row.evidence):
                self._sentences.setdefault(sentence, row.question_id)
            if row.evidence:
                self._by_document[row.doc_id].append((_plain(row.evidence), row.question_id))

    def shared(self, row: Question) -> str:
        """Return the question_id of a train question that rests on the same span, or ""."""
        for sentence in _sentences(row.evidence):
            if sentence in self._sentences:
                return self._sentences[sentence]
        plain = _plain(row.evidence)
        for other, question_id in self._by_document.get(row.doc_id, ()) if row.evidence else ():
            if plain in other or other in plain:
                return question_id
        return ""


def _sentences(text: str) -> list[str]:
    """Return the sentences of an evidence span as compared; short ones identify nothing."""
    plain = (_plain(part) for part in re.split(r"(?<=[.!?])\s+", text))
    return [sentence for sentence in plain if sentence.count(" ") >= 6]


def _plain(text: str) -> str:
    """Return the words between single spaces, with one at either end so that words stay whole."""
    return f" {' '.join(words_of(text))} "
