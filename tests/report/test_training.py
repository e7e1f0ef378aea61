import html
import re

import pytest

from ecg_llm import config
from ecg_llm.records import Estimate, Question, Retention, Training
from ecg_llm.report import report, training
from ecg_llm.report.forgetting import forgetting, sentence

STUDY = config.parse(
    {
        "models": {"llama": {"kind": "local", "id": "a/b"}, "nano": {"kind": "nano"}},
        "adapters": {
            "ecg": {"model": "llama", "rank": 64, "alpha": 128, "patience": 2, "keep": "choice"}
        },
        "sweeps": {"grid": {"adapter": "ecg", "settings": [{"rank": [8, 16], "alpha": [16]}]}},
        "arms": {
            "base": {"model": "llama"},
            "tuned": {"model": "llama", "adapter": "ecg"},
            "base+rag": {"model": "llama", "retrieve": True},
        },
        "estimates": {"resamples": 1000},
    }
)  # fmt: skip
RECORDS = {
    "ecg": {
        "stopped_early": True,
        "train": {"examples": 1234, "open": 1000, "choice": 234, "too_long": 5, "truncated": 0,
                  "longest": 987},
    }
}  # fmt: skip
VAL = [
    Question(
        question_id=f"v{i}", set="written", kind="choice", question="Which?", answer="A",
        options=("a", "b", "c", "d"), split="val",
    )
    for i in range(3)
]  # fmt: skip


def job(adapter="ecg", kept=20, losses=(2.0, 1.5, 1.7), choices=(0.5, 0.75, 0.25)):
    """Three looks at val, at steps 10, 20 and 30, and a training loss at every step."""
    looks = {10 * (i + 1): look for i, look in enumerate(zip(losses, choices, strict=True))}
    return [
        Training(
            adapter=adapter, phase="tune", step=step, loss=3 / step, tokens=100 * step,
            eval_loss=looks.get(step, (None,))[0], eval_choice=looks.get(step, (0, None))[1],
            kept=step == kept,
        )
        for step in range(1, 31)
    ]  # fmt: skip


def retained(before, after, name="mmlu", kind="choice", adapter="ecg"):
    return [
        Retention(adapter=adapter, question_id=f"{name}{i}", set=name, kind=kind, before=a, after=b)
        for i, (a, b) in enumerate(zip(before, after, strict=True))
    ]


def likelihood(arm, against="", value=0.3, subset="written/test_seen"):
    return Estimate(
        metric="reference_likelihood", subset=subset, arm=arm, against=against, value=value,
        low=value - 0.1, high=value + 0.1, p=0.01, p_adjusted=0.02, questions=40, clusters=12,
        method="difference/cluster_t",
    )  # fmt: skip


def page(rows=(), sweep=(), retention=(), estimates=(), questions=(), records=RECORDS):
    tables = {
        "training": rows, "retention": retention, "estimates": estimates, "questions": questions,
    }  # fmt: skip
    return report.build(STUDY, tables, {}, records=records, sweep_rows=sweep)


def figures(text):
    """Return the figures of the section on training."""
    section = re.search(r'<section aria-labelledby="training">.*?</section>', text, re.DOTALL)[0]
    return re.findall(r"<svg.*?</svg>", section, re.DOTALL)


def cells(text, *header):
    """Return the rows of the first table whose heads start so, cells as their text."""
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        rows = [
            [
                html.unescape(re.sub(r"<[^>]*>", "|", cell)).strip("|")
                for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
            ]
            for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)
        ]
        if tuple(rows[0][: len(header)]) == header:
            return rows[1:]
    return None


def test_without_rows_there_is_no_section():
    assert 'id="training"' not in page()
    assert "#training" not in page()
    assert training.training_figures(STUDY, [], [], [], [], [], {}) is None


def test_a_job_is_told_by_the_weights_that_were_kept():
    (row,) = cells(page(job()), "Job", "Phase", "Steps")
    assert row == [
        "ecg", "fine-tuning", "30", "20", "yes", "3,000", "0.100", "1.500", "75.0 %",
    ]  # fmt: skip
    (row,) = cells(page(job(kept=None)), "Job", "Phase", "Steps")
    assert (row[3], row[-2:]) == ("–", ["1.700", "25.0 %"])


