"""What tested questions share with train is found, named and counted for every subset."""

import random
import time

import numpy as np
import pytest

from ecg_llm.questions.splitting.contamination import overlaps, summary
from ecg_llm.records import Question
from ecg_llm.testing import passage
from ecg_llm.words import words_of

SENTENCE = (
    "A broad QRS complex with a notched R wave in the lateral leads and a delayed "
    "intrinsicoid deflection points to a left bundle branch block in most adults."
)


def question(name, split, text, reference="", **changes):
    made = {"question_id": name, "set": "hand", "kind": "open", "question": text}
    return Question(**(made | {"reference": reference, "split": split} | changes))


def filler(seed, count):
    rng = random.Random(seed)
    return " ".join(f"{rng.choice('abcdefgh')}{rng.randrange(10**6)}" for _ in range(count))


def found(rows, passages=(), embedder=None):
    return {row.key: row for row in overlaps(rows, passages, embedder)}


def test_the_same_question_is_an_exact_repeat_whatever_its_case_and_spaces():
    rows = [
        question("a", "train", "What is a delta wave?", "A slurred upstroke."),
        question("b", "val", "What is a U wave?", "A small wave."),
        question("c", "test", "what is a  Delta wave?", "Something else."),
        question("d", "test_seen", "What is a U wave?", "A late one."),
        question("e", "test", "What is an epsilon wave?", "A notch."),
        question("f", "none", "What is a U wave?", "A late one."),
        question("g", "test", "What is a U wave?", "x", status="dropped", reason="duplicate"),
    ]
    exact = {row.question_id: (row.twin, row.value, row.subset) for row in overlaps(rows, [])}
    assert exact == {"c": ("a", 1, "hand/test"), "d": ("b", 1, "hand/test_seen")}


def test_choice_questions_repeat_only_with_the_same_right_option():
    stem = "Which of these is right?"
    choice = {"kind": "choice", "options": ("One.", "Two.", "Three.", "Four.")}
    rows = [
        question("a", "train", stem, answer="A", **choice),
        question("b", "test", stem, answer="B", **choice),
        question("c", "test", stem, answer="C", **(choice | {"options": ("x", "y", "one", "z")})),
    ]
    assert [row.key for row in overlaps(rows, [])] == [("c", "exact", "questions")]


def test_a_run_of_thirteen_words_is_found_in_passages_and_questions_and_twelve_are_not():
    said = words_of(SENTENCE)
    passages = [
        passage(f"{filler(1, 30)} {SENTENCE} {filler(2, 30)}"),
        passage(f"{filler(3, 30)} {' '.join(said[:14])} {filler(4, 30)}", doc_id="e" * 16),
    ]
    rows = [
        question("a", "train", f"What is {filler(5, 4)}?", " ".join(said[3:16])),
        question("b", "test", f"What is {filler(6, 4)}?", f"{SENTENCE} {filler(7, 3)}"),
        question("c", "test", f"What is {filler(8, 4)}?", f"{' '.join(said[:12])} other"),
        question("d", "test", f"What is {filler(9, 4)}?", context=f"{filler(10, 9)}. {SENTENCE}"),
    ]
    rows = found(rows, passages)
    assert set(rows) == {
        (name, "ngram", against) for name in "bd" for against in ("passages", "questions")
    }
    inside = rows["b", "ngram", "passages"]
    grams = len(words_of(f"What is {filler(6, 4)}? {SENTENCE} {filler(7, 3)}")) - 12
    assert inside.value == pytest.approx((len(said) - 12) / grams)
    assert inside.twin == passages[0].passage_id
    assert inside.shared == " ".join(said)
    assert rows["d", "ngram", "passages"].shared == " ".join(said)
    asked = rows["b", "ngram", "questions"]
    assert (asked.twin, asked.value) == ("a", pytest.approx(1 / grams))
    assert asked.shared == " ".join(said[3:16])


