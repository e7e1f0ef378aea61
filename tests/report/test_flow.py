"""The flow chart's counts add up, whatever the tables hold."""

import re
import warnings
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ecg_llm.records import (
    DOCUMENT_REASONS,
    QUESTION_REASONS,
    Answer,
    Document,
    Draft,
    Passage,
    Question,
    Score,
)
from ecg_llm.report import exports, flow, report

KINDS = ("body", "table", "caption")
documents = st.builds(
    Document, path=st.text("ab", max_size=3), doc_id=st.just("d"),
    status=st.sampled_from(["ok", "partial", "unreadable", "duplicate", "excluded"]),
    reason=st.sampled_from([*DOCUMENT_REASONS, "unheard of"]),
)  # fmt: skip
passages = st.builds(
    Passage, passage_id=st.just("p"), doc_id=st.just("d"), start=st.just(0), end=st.just(1),
    page_from=st.just(1), page_to=st.just(1), text=st.just("x"), tokens=st.just(1),
    kind=st.sampled_from(["body", "table", "references", "authors"]), hidden=st.booleans(),
)  # fmt: skip
drafts = st.builds(
    Draft, draft_id=st.just("x"), passage_ids=st.just(()), kind=st.just("open"),
    status=st.sampled_from(["ok", "refused", "truncated", "error"]),
)  # fmt: skip
questions = st.builds(
    Question, question_id=st.text("ab", max_size=2), kind=st.sampled_from(["open", "choice"]),
    set=st.sampled_from(["written", "board", "a $x$ & <b>"]), question=st.just("?"),
    split=st.sampled_from(["train", "val", "test", "test_seen", "none"]),
    status=st.sampled_from(["kept", "dropped"]), reason=st.sampled_from([*QUESTION_REASONS]),
)  # fmt: skip
answers = st.builds(
    Answer, question_id=st.sampled_from("pqr"), arm=st.sampled_from("AB"),
    repeat=st.integers(0, 1), permutation=st.integers(0, 2),
    status=st.sampled_from(["ok", "refused", "truncated", "error"]),
)  # fmt: skip
scores = st.builds(
    Score, question_id=st.just("q"), arm=st.just("A"),
    metric=st.sampled_from(["accuracy", "human"]),
    status=st.sampled_from(["scored", "unparsed", "error", "unjudged", "not_applicable"]),
)  # fmt: skip


def rows(strategy):
    return st.lists(strategy, max_size=12)


def distinct(strategy):
    return st.lists(strategy, max_size=24, unique_by=lambda row: row.key)


@given(
    st.tuples(rows(documents), rows(passages), rows(drafts), rows(questions), distinct(answers),
              rows(scores))
)  # fmt: skip
def test_in_every_step_what_came_in_is_what_went_on_and_what_was_lost(tables):
    made = flow.steps(*tables, KINDS)
    for step in made:
        assert step.total == step.left + sum(part.rows for part in step.lost)
        assert all(part.rows > 0 for part in (*step.parts, *step.lost, *step.left_parts))
        assert not step.parts or sum(part.rows for part in step.parts) == step.total
        product = re.fullmatch(r"(\d+) arms? × (?:\((.*)\)|(.*))", step.how)
        if product:
            terms = (product[2] or product[3]).split(" + ")
            often = [re.fullmatch(r"(\d+) questions?(?: (\d+) times)?", term) for term in terms]
            asked = sum(int(n[1]) * int(n[2] or 1) for n in often)
            assert int(product[1]) * asked == step.total
    kept = [row for row in tables[3] if row.status == "kept"]
    totals = {step.made: step.total for step in made}
    wanted = {
        "files found": len(tables[0]), "passages": len(tables[1]),
        "drafts of questions": len(tables[2]), "questions": len(tables[3]), "": len(kept),
        "answers asked for": len(tables[4]), "scores": len(tables[5]),
    }  # fmt: skip
    assert totals == {name: total for name, total in wanted.items() if total}
    left = {step.kept: step.left for step in made}
    assert left.get("files read", 0) == sum(d.status in ("ok", "partial") for d in tables[0])
    assert left.get("tested", 0) == sum(q.split.startswith("test") for q in kept)
    assert left.get("scores with a value", 0) == sum(s.status == "scored" for s in tables[5])


def test_the_chart_says_the_counts_of_the_tables(study, tables):
    made = flow.steps(*(tables[name] for name in (
        "documents", "passages", "drafts", "questions", "answers", "scores")), KINDS)  # fmt: skip
    drawn = exports.standalone(exports.Drawing("", "", "", "flow", flow.chart(made)), {})
    texts = [node.text for node in etree.fromstring(drawn.encode()).iter("{*}text")]
    failed = Counter(row.status for row in tables["answers"])["error"]
    for words in (
        "14 files found", "3 not read", "11 files read", "140 passages", "112 questions",
        "22 dropped", "90 questions kept", "90 tested", "540 answers asked for",
        "= 6 arms × 90 questions", f"{failed} no answer", f"{540 - failed} answers given",
    ):  # fmt: skip
        assert words in texts, words


def test_every_reason_is_in_the_data_even_where_the_chart_adds_some_up():
    reasons = [reason for reason in DOCUMENT_REASONS if reason][:9]
    found = [
        Document(path=f"{reason}{i}", doc_id="", status="unreadable", reason=reason)
        for place, reason in enumerate(reasons)
        for i in range(place + 1)
    ]
    made = flow.steps(found, [], [], [], [], [], KINDS)
    svg = flow.chart(made)
    assert "for other reasons: 10" in svg
    rows = flow.data(made).rows
    for place, reason in enumerate(reasons, start=1):
        why = f"not read: {DOCUMENT_REASONS[reason].meaning}"
        assert ("files found", why, place) in [tuple(row) for row in rows]


def test_a_study_without_literature_starts_where_its_rows_start(study):
    imported = [
        Question(question_id=f"q{i}", set="board", kind="open", question="?", split="test")
        for i in range(3)
    ]
    made = flow.steps([], [], [], imported, [], [], KINDS)
    assert [(step.made, step.follows) for step in made] == [("questions", False), ("", True)]
    literature = [Document(path="a.pdf", doc_id="d", status="ok")]
    beside = flow.steps(literature, [], [], imported, [], [], KINDS)
    # Files that only retrieval reads lead to no question: no arrow joins the two.
    assert [step.follows for step in beside] == [False, False, True]


def test_ratings_alone_make_a_flow_of_one_step():
    marks = [
        Score(question_id=f"q{i}", arm="A", metric="human", status="unparsed" if i else "scored",
              value=None if i else 1.0)
        for i in range(4)
    ]  # fmt: skip
    (step,) = flow.steps([], [], [], [], [], marks, KINDS)
    assert (step.total, step.left, step.parts) == (4, 1, (flow.Part("by experts", 4),))
    assert step.lost == (flow.Part("not rated", 3),)


def test_names_that_look_like_mathematics_are_drawn_as_they_are(study):
    odd = [Question(question_id="q", set="a $x_1$ & <b>", kind="open", question="?", split="test")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = flow.chart(flow.steps([], [], [], odd, [], [], KINDS))
    assert "a $x_1$ &amp; &lt;b&gt;" in svg


def test_a_study_without_any_row_has_no_chart(study):
    page = report.build(study, {}, {})
    assert "From documents to scores" in page
    assert "Flow of counts" not in page
