import json
import random
from collections import Counter

import pytest
from support import CHAPTER, SHARED

from ecg_llm.config import Questions
from ecg_llm.questions.checking.keys import letter_balance, longest_key_z
from ecg_llm.questions.checking.verify import questions
from ecg_llm.questions.writing.extractive import ExtractiveWriter
from ecg_llm.questions.writing.options import Other, wrong_options
from ecg_llm.questions.writing.windows import windows
from ecg_llm.testing import check_writer, passage


def written(text, **changes):
    settings = Questions(per_window=30, **changes)
    passages = [
        passage(part, start=i * 10_000) for i, part in enumerate(text.split("\n\n")) if part
    ]
    drafts = list(ExtractiveWriter(settings, 1).write(windows(passages, settings, 1)))
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


def items(drafts):
    return [item for draft in drafts for item in json.loads(draft.reply)["questions"]]


def test_every_question_says_its_type_and_difficulty_and_has_no_plan():
    drafts, _, _ = written(CHAPTER)
    assert all(draft.plan == () for draft in drafts)
    told = {item["question"]: (item["type"], item["difficulty"]) for item in items(drafts)}
    assert told["How is first-degree AV block defined?"] == ("fact", "easy")
    assert told["How do LBBB and RBBB differ?"] == ("comparison", "hard")
    assert told["What is the rate of a ventricular escape rhythm?"] == ("threshold", "medium")
    assert told["When should isoproterenol be avoided?"] == ("management", "medium")
    assert told["Why is biventricular hypertrophy hard to recognize?"] == ("mechanism", "hard")


def test_the_quota_of_a_window_is_dealt_to_its_passages():
    kinds = ("AV block", "SA block", "bundle branch block", "fascicular block", "exit block")
    long = " ".join(
        f"A {kind} is a disorder in which conduction fails on its way." for kind in kinds
    )
    short = "A fusion beat is a hybrid complex that two impulses from two places make together."
    settings = Questions(per_window=2, window=10_000, kinds=("open",))
    parts = [passage(long), passage(short, start=10_000)]
    (draft,) = ExtractiveWriter(settings, 1).write(windows(parts, settings, 1))
    evidence = [item["evidence"] for item in items([draft])]
    assert len(evidence) == 2
    assert evidence.count(short) == 1


ARTERIES = """# Glossary

carotid artery : vessel of the neck that supplies blood to the front of the brain ^ \
iliac artery : branch of the trunk that brings blood to the legs and the feet ^ \
renal artery : branch of the trunk that brings blood to one of the kidneys ^ \
splenic artery : branch of the celiac trunk that ends at the hilum of the spleen ^ \
gastric artery : branch that runs along the small curve of the stomach ^ \
ophthalmic artery : vessel inside the orbit that nourishes the retina and the eyelids ^ \
basilar artery : midline vessel that lies on the ventral surface of the pons ^ \
brachial artery : main vessel of the upper arm, at which pressure is measured ^ \
vagus nerve : tenth cranial nerve; slows the heart and moves the bowel ^ \
optic nerve : second cranial nerve; carries signals from the retina ^"""


def test_wrong_options_are_of_the_right_ones_kind():
    part = passage(ARTERIES, section="Glossary")
    settings = Questions(per_window=30, kinds=("choice",))
    drafts = ExtractiveWriter(settings, 1).write(windows([part], settings, 1))
    found = items(drafts)
    assert found
    for item in found:
        assert "nerve" not in " ".join((item["answer"], *item["distractors"])).lower()
        assert len(set(item["distractors"])) == 3


def test_what_also_holds_for_another_term_is_no_choice_question_about_it():
    alike = ARTERIES.replace(
        "iliac artery : branch of the trunk that brings blood to the legs and the feet",
        "iliac artery : branch of the trunk that brings blood to each of the kidneys",
    )
    part = passage(alike, section="Glossary")
    settings = Questions(per_window=30, kinds=("choice",))
    kidneys = {"Iliac artery", "Renal artery"}
    found = items(ExtractiveWriter(settings, 1).write(windows([part], settings, 1)))
    assert any(item["answer"] in kidneys or item["answer"].endswith("kidneys") for item in found)
    for item in found:
        if item["answer"] in kidneys or item["answer"].endswith("kidneys"):
            assert not any(wrong.endswith("kidneys") for wrong in item["distractors"])
            assert not kidneys & set(item["distractors"])