def test_the_curves_of_loss_and_of_choice_accuracy_show_the_kept_step():
    plots = training.training_figures(STUDY, job(), [], [], [], VAL, {}).plots
    loss, choice = (plot.svg for plot in plots)
    for text in (">training</text>", ">validation</text>", ">kept, step 20</text>"):
        assert text in loss
    for text in (">validation</text>", ">guessing</text>", ">kept, step 20</text>", " %</text>"):
        assert text in choice
    assert "guessing" not in loss
    assert len(figures(page(job(), questions=VAL))) == 2
    unkept = training.training_figures(STUDY, job(kept=None), [], [], [], [], {}).plots
    assert not any("kept" in plot.svg or "guessing" in plot.svg for plot in unkept)


def test_a_job_without_validation_has_its_loss_alone():
    nano = [
        Training(adapter="nano", phase="pretrain", step=step, loss=9 / step, tokens=step)
        for step in (1, 2, 3)
    ]
    text = page(nano)
    assert len(figures(text)) == 1
    (row,) = cells(text, "Job", "Phase")
    assert row == ["nano", "pretraining", "3", "–", "no", "3", "3.000", "–", "–"]
    assert cells(text, "Adapter", "On") is None
    assert cells(text, "", "ecg") is None


def test_settings_and_examples_stand_beside_the_job():
    text = page(job())
    (row,) = cells(text, "Adapter", "On", "Method")
    assert row[:6] == ["ecg", "llama", "LoRA", "all linear", "64", "128"]
    assert row[-1] == "choice"
    assert cells(text, "", "ecg") == [
        ["Examples", "1,234"], ["Open", "1,000"], ["Choice", "234"],
        ["Left out, longer than the limit", "5"], ["Truncated", "0"],
        ["Tokens of the longest", "987"],
    ]  # fmt: skip


@pytest.mark.parametrize("record", [{}, {"train": None}, {"train": {"examples": "many"}}])
def test_a_record_that_says_nothing_leaves_its_table_out(record):
    text = page(job(), records={"ecg": record})
    assert cells(text, "", "ecg") is None
    assert cells(text, "Job")[0][4] == "–"


def test_speed_leaves_no_trace_since_equal_inputs_give_equal_bytes():
    slow, fast = ({"ecg": {**RECORDS["ecg"], "seconds": n}} for n in (1, 2))
    assert page(job(), records=slow) == page(job(), records=fast)


def test_a_sweep_is_sorted_by_what_the_adapter_keeps_and_its_best_is_marked():
    worse_loss = job("ecg-rank8-alpha16", 20, (2.0, 1.9, 1.9), (0.5, 0.8, 0.2))
    better_loss = job("ecg-rank16-alpha16", 20, (2.0, 1.1, 1.2), (0.5, 0.7, 0.2))
    text = page(sweep=worse_loss + better_loss)
    rows = cells(text, "Variant", "Rank", "Alpha")
    assert [row[:3] for row in rows] == [
        ["ecg-rank8-alpha16", "8", "16"], ["ecg-rank16-alpha16", "16", "16"],
    ]  # fmt: skip
    assert rows[0][3:] == ["20", "1.900", "80.0 %", "best"]
    assert rows[1][3:] == ["20", "1.100", "70.0 %", ""]
    by_loss = STUDY.model_copy(
        update={"adapters": {"ecg": STUDY.adapters["ecg"].model_copy(update={"keep": "loss"})}}
    )
    (lines,) = training.sweeps(by_loss, worse_loss + better_loss)
    assert [(line.name, line.best) for line in lines.variants] == [
        ("ecg-rank16-alpha16", True), ("ecg-rank8-alpha16", False),
    ]  # fmt: skip


def test_a_variant_that_was_not_trained_is_named_last():
    rows = cells(page(sweep=job("ecg-rank16-alpha16")), "Variant")
    assert [row[0] for row in rows] == ["ecg-rank16-alpha16", "ecg-rank8-alpha16"]
    assert rows[1][3:] == ["not trained", "–", "–", ""]
    assert cells(page(job()), "Variant") is None


def test_variants_without_validation_have_no_best():
    rows = [
        row.model_copy(update={"eval_loss": None, "eval_choice": None, "kept": False})
        for row in job("ecg-rank16-alpha16")
    ]
    (lines,) = training.sweeps(STUDY, rows)
    assert not any(line.best for line in lines.variants)


def test_forgotten_choices_are_counted_and_tested_by_mcnemar():
    rows = retained([1.0] * 10 + [0.0] * 10, [1.0] * 4 + [0.0] * 15 + [1.0])
    text = page(retention=rows)
    (row,) = cells(text, "Set", "Adapter", "Questions")
    # 6 lost and 1 gained: 2 (C(7,0) + C(7,1)) / 2^7 = 0.125
    assert row[0].startswith("mmlu")
    assert row[1:5] == ["ecg", "20", "50.0 %", "25.0 %"]
    assert row[5].split("|")[0] == "−25.0"
    assert row[6:] == ["6", "1", "0.125", "0.125", "not distinguishable"]
    assert (
        "ecg answers 5 fewer of 20 multiple-choice questions of mmlu right than llama, "
        "6 lost and 1 gained: not distinguishable." in text
    )


