import html
import re

import pytest

from ecg_llm import config
from ecg_llm.records import (
    Answer,
    Citation,
    Document,
    IndexVariant,
    Latency,
    Passage,
    Question,
    Retrieval,
    Score,
)
from ecg_llm.report import report
from ecg_llm.report.blame import Blame
from ecg_llm.report.blame_tables import sentence
from ecg_llm.report.retrieval import nested
from ecg_llm.stats.intervals import Interval

STUDY = config.parse(
    {
        "models": {"llama": {"kind": "local", "id": "a/b"}},
        "arms": {
            "base": {"model": "llama"},
            "base+rag": {"model": "llama", "retrieve": True},
        },
        "estimates": {"resamples": 1000},
    }
)
DOCUMENTS = [Document(path=f"{i}.pdf", doc_id=f"d{i}", status="ok") for i in range(12)]
PASSAGES = [
    Passage(
        passage_id=f"d{i}-{k}", doc_id=f"d{i}", start=k, end=k + 1, page_from=1, page_to=1,
        text="t", tokens=1,
    )
    for i in range(12)
    for k in range(3)
]  # fmt: skip


def question(i, doc="d0", kind="choice", **columns):
    return Question(
        question_id=f"q{i}", set="written", kind=kind, question=f"Which is number {i}?",
        options=("a", "b"), answer="A", doc_id=doc, group=doc, split="test", **columns,
    )  # fmt: skip


def row(i, *ranks, doc="d0", hits=()):
    """Sources of a document at these ranks; None: not found."""
    return Retrieval(
        question_id=f"q{i}", sources=tuple(f"{doc}-{k}" for k in range(len(ranks))), ranks=ranks,
        hits=tuple(Citation(passage_id=name, score=1.0) for name in hits),
    )  # fmt: skip


def page(rows=(), questions=(), **tables):
    given = {
        "documents": DOCUMENTS, "passages": PASSAGES, "retrieval": rows, "questions": questions,
    }  # fmt: skip
    return report.build(STUDY, {**given, **tables}, {})


def figures(text):
    """Return the figures of the section on retrieval."""
    section = re.search(r'<section aria-labelledby="retrieval">.*?</section>', text, re.DOTALL)[0]
    return re.findall(r"<svg.*?</svg>", section, re.DOTALL)


def cells(text, caption):
    """Return the rows of the table with this caption, head first, cells as their text."""
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        if f"<caption>{caption}</caption>" in table:
            return [
                [
                    html.unescape(re.sub(r"<[^>]*>", "|", cell)).strip("|")
                    for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", line, re.DOTALL)
                ]
                for line in re.findall(r"<tr.*?</tr>", table, re.DOTALL)
            ]
    return None


def test_without_anything_measured_there_is_no_section():
    text = page(questions=[question(0)])
    assert 'id="retrieval"' not in text
    assert "#retrieval" not in text


def test_figures_are_means_over_the_questions_with_their_interval():
    questions = [question(i, f"d{i}") for i in range(10)]
    rows = [row(i, 1 if i < 5 else 4 if i < 8 else None, doc=f"d{i}") for i in range(10)]
    text = page(rows, questions)
    head, every = cells(text, "How high the source comes")
    found = dict(zip(head, every, strict=True))
    # Wilson: 5 of 10 and 8 of 10, each document a question.
    assert found["hit@1, %"] == "50.0|24 to 76"
    assert found["hit@5, %"] == "80.0|49 to 94"
    assert found["hit@20, %"] == "80.0|49 to 94"
    assert found["MRR"].startswith("0.57|")  # (5 + 3 / 4) / 10
    assert found["nDCG@10"].startswith("0.63|")  # (5 + 3 / log2(5)) / 10
    assert found["Questions"] == "10"
    assert "The source comes first for 50.0 % of the 10" in text
    assert "among the first 5 for 80.0 % (95 % interval 49 to 94 %)." in text


def test_questions_of_one_document_make_the_interval_wider():
    rows = [row(i, 1 if i < 10 else None) for i in range(20)]
    apart = page(rows, [question(i, f"d{i}") for i in range(20)])
    joint = page(rows, [question(i, f"d{i // 5}") for i in range(20)])

    def width(text):
        low, high = cells(text, "How high the source comes")[1][2].split("|")[1].split(" to ")
        return int(high) - int(low)

    assert width(joint) > 1.5 * width(apart)


