"""Questions to splits: each goes where its document stands, some are held back, none leaks."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from ecg_llm.config import ImportedSet, Splits
from ecg_llm.questions.checking.twins import NearIndex, Vectors, stem
from ecg_llm.questions.checking.verify import SET, Problem, dropped
from ecg_llm.questions.splitting.placing import TRAINED, tags_of
from ecg_llm.records import TESTED, Document, Placement, Question, Split, digest
from ecg_llm.words import words_of

FEW = 20
"""Kept questions below which a tested part is too small."""


def assign(
    questions: Sequence[Question],
    placements: Sequence[Placement],
    documents: Sequence[Document],
    imports: Mapping[str, ImportedSet],
    settings: Splits,
    seed: int,
    vectors: Vectors | None = None,
    cosine: float = 0.95,
) -> list[Question]:
    """Return the questions, in order, with group, split and tags; leaking ones dropped, split kept.

    Written questions go where their document stands; those of a drawn share `seen` of the passages
    of train documents go to test_seen, and one that joins such a passage with another is dropped.
    A question of an imported set goes where `imports` says by the set's name: "auto" is test_seen
    if its document is in train or val, else test; a split that would put one group on both sides
    is corrected. A test question close to a train or val question, and a written test_seen question
    that shares evidence with a train question, are dropped.

    Args:
        questions: Written and imported ones, kept and dropped.
        placements: The splits of the documents.
        documents: All, for groups and tags.
        imports: Settings of the imported sets by name.
        settings: The share of passages to hold back.
        seed: Decides which.
        vectors: Of twins.texts_of all questions; without, close is told by words alone.
        cosine: From which on two questions say the same.
    """
    groups = document_groups(placements, documents)
    splits = {row.group: row.split for row in placements}
    tags = tags_of(documents)
    held_back = _held_back(questions, groups, splits, settings.seen, seed)
    rows = []
    for row in questions:
        group = groups.get(row.doc_id, row.group)
        row = row.model_copy(update={"group": group, "tags": tags.get(row.doc_id, row.tags)})
        if row.set == SET:
            row = _written(row, splits.get(group, "none"), held_back)
        else:
            wanted = imports[row.set].split if row.set in imports else "auto"
            row = row.model_copy(update={"split": _imported_split(wanted, splits.get(group))})
        rows.append(row)
    return _without_leaks(rows, vectors, cosine)


def document_groups(
    placements: Sequence[Placement], documents: Sequence[Document]
) -> dict[str, str]:
    """Return the group of each doc_id; one that is not placed follows what shares its group."""
    groups = {row.doc_id: row.group for row in placements}
    by_name = {d.group or d.doc_id: groups[d.doc_id] for d in documents if d.doc_id in groups}
    for document in documents:
        if document.doc_id and document.doc_id not in groups:
            name = document.group or document.doc_id
            groups[document.doc_id] = by_name.get(name, name)
    return groups


def _held_back(
    questions: Sequence[Question],
    groups: Mapping[str, str],
    splits: Mapping[str, Split],
    share: float,
    seed: int,
) -> frozenset[str]:
    """Return the passages of train documents whose questions go to test_seen.

    Each passage has a place of its own in the order, so that a new one moves few others.
    """
    passages = {
        passage
        for row in questions
        if row.set == SET
        and row.status == "kept"
        and splits.get(groups.get(row.doc_id, "")) == "train"
        for passage in _passages(row)
    }
    order = sorted(passages, key=lambda passage: digest(seed, passage))
    return frozenset(order[: round(share * len(order))])


def _passages(row: Question) -> set[str]:
    return {row.passage_id, *(span.passage_id for span in row.joined)} - {""}


def _written(row: Question, split: Split, held_back: Collection[str]) -> Question:
    passages = _passages(row)
    back = passages.intersection(held_back)
    if split == "train" and back:
        if back == passages:
            split = "test_seen"
        elif row.status == "kept":
            note = f"joins {min(back)}, which is held back, with passages that train uses"
            row = dropped(row, Problem("shared_evidence", note))
    return row.model_copy(update={"split": split})


def remarks(questions: Sequence[Question]) -> list[str]:
    """Return a sentence for each tested part of the written questions that is small."""
    kept = Counter(row.split for row in questions if row.set == SET and row.status == "kept")
    return [
        f"{SET}/{split} holds {kept[split]} questions, too few to tell arms apart; add literature "
        "or change questions.split"
        for split in TESTED
        if kept and kept[split] < FEW
    ]


def _imported_split(wanted: str, of_document: Split | None) -> Split:
    """Return the split of an imported question whose document, if any, is in `of_document`."""
    if wanted in ("auto", "test"):
        return "test_seen" if of_document in TRAINED else "test"
    if wanted in TRAINED:
        return of_document or ("train" if wanted == "train" else "val")
    return "test_seen"


def _without_leaks(
    rows: Sequence[Question], vectors: Vectors | None, cosine: float
) -> list[Question]:
    index = NearIndex(vectors, cosine)
    stems: dict[str, str] = {}
    for row in rows:
        if row.split in TRAINED and row.status == "kept":
            index.add(row)
            stems.setdefault(stem(row), row.question_id)
    spans = _Spans(row for row in rows if row.split == "train" and row.status == "kept")
    checked = []
    for row in rows:
        if row.status == "kept" and row.split in ("test", "test_seen"):
            if twin := index.find(row) or stems.get(stem(row) or "-", ""):
                row = dropped(row, Problem("near_duplicate_of_train", f"close to {twin}"))
            # What people ask of a document that was learned is new even where the sentence is not.
            elif row.split == "test_seen" and row.set == SET and (twin := spans.shared(row)):
                row = dropped(row, Problem("shared_evidence", f"shared with {twin}"))
        checked.append(row)
    return checked


class _Spans:
    """The evidence of train questions: whole sentences in any document, parts in their own."""

    def __init__(self, rows: Iterable[Question]) -> None:
        self._sentences: dict[str, str] = {}
        self._by_document: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for row in rows:
            for span in _spans(row):
                for sentence in _sentences(span):
                    self._sentences.setdefault(sentence, row.question_id)
                self._by_document[row.doc_id].append((_plain(span), row.question_id))

    def shared(self, row: Question) -> str:
        """Return the question_id of a train question that rests on the same span, or ""."""
        for span in _spans(row):
            for sentence in _sentences(span):
                if sentence in self._sentences:
                    return self._sentences[sentence]
            plain = _plain(span)
            for other, question_id in self._by_document.get(row.doc_id, ()):
                if plain in other or other in plain:
                    return question_id
        return ""


def _spans(row: Question) -> list[str]:
    return [text for text in (row.evidence, *(span.text for span in row.joined)) if text]


def _sentences(text: str) -> list[str]:
    """Return the sentences of an evidence span as compared; short ones identify nothing."""
    plain = (_plain(part) for part in re.split(r"(?<=[.!?])\s+", text))
    return [sentence for sentence in plain if sentence.count(" ") >= 6]


def _plain(text: str) -> str:
    """Return the words between single spaces, with one at either end so that words stay whole."""
    return f" {' '.join(words_of(text))} "
