"""Questions go where their document stands; some are held back, and none leaks."""

from collections import Counter, defaultdict

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ecg_llm.config import ImportedSet, Splits
from ecg_llm.questions.checking.twins import Vectors, texts_of
from ecg_llm.questions.splitting.placing import placements
from ecg_llm.questions.splitting.split import assign, remarks
from ecg_llm.records import QUESTION_REASONS, Document, Question, Span
from ecg_llm.testing import passage

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


def split(rows, documents, settings, imports=(), seed=1, **changes):
    """Place the documents, each with one passage of words of its own, and then the questions."""
    read = [d.doc_id for d in documents if d.status == "ok"]
    passages = [passage(" ".join(f"{name}w{n}" for n in range(60)), doc_id=name) for name in read]
    placed = placements(documents, passages, settings, seed)
    return assign(rows, placed, documents, dict(imports), settings, seed, **changes)


def by_group(rows):
    found = defaultdict(set)
    for row in rows:
        found[row.group].add(row.split)
    return found


def test_questions_follow_their_documents_in_order():
    documents, rows = corpus()
    placed = split(rows, documents, Splits(seen=0))
    assert Counter(row.split for row in placed) == {"train": 160, "val": 20, "test": 20}
    assert all(len(splits) == 1 for splits in by_group(placed).values())
    assert [row.question_id for row in placed] == [row.question_id for row in rows]


def test_a_share_of_train_passages_is_held_back_whole():
    documents, rows = corpus()
    placed = split(rows, documents, Splits(seen=0.25))
    passages = defaultdict(set)
    for row in placed:
        passages[row.passage_id].add(row.split)
    assert all(len(splits) == 1 for splits in passages.values())
    train = [p for p, splits in passages.items() if splits & {"train", "test_seen"}]
    assert len(train) == 80
    assert sum(passages[p] == {"test_seen"} for p in train) == 20


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
    placed = places(split(rows, documents, settings))
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
    placed = split(rows, documents, Splits(train=("*",), seen=0.5))
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
    (placed,) = split([row], documents, settings, imports)
    assert placed.split == expected
    assert placed.group == (doc or "own")
    assert placed.status == "kept"


def test_dropped_questions_keep_a_split_and_cannot_leak():
    documents, rows = corpus(3)
    rows = [row.model_copy(update={"status": "dropped", "reason": "duplicate"}) for row in rows]
    placed = split(rows, documents, Splits())
    assert {row.reason for row in placed} == {"duplicate"}
    assert {row.split for row in placed} <= {"train", "val", "test"}


def test_a_question_that_names_a_copy_follows_the_document_that_it_repeats():
    documents = [document("a", group="b"), document("b", group="b"), document("t")]
    documents[0] = document("a", group="b", status="duplicate", reason="near_duplicate")
    settings = Splits(train=("*/b.pdf",), test=("*/t.pdf",))
    row = question(7, "a", set="mine", passage_id="", evidence="", group="b")
    (placed,) = split([row], documents, settings)
    assert (placed.split, placed.group) == ("test_seen", "b")


def test_questions_carry_the_tags_of_their_documents_and_those_of_pinned_ones_are_seen():
    documents, rows = corpus(10)
    documents[3] = document("d03", tags=("essential", "short"))
    mine = question(500, "d03", set="mine", passage_id="", evidence="")
    placed = split([*rows, mine], documents, Splits(tags={"essential": "train"}))
    assert {row.tags for row in placed if row.doc_id == "d03"} == {("essential", "short")}
    assert {row.tags for row in placed if row.doc_id != "d03"} == {()}
    assert {row.split for row in placed[:-1] if row.doc_id == "d03"} <= {"train", "test_seen"}
    assert placed[-1].split == "test_seen"
    assert placed[-1].subsets == ("mine/test_seen", "essential/test_seen", "short/test_seen")


