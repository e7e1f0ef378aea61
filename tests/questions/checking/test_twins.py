import time

import numpy as np
import pytest

from ecg_llm.questions.checking.twins import NearIndex, Vectors, texts_of
from ecg_llm.records import Question


class Planted:
    """An embedder in which the texts of one list mean the same; all others mean their own."""

    name = "planted"

    def __init__(self, *same, dimension=64):
        self.same = same
        self.dimension = dimension
        self.embedded = []

    def embed(self, texts):
        self.embedded += texts
        rows = []
        for text in texts:
            meant = next((group[0] for group in self.same if text in group), text)
            rng = np.random.default_rng(list(meant.encode()) or 0)
            rows.append(rng.standard_normal(self.dimension))
        made = np.array(rows, np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]


def ask(question, reference="", number=0):
    return Question(
        question_id=f"{question}|{number}", set="s", kind="open", question=question,
        reference=reference,
    )  # fmt: skip


def choose(question, right, *others):
    return Question(
        question_id=f"{question}/choice", set="s", kind="choice", question=question,
        options=(*others, right), answer="ABCD"[len(others)], reference=right,
    )  # fmt: skip


def found(first, second, embedder=None, cosine=0.95):
    vectors = Vectors.of(embedder, (*texts_of(first), *texts_of(second))) if embedder else None
    index = NearIndex(vectors, cosine)
    index.add(first)
    twin = index.find(second)
    assert twin in ("", first.question_id)
    return bool(twin)


def test_questions_in_nearly_the_same_words_say_the_same():
    first = ask("Which drug is given first in torsades de pointes with a normal pulse?")
    again = ask("Which drug is given first in torsades de pointes with a normal pulse", number=1)
    near = ask("Which drug is given first in torsades de pointes and a normal pulse?")
    assert found(first, again)
    assert found(first, near)
    assert not found(first, ask("What does the P wave represent on the electrocardiogram?"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a PR interval of 200 ms", "a PR interval of 240 ms"),
        ("left bundle branch block", "right bundle branch block"),
        ("an R wave in lead V1", "an R wave in lead V6"),
        ("ST elevation", "ST depression"),
        ("hyperkalaemia", "hypokalaemia"),
        ("sinus tachycardia", "sinus bradycardia"),
        ("a focus above the bundle", "a focus below the bundle"),
        ("a stable rhythm", "an unstable rhythm"),
        ("a prolonged QT interval", "a shortened QT interval"),
    ],
)
def test_opposites_are_never_the_same_whatever_words_and_vectors_say(one, other):
    ask_about = "What should a physician in the emergency room think of first if the ECG shows {}?"
    first, second = ask(ask_about.format(one)), ask(ask_about.format(other))
    assert not found(first, second)
    assert not found(first, second, Planted([first.question, second.question]))


def test_questions_in_other_words_say_the_same_if_their_vectors_are_close():
    first = ask("How is torsades de pointes treated?", "With magnesium.")
    other = ask("What is the treatment of torsades de pointes?", "By giving magnesium.")
    asked = Planted([first.question, other.question])
    told = Planted([texts_of(first)[1], texts_of(other)[1]])
    assert not found(first, other)
    assert not found(first, other, Planted())
    assert found(first, other, asked)
    assert found(first, other, told)
    assert not found(first, other, asked, cosine=1)  # off


def test_an_open_and_a_choice_question_about_one_fact_are_found_across_kinds():
    first = ask("Which drug ends torsades de pointes?", "Magnesium")
    other = choose("Which drug ends torsades de pointes?", "Magnesium", "Adenosine", "Digoxin")
    assert found(first, other)
    assert not found(
        first, choose("Which drug ends torsades de pointes?", "Overdrive by a pacing wire", "x")
    )


def test_the_closest_twin_is_named_and_a_question_added_twice_is_one():
    rows = [ask(text) for text in ("What is alpha?", "How is beta made?", "Who needs gamma?")]
    query = ask("Why would anybody want delta?")
    vectors = Vectors.of(Planted([rows[1].question, query.question]), [r.question for r in rows]
                         + [query.question])  # fmt: skip
    index = NearIndex(vectors)
    for row in (*rows, *rows):
        index.add(row)
    assert index.find(query) == rows[1].question_id


def test_texts_are_embedded_once_and_unknown_ones_are_an_error():
    embedder = Planted()
    vectors = Vectors.of(embedder, ["a b", "c d", "a b"])
    assert embedder.embedded == ["a b", "c d"]
    assert vectors["a b"] @ vectors["a b"] == pytest.approx(1, abs=1e-5)
    assert "c d" in vectors
    assert "e f" not in vectors
    with pytest.raises(KeyError):
        NearIndex(vectors).find(ask("What was never embedded?"))
    empty = Vectors.of(embedder, [])
    assert embedder.embedded == ["a b", "c d"]
    assert NearIndex(empty).find(ask("")) == ""


def test_the_pairs_of_thousands_of_texts_are_those_that_a_full_comparison_finds():
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((5000, 32)).astype(np.float32)
    matrix[4000:] = matrix[:1000] + 0.1 * rng.standard_normal((1000, 32)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    letters = "abcdefghjk"  # digits, and i, would set the texts apart
    texts = ["word " + "".join(letters[int(d)] for d in str(i)) for i in range(5000)]
    started = time.perf_counter()
    close = Vectors({text: i for i, text in enumerate(texts)}, matrix).close(0.95)
    assert time.perf_counter() - started < 20
    rows, columns = np.nonzero(np.triu(matrix @ matrix.T >= 0.95, 1))
    wanted = {frozenset((texts[i], texts[j])) for i, j in zip(rows, columns, strict=True)}
    assert len(wanted) > 900
    assert {frozenset((a, b)) for a, others in close.items() for b in others} == wanted


@pytest.mark.slow
def test_the_default_cosine_finds_rewordings_and_spares_other_questions():
    from ecg_llm.config import Checks
    from ecg_llm.embed import SentenceEmbedder

    embedder = SentenceEmbedder()
    cosine = Checks().duplicate
    for one, other in (
        ("What does the QT interval represent?", "How is the QT interval defined?"),
        ("What is the treatment of torsades de pointes?", "How is torsades de pointes treated?"),
        (
            "What causes a short PR interval with a delta wave?",
            "What is the cause of a delta wave with a short PR interval?",
        ),
    ):
        assert found(ask(one), ask(other), embedder, cosine), one
    for one, other in (
        ("Which rhythm is treated with adenosine?", "Which rhythm is caused by adenosine?"),
        ("How is atrial flutter treated?", "How is atrial fibrillation treated?"),
        ("What do arteries transport?", "What do arteries and veins transport?"),
        ("Which rhythm arises above the bundle?", "Which rhythm arises below the bundle?"),
        ("What does the P wave represent?", "What does the T wave represent?"),
        ("Which drugs prolong the QT interval?", "Which drugs shorten the QT interval?"),
    ):
        assert not found(ask(one), ask(other), embedder, cosine), one
