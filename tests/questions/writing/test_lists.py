import time

import pytest

from ecg_llm.questions.writing.lists import facts_in_lists
from ecg_llm.questions.writing.usage import Usage


def found(text, section=""):
    facts = list(facts_in_lists(text, section, Usage([text])))
    assert all(fact.sentence.raw in text for fact in facts)
    return {fact.question: fact.sentence.text for fact in facts}


CRITERIA = """The criteria for left atrial abnormality are:

- a P wave duration of 120 ms or more
- a negative terminal part of the P wave in lead V1

These signs are of limited use."""


def test_a_list_with_a_lead_in_is_asked_for_as_a_whole():
    assert found(CRITERIA) == {
        "What are the criteria for left atrial abnormality?": (
            "a P wave duration of 120 ms or more; "
            "a negative terminal part of the P wave in lead V1."
        )
    }


def test_a_list_under_a_heading_is_asked_for_too():
    text = "## 3.1 Causes of AV block\n\n1. Lyme carditis\n2. hyperkalemia\n\nMore follows."
    assert found(text) == {"What are the causes of AV block?": "Lyme carditis; hyperkalemia."}


def test_a_list_that_the_passage_may_cut_gives_no_question():
    assert found(CRITERIA.partition("\n\nThese")[0]) == {}


@pytest.mark.parametrize(("count", "whole"), [("two", True), ("three", False)])
def test_a_list_must_have_as_many_items_as_its_lead_in_says(count, whole):
    text = f"There are {count} forms of shock:\n\n- hypovolemic shock\n- septic shock"
    assert bool(found(text)) == whole


def test_german_lists_give_german_questions():
    text = "Ursachen der Hyperkaliämie:\n\n- Niereninsuffizienz\n- Spironolacton\n\nUnd so fort."
    assert found(text) == {
        "Was sind die Ursachen der Hyperkaliämie?": "Niereninsuffizienz; Spironolacton."
    }


def test_items_that_describe_a_term_are_asked_for_one_by_one():
    text = (
        "- AV-Block ersten Grades: PQ-Zeit über 200 ms, jede P-Welle wird übergeleitet.\n"
        "- AV-Block dritten Grades: vollständige AV-Dissoziation mit einem Ersatzrhythmus."
    )
    assert list(found(text)) == [
        "Was ist kennzeichnend für „AV-Block ersten Grades“?",
        "Was ist kennzeichnend für „AV-Block dritten Grades“?",
    ]


def test_a_glossary_defines_its_terms_but_for_one_that_the_passage_cuts():
    text = (
        "gyrus : primary motor cortex in the frontal lobe of the brain ^ bolus : mass of food that "
        "is ready to be swallowed ^ \nedema : (also, dropsy) swelling due to fluid in the tissue ^"
    )
    assert found(text, "9.1 Glossary") == {
        "What is meant by the term “bolus”?": "Mass of food that is ready to be swallowed.",
        "What is meant by the term “edema”?": "Swelling due to fluid in the tissue.",
    }
    assert found(text, "9.1 Anatomy") == {}


def test_tables_are_asked_for_columns_that_have_a_meaning():
    text = (
        "| Messgröße | Normalbereich | Bedeutung |\n|---|---|---|\n"
        "| P-Dauer | < 120 ms | Vorhoferregung |\n\n"
        "| Cells of the blood | |\n|---|---|\n| Cell | Primary function |\n"
        "| NK cell | Destroys virally infected cells |"
    )
    assert found(text) == {
        "Messgröße P-Dauer: Welcher Normalbereich gilt?": "< 120 ms",
        "What is the function of the NK cell?": "Destroys virally infected cells",
    }


def test_tables_of_results_give_no_question():
    assert found("| Entry | Sensitivity | Score |\n|---|---|---|\n| Team 1 | 92.9% | 0.7 |") == {}


def test_long_and_strange_text_takes_no_time():
    hostile = (
        "The causes of " + "a " * 50_000 + ":\n\n- x\n" + "- y: z\n" * 5_000,
        "a : " + "b " * 50_000 + "^ " * 20_000,
        "|a" * 20_000 + "\n" + "|-" * 20_000 + "\n" + "|b" * 20_000,
        "There are two " + "types " * 20_000 + "of\n- a",
    )
    start = time.monotonic()
    for text in hostile:
        found(text, "Glossary")
        found(text)
    assert time.monotonic() - start < 5
