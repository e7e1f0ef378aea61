"""What a reader is told about parsers, judges and their biases."""

import html as markup
import re
from types import SimpleNamespace

import pytest

from ecg_llm import config
from ecg_llm.records import Answer, Estimate, Judgement, KeyFacts, Question, Reliability, Score
from ecg_llm.report import instruments, report, results
from ecg_llm.report.worst import worst

EVIL = "<script>alert(1)</script> {{ 7*7 }}"
OF_JUDGES = ("verdict", "verdict_correct", "harm", "ranking", "ranking_strength",
             "ranking_strength_length")  # fmt: skip


def page(html):
    """Return the text of a page, the names of its columns and headings, and its tables' rows."""
    html = re.sub(r"<(style|svg)\b.*?</\1>", "", html, flags=re.DOTALL)
    heads = re.findall(r"<(?:h\d|th|caption|figcaption|summary)\b[^>]*>(.*?)</", html)
    tables = {
        plain(caption): [
            [plain(cell) for cell in re.findall(r"<t[hd]\b.*?>(.*?)</t[hd]>", row)]
            for row in re.findall(r"<tr\b.*?>(.*?)</tr>", body)
        ]
        for caption, body in re.findall(
            r"<caption>(.*?)</caption>(.*?)</table>", html, flags=re.DOTALL
        )
    }
    return SimpleNamespace(text=plain(html), heads=[*map(plain, heads)], tables=tables, html=html)


def plain(html):
    return " ".join(markup.unescape(re.sub(r"<[^>]+>", " ", html)).split())


def without(tables, metrics=(), layer="", names=()):
    """Return the tables without these metrics, this layer of reliability and these tables."""
    kept = {name: rows for name, rows in tables.items() if name not in names}
    for name in ("scores", "estimates"):
        kept[name] = [row for row in tables[name] if row.metric not in metrics]
    kept["reliability"] = [row for row in tables["reliability"] if row.layer != layer]
    return kept


def unjudged(study):
    return study.model_copy(update={"scores": config.Scores()})


@pytest.fixture(scope="module")
def full(html):
    return page(html)


@pytest.fixture(scope="module")
def alone(study, tables):
    """A study where nothing but similarity grades open answers, in one order of the options."""
    metrics = (*OF_JUDGES, "accuracy_circular", "consistency", "fact_recall", "facts_contradicted",
               "citation_recall", "citation_precision", "bleu_corpus")  # fmt: skip
    kept = without(tables, metrics, "judge", ("judgements", "facts"))
    return page(report.build(unjudged(study), {**kept, "reliability": []}, {}))


def row(measure, value, low, high, expected=0.0, detail="", layer="judge", instrument="j"):
    return Reliability(
        layer=layer, instrument=instrument, measure=measure, detail=detail, value=value, low=low,
        high=high, expected=expected, items=240, clusters=12,
    )  # fmt: skip


def told(*rows, judges=("j",), estimates=()):
    """Return the sentences on how far to trust these."""
    study = config.Study()
    judgements = [
        Judgement(judgement_id=judge, judge=judge, question_id="q", mode="ranking", order=("a",))
        for judge in judges
    ]
    made = instruments.beside(study, [], [], judgements, [], [], rows, estimates, {})
    return " ".join(words for one in made.values() for g in one.groups for words in g.sentences)


def test_an_arm_that_favours_a_place_is_named_with_the_size_and_the_interval(full):
    assert (
        "base names A more often than its keys stand there: +12.0 points "
        "(95 % interval +7.5 to +16.5; 60 letters)." in full.text
    )
    assert (
        "For tuned, base+rag, tuned+rag, frontier-api and extractive no place stands" in full.text
    )
    shares = full.tables["Letters named at each place, less keys there, in points"]
    assert shares[1][:3] == ["base", "+12.0 +7.5 to +16.5", "−5.0 −9.5 to −0.5"]
    recalls = full.tables["Right answers by the place of the key, in percent"]
    assert recalls[0][-4:] == ["Spread of the shares (RStd)", "By chance", "Questions", "Documents"]
    assert recalls[1][-4:] == ["0.070", "0.040", "60", "10"]
    assert "base: up to 0.08 by chance. tuned; base+rag; tuned+rag" in full.text


