import html
import json
import re
from importlib import resources
from itertools import combinations

import numpy as np
import pytest

from ecg_llm.report.figures import (
    ARMS,
    Band,
    Curve,
    Data,
    Panel,
    Point,
    Stack,
    arm_styles,
    band_plot,
    bar_plot,
    blank,
    curve_plot,
    interval_plot,
    shortened,
    stacked_plot,
    svg,
)
from ecg_llm.report.matrix import Square, matrix_plot

OKABE_ITO = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
)  # fmt: skip
VISION = {
    "common": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
}  # fmt: skip
"""How linear RGB is seen (Machado, Oliveira & Fernandes 2009, severity 1)."""
TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip
"""Oklab (Ottosson 2020), in which equal distances look about equal."""

POINTS = [
    Point("base", 0.5, 0.4, 0.6, False),
    Point("tuned", 0.7, None, None, True),
    Point("failed", None, None, None, False),
]


def plot(points=POINTS, description="Accuracy", **options):
    return interval_plot([Panel("hand/test", points, (0.4, 0.7), **options)], description)


def test_equal_inputs_give_equal_bytes_without_date_or_address():
    assert plot() == plot()
    assert not re.search(r"https?://|20\d\d-\d\d-\d\d|matplotlib v|<style", plot())


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


def colours(place):
    """Return the colours of arms and the paper in one of the style sheet's three blocks."""
    sheet = resources.files("ecg_llm.report").joinpath("templates/style.css").read_text("utf-8")
    blocks = re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)
    block = blocks[("light", "dark", "print").index(place)]
    arms = dict(re.findall(r"--(arm-\d+): (#[0-9a-f]{6});", block))
    paper = re.search(r"--paper: (#[0-9a-f]+);", block)[1]
    return [arms[f"arm-{i}"] for i in range(1, len(ARMS) + 1)], paper


