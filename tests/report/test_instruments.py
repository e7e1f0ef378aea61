"""What a reader is told about parsers, judges and their biases."""

import html as markup
import re
from types import SimpleNamespace

import pytest
import scipy.stats

from ecg_llm import config
from ecg_llm.contracts import EMPTY
from ecg_llm.records import Answer, Estimate, Judgement, KeyFacts, Question, Reliability, Score
from ecg_llm.report import instruments, report
from ecg_llm.report.measures import corrected
from ecg_llm.report.overall import rank_titles
from ecg_llm.report.worst import worst
from ecg_llm.stats.ranking import POOLED

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


def section(page, name):
    return page.html.partition(f'<h2 id="{name}"')[2].partition("</section>")[0]


def wording(page):
    """Return the rows of the first table on wording."""
    table = re.search(r"<table class=.results.>.*?</table>", section(page, "text"), re.DOTALL)[0]
    rows = re.findall(r"<tr\b.*?>(.*?)</tr>", table)
    return [[plain(cell) for cell in re.findall(r"<t[hd]\b.*?>(.*?)</t[hd]>", r)] for r in rows]


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
        "(95 % interval +7.5 to +16.5; 60 letters; p, corrected, 0.005)." in full.text
    )
    assert (
        "For tuned, base+rag, tuned+rag, frontier-api and extractive no place is clearly favoured "
        "or shunned, corrected for 24 intervals (Holm). This does not show" in full.text
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
            "No answer", "Not judged", "Harm none", "Possible", "Severe", "Not stated",
        ]  # fmt: skip
        assert [r[0] for r in rows] == list(study.arms)
        for line in rows:
            number, *counts = map(int, line[1:])
            assert sum(counts[:6]) == number
            assert sum(counts[:4]) == sum(counts[6:])
            counted += number
    assert counted == sum(s.metric == "verdict" for s in scores)
    for column, status in ((6, "error"), (7, "unjudged")):
        wanted = sum(s.metric == "verdict" and s.status == status for s in scores)
        assert wanted
        assert wanted == sum(
            int(line[column]) for name in full.tables if name.startswith("Verdicts")
            for line in full.tables[name][1:]
        )  # fmt: skip


def test_the_panel_is_listed_with_what_came_of_its_requests(full, tables):
    answers = sum(a.question_id >= "q060" for a in tables["answers"])
    failed = sum(a.question_id >= "q060" and a.status != "ok" for a in tables["answers"])
    sent = answers - failed
    assert full.tables["Judges"][1:] == [
        ["panel-1", "claude-sonnet", "verdict", f"{sent}", f"{sent}", "0", "0", "0", f"{failed}",
         f"{failed}"],
        ["panel-1", "claude-sonnet", "ranking", "60", "60", "0", "0", "0", "0", "0"],
        ["panel-2", "claude-sonnet", "verdict", f"{sent}", f"{sent - 3}", "3", "0", "3",
         f"{failed}", f"{failed}"],
    ]  # fmt: skip


def test_what_was_not_sent_or_not_shown_is_no_failure_and_an_empty_reply_is_unread():
    def ranked(name, **columns):
        return Judgement(judgement_id=name, judge="j", question_id=name[0], mode="ranking",
                         order=("a", "b", "c"), **columns)  # fmt: skip

    answers = [
        Answer(question_id=q, arm=arm, text="" if (q, arm) in (("q", "c"), ("r", "b")) else "P",
               status="error" if (q, arm) == ("r", "c") else "ok")
        for q in "qr" for arm in "abc"
    ]  # fmt: skip
    judgements = [
        ranked("q1", prompt_sha="5a", reply="{}"),
        ranked("q2", prompt_sha="5a", former=" ", status="error", reason=EMPTY),
        ranked("q3", prompt_sha="5a", status="error", reason="timeout"),
        ranked("q4", prompt_sha="5a", status="refused", reason="content filter"),
        ranked("r1", reason="fewer than two answers to show"),
    ]
    made = instruments.beside(config.Study(), [], answers, judgements, [], [], [], [], {})
    table = made["judge"].groups[0].parts[0].table
    assert dict(zip(table.header, table.rows[0], strict=True)) == {
        "Judge": "j", "Model": "–", "Asked for": "ranking", "Requests": 4, "Read": 1, "Unread": 1,
        "Failed": 2, "Asked again": 1, "Not sent": 1, "Answers not shown": 3,
    }  # fmt: skip