def test_a_text_of_eight_to_twelve_words_is_one_run_and_a_shorter_one_proves_nothing():
    passages = [passage(f"{filler(1, 20)} the delta wave is a slurred upstroke of the QRS here.")]
    rows = [
        question("a", "test", "The delta wave is", "a slurred upstroke of the QRS"),
        question("b", "test", "Is the delta wave", "a slurred upstroke of the QRS"),
        question("c", "test", "The delta wave is", "a slurred upstroke"),
    ]
    (row,) = overlaps(rows, passages)
    assert (row.question_id, row.value) == ("a", 1)
    assert row.shared == "the delta wave is a slurred upstroke of the qrs"


def test_the_twin_is_the_one_that_shares_most_though_all_share_something():
    said = words_of(SENTENCE)
    few, most = " ".join(said[:13]), " ".join(said[:-2])
    rows = [question(f"a{n:04d}", "train", f"{few} {filler(n, 5)}") for n in range(1500)]
    rows.append(question("b", "train", f"{most} {filler(9999, 5)}"))
    rows.append(question("t", "test", SENTENCE))
    (row,) = overlaps(rows, [])
    assert (row.twin, row.shared) == ("b", most)


class Embeds:
    """Vectors in a plane: the angle in degrees is the number in the text."""

    name = "plane"

    def embed(self, texts):
        angles = np.radians([float(words_of(text)[-1]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_the_closest_train_question_is_a_neighbour_from_the_cosine_on():
    rows = [
        question("a", "train", "Turned by", "10"), question("b", "val", "Turned to", "50"),
        question("c", "test", "How far", "30"), question("d", "test", "How wide", "130"),
        question("e", "test_seen", "How far at last", "55"),
    ]  # fmt: skip
    rows = overlaps(rows, [], Embeds())
    assert [(row.key, row.twin) for row in rows] == [
        (("c", "embedding", "questions"), "a"), (("e", "embedding", "questions"), "b"),
    ]  # fmt: skip
    assert rows[0].value == pytest.approx(np.cos(np.radians(20)), abs=1e-4)


def test_every_tested_subset_has_a_row_tags_too_and_zeros_too():
    rows = [
        question("a", "train", "What is a delta wave?", "A slurred upstroke."),
        question("b", "test", "What is a delta wave?", "A sign.", tags=("essential",)),
        question("c", "test", "What is an epsilon wave?", "A notch."),
        question("d", "test_seen", f"Is it {filler(1, 9)}?", filler(2, 9), set="mine"),
        question("e", "test", "What?", "x", set="gone", status="dropped", reason="too_short"),
    ]
    text = passage(f"Is it {filler(1, 9)}? {filler(2, 9)}")
    rows_of = {row.subset: row[1:] for row in summary(rows, overlaps(rows, [text]))}
    assert rows_of == {
        "hand/test": (2, 1, 0, 0, 0),
        "essential/test": (1, 1, 0, 0, 0),
        "mine/test_seen": (1, 0, 0, 1, 0),
    }
    assert summary(rows[:1], []) == []


def test_nothing_to_compare_is_no_overlap():
    assert overlaps([], [], Embeds()) == []
    assert overlaps([question("a", "test", "What is it?", "1")], [], Embeds()) == []


@pytest.mark.slow
def test_ten_thousand_questions_are_compared_in_seconds():
    rng = random.Random(1)
    vocabulary = [f"word{n}" for n in range(5000)]
    texts = [" ".join(rng.choices(vocabulary, k=250)) for _ in range(4000)]
    passages = [passage(text, doc_id=f"{n:016d}") for n, text in enumerate(texts)]
    rows = [
        question(f"{split}{n}", split, " ".join(rng.choices(vocabulary, k=20)),
                 " ".join(rng.choice(texts).split()[:15]))
        for split in ("train", "test") for n in range(10_000)
    ]  # fmt: skip
    started = time.perf_counter()
    made = overlaps(rows, passages)
    assert time.perf_counter() - started < 30
    assert sum(row.against == "passages" for row in made) == 10_000


def test_an_open_and_a_choice_question_that_ask_the_same_are_an_exact_repeat():
    options = ("Breathing.", "Sleeping.", "Eating.", "Falling.")
    rows = [
        question("a", "train", "What is ventilation?", "The movement of air."),
        question("b", "test", "What is ventilation?", "Breathing.", kind="choice",
                 options=options, answer="A"),
    ]  # fmt: skip
    assert [row.question_id for row in overlaps(rows, []) if row.kind == "exact"] == ["b"]
