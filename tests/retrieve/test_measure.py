from math import log2

import pytest

from ecg_llm.contracts import Hit, StepError
from ecg_llm.records import Passage, Question, Retrieval, Span
from ecg_llm.retrieve.measure import document_values, means, measured, sources, values

TEXT = (
    "The PR interval is longer than 200 ms in first-degree block. "
    "Mobitz type II block has constant PR intervals before the dropped beat. "
    "A fusion beat is a hybrid complex. "
)


def cut(size, doc_id="d", text=TEXT, step=None):
    """The text in pieces of `size` characters."""
    return [
        Passage(
            passage_id=f"{doc_id}{size}-{start}", doc_id=doc_id, start=start,
            end=min(start + size, len(text)), page_from=1, page_to=1,
            text=text[start : start + size], tokens=9,
        )
        for start in range(0, len(text), step or size)
    ]  # fmt: skip


WHOLE = cut(len(TEXT))
(ONE,) = WHOLE


def ask(evidence="", passage_id=ONE.passage_id, doc_id="d", joined=(), **columns):
    return Question(
        question_id="q", set="written", kind="open", question="What?", evidence=evidence,
        passage_id=passage_id, doc_id=doc_id, joined=joined, **columns,
    )  # fmt: skip


def found(question, searched, originals=None):
    return sources([question], searched, originals)["q"]


class Planted:
    """A retriever that finds these passages, whatever is asked."""

    def __init__(self, *ids):
        self.ids = ids
        self.asked = []

    def search(self, queries, k):
        self.asked += queries
        return [[Hit(name, 1 - i / 100) for i, name in enumerate(self.ids[:k])] for _ in queries]


def test_the_passage_with_the_evidence_is_the_source():
    other = cut(len(TEXT), "other")
    assert found(ask("a hybrid complex"), [*WHOLE, *other]) == (ONE.passage_id,)


def test_another_cut_of_the_document_is_measured_with_the_same_questions():
    pieces = cut(60)
    place = TEXT.index("Mobitz")
    (holder,) = found(ask("Mobitz type II block"), pieces, WHOLE)
    assert next(p for p in pieces if p.passage_id == holder).start <= place
    assert "Mobitz type II block" in TEXT[int(holder.split("-")[1]) :][:60]


def test_of_a_quote_that_a_cut_divides_only_who_holds_half_is_a_source():
    quote = TEXT[50:90]
    assert found(ask(quote), cut(60), WHOLE) == ("d60-60",)  # 10 and 30 characters
    assert found(ask(TEXT[41:79]), cut(60), WHOLE) == ("d60-0", "d60-60")
    assert found(ask(quote), cut(60, step=40), WHOLE) == ("d60-40",)
    # Overlapping passages that both hold it are both sources.
    assert found(ask(TEXT[45:55]), cut(60, step=40), WHOLE) == ("d60-0", "d60-40")


def test_a_quote_longer_than_any_passage_has_a_source_all_the_same():
    assert found(ask(TEXT[0:150]), cut(40), WHOLE) == ("d40-0", "d40-40", "d40-80", "d40-120")


def test_case_and_line_ends_do_not_hide_a_quote():
    text = TEXT.replace("fusion beat", "fusion\n beat")
    quote = "a FUSION beat is a\nhybrid complex"
    assert found(ask(quote), cut(60, text=text), cut(len(text), text=text)) == ("d60-120",)


def test_what_the_named_passage_does_not_quote_rests_on_all_of_it():
    for quote in ("", "words of nobody at all"):
        assert found(ask(quote), WHOLE) == (ONE.passage_id,)
    assert len(found(ask(""), cut(60), WHOLE)) == 3


def test_joined_evidence_has_the_sources_of_all_its_spans():
    far = cut(50, "far")
    question = ask("a hybrid complex", joined=(Span(passage_id="far50-0", text="first-degree"),))
    assert found(question, [*WHOLE, *far]) == (ONE.passage_id, "far50-0")


