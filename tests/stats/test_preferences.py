"""Preferences: a CSV of judgements to strengths, the effect of the order, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from ecg_llm.contracts import UsageError
from ecg_llm.report import comparison
from ecg_llm.stats import compare
from ecg_llm.stats.logs import read

HEAD = "item,a,b,preferred"


def judged(folder: Path, rows: list[str], head: str = HEAD) -> Path:
    path = folder / "preferences.csv"
    path.write_text("\n".join([head, *rows]) + "\n", "utf-8")
    return path


def drawn(
    strengths: dict[str, float], total: int, order: float = 0.0, seed: int = 1
) -> list[tuple[str, str, str]]:
    """Return judgements (shown first, shown second, preferred) by Bradley-Terry and an order."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(total):
        a, b = map(str, rng.choice(list(strengths), 2, replace=False))
        first = rng.random() < expit(strengths[a] - strengths[b] + order)
        rows.append((a, b, a if first else b))
    return rows


def compared(path: Path, **options: object) -> compare.Comparison:
    return compare.compare([path], resamples=1000, **options)  # type: ignore[arg-type]


def strengths(found: compare.Comparison) -> dict[str, float | None]:
    return {mean["system"]: mean["value"] for mean in found["means"]}


def test_two_systems_are_the_logit_of_their_share_a_tie_half_to_each(tmp_path: Path) -> None:
    # 30 wins, 10 losses and 8 ties, each answer as often first: 34 of 48, the order says nothing.
    sides = [("x", "y"), ("y", "x")]
    rows = [
        f"q{k}-{side},{a},{b},{word}"
        for side, (a, b) in enumerate(sides)
        for k, word in enumerate(["x"] * 15 + ["y"] * 5 + ["Tie"] * 4)
    ]
    found = compared(judged(tmp_path, rows))
    x, y = strengths(found)["x"], strengths(found)["y"]
    assert x is not None
    assert y is not None
    assert x == pytest.approx(-y)
    # The tie with an average rival that every system has pulls a little towards 0.
    assert x - y == pytest.approx(logit(34 / 48), rel=0.03)
    (difference,) = found["differences"]
    assert difference["value"] == pytest.approx(x - y)
    assert (difference["wins"], difference["losses"], difference["items"]) == (30, 10, 48)
    assert difference["low"] is not None
    assert 0 < difference["low"] < x - y
    assert [(row["system"], row["rank"]) for row in found["ranks"]] == [("x", 1), ("y", 2)]
    assert json.loads(json.dumps(found)) == found
    assert {row["metric"] for row in found["means"]} == {"preference_strength"}


def test_many_systems_agree_with_a_logit_of_differences_and_the_order_is_found(
    tmp_path: Path,
) -> None:
    planted = {"a": 0.0, "b": 0.6, "c": -0.4, "d": 1.0}
    rows = drawn(planted, 1500, order=0.5)
    found = compared(judged(tmp_path, [f"q{i},{','.join(row)}" for i, row in enumerate(rows)]))
    design = np.array([[(a == s) * 1.0 - (b == s) for s in "bcd"] + [1.0] for a, b, _ in rows])
    won = np.array([float(a == preferred) for a, _, preferred in rows])
    fitted = GLM(won, design, family=Binomial()).fit()
    ours = strengths(found)
    assert [ours[s] - ours["a"] for s in "bcd"] == pytest.approx(fitted.params[:3], abs=0.01)  # type: ignore[operator]
    size = next(row for row in found["differences"] if (row["a"], row["b"]) == ("a", "d"))
    assert size["high"] - size["low"] == pytest.approx(3.92 * fitted.bse[2], rel=0.1)  # type: ignore[operator]
    assert size["p"] is not None
    assert size["p"] < size["p_adjusted"] < 1e-6  # type: ignore[operator]
    (note,) = found["notes"]
    said = re.match(
        r"The answer shown first is preferred more often: \+(.*) log-odds \(\+(.*) to ", note
    )
    assert said is not None
    assert float(said[1]) == pytest.approx(fitted.params[3], abs=0.02)
    assert float(said[2]) == pytest.approx(fitted.params[3] - 1.96 * fitted.bse[3], abs=0.03)
    assert note.endswith("the strengths are freed from it.")


