import json
import random
import time

import numpy as np
import pytest
from support import ROOT, SHARED

from ecg_llm.config import Questions
from ecg_llm.questions.checking.keys import letter_balance, longest_key_z
from ecg_llm.questions.checking.verify import questions, without_imports
from ecg_llm.questions.checking.wording import not_medical, not_self_contained
from ecg_llm.records import QUESTION_REASONS, Draft, Question, Span
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
        ("dropped", "no_reply", f"{status}: the server said no")
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


@pytest.mark.parametrize(
    "question",
    [
        "What does this study conclude about AV block?",
        "How did the authors treat atrial flutter?",
        "Which rhythm does the figure show?",
        "What does the ECG above show?",
        "What is the diagnosis of the patient described?",
        "Which of the above drugs prolongs the QT interval?",
        "According to the guideline, how is torsades treated?",
        "Based on the text, which drug is given?",
        "What does the following figure show about the PR interval?",
        "Which drug is mentioned in the text for torsades de pointes?",
        "Which of the aforementioned rhythms is regular?",
        "Which leads are listed in Table 4?",
        "What was found in the present study about the QT interval?",
        "Welche Ergebnisse zeigt diese Studie zum AV-Block?",
        "Was zeigt die Abbildung 3 zum AV-Block?",
        "Welche Diagnose hat dieser Patient?",
        "Welches Medikament nennen die Autoren beim Vorhofflimmern?",
        "Welche der oben genannten Rhythmen ist regelmäßig?",
        "Laut Text: Wie lang ist die PQ-Zeit?",
    ],
)
def test_questions_that_point_at_what_the_reader_does_not_see_are_found(question):
    assert not_self_contained(question)


@pytest.mark.parametrize(
    "question",
    [
        "A 43-year-old man with an ankle index of 1.1 has chest pain. What ails this patient?",
        "A study of 200 runners compares two drugs. Which bias threatens this study?",
        "Which drug eases the passage of a catheter through the tricuspid valve?",
        "How should the patient be positioned for a 12-lead ECG?",
        "Which of the following ions depolarizes the SA node?",
        "What is the table tilt test used for?",
        "The results are in the table below: drug 10, placebo 20. What is the risk ratio?",
        "Wie wird der Patient bei der Aufnahme eines EKG gelagert?",
        "Ein 60-jähriger Mann hat eine PQ-Zeit von 240 ms. Welchen Block hat dieser Patient?",
    ],
)
def test_questions_that_bring_what_they_speak_of_stand_alone(question):
    assert not_self_contained(question) == ""


@pytest.mark.parametrize(
    "question",
    [
        "How many patients were included in the trial of amiodarone?",
        "What was the mean age of the patients with atrial fibrillation?",
        "What was the p-value for the difference in QRS duration?",
        "What were the inclusion criteria for the cohort?",
        "Which statistical test compared the QT intervals?",
        "Which software was used to measure the QT interval?",
        "What is MATLAB?",
        "What does the PhysioNet database contain?",
        "Which team won the 2017 PhysioNet challenge?",
        "What is the purpose of the Computing in Cardiology Challenge 2017?",
        "How many hidden layers does the convolutional neural network have?",
        "What is AdaBoost?",
        "Which F1 score did the classifier reach on the test set?",
        "Who funded the registry of Brugada syndrome?",
        "In which year was the handbook of electrocardiography printed?",
        "Which journal printed the criteria of Brugada?",
        "What is the aim of this chapter on AV block?",
        "Wie viele Patienten wurden eingeschlossen?",
        "Welche Software wurde zur Messung der QT-Zeit verwendet?",
        "Welche statistischen Verfahren wurden genutzt?",
        "In welchem Jahr erschien die Leitlinie zum Vorhofflimmern?",
    ],
)
def test_questions_about_a_study_software_or_a_journal_are_not_medical(question):
    assert not_medical(question)


@pytest.mark.parametrize(
    "question",
    [
        "How many people are affected by long QT syndrome?",
        "How many patients with atrial fibrillation have a stroke each year?",
        "What is the sensitivity of the ECG for left ventricular hypertrophy?",
        "What does a fluid challenge show in cardiac tamponade?",
        "What is the ajmaline challenge for?",
        "Which hazard ratio links a long QRS complex with death?",
        "At which age does Brugada syndrome show?",
        "What is the network of Purkinje fibres?",
    ],
)
def test_medical_questions_with_numbers_or_trials_are_medical(question):
    assert not_medical(question) == ""


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_few_of_thousands_of_medical_questions_are_called_something_else():
    rows = [
        json.loads(line)
        for name in ("all_mcq.jsonl", "open_qa_ecg.jsonl")
        for line in (SHARED / "questions" / name).read_text("utf-8").splitlines()
    ]
    assert sum(bool(not_medical(row["question"])) for row in rows) / len(rows) < 0.005
    # Two thirds of those found do point at a picture or a table that is not there.
    assert sum(bool(not_self_contained(row["question"])) for row in rows) / len(rows) < 0.01