def test_a_question_that_joins_passages_is_held_back_only_with_all_of_them():
    documents, rows = corpus(1, 40)
    settings = Splits(train=("*",), seen=0.5)
    held = {row.passage_id for row in split(rows, documents, settings) if row.split == "test_seen"}
    used = {row.passage_id for row in rows} - held
    pairs = {"both": sorted(held)[:2], "one": [min(used), max(held)], "none": sorted(used)[:2]}
    joined = [
        question(
            900 + n, "d00", question_id=name, passage_id=first,
            joined=(Span(passage_id=second, text=f"Another fact of {name} joins the first here."),),
        )
        for n, (name, (first, second)) in enumerate(pairs.items())
    ]  # fmt: skip
    placed = places(split([*rows, *joined], documents, settings))
    assert placed["both"] == ("test_seen", "")
    assert placed["one"] == ("train", "shared_evidence")
    assert placed["none"] == ("train", "")


def test_evidence_is_shared_through_the_spans_of_further_passages_too():
    documents, rows = corpus(1, 40)
    settings = Splits(train=("*",), seen=0.5)
    found = split(rows, documents, settings)
    seen = next(row for row in found if row.split == "test_seen")
    train = sorted({row.passage_id for row in found if row.split == "train"})
    span = Span(passage_id=train[1], text=f"As said before: {seen.evidence}")
    joins = question(900, "d00", question_id="joins", passage_id=train[0], joined=(span,))
    placed = places(split([*rows, joins], documents, settings))
    assert placed["joins"] == ("train", "")
    assert placed[seen.question_id] == ("test_seen", "shared_evidence")


def test_a_new_question_moves_few_of_the_passages_held_back():
    documents, rows = corpus(10)
    first = split(rows, documents, Splits(seen=0.2))
    more = [question(900 + n, f"d{n:02d}", passage_id=f"new{n}") for n in range(3)]
    moved = [
        old
        for old, new in zip(first, split([*rows, *more], documents, Splits(seen=0.2)), strict=False)
        if old.split != new.split
    ]
    assert len({row.passage_id for row in moved}) <= 3


def test_test_questions_close_to_val_questions_and_close_in_meaning_are_dropped():
    documents = [document("a"), document("v"), document("t")]
    settings = Splits(train=("*/a.pdf",), val=("*/v.pdf",), test=("*/t.pdf",), seen=0)
    rows = [
        question(1, "a", question="What widens the QRS complex?", reference="A branch block."),
        question(2, "v"), question(3, "t", question=question(2, "v").question),
        question(4, "t", question="Why is ventricular activation slow?", reference="Blocks."),
        question(5, "t"),
    ]  # fmt: skip

    class Embeds:
        """Every text a vector of its own, but questions 1 and 4 mean the same."""

        name = "fixed"

        def embed(self, texts):
            own = {text: n for n, text in enumerate(sorted(meanings))}
            return np.eye(len(own), dtype=np.float32)[[own[meanings[text]] for text in texts]]

    meanings = {text: text for row in rows for text in texts_of(row)}
    meanings |= dict.fromkeys(texts_of(rows[3]), texts_of(rows[0])[0])
    meanings |= dict.fromkeys(texts_of(rows[0]), texts_of(rows[0])[0])
    vectors = Vectors.of(Embeds(), meanings)
    placed = places(split(rows, documents, settings))
    assert placed["q00003"] == ("test", "near_duplicate_of_train")
    assert placed["q00004"] == placed["q00005"] == ("test", "")
    placed = places(split(rows, documents, settings, vectors=vectors))
    assert placed["q00004"] == ("test", "near_duplicate_of_train")
    assert placed["q00005"] == ("test", "")


def made(number, doc, passage, joined, same, set, dropped):
    name = f"d{doc:02d}"
    further = [] if joined is None else [joined]
    return question(
        same, name, question_id=f"q{number}", set=set, passage_id=f"{name}-p{passage}",
        joined=tuple(Span(passage_id=f"{name}-p{p}", text=f"Text {number} here.") for p in further),
        group=f"own{number}", status="dropped" if dropped else "kept",
        reason="too_short" if dropped else "",
    )  # fmt: skip