def test_questions_without_a_known_source_are_counted_and_named():
    questions = [question(0), question(1), question(2, doc="")]
    rows = [row(0, 2, hits=("d1-0", "d0-0")), row(1, hits=("d3-0", "d0-1")), row(2)]
    text = page(rows, [*questions, question(3), question(4)])
    assert (
        "Of 3 tested questions the source is known for 1, only the document for 1, neither for 1. "
        "2 more were not searched." in text
    )
    head, every = cells(text, "How high the source comes")
    found = dict(zip(head, every, strict=True))
    assert found["Questions"] == "3|1 with source"
    assert found["hit@5, %"] == "100.0"
    assert found["document@5, %"].startswith("100.0")
    assert "right document is among the first 5 for 100.0 % of 2 questions" in text
    assert [line[0] for line in cells(text, "Without a known source")[1:]] == ["q1", "q2"]
    assert "2 questions without a known source" in text


def test_where_no_source_is_known_the_document_is_measured_alone():
    text = page([row(0, hits=("d0-2",))], [question(0)])
    assert "The source comes first" not in text
    assert cells(text, "How high the source comes")[1][2:5] == ["–", "–", "–"]
    assert len(figures(text)) == 1
    assert "its document (1 question)" in text
    assert "its source" not in text


def test_sets_types_and_kinds_have_lines_of_their_own():
    questions = [
        question(0, type="threshold"),
        question(1, "d1", kind="open", type="fact"),
        question(2, "d2", tags=("ehra",)),
    ]
    text = page([row(i, i + 1, doc=f"d{i}") for i in range(3)], questions)
    assert [line[0] for line in cells(text, "How high the source comes")[1:]] == [
        "All", "ehra/test", "written/test",
    ]  # fmt: skip
    lines = cells(text, "By kind and type of question")[1:]
    assert [line[0] for line in lines] == [
        "multiple choice", "open", "fact", "threshold", "type not stated",
    ]  # fmt: skip
    assert [line[1] for line in lines] == ["2", "1", "1", "1", "1"]


def test_the_worst_documents_come_first_and_the_rest_is_folded():
    questions = [question(i, f"d{i}") for i in range(12)]
    rows = [row(i, 1 if i < 10 else None, doc=f"d{i}") for i in range(12)]
    text = page(rows, questions)
    shown = cells(text, "By document")[1:]
    assert [line[0] for line in shown[:2]] == ["10.pdf", "11.pdf"]
    assert shown[0][3] == "0.0|0 to 79"
    assert len(shown) == 8
    assert "4 more documents" in text
    assert len(cells(text, "Further documents")[1:]) == 4


def test_the_curve_is_drawn_once_and_described():
    text = page([row(i, i % 7 + 1, doc=f"d{i}") for i in range(12)],
                [question(i, f"d{i}") for i in range(12)])  # fmt: skip
    (figure,) = figures(text)
    assert "its source (12 questions)</text>" in figure
    assert "among the first k found" in figure
    assert "17 % at 1, 83 % at 5, 100 % at 20" in figure
    assert "var(--first)" in figure
    assert "#0072b2" not in figure


def answered(i, arm, value, shown=()):
    """An answer and its score."""
    cited = tuple(Citation(passage_id=name, score=1.0) for name in shown)
    return (
        Answer(question_id=f"q{i}", arm=arm, passages=cited, text="x"),
        Score(question_id=f"q{i}", arm=arm, metric="accuracy", value=value),
    )


def test_wrong_answers_are_blamed_by_whether_the_prompt_held_their_source():
    questions = [question(i, f"d{i // 2}") for i in range(24)]
    # The source of even questions is shown; with it the model is right, without it never.
    made = []
    for i in range(24):
        doc, even = f"d{i // 2}", i % 2 == 0
        made.append(answered(i, "base", 0.0))
        made.append(answered(i, "base+rag", float(even), [f"{doc}-0" if even else "d5-2"]))
    rows = [row(i, 1 if i % 2 == 0 else 9, doc=f"d{i // 2}") for i in range(24)]
    text = page(rows, questions, answers=[a for a, _ in made], scores=[s for _, s in made])
    assert (
        "base+rag, 24 multiple-choice questions with a known source: of 12 wrong answers, 0 had "
        "the source in the prompt (not retrieval) and 12 did not (retrieval; the source of 12 is "
        "among the first 20 found)." in text
    )
    assert cells(text, "Answers by source")[1:] == [
        ["base+rag", "Letter written", "yes", "12", "12", "0", "0", "0", "100.0"],
        ["base+rag", "Letter written", "no", "12", "0", "12", "0", "0", "0.0"],
    ]
    with_source, without = cells(text, "What the passages changed")[1:]
    assert with_source[:6] == ["base+rag − base", "Letter written", "yes", "12", "0.0", "100.0"]
    assert with_source[6].startswith("+100.0|")
    assert with_source[-1] == "base+rag higher"
    assert without[4:7] == ["0.0", "0.0", "0.0|−24.2 to +24.2"]
    assert without[-1] == "not distinguishable"


