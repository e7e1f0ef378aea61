import re

import pytest

from ecg_llm.records import Standing
from ecg_llm.report.figures import arm_styles
from ecg_llm.report.overall import overall
from ecg_llm.stats.ranking import POOLED

LAYERS = ("choice", "text", "judge", "human")
PAPER = {
    "70B FT": ((1, 1, 2, 4.5), 1.5, 1), "Claude": ((5, 4, 1, 1), 2.5, 2),
    "70B RAG": ((2, 7, 3, 1), 2.5, 2), "70B": ((6, 3, 3, 3), 3, 4),
    "8B RAG": ((3, 6, 5, 1), 4, 5), "8B FT": ((4, 2, 5, 5.5), 4.5, 6),
    "8B": ((7, 5, 7, 5.5), 6, 7),
}  # fmt: skip
"""Table 3 of the paper, its slips corrected: ranks, median, place."""


def standing(arm, ranks, median, place, subset=POOLED, **bounds):
    return Standing(
        subset=subset, arm=arm, ranks=dict(zip(LAYERS, ranks, strict=True)), median=median,
        place=place, **bounds,
    )  # fmt: skip


def section(rows, order=()):
    return overall(rows, [], order, arm_styles(order))


def words(rows):
    return " ".join(section(rows).tables[0].sentences)


def test_the_papers_table_is_shown_by_place_with_a_column_a_layer():
    table = section([standing(arm, *row) for arm, row in reversed(PAPER.items())]).tables[0]
    assert table.layers == ("Multiple choice", "Wording", "LLM judge", "Experts' ratings")
    assert [row.arm for row in table.rows] == [
        "70B FT", "70B RAG", "Claude", "70B", "8B RAG", "8B FT", "8B",
    ]  # fmt: skip
    assert table.rows[1].ranks == ("2", "7", "3", "1")
    assert [row.place for row in table.rows] == ["1", "2", "2", "4", "5", "6", "7"]
    assert table.rows[0].median == "1.5"
    assert (table.rows[0].places, table.rows[0].first) == ("", "–")


def test_a_layer_that_nobody_has_gets_no_column_and_one_that_some_lack_a_dash():
    rows = [standing("a", (1, None, 1, None), 1, 1), standing("b", (2, None, None, None), 2, 2)]
    table = section(rows).tables[0]
    assert table.layers == ("Multiple choice", "LLM judge")
    assert table.rows[1].ranks == ("2", "–")
    alone = "There are no weights to vary: only one layer, multiple choice, ranks every arm."
    assert table.sentences[-1] == alone
    apart = [standing("a", (1, None, None, None), 1, 1), standing("b", (None, 1, None, None), 1, 1)]
    assert words(apart).endswith("There are no weights to vary: no layer ranks every arm.")
    third = [standing("a", (1, 1, 1, None), 1, 1), standing("b", (2, 1, None, None), 1.5, 2)]
    assert words(third).endswith("Not weighed: the LLM judge, where b has no rank.")


def bounded(arm, ranks, median, place, places, p_first):
    return standing(
        arm, ranks, median, place, median_low=1.0, median_high=3.0, place_low=places[0],
        place_high=places[1], p_first=p_first,
    )  # fmt: skip


def test_a_leader_whose_place_is_open_is_not_called_sure():
    rows = [
        bounded("a", (1, 1, 1, 1), 1, 1, (1, 2), 0.62),
        bounded("b", (2, 2, 2, 2), 2, 2, (1, 3), 0.375),
        bounded("c", (3, 3, 3, 3), 3, 3, (2, 3), 0.005),
    ]
    text = words(rows)
    assert "a has the smallest median rank, 1, and has it or shares it in 62 % of" in text
    assert "First place is not ruled out for b." in text
    assert [row.first for row in section(rows).tables[0].rows] == ["62", "38", "< 1"]


