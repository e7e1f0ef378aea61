import math
import random

import numpy as np
import pytest
from planted import judge_reply
from rankings import drawn
from statsmodels.regression.linear_model import OLS

from ecg_llm import store
from ecg_llm.chat import ApiModel
from ecg_llm.config import ApiModelConfig, Judge, Study
from ecg_llm.contracts import EMPTY, Block
from ecg_llm.pipeline import measure_reliability
from ecg_llm.prompt import original_letter
from ecg_llm.records import GRADES, LETTERS, MEASURES, Answer, Judgement, Question, Score
from ecg_llm.score.judging import judgements
from ecg_llm.score.ranking import blocks
from ecg_llm.stats.bias import effects
from ecg_llm.stats.reliability import JudgeReply, choice_reliability, judge_reliability
from ecg_llm.steps import Work
from ecg_llm.testing import FakeServer


def table_of(rows):
    rows = list(rows)
    assert len({row.key for row in rows}) == len(rows)
    assert {row.measure for row in rows} <= set(MEASURES)
    return {(row.instrument, row.measure, row.detail): row for row in rows}


def choice_questions(count, options=4):
    rng = random.Random(0)
    return {
        f"q{n:03}": Question(
            question_id=f"q{n:03}",
            set="hand",
            kind="choice",
            question="Which?",
            options=tuple(f"option {i} of {n}" for i in range(options)),
            answer=rng.choice(LETTERS[:options]),
        )
        for n in range(count)
    }


def replies_of(questions, name_place, arm="arm", permutations=4):
    """Scores of an arm that, shown the key at a place, names the option at another."""
    scores = []
    for question in questions.values():
        options = len(question.options)
        for permutation in range(permutations):
            key = (LETTERS.index(question.answer) - permutation) % options
            place = name_place(key)
            common = {"question_id": question.question_id, "arm": arm, "permutation": permutation}
            if place is None:
                scores.append(Score(**common, metric="accuracy", status="unparsed"))
            else:
                letter = original_letter(LETTERS[place], permutation, options)
                value = float(letter == question.answer)
                scores.append(Score(**common, metric="accuracy", value=value, label=letter))
            scores.append(Score(**common, metric="unread", value=float(place is None)))
    return scores


def choice_table(scores, questions, cluster_of=None):
    return table_of(choice_reliability(scores, questions, cluster_of or {}, 2000, 0))


def test_an_arm_that_always_names_the_first_option_shown():
    questions = choice_questions(40)
    found = choice_table(replies_of(questions, lambda key: 0), questions)
    shares = [found["arm", "place_share", letter].value for letter in "ABCD"]
    assert shares == pytest.approx([0.75, -0.25, -0.25, -0.25])
    recalls = [found["arm", "place_recall", letter].value for letter in "ABCD"]
    assert recalls == [1, 0, 0, 0]
    spread = found["arm", "recall_spread", ""]
    assert spread.value == pytest.approx(np.std([1, 0, 0, 0]))
    row = found["arm", "place_share", "A"]
    assert (row.layer, row.expected, row.items, row.clusters) == ("choice", 0, 160, 40)
    assert row.low > 0.5


def test_a_fair_arm_keeps_to_what_is_expected():
    questions = choice_questions(60)
    rng = random.Random(1)
    guess = replies_of(questions, lambda key: key if rng.random() < 0.6 else rng.randrange(4))
    found = choice_table(guess, questions)
    for letter in "ABCD":
        share = found["arm", "place_share", letter]
        assert share.low < 0 < share.high
        recall = found["arm", "place_recall", letter]
        assert recall.low < 0.7 < recall.high
    spread = found["arm", "recall_spread", ""]
    assert 0 < spread.value < 3 * spread.expected
    assert "by chance" in spread.note


def test_the_spread_by_chance_is_what_a_fair_arm_shows_on_average():
    questions = choice_questions(60)
    values, expected, over = [], [], 0
    for seed in range(60):
        rng = random.Random(seed)
        scores = replies_of(questions, lambda key, rng=rng: key if rng.random() < 0.6 else 3 - key)
        row = choice_table(scores, questions)["arm", "recall_spread", ""]
        values.append(row.value)
        expected.append(row.expected)
        over += row.value > float(row.note.split()[2])
    assert np.mean(values) == pytest.approx(np.mean(expected), rel=0.15)
    assert over <= 8


