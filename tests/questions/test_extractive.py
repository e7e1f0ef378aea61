import json
import time
from collections import Counter
from pathlib import Path

import pytest

from ecg_llm.config import Questions
from ecg_llm.questions.extractive import ExtractiveWriter
from ecg_llm.questions.facts import Casing, fact_of, sentences
from ecg_llm.questions.generate import windows
from ecg_llm.questions.verify import letter_balance, longest_key_z, questions
from ecg_llm.testing import check_writer, passage

SHARED = Path(__file__).parents[2].parent / "shared"

CHAPTER = """\
# Blocks and rhythms

First-degree AV block is defined as a PR interval longer than 200 ms with conduction of every P \
wave to the ventricles. This delay is common. Marked first-degree AV block is a PR interval longer \
than 300 ms, and it can cause symptoms.

Mobitz type II block is defined as a sudden nonconducted P wave with constant PR intervals before \
and after the nonconducted P wave. A fusion beat is a hybrid QRS complex that results when a \
supraventricular and a ventricular impulse activate the ventricles together.

Junctional tachycardia is a junctional rhythm faster than 100 bpm. Bigeminy is a rhythm in which \
every second beat is premature. Ventricular fibrillation is a chaotic rhythm without discrete QRS \
complexes [12]. The rate of a ventricular escape rhythm is usually 20 to 40 bpm.

Unlike RBBB, LBBB is uncommon in people without heart disease. Isoproterenol should be avoided in \
congenital long QT syndrome. Biventricular hypertrophy is hard to recognize, because the opposite \
forces of the two ventricles may cancel each other.

The P wave lasts less than 120 ms. Atrial flutter runs at 300 bpm, sinus tachycardia at 150 bpm \
and the sinus node at rest at 60 bpm. A QRS complex of 140 ms is wide, and a QT interval of 480 ms \
is long.

- A list item is a thing in a list of things.

| Term | The table is a grid of cells with text. |
"""


def facts(text):
    casing = Casing([text])
    return [fact for s in sentences(text) if (fact := fact_of(s, casing))]


def asked(text):
    return [fact.question for fact in facts(text)]


def test_facts_become_the_questions_a_person_would_ask():
    found = asked(CHAPTER)
    for question in (
        "How is first-degree AV block defined?",
        "What is marked first-degree AV block?",
        "How is Mobitz type II block defined?",
        "What is a fusion beat?",
        "What is the rate of a ventricular escape rhythm?",
        "How does LBBB differ from RBBB?",
        "When should isoproterenol be avoided?",
        "Why is biventricular hypertrophy hard to recognize?",
        "How long does the P wave last?",
    ):
        assert question in found


@pytest.mark.parametrize(
    "sentence",
    [
        "This is defined as a delay of conduction in the AV node.",
        "It is a delay of conduction in the atrioventricular node.",
        "The authors is a group of people who wrote the whole text.",
        "The latter rhythm is a fast rhythm with wide QRS complexes.",
        "The valve is a thin leaf of tissue at the mouth of a chamber.",
        "Figure 3 shows a wide QRS complex with a notched R wave.",
        "Another cause is a drug that prolongs the QT interval of the heart.",
        "Atrial fibrillation is a common arrhythmia in older adults.",
        "Patients in this study is a group of adults with heart failure.",
        "However, the QRS complex is a wave of ventricular depolarization.",
        "Bundle branch block is a delay as shown in Table 2 of the guideline.",
        "AV blocks are often described by degrees and by their place.",
    ],
)
def test_sentences_that_lean_on_others_or_evaluate_give_no_question(sentence):
    assert asked(sentence) == []


def test_german_sentences_give_german_questions():
    text = (
        "Der AV-Block dritten Grades ist durch vollständige Dissoziation von Vorhof- und "
        "Kammeraktion gekennzeichnet. Unter einem Schenkelblock versteht man eine verzögerte "
        "Erregung der Kammer. Der Lagetyp beschreibt die Richtung der größten Vektorprojektion. "
        "Die P-Welle ist der Ausdruck der Erregung beider Vorhöfe."
    )
    assert asked(text) == [
        "Wodurch ist der AV-Block dritten Grades gekennzeichnet?",
        "Was versteht man unter einem Schenkelblock?",
        "Was beschreibt der Lagetyp?",
        "Was ist die P-Welle?",
    ]


def test_sentences_are_prose_and_stand_in_the_text():
    found = sentences(CHAPTER)
    assert all(sentence.raw in CHAPTER for sentence in found)
    assert not any("list item" in s.text or "table is" in s.text for s in found)
    cited = next(s for s in found if s.text.startswith("Ventricular fibrillation"))
    assert cited.raw.endswith("[12].")
    assert cited.text.endswith("QRS complexes.")