def counted(metric="accuracy", missed=0, **counts):
    found = {tuple(key.split("_")): n for key, n in counts.items()}
    kind = "choice" if metric == "accuracy" else "open"
    return Blame("rag", kind, metric, found, missed)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            counted(yes_wrong=31, no_wrong=9, yes_right=60, unknown_wrong=7, missed=4),
            "rag, 100 multiple-choice questions with a known source: of 40 wrong answers, 31 had "
            "the source in the prompt (not retrieval) and 9 did not (retrieval; the source of 4 is "
            "among the first 20 found).",
        ),
        (
            counted("reference_similarity", yes_wrong=1, part_wrong=1, no_abstained=2),
            "rag, 4 open questions with a known source: of 2 answers unlike the reference, 1 had "
            "the source in the prompt (not retrieval), 1 had a part of it and 0 did not "
            "(retrieval). It abstained 2 times, 0 with the source in the prompt.",
        ),
        (
            counted("verdict", yes_right=1, unknown_wrong=5),
            "rag, 1 open question with a known source: no answer judged wrong.",
        ),
        (
            counted(unknown_wrong=5),
            "rag, 5 multiple-choice questions: no source is known, so nothing can be blamed.",
        ),
        (counted("", yes_unrated=3), ""),
    ],
)
def test_a_sentence_says_no_more_than_the_counts(given, told):
    assert sentence(given) == told


def variant(name, shown, questions=40, **settings):
    return IndexVariant(
        variant=name, settings={key.replace("__", "."): v for key, v in settings.items()},
        passages=2000, questions=questions, shown=shown, hit_1=0.25, hit_5=0.5, hit_20=0.75,
        mrr=0.375, ndcg_10=0.625, recall_20=0.875, index_seconds=12.345 * (name == "a"),
        search_ms=3.21,
    )  # fmt: skip


def test_a_sweep_lists_settings_and_figures_best_first():
    sweep = [
        variant("a", 0.5, passages__tokens=128, index__reranker=""),
        variant("b", 0.75, passages__tokens=512, index__dense_weight=0.25),
        variant("c", 0.0, 0, passages__tokens=64),
    ]
    text = page(index_sweep=sweep)
    assert cells(text, "Settings of retrieval, swept") == [
        ["Tokens", "Reranker", "Dense weight", "Passages", "Shown, %", "hit@1, %", "hit@5, %",
         "hit@20, %", "MRR", "nDCG@10", "Seconds to index", "ms a query"],
        ["512", "–", "0.25", "2,000", "75.0", "25.0", "50.0", "75.0", "0.38", "0.62", "–",
         "3.2"],
        ["128", "none", "–", "2,000", "50.0", "25.0", "50.0", "75.0", "0.38", "0.62",
         "12.3", "3.2"],
        ["64", "–", "–", "2,000", *"––––––", "–", "3.2"],
    ]  # fmt: skip
    assert "On 40 questions with a known source." in text
    assert "chose among 3 variants" in text


def test_latencies_are_told_by_arm_and_kept_replies_stand_apart():
    rows = [
        Latency(question_id=f"q{i}", arm="base+rag", seconds=i, search_seconds=0.01, together=4)
        for i in range(21)
    ]
    rows.append(Latency(question_id="q", arm="base", seconds=2.0))
    assert cells(page(latencies=rows), "How long an answer takes")[1:] == [
        ["base", "1", "–", "–", "2.00", "2.00", "1", "0"],
        ["base+rag", "21", "10.0", "10.0", "10.50", "19.05", "4", "1"],
    ]


def test_texts_from_files_are_inert():
    evil = "<script>alert(1)</script>"
    asked = question(0).model_copy(update={"question": evil})
    swept = variant("a", 0.5).model_copy(update={"settings": {evil: evil}})
    text = page([row(0)], [asked], index_sweep=[swept])
    assert "<script" not in text
    assert text.count(html.escape(evil)) >= 3


def test_the_intervals_of_the_curve_do_not_contradict_each_other():
    mean = Interval(0.9, 0.7, 0.95, "", 10, 5)
    found = {"hit@1": mean, "hit@5": mean._replace(value=0.97, low=0.94, high=1.0),
             "hit@20": mean._replace(value=1.0, low=0.74, high=0.99)}  # fmt: skip
    assert [(one.low, one.high) for one in nested(found).values()] == [
        (0.7, 0.95), (0.94, 0.99), (0.94, 0.99),
    ]  # fmt: skip