def test_a_place_is_named_only_where_chance_among_all_intervals_would_not_do_it():
    def share(arm, place, value):
        return row("place_share", value, value - 0.05, value + 0.05, 0.0, place, "choice", arm)

    rows = [share(f"arm{i:02}", place, 0.06) for i in range(13) for place in "ABCD"]
    assert told(*rows, judges=()) == (
        "No arm clearly favours or shuns a place, corrected for 52 intervals (Holm). This does not "
        "show that there is no preference."
    )
    told_one = told(share("odd", "A", -0.3), *rows, judges=())
    assert "odd names A less often than its keys stand there: −30.0 points" in told_one
    assert "For 13 arms no place is clearly favoured or shunned" in told_one
    assert "names" not in told_one.replace("odd names", "")


def test_p_is_that_of_the_interval_and_corrected_over_all_rows():
    edge = row("place_share", 0.05, 0.0, 0.1)
    assert corrected([edge]) == [pytest.approx(0.05)]
    (p,) = corrected([row("place_share", -0.1, -0.15, -0.05)])
    assert p == pytest.approx(2 * scipy.stats.t(11).sf(2 * scipy.stats.t(11).ppf(0.975)))
    assert corrected([edge] * 3) == [pytest.approx(0.15)] * 3
    assert corrected([row("place_share", 0.3, None, None), edge]) == [None, pytest.approx(0.05)]
    assert corrected([row("place_share", 0.0, 0.0, 0.0)]) == [1.0]


def test_a_warning_about_kin_stands_where_the_results_of_the_judges_do(full, manifests):
    (warning,) = manifests["judgements/panel-1"]["notes"]
    assert warning in plain(section(full, "judge"))


def test_only_warnings_stand_under_in_short_and_those_on_key_facts_beside_the_facts(study, tables):
    notes = {
        "index": {"notes": ["165 passages, 165 embedded now"]},
        "facts": {"notes": ["claude-sonnet lists key facts and answers as frontier-api"]},
    }
    made = page(report.build(study, tables, notes))
    assert "embedded now" not in made.text
    for name in ("summary", "content"):
        assert notes["facts"]["notes"][0] in plain(section(made, name))


def test_agreement_and_biases_have_their_value_without_bias_and_their_number(full):
    assert full.tables["Agreement"][1:] == [
        ["Equal grades, % (verdict)", "panel-1 ~ panel-2", "71.0 64.0 to 78.0", "60", "10"],
        ["Cohen's kappa, quadratic weights (verdict)", "panel-1 ~ panel-2", "0.62 0.52 to 0.72",
         "60", "10"],
        ["Krippendorff's alpha, ordinal (verdict)", "panel", "0.61 0.50 to 0.72", "60", "10"],
        ["Krippendorff's alpha, ordinal (harm)", "panel", "0.52 0.41 to 0.63", "60", "10"],
    ]  # fmt: skip
    sway = {line[0]: line[1:] for line in full.tables["What sways “panel-1”"]}
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
        ("slot_effect", -0.3, -0.4, -0.2, "“j” places answers lower the further down they are"),
        ("slot_effect", 0.3, 0.2, 0.4, "“j” places answers higher the further down they are"),
        ("slot_effect", 0.1, -0.1, 0.3, "“j” shows no clear effect of the slot: log-odds a slot "
         "+0.10 (95 % interval −0.10 to +0.30; n = 240). An effect inside the interval"),
        ("length_effect", 0.2, 0.1, 0.3, "“j” favours longer answers: log-odds for twice the words "
         "+0.20 (95 % interval +0.10 to +0.30; n = 240). This need not be bias"),
        ("length_slope", -0.2, -0.3, -0.1, "“j” favours shorter answers: change of the verdict"),
        ("length_effect", 0.2, -0.1, 0.5, "“j” shows no clear effect of length"),
    ],
)  # fmt: skip
def test_a_sentence_on_bias_goes_no_further_than_its_interval(measure, value, low, high, words):
    assert words in told(row(measure, value, low, high))


