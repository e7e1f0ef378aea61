import re
from collections import Counter
from typing import Any

import pytest
import tiny_study as here
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_llm.config import Mixture
from ecg_llm.contracts import NO_ANSWER, Task
from ecg_llm.prompt import question_messages, target_reply
from ecg_llm.records import Passage, Question, Span, Variant
from ecg_llm.score.choice import parse
from ecg_llm.testing import passage
from ecg_llm.train import template
from ecg_llm.train.examples import COUNTS, Made, examples, joined_question, plain

FINDINGS = ["atrial flutter", "bundle block", "pericarditis", "hypothermia", "bigeminy", "pacing"]


def document(doc: str) -> list[Passage]:
    made, start = [], 0
    for i, finding in enumerate(FINDINGS):
        text = f"In chapter {doc} the finding {finding} lasts {ord(doc) * 10 + i} ms at rest."
        made.append(passage(text, doc_id=doc * 16, start=start, section=finding))
        start += len(text) + 1
    return made


DOCUMENTS = {doc: document(doc) for doc in "abc"}
PASSAGES = {row.passage_id: row for rows in DOCUMENTS.values() for row in rows}


def open_question(place: Passage, **changes: Any) -> Question:
    finding = place.section
    row = Question(
        question_id=f"o-{place.doc_id[0]}-{finding}", set="written", kind="open", split="train",
        question=f"How long does {finding} of {place.doc_id[0]} last?", reference=place.text,
        evidence=place.text, passage_id=place.passage_id, doc_id=place.doc_id,
    )  # fmt: skip
    return row.model_copy(update=changes)


OPEN = [open_question(place) for place in PASSAGES.values()]
CHOICES = [
    here.choice(i).model_copy(
        update={"passage_id": place.passage_id, "doc_id": place.doc_id, "evidence": place.text}
    )
    for i, place in enumerate(PASSAGES.values())
]
VARIANTS = [
    Variant(
        question_id=row.question_id, number=n, question=f"{n}: {row.question}",
        reference=f"Briefly {n}.", status="kept" if n < 3 else "dropped",
    )
    for row in OPEN
    for n in (1, 2, 3)
]  # fmt: skip


def prompt_of(item: template.Example) -> str:
    return item["prompt"][0]["content"]


def reply_of(item: template.Example) -> str:
    return item["completion"][0]["content"]


def shown(item: template.Example) -> dict[int, Passage]:
    """Return key -> passage of those that a prompt shows."""
    found = {}
    for key, section, text in re.findall(r"^\[(\d+)\]\n> (.+)\n> (.+)$", prompt_of(item), re.M):
        (found[int(key)],) = [
            p for p in PASSAGES.values() if (p.section, p.text) == (section, text)
        ]
    return found


def asked(item: template.Example) -> str:
    return prompt_of(item).rpartition("Question: ")[2].split("\n")[0]


def make(questions: Any = (*OPEN, *CHOICES), variants: Any = (), seed: int = 1, **mix: Any) -> Made:
    return examples(questions, PASSAGES, variants, Mixture(**{"distractors": 3, **mix}), seed)


def check_sums(made: Made, given_rows: int) -> None:
    counts = made.counts
    assert tuple(counts) == COUNTS
    parts = ("open", "choice", "variants", "joined")
    assert sum(counts[name] for name in parts) == len(made.items)
    rows = ("open", "choice", "left_out", "without_answer")
    assert sum(counts[name] for name in rows) == given_rows
    with_passages = [item for item in made.items if shown(item)]
    assert counts["with_passages"] == len(with_passages)
    silent = [item for item in made.items if reply_of(item) == NO_ANSWER]
    assert counts["abstaining"] == len(silent)
    assert all(map(shown, silent))


def test_by_default_every_question_is_one_example_as_arms_ask_it() -> None:
    made = make()
    rows = sorted([*OPEN, *CHOICES], key=lambda row: row.key)
    assert made.items == [template.example(row) for row in rows]
    for row, item in zip(rows, made.items, strict=True):
        assert item["prompt"] == question_messages(Task(row, row.options))
    check_sums(made, 36)
    assert made.counts["left_out"] == made.counts["without_answer"] == 0


def test_questions_without_an_answer_are_counted_and_make_no_example() -> None:
    rows = [
        open_question(DOCUMENTS["a"][0], reference=" "),
        CHOICES[0].model_copy(update={"answer": ""}),
        CHOICES[1].model_copy(update={"answer": "E"}),
        CHOICES[2].model_copy(update={"options": ()}),
        OPEN[3],
    ]
    for made in (make(rows, passages=1, joined=1), plain(rows, Mixture())):
        assert (made.counts["without_answer"], made.counts["open"], len(made.items)) == (4, 1, 1)