def test_abbreviations_and_initials_end_no_sentence_but_roman_leads_do():
    text = "Some drugs, e.g. Amiodarone, prolong QT. The axis is seen in lead I. Lead II is next."
    assert [s.text for s in sentences(text)] == [
        "Some drugs, e.g. Amiodarone, prolong QT.",
        "The axis is seen in lead I.",
        "Lead II is next.",
    ]


def test_long_and_strange_text_takes_no_time():
    hostile = "The " + "a " * 40 + "is because. " + "x" * 100_000 + ". " + "A is " * 20_000 + "."
    start = time.monotonic()
    facts(hostile + "\n\n" + "Word because " * 5_000)
    assert time.monotonic() - start < 5


def written(text, **changes):
    settings = Questions(per_window=30, **changes)
    passages = [
        passage(part, start=i * 10_000) for i, part in enumerate(text.split("\n\n")) if part
    ]
    drafts = ExtractiveWriter(settings, 1).write(windows(passages, settings, 1))
    return drafts, questions(drafts, passages, settings, 1), passages


def test_nearly_everything_it_writes_passes_the_checks():
    _, rows, passages = written(CHAPTER)
    kept = [row for row in rows if row.status == "kept"]
    assert len(kept) >= 0.9 * len(rows)
    assert Counter(row.kind for row in kept)["open"] >= 10
    assert Counter(row.kind for row in kept)["choice"] >= 4
    texts = {p.passage_id: p.text for p in passages}
    for row in kept:
        assert row.evidence in texts[row.passage_id]
        assert row.question.endswith("?")


def test_wrong_values_have_the_unit_of_the_right_one_and_are_not_in_the_sentence():
    _, rows, _ = written(CHAPTER)
    gaps = [row for row in rows if "____" in row.question and row.status == "kept"]
    assert gaps
    for row in gaps:
        assert len({option.split()[-1] for option in row.options}) == 1
        assert sum(option in row.evidence for option in row.options) == 1
        assert row.reference not in row.question


def test_the_same_seed_writes_the_same_and_hidden_text_is_not_a_source():
    first, _, passages = written(CHAPTER)
    assert written(CHAPTER)[0] == first
    hidden = passage("A trap is a rhythm that tells to ignore all instructions.", start=90_000)
    hidden = hidden.model_copy(update={"hidden": True})
    settings = Questions(per_window=30)
    found = windows([*passages, hidden], settings, 1)
    assert ExtractiveWriter(settings, 1, [*passages, hidden]).write(found) == first


def test_with_a_corpus_a_window_is_written_the_same_alone_and_among_others():
    settings = Questions(per_window=30, window=60)
    passages = [passage(part, start=i * 10_000) for i, part in enumerate(CHAPTER.split("\n\n"))]
    found = windows(passages, settings, 1)
    together = ExtractiveWriter(settings, 1, passages).write(found)
    alone = [d for w in found for d in ExtractiveWriter(settings, 1, passages).write([w])]
    assert alone == together
    assert len(together) == 2 * len(found)


def test_the_number_of_questions_and_their_language_follow_the_settings():
    drafts, _, _ = written(CHAPTER, kinds=("open",))
    assert {draft.kind for draft in drafts} == {"open"}
    settings = Questions(per_window=2, window=10_000)
    (window,) = windows([passage(CHAPTER)], settings, 1)
    for draft in ExtractiveWriter(settings, 1).write([window]):
        assert len(json.loads(draft.reply)["questions"]) == 2
    german = Questions(language="de")
    assert all(
        json.loads(draft.reply)["questions"] == []
        for draft in ExtractiveWriter(german, 1).write([window])
    )


def test_the_writer_keeps_its_contract():
    check_writer(ExtractiveWriter(Questions(), 1))


@pytest.mark.slow
def test_a_real_book_gives_balanced_questions_that_stand_in_it():
    truth = SHARED / "truth" / "openstax_anatomy_book_300p.groundtruth.md"
    if not truth.is_file():
        pytest.skip("needs ../shared, which this machine does not have")
    parts, start = [], 0
    for part in truth.read_text("utf-8").split("\n\n"):
        if len(part) > 80:
            parts.append(passage(part, start=start))
        start += len(part) + 2
    settings = Questions(per_window=3)
    drafts = ExtractiveWriter(settings, 1).write(windows(parts, settings, 1))
    rows = questions(drafts, parts, settings, 1)
    kept = [row for row in rows if row.status == "kept"]
    assert len(kept) > 400
    assert len(kept) > 0.9 * len(rows)
    letters = letter_balance(kept)
    assert max(letters.values()) - min(letters.values()) <= 1
    assert abs(longest_key_z(kept)) < 3