def choices(text, **changes):
    part = passage(text, section="Glossary")
    settings = Questions(per_window=30, kinds=("choice",), **changes)
    return items(ExtractiveWriter(settings, 1).write(windows([part], settings, 1)))


def test_wrong_definitions_begin_with_the_class_of_the_right_one():
    mixed = """# Glossary

synaptic gap : small gap between two neurons into which a transmitter is released ^ \
alveolar gap : narrow gap at the wall of an alveolus through which a gas must pass ^ \
pleural gap : fluid gap around the lung in which the pressure stays negative ^ \
valvular gap : round gap at the mouth of the aorta that opens with every beat ^ \
thymus : primary lymphoid organ in which the lymphocytes of a child mature ^ \
spleen : organ of the belly that filters old erythrocytes from the blood ^ \
tongue : muscle of the mouth that moves food and carries the buds of taste ^"""
    found = choices(mixed)
    gaps = [item for item in found if "gap" in item["question"]]
    assert gaps
    for item in gaps:
        assert all(" gap " in wrong for wrong in item["distractors"]), item
    assert not any("thymus" in item["question"] for item in found)


def test_a_right_answer_does_not_repeat_a_word_of_the_question_alone():
    echo = ARTERIES.replace(
        "branch of the trunk that brings blood to one of the kidneys",
        "branch of the trunk that brings blood to the renal cortex",
    )
    for text in (ARTERIES, echo):
        found = choices(text)
        assert found
        assert not any("renal artery" in item["question"].lower() for item in found)
        assert not any(item["answer"] == "Renal artery" for item in found)


def test_two_names_of_one_thing_are_not_both_wrong_options():
    valves = """# Glossary

bicuspid valve : (also, mitral valve) valve at the left side that has two flaps of tissue ^ \
mitral valve : valve that lies before the left chamber and closes when it begins to work ^ \
aortic valve : valve that stands at the base of the largest vessel of the body ^ \
pulmonary valve : valve that stands at the base of the vessel to the lungs ^ \
tricuspid valve : valve at the right side that has three flaps held by cords ^ \
venous valve : valve of the leg that keeps blood from flowing back to the foot ^"""
    found = choices(valves)
    assert found
    for item in found:
        assert not {"Bicuspid valve", "Mitral valve"} <= set(item["distractors"])


def test_copies_of_a_glossary_share_its_terms_among_them():
    settings = Questions(per_window=2, window=10_000, kinds=("open",))
    parts = [
        passage(ARTERIES, section="Glossary").model_copy(
            update={"passage_id": f"p{n}", "doc_id": n}
        )
        for n in ("a", "b")
    ]
    found = items(ExtractiveWriter(settings, 1).write(windows(parts, settings, 1)))
    assert len(found) == 4
    assert len({item["question"] for item in found}) == 4


def test_an_answer_ends_where_the_sentence_goes_on_to_another_thing():
    text = (
        "Inspiration is the process that causes air to enter the lungs, and expiration is the "
        "process that causes air to leave the lungs."
    )
    drafts, _, _ = written(text, kinds=("open",))
    (item,) = items(drafts)
    assert item["answer"].endswith("enter the lungs.")
    assert item["evidence"] == text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Atropine blocks the receptors of the vagus nerve, which lets the heart beat faster.",
         "Atropine blocks the receptors of the vagus nerve."),
        ("The malleus is attached to the tympanic membrane and articulates with the incus.",
         "The malleus is attached to the tympanic membrane."),
        ("A monocyte is a circulating precursor cell that matures into a macrophage, which can "
         "be attracted to an infection.",
         "A monocyte is a circulating precursor cell that matures into a macrophage."),
        ("A plasma cell is a B cell that has met its own antigen, and has gained the ability to "
         "secrete antibodies.",
         "A plasma cell is a B cell that has met its own antigen, and has gained the ability to "
         "secrete antibodies."),
        ("A plasmid is a ring of genes, which lies in a cell of a bacterium outside its core.",
         "A plasmid is a ring of genes, which lies in a cell of a bacterium outside its core."),
    ],
)  # fmt: skip
def test_an_answer_leaves_out_what_was_not_asked_but_nothing_that_defines(text, answer):
    drafts, _, _ = written(text, kinds=("open",))
    (item,) = items(drafts)
    assert item["answer"] == answer
    assert item["evidence"] == text