def test_replies_without_a_letter_count_for_their_own_rate_only():
    questions = choice_questions(20)
    scores = replies_of(questions, lambda key: None if key == 3 else key)
    found = choice_table(scores, questions)
    assert found["arm", "unparsed", ""].value == pytest.approx(0.25)
    assert found["arm", "unparsed", ""].items == 80
    assert found["arm", "place_share", "A"].value == 0
    assert found["arm", "place_share", "A"].items == 60
    assert ("arm", "place_recall", "D") not in found
    silent = choice_table(replies_of(questions, lambda key: None), questions)
    assert set(silent) == {("arm", "unparsed", "")}
    assert silent["arm", "unparsed", ""].value == 1


def test_questions_with_fewer_options_say_nothing_of_the_last_place():
    five = choice_questions(10, options=5)
    four = {f"x{key}": q.model_copy(update={"question_id": f"x{key}"})
            for key, q in choice_questions(30).items()}  # fmt: skip
    questions = five | four
    found = choice_table(replies_of(questions, lambda key: 0, permutations=5), questions)
    assert found["arm", "place_share", "E"].items == 50
    assert found["arm", "place_share", "E"].value == pytest.approx(-0.2)


def test_choice_without_scores():
    assert choice_reliability([], {}, {}, 1000, 0) == []
    one = choice_questions(1)
    rows = choice_reliability(replies_of(one, lambda key: 0), one, {}, 1000, 0)
    assert {(row.low, row.high) for row in rows} == {(None, None)}


def judged(found_blocks=(), scores=(), words_of=None, replies=(), cluster_of=None):
    return table_of(
        judge_reliability(found_blocks, scores, words_of or {}, replies, cluster_of or {}, 2000, 0)
    )


def of_server(quality_of, slot, length, arms=5, questions=40):
    """Blocks that a planted judge behind a real server ranked."""
    rng = random.Random(5)
    items, quality = [], {}
    for q in range(questions):
        question = Question(
            question_id=f"q{q:03}", set="hand", kind="open", question="Why?", reference="So."
        )
        for arm in range(arms):
            text = " ".join([f"q{q}a{arm}", *["word"] * int(math.exp(rng.gauss(3, 0.6)))])
            quality[text] = quality_of(rng, arm)
            items.append((question, Answer(question_id=f"q{q:03}", arm=f"arm{arm}", text=text)))
    settings = Judge(model="judge", modes=("ranking",))
    with FakeServer(judge_reply(quality, slot, length)) as server:
        config = ApiModelConfig(kind="api", base_url=server.base_url, model="fake", concurrency=16)
        rows = list(judgements("judge", ApiModel(config), items, {}, settings, 0))
    return blocks(rows, items)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slot", "length"), [(-0.5, 0.6), (0.0, 0.0)], ids=["biased judge", "fair judge"]
)
@pytest.mark.parametrize("spread", [0.0, 1.5], ids=["arms alike", "quality varies"])
def test_planted_biases_of_a_judge_behind_a_server_are_found(slot, length, spread):
    found_blocks = of_server(lambda rng, arm: arm / 3 + rng.gauss(0, spread), slot, length)
    found = judged(found_blocks)
    by_slot, by_length = found["judge", "slot_effect", ""], found["judge", "length_effect", ""]
    assert by_slot.low < slot < by_slot.high
    assert by_length.low < length < by_length.high
    assert by_slot.expected == by_length.expected == 0
    if slot:
        assert by_slot.high < 0 < by_length.low
        assert found["judge", "slot_rank", "1"].high < 2.5 < found["judge", "slot_rank", "4"].low
    first = found["judge", "slot_rank", "1"]
    assert (first.expected, first.clusters) == (2.5, 40)
    assert "may also be better" in by_length.note


def test_mean_ranks_by_hand():
    some = [
        Block("q1", "j", ("a", "b", "c"), (1, 2, 3), (1, 2, 3)),
        Block("q2", "j", ("a", "b", "c"), (1, 1, 3), (1, 2, 3)),
        Block("q3", "j", ("a", "b"), (2, 1), (1, 2)),
    ]
    found = judged(some)
    ranks = [found["j", "slot_rank", str(slot)] for slot in (1, 2, 3)]
    # The two of the small block stand at the ends of a scale from 1 to 3.
    assert [rank.value for rank in ranks] == pytest.approx([5.5 / 3, 4.5 / 3, 3])
    assert [rank.items for rank in ranks] == [3, 3, 2]
    assert {rank.expected for rank in ranks} == {2}


