import re

import pytest

from ecg_llm.report.figures import (
    Curve,
    Panel,
    Point,
    Stack,
    curve_plot,
    interval_plot,
    stacked_plot,
)

POINTS = [
    Point("base", 0.5, 0.4, 0.6, False),
    Point("tuned", 0.7, None, None, True),
    Point("failed", None, None, None, False),
]


def plot(points=POINTS, description="Accuracy", **options):
    return interval_plot([Panel("hand/test", points, (0.4, 0.7), **options)], description)


def test_equal_inputs_give_equal_bytes_without_date_or_address():
    assert plot() == plot()
    assert not re.search(r"https?://|20\d\d-\d\d-\d\d|matplotlib v|<metadata", plot())


def test_text_stays_text_and_colours_come_from_the_page():
    svg = plot(percent=True, reference=0.25)
    for text in ("base", "tuned", "failed", "hand/test", "40 %"):
        assert f">{text}</text>" in svg
    assert "var(--first)" in svg
    assert not re.search(r"(fill|stroke): #", svg)


def test_ids_of_two_figures_never_meet():
    first, second = (set(re.findall(r' id="([^"]*)"', plot(description=d))) for d in "ab")
    assert first
    assert not first & second


def test_names_and_descriptions_are_escaped_and_never_typeset():
    svg = plot([Point("<b> $x_1$ & 模型", 0.5, 0.4, 0.6, True)], 'a "quoted" <description>')
    assert "&lt;b&gt; $x_1$ &amp; 模型" in svg
    assert 'aria-label="a &quot;quoted&quot; &lt;description&gt;"' in svg


def test_an_arm_without_an_interval_has_a_dot_and_one_without_a_value_only_its_name():
    def dots(points):
        return plot(points).count("<use ")

    def lines(points):
        return len(re.findall("stroke-width: 1.6", plot(points)))

    assert (dots(POINTS[:1]), lines(POINTS[:1])) == (1, 1)
    assert (dots(POINTS[1:2]), lines(POINTS[1:2])) == (1, 0)
    assert (dots(POINTS[2:]), lines(POINTS[2:])) == (0, 0)


@pytest.mark.parametrize("panels", [1, 2, 3, 4])
def test_every_panel_is_drawn(panels):
    made = [Panel(f"metric {i}", POINTS, (0.0, 1.0)) for i in range(panels)]
    svg = interval_plot(made, "all")
    assert all(f">metric {i}</text>" in svg for i in range(panels))


def test_training_curves_are_told_apart_by_more_than_colour():
    svg = curve_plot(
        [Curve("training", [1, 2], [3, 2]), Curve("validation", [2], [2.5])], "l", "loss"
    )
    assert ">training</text>" in svg
    assert ">validation</text>" in svg
    assert "var(--second)" in svg
    assert "stroke-dasharray" in svg


def test_the_kept_step_has_a_ring_on_the_last_curve_that_has_it():
    curves = [Curve("training", [1, 2, 3], [3, 2, 1]), Curve("validation", [2], [2.5])]
    plain = curve_plot(curves, "l", "loss")
    for kept in (2, 3):
        svg = curve_plot(curves, "l", "loss", kept=kept)
        assert f">kept, step {kept}</text>" in svg
        assert svg.count("<use ") == plain.count("<use ") + 2  # the ring and its legend
    assert curve_plot(curves, "l", "loss", kept=9) == plain


def stacked(stacks):
    return stacked_plot(stacks, ("correct", "wrong", "not judged"), "Verdicts")


def test_a_stacked_bar_says_the_share_of_each_part_that_has_room_and_the_number_of_all():
    svg = stacked([Stack("base", (120, 75, 5))])
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert {"base", "60", "38", "200", "correct", "wrong", "not judged"} <= set(texts)
    assert "2" not in texts
    assert "var(--part-1)" in svg
    assert not re.search(r"(fill|stroke): #", svg)
    assert svg == stacked([Stack("base", (120, 75, 5))])


def test_a_bar_of_nothing_is_no_error():
    assert ">0</text>" in stacked([Stack("base", (0, 0, 0)), Stack("tuned", (1, 0, 0))])
