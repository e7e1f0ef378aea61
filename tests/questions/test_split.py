from collections import Counter, defaultdict

import pytest

from ecg_llm.config import ImportedSet, Splits
from ecg_llm.contracts import UsageError
from ecg_llm.questions.split import assign, document_splits
from ecg_llm.records import Document, Question

WORDS = "alpha bravo carbon delta ember forest gamma harbor indigo jasper kernel lemon"


def document(name, group="", **changes):
    made = {"path": f"books/{name}.pdf", "doc_id": name, "group": group, "status": "ok"}
    return Document(**(made | changes))


def question(number, doc, **changes):
    """A question like no other."""
    words = " ".join(f"{WORDS.split()[number % 12]}{c}{number}" for c in "abcdef")
    made = {
        "question_id": f"q{number:05d}", "set": "written", "kind": "open",
        "question": f"What is {words}?", "reference": f"An answer on {words}.",
        "evidence": f"Evidence about {words} stands here in full.", "doc_id": doc,
        "passage_id": f"{doc}-p{number // 2}",
    }  # fmt: skip
    return Question(**(made | changes))


def corpus(documents=20, each=10):
    names = [f"d{i:02d}" for i in range(documents)]
    rows = [question(i * each + j, name) for i, name in enumerate(names) for j in range(each)]
    return [document(name) for name in names], rows


def by_group(rows):
    found = defaultdict(set)
    for row in rows:
        found[row.group].add(row.split)
    return found


def test_shares_of_questions_are_met_with_whole_documents():
    documents, rows = corpus()
    placed = assign(rows, documents, Splits(seen=0), {}, 1)
    assert Counter(row.split for row in placed) == {"train": 160, "val": 20, "test": 20}
    assert all(len(splits) == 1 for splits in by_group(placed).values())
    assert [row.question_id for row in placed] == [row.question_id for row in rows]


def test_documents_of_one_group_stay_together_and_unequal_ones_are_fitted():
    documents = [document(f"d{i:02d}", group=f"g{i // 3}") for i in range(24)]
    rows, number = [], 0
    for i, made in enumerate(documents):
        for _ in range(1 + i % 7):
            rows.append(question(number, made.doc_id))
            number += 1
    placed = assign(rows, documents, Splits(seen=0), {}, 3)
    assert all(len(splits) == 1 for splits in by_group(placed).values())
    shares = Counter(row.split for row in placed)
    assert 0.65 < shares["train"] / len(rows) < 0.9
    assert min(shares["val"], shares["test"]) > 0


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    documents, rows = corpus()
    first = document_splits(rows, documents, Splits(), 1)
    assert document_splits(rows[::-1], documents[::-1], Splits(), 1) == first
    assert document_splits(rows, documents, Splits(), 2) != first


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_few_documents_fill_as_many_splits_as_they_can(count, expected):
    documents, rows = corpus(count)
    splits = set(document_splits(rows, documents, Splits(), 1).values())
    assert len(splits) == expected
    assert "train" in splits
    assert count < 2 or "test" in splits


def test_globs_pin_documents_with_their_groups_and_shares_divide_the_rest():
    documents, rows = corpus()
    documents[0] = document("d00", group="atlas")
    documents[1] = document("d01", group="atlas")
    settings = Splits(train=0.5, val=("*/d05.pdf",), test=("*/d00.pdf", "*/d07.pdf"))
    splits = document_splits(rows, documents, settings, 1)
    assert splits["atlas"] == splits["d07"] == "test"
    assert splits["d05"] == "val"
    assert {splits[name] for name in splits if name not in ("atlas", "d05", "d07")} == {"train"}


def test_a_glob_that_matches_nothing_or_claims_a_group_twice_is_told():
    documents, rows = corpus(4)
    with pytest.raises(UsageError, match=r"nothing\*"):
        assign(rows, documents, Splits(test=("nothing*",)), {}, 1)
    with pytest.raises(UsageError, match="both claim"):
        assign(rows, documents, Splits(test=("*d00*",), val=("*d0*",)), {}, 1)


def test_a_share_of_train_passages_is_held_back_whole():
    documents, rows = corpus()
    placed = assign(rows, documents, Splits(seen=0.25), {}, 1)
    passages = defaultdict(set)
    for row in placed:
        passages[row.passage_id].add(row.split)
    assert all(len(splits) == 1 for splits in passages.values())
    train = [p for p, splits in passages.items() if splits & {"train", "test_seen"}]
    assert len(train) == 80
    assert sum(passages[p] == {"test_seen"} for p in train) == 20


