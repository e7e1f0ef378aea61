import random
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_llm.records import Score
from ecg_llm.report import comparison
from ecg_llm.stats.compare import Compared, compared
from ecg_llm.stats.logs import Results


def results(
    rates: dict[str, float], total: int, task: str = "", seed: int = 1, metric: str = "acc",
    clusters: int = 0, ours: bool = False,
) -> Results:  # fmt: skip
    """Return marks of systems that are right about as often as said, on items of one difficulty."""
    rng = random.Random(f"{task}{seed}")
    scores = [
        Score(question_id=f"{task}/{i}", arm=arm, metric=metric, value=float(luck < rate))
        for i in range(total)
        for luck in [rng.random()]
        for arm, rate in rates.items()
    ]
    items = {score.question_id for score in scores}
    cluster_of = {item: f"c{int(item.split('/')[1]) % clusters}" for item in items if clusters}
    places = dict.fromkeys(items, (task,))
    return Results(scores, places, cluster_of, tasks=bool(task), ours=ours)


def told(found: Compared, margin: float = 0.05) -> str:
    (finding,) = comparison.findings(found, margin)
    return " ".join(finding.sentences)


def rows(**tables: Results) -> Compared:
    return compared(tables, resamples=1000)


def test_who_is_ahead_who_is_not_and_where_the_items_are_too_few_is_said() -> None:
    found = rows(x=results({"good": 0.9, "near": 0.895, "bad": 0.3}, 400))
    words = told(found)
    assert words.startswith("Highest mean: good, 90.2 % (")
    assert "; 400 items. good is ahead of bad by 60.2 points (" in words
    assert "good is not distinguishable from near." in words
    few = told(rows(x=results({"good": 0.9, "near": 0.7}, 12)))
    assert "Too few items to tell good from near" in few
    assert "ahead" not in few


def test_equal_means_are_shared_and_one_source_says_nothing_beyond_it() -> None:
    shared = told(rows(x=results({"a": 0.5, "b": 0.5}, 40)))
    assert "is shared by a and b." in shared
    assert "a is not distinguishable" in shared or "Too few items to tell a from b" in shared
    assert told(rows(x=results({"a": 0.9, "b": 0.2}, 40, clusters=1))).endswith(
        comparison.ONE_SOURCE
    )


def test_where_less_is_better_the_lowest_leads() -> None:
    found = compared({"x": results({"a": 0.2, "b": 0.9}, 100)}, resamples=1000, lower=["acc"])
    assert told(found).startswith("Lowest mean: a, 20.0 % (")
    assert "a is ahead of b by 73.0 points (" in told(found)
    (section,) = comparison.sections(found)
    (pair,) = section.parts[0].pairs
    assert (pair.a, pair.b, pair.value[0], pair.reading) == ("a", "b", "−", "a better")


def test_declared_pairs_keep_their_sense_and_others_are_not_called_tied() -> None:
    found = compared(
        {"x": results({"a": 0.2, "b": 0.9, "c": 0.5}, 100)}, [("a", "c")], resamples=1000
    )
    assert "b was not compared with c and a." in told(found)
    assert "a against c: −26.0 points (" in told(found)
    assert told(found).endswith("c better.")
    (section,) = comparison.sections(found)
    assert [(pair.a, pair.b) for pair in section.parts[0].pairs] == [("a", "c")]


def test_against_one_system_all_others_are_told_by_how_they_stand() -> None:
    table = {"x": results({"base": 0.5, "up": 0.9, "down": 0.1, "like": 0.5}, 100)}
    words = told(compared(table, resamples=1000, against="base"))
    assert "Better, against base: up by 47.0 points (" in words
    assert "Worse, against base: down by 36.0 points (" in words
    assert words.endswith(": like.")
    assert "ahead" not in words