def test_an_imported_question_is_traced_by_its_words_within_its_document():
    other = cut(60, "other")
    named = ask("a fusion beat is a hybrid", passage_id="")
    assert found(named, [*cut(60), *other]) == ("d60-120",)
    assert found(ask("gone from an older cut", passage_id="old"), cut(60)) == ()
    assert found(ask("PR", passage_id=""), cut(60)) == ()  # two letters tell nothing
    assert found(ask("", passage_id=""), cut(60)) == ()
    assert found(ask("a fusion beat is a hybrid", passage_id="", doc_id=""), cut(60)) == ()


def test_hidden_text_is_no_source():
    assert found(ask("a hybrid complex"), [ONE.model_copy(update={"hidden": True})]) == ()


def test_brackets_and_stars_in_evidence_are_plain_text():
    (odd,) = cut(99, text="Rate (*) is 60 + 2 [bpm] at rest.")
    assert found(ask("rate (*) is 60 + 2 [bpm]", passage_id=""), [odd]) == (odd.passage_id,)


def test_only_the_text_of_a_question_is_searched_and_every_question_has_its_row():
    pieces = cut(60)
    questions = [
        ask("a hybrid complex", "d60-120", options=("x", "y"), reference="r", context="c"),
        ask(passage_id="").model_copy(update={"question_id": "without"}),
    ]  # fmt: skip
    retriever = Planted("d60-0", "d60-120")
    calls = []
    rows = measured(questions, pieces, retriever, progress=lambda *n: calls.append(n))
    assert retriever.asked == ["What?", "What?"]
    assert [row.question_id for row in rows] == ["q", "without"]
    assert (rows[0].sources, rows[0].ranks) == (("d60-120",), (2,))
    assert [hit.passage_id for hit in rows[0].hits] == ["d60-0", "d60-120"]
    assert (rows[1].sources, rows[1].ranks) == ((), ())
    assert calls == [(2, 2)]
    (shallow,) = measured(questions[:1], pieces, retriever, depth=1)
    assert (len(shallow.hits), shallow.ranks) == (1, (None,))


def test_an_index_of_other_passages_is_told_not_measured():
    with pytest.raises(StepError, match=r"gone, which is not in passages.jsonl.*ecg-llm index"):
        measured([ask()], WHOLE, Planted("gone"))


def row(*ranks, hits=()):
    ids = tuple(f"s{i}" for i in range(len(ranks)))
    return Retrieval(question_id="q", sources=ids, ranks=ranks, hits=hits)


def test_figures_of_one_question_by_hand():
    made = values(row(3, None, 12))
    assert (made["hit@1"], made["hit@2"], made["hit@3"], made["hit@20"]) == (0, 0, 1, 1)
    assert made["mrr"] == pytest.approx(1 / 3)
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    assert made["ndcg@10"] == pytest.approx((1 / log2(4)) / ideal)
    assert made["recall@20"] == pytest.approx(2 / 3)
    best = values(row(*range(1, 13)))  # twelve sources, the first ten count in nDCG
    assert best["ndcg@10"] == pytest.approx(1)
    assert (best["mrr"], best["recall@20"]) == (1, 1)
    nothing = values(row(None))
    assert set(nothing.values()) == {0.0}
    assert values(row()) == {}


def test_the_right_document_counts_even_where_the_passage_is_unknown():
    hits = [{"passage_id": name, "score": 1.0} for name in ("a1", "gone", "d1")]
    made = document_values(row(hits=hits), "d", {"a1": "a", "d1": "d"})
    assert (made["document@2"], made["document@3"], made["document@20"]) == (0, 1, 1)
    assert document_values(row(hits=hits), "", {"a1": "a"}) == {}
    assert not any(document_values(row(), "d", {}).values())


def test_means_are_over_the_questions_whose_source_is_known():
    made = means([row(1), row(None), row()])
    assert (made["hit@1"], made["mrr"], made["recall@20"]) == (0.5, 0.5, 0.5)
    assert means([row()]) == means([]) == {}


def test_an_imported_quote_that_goes_over_the_end_of_a_passage_is_found_where_most_of_it_stands():
    pieces = cut(40)
    question = ask("interval is longer than 200 ms in first-degree block", passage_id="")
    assert sources([question], pieces)["q"] == (pieces[0].passage_id,)
