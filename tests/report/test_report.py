import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from ecg_llm import config
from ecg_llm.records import METRICS, Answer, Document, Estimate, Question, Score
from ecg_llm.report import report
from ecg_llm.stats.estimate import estimates

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' {{ 7*7 }} ${x}"
VOID = {"meta", "link", "br", "hr", "img", "input", "use", "path", "rect"}


class Page(HTMLParser):
    """Tags, attributes, text and table cells of a page; complains about tags left open."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.attributes, self.open = Counter(), [], [], []
        self.tables, self.text = [], ""
        self.feed(html.replace("\N{NO-BREAK SPACE}", " "))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.tables and ("td" in self.open or "th" in self.open):
            self.tables[-1][-1][-1] += data

    def table(self, *header):
        """Return the rows of the first table whose header starts so."""
        return next(t[1:] for t in self.tables if tuple(t[0][: len(header)]) == header)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_needs_nothing_from_outside_and_runs_no_code(page, html):
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html


def test_the_page_is_well_formed_and_its_ids_are_unique(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    inner = {v[1:] for _, name, v in page.attributes if name in ("href", "xlink:href")}
    assert inner <= set(page.ids)


def test_tables_and_figures_can_be_read_aloud(page):
    headers = [a for a in page.attributes if a[0] == "th" and a[1] == "scope"]
    assert len(headers) == page.tags["th"]
    named = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(named) == page.tags["svg"] > 14
    assert any("handbook/test_seen" in words for words in named)
    assert ("html", "lang", "en") in page.attributes


def test_equal_inputs_give_equal_bytes(study, tables, manifests, html):
    assert report.build(study, tables, manifests, ["Ran on a laptop."]) == html


def test_model_output_and_file_names_are_inert(study):
    question = Question(
        question_id="q", set="evil", kind="choice", question=EVIL, options=(EVIL, "b"), answer="A",
        evidence=EVIL, context=EVIL, split="test", group="g",
    )  # fmt: skip
    other = question.model_copy(update={"question_id": "r", "group": "h"})
    answers = [Answer(question_id=q, arm="base", text=EVIL, model=EVIL) for q in "qr"]
    scores = [Score(question_id=q, arm=EVIL, metric="human", value=float(q == "q")) for q in "qr"]
    rows = estimates(scores, dict.fromkeys("qr", ("evil/test",)), {}, (), 1000, 0)
    made = {
        "documents": [
            Document(path=EVIL, doc_id="", status="unreadable", reason="corrupt", note=EVIL)
        ],
        "questions": [question, other],
        "answers": answers,
        "estimates": rows,
    }
    html = report.build(study, made, {"answers": {"notes": [EVIL], "hosts": [EVIL]}}, [EVIL])
    page = Page(html)
    assert page.tags["script"] == page.tags["img"] == 0
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "49" not in page.text.replace("{{ 7*7 }}", "")


def test_no_control_character_or_override_of_direction_reaches_the_page(study):
    signs = "\x00\x07\x0b\x1b\x7f\x85\u2028\u2029\u202e\u2066"
    name = f"a{signs}b"
    made = {
        "questions": [
            Question(question_id="q", set="s", kind="open", question=name, reference=name,
                     split="test")
        ],
        "answers": [Answer(question_id="q", arm="base", text=f"{name}\n\tnext", model=name)],
        "estimates": [
            Estimate(metric="human", subset="s/test", arm=arm, method="mean/none", value=value)
            for arm, value in ((name, 0.5), ("base", 0.2))
        ],
    }  # fmt: skip
    html = report.build(study, made, {"answers": {"notes": [name], "hosts": [name]}}, [name])
    assert not set(html) & set(signs)
    replaced = name.replace(signs, len(signs) * "\ufffd")
    assert f"{replaced}\n\tnext" in Page(html).text
    assert Page(html).text.count(replaced) >= 7


def test_nano_models_are_called_what_they_are(study, tables, page):
    assert "say nothing about medicine" not in page.text
    nano = study.model_copy(
        update={"models": {**study.models, "llama": config.NanoModelConfig(kind="nano")}}
    )
    text = Page(report.build(nano, {}, {})).text
    assert "their numbers say nothing about medicine" in text
    assert "base, tuned, base+rag, tuned+rag." in text
    assert "Not a medical device." in text
    assert "Not a medical device." in page.text


def test_the_tables_show_the_estimates(page, tables):
    row = next(
        e for e in tables["estimates"]
        if (e.metric, e.subset, e.arm, e.against) == ("accuracy", "handbook/test", "base", "")
    )  # fmt: skip
    shown = next(r for r in page.table("Arm", "Letter written, %") if r[0] == "base")
    assert shown[1] == f"{100 * row.value:.1f}{100 * row.low:.1f} to {100 * row.high:.1f}"
    assert shown[2] == f"{row.rank}{row.rank_adjusted}"
    assert shown[-2:] == ["30 (10)", "0"]
    full = page.table("Subset", "Metric", "Arm")
    assert len(full) == sum(
        METRICS[e.metric].kind == "choice" and not e.against for e in tables["estimates"]
    )


def test_the_summary_names_the_leader_and_what_cannot_be_told_apart(page, tables):
    means = [
        e for e in tables["estimates"]
        if (e.metric, e.subset, e.against) == ("accuracy", "handbook/test", "")
    ]  # fmt: skip
    best = max(means, key=lambda e: e.value)
    first = rf"{re.escape(best.arm)}[^:]*: {100 * best.value:.1f} % \([^)]*\) of 30 questions right"
    assert re.search(first, page.text)
    assert "Too few questions to tell it from any other arm." in page.text
    assert "Ran on a laptop." in page.text


def test_a_clear_difference_is_told_with_its_size_and_interval(study):
    scores = [
        Score(question_id=f"q{i}", arm=arm, metric="accuracy", value=float(i % 10 < right))
        for arm, right in (("base", 2), ("tuned", 9), ("base+rag", 8))
        for i in range(60)
    ]
    subsets_of = {f"q{i}": ("hand/test",) for i in range(60)}
    pairs = (("tuned", "base"), ("base+rag", "base"))
    rows = estimates(scores, subsets_of, {}, pairs, 1000, 0)
    declared = study.model_copy(
        update={"estimates": study.estimates.model_copy(update={"comparisons": pairs})}
    )
    page = Page(report.build(declared, {"estimates": rows}, {}))
    assert re.search(r"It is ahead of base by 70\.0 points \(\d\d\.\d to \d\d\.\d\)", page.text)
    assert re.search(
        r"base\+rag against base: \+60\.0 points \(\+\d\d\.\d to \+\d\d\.\d\)\.", page.text
    )
    assert [row[2] for row in page.table("Difference")] == ["tuned higher", "base+rag higher"]
    assert "over the comparisons declared before the run" in page.text


def test_a_subset_from_one_document_claims_nothing_beyond_it_and_says_so_once(study):
    scores = [
        Score(question_id=f"q{i}", arm=arm, metric=metric, value=float(i % 3 > k))
        for metric in ("accuracy", "verdict", "rougeL")
        for k, arm in enumerate(("base", "tuned"))
        for i in range(12)
    ]
    ids = [f"q{i}" for i in range(12)]
    subsets_of = dict.fromkeys(ids, ("s/test",))
    rows = estimates(scores, subsets_of, dict.fromkeys(ids, "d"), (), 1000, 0)
    page = Page(report.build(study, {"estimates": rows}, {}))
    assert page.text.count("All questions come from one document") == 1
    assert "base: 66.7 % of 12 questions right." in page.text
    assert [row[2] for row in page.table("Difference")] == ["not tested"]


def test_where_some_figures_rest_on_one_document_these_are_told_apart(study):
    rows = [
        Estimate(metric="accuracy", subset="s/test", arm="base", method="mean/none", value=0.5),
        Estimate(metric="verdict", subset="s/test", arm="base", method="mean/cluster_t", value=0.5,
                 low=0.4, high=0.6),
    ]  # fmt: skip
    text = Page(report.build(study, {"estimates": rows}, {})).text
    assert text.count("Figures without an interval come from the questions of one document") == 1
    assert "All questions come from one document" not in text


def test_counts_add_up_to_the_tables(page, tables):
    def total(*header):
        return int(page.table(*header)[-1][-1].replace(",", ""))

    assert total("Status", "Reason", "Files") == len(tables["documents"]) == 14
    assert total("Kind", "Passages") == len(tables["passages"])
    assert total("Kind", "ok", "truncated") == len(tables["drafts"])
    assert total("Set, split and kind") == len(tables["questions"])
    assert total("Why") == sum(q.status == "dropped" for q in tables["questions"]) == 22
    assert total("Arm", "ok") == len(tables["answers"])
    assert total("Judge", "ok") == len(tables["judgements"])
    assert total("Metric", "scored") == len(tables["scores"])
    missing = sum(e.missing for e in tables["estimates"] if not e.against)
    unscored = sum(s.status in ("unparsed", "error", "unjudged") for s in tables["scores"])
    assert missing == unscored > 0


def test_files_not_read_are_listed_with_the_reason_and_the_remedy(page):
    rows = {row[0]: row[1:] for row in page.table("File", "Status", "Why")}
    assert set(rows) == {
        "scans/old-atlas.pdf", "photo.pdf", "copy-of-03-chapter.pdf", "05-part-two.pdf",
    }  # fmt: skip
    assert rows["scans/old-atlas.pdf"][0] == "unreadable"
    assert "Install ocrmypdf" in rows["scans/old-atlas.pdf"][1]


def test_ten_sample_questions_show_the_answer_of_every_arm(page, study):
    samples = [
        a for a in page.attributes if a[1:] == ("aria-labelledby", a[2]) and a[0] == "article"
    ]
    assert len(samples) == 10
    for arm in study.arms:
        marks = re.findall(
            rf"{re.escape(arm)}(?:[A-D] (?:right|wrong)|verdict \d|error)", page.text
        )
        assert len(marks) >= 10
    assert "A right" in page.text
    # Of two judges, the mean; one that gave no verdict is left out.
    assert "verdict 0.12" in page.text


def test_provenance_names_models_versions_hosts_and_settings(study):
    manifests = {
        "documents": {"key": "ab12", "rows": 14, "packages": {"torch": "2.13.0"}, "hosts": []},
        "answers/frontier-api": {
            "key": "cd34", "rows": 90, "packages": {"torch": "2.13.1"},
            "hosts": ["gateway.example.org"], "notes": ["One answer timed out."],
        },
        "report": {},
    }  # fmt: skip
    text = Page(report.build(study, {}, manifests)).text
    for shown in (
        "torch 2.13.0, 2.13.1", "Hosts contacted: gateway.example.org", "cd34",
        "answers/frontier-api: One answer timed out.", "meta-llama/Llama-3.1-8B-Instruct",
        "Seed 20251018", '"passage_tokens": 2048',
    ):  # fmt: skip
        assert shown in text
    assert "Hosts contacted: none" in Page(report.build(study, {}, {})).text


def test_names_that_raters_gave_are_shown_as_they_are(study):
    names = ("Finetuned 8B: r=256, alpha=128", "LLama 3.1 8B + RAG", "模型 $x_1$", "x" * 90)
    ratings = [
        Score(question_id=f"q{i}", arm=name, metric="human", value=(i + k) % 5 / 4)
        for k, name in enumerate(names)
        for i in range(40)
    ]
    rows = estimates(ratings, {f"q{i}": ("forty/rated",) for i in range(40)}, {}, (), 1000, 0)
    page = Page(report.build(study, {"estimates": rows}, {}))
    assert {row[0] for row in page.table("Arm", "Experts' rating")} == set(names)
    assert "模型 $x_1$" in page.text
    assert "Questions that experts rated" in page.text


def test_a_study_without_answers_still_has_a_report():
    text = Page(report.build(config.Study(), {}, {})).text
    assert "no answer has been scored" in text
    assert "This study has no documents of its own." in text


def test_the_terminal_gets_a_short_table_in_the_order_of_the_study(tables):
    order = ("tuned", "base")
    columns, rows = report.summary_table(tables["estimates"], order)
    assert columns[:3] == ("subset", "arm", "choice: right, %")
    assert [row[1] for row in rows][:3] == ["tuned", "base", "base+rag"]
    assert len(rows) == 12
    assert {len(row) for row in rows} == {len(columns)}
    assert re.fullmatch(r"\d\d\.\d \(\d\d\.\d to \d+\.\d\)", rows[0][2])
    assert report.summary_table([]) == (("subset", "arm"), [])
    lone = Estimate(metric="bleu", subset="s", arm="a", method="mean/none")
    assert report.summary_table([lone]).rows == []