def test_replies_not_read_are_a_rate_of_each_arm_and_parser(full, tables):
    rates = {
        e.metric: f"{100 * e.value:.1f} {100 * e.low:.1f} to {100 * e.high:.1f}"
        for e in tables["estimates"]
        if (e.subset, e.arm, e.against) == ("handbook/test", "base", "")
    }
    rows = full.tables["Replies not read, handbook/test"]
    assert rows[0][:3] == [
        "Arm", "Replies without a letter, %", "Replies not in the form asked for, %",
    ]  # fmt: skip
    assert rows[1][:4] == ["base", rates["unread"], rates["unread_strict"], "30"]
    assert "A reply without a letter counts as wrong and stays in every share." in full.text
    assert re.search(r"The most are of base: 10\.0 % on handbook/test", full.text)


def test_where_every_reply_was_read_that_is_said():
    rows = [
        Estimate(metric="unread", subset="s/test", arm=arm, method="mean/wilson", value=0.0)
        for arm in "ab"
    ]
    assert "There is none." in told(estimates=rows, judges=())


def test_verdicts_and_harm_add_up_to_the_scores(full, tables, study):
    scores = [s for s in tables["scores"] if s.metric in ("verdict", "harm")]
    counted = 0
    for subset in ("handbook/test", "handbook/test_seen"):
        head, *rows = full.tables[f"Verdicts on {subset}"]
        assert head[1:] == [
            "Verdicts", "Correct", "Correct but incomplete", "Partially incorrect", "Incorrect",
            "Not judged", "Harm none", "Possible", "Severe", "Not stated",
        ]  # fmt: skip
        assert [r[0] for r in rows] == list(study.arms)
        for line in rows:
            number, *counts = map(int, line[1:])
            assert sum(counts[:5]) == sum(counts[5:]) == number
            counted += number
    assert counted == sum(s.metric == "verdict" for s in scores)
    failed = sum(s.metric == "verdict" and s.status == "error" for s in scores)
    assert failed == sum(
        int(line[6]) for name in full.tables if name.startswith("Verdicts")
        for line in full.tables[name][1:]
    )  # fmt: skip


def test_the_panel_is_listed_with_what_came_of_its_requests(full, tables):
    answers = sum(a.question_id >= "q060" for a in tables["answers"])
    failed = sum(a.question_id >= "q060" and a.status != "ok" for a in tables["answers"])
    sent = answers - failed
    assert full.tables["Judges"][1:] == [
        ["panel-1", "claude-sonnet", "verdict", f"{sent}", f"{sent}", "0", "0", "0", f"{failed}"],
        ["panel-1", "claude-sonnet", "ranking", "60", "60", "0", "0", "0", "0"],
        ["panel-2", "claude-sonnet", "verdict", f"{sent}", f"{sent - 3}", "3", "0", "3",
         f"{failed}"],
    ]  # fmt: skip


def test_a_warning_about_kin_stands_where_the_results_of_the_judges_do(full, manifests):
    (warning,) = manifests["judgements/panel-1"]["notes"]
    section = full.html[full.html.index('id="judge"') : full.html.index('id="similarity"')]
    assert warning in plain(section)


def test_agreement_and_biases_have_their_value_without_bias_and_their_number(full):
    assert full.tables["Agreement"][1:] == [
        ["Equal grades, % (verdict)", "panel-1 ~ panel-2", "71.0 64.0 to 78.0", "60", "10"],
        ["Cohen's kappa, quadratic weights (verdict)", "panel-1 ~ panel-2", "0.62 0.52 to 0.72",
         "60", "10"],
        ["Krippendorff's alpha, ordinal (verdict)", "panel", "0.61 0.50 to 0.72", "60", "10"],
        ["Krippendorff's alpha, ordinal (harm)", "panel", "0.52 0.41 to 0.63", "60", "10"],
    ]  # fmt: skip
    sway = {line[0]: line[1:] for line in full.tables["What sways panel-1"]}
    assert sway["Mean rank of the answers shown in slot 1"][:2] == ["2.20 2.08 to 2.32", "2.50"]
    assert sway["Pairs placed alike when shown in the other order, %"] == [
        "74.0 68.0 to 80.0", "81.0", "60", "10",
    ]  # fmt: skip
    assert "Krippendorff's alpha, ordinal (verdict) of panel: grades as ordinal." in full.text
    assert "Pairs placed alike when shown in the other order, %: 9 pairs." in full.text
    assert full.text.count("It is customary to ask for") == 1