def test_swap_consistency_by_hand():
    def block(arms, places, question="q1", judge="j"):
        return Block(question, judge, tuple(arms), places, (5,) * len(arms))

    twice = [block("ab", (1, 2)), block("ba", (1, 2))]  # the first slot wins both times
    assert judged(twice)["j", "swap_consistency", ""].value == 0
    same = [block("ab", (1, 2)), block("ba", (2, 1))]
    assert judged(same)["j", "swap_consistency", ""].value == 1
    assert judged(same)["j", "swap_consistency", ""].expected is None
    half = [block("ab", (1, 1)), block("ba", (2, 1))]
    assert judged(half)["j", "swap_consistency", ""].value == 0.5
    both_tied = [block("ab", (1, 1)), block("ba", (1, 1))]
    assert judged(both_tied)["j", "swap_consistency", ""].value == 1
    one_order = [block("ab", (1, 2)), block("ab", (1, 2))]
    assert ("j", "swap_consistency", "") not in judged(one_order)
    others = [
        block("ab", (1, 2)),
        block("ba", (2, 1), question="q2"),
        block("ba", (1, 2), judge="k"),
    ]
    assert not any(measure == "swap_consistency" for _, measure, _ in judged(others))
    more = judged([*twice, block("ab", (1, 2)), block("abc", (2, 1, 3))])[
        "j", "swap_consistency", ""
    ]
    assert (more.items, more.value) == (3, pytest.approx(1 / 3))
    assert more.expected == pytest.approx(1 / 3)  # a before b three times: two alike, one not
    assert more.note == "expected: 3 pairs in the same order"


def test_noise_alone_leaves_swaps_as_consistent_as_repeats():
    fair, cluster_of = drawn(1, questions=200)
    row = judged(fair, cluster_of=cluster_of)["judge", "swap_consistency", ""]
    assert row.low < row.expected < row.high
    swayed, cluster_of = drawn(1, questions=200, slot=-1.0)
    row = judged(swayed, cluster_of=cluster_of)["judge", "swap_consistency", ""]
    assert row.high < row.expected


@pytest.mark.slow
def test_a_fair_judge_is_rarely_taken_for_one_whom_slots_sway():
    wrong = 0
    for seed in range(200):
        fair, cluster_of = drawn(seed)
        row = judged(fair, cluster_of=cluster_of)["judge", "swap_consistency", ""]
        wrong += not row.low <= row.expected <= row.high
    assert 2 <= wrong <= 20


def verdicts(seed, slope, judge="judge", questions=40, arms=4):
    rng = np.random.default_rng(seed)
    levels = np.array(sorted(GRADES.values()))
    scores, words_of = [], {}
    for q in range(questions):
        hard = rng.normal() * 0.2
        for a in range(arms):
            words = int(np.exp(rng.normal(4 + 0.3 * a, 0.5)))
            seen = 0.3 + hard + 0.1 * a + slope * (np.log2(words) - 6) + rng.normal() * 0.1
            value = levels[np.abs(levels - seen).argmin()]
            key = {"question_id": f"q{q:02}", "arm": f"arm{a}"}
            scores.append(Score(**key, metric="verdict", value=value, rater=judge, label="x"))
            words_of[f"q{q:02}", f"arm{a}", 0] = words
    return scores, words_of


def test_the_length_slope_is_a_regression_within_questions_and_arms():
    scores, words_of = verdicts(1, slope=0.1)
    found = judged(scores=scores, words_of=words_of)["judge", "length_slope", ""]
    questions = sorted({score.question_id for score in scores})
    design = [
        [
            np.log2(words_of[score.question_id, score.arm, 0]),
            *(score.question_id == question for question in questions),
            *(score.arm == f"arm{a}" for a in range(1, 4)),
        ]
        for score in scores
    ]
    fitted = OLS([score.value for score in scores], np.array(design, dtype=float)).fit(
        cov_type="cluster",
        cov_kwds={"groups": np.repeat(np.arange(40), 4), "use_correction": False},
    )
    assert found.value == pytest.approx(fitted.params[0])
    assert found.high - found.low == pytest.approx(2 * 1.96 * fitted.bse[0], rel=0.1)
    assert found.low > 0
    fair, words_of = verdicts(2, slope=0.0)
    found = judged(scores=fair, words_of=words_of)["judge", "length_slope", ""]
    assert found.low < 0 < found.high


