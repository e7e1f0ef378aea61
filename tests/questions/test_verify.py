import json

import pytest

from ecg_llm.config import Questions
from ecg_llm.questions.verify import letter_balance, longest_key_z, questions
from ecg_llm.records import Draft, Question
from ecg_llm.testing import passage

TEXT = (
    "First-degree AV block is defined as a PR interval longer than 200 ms with "
    "conduction of every\n"
    "P wave to the ventricles. It is a delay rather than a true block, because no beat is lost. "
    "Hyperkalaemia above 6.5 mmol/L causes tall, peaked T waves and later a wide QRS complex. "
    "Left bundle branch block is recognised by a broad, notched R wave in leads I, aVL, V5 and V6."
)
PASSAGE = passage(TEXT, section="AV block")
OPEN = {
    "question": "How is first-degree AV block defined?",
    "answer": "It is a PR interval longer than 200 ms with conduction of every P wave.",
    "evidence": "first-degree AV block is defined as a PR interval longer than 200 ms",
}
CHOICE = {
    "question": "Which ECG finding does hyperkalaemia cause first?",
    "answer": "Tall, peaked T waves",
    "evidence": "Hyperkalaemia above 6.5 mmol/L causes tall, peaked T waves",
    "distractors": ["Prominent U waves", "A long ST segment", "Deep S waves in V1"],
}


def draft(*items, kind="open", window=(PASSAGE,), **changes):
    reply = json.dumps({"questions": list(items)})
    ids = tuple(p.passage_id for p in window)
    return Draft(
        draft_id=f"d-{kind}-{len(items)}-{abs(changes.pop('number', 0))}",
        passage_ids=ids, kind=kind, reply=reply, model="w@1",
    ).model_copy(update=changes)  # fmt: skip


def check(*items, kind="open", settings=None, window=(PASSAGE,)):
    return questions([draft(*items, kind=kind, window=window)], window, settings or Questions(), 1)


def reason(kind="open", settings=None, **changes):
    base = CHOICE if kind == "choice" else OPEN
    (row,) = check(base | changes, kind=kind, settings=settings)
    return row.reason


def test_good_questions_are_kept_with_the_passages_own_words_as_evidence():
    (row,) = check(OPEN | {"evidence": "conduction of   EVERY P wave to the ventricles."})
    assert (row.status, row.reason) == ("kept", "")
    assert row.evidence == "conduction of every\nP wave to the ventricles."
    assert row.evidence in PASSAGE.text
    assert (row.passage_id, row.doc_id) == (PASSAGE.passage_id, PASSAGE.doc_id)
    assert (row.set, row.generator, row.language, row.split) == ("written", "w@1", "en", "none")


def test_the_id_of_a_question_does_not_depend_on_the_other_questions():
    first = check(CHOICE, kind="choice")[0]
    rows = questions([draft(CHOICE, kind="choice"), draft(OPEN)], [PASSAGE], Questions(), 99)
    assert first.question_id in {row.question_id for row in rows}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"evidence": "Atropine is a reasonable first drug."}, "no_evidence"),
        ({"evidence": "is"}, "no_evidence"),
        ({"answer": "It is a PR interval longer than 220 ms."}, "not_grounded"),
        ({"answer": "Amiodarone prolongs ventricular repolarisation markedly."}, "not_grounded"),
        ({"question": "AV block?"}, "too_short"),
        ({"answer": ""}, "too_short"),
        ({"question": "How is AV block " + "really " * 130 + "defined?"}, "too_long"),
        ({"answer": "PR interval " * 100}, "too_long"),
        ({"question": "How did the authors define first-degree AV block?"}, "not_self_contained"),
        ({"question": "What does Figure 3 show about AV block?"}, "not_self_contained"),
        ({"question": "How is AV block defined in the text?"}, "not_self_contained"),
        ({"question": "Which block does this patient have?"}, "not_self_contained"),
        ({"question": "In this study, how was AV block defined?"}, "not_self_contained"),
        ({"answer": "A PR interval longer than 200 ms (see Table 2)."}, "not_self_contained"),
        ({"question": "When was the paper on AV block published?"}, "not_medical"),
        ({"question": "Wie ist der AV-Block ersten Grades definiert?"}, "wrong_language"),
    ],
)
def test_every_defect_of_an_open_question_has_its_reason(changes, expected):
    assert reason(**changes) == expected


@pytest.mark.parametrize(
    "question",
    [
        "A 60-year-old man has a PR interval of 240 ms. Which block does this patient have?",
        "Which paper speed makes a PR interval longer than 200 ms five small squares wide?",
        "How is first-degree AV block defined by the PR interval?",
        "In the case of first-degree AV block, how long is the PR interval?",
    ],
)
def test_questions_that_stand_alone_are_kept(question):
    assert reason(question=question) == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"distractors": ["Prominent U waves", "A long ST segment"]}, "option_count"),
        ({"distractors": ["U waves", "u  waves.", "Deep S waves"]}, "duplicate_options"),
        ({"distractors": ["U waves", "tall, peaked T waves", "Deep S"]}, "duplicate_options"),
        ({"distractors": ["U waves", "Deep S waves", "None of the above"]}, "all_of_the_above"),
        ({"distractors": ["U waves", "Deep S waves", "Both A and B"]}, "all_of_the_above"),
        ({"distractors": ["U waves", "Deep S waves", "All of these"]}, "all_of_the_above"),
        ({"distractors": ["U waves", "Deep S waves", ""]}, "too_short"),
        ({"distractors": ["< 5 mmol/L", "> 5 mmol/L", "Elevation in all of these leads"]}, ""),
        ({"distractors": ["Hepatitis A and B", "Deep S waves", "U waves"]}, ""),
    ],
)
def test_every_defect_of_options_has_its_reason(changes, expected):
    assert reason("choice", **changes) == expected


