import json
from pathlib import Path

import pytest

from ecg_llm.answer.extractive import ExtractiveAnswerer
from ecg_llm.citing import Reply, checked
from ecg_llm.contracts import NO_ANSWER, Answerer, Task
from ecg_llm.embed import SentenceEmbedder
from ecg_llm.prompt import rotated
from ecg_llm.records import Passage, Question
from ecg_llm.testing import passage

OPEN = Path(__file__).with_name("open_questions.jsonl")
PR = passage("## Intervals\n\nThe heart is a pump. The normal adult PR interval is 120 to 200 ms.")
BREAD = passage("Bread needs flour, water and yeast. It is baked for one hour.", doc_id="e" * 16)
MOBITZ = passage(
    "In Mobitz type I block the PR interval lengthens before a P wave is dropped.", doc_id="f" * 16
)
LONG = passage("In Mobitz type I block the PR interval changes from beat to beat.", doc_id="a" * 16)
OPTIONS = ("80 to 100 ms", "300 to 400 ms", "120 to 200 ms", "500 to 600 ms")


@pytest.fixture(scope="module")
def answerer():
    return ExtractiveAnswerer(SentenceEmbedder(), 2)


def answers(answerer, *tasks):
    return [found.answer for found in answerer.answer("arm", tasks)]


def open_task(text, *passages):
    return Task(
        Question(question_id="q", set="s", kind="open", question=text), passages=tuple(passages)
    )


def choice_task(permutation, *passages):
    question = Question(
        question_id=f"c{permutation}",
        set="s",
        kind="choice",
        question="How long is the normal PR interval?",
        options=OPTIONS,
        answer="C",
    )
    return Task(question, rotated(OPTIONS, permutation), tuple(passages), permutation)


def test_it_is_an_answerer_whose_name_tells_the_embedder(answerer):
    assert isinstance(answerer, Answerer)
    assert answerer.name.startswith("extractive@")
    assert answerer.name.endswith(f"+{answerer.embedder.name}")
    assert answers(answerer) == []


def test_open_answer_quotes_the_passage_under_its_key(answerer):
    (answer,) = answers(answerer, open_task("How long is the PR interval?", BREAD, PR))
    assert answer.text == "The normal adult PR interval is 120 to 200 ms. [2]"
    assert (answer.status, answer.arm, answer.model) == ("ok", "arm", answerer.name)


def test_sentences_are_quoted_in_reading_order_and_at_most_as_many_as_set(answerer):
    question = "How does the PR interval change in Mobitz type I block?"
    (two,) = answers(answerer, open_task(question, LONG, MOBITZ, MOBITZ))
    assert two.text.index("[1]") < two.text.index("[2]")
    assert "[3]" not in two.text, "a text that two passages hold is quoted once"
    one = ExtractiveAnswerer(answerer.embedder, 1)
    assert answers(one, open_task(question, LONG, MOBITZ))[0].text == f"{MOBITZ.text} [2]"


@pytest.mark.parametrize("passages", [(), (PR, MOBITZ), (BREAD,)])
def test_it_abstains_where_nothing_is_close(answerer, passages):
    (answer,) = answers(answerer, open_task("Who won the world cup in 1998?", *passages))
    assert (answer.text, answer.status) == (NO_ANSWER, "ok")


@pytest.mark.parametrize(("permutation", "letter"), [(0, "C"), (1, "B"), (2, "A"), (3, "D")])
def test_the_supported_option_is_named_by_the_letter_shown(answerer, permutation, letter):
    (answer,) = answers(answerer, choice_task(permutation, BREAD, PR))
    assert answer.text == f"The correct answer is {letter}."
    assert answer.permutation == permutation


def test_a_choice_is_made_without_passages_too(answerer):
    (answer,) = answers(answerer, choice_task(0))
    assert answer.text in {f"The correct answer is {letter}." for letter in "ABCD"}


def test_answers_stand_in_the_order_of_the_tasks(answerer):
    tasks = [choice_task(1, PR), open_task("How long is the PR interval?", PR), choice_task(0, PR)]
    made = answers(answerer, *tasks)
    assert [row.question_id for row in made] == ["c1", "q", "c0"]


def test_a_further_sentence_is_quoted_only_if_it_is_about_as_close(answerer):
    text = "The normal PR interval is 120 to 200 ms. The PR interval is drawn on paper in Leiden."
    (answer,) = answers(answerer, open_task("How long is the normal PR interval?", passage(text)))
    assert answer.text == "The normal PR interval is 120 to 200 ms. [1]"


def test_sentences_that_announce_answer_nothing(answerer):
    text = "This chapter explains how long the normal PR interval is."
    question = "How long is the normal PR interval?"
    (answer,) = answers(answerer, open_task(question, passage(text)))
    assert answer.text == NO_ANSWER
    finding = passage("The study showed that the normal PR interval is 120 to 200 ms long.")
    (answer,) = answers(answerer, open_task(question, finding))
    assert answer.text == f"{finding.text} [1]"


def test_a_list_is_quoted_with_the_sentence_that_opens_it(answerer):
    text = (
        "The criteria of sinus rhythm are:\n\n- Upright P waves in lead II.\n- One P wave before "
        "every QRS complex."
    )
    (answer,) = answers(answerer, open_task("Which criteria has sinus rhythm?", passage(text)))
    assert answer.text == (
        "The criteria of sinus rhythm are: Upright P waves in lead II; One P wave before every QRS "
        "complex. [1]"
    )


def test_every_quote_is_borne_out_by_the_passage_that_it_cites(answerer):
    shown = (BREAD, PR, LONG, MOBITZ)
    question = "How does the PR interval change in Mobitz type I block?"
    (answer,) = answers(answerer, open_task(question, *shown))
    (found,) = checked([Reply(answer.text, question, shown)], answerer.embedder)
    assert found
    assert all(claim.supported for claim in found)


@pytest.mark.slow
def test_questions_that_the_literature_leaves_open_are_mostly_not_answered(study, rows, answerer):
    """The small study's own questions are answered, those of the field that it leaves open not."""
    shown = [row for row in rows(Passage) if row.kind == "body" and not row.hidden]
    vectors = answerer.embedder.embed([row.text for row in shown])

    def abstained(texts):
        near = answerer.embedder.embed(texts) @ vectors.T
        tasks = [
            open_task(text, *(shown[place] for place in line.argsort()[::-1][:5]))
            for text, line in zip(texts, near, strict=True)
        ]
        return sum(found.text == NO_ANSWER for found in answers(answerer, *tasks)) / len(tasks)

    held = {row.doc_id for row in shown}
    known = [
        row.question
        for row in rows(Question)
        if row.kind == "open" and row.set == "handbook" and row.doc_id in held
    ]
    left_open = [json.loads(line)["question"] for line in OPEN.read_text("utf-8").splitlines()]
    assert abstained(known) <= 0.25
    assert abstained(left_open) >= 0.75