def test_length_that_goes_by_the_arm_alone_gives_no_slope():
    scores, words_of = verdicts(1, slope=0.0)
    words_of = {item: 10 * 2 ** int(item[1][-1]) for item in words_of}
    row = judged(scores=scores, words_of=words_of)["judge", "length_slope", ""]
    assert row.value is None
    assert row.note
    assert ("judge", "length_slope", "") not in judged(scores=scores)


def test_replies_asked_again_and_unread_by_judge_and_mode():
    replies = [
        JudgeReply("j", f"q{n}", mode, asked_again=n < 3, unread=n == 0)
        for n in range(10)
        for mode in ("verdict", "ranking")
    ]
    found = judged(replies=replies)
    assert set(found) == {
        ("j", measure, mode)
        for measure in ("unparsed", "asked_again")
        for mode in ("verdict", "ranking")
    }
    assert found["j", "asked_again", "verdict"].value == pytest.approx(0.3)
    assert found["j", "unparsed", "ranking"].value == pytest.approx(0.1)


def test_an_empty_reply_of_a_judge_is_one_that_cannot_be_read(tmp_path):
    def judgement(n, **columns):
        common = {"judgement_id": f"{n}", "question_id": f"q{n}", "judge": "j", "mode": "verdict"}
        return Judgement(**common, order=("a",), **columns)

    store.write(
        tmp_path / "judgements.jsonl",
        [
            judgement(0, reply="{}", prompt_sha="x"),
            judgement(1, status="error", reason=EMPTY, former="(nothing)", prompt_sha="x"),
            judgement(2, status="error", reason="503 Service Unavailable", prompt_sha="x"),
            judgement(3, reason="not shown"),
        ],
    )
    work = Work(tmp_path, [], tmp_path, lambda done, total: None, {})
    study = Study(estimates={"resamples": 1000})
    found = table_of(measure_reliability(work, study))
    for measure in ("unparsed", "asked_again"):
        row = found["j", measure, "verdict"]
        assert (row.value, row.items) == (0.5, 2)


def test_agreement_of_three_judges():
    scores, words_of = verdicts(1, slope=0.0)
    second = [score.model_copy(update={"rater": "second"}) for score in scores]
    third = [score.model_copy(update={"rater": "third"}) for score in verdicts(7, 0.0)[0]]
    # A verdict that could not be read is missing, and counts for no agreement.
    second[0] = second[0].model_copy(update={"value": None, "status": "unparsed"})
    found = judged(scores=scores + second + third, words_of=words_of)
    assert found["judge ~ second", "agreement", "verdict"].value == 1
    assert found["judge ~ second", "agreement", "verdict"].items == 159
    assert found["judge ~ second", "kappa", "verdict"].value == pytest.approx(1)
    assert found["judge ~ third", "kappa", "verdict"].value < 0.8
    assert found["judge ~ third", "kendall", "verdict"].value < 1
    panel = found["panel", "alpha", "verdict"]
    assert panel.low < panel.value < panel.high < 1
    assert panel.items == 160
    alone = judged(scores=scores, words_of=words_of)
    assert not any(measure in ("kappa", "alpha") for _, measure, _ in alone)


def test_answers_that_no_judge_saw_do_not_make_judges_agree():
    opposed = [
        Block("q1", "j", ("a", "b", "c"), (1, 2, 3), (5, 5, 0)),
        Block("q1", "k", ("a", "b", "c"), (2, 1, 3), (5, 5, 0)),
    ]
    assert judged(opposed)["j ~ k", "kendall", "ranking"].value == -1

    def verdict(judge, arm, label):
        common = {"question_id": "q1", "rater": judge, "metric": "verdict"}
        return Score(**common, arm=arm, value=GRADES[label], label=label)

    marks = [verdict("j", "a", "correct"), verdict("k", "a", "incorrect")]
    unseen = [verdict(judge, "b", "incorrect") for judge in "jk"]
    found = judged(scores=marks + unseen, words_of={("q1", "a", 0): 5, ("q1", "b", 0): 0})
    agreement = found["j ~ k", "agreement", "verdict"]
    assert (agreement.value, agreement.items) == (0, 1)
    assert found["panel", "alpha", "verdict"].items == 1