def test_a_metric_that_is_no_share_is_read_without_the_margin() -> None:
    long = results({"a": 0.5, "b": 0.4}, 20)
    scores = [s.model_copy(update={"value": 40 * (s.value or 0)}) for s in long.scores]
    assert "a is not distinguishable from b." in told(rows(x=long._replace(scores=scores)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(2, 60), st.integers(0, 999),
    st.integers(0, 12),
)  # fmt: skip
def test_nobody_is_called_better_who_is_not_clearly(
    rates: list[float], total: int, seed: int, clusters: int
) -> None:
    named = {f"arm{k}": rate for k, rate in enumerate(rates)}
    found = compared({"x": results(named, total, seed=seed, clusters=clusters)}, resamples=200)
    clear = {
        frozenset((row.arm, row.against))
        for row in found.estimates
        if row.against and row.p_adjusted is not None and row.p_adjusted < 0.05
    }
    for section in comparison.sections(found, figures=False):
        for pair in section.parts[0].pairs:
            assert bool(pair.winner) == (frozenset((pair.a, pair.b)) in clear)
            assert pair.reading.endswith("better") == bool(pair.winner)
    for finding in comparison.findings(found):
        for sentence in finding.sentences:
            if " is ahead of " in sentence:
                best, _, rest = sentence.partition(" is ahead of ")
                for arm in named:
                    if f"{arm} by " in rest:
                        assert frozenset((best, arm)) in clear


class Page(HTMLParser):
    """What a page holds, for checks: ids, links inside it and outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src") if name in values]


def test_the_page_stands_alone_and_is_the_same_for_equal_results() -> None:
    tables = {
        "one": results({"a": 0.9, "b": 0.5, "<script>c": 0.2}, 60, "one", clusters=12),
        "two": results({"a": 0.8, "b": 0.5}, 60, "two", clusters=12),
        "long": results({"a": 0.8, "b": 0.5}, 30, metric="exact_match,strict & more"),
    }
    found = rows(**tables)
    page = comparison.build(found, sources=["logs/<x>"])
    assert page == comparison.build(rows(**tables), sources=["logs/<x>"])
    read = Page(page)
    assert "script" not in read.tags
    assert len(read.ids) == len(set(read.ids))
    assert {link for link in read.links if not link.startswith("#")} == set()
    assert {link[1:] for link in read.links} <= set(read.ids)
    assert "http" not in page.replace("http-equiv", "")
    assert "&lt;script&gt;c" in page
    assert "all tasks" in page
    assert "Scores missing" not in page


def test_of_more_words_nobody_says_that_they_are_better() -> None:
    found = rows(x=results({"a": 0.9, "b": 0.2}, 100, metric="words", ours=True))
    assert comparison.findings(found) == []
    (section,) = comparison.sections(found)
    assert section.parts[0].pairs[0].reading == "a higher"
    assert section.parts[0].caption == ""
    theirs = results({"a": 0.9, "b": 0.2}, 100, metric="words")
    assert "a is ahead of b" in told(rows(x=theirs))
    less = compared({"x": theirs._replace(ours=True)}, lower=["words"])
    assert "b is ahead of a" in told(less)


def test_many_tasks_fold_away_and_only_all_together_are_drawn() -> None:
    tables = {f"t{k:02}": results({"a": 0.9, "b": 0.5}, 12, f"t{k:02}", k) for k in range(20)}
    found = rows(**tables)
    (all_together, *tasks) = comparison.sections(found)[0].parts
    assert all_together.subset == "all tasks"
    assert all_together.figure
    assert [bool(part.figure) for part in tasks] == [False] * 20
    (first, rest) = comparison.folded(comparison.findings(found))
    assert [finding.subset for finding in first[1]] == ["all tasks"]
    assert (rest[0], len(rest[1])) == ("By task", 20)


@pytest.mark.parametrize("systems", [2, 13])
def test_every_system_and_pair_has_a_line(systems: int) -> None:
    rates = {f"a system whose name has {k:02} characters, or 40": k / 14 for k in range(systems)}
    found = rows(x=results(rates, 40))
    (section,) = comparison.sections(found, figures=False)
    (part,) = section.parts
    assert len(part.means) == systems
    assert len(part.pairs) == systems * (systems - 1) // 2
    page = comparison.build(found)
    assert page.count("<svg") == (2 if systems > 2 else 1)
    assert all(page.count(name) > 1 for name in rates)


def test_missing_scores_are_told_with_what_they_count_as() -> None:
    whole = results({"a": 0.9, "b": 0.5}, 40)
    lost = [
        s.model_copy(update={"value": None, "status": "error"})
        if s.arm == "b" and s.question_id in ("/0", "/1") else s
        for s in whole.scores
    ]  # fmt: skip
    found = rows(x=whole._replace(scores=lost))
    assert comparison.missing(found) == ["Scores missing in acc, left out: b 2."]
    assert "Scores missing in acc, left out: b 2." in comparison.build(found)


def test_a_metric_that_only_bears_one_of_our_names_keeps_its_own_and_its_numbers() -> None:
    marks = results({"a": 0.9, "b": 0.4}, 60, metric="accuracy")
    hundreds = [s.model_copy(update={"value": 100 * (s.value or 0)}) for s in marks.scores]
    for table, name, value in (
        (marks._replace(ours=True), "Accuracy, letter written", "96.7"),
        (marks, "accuracy", "96.7"),
        (marks._replace(scores=hundreds), "accuracy", "96.7"),
    ):
        found = rows(x=table)
        (section,) = comparison.sections(found)
        best = section.parts[0].means[0]
        assert (section.title, best.value) == (name, value)
        assert section.percent == (table.scores is marks.scores)
        assert (" %" in told(found)) == section.percent
        assert "9666.7" not in comparison.build(found)


def test_small_and_large_numbers_are_shown_with_three_digits() -> None:
    graded = results({"a": 0.9, "b": 0.4}, 60, metric="loss")
    for scale, mean in (
        (1.27e-4, "0.000123"), (7.756e6, "7,497,467"), (1.27e-7, "1.23e−7"), (12.7, "12.3"),
    ):  # fmt: skip
        scores = [s.model_copy(update={"value": scale * (s.value or 0)}) for s in graded.scores]
        found = rows(x=graded._replace(scores=scores))
        (section,) = comparison.sections(found)
        (part,) = section.parts
        assert part.means[0].value == mean
        assert part.pairs[0].reading == "a better"
        assert len(part.pairs[0].value.lstrip("+0.").split("e")[0].replace(".", "")) >= 3
        assert f"Highest mean: a, {mean} (" in told(found)
        assert mean in comparison.build(found)


def test_who_leads_by_the_mean_but_is_behind_on_shared_items_is_not_called_alike() -> None:
    hard = [("b", i, 0.25 if i % 2 else 0.75) for i in range(40, 100)]
    easy = [("b", i, 1.0) for i in range(40)] + [("a", i, 0.75) for i in range(40)]
    scores = [
        Score(question_id=f"q{i}", arm=arm, metric="score", value=value - i / 1000)
        for arm, i, value in hard + easy
    ]
    words = told(rows(x=Results(scores, {}, {})))
    assert words.startswith("Highest mean: a, 0.73")
    assert "Systems have scores on different numbers of items, 40 to 100;" in words
    assert "On the items that both have, a is behind b by 0.250" in words
    assert "ahead" not in words
    assert "distinguishable" not in words
    assert "different numbers" not in told(rows(x=results({"a": 0.9, "b": 0.4}, 60)))


def test_one_item_is_not_called_one_source_of_many() -> None:
    words = told(rows(x=results({"a": 1.0, "b": 0.0}, 1)))
    assert words == f"Highest mean: a, 100.0 %; 1 item. {comparison.ONE_ITEM}"


def test_what_is_not_corrected_is_not_called_clearly_better() -> None:
    page = comparison.build(rows(x=results({"a": 0.9, "b": 0.4, "c": 0.5}, 60)))
    assert "no other system is above it by an uncorrected 95 % interval" in page
    assert "clearly better" not in page
