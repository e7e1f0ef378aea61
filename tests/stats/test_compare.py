import json

import pytest
from scipy import stats

from ecg_llm import store
from ecg_llm.contracts import UsageError
from ecg_llm.records import Question, Score
from ecg_llm.stats import compare, logs


def csv_file(folder, text, name="results.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def compared(*paths, **options):
    return compare.compare(paths, **options)


def marks(system, right, total):
    return "".join(f"{system},q{i},{int(i in right)}\n" for i in range(total))


def test_a_plain_csv_gives_means_differences_and_ranks_in_the_documented_shape(tmp_path):
    text = "system,item,score\n" + marks("a", range(18), 20) + marks("b", range(4, 10), 20)
    found = compared(csv_file(tmp_path, text), resamples=1000)
    assert json.loads(json.dumps(found)) == found
    mean = found["means"][0]
    assert (mean["system"], mean["metric"], mean["value"], mean["items"]) == ("a", "score", 0.9, 20)
    assert mean["low"] < 0.9 < mean["high"]
    difference = found["differences"][0]
    assert (difference["a"], difference["b"]) == ("a", "b")
    assert difference["value"] == pytest.approx(0.6)
    assert difference["p"] == difference["p_adjusted"] == stats.binomtest(12, 12).pvalue
    assert [(row["system"], row["rank"]) for row in found["ranks"]] == [("a", 1), ("b", 2)]
    assert found["ranks"][0]["p_best"] > 0.99


def test_clusters_and_metrics_of_a_csv_are_used(tmp_path):
    rows = [
        f"{system},{item},{score},d{item % 5},{metric}"
        for system in ("a", "b")
        for item in range(40)
        for metric, score in (("accuracy", (item + len(system)) % 2), ("f1", item / 40))
    ]
    path = csv_file(tmp_path, "\n".join(["System, Item ,score,CLUSTER,metric", *rows]))
    found = compared(path, resamples=1000)
    assert {mean["metric"] for mean in found["means"]} == {"accuracy", "f1"}
    assert {(mean["items"], mean["clusters"]) for mean in found["means"]} == {(40, 5)}


def test_a_missing_score_is_counted_and_never_filled_in_for_metrics_we_do_not_know(tmp_path):
    text = "system,item,score\na,q1,1\na,q2,\na,q3,NaN\nb,q1,0\nb,q2,1\nb,q3,true\n"
    means = compared(csv_file(tmp_path, text), resamples=1000)["means"]
    assert [(m["value"], m["items"], m["missing"]) for m in means] == [
        (1.0, 1, 2),
        (pytest.approx(2 / 3), 3, 0),
    ]


def test_repeats_of_an_item_are_averaged(tmp_path):
    text = "system,item,score\na,q1,1\na,q1,0\na,q2,1\na,q2,1\nb,q1,0\nb,q2,1\n"
    mean, _ = compared(csv_file(tmp_path, text), resamples=1000)["means"]
    assert (mean["value"], mean["items"]) == (0.75, 2)


def test_systems_of_several_files_are_joined_by_item_and_kept_apart_if_they_collide(tmp_path):
    head = "system,item,score\n"
    first = csv_file(tmp_path, head + marks("a", range(5), 9), "first.csv")
    second = csv_file(tmp_path, head + marks("b", range(3), 9), "second.csv")
    found = compared(first, second, resamples=1000)
    assert found["differences"][0]["items"] == 9
    again = csv_file(tmp_path, head + marks("a", range(2), 9), "again.csv")
    systems = [mean["system"] for mean in compared(first, again, resamples=1000)["means"]]
    assert systems == ["a (again.csv)", "a (first.csv)"]


def test_our_own_scores_bring_subsets_and_documents_from_the_questions_beside_them(tmp_path):
    questions = [
        Question(
            question_id=f"q{i:02}", set="hand", kind="choice", question="?", group=f"doc{i % 6}",
            split="test" if i < 12 else "test_seen",
        )
        for i in range(24)
    ]  # fmt: skip
    scores = [
        Score(question_id=q.question_id, arm=arm, metric="accuracy", value=float((i + k) % 3 > 0))
        for i, q in enumerate(questions)
        for k, arm in enumerate(("base", "tuned"))
    ]
    store.write(tmp_path / "questions.jsonl", questions)
    store.write(tmp_path / "scores.jsonl", scores)
    found = compared(tmp_path / "scores.jsonl", resamples=1000)
    assert {(m["subset"], m["items"]) for m in found["means"]} == {
        ("hand/test", 12),
        ("hand/test_seen", 12),
    }
    assert all("cluster" in mean["method"] for mean in found["means"])


def test_the_judges_of_a_panel_are_averaged_and_what_none_judged_is_left_out(tmp_path):
    scores = []
    for i in range(20):
        for arm, shift in (("base", 0.0), ("tuned", 0.25)):
            key = {"question_id": f"q{i:02}", "arm": arm, "metric": "verdict"}
            unread = i == 0 and arm == "base"
            scores += [
                Score(**key, rater="one", status="unjudged") if unread
                else Score(**key, rater="one", value=0.5 + shift),
                Score(**key, rater="two", status="unjudged") if unread or i == 1
                else Score(**key, rater="two", value=0.0 + shift),
            ]  # fmt: skip
    store.write(tmp_path / "scores.jsonl", scores)
    found = compared(tmp_path / "scores.jsonl", resamples=1000)
    base, tuned = found["means"]
    # q01 is the first judge's alone, and the other questions the mean of both.
    assert base["value"] == pytest.approx((0.5 + 18 * 0.25) / 19)
    assert (base["items"], base["missing"]) == (19, 3)
    assert (tuned["items"], tuned["missing"]) == (20, 1)
    (difference,) = found["differences"]
    assert (difference["value"], difference["items"]) == (pytest.approx(-0.25), 19)


def test_declared_comparisons_limit_the_family(tmp_path):
    text = "system,item,score\n" + "".join(marks(s, range(k), 12) for k, s in enumerate("abcd"))
    path = csv_file(tmp_path, text)
    found = compared(path, comparisons=[("d", "a")], resamples=1000)
    assert [(row["a"], row["b"]) for row in found["differences"]] == [("d", "a")]
    with pytest.raises(UsageError, match=r"No results of e; the files hold a, b, c, d\."):
        compared(path, comparisons=[("e", "a")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arm,item,score\na,q,1\n", "lacks the column system"),
        ("system,item,score\na,q,good\n", "line 2: the score 'good' is not a number"),
        ("system,item,score\na,q,inf\n", "line 2: the score 'inf' is not a number"),
        ("system,item,score\na,,1\n", "line 2: a row needs a system and an item"),
        ("system,item,score,cluster\na,q,1,x\nb,q,1,y\n", "line 3: item q stands in two clusters"),
        ("", "lacks the column"),
        ("system,item,score\n", "no scores"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_line_and_the_remedy(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        compared(csv_file(tmp_path, text))


def test_a_semicolon_a_model_and_a_column_named_for_clusters_are_understood(tmp_path):
    rows = [f"{m};q{i};{(i + len(m)) % 2};p{i // 4}" for m in ("a", "bb") for i in range(24)]
    path = csv_file(tmp_path, "\n".join(["Model;item;score;Patient", *rows]))
    found = compared(path, resamples=1000, cluster="patient")
    assert {mean["clusters"] for mean in found["means"]} == {6}
    with pytest.raises(UsageError, match="lacks the column ward"):
        compared(path, cluster="ward")


def test_a_name_before_a_path_names_the_system(tmp_path):
    head = "system,item,score\n"
    first = csv_file(tmp_path, head + marks("a", range(5), 9), "first.csv")
    second = csv_file(tmp_path, head + marks("a", range(3), 9), "a=b.csv")
    found = compared(f"tuned={first}", second, resamples=1000)
    assert [mean["system"] for mean in found["means"]] == ["a", "tuned"]
    both = csv_file(tmp_path, head + marks("a", [], 9) + marks("b", [], 9), "both.csv")
    with pytest.raises(UsageError, match="holds a, b; c= can name one system only"):
        compared(f"c={both}")
    with pytest.raises(UsageError, match="given twice"):
        compared(first, first)


def test_against_one_system_is_one_family_and_metrics_can_be_chosen(tmp_path):
    text = "system,item,score,metric\n" + "".join(
        f"{s},q{i},{int(i < k * 3)},{metric}\n"
        for k, s in enumerate("abcd", 1) for i in range(12) for metric in ("acc", "f1")
    )  # fmt: skip
    path = csv_file(tmp_path, text)
    found = compared(path, against="b", metrics=["acc"], resamples=1000)
    pairs = [(row["a"], row["b"], row["metric"]) for row in found["differences"]]
    assert pairs == [("a", "b", "acc"), ("c", "b", "acc"), ("d", "b", "acc")]
    for options, words in (
        ({"metrics": ["acd"]}, 'did you mean "acc"'),
        ({"lower": ["loss"]}, "No scores of the metric 'loss'"),
        ({"against": "e"}, "No results of e"),
        ({"against": "a", "comparisons": [("a", "b")]}, "not both"),
    ):
        with pytest.raises(UsageError, match=words):
            compared(path, **options)


@pytest.mark.parametrize("scale", [1, -40])
def test_where_less_is_better_ranks_turn_and_values_stay(tmp_path, scale):
    text = "system,item,score\n" + "".join(
        f"{s},q{i},{scale * (((i * 7) % 10) / 20 + shift)}\n"
        for s, shift in (("a", 0.0), ("b", 0.3)) for i in range(40)
    )  # fmt: skip
    path = csv_file(tmp_path, text)
    more = compared(path, resamples=1000)
    less = compared(path, resamples=1000, lower=["score"])
    assert less["lower_is_better"] == ["score"]
    assert [row["rank"] for row in less["ranks"]] == [row["rank"] for row in more["ranks"]][::-1]
    pairs = zip(more["means"] + more["differences"], less["means"] + less["differences"],
                strict=True)  # fmt: skip
    for one, other in pairs:
        for name in set(one) - {"method"}:
            wanted = one[name]
            if isinstance(wanted, float):
                wanted = pytest.approx(wanted, abs=0.02 * abs(scale))  # draws differ
            assert other[name] == wanted, name
    assert more["differences"][0]["losses" if scale > 0 else "wins"] == 40


def task(system, name, right, total, **options):
    """Return the results of one system on one task, as a log gives them."""
    scores = [
        Score(question_id=f"{name}/{i}", arm=system, metric="acc", value=float(i in right))
        for i in range(total)
    ]
    return logs.Results(scores, {s.question_id: (name,) for s in scores}, {}, tasks=True, **options)


def test_tasks_are_told_one_by_one_and_together_by_items(tmp_path):
    tables = {
        "1": task("a", "one", range(10), 10), "2": task("a", "two", range(5), 30),
        "3": task("b", "one", range(4), 10), "4": task("b", "two", range(5), 30),
    }  # fmt: skip
    found = compare.compared(tables, resamples=1000)
    means = {(e.subset, e.arm): e.value for e in found.estimates if not e.against}
    assert means == {
        ("one", "a"): 1.0, ("one", "b"): 0.4,
        ("two", "a"): pytest.approx(5 / 30), ("two", "b"): pytest.approx(5 / 30),
        ("all tasks", "a"): 15 / 40, ("all tasks", "b"): 9 / 40,
    }  # fmt: skip
    assert [e.subset for e in found.estimates if e.against] == ["one", "two", "all tasks"]


def test_what_some_systems_lack_is_said_and_pairs_use_what_both_have(tmp_path):
    tables = {
        "1": task("a", "one", range(6), 12), "2": task("b", "one", range(3), 10),
        "3": task("c", "one", range(3), 10, notes=("c: unfinished",)),
    }  # fmt: skip
    found = compare.shaped(compare.compared(tables, resamples=1000))
    assert found["notes"] == [
        "c: unfinished",
        "b, c lack 2 of the 12 items of one; pairs are compared on what both have.",
    ]
    assert {(row["a"], row["items"]) for row in found["differences"]} == {("a", 10), ("b", 10)}


def test_systems_that_cannot_be_compared_are_refused_with_what_they_have():
    with pytest.raises(UsageError, match="one system only, a; give those of another"):
        compare.compared({"1": task("a", "one", range(6), 12)})
    other = task("b", "two", range(6), 12)
    words = "share no item with the same metric: a has acc on items of one; b has acc on .* of two"
    with pytest.raises(UsageError, match=words):
        compare.compared({"1": task("a", "one", range(6), 12), "2": other})
    clash = [task(s, "one", [], 3)._replace(cluster_of={"one/0": s}) for s in "ab"]
    with pytest.raises(UsageError, match="item one/0 comes from b, elsewhere from a"):
        compare.compared({"1": clash[0], "2": clash[1]})


def test_runs_of_one_model_bear_the_part_of_their_path_that_differs():
    runs = {f"runs/{name}/model/2026": task("m", "one", [], 3) for name in ("plain", "chat")}
    found = compare.compared({**runs, "x.csv": task("n", "one", [], 3)}, resamples=100)
    assert {e.arm for e in found.estimates} == {"m (plain)", "m (chat)", "n"}


def test_a_name_of_ours_in_a_log_of_others_does_not_make_a_missing_score_a_zero(tmp_path):
    rows = [f"a,q{i},1,accuracy\nb,q{i},{1 if i < 15 else 'nan'},accuracy\n" for i in range(30)]
    text = "system,item,score,metric\n" + "".join(rows)
    found = compared(csv_file(tmp_path, text), resamples=1000)
    assert [(m["metric"], m["value"], m["missing"], m["missing_as"]) for m in found["means"]] == [
        ("accuracy", 1.0, 0, "left out"), ("accuracy", 1.0, 15, "left out"),
    ]  # fmt: skip
    assert found["differences"][0]["value"] == 0
    store.write(tmp_path / "scores.jsonl", [
        Score(question_id=f"q{i}", arm="a", metric="accuracy", value=1.0) for i in range(30)
    ] + [
        Score(question_id=f"q{i}", arm="b", metric="accuracy",
              **({"value": 1.0} if i < 15 else {"status": "unparsed"}))
        for i in range(30)
    ])  # fmt: skip
    own = compared(tmp_path / "scores.jsonl", resamples=1000)
    assert [(m["value"], m["missing_as"]) for m in own["means"]] == [(1.0, "0"), (0.5, "0")]
    mixed = compared(tmp_path / "scores.jsonl", tmp_path / "results.csv", resamples=1000)
    assert {m["missing_as"] for m in mixed["means"]} == {"left out"}
    assert "accuracy stands in scores of ECG-LLM and of others" in mixed["notes"][0]


@pytest.mark.parametrize("value", ["1e200", "-1e308", "1e51"])
def test_a_score_too_large_to_compute_with_is_named(tmp_path, value):
    text = f"system,item,score\na,q1,1\na,q2,2\nb,q1,1\nb,q2,{value}\n"
    with pytest.raises(UsageError, match=r"the score of b on q2, .* is too large to compute with"):
        compared(csv_file(tmp_path, text))


def test_large_scores_that_can_be_computed_with_are(tmp_path):
    rows = [f"{s},q{i},{k * (i + 1)}e48\n" for k, s in enumerate("ab", 1) for i in range(20)]
    found = compared(csv_file(tmp_path, "system,item,score\n" + "".join(rows)), resamples=1000)
    (row,) = found["differences"]
    assert row["value"] == pytest.approx(-1.05e49)
    assert row["low"] < row["value"] < row["high"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system,item,score,Score\na,q,1,0\n", "has the column score twice"),
        ("item,a,b,preferred,a\nq,x,y,x,x\n", "has the column a twice"),
        ("system,item,score\na,q,0,5\n", "line 2: '5' stands beyond the last column"),
        ("item,a,b,preferred\nq,x,y,x,z\n", "line 2: 'z' stands beyond the last column"),
    ],
)
def test_columns_that_could_be_mistaken_are_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        compared(csv_file(tmp_path, text))


def test_empty_cells_behind_the_last_column_do_no_harm(tmp_path):
    text = "system,item,score,,\na,q1,1,,\na,q2,0,,,,\nb,q1,1\nb,q2,0\n"
    assert [m["value"] for m in compared(csv_file(tmp_path, text))["means"]] == [0.5, 0.5]


def test_a_pair_is_declared_once_and_of_two_systems(tmp_path):
    path = csv_file(tmp_path, "system,item,score\n" + marks("a", [1], 9) + marks("b", [2], 9))
    for pairs, message in (
        ([("a", "a")], "a cannot be compared with itself"),
        ([("a", "b"), ("b", "a")], "b and a are declared twice"),
        ([("a", "b"), ("a", "b")], "a and b are declared twice"),
    ):
        with pytest.raises(UsageError, match=message):
            compared(path, comparisons=pairs)


def test_a_run_without_a_usable_metric_is_named_with_the_reason(tmp_path):
    note = "m: bleu of t left out: not one number an item."
    empty = logs.Results([], {}, {}, notes=(note,), tasks=True)
    with pytest.raises(UsageError, match=r"^run/1 holds no scores .* \(m: bleu .* item\), and"):
        compare.compared({"run/1": empty, "2": task("a", "one", range(6), 12)})
    with pytest.raises(UsageError, match=r"^run/1 holds no scores .*bleu"):
        compare.compared({"run/1": empty})


def test_a_metric_called_like_the_strength_is_refused_beside_preferences(tmp_path):
    scored = csv_file(tmp_path, "system,item,score,metric\na,q,1,preference_strength\n")
    judged = csv_file(tmp_path, "item,a,b,preferred\nq,a,b,a\n", "judged.csv")
    with pytest.raises(UsageError, match="name your metric otherwise"):
        compared(scored, judged)


def test_a_name_too_long_for_a_file_may_name_a_system_and_is_no_file(tmp_path):
    path = csv_file(tmp_path, "system,item,score\n" + marks("a", [1], 9))
    other = csv_file(tmp_path, "system,item,score\n" + marks("b", [2], 9), "other.csv")
    found = compared(f"{'x' * 300}={path}", other, resamples=1000)
    assert [mean["system"] for mean in found["means"]] == ["b", "x" * 300]
    with pytest.raises(UsageError, match="cannot be read"):
        compared("x" * 300, path)


def test_scores_too_small_to_tell_from_rounding_are_refused_and_small_ones_tested(tmp_path):
    def path(scale):
        rows = [f"{s},q{i},{(i % 5 + k) * scale}\n" for k, s in enumerate("ab") for i in range(40)]
        return csv_file(tmp_path, "system,item,score\n" + "".join(rows))

    (row,) = compared(path(1e-8), resamples=1000)["differences"]
    assert (row["losses"], row["p"] < 0.01) == (40, True)
    with pytest.raises(UsageError, match="score is 5e-12 at most, too small to compute with"):
        compared(path(1e-12))