asked_about = st.fixed_dictionaries(
    {
        "doc": st.integers(0, 9),
        "passage": st.integers(0, 5),
        "joined": st.sampled_from([None, None, 0, 3]),
        "same": st.integers(0, 12),
        "set": st.sampled_from(["written", "written", "auto", "train", "test"]),
        "dropped": st.booleans(),
    }
)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    st.lists(st.sampled_from(["", "", "atlas", "course"]), min_size=1, max_size=8),
    st.lists(asked_about, max_size=30),
    st.integers(0, 2**32),
    st.randoms(use_true_random=False),
)
def test_any_questions_are_all_there_and_no_group_stands_on_both_sides(groups, asked, seed, rng):
    documents = [document(f"d{n:02d}", group=name) for n, name in enumerate(groups)]
    documents.append(document("d09", group="atlas", status="duplicate"))
    rows = [made(n, **recipe) for n, recipe in enumerate(asked)]
    imports = {name: ImportedSet(path=name, split=name) for name in ("auto", "train", "test")}
    placed = split(rows, documents, Splits(seen=0.3), imports, seed)
    assert [row.question_id for row in placed] == [row.question_id for row in rows]
    for row, old in zip(placed, rows, strict=True):
        assert (row.status == "kept") == (row.reason == "")
        assert row.reason in QUESTION_REASONS
        assert old.status == "kept" or (row.status, row.reason) == (old.status, old.reason)
    kept = [row for row in placed if row.status == "kept"]
    for found in by_group(kept).values():
        assert not ("test" in found and found & {"train", "val"})
    trained = {p for row in kept if row.split == "train" for p in passages_of(row)}
    seen = {p for row in kept if row.split == "test_seen" for p in passages_of(row)}
    assert not trained & seen
    order = list(range(len(rows)))
    rng.shuffle(order)
    again = split([rows[n] for n in order], documents, Splits(seen=0.3), imports, seed)
    assert {r.question_id: r.split for r in again} == {r.question_id: r.split for r in placed}


def passages_of(row):
    written = row.set == "written"
    return {row.passage_id, *(span.passage_id for span in row.joined)} if written else set()


def test_what_train_asks_is_not_tested_whatever_the_answer_says():
    documents = [document("a"), document("b")]
    settings = Splits(train=("*/a.pdf",), test=("*/b.pdf",), seen=0)
    options = ("Air.", "Blood.", "Bone.", "Fat.")
    generic = {"question": "Which of the following is true?", "kind": "choice", "options": options}
    rows = [
        question(1, "a", question="What is ventilation?", reference="Movement of air."),
        question(2, "b", question="What is  Ventilation?", kind="choice", options=options,
                 answer="A", reference="Air."),
        question(3, "a", **generic, answer="A"),
        question(4, "b", **generic, answer="B"),
    ]  # fmt: skip
    placed = places(split(rows, documents, settings))
    assert placed["q00002"] == ("test", "near_duplicate_of_train")
    assert placed["q00004"] == ("test", "")


def test_an_imported_question_never_stands_on_another_side_than_its_document():
    documents, rows = corpus()
    placed = split(rows, documents, Splits(seen=0))
    of = {row.doc_id: row.split for row in placed}
    for wanted in ("train", "val"):
        mine = [question(900 + i, name, set="mine") for i, name in enumerate(of)]
        imports = {"mine": ImportedSet(path="x.jsonl", name="mine", split=wanted)}
        for row in split([*rows, *mine], documents, Splits(seen=0), imports.items()):
            assert row.split == of[row.doc_id]


def test_a_tested_part_that_is_too_small_is_said():
    documents, rows = corpus(10, 12)
    said = remarks(split(rows, documents, Splits(seen=0)))
    assert any(sentence.startswith("written/test holds 12 questions") for sentence in said)
    assert not remarks([])