@pytest.mark.parametrize(
    ("measure", "value", "low", "high", "words"),
    [
        ("slot_effect", -0.3, -0.4, -0.2, "j places answers lower the further down they are"),
        ("slot_effect", 0.3, 0.2, 0.4, "j places answers higher the further down they are"),
        ("slot_effect", 0.1, -0.1, 0.3, "j shows no clear effect of the slot: log-odds a slot "
         "+0.10 (95 % interval −0.10 to +0.30; n = 240). An effect inside the interval"),
        ("length_effect", 0.2, 0.1, 0.3, "j favours longer answers: log-odds for twice the words "
         "+0.20 (95 % interval +0.10 to +0.30; n = 240). This need not be bias"),
        ("length_slope", -0.2, -0.3, -0.1, "j favours shorter answers: change of the verdict for"),
        ("length_effect", 0.2, -0.1, 0.5, "j shows no clear effect of length"),
    ],
)  # fmt: skip
def test_a_sentence_on_bias_goes_no_further_than_its_interval(measure, value, low, high, words):
    assert words in told(row(measure, value, low, high))


def test_swapped_pairs_are_told_beside_pairs_shown_again_in_the_same_order():
    assert (
        "Shown in the other order, j placed 54.6 % of pairs alike (95 % interval 47.0 to 62.0; "
        "n = 240); shown in the same order again, 68.9 %."
    ) in told(row("swap_consistency", 0.546, 0.47, 0.62, 0.689))


def test_without_an_interval_nothing_is_said_but_the_value_is_listed():
    only = row("slot_effect", -0.3, None, None)
    assert "slot" not in told(only)
    made = instruments.beside(config.Study(), [], [], [], [], [], [only], [], {})
    table = made["judge"].groups[0].parts[0].table
    assert table.rows[0][1].value == "−0.30"


def test_a_measure_that_the_report_does_not_know_is_listed():
    made = instruments.beside(
        config.Study(), [], [], [], [], [], [row("mood", 0.3, 0.1, 0.4)], [], {}
    )
    assert made["judge"].groups[0].parts[0].table.rows[0][0] == "mood"


def test_a_lone_judge_agrees_with_nobody():
    assert "j is the only judge, so nothing can be said about agreement" in told(judges=("j",))
    assert "only judge" not in told(judges=("i", "j"))


def test_strengths_stand_beside_those_at_equal_length(full):
    assert "Judges' verdict" in full.heads
    assert "Strength in rankings" in full.heads
    assert "Strength at equal length" in full.heads
    assert "frontier-api stands highest in the judges' rankings, 0.68 log-odds above" in full.text
    assert "Ranked below it, uncorrected: tuned, base and extractive." in full.text


def test_similarity_never_stands_under_a_judge(alone):
    assert "Similarity to the reference (no judge)" in alone.heads
    named = [head for head in alone.heads if "judge" in head.lower()]
    assert named
    assert all("(no judge" in head for head in named)
    assert "comes closest to the reference answers by similarity (no judge)" in alone.text
    ranks = alone.tables["All subsets"][0]
    assert "Similarity to the reference (no judge)" in ranks
    assert "LLM judge" not in alone.text


def test_the_overall_ranking_says_where_similarity_stands_in_for_a_judge():
    def ranked(metric, subset):
        return Estimate(metric=metric, subset=subset, arm="a", method="mean/none", rank=1)

    rows = [ranked("verdict", "x/test"), ranked("reference_similarity", "x/test"),
            ranked("reference_similarity", "y/test")]  # fmt: skip
    assert results.rank_titles(rows, "x/test")["judge"] == "LLM judge"
    assert results.rank_titles(rows, "y/test")["judge"] == "Similarity to the reference (no judge)"
    assert results.rank_titles(rows, "all subsets")["judge"] == (
        "LLM judge, else similarity to the reference (no judge)"
    )


def test_what_was_not_measured_has_no_place(alone, full):
    for words in (
        "Right in all orders", "Same option in two orders", "Letters named", "Key facts stated",
        "BLEU, corpus", "Verdicts", "Strength",
    ):  # fmt: skip
        assert words in full.text
        assert words not in alone.text
    assert instruments.beside(config.Study(), [], [], [], [], [], [], [], {}) == {}


