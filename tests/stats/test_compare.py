import json

import pytest
from scipy import stats

from ecg_llm import store
from ecg_llm.contracts import UsageError
from ecg_llm.records import Question, Score
from ecg_llm.stats import compare


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
    assert {mean["method"] for mean in found["means"]} <= {"mean/cluster_t", "mean/cluster_bound"}


def test_a_missing_score_is_counted_and_never_filled_in_for_metrics_we_do_not_know(tmp_path):
    text = "system,item,score\na,q1,1\na,q2,\na,q3,NaN\nb,q1,0\nb,q2,1\nb,q3,true\n"
    means = compared(csv_file(tmp_path, text), resamples=1000)["means"]
    assert [(m["value"], m["items"], m["missing"]) for m in means] == [
        (1.0, 1, 2),
        (pytest.approx(2 / 3), 3, 0),
    ]


def test_repeats_of_an_item_are_averaged(tmp_path):
    text = "system,item,score\na,q1,1\na,q1,0\na,q2,1\na,q2,1\n"
    (mean,) = compared(csv_file(tmp_path, text), resamples=1000)["means"]
    assert (mean["value"], mean["items"]) == (0.75, 2)


def test_systems_of_several_files_are_joined_by_item_and_kept_apart_if_they_collide(tmp_path):
    head = "system,item,score\n"
    first = csv_file(tmp_path, head + marks("a", range(5), 9), "first.csv")
    second = csv_file(tmp_path, head + marks("b", range(3), 9), "second.csv")
    found = compared(first, second, resamples=1000)
    assert found["differences"][0]["items"] == 9
    again = csv_file(tmp_path, head + marks("a", range(2), 9), "again.csv")
    systems = [mean["system"] for mean in compared(first, again, resamples=1000)["means"]]
    assert systems == sorted([f"{again}:a", f"{first}:a"])


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
        ("model,item,score\na,q,1\n", "lacks the column system"),
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


def test_absent_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        compare.read(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="There is no file"):
        compare.read(tmp_path / "none.jsonl")
    foreign = csv_file(tmp_path, '{"acc": 1}\n', "log.jsonl")
    with pytest.raises(UsageError, match="line 1"):
        compare.read(foreign)
    binary = tmp_path / "scan.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        compare.read(binary)