def test_an_order_without_effect_is_not_called_one(tmp_path: Path) -> None:
    rows = drawn({"a": 0.0, "b": 0.6, "c": -0.4}, 300)
    found = compared(judged(tmp_path, [f"q{i},{','.join(row)}" for i, row in enumerate(rows)]))
    assert found["notes"][0].startswith("Whether the answer shown first is preferred more often")


def test_an_order_that_never_turns_is_said_to_be_one_with_the_system(tmp_path: Path) -> None:
    found = compared(judged(tmp_path, [f"q{i},x,y,{'xxy'[i % 3]}" for i in range(30)]))
    assert found["notes"] == [
        "Which answer was shown first cannot be told apart from whose it was, so the strengths "
        "may hold an effect of the order; show each pair both ways round."
    ]


def test_letters_stand_for_the_columns_unless_they_are_names(tmp_path: Path) -> None:
    (found,) = read(judged(tmp_path, ["q,x,y,A", "q,x,y,b", "r,b,a,a", "r,x,y,TIE"])).values()
    assert [block.places for block in found.blocks] == [(1, 2), (2, 1), (2, 1), (1, 1)]


def test_judgements_without_a_preference_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [f"q{i},x,y,{'xyx'[i % 3]},anna" for i in range(12)]
    rows += [f"q{i},y,x,{'xyy'[i % 3]},ben" for i in range(12)]
    without = compared(judged(tmp_path, rows, HEAD + ",rater"))
    rows += ["q1,x,y,,ben", "q2,x,y,NA,ben", "q3,x,z,,ben", ""]
    path = judged(tmp_path, rows, HEAD + ",rater")
    found = compared(path)
    assert [(m["system"], m["missing"], m["items"]) for m in found["means"]] == [
        ("x", 3, 12), ("y", 2, 12), ("z", 1, 0),
    ]  # fmt: skip
    assert strengths(found) == strengths(without) | {"z": None}
    rows_of = compare.compared(compare.tables([path]), resamples=100)
    assert comparison.missing(rows_of) == [
        "Preferences missing in Strength in preferences (log-odds), left out: x 3, y 2, z 1."
    ]


def test_items_of_one_source_widen_the_interval(tmp_path: Path) -> None:
    # Whole sources prefer one system; on single items that would look like much evidence.
    rows = [f"q{i},{'x,y' if i % 2 else 'y,x'},{'xxy'[i // 8 % 3]},s{i // 8}" for i in range(96)]
    width = {}
    for head in (HEAD + ",cluster", HEAD + ",other"):
        (row,) = compared(judged(tmp_path, rows, head))["differences"]
        width[row["clusters"]] = row["high"] - row["low"]  # type: ignore[operator]
    assert width[12] > 2 * width[96]
    (row,) = compared(judged(tmp_path, rows, HEAD + ",patient"), cluster="patient")["differences"]
    assert row["clusters"] == 12
    lone = [f"{row.rpartition(',')[0]},one" for row in rows]
    (row,) = compared(judged(tmp_path, lone, HEAD + ",cluster"))["differences"]
    assert (row["value"] is None, row["low"], row["p"]) == (False, None, None)


def test_systems_that_no_judgement_links_get_no_strength(tmp_path: Path) -> None:
    rows = [f"q{i},{pair}" for i in range(12) for pair in ("x,y,x", "y,x,y", "v,w,v")]
    found = compared(judged(tmp_path, rows))
    assert set(strengths(found).values()) == {None}
    assert {(row["value"], row["p"]) for row in found["differences"]} == {(None, None)}
    assert found["ranks"] == []
    assert found["notes"][0].startswith("No strengths: the preferences do not link all systems")