def test_a_glossarys_definition_keeps_what_defines():
    text = """# Glossary

erythrocyte : mature cell that is composed mostly of hemoglobin and functions in the transport \
of oxygen ^ leukocyte : pale cell that protects the body of its owner from disease; its nucleus \
may have many lobes ^"""
    settings = Questions(per_window=30, kinds=("open",))
    part = passage(text, section="Glossary")
    found = items(ExtractiveWriter(settings, 1).write(windows([part], settings, 1)))
    assert {item["answer"] for item in found} == {
        "Mature cell that is composed mostly of hemoglobin and functions in the transport of "
        "oxygen.",
        "Pale cell that protects the body of its owner from disease.",
    }


def test_a_right_definition_is_not_cut_before_the_part_that_defines():
    cells = (
        "A plasma cell is a B cell that has met its antigen, and has gained the ability to secrete "
        "antibodies. A helper cell is a T cell that has met its antigen on another cell and makes "
        "signals. A mast cell is a granular cell that lies in the skin and releases histamine. "
        "A memory cell is an old cell that waits for the return of a known pathogen. "
        "A killer cell is a large cell that destroys the tumors that it meets in the blood."
    )
    drafts, _, _ = written(cells, kinds=("choice",))
    keys = {item["question"]: item["answer"] for item in items(drafts)}
    assert keys["What is a plasma cell?"].endswith("ability to secrete antibodies")


def test_wrong_options_are_mostly_of_the_field_of_the_right_one():
    near = {
        "Rod cell": Other(1, "slender cell that sees in dim light", related=True),
        "Cone cell": Other(1, "short cell that sees colors", related=True),
    }
    far = {
        "Cardiac cell": Other(3, "muscle cell of the heart", related=False),
        "Goblet cell": Other(3, "round cell that makes mucus", related=False),
    }

    def chosen(others):
        about = "ganglion cell whose axon forms the optic nerve"
        return wrong_options("forms a nerve", "Ganglion cell", others, about, random.Random(1))

    assert {"Rod cell", "Cone cell"} < set(chosen(near | far))
    assert chosen({"Rod cell": near["Rod cell"]} | far) == ()


def test_a_value_that_others_would_fulfil_too_is_not_asked_with_options():
    loose = (
        "More than 90 percent of plasma is water. About 45 percent of blood is cells. Tumor is 20 "
        "percent fat, bone is 35 percent water and muscle is 70 percent water in healthy adults."
    )
    drafts, _, _ = written(loose, kinds=("choice",))
    asked = [item["question"] for item in items(drafts)]
    assert "What percentage of blood is cells?" in asked
    assert not any("plasma" in question for question in asked)


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
    assert list(ExtractiveWriter(settings, 1, [*passages, hidden]).write(found)) == first


def test_with_a_corpus_a_window_is_written_the_same_alone_and_among_others():
    settings = Questions(per_window=30, window=60)
    passages = [passage(part, start=i * 10_000) for i, part in enumerate(CHAPTER.split("\n\n"))]
    found = windows(passages, settings, 1)
    together = list(ExtractiveWriter(settings, 1, passages).write(found))
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
    drafts = list(ExtractiveWriter(settings, 1).write(windows(parts, settings, 1)))
    rows = questions(drafts, parts, settings, 1)
    kept = [row for row in rows if row.status == "kept"]
    assert len(kept) > 400
    assert len(kept) > 0.9 * len(rows)
    letters = letter_balance(kept)
    assert max(letters.values()) - min(letters.values()) <= 1
    assert abs(longest_key_z(kept)) < 3