def test_nothing_makes_nothing() -> None:
    made = make((), passages=1, joined=2, choice=0.5)
    assert made == Made([], dict.fromkeys(COUNTS, 0))


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.8, 1])
@pytest.mark.parametrize("variants", [(), VARIANTS])
def test_the_kind_that_is_too_many_gives_way(share: float, variants: Any) -> None:
    made = make(variants=variants, choice=share, joined=0.5)
    check_sums(made, 36)
    assert made.counts["choice"] / len(made.items) == pytest.approx(share, abs=0.08)
    assert made.counts["choice"] == 18 or made.counts["open"] == 18
    assert make(variants=variants, choice=share, joined=0.5) == made


def test_a_share_that_cannot_be_had_for_want_of_one_kind_keeps_the_other() -> None:
    assert len(make(OPEN, choice=0.5).items) == 18
    assert len(make(CHOICES, choice=0.5).items) == 18
    assert len(make(OPEN, choice=1).items) == 0


@pytest.mark.parametrize(
    ("form", "reply"),
    [
        ("sentence", "The correct answer is B."),
        ("letter", "B"),
        ("option", "The correct answer is B) 101 ms."),
    ],
)
def test_the_reply_of_a_choice_question_takes_the_form_chosen(form: Any, reply: str) -> None:
    row = CHOICES[1].model_copy(update={"options": ("201 ms", "101 ms", "10 ms", "2 s")})
    for made in (
        make([row], choice_reply=form, passages=1),
        plain([row], Mixture(choice_reply=form)),
    ):
        assert [reply_of(item) for item in made.items] == [reply]


@pytest.mark.parametrize("options", [("A and C", "D", "None of the above."), ("T wave", "C5", "B")])
@pytest.mark.parametrize("form", ["sentence", "letter", "option"])
def test_scoring_reads_the_letter_of_every_form(options: Any, form: Any) -> None:
    for letter in "ABC":
        row = CHOICES[0].model_copy(update={"options": options, "answer": letter})
        assert parse(target_reply(row, form), options).letter == letter


def test_shown_passages_hold_the_right_one_which_the_open_reply_cites() -> None:
    made = make(passages=1, abstain=0, distractors=3)
    check_sums(made, 36)
    keys = Counter()
    for row, item in zip(sorted([*OPEN, *CHOICES], key=lambda r: r.key), made.items, strict=True):
        found = shown(item)
        assert len(found) == 4
        assert len({p.passage_id for p in found.values()}) == 4
        (key,) = [key for key, p in found.items() if p.passage_id == row.passage_id]
        keys[key] += 1
        others = [p.doc_id == row.doc_id for k, p in found.items() if k != key]
        assert sum(others) == 2
        if row.kind == "open":
            assert reply_of(item) == f"{row.reference} [{key}]"
            assert item["prompt"] == question_messages(
                Task(row, passages=tuple(found[k] for k in sorted(found)))
            )
        else:
            assert reply_of(item) == f"The correct answer is {row.answer}."
    assert len(keys) == 4


def test_where_the_right_passage_is_missing_the_open_reply_says_so() -> None:
    made = make(passages=1, abstain=0.5)
    check_sums(made, 36)
    assert made.counts["abstaining"] == 9
    for row, item in zip(sorted([*OPEN, *CHOICES], key=lambda r: r.key), made.items, strict=True):
        names = {p.passage_id for p in shown(item).values()}
        assert len(names) == 4, "the number of passages must not tell that one is missing"
        assert (row.passage_id in names) == (reply_of(item) != NO_ANSWER)


def test_the_share_with_passages_is_of_all_examples() -> None:
    made = make(variants=VARIANTS, passages=0.25, joined=0.5)
    check_sums(made, 36)
    assert made.counts["with_passages"] == round(0.25 * len(made.items))