def test_swapped_pairs_are_told_beside_pairs_shown_again_in_the_same_order():
    assert (
        "Shown in the other order, “j” placed 54.6 % of pairs alike (95 % interval 47.0 to 62.0; "
        "n = 240); shown in the same order again, 68.9 %."
    ) in told(row("swap_consistency", 0.546, 0.47, 0.62, 0.689))


def test_values_of_one_document_say_why_they_have_no_interval():
    alone = row("place_share", 0.3, None, None, 0.0, "A", "choice", "a")
    alone = alone.model_copy(update={"clusters": 1})
    made = instruments.beside(config.Study(), [], [], [], [], [], [alone], [], {})
    made = made["choice"].groups[0]
    why = "Without an interval: the questions come from one document."
    assert made.parts[0].table.note.endswith(why)
    assert made.figures[0].caption.endswith(why)


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
    assert "“j” is the only judge, so nothing can be said about agreement" in told(judges=("j",))
    assert "only judge" not in told(judges=("i", "j"))


def test_strengths_stand_beside_those_at_equal_length(full, study, tables):
    assert "Judges' verdict" in full.heads
    assert "Strength in rankings" in full.heads
    assert "Strength at equal length" in full.heads
    # In short tells the rankings only where there are no verdicts.
    assert "log-odds" not in plain(section(full, "summary"))
    ranked = page(report.build(study, without(tables, ("verdict",)), {}))
    assert (
        "LLM judge frontier-api : in the rankings 0.68 (0.28 to 1.08) log-odds above the mean of "
        "the arms, 15 open questions. Ranked below, uncorrected: tuned, base and extractive. Tied "
        "by rank: tuned+rag and base+rag."
    ) in plain(section(ranked, "summary"))


def test_strengths_that_no_arm_has_are_left_out_with_the_reason(study, tables):
    lost = [
        e.model_copy(update={"value": None, "low": None, "high": None, "rank": None})
        if e.metric == "ranking_strength_length" and e.subset == "handbook/test" else e
        for e in tables["estimates"] if e.metric.startswith("ranking_strength")
    ]  # fmt: skip
    made = page(report.build(study, {"estimates": lost}, {}))
    here = section(made, "judge")
    judged = re.findall(r"<caption>(\S+)</caption>\s*<thead>(.*?)</thead>", here)
    columns = {subset: "Strength at equal length" in head for subset, head in judged}
    assert columns == {"handbook/test": False, "handbook/test_seen": True}
    assert (
        "“Strength at equal length” is left out for handbook/test: length and arm cannot be told "
        "apart there."
    ) in plain(here)


def test_without_any_strength_the_reason_is_told_once(study, tables):
    lost = [
        e.model_copy(update={"value": None, "low": None, "high": None, "rank": None})
        for e in tables["estimates"] if e.metric.startswith("ranking_strength")
    ]  # fmt: skip
    here = plain(section(page(report.build(study, {"estimates": lost}, {})), "judge"))
    assert (
        "“Strength in rankings” is left out for handbook/test and handbook/test_seen: the "
        "rankings do not link all arms there, not even through a third."
    ) in here
    assert here.count("is left out") == 1


def test_below_a_table_stands_what_missing_counts(full, study):
    here = plain(section(full, "judge"))
    assert "Missing: answers that failed, or that could not be read or judged." in here
    assert re.search(r"the fewest and the most are given, as 0–\d\.", here)
    whole = Estimate(metric="verdict", subset="s/test", arm="a", method="mean/none", value=0.5)
    assert "Missing: answers" not in page(report.build(study, {"estimates": [whole]}, {})).text


def test_similarity_never_stands_under_a_judge(alone):
    assert "Similarity to the reference (no judge)" in alone.heads
    named = [head for head in alone.heads if "judge" in head.lower()]
    assert named
    assert all("(no judge" in head for head in named)
    short = plain(section(alone, "summary"))
    assert "Similarity to the reference (no judge) tuned+rag : 0.6" in short
    assert "Similarity to the reference (no judge)" in plain(section(alone, "overall"))
    assert "LLM judge" not in alone.text