def test_forgotten_open_answers_are_told_by_their_likelihood():
    before = [-2.0 - 0.01 * i for i in range(40)]
    rows = retained(before, [value - 0.5 for value in before[:39]] + [-2.5], "clinic", "open")
    rows.append(
        Retention(
            adapter="ecg", question_id="long", set="clinic", kind="open",
            status="not_applicable", reason="too long",
        )
    )  # fmt: skip
    (found,) = forgetting(rows, [], 1000, 0)
    assert (found.questions, found.left_out, found.clear) == (40, 1, True)
    assert found.difference.low < -0.49 < -0.4 < found.difference.high + 0.2
    (row,) = cells(page(retention=rows), "Set", "Adapter")
    assert row[2] == "40|1 not scored"
    assert row[6:] == ["–", "–", "< 0.001", "< 0.001", "forgot"]
    assert "log-likelihood per token that is 0.49" in sentence(found, "llama")
    assert sentence(found, "llama").endswith("): distinguishable.")


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ([1.0, 1.0, 0.0, 0.0], "ecg answers as many of 4 multiple-choice questions of mmlu right "
         "as llama, 0 lost and 0 gained: not distinguishable."),
        ([1.0, 1.0, 1.0, 0.0], "ecg answers 1 more of 4 multiple-choice questions of mmlu right "
         "than llama, 0 lost and 1 gained: not distinguishable."),
    ],
)  # fmt: skip
def test_no_change_and_gains_are_told_as_such(after, words):
    (found,) = forgetting(retained([1.0, 1.0, 0.0, 0.0], after), [], 1000, 0)
    assert sentence(found, "llama") == words


def test_many_sets_are_corrected_together():
    one = retained([1.0] * 20, [1.0] * 13 + [0.0] * 7)
    (alone,) = forgetting(one, [], 1000, 0)
    both = forgetting([*one, *retained([1.0, 0.0], [1.0, 0.0], "other")], [], 1000, 0)
    assert alone.difference.p == alone.difference.p_adjusted == pytest.approx(2 / 2**7)
    assert both[0].difference.p_adjusted == pytest.approx(4 / 2**7)


def test_questions_of_one_group_are_one_cluster():
    rows = retained([1.0] * 8, [0.0] * 8)
    grouped = [q.model_copy(update={"question_id": f"mmlu{i}", "group": f"g{i // 4}"})
               for i, q in enumerate(VAL * 3)]  # fmt: skip
    (alone,), (joint,) = (forgetting(rows, q, 1000, 0) for q in ([], grouped))
    assert (alone.difference.clusters, joint.difference.clusters) == (8, 2)
    assert joint.difference.p > alone.difference.p


def test_what_could_not_be_scored_at_all_is_said():
    row = Retention(
        adapter="ecg", question_id="q", set="mmlu", kind="choice", status="not_applicable",
        reason="too long",
    )  # fmt: skip
    text = page(retention=[row])
    assert "None of the 1 multiple-choice questions of mmlu could be scored with ecg." in text
    assert cells(text, "Set", "Adapter")[0][-1] == "not tested"


def test_what_was_learned_is_the_difference_that_the_adapter_alone_made():
    rows = [
        likelihood("base", "tuned", -0.3),  # as undeclared pairs come, by name
        likelihood("tuned", "base", 0.1, "written/test"),
        likelihood("base+rag", "base"),
        likelihood("tuned", "base+rag"),
        likelihood("tuned"),
        likelihood("tuned", "base").model_copy(update={"metric": "rougeL"}),
    ]
    found = cells(page(estimates=rows), "Subset", "Difference", "Nats a token")
    assert found == [
        ["written/test_seen", "tuned − base", "+0.300|+0.200 to +0.400", "0.010", "0.020", "40",
         "12", "tuned higher"],
        ["written/test", "tuned − base", "+0.100|0.000 to +0.200", "0.010", "0.020", "40", "12",
         "tuned higher"],
    ]  # fmt: skip
    assert cells(page(estimates=rows[2:]), "Subset", "Difference", "Nats a token") is None


def test_names_from_files_are_inert():
    evil = "<script>alert(1)</script>"
    text = page(retention=retained([1.0, 0.0], [0.0, 0.0], evil))
    assert "<script" not in text
    assert html.escape(evil) in text