def test_a_distractor_neither_overlaps_the_right_passage_nor_tells_its_evidence() -> None:
    right = passage("A PR interval longer than 200 ms is first-degree AV block.", doc_id="d")
    pool = [
        right,
        passage("AV block. The next sentence is another.", doc_id="d", start=48),
        passage(
            "As said: a PR  interval\nlonger than 200 ms is first-degree AV block.", doc_id="e"
        ),
        passage("The conduction of the node is slow, not absent.", doc_id="f"),
        passage("The QT interval is long.", doc_id="d", start=900),
        passage("Asystole shows no complexes.", doc_id="e", start=900),
    ]
    row = Question(
        question_id="q", set="written", kind="open", question="What is first-degree block?",
        reference="Slow conduction.", evidence=right.text, passage_id=right.passage_id,
        doc_id=right.doc_id, split="train",
    )  # fmt: skip
    by_id = {p.passage_id: p for p in pool}
    for seed in range(5):
        (item,) = examples(
            [row], by_id, [], Mixture(passages=1, abstain=0, distractors=3), seed
        ).items
        texts = [p.text for p in pool if p.text in prompt_of(item)]
        assert texts == [right.text, pool[4].text, pool[5].text]
        (item,) = examples(
            [row], by_id, [], Mixture(passages=1, abstain=1, distractors=3), seed
        ).items
        assert [p.text for p in pool if p.text in prompt_of(item)] == [p.text for p in pool[4:]]
        assert reply_of(item) == NO_ANSWER
    alone = examples(
        [row], {right.passage_id: right}, [], Mixture(passages=1, abstain=1, distractors=3), 1
    )
    assert [reply_of(item) for item in alone.items] == ["Slow conduction. [1]"]


def test_a_question_whose_passage_may_not_be_seen_is_asked_without() -> None:
    gone = open_question(DOCUMENTS["a"][0], passage_id="elsewhere")
    half = open_question(DOCUMENTS["a"][1], joined=(Span(passage_id="elsewhere", text="x"),))
    bare = open_question(DOCUMENTS["a"][2], passage_id="")
    made = make([gone, half, bare], passages=1)
    assert made.counts["with_passages"] == 0
    assert made.counts["open"] == 3


def test_both_passages_of_an_answer_that_joins_two_are_shown_and_cited() -> None:
    one, other = DOCUMENTS["a"][0], DOCUMENTS["a"][4]
    row = open_question(one, joined=(Span(passage_id=other.passage_id, text=other.text),))
    (item,) = make([row], passages=1, abstain=0).items
    keys = [k for k, p in sorted(shown(item).items()) if p in (one, other)]
    assert len(shown(item)) == 4
    assert reply_of(item) == f"{row.reference} [{keys[0]}] [{keys[1]}]"


def test_a_question_with_a_context_of_its_own_never_abstains() -> None:
    row = open_question(DOCUMENTS["a"][0], context="An abstract that tells it.")
    made = make([row], passages=1, abstain=1)
    assert (made.counts["with_passages"], made.counts["abstaining"]) == (1, 0)


def test_joined_questions_are_of_one_document_and_answered_in_order() -> None:
    made = make(joined=1)
    check_sums(made, 36)
    assert made.counts["joined"] == 18
    by_question = {row.question: row for row in OPEN}
    seen = Counter()
    for item in made.items[36:]:
        text = asked(item).replace("And how", "How")
        parts = [by_question[part] for part in re.findall(r"[^?]+\?", text.replace("? ", "?"))]
        assert len(parts) in (2, 3)
        assert len({row.doc_id for row in parts}) == 1
        assert reply_of(item) == " ".join(row.reference for row in parts)
        seen.update(row.question_id for row in parts)
    assert len(seen) >= 15
    assert len({asked(item) for item in made.items[36:]}) == 18


def test_every_part_of_a_joined_reply_cites_its_own_passage() -> None:
    made = make(OPEN, joined=1, passages=1, abstain=0)
    for item in made.items[18:]:
        keys = {p.text: key for key, p in shown(item).items()}
        assert len(keys) == 4
        told = re.findall(r"(.+?\.) \[(\d)\] ?", reply_of(item))
        assert len(told) in (2, 3)
        assert all(keys[text] == int(key) for text, key in told)


def test_joined_examples_stop_where_there_are_no_further_runs() -> None:
    few = [open_question(place) for place in DOCUMENTS["a"][:3]]
    assert make(few, joined=50).counts["joined"] == 3
    long = [row.model_copy(update={"reference": "word " * 70}) for row in few]
    assert make(long, joined=1).counts["joined"] == 0
    lone = [open_question(rows[0]) for rows in DOCUMENTS.values()]
    assert make(lone, joined=1).counts["joined"] == 0


def test_a_question_is_joined_again_only_after_the_others() -> None:
    for seed in range(5):
        made = make(OPEN, joined=0.25, seed=seed)
        parts = [part for item in made.items[18:] for part in reply_of(item).split("rest.")]
        told = [part for part in parts if part]
        assert len(told) == len(set(told)) >= 8