FLUTTER = passage(
    "Atrial flutter arises from a circuit around the tricuspid valve. Typical flutter waves are "
    "seen in the inferior leads at 300 per minute.", start=4000,
)  # fmt: skip
BETA = passage(
    "Verapamil slows conduction through the AV node and must not be given in pre-excitation.",
    start=9000,
)
JOINED = {
    "question": "Why does verapamil slow the ventricles in atrial flutter?",
    "answer": "Flutter waves come at 300 per minute, and verapamil slows conduction through the AV "
    "node.",
    "evidence": [
        "Typical flutter waves are seen in the inferior leads at 300 per minute",
        "verapamil slows conduction through the AV node",
    ],
    "type": "Mechanism",
    "difficulty": "hard",
}


def test_a_question_that_joins_passages_keeps_a_span_of_each():
    (row,) = check(JOINED, window=(FLUTTER, BETA))
    assert (row.status, row.reason) == ("kept", "")
    assert (row.passage_id, row.evidence) == (FLUTTER.passage_id, JOINED["evidence"][0])
    verapamil = "Verapamil slows conduction through the AV node"
    assert row.joined == (Span(passage_id=BETA.passage_id, text=verapamil),)


def test_every_span_of_a_joined_question_must_stand_in_a_passage():
    invented = [JOINED["evidence"][0], "verapamil blocks the sodium channel of the AV node"]
    for evidence, note in ((invented, invented[1]), ([], ""), ([""], "(empty)")):
        (row,) = check(JOINED | {"evidence": evidence}, window=(FLUTTER, BETA))
        assert (row.reason, row.note) == ("no_evidence", note)


def test_a_joined_answer_is_grounded_in_all_its_passages_together():
    assert [row.reason for row in check(JOINED, window=(FLUTTER,))] == ["no_evidence"]
    wrong = JOINED | {"answer": JOINED["answer"].replace("300", "350")}
    assert [row.reason for row in check(wrong, window=(FLUTTER, BETA))] == ["not_grounded"]


def test_type_and_difficulty_are_the_writers_own_or_none():
    (row,) = check(JOINED, window=(FLUTTER, BETA))
    assert (row.type, row.difficulty) == ("mechanism", "hard")
    planned = draft(OPEN | {"type": "riddle"}, plan=("threshold/easy",))
    (row,) = questions([planned], [PASSAGE], Questions(), 1)
    assert (row.type, row.difficulty) == ("", "")


class Topics:
    """An embedder that knows of a text only which of these words it holds."""

    name = "topics"

    def __init__(self, *words):
        self.words = words

    def embed(self, texts):
        made = [[1e-3, *(word in text.lower() for word in self.words)] for text in texts]
        rows = np.array(made, np.float32).reshape(len(texts), 1 + len(self.words))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]


def test_an_answer_far_from_all_that_the_writer_saw_is_not_grounded():
    off = Questions.model_validate({"checks": {"similarity": 0}})
    item = OPEN | {"question": "How long is the PR interval where hyperkalaemia is absent?"}

    def outcome(embedder, settings):
        (row,) = questions([draft(item)], [PASSAGE], settings, 1, embedder)
        return row.reason, row.note

    # Not the evidence, but another sentence of the passage speaks of it.
    assert outcome(Topics("hyperkalaemia"), Questions()) == ("", "")
    nowhere = Topics("absent")
    assert outcome(nowhere, Questions()) == ("not_grounded", "cosine to the text 0.00")
    assert outcome(nowhere, off) == outcome(None, Questions()) == ("", "")


def test_an_answer_in_another_language_than_its_source_is_not_judged_by_vectors():
    german = passage("Beim AV-Block ersten Grades ist die PQ-Zeit auf über 200 ms verlängert.")
    item = {
        "question": "How is first-degree AV block recognised on the ECG?",
        "answer": "The conduction time is prolonged to more than 200 ms.",
        "evidence": "ist die PQ-Zeit auf über 200 ms verlängert",
    }
    given = draft(item, window=(german,))
    embedder = Topics("conduction", "pq-zeit")
    rows = questions([given], [german], Questions(language="en"), 1, embedder)
    assert [row.reason for row in rows] == [""]


def test_rewordings_are_duplicates_across_documents_when_vectors_say_so():
    first = passage("Torsades de pointes is treated with magnesium sulfate.", doc_id="a" * 16)
    second = passage("Magnesium sulfate is the therapy of torsades de pointes.", doc_id="b" * 16)
    drafts = [
        draft(
            {"question": ask, "answer": "With magnesium sulfate.", "evidence": of.text},
            window=(of,),
            draft_id=of.doc_id,
        )
        for of, ask in (
            (first, "How is torsades de pointes treated?"),
            (second, "What may be the therapy of torsades de pointes?"),
        )
    ]
    passages = [first, second]
    plain = questions(drafts, passages, Questions(), 1)
    assert [row.reason for row in plain] == ["", ""]
    embedder = Topics("torsades", "magnesium")
    rows = questions(drafts, passages, Questions(), 1, embedder)
    assert [row.reason for row in rows] == ["", "duplicate"]
    assert rows[1].note == f"same as {rows[0].question_id}"


