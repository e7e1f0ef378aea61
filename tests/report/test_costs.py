import pytest

from ecg_llm import config
from ecg_llm.records import Answer, Citation, Latency, Question
from ecg_llm.report.costs import cheapest, cost_table, costs, figure

SERVER = {"kind": "api", "base_url": "http://x/v1", "model": "m"}
MODELS = {
    "paid": {**SERVER, "price_in": 3, "price_out": 15},
    "free": SERVER,
    "own": {"kind": "local", "id": "org/model", "price_hour": 3.6},
    "rented": {**SERVER, "price_in": 1, "price_hour": 3.6},
}


def made(*arms):
    return config.parse(
        {"models": MODELS, "arms": {arm: {"model": arm.partition("-")[0]} for arm in arms}}
    )


def asked(count, kind="open"):
    return [
        Question(question_id=f"{kind}{i}", set="s", kind=kind, question="?", split="test")
        for i in range(count)
    ]


def answered(arm, questions, **columns):
    given = {"tokens_in": 1000, "tokens_out": 200, **columns}
    return [Answer(question_id=q.question_id, arm=arm, **given) for q in questions]


def timed(arm, questions, seconds, **columns):
    return [
        Latency(question_id=q.question_id, arm=arm, seconds=s, **columns)
        for q, s in zip(questions, seconds, strict=True)
    ]


def test_seconds_are_the_median_and_the_95th_percentile_with_the_search():
    questions = asked(20)
    times = timed("paid", questions, range(1, 21), search_seconds=0.5, memory_mb=2048)
    (row,) = costs(made("paid"), questions, answered("paid", questions), times)
    assert (row.seconds, row.slow, row.memory_mb) == (11.0, 19.5, 2048)
    assert (row.tokens_in, row.tokens_out) == (1000, 200)


@pytest.mark.parametrize(
    ("arm", "money"),
    [
        ("paid", 1000 * (1000 * 3 + 200 * 15) / 1e6),
        ("free", None),
        ("own", 1000 * 2 * 3.6 / 3600),
        ("rented", 1000 * (1000 * 1 / 1e6 + 2 * 3.6 / 3600)),
    ],
)
def test_money_is_of_a_thousand_answers_by_tokens_and_by_the_hour(arm, money):
    questions = asked(4)
    times = timed(arm, questions, [1, 3, 1, 3])
    (row,) = costs(made(arm), questions, answered(arm, questions), times)
    assert row.money == (None if money is None else pytest.approx(money))


def test_an_hours_price_without_any_seconds_leaves_the_money_unknown():
    questions = asked(2)
    for arm in ("own", "rented"):
        (row,) = costs(made(arm), questions, answered(arm, questions), [])
        assert (row.money, row.seconds, row.memory_mb) == (None, None, None)


def test_kept_replies_and_failed_answers_do_not_lower_the_figures():
    questions = asked(4)
    answers = answered("paid", questions[:3])
    answers += answered("paid", questions[3:], status="error", tokens_in=0, tokens_out=0)
    times = timed("paid", questions, [4.0, 0.0, 4.0, 0.1])
    (row,) = costs(made("paid"), questions, answers, times)
    assert (row.seconds, row.slow, row.tokens_in) == (4.0, 4.0, 1000)


def test_open_questions_alone_count_where_every_arm_has_answered_some():
    opened, choices = asked(2), asked(2, "choice")
    answers = answered("paid", opened) + answered("paid", choices, tokens_out=2)
    (row,) = costs(made("paid"), opened + choices, answers, [])
    assert (row.open, row.tokens_out) == (True, 200)
    answers += answered("free", choices, tokens_out=2)
    paid, free = costs(made("paid", "free"), opened + choices, answers, [])
    assert (paid.open, paid.tokens_out, free.tokens_out) == (False, 101, 2)


def test_the_table_leaves_out_what_nobody_has_and_says_what_a_batch_means():
    questions = asked(2)
    shown = (Citation(passage_id="p", score=1),)
    answers = answered("paid", questions) + answered("own", questions, passages=shown)
    times = timed("paid", questions, [2, 2]) + timed("own", questions, [1, 1], together=8)
    table = cost_table(costs(made("paid", "own"), questions, answers, times))
    assert table.header == (
        "Arm", "Seconds, median", "Seconds, 95 %", "Tokens read", "Tokens written",
        "Passages shown", "Money, 1,000 answers",
    )  # fmt: skip
    assert table.rows[0] == ("paid", "2.0", "2.0", "1,000", "200", "–", "6.0")
    assert table.rows[1] == ("own", "1.0", "1.0", "1,000", "200", "1.0", "1.0")
    assert "own made several answers at once" in table.note
    assert cost_table([]) is None
    bare = cost_table(costs(made("free"), questions, answered("free", questions), []))
    assert bare.header == ("Arm", "Tokens read", "Tokens written")
    assert "No price is set" in bare.note


def test_an_arm_that_the_study_does_not_have_is_listed_without_money():
    questions = asked(1)
    rows = costs(made("paid"), questions, answered("ghost", questions), [])
    assert [(row.arm, row.money) for row in rows] == [("ghost", None)]
    assert costs(made("paid"), questions, [], []) == []


def test_the_cheapest_is_named_by_money_then_seconds_and_never_by_memory():
    questions = asked(2)
    study = made("paid", "own", "free")
    answers = [row for arm in study.arms for row in answered(arm, questions)]
    times = timed("paid", questions, [1, 1]) + timed("own", questions, [9, 9], memory_mb=9000)
    paid, own, free = costs(study, questions, answers, times)
    assert cheapest([paid, own]) == ("paid", "6.0 for 1,000 answers, against 9.0")
    # Of free neither price nor seconds are known.
    assert cheapest([paid, free]) is None
    own, paid = own._replace(money=None), paid._replace(memory_mb=1024)
    assert cheapest([own, paid]) == ("paid", "1.0 seconds an answer, against 9.0")
    # Shares of a batch are no seconds that a user waits.
    shared = own._replace(together=8)
    # The memory is that of a process, which may have made the answers of other arms.
    assert cheapest([shared, paid]) is None
    assert cheapest([paid, paid._replace(arm="twin")]) is None
    assert cheapest([paid]) is None


def test_figures_have_two_significant_digits():
    values = (None, 0, 0.0004, 0.0123, 0.2, 0.996, 1.25, 12.34, 12345.6)
    shown = [figure(value) for value in values]
    assert shown == ["–", "0", "< 0.001", "0.012", "0.20", "1.0", "1.2", "12", "12,346"]