def test_what_needs_a_context_or_has_no_document_is_not_joined() -> None:
    rows = [
        OPEN[0].model_copy(update={"context": "An abstract."}),
        *(row.model_copy(update={"doc_id": ""}) for row in OPEN[2:4]),
        OPEN[1],
    ]
    assert make(rows, joined=3).counts["joined"] == 0


def test_joined_questions_show_passages_only_where_every_part_has_one() -> None:
    rows = [OPEN[0], OPEN[1].model_copy(update={"passage_id": ""})]
    made = make(rows, joined=0.5, passages=1, abstain=0)
    assert (made.counts["joined"], made.counts["with_passages"]) == (1, 1)
    assert not shown(made.items[2])


@pytest.mark.parametrize(
    ("texts", "language", "whole"),
    [
        (["What is A?", "How is B seen?"], "en", "What is A? And how is B seen?"),
        (["Name the leads", "ECG: what for?"], "en", "Name the leads. ECG: what for?"),
        (["What is A?", "Is B?", "In LBBB, what?"], "en", "What is A? Is B? And in LBBB, what?"),
        (["Was ist A?", "Wie sieht B aus?"], "de", "Was ist A? Und wie sieht B aus?"),
        (["Why?", "AS: how is it graded?"], "en", "Why? AS: how is it graded?"),
    ],
)
def test_joined_questions_read_naturally(texts: list[str], language: str, whole: str) -> None:
    rows = [OPEN[0].model_copy(update={"question": t, "language": language}) for t in texts]
    assert joined_question(rows) == whole


def test_kept_variants_are_examples_of_their_own() -> None:
    made = make(variants=VARIANTS)
    check_sums(made, 36)
    assert made.counts["variants"] == 36
    pairs = {(asked(item), reply_of(item)) for item in made.items}
    for variant in VARIANTS:
        assert ((variant.question, variant.reference) in pairs) == (variant.status == "kept")
    assert examples(OPEN, PASSAGES, VARIANTS, Mixture(variants=False), 1) == make(OPEN)


def test_the_order_of_rows_is_no_matter_and_the_seed_is() -> None:
    mix = {"passages": 0.5, "joined": 0.5, "choice": 0.4}
    made = make(variants=VARIANTS, **mix)
    turned = make([*CHOICES[::-1], *OPEN[::-1]], VARIANTS[::-1], **mix)
    assert turned == made
    assert make(variants=VARIANTS, seed=2, **mix).items != made.items


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.sampled_from([*OPEN, *CHOICES]), unique_by=lambda row: row.question_id),
    variants=st.lists(st.sampled_from(VARIANTS), unique_by=lambda row: row.key),
    choice=st.none() | st.floats(0, 1),
    passages=st.floats(0, 1),
    distractors=st.integers(0, 30),
    abstain=st.floats(0, 1),
    joined=st.floats(0, 3),
    seed=st.integers(0, 5),
)
def test_the_counts_add_up_whatever_the_mixture(
    rows: Any, variants: Any, seed: int, **mix: Any
) -> None:
    made = examples(rows, PASSAGES, variants, Mixture(**mix), seed)
    check_sums(made, len(rows))
    assert made.counts["abstaining"] <= made.counts["with_passages"]
    assert all(reply_of(item).strip() for item in made.items)


def test_validation_takes_every_question_once_in_order() -> None:
    rows = [*CHOICES[:2], *OPEN[:2]]
    made = plain(rows, Mixture(passages=1, joined=1, choice=0))
    assert made.items == [template.example(row) for row in rows]
    assert (made.counts["open"], made.counts["choice"], sum(made.counts.values())) == (2, 2, 4)


def test_distractors_are_what_retrieval_finds_and_never_of_a_document_not_trained_on():
    by_id = dict(PASSAGES)
    row = OPEN[0]
    others = [key for key, shown in by_id.items() if shown.doc_id != by_id[row.passage_id].doc_id]
    foreign = passage("A passage of a tested document.", doc_id="t" * 16)

    class Finder:
        def __init__(self):
            self.queries = []

        def search(self, queries, k):
            self.queries += queries
            ids = [foreign.passage_id, row.passage_id, others[-1], others[1]]
            return [[(key, 1.0) for key in ids] for _ in queries]

    finder = Finder()
    mix = Mixture(passages=1, abstain=0, distractors=2)
    made = examples([row], by_id, [], mix, 1, finder)
    shown = made.items[0]["prompt"][0]["content"]
    assert finder.queries == [row.question]
    for key in (row.passage_id, others[-1], others[1]):
        assert by_id[key].text.splitlines()[0] in shown
    assert foreign.text not in shown
