import pytest

from ecg_llm.answer.extractive import ExtractiveAnswerer, sentences, shared
from ecg_llm.contracts import NO_ANSWER, Answerer, Task
from ecg_llm.embed import SentenceEmbedder
from ecg_llm.prompt import rotated
from ecg_llm.records import Question
from ecg_llm.testing import passage

PR = passage("## Intervals\n\nThe heart is a pump. The normal adult PR interval is 120 to 200 ms.")
BREAD = passage("Bread needs flour, water and yeast. It is baked for one hour.", doc_id="e" * 16)
MOBITZ = passage(
    "In Mobitz type I block the PR interval lengthens before a P wave is dropped.", doc_id="f" * 16
)
LONG = passage(
    "The PR interval changes in Mobitz type I block but not in type II.", doc_id="a" * 16
)
OPTIONS = ("80 to 100 ms", "300 to 400 ms", "120 to 200 ms", "500 to 600 ms")


@pytest.fixture(scope="module")
def answerer():
    return ExtractiveAnswerer(SentenceEmbedder(), 2)


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
    assert answerer.answer("arm", []) == []


def test_open_answer_quotes_the_passage_under_its_key(answerer):
    (answer,) = answerer.answer("arm", [open_task("How long is the PR interval?", BREAD, PR)])
    assert answer.text == "The normal adult PR interval is 120 to 200 ms. [2]"
    assert (answer.status, answer.arm, answer.model) == ("ok", "arm", answerer.name)


def test_sentences_are_quoted_in_reading_order_and_at_most_as_many_as_set(answerer):
    question = "How does the PR interval change in Mobitz type I block?"
    (two,) = answerer.answer("arm", [open_task(question, LONG, MOBITZ, MOBITZ)])
    assert two.text.index("[1]") < two.text.index("[2]")
    assert "[3]" not in two.text, "a text that two passages hold is quoted once"
    one = ExtractiveAnswerer(answerer.embedder, 1)
    assert one.answer("arm", [open_task(question, LONG, MOBITZ)])[0].text == f"{LONG.text} [1]"


@pytest.mark.parametrize("passages", [(), (PR, MOBITZ), (BREAD,)])
def test_it_abstains_where_nothing_is_close(answerer, passages):
    (answer,) = answerer.answer("arm", [open_task("Who won the world cup in 1998?", *passages)])
    assert (answer.text, answer.status) == (NO_ANSWER, "ok")


@pytest.mark.parametrize(("permutation", "letter"), [(0, "C"), (1, "B"), (2, "A"), (3, "D")])
def test_the_supported_option_is_named_by_the_letter_shown(answerer, permutation, letter):
    (answer,) = answerer.answer("arm", [choice_task(permutation, BREAD, PR)])
    assert answer.text == f"The correct answer is {letter}."
    assert answer.permutation == permutation


def test_a_choice_is_made_without_passages_too(answerer):
    (answer,) = answerer.answer("arm", [choice_task(0)])
    assert answer.text in {f"The correct answer is {letter}." for letter in "ABCD"}


def test_answers_stand_in_the_order_of_the_tasks(answerer):
    tasks = [choice_task(1, PR), open_task("How long is the PR interval?", PR), choice_task(0, PR)]
    made = answerer.answer("arm", tasks)
    assert [row.question_id for row in made] == ["c1", "q", "c0"]


def test_a_sentence_that_opens_a_list_holds_it():
    text = (
        "The criteria of sinus rhythm are:\n\n- upright P waves in lead II;\n- one P wave before "
        "every QRS complex.\nSinus bradycardia is slower than that. It is often benign."
    )
    assert sentences(text) == [
        "The criteria of sinus rhythm are: upright P waves in lead II; one P wave before every "
        "QRS complex.",
        "Sinus bradycardia is slower than that.",
        "It is often benign.",
    ]


def test_abbreviations_and_decimals_end_no_sentence_and_headings_are_none():
    text = (
        "# A heading of several words. Really\n\nAs Fig. 3 shows, e.g. The wave of Smith et al. "
        "lasts 0.12 s in adults.\nIt can be\nlonger than that.\n\n| a | table | row | here |"
    )
    assert sentences(text) == [
        "As Fig. 3 shows, e.g. The wave of Smith et al. lasts 0.12 s in adults.",
        "It can be longer than that.",
    ]
    assert sentences("") == []


def test_shared_words_ignore_function_words_and_endings():
    assert shared("What is the PR interval?", "PR intervals vary") == 1
    assert shared("the PR interval", "the QT interval") == 0.5
    assert shared("120 ms", "1200 ms") == 0.5
    assert shared("is it the", "anything") == 0