def test_an_answer_in_another_language_than_its_source_is_judged_by_evidence_and_numbers():
    german = passage("Beim AV-Block ersten Grades ist die PQ-Zeit auf über 200 ms verlängert.")
    item = {
        "question": "How is first-degree AV block recognised on the ECG?",
        "answer": "The conduction time is prolonged to more than 200 ms.",
        "evidence": "ist die PQ-Zeit auf über 200 ms verlängert",
    }
    settings = Questions(language="en")
    assert [r.reason for r in check(item, settings=settings, window=(german,))] == [""]
    item["answer"] = "The conduction time is prolonged to more than 210 ms."
    assert [r.reason for r in check(item, settings=settings, window=(german,))] == ["not_grounded"]


def test_numbers_count_as_the_same_with_a_decimal_comma():
    assert reason(
        question="Above which level does hyperkalaemia change the T wave?",
        answer="Above 6,5 mmol/L it causes tall T waves.",
        evidence=CHOICE["evidence"],
    ) == ""  # fmt: skip


def test_evidence_is_found_in_any_passage_of_the_window_and_named():
    other = passage("The QRS complex reflects ventricular depolarisation.", start=5000)
    item = {
        "question": "What does the QRS complex reflect?",
        "answer": "Ventricular depolarisation.",
        "evidence": "QRS complex reflects ventricular depolarisation",
    }
    (row,) = check(item, window=(PASSAGE, other))
    assert row.passage_id == other.passage_id


@pytest.mark.parametrize("status", ["error", "refused", "truncated"])
def test_a_draft_that_failed_is_one_row(status):
    rows = questions([draft(status=status, reason="the server said no")], [PASSAGE], Questions(), 1)
    assert [(r.status, r.reason, r.note) for r in rows] == [
        ("dropped", "unparsed", f"{status}: the server said no")
    ]
    assert rows[0].doc_id == PASSAGE.doc_id


def test_duplicates_stay_as_rows_and_name_their_twin():
    near = OPEN | {"question": "How is first-degree AV block really defined?"}
    rows = check(OPEN, OPEN, near)
    assert sorted(row.reason for row in rows) == ["", "duplicate", "duplicate"]
    kept = next(row for row in rows if row.status == "kept")
    assert all(kept.question_id in row.note for row in rows if row is not kept)
    assert len({row.question_id for row in rows}) == 3


def test_questions_that_differ_in_a_number_degree_or_side_are_not_duplicates():
    text = (
        "In right bundle branch block the last part of the QRS complex in lead V1 is positive. "
        "In left bundle branch block the last part of the QRS complex in lead V1 is negative. "
        "In right bundle branch block the last part of the QRS complex in lead V6 is negative."
    )
    sentences = text.split(". ")
    ask = "How does the last part of the QRS complex look in lead {} in {} bundle branch block?"
    items = [
        {"question": ask.format(lead, side), "answer": sign, "evidence": sentence}
        for lead, side, sign, sentence in zip(
            ("V1", "V1", "V6"), ("right", "left", "right"),
            ("It is positive.", "It is negative.", "It is negative."), sentences, strict=True,
        )
    ]  # fmt: skip
    assert [row.reason for row in check(*items, window=(passage(text),))] == ["", "", ""]


def many_choices(count):
    texts = [f"Drug number {i} is given at {i + 10} mg every {i + 2} hours." for i in range(count)]
    window = tuple(passage(text, start=i * 100) for i, text in enumerate(texts))
    items = [
        {
            "question": f"At which dose is drug number {i} given?",
            "answer": f"{i + 10} mg",
            "evidence": texts[i],
            "distractors": [f"{i + 200} mg", f"{i + 400} mg", f"{i + 700} mg"],
        }
        for i in range(count)
    ]
    return window, items


def test_letters_are_balanced_over_the_whole_set_and_the_key_moves_with_its_text():
    window, items = many_choices(41)
    rows = check(*items, kind="choice", window=window)
    assert all(row.status == "kept" for row in rows)
    assert sorted(letter_balance(rows).values()) == [10, 10, 10, 11]
    for row in rows:
        assert row.options["ABCD".index(row.answer)] == row.reference
        assert len(set(row.options)) == 4
    again = questions([draft(*items, kind="choice", window=window)], window, Questions(), 2)
    assert [row.answer for row in rows] != [row.answer for row in again]
    assert [row.question_id for row in rows] == [row.question_id for row in again]


def choice(number, options, answer):
    return Question(
        question_id=str(number), set="s", kind="choice", question="?", options=options,
        answer=answer,
    )  # fmt: skip


def test_the_length_of_the_key_is_told_in_standard_errors():
    giveaway = [choice(i, ("x", "y", "z", "a long right option"), "D") for i in range(48)]
    even = [choice(i, ("x", "y", "z", "a long option"), "ABCD"[i % 4]) for i in range(48)]
    assert longest_key_z(giveaway) == pytest.approx(12, abs=0.01)
    assert longest_key_z(even) == pytest.approx(0, abs=0.01)
    assert longest_key_z([choice(0, ("a", "b", "c", "d"), "A")]) == 0
    assert longest_key_z([]) == 0


def test_a_draft_of_unknown_passages_is_dropped_and_not_lost():
    rows = questions([draft(OPEN)], [], Questions(), 1)
    assert [row.reason for row in rows] == ["no_evidence"]