def test_where_all_share_the_first_place_nothing_is_said_of_others():
    rows = [bounded(arm, (1, 1, 1, 1), 1, 1, (1, 2), 0.5) for arm in "ab"]
    assert "other arm" not in words(rows)


def test_equal_medians_are_told_as_shared_not_won():
    rows = [standing("a", (1, 2, 1, 2), 1.5, 1), standing("b", (2, 1, 2, 1), 1.5, 1)]
    assert "a and b share the smallest median rank, 1.5." in words(rows)


def test_one_who_is_best_everywhere_wins_under_every_weighting():
    rows = [standing("a", (1, 1, 1, 1), 1, 1), standing("b", (2, 2, 2, 2), 2, 2)]
    assert (
        "a has the smallest mean rank under every weighting multiple choice, wording, the LLM "
        "judge and experts' ratings." in words(rows)
    )


def test_where_layers_disagree_the_winner_hangs_on_their_weight():
    rows = [
        standing("tuned", (1, None, 2, None), 1.5, 1),
        standing("rag", (2, None, 1, None), 1.5, 1),
    ]
    text = words(rows)
    assert "falls to rag in 50 % and tuned in 50 % (shared where equal)" in text
    assert "tuned wins wherever 60 % or more of the weight is on multiple choice." in text
    assert "rag wins wherever 60 % or more of the weight is on the LLM judge." in text


def test_one_arm_alone_is_not_ranked():
    assert section([standing("a", (1, 1, 1, 1), 1, 1)]) is None
    assert section([]) is None


def test_the_figure_keeps_the_order_of_the_study_and_fills_those_that_may_be_first():
    order = ("8B", "8B FT", "70B FT")
    rows = [
        bounded("70B FT", (1, 1, 1, 1), 1, 1, (1, 2), 0.9),
        bounded("8B FT", (2, 2, 2, 2), 2, 2, (1, 3), 0.1),
        bounded("8B", (3, 3, 3, 3), 3, 3, (2, 3), 0.0),
    ]
    drawn = section(rows, order).figure
    places = [drawn.index(f">{name}</text>") for name in order]
    assert places == sorted(places)
    fills = re.findall(r'<use [^>]*style="fill: ([^;"]*)', drawn)
    assert fills == ["var(--paper)", "var(--arm-2)", "var(--arm-3)"]


@pytest.mark.parametrize(("arms", "ticks"), [(2, [1, 2]), (7, [1, 2, 3, 4, 5, 6, 7]),
                                             (13, [1, 3, 5, 7, 9, 11, 13])])  # fmt: skip
def test_the_axis_of_ranks_has_whole_numbers_from_the_first_place_on(arms, ticks):
    rows = [
        standing(f"an arm with a long name, {i:02}", (i + 0.5,) * 4, i + 0.5, i, subset=name)
        for i in range(1, arms + 1)
        for name in (POOLED, "hand/test", "hand/test_seen")
    ]
    found = section(rows)
    for drawn, panels in ((found.figure, 1), (found.figure_by_subset, 2)):
        shown = [float(text) for text in re.findall(r">([\d.]+)</text>", drawn)]
        assert shown == ticks * panels


def test_unseen_documents_come_first_and_the_others_have_a_figure_of_their_own():
    names = ("hand/test_seen", "hand/test", "also/test", POOLED)
    rows = [
        standing(arm, (place,) * 4, place, place, subset=name)
        for name in names
        for place, arm in enumerate(("a", "b"), 1)
    ]
    found = section(rows)
    tables = [table.subset for table in found.tables]
    assert tables == [POOLED, "also/test", "hand/test", "hand/test_seen"]
    assert f">{POOLED}</text>" in found.figure
    assert ">hand/test_seen</text>" in found.figure_by_subset
    assert section(rows[:2]).figure_by_subset == ""
    # One unseen subset is not pooled, and comes before documents used in training all the same.
    assert [table.subset for table in section(rows[:4]).tables] == ["hand/test", "hand/test_seen"]