def test_unreadable_documents_take_no_share_and_copies_follow_their_original():
    documents, rows = corpus(6)
    documents.append(document("broken", status="unreadable", doc_id=""))
    documents.append(document("copy", doc_id="d00", status="duplicate", group="elsewhere"))
    splits = document_splits(rows, documents, Splits(), 1)
    assert set(splits) == {f"d{i:02d}" for i in range(6)}


def places(rows):
    return {row.question_id: (row.split, row.reason) for row in rows}


def test_test_questions_close_to_train_questions_are_dropped_across_kinds():
    documents = [document("a"), document("b")]
    settings = Splits(train=("*/a.pdf",), test=("*/b.pdf",), seen=0)
    base = {"question": "How is first-degree AV block defined?", "evidence": ""}
    rows = [
        question(1, "a", **base, reference="A PR interval longer than 200 ms with every P wave."),
        question(2, "b", **base, reference="The interval is above 200 ms."),
        question(
            3, "b", kind="choice", question="How is the first-degree AV block defined?",
            options=("A PR interval longer than 200 ms with every P wave.", "x", "y", "z"),
            answer="A", reference="A PR interval longer than 200 ms with every P wave.",
        ),
        question(4, "b", **base | {"question": "How is third-degree AV block defined?"}),
    ]  # fmt: skip
    placed = places(assign(rows, documents, settings, {}, 1))
    assert placed["q00001"] == ("train", "")
    assert placed["q00002"] == ("test", "near_duplicate_of_train")
    assert placed["q00003"] == ("test", "near_duplicate_of_train")
    assert placed["q00004"] == ("test", "")


def test_a_test_seen_question_on_a_train_questions_evidence_is_dropped():
    documents = [document("a")]
    span = "The PR interval is longer than 200 ms in this kind of block."
    other = "Atropine seldom helps when the block lies below the node."
    rows = [
        question(i, "a", passage_id=f"p{i}", evidence=span if i < 8 else f"{other[:-1]} {i}.")
        for i in range(16)
    ]
    rows[1] = rows[1].model_copy(update={"evidence": span + " More follows after it."})
    placed = assign(rows, documents, Splits(train=("*",), seen=0.5), {}, 1)
    seen = [row for row in placed if row.split == "test_seen"]
    assert len(seen) == 8
    shared = {row.question_id for row in seen if row.reason == "shared_evidence"}
    assert shared == {row.question_id for row in seen if span in row.evidence}
    assert shared
    assert all(row.status == "kept" for row in placed if row.split == "train")


@pytest.mark.parametrize(
    ("wanted", "doc", "expected"),
    [
        ("auto", "a", "test_seen"), ("auto", "v", "test_seen"), ("auto", "t", "test"),
        ("auto", "", "test"), ("test", "a", "test_seen"), ("test", "t", "test"),
        ("test", "", "test"), ("train", "a", "train"), ("train", "t", "test"),
        ("train", "", "train"), ("val", "t", "test"), ("val", "", "val"),
        ("test_seen", "a", "test_seen"),
    ],
)  # fmt: skip
def test_imported_questions_never_put_a_group_on_both_sides(wanted, doc, expected):
    documents = [document("a"), document("v"), document("t")]
    settings = Splits(train=("*/a.pdf",), val=("*/v.pdf",), test=("*/t.pdf",), seen=0)
    row = question(7, doc, set="mine", passage_id="", evidence="", group="own")
    imports = {"mine": ImportedSet(path="mine.jsonl", split=wanted)}
    (placed,) = assign([row], documents, settings, imports, 1)
    assert placed.split == expected
    assert placed.group == (doc or "own")
    assert placed.status == "kept"


def test_dropped_questions_keep_a_split_and_cannot_leak():
    documents, rows = corpus(3)
    rows = [row.model_copy(update={"status": "dropped", "reason": "duplicate"}) for row in rows]
    placed = assign(rows, documents, Splits(), {}, 1)
    assert {row.reason for row in placed} == {"duplicate"}
    assert {row.split for row in placed} <= {"train", "val", "test"}