def linear(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    share = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(first, second):
    """Return the contrast ratio of WCAG 2."""
    dark, light = sorted(float(linear(c) @ (0.2126, 0.7152, 0.0722)) for c in (first, second))
    return (light + 0.05) / (dark + 0.05)


def nearest(some):
    """Return the smallest distance of two colours for any kind of colour vision."""
    found = []
    for seen in VISION.values():
        labs = [TO_LAB @ np.cbrt(TO_LMS @ np.clip(seen @ linear(c), 0, 1)) for c in some]
        found += [float(np.linalg.norm(a - b)) for a, b in combinations(labs, 2)]
    return min(found)


@pytest.mark.parametrize("place", ["light", "dark", "print"])
def test_colours_of_arms_can_be_seen_and_told_apart_with_any_colour_vision(place):
    arms, paper = colours(place)
    assert min(contrast(arm, paper) for arm in arms) >= 3
    assert nearest(arms) > nearest(OKABE_ITO)


def test_what_is_drawn_has_the_colours_of_the_light_page():
    assert list(ARMS) == colours("light")[0] == colours("print")[0]


def test_every_arm_has_a_style_of_its_own_that_more_arms_do_not_change():
    names = [f"arm {i}" for i in range(56)]
    styles = arm_styles(names)
    assert len(set(styles.values())) == 56
    assert len({style.colour for style in arm_styles(names[:8]).values()}) == 8
    assert arm_styles(names[:5]) == {name: styles[name] for name in names[:5]}
    markers = {}
    for name in names[:13]:
        markers.setdefault(styles[name].colour, []).append(styles[name].marker)
    assert all(len(set(some)) == len(some) for some in markers.values())


def test_an_arm_is_drawn_in_its_own_colour_and_what_is_none_in_that_of_the_page():
    styles = arm_styles(["base", "tuned"])
    drawn = interval_plot([Panel("p", POINTS, (0.4, 0.7))], "a", styles)
    assert "var(--arm-1)" in drawn
    assert "var(--arm-2)" in drawn
    assert "var(--first)" not in drawn
    assert "var(--first)" in interval_plot([Panel("p", POINTS, (0.4, 0.7))], "a")


@pytest.mark.parametrize(
    "names",
    [
        [f"llama-3.1-70b-instruct-r256-alpha-{i}" for i in (128, 256)],
        [f"arm with a fairly long name {i:02} and more text" for i in range(1, 14)],
        ["a" * 30, "a" * 31, "a" * 32],
        [f"{'a' * 20}{'x' * 15}{i}{'y' * 15}{'b' * 20}" for i in range(9)],
        [f"{'a' * 20}{i}{'y' * 40}{i}{'b' * 20}" for i in range(1, 12)],
        ["1" * 30, "1" * 31, "2" * 30],
        ["base", "base+rag"],
    ],
)
def test_names_of_one_figure_stay_apart(names):
    short = shortened(names)
    assert list(short) == names
    assert len(set(short.values())) == len(names)
    assert all(1 < len(label) <= 26 for label in short.values())
    assert all(short[name] == name for name in names if len(name) <= 26)


@pytest.mark.parametrize("room", range(18, 48))
def test_a_shortened_name_shows_the_whole_number_by_which_it_differs(room):
    names = [f"arm with a fairly long name {i:02} and more text" for i in range(1, 14)]
    short = shortened(names, room)
    assert max(map(len, short.values())) <= room
    assert [re.search(r"(?<!\d)\d+(?!\d)", label)[0] for label in short.values()] == [
        f"{i:02}" for i in range(1, 14)
    ]


def test_one_long_name_keeps_its_beginning_and_its_end():
    assert shortened(["a rather long name of an arm, 256"]) == {
        "a rather long name of an arm, 256": "a rather long… an arm, 256"
    }


def test_every_arm_of_a_figure_has_a_label_of_its_own():
    names = [f"arm with a fairly long name {i:02} and more text" for i in range(1, 14)]
    points = [Point(name, 0.5, 0.4, 0.6, True) for name in names]
    stacks = [Stack(name, (3, 1)) for name in names]
    squares = [[None if a == b else Square(0.1, ".1") for b in names] for a in names]
    for drawn in (
        interval_plot([Panel("p", points, (0.4, 0.6)), Panel("q", points, (0.4, 0.6))], "d"),
        stacked_plot(stacks, ("right", "wrong"), "d"),
        matrix_plot(names, ["one", "two"], [line[:2] for line in squares], "d"),
    ):
        assert {f"…{i:02}…" for i in range(1, 14)} <= set(re.findall(r"…\d\d…", drawn))


def data_of(drawn):
    return json.loads(html.unescape(re.search("<metadata>(.*?)</metadata>", drawn)[1]))


@pytest.mark.parametrize(
    ("drawn", "columns", "rows"),
    [
        (plot(POINTS[:1]), ["panel", "name", "value", "low", "high"],
         [["hand/test", "base", 0.5, 0.4, 0.6]]),
        (curve_plot([Curve("training", [1, 2], [3.0, float("nan")])], "l", "loss"),
         ["curve", "step", "loss"], [["training", 1, 3.0], ["training", 2, None]]),
        (band_plot([Band("source", [0.5, 0.7], [(0.4, 0.6), (None, None)])], "b", "first k"),
         ["line", "first k", "value", "low", "high"],
         [["source", 1, 0.5, 0.4, 0.6], ["source", 2, 0.7, None, None]]),
        (bar_plot(["A <b>", "B"], [0.4, 0.6], 0.5, "k", "share"),
         ["name", "share"], [["A <b>", 0.4], ["B", 0.6]]),
        (stacked_plot([Stack("base", (3, 1))], ("right", "wrong"), "s"),
         ["name", "right", "wrong"], [["base", 3, 1]]),
    ],
)  # fmt: skip
def test_every_figure_carries_what_it_shows_as_a_table(drawn, columns, rows):
    assert data_of(drawn) == {"columns": columns, "rows": rows}


def test_a_figure_wider_than_the_others_keeps_its_width_and_scrolls():
    def drawn(width):
        figure = blank()
        figure.set_size_inches(width, 1)
        figure.subplots()
        return svg(figure, "a", Data(("x",), [(1,)]))

    assert drawn(6.0).startswith('<svg class="wide" style="width: 36.0rem"')
    assert "wide" not in drawn(4.6)