def test_the_overall_ranking_says_where_similarity_stands_in_for_a_judge():
    def ranked(metric, subset):
        return Estimate(metric=metric, subset=subset, arm="a", method="mean/none", rank=1)

    rows = [ranked("verdict", "x/test"), ranked("reference_similarity", "x/test"),
            ranked("reference_similarity", "y/test")]  # fmt: skip
    assert rank_titles(rows, "x/test")["judge"] == "LLM judge"
    assert rank_titles(rows, "y/test")["judge"] == "Similarity to the reference (no judge)"
    assert rank_titles(rows, POOLED)["judge"] == (
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


@pytest.mark.parametrize(
    ("lost", "told"), [(5, False), (6, True), (100, True)], ids=["5 %", "6 %", "all"]
)
def test_a_judge_that_often_gave_nothing_to_read_is_named_in_short(study, lost, told):
    asked = [
        Judgement(judgement_id=f"{i}", judge="panel-1", question_id="q", mode="verdict",
                  order=("base",), prompt_sha="5a", reply="Fine.",
                  **({"status": "error", "reason": "timeout"} if i == 0 else
                     {"reason": "no JSON object"} if i < lost else {}))
        for i in range(100)
    ]  # fmt: skip
    mean = Estimate(metric="verdict", subset="s/test", arm="base", method="mean/none", value=0.5)
    made = page(report.build(study, {"estimates": [mean], "judgements": asked}, {}))
    words = (
        f"Judge “panel-1”: {lost} of 100 verdict replies could not be read or failed; its verdicts "
        "are missing from these means."
    )
    short = plain(section(made, "summary"))
    assert (words in short) == told
    assert "LLM judge base : mean verdict 0.500" in short


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
        "BLEU (sentence, smoothed): nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:2.6.0.",
        "BLEU (corpus): nrefs:1|eff:no|tok:13a.",
        "ROUGE: rouge-score 0.1.2, stemmed.", "BERTScore: minilm, layer 6, not rescaled.",
    ):  # fmt: skip
        assert words in full.text


def test_corpus_bleu_is_ranked_and_compared_like_the_other_metrics(full):
    head, first, *_, last = wording(full)
    at = head.index("BLEU, corpus")
    assert head[at + 1].startswith("Rank")
    assert (first[at], first[at + 1]) == ("0.100 0.050 to 0.150", "1")
    assert (last[0], last[at + 1]) == ("extractive", "2")
    assert "BLEU (corpus), handbook/test: 1 of 1 distinguishable" in full.heads


def test_without_ranks_there_is_no_column_of_ranks(study, tables):
    kept = [e.model_copy(update={"rank": None}) for e in tables["estimates"]]
    assert "Rank" not in wording(page(report.build(study, {"estimates": kept}, {})))[0]


def test_facts_citations_and_length_are_not_ranked(full):
    here = section(full, "content")
    table = re.search(r"<table class=\"results\">.*?</table>", here, re.DOTALL)[0]
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
        "them in 2 answers. 1 of its replies could not be read and 0 requests failed; these "
        "answers are left out of the shares of facts."
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
    assert [(r.answer.arm, r.objections[0].grade, r.objections[0].harm) for r in rows] == [
        ("a", "incorrect", "severe"), ("a", "incorrect", ""), ("b", "correct but incomplete", ""),
    ]  # fmt: skip
    assert rows[0].objections[0].reason == "harm none: no"
    html = report.build(
        config.Study(), {"questions": questions, "answers": answers, "scores": scores}, {}
    )
    assert "<script>" not in html
    assert "49" not in plain(html.partition("</style>")[2]).replace("{{ 7*7 }}", "")
    assert plain(html).count("<script>alert(1)</script>") >= 6


def test_among_the_worst_an_unread_judge_is_shown_and_an_answer_nobody_judged_is_not():
    questions = [Question(question_id=q, set="s", kind="open", question="?", split="test")
                 for q in "qr"]  # fmt: skip
    answers = [Answer(question_id=q, arm="a", text="P wave") for q in "qr"]
    lost = [
        Score(question_id=q, arm="a", metric="verdict", rater="k", status="unjudged", note="prose")
        for q in "qr"
    ]
    rows = worst(
        "verdict", questions, answers, [], [graded("a", "q", 0.0, "incorrect"), *lost], ["a"]
    )
    assert [[(o.rater, o.grade) for o in r.objections] for r in rows] == [
        [("j", "incorrect"), ("k", "not judged")]
    ]
    assert rows[0].objections[1].reason == "prose"


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
    assert "Similarity (no judge): " in alone.text
    assert "Similarity (no judge): " not in full.text