def test_a_judge_that_never_answered_has_a_section_all_the_same(study):
    lost = [
        Judgement(judgement_id=f"{i}", judge="panel-1", question_id="q", mode="verdict",
                  order=("base",), status="error", reason="timeout", prompt_sha="5a")
        for i in range(3)
    ]  # fmt: skip
    made = page(report.build(study, {"judgements": lost}, {}))
    assert "LLM judge" in made.heads
    assert made.tables["Judges"][1][3:7] == ["3", "0", "0", "3"]


def test_wording_is_shown_with_signature_and_encoder(full):
    for words in (
        "BLEU (sentence, smoothed): nrefs:1|case:mixed|smooth:exp.",
        "BLEU (corpus): nrefs:1|eff:no|tok:13a.",
        "ROUGE: rouge-score 0.1.2, stemmed.", "BERTScore: minilm, layer 6, not rescaled.",
    ):  # fmt: skip
        assert words in full.text


def test_facts_citations_and_length_are_not_ranked(full):
    section = full.html[full.html.index('id="content"') : full.html.index('id="differences"')]
    table = re.search(r"<table class=\"results\">.*?</table>", section, re.DOTALL)[0]
    assert "Words" in table
    assert "Rank" not in table
    assert "tied" not in table


def test_key_facts_are_told_with_who_listed_and_looked_for_them():
    facts = [KeyFacts(question_id=f"q{i}", facts=("a", "b", "c")[: i + 1], model="m")
             for i in range(3)]  # fmt: skip
    facts.append(KeyFacts(question_id="q9", reason="not a list", model="m"))
    looked = [
        Judgement(judgement_id=f"{i}", judge="facts", question_id="q0", mode="facts",
                  order=("a",), model="m", prompt_sha="5a", reason="prose" if i else "")
        for i in range(2)
    ]  # fmt: skip
    made = instruments.beside(config.Study(), [], [], looked, facts, [], [], [], {})
    assert made["content"].groups[0].sentences == [
        "m listed the key facts of 3 of 4 references, 2.0 a reference on average, and looked for "
        "them in 2 answers; 1 reply could not be read."
    ]
    assert set(made) == {"content"}


def graded(arm, question, value, label, note="", rater="j", metric="verdict"):
    return Score(question_id=question, arm=arm, metric=metric, value=value, label=label, note=note,
                 rater=rater)  # fmt: skip


def test_the_worst_answers_come_first_and_no_arm_fills_the_list():
    questions = [
        Question(question_id=f"q{i}", set="s", kind="open", question=EVIL, reference="B wave",
                 split="test")
        for i in range(4)
    ]  # fmt: skip
    answers = [Answer(question_id=q.question_id, arm=a, text=EVIL) for q in questions for a in "ab"]
    scores = [graded("a", f"q{i}", 0.0, "incorrect", "harm none: no") for i in range(4)]
    scores += [graded("b", "q0", 0.75, "correct but incomplete"), graded("b", "q1", 1.0, "correct")]
    scores.append(graded("a", "q3", 1.0, "severe", metric="harm"))
    rows = worst("verdict", questions, answers, [], scores, ["a", "b"])
    assert [(r.arm, r.objections[0].grade, r.objections[0].harm) for r in rows] == [
        ("a", "incorrect", "severe"), ("a", "incorrect", ""), ("b", "correct but incomplete", ""),
    ]  # fmt: skip
    assert rows[0].objections[0].reason == "harm none: no"
    html = report.build(
        config.Study(), {"questions": questions, "answers": answers, "scores": scores}, {}
    )
    assert "<script>" not in html
    assert "49" not in plain(html).replace("{{ 7*7 }}", "")
    assert plain(html).count("<script>alert(1)</script>") >= 6


def test_evidence_that_the_judge_made_up_is_marked(full, tables, study):
    assert "Evidence: “A broad, notched R wave”" in full.text
    assert "not in what the judge was shown" not in full.text
    marked = [
        s.model_copy(update={"note": f"{s.note} (not in what was shown)"})
        if s.metric == "verdict" else s
        for s in tables["scores"]
    ]  # fmt: skip
    rows = worst("verdict", tables["questions"], tables["answers"], tables["judgements"], marked,
                 list(study.arms))  # fmt: skip
    assert rows
    assert not any(one.found for r in rows for one in r.objections)
    assert {one.reason for r in rows for one in r.objections} == {
        "The PR interval is not what was asked for."
    }


def test_without_a_judge_the_least_similar_answers_are_listed(alone, full):
    assert "Similarity (no judge)" in alone.text
    assert "Similarity (no judge)" not in full.text