def test_rivals_that_were_not_shown_do_not_make_judges_agree():
    """An answer has the same mates with all judges, and those that failed are below it for all."""
    rng = random.Random(0)
    some = []
    for q in range(300):
        for judge in "jk":
            for arms, failed in (("ab", "yz"), ("cd", "")):
                places = [1, 2]
                rng.shuffle(places)
                blank, count = (0,) * len(failed), len(failed)
                block = Block(f"q{q}", judge, (*arms, *failed), (*places, *[3] * count), (5, 5))
                some.append(block._replace(words=(5, 5, *blank)))
    tau = judged(some)["j ~ k", "kendall", "ranking"]
    assert tau.low < 0 < tau.high


def test_biases_are_those_of_the_answers_shown():
    seen, cluster_of = drawn(3, arms=4, size=3, slot=-0.4, length=0.4)
    both = [
        block._replace(
            arms=(*block.arms, "down", "out"), places=(*block.places, 4, 4),
            words=(*block.words, 0, 0),
        )
        for block in seen
    ]  # fmt: skip
    alone = [Block("q0001", "judge", ("arm00", "down"), (1, 2), (9, 0))]
    none = [Block("q0002", "judge", ("down", "out"), (1, 1), (0, 0))]
    expected = judged(seen, cluster_of=cluster_of)
    assert expected["judge", "slot_effect", ""].value < 0
    assert judged(both + alone + none, cluster_of=cluster_of) == expected
    assert judged(alone + none) == {}
    assert effects(both + alone + none, cluster_of) == effects(seen, cluster_of)


def test_judges_without_anything():
    assert judged() == {}
    assert judged([Block("q", "j", ("a",), (1,), (3,))]) == {}
    found = judged([Block("q", "j", ("a", "b"), (1, 2), (3, 3))])
    assert found["j", "slot_effect", ""].value is None
    assert found["j", "slot_effect", ""].note


def test_a_judge_who_goes_by_the_slot_alone():
    some, cluster_of = drawn(1)
    some = [block._replace(places=(1, 2, 3, 4)) for block in some]
    found = judged(some, cluster_of=cluster_of)
    assert [found["judge", "slot_rank", str(slot)].value for slot in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert found["judge", "slot_effect", ""].high < -3
    assert found["judge", "swap_consistency", ""].value == 0
    assert found["judge", "swap_consistency", ""].expected == 1


@pytest.mark.parametrize("ties", [0.5, 1.5])
def test_a_judge_that_ties_a_lot_has_the_same_biases(ties):
    settings = {"questions": 150, "documents": 100, "slot": -0.5, "length": 0.6, "spread": 1.0}
    exact, tied = (effects(*drawn(3, ties=grid, **settings)) for grid in (0.0, ties))
    assert tied.slot.value == pytest.approx(exact.slot.value, rel=0.07)
    assert tied.length.value == pytest.approx(exact.length.value, rel=0.07)


@pytest.mark.parametrize("places", [(1, 1, 1, 1), (1, 2, 3, 4), (1, 1, 2, 2)])
def test_judges_who_do_not_look_at_the_answers(places):
    some, cluster_of = drawn(1)
    found = effects([block._replace(places=places) for block in some], cluster_of)
    assert found.length.low <= 0 <= found.length.high
    assert (found.slot.value == pytest.approx(0)) == (places == (1, 1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "ties"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (3.0, 0.0)])
@pytest.mark.parametrize(("slot", "length"), [(-0.4, 0.5), (0.0, 0.0)])
def test_intervals_of_the_effects_hold_what_was_planted(slot, length, spread, ties):
    held = []
    for seed in range(500):
        found = effects(*drawn(seed, slot=slot, length=length, spread=spread, ties=ties))
        held.append([
            found.slot.low < slot < found.slot.high, found.length.low < length < found.length.high,
        ])  # fmt: skip
    assert (np.abs(np.mean(held, axis=0) - 0.95) < 0.03).all()
