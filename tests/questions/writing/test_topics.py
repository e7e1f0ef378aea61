import json

import pytest

from ecg_llm.config import Questions
from ecg_llm.questions.checking.verify import questions
from ecg_llm.questions.writing.extractive import ExtractiveWriter
from ecg_llm.questions.writing.windows import windows
from ecg_llm.testing import passage

MACULA = "The macula is a patch of hair cells surrounded by support cells of the vestibule."


def written(*parts):
    """Return the rows of the open questions of passages, each given as its section and text."""
    settings = Questions(per_window=30, window=1, kinds=("open",))
    passages = [
        passage(text, start=i * 10_000, section=section) for i, (section, text) in enumerate(parts)
    ]
    drafts = list(ExtractiveWriter(settings, 1, passages).write(windows(passages, settings, 1)))
    assert any(json.loads(draft.reply)["questions"] for draft in drafts)
    return questions(drafts, passages, settings, 1)


@pytest.mark.parametrize(
    ("section", "question"),
    [
        ("13 Sensory Perception > 13.2 Hearing and Equilibrium",
         "Hearing and equilibrium: What is the macula?"),
        ("13 Equilibrium > 13.8 Glossary", "Equilibrium: What is the macula?"),
        ("13 Equilibrium > 13.9 Chapter Review", "Equilibrium: What is the macula?"),
        ("13 Equilibrium > 13.2 The Macula", "Equilibrium: What is the macula?"),
        ("13 Equilibrium > 13.2 Hair Cells", "Equilibrium: What is the macula?"),
        ("1. Introduction", "What is the macula?"),
        ("Abstract > 2. Methods", "What is the macula?"),
        ("", "What is the macula?"),
    ],
)  # fmt: skip
def test_a_short_subject_is_put_under_the_innermost_heading_that_names_another(section, question):
    (row,) = written((section, MACULA))
    assert (row.question, row.status) == (question, "kept")


def test_a_long_subject_needs_no_topic():
    text = "First-degree AV block is defined as a PR interval longer than 200 ms in every beat."
    (row,) = written(("3 Disorders of Conduction", text))
    assert row.question == "How is first-degree AV block defined?"


def test_german_questions_have_their_topic_in_the_same_form():
    text = "Der Lagetyp beschreibt die Richtung der größten Vektorprojektion in der Frontalebene."
    (row,) = written(("4 Die Herzachse", text))
    assert row.question == "Herzachse: Was beschreibt der Lagetyp?"


def test_copies_of_a_chapter_under_other_headings_give_one_question():
    rows = written(
        ("13 Equilibrium", MACULA), ("Glossary", MACULA), ("7 Vestibular Organs", MACULA)
    )
    assert len(rows) == 3
    assert [row.status for row in rows].count("kept") == 1
    assert {row.reason for row in rows if row.status != "kept"} == {"duplicate"}


def test_two_terms_under_one_topic_are_two_questions():
    text = (
        "# Glossary\n\ncornea : clear cover of the front of the eye that bends the light ^ "
        "sclera : white cover of the eye to which all of its muscles are attached ^ "
        "choroid : layer with many vessels that feeds the outer part of the retina ^"
    )
    rows = written(("13 Sensory Perception > 13.8 Glossary", text))
    assert {row.question for row in rows if row.status == "kept"} == {
        "Sensory perception: What does “cornea” mean?",
        "Sensory perception: What does “sclera” mean?",
        "Sensory perception: What does “choroid” mean?",
    }


def test_a_term_of_two_meanings_is_asked_under_the_topic_of_its_answer():
    heart = "The auricle is a small pouch of the atrium that stands out on the front of the heart."
    ear = "The auricle is a curved plate of skin and cartilage at the side of the human head."
    kept = [
        r for r in written(("47 Circulation", heart), ("13 Hearing", ear)) if r.status == "kept"
    ]
    assert [(row.question, row.reference) for row in kept] == [
        ("Circulation: What is the auricle?", heart)
    ]