def test_preferences_stand_beside_scores_and_can_be_chosen(tmp_path: Path) -> None:
    path = judged(
        tmp_path, [f"q{i},{','.join(r)}" for i, r in enumerate(drawn({"x": 0, "y": 1}, 30))]
    )
    scores = tmp_path / "scores.csv"
    rows = [f"{system},q{i},{(i + k) % 2}" for k, system in enumerate("xy") for i in range(30)]
    scores.write_text("system,item,score\n" + "\n".join(rows), "utf-8")
    both = compare.compare([path, scores], [("y", "x")], resamples=100)
    assert [(row["metric"], row["a"]) for row in both["differences"]] == [
        ("preference_strength", "y"), ("score", "y"),
    ]  # fmt: skip
    for metric in ("preference_strength", "score"):
        one = compare.compare([path, scores], resamples=100, metrics=[metric])
        assert {row["metric"] for row in one["means"]} == {metric}
    with pytest.raises(UsageError, match="No scores of the metric 'preference_strength'"):
        compared(path, lower=["preference_strength"])
    with pytest.raises(UsageError, match=r"holds x, y; z= can name one system only"):
        compare.compare([f"z={path}"])


def test_the_page_shows_log_odds_never_percent_and_reads_them_without_the_margin(
    tmp_path: Path,
) -> None:
    rows = drawn({"x": 0.0, "y": 0.1, "z": 2.0}, 120)
    path = judged(tmp_path, [f"q{i},{','.join(row)}" for i, row in enumerate(rows)])
    found = compare.compared(compare.tables([path]), resamples=1000)
    (finding,) = comparison.findings(found, margin=0.001)
    assert finding.sentences[0].startswith("Highest strength: z, 1.")
    assert finding.sentences[1].startswith("z is ahead of all: ")
    (section,) = comparison.sections(found)
    assert (section.percent, section.value) == (False, "strength")
    assert "Strength in preferences (log-odds)" in section.parts[0].figure
    assert {pair.reading for pair in section.parts[0].pairs} == {"z better", "not distinguishable"}
    page = comparison.build(found)
    assert "<caption>Strengths</caption>" in page
    assert "Bradley-Terry" in page
    assert "Paired differences</caption>" not in page


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("q,x,x,x", "line 3: a and b are both x; name two systems"),
        ("q,x,y,z", "line 3: preferred is 'z'; write x, y or tie, or leave it empty"),
        ("q,x,y,none", "line 3: preferred is 'none'"),
        (",x,y,x", "line 3: a judgement needs an item, a and b"),
        ("q,x", "line 3: a judgement needs an item, a and b"),
        ("p,x,y,x,s2", "line 3: item p stands in two clusters"),
    ],
)
def test_a_judgement_that_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, row: str, words: str
) -> None:
    path = judged(tmp_path, ["p,x,y,x,s1", row], HEAD + ",cluster")
    with pytest.raises(UsageError, match=words):
        read(path)


def test_a_file_without_any_preference_is_refused(tmp_path: Path) -> None:
    for rows in ([], ["q,x,y,"]):
        with pytest.raises(UsageError, match="holds no preference"):
            read(judged(tmp_path, rows))
    path = judged(tmp_path, ["q,x,y,x"], "item,a,b,better")
    with pytest.raises(UsageError, match="or item, a, b, preferred for preferences"):
        read(path)


def test_the_example_of_the_page_says_what_the_page_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "compare.md").read_text("utf-8")
    _, _, part = page.partition("## Preferences")
    path = tmp_path / "preferences.csv"
    path.write_text(part.partition("```csv\n")[2].partition("```")[0], "utf-8")
    found = compare.compared(compare.tables([path]), resamples=1000)
    shown = {row.arm: row.value for row in found.estimates if not row.against}
    for system, value in shown.items():
        assert f"`{system}` at {value:.3f}".replace("-", "−") in part
    (finding,) = comparison.findings(found)
    assert finding.sentences[1] == "tuned is not distinguishable from base."
    assert "`tuned` is not distinguishable from `base`" in part