def test_a_written_question_that_repeats_an_imported_one_goes_and_the_imported_one_stays():
    written = check(OPEN) + check(CHOICE, kind="choice")
    kept = Question(
        question_id="exam", set="exam", kind="open", question=CHOICE["question"].upper(),
        reference=CHOICE["answer"],
    )  # fmt: skip
    gone = kept.model_copy(update={"question": OPEN["question"], "status": "dropped"})
    rows = without_imports(written, [kept, gone])
    assert [(row.kind, row.reason, row.note) for row in rows] == [
        ("open", "", ""),
        ("choice", "repeats_import", "same as exam"),
    ]
    assert "repeats_import" in QUESTION_REASONS
    assert without_imports(written, []) == written


def test_two_thousand_questions_are_checked_in_seconds():
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("bcdfglmnprst"), 7)) for _ in range(3000)]
    passages, drafts = [], []
    for i in range(250):
        told = [" ".join(rng.choice(words, 12)) for _ in range(8)]
        of = passage(". ".join(told), start=2000 * i)
        passages.append(of)
        items = [
            {"question": f"What is {text[:60]}?", "answer": text, "evidence": text} for text in told
        ]
        drafts.append(draft(*items, window=(of,), draft_id=str(i)))
    started = time.perf_counter()
    rows = questions(drafts, passages, Questions(), 1)
    assert time.perf_counter() - started < 6  # 1 s on two idle cores
    assert {row.status for row in rows} == {"kept"}
    assert len(rows) == 2000


@pytest.mark.slow
def test_the_default_similarity_passes_the_experts_answers_and_fails_most_other_chapters():
    from ecg_llm.config import Checks
    from ecg_llm.embed import SentenceEmbedder
    from ecg_llm.questions.checking.grounding import distant

    folder = ROOT / "handbook"
    sections = {
        file.stem: [
            passage(text, doc_id=file.stem) for text in file.read_text("utf-8").split("\n= ")[1:]
        ]
        for file in sorted(folder.glob("[0-9]*.typ"))
    }
    lines = (ROOT / "src/ecg_llm/demo/questions.jsonl").read_text("utf-8").splitlines()
    rng = random.Random(1)
    rows, own, other = [], {}, {}
    for item in map(json.loads, lines):
        chapter = item["document"].removesuffix(".pdf")
        choice = item["kind"] == "choice"
        right = item["options"]["ABCD".index(item["answer"])] if choice else item["reference"]
        rows.append(
            Question(
                question_id=item["id"], set="hb", kind="open", question=item["question"],
                reference=right,
            )
        )  # fmt: skip
        own[item["id"]] = sections[chapter]
        others = [part for name, parts in sections.items() if name != chapter for part in parts]
        other[item["id"]] = [rng.choice(others)]
    embedder, similarity = SentenceEmbedder(), Checks().similarity
    assert len(rows) == 81
    assert len(distant(rows, own, embedder, similarity)) <= 1
    assert len(distant(rows, other, embedder, similarity)) >= 50


def test_a_key_tied_for_longest_in_every_question_is_far_from_chance():
    """16 questions whose key is always one of the two longest options: z is 4, not 2.3."""
    rows = [
        Question(
            question_id=str(i), set="s", kind="choice", question="?",
            options=("120 ms", "200 ms", "1 s", "2 s"), answer="AB"[i % 2],
        )
        for i in range(16)
    ]  # fmt: skip
    assert longest_key_z(rows) == pytest.approx(4.0)
    equal = [row.model_copy(update={"options": ("1 s", "2 s", "3 s", "4 s")}) for row in rows]
    assert longest_key_z(equal) == 0


def test_what_was_not_asked_for_is_surplus_and_signs_that_nobody_sees_go():
    item = {
        "answer": "A PR interval above 200 ms.", "evidence": "longer than 200 ms is a first-degree",
    }  # fmt: skip
    source = passage("A PR interval longer than 200 ms is a first-degree AV block.")
    asked = ["What is first-degree\x1b[31m AV block\u202e?", "How is first-degree AV block told?"]
    draft = Draft(
        draft_id="d", passage_ids=(source.passage_id,), kind="open", plan=("fact/easy",),
        reply=json.dumps({"questions": [item | {"question": text} for text in asked]}),
    )  # fmt: skip
    first, second = questions([draft], [source], Questions(), 1)
    assert first.question == "What is first-degree[31m AV block?"
    assert (second.reason, second.note) == ("surplus", "1 were asked for, 2 came")
