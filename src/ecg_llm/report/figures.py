"""Figures as SVG for one HTML page: equal inputs give equal bytes, colours come from the page."""

import html
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from types import MappingProxyType
from typing import Any, NamedTuple

from ecg_llm.records import digest

# Drawn with these colours, which the page then replaces by its own, light or dark. Blue and
# orange of Okabe and Ito stay apart for every kind of colour vision.
INK, MUTED, LINE, PAPER = "#111111", "#666666", "#dddddd", "#fefefe"
FIRST, SECOND = "#0072b2", "#d55e00"
PARTS = ("#0b5f94", "#9ccbe8", "#f3c089", "#a94a03", "#6b747e", "#d5d9de")
"""Of a bar: good to bad from blue to orange, strong at the ends, greys for no grade."""
ON_PARTS = ("#fdfdfd", "#101010", "#101010", "#fdfdfd", "#fdfdfd", "#101010")
"""Of the writing on each part."""
ARMS = (
    "#1193f1", "#8e3d00", "#083d82", "#ad8b03", "#30363d", "#0b7b6c", "#dd49b2", "#a06609",
)  # fmt: skip
"""Of the arms: the hues of Okabe and Ito, made dark enough to be seen on white, and further apart
for all kinds of colour vision than theirs. style.css has others for a dark ground."""
MARKERS: Mapping[str, float] = MappingProxyType(
    {"o": 6.0, "s": 5.4, "^": 6.6, "D": 5.0, "v": 6.6, "P": 6.8, "X": 6.6}
)
"""Of the arms, with sizes that look alike. Their number has no divisor in common with that of the
colours, so that arms of one colour differ in their marker."""
NARROW = 0.065
"""Share of a bar below which a part has no room for its number."""
PAGE_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    **{colour: f"var(--arm-{number})" for number, colour in enumerate(ARMS, 1)},
    **{colour: f"var(--part-{number})" for number, colour in enumerate(PARTS, 1)},
    "#fdfdfd": "var(--on-strong)",
    "#101010": "var(--on-pale)",
}
WIDTH = 4.6
"""Inches; about 440 pixels, so that two figures stand side by side and one fits a phone."""
REM = 6
"""Letter heights to an inch on the page: style.css makes WIDTH inches 27.6rem."""
LABEL = 26
"""Characters of an arm's name that are shown."""
WHOLE = 32
"""The same where one panel has the whole width."""


class ArmStyle(NamedTuple):
    """How an arm is drawn, in every figure of a report."""

    colour: str
    """To draw with; the page shows its own, light or dark."""
    marker: str
    """Of matplotlib."""


PLAIN = ArmStyle(FIRST, "o")
"""Of what is no arm."""


class Point(NamedTuple):
    """A value with its interval, if any; filled where no other arm is clearly better."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    filled: bool


class Panel(NamedTuple):
    """A dot-and-interval plot of one metric."""

    title: str
    points: Sequence[Point]
    """The same labels in the same order in every panel of a figure."""
    limits: tuple[float, float]
    """Ends of the axis, before a margin; the same wherever the metric is drawn."""
    percent: bool = False
    reference: float | None = None
    """Where a dashed line is drawn: the level of guessing, or of no bias."""
    ranks: bool = False
    """Whether the axis has whole numbers only, from its lower end on."""


class Curve(NamedTuple):
    """A line of a training plot."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]


class Band(NamedTuple):
    """A line over 1, 2 ... with the interval of each value, if it has one."""

    label: str
    values: Sequence[float]
    """Shares, 0 to 1."""
    ends: Sequence[tuple[float | None, float | None]]


class Data(NamedTuple):
    """What a figure shows, as a table."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str | float | None]]


class Stack(NamedTuple):
    """A bar of counts that make a whole."""

    label: str
    counts: Sequence[int]


def arm_styles(arms: Iterable[str]) -> Mapping[str, ArmStyle]:
    """Return the style of each arm by its place, so that equal orders give equal styles.

    No two of the first 56 arms are drawn alike.
    """
    markers = tuple(MARKERS)
    return {
        arm: ArmStyle(ARMS[place % len(ARMS)], markers[place % len(markers)])
        for place, arm in enumerate(dict.fromkeys(arms))
    }


def interval_plot(
    panels: Sequence[Panel],
    description: str,
    styles: Mapping[str, ArmStyle] = MappingProxyType({}),
) -> str:
    """Return an SVG of dots with their intervals, a label a line, the panels two in a row.

    Labels that have a style are drawn in it.
    """
    figure = blank()
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    lines = max(len(panel.points) for panel in panels)
    figure.set_size_inches(WIDTH, rows * (0.62 + 0.21 * lines))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    longest = max(len(point.label) for panel in panels for point in panel.points)
    ticks = 3 if columns == 2 and longest > LABEL // 2 else 5
    room = LABEL if columns == 2 else WHOLE
    names = shortened([point.label for panel in panels for point in panel.points], room)
    for index, place in enumerate(axes.flat):
        if index < len(panels):
            _draw_panel(place, panels[index], ticks, names, styles)
        else:
            place.set_visible(False)
    shown = [
        (panel.title, point.label, point.value, point.low, point.high)
        for panel in panels
        for point in panel.points
    ]
    return svg(figure, description, Data(("panel", "name", "value", "low", "high"), shown))


def curve_plot(
    curves: Sequence[Curve],
    description: str,
    label: str,
    *,
    percent: bool = False,
    kept: int | None = None,
    level: float | None = None,
) -> str:
    """Return an SVG of up to two curves over training steps.

    `percent` shows shares in percent; a ring marks the step `kept` on the last curve that has it;
    a dashed line stands at the `level` of guessing.
    """
    figure = blank()
    figure.set_size_inches(WIDTH, 2.2)
    axes = figure.subplots()
    scale = 100 if percent else 1
    for curve, colour, style in zip(curves, (FIRST, SECOND), ("-", "--"), strict=False):
        marker = "o" if len(curve.steps) < 40 else ""
        axes.plot(
            curve.steps, [value * scale for value in curve.values], style, marker=marker,
            markersize=3, color=colour, linewidth=1.4, label=curve.label,
        )  # fmt: skip
    if level is not None:
        dashes = (0, (3, 3))
        axes.axhline(level * scale, color=MUTED, linewidth=0.9, linestyle=dashes, label="guessing")
    found = [c for c in curves if kept in c.steps]
    if found:
        value = found[-1].values[found[-1].steps.index(kept)]
        axes.plot(
            kept, value * scale, "o", markersize=7, markeredgewidth=1.4, markeredgecolor=INK,
            markerfacecolor=PAPER, label=f"kept, step {kept:,}",
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if percent:
        axes.yaxis.set_major_formatter("{x:g} %")
    figure.legend(
        loc="outside upper left", ncols=4, frameon=False, labelcolor=INK, borderpad=0,
        columnspacing=1.4, handlelength=1.6,
    )  # fmt: skip
    quiet(axes)
    rows = [(c.label, *at) for c in curves for at in zip(c.steps, c.values, strict=True)]
    return svg(figure, description, Data(("curve", "step", label), rows))


def band_plot(bands: Sequence[Band], description: str, label: str) -> str:
    """Return an SVG of up to two lines of shares in percent, each in the band of its intervals."""
    figure = blank()
    figure.set_size_inches(WIDTH, 2.4)
    axes = figure.subplots()
    for band, colour, style in zip(bands, (FIRST, SECOND), ("-", "--"), strict=False):
        steps = list(range(1, len(band.values) + 1))
        known = [
            (step, 100 * low, 100 * high)
            for step, (low, high) in zip(steps, band.ends, strict=True)
            if low is not None and high is not None
        ]
        if known:
            axes.fill_between(*zip(*known, strict=True), color=colour, alpha=0.16, linewidth=0)
        axes.plot(
            steps, [100 * value for value in band.values], style, marker="o", markersize=3,
            color=colour, linewidth=1.4, label=band.label,
        )  # fmt: skip
    axes.set_xlabel(label)
    axes.set_ylim(0, 103)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_xticks([1, *range(5, max(len(band.values) for band in bands) + 1, 5)])
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.legend(frameon=False, labelcolor=INK, loc="lower right")
    quiet(axes)
    rows = [
        (band.label, step, value, *ends)
        for band in bands
        for step, (value, ends) in enumerate(zip(band.values, band.ends, strict=True), 1)
    ]
    return svg(figure, description, Data(("line", label, "value", "low", "high"), rows))


def bar_plot(
    labels: Sequence[str], values: Sequence[float], level: float, description: str, label: str
) -> str:
    """Return an SVG of bars, with a dashed line at the level that all would have if equal."""
    figure = blank()
    figure.set_size_inches(WIDTH, 1.9)
    axes = figure.subplots()
    axes.bar(range(len(values)), values, color=FIRST, width=0.72)
    axes.axhline(level, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.set_xticks(range(len(labels)), labels, parse_math=False)
    axes.set_ylabel(label)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    quiet(axes)
    rows = list(zip(labels, values, strict=True))
    return svg(figure, description, Data(("name", label), rows))


def stacked_plot(stacks: Sequence[Stack], names: Sequence[str], description: str) -> str:
    """Return an SVG of bars in percent of their whole, up to six parts each.

    Every part that has room says its percentage; the number of all stands beside the bar.
    """
    figure = blank()
    figure.set_size_inches(WIDTH, 0.85 + 0.25 * len(stacks))
    axes = figure.subplots()
    for height, stack in enumerate(stacks):
        whole, left = sum(stack.counts), 0.0
        for count, colour, ink in zip(stack.counts, PARTS, ON_PARTS, strict=False):
            share = count / whole if whole else 0.0
            axes.barh(
                height, 100 * share, left=left, height=0.74, color=colour, edgecolor=PAPER,
                linewidth=0.8 if share else 0,
            )  # fmt: skip
            if share >= NARROW:
                place = (left + 50 * share, height + 0.03)
                axes.text(*place, f"{100 * share:.0f}", color=ink, ha="center", va="center")
            left += 100 * share
        axes.text(102, height + 0.03, f"{whole:,}", color=MUTED, va="center")
    short = shortened([stack.label for stack in stacks])
    axes.set_yticks(range(len(stacks)), [short[s.label] for s in stacks], parse_math=False)
    axes.set_ylim(len(stacks) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter("{x:g} %")
    # Empty bars carry the colours into the key, whatever the counts are.
    keys = [axes.barh(0, 0, color=colour) for colour in PARTS[: len(names)]]
    figure.legend(
        keys, names, loc="outside upper left", ncols=3, frameon=False, labelcolor=INK,
        handlelength=0.9, handleheight=0.9, columnspacing=1.2, handletextpad=0.5, borderpad=0,
    )  # fmt: skip
    quiet(axes)
    rows: list[tuple[str | float, ...]] = [(stack.label, *stack.counts) for stack in stacks]
    return svg(figure, description, Data(("name", *names), rows))


def _draw_panel(
    axes: Any,
    panel: Panel,
    ticks: int,
    names: Mapping[str, str],
    styles: Mapping[str, ArmStyle],
) -> None:
    scale = 100 if panel.percent else 1
    for height, point in enumerate(panel.points):
        if point.value is None:
            continue
        style = styles.get(point.label, PLAIN)
        if point.low is not None and point.high is not None:
            ends = [point.low * scale, point.high * scale]
            axes.plot(
                ends, [height, height], color=style.colour, linewidth=1.6, solid_capstyle="butt"
            )
        draw_marker(axes, point.value * scale, height, style, filled=point.filled)
    if panel.reference is not None:
        axes.axvline(panel.reference * scale, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    labels = [names[point.label] for point in panel.points]
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_title(panel.title, parse_math=False, loc="left", fontsize=9, color=INK)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    least, most = (end * scale for end in panel.limits)
    if panel.reference is not None:
        least = min(least, panel.reference * scale)
    margin = 0.06 * (most - least) or 0.05 * scale
    axes.set_xlim(least - margin, most + margin)
    if panel.ranks:
        first, last = round(least), round(most)
        axes.set_xticks(range(first, last + 1, -(-(last - first) // (2 * ticks))))
    else:
        axes.locator_params(axis="x", nbins=ticks)
        axes.ticklabel_format(axis="x", useOffset=False)
    if panel.percent:
        axes.xaxis.set_major_formatter("{x:g} %")
    quiet(axes)


def draw_marker(axes: Any, x: float, y: float, style: ArmStyle, *, filled: bool = True) -> None:
    """Draw the marker of an arm, filled or hollow, outside of the axes too."""
    axes.plot(
        x, y, style.marker, markersize=MARKERS[style.marker], markeredgewidth=1.4,
        markeredgecolor=style.colour, markerfacecolor=style.colour if filled else PAPER,
        clip_on=False,
    )  # fmt: skip


def quiet(axes: Any) -> None:
    """Leave out what carries no data."""
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED, labelsize=9)
    axes.tick_params(axis="y", labelcolor=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=MUTED, fontsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def shortened(names: Iterable[str], room: int = LABEL) -> dict[str, str]:
    """Return each name of a figure as an axis has room for it, no two alike.

    A long name keeps its beginning and its end; where that makes names alike, also what differs
    between; where that is too long, its beginning and its number among the names.
    """
    names = list(dict.fromkeys(names))
    labels = {name: _ends(name, room) for name in names}
    for alike in _alike(labels):
        before, after = _shared(alike)
        for name in alike:
            if middle := _ends(name[before : len(name) - after], room - 2):
                rest = room - 2 - len(middle)
                tail = len(name) - rest + rest // 2
                labels[name] = f"{name[: rest // 2]}…{middle}…{name[tail:]}"
    for alike in _alike(labels):
        for name in alike:
            number = f"…{names.index(name) + 1}"
            labels[name] = name[: room - len(number)] + number
    return labels


def _ends(name: str, room: int) -> str:
    """Return the beginning and the end of a name that is too long; a number is not cut there."""
    if len(name) <= room:
        return name
    head, tail = room // 2, len(name) - (room - 1 - room // 2)
    while head and name[head - 1 : head + 1].isdigit():
        head -= 1
    while tail < len(name) and name[tail - 1 : tail + 1].isdigit():
        tail += 1
    return f"{name[: head or room // 2]}…{name[tail:]}"


def _alike(labels: Mapping[str, str]) -> list[list[str]]:
    """Return the names that have one label, for each label that several have."""
    having: dict[str, list[str]] = {}
    for name, label in labels.items():
        having.setdefault(label, []).append(name)
    return [names for names in having.values() if len(names) > 1]


def _shared(names: Sequence[str]) -> tuple[int, int]:
    """Return how many characters all names begin with, and end with; no number is cut."""
    before = _common(names)
    after = _common([name[before:][::-1] for name in names])
    name = names[0]
    while before and name[before - 1].isdigit():
        before -= 1
    while after and name[-after].isdigit():
        after -= 1
    return before, after


def _common(names: Sequence[str]) -> int:
    columns = enumerate(zip(*names, strict=False))
    return next((i for i, letters in columns if len(set(letters)) > 1), min(map(len, names)))


def blank() -> Any:
    """Return an empty matplotlib figure without a background."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    figure.patch.set_visible(False)
    return figure


def svg(figure: Any, description: str, data: Data | None = None) -> str:
    """Return the figure as an SVG element that can stand in a page beside others.

    Text stays text, ids are unique to the figure, and no date, version or address is in it. One
    wider than WIDTH has the class "wide" and its own width, and scrolls on a small screen.
    What was drawn stands as JSON in its metadata element: {"columns": [...], "rows": [[...]]}.
    """
    import matplotlib

    for axes in figure.axes:
        axes.patch.set_visible(False)
    target = StringIO()
    settings = {"svg.hashsalt": "ecg-llm", "svg.fonttype": "none", "font.size": 9}
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A name in Chinese, say, is drawn by the reader's browser, whatever font measured it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(target, format="svg", metadata=metadata)
    text = target.getvalue()
    text = text[text.index("<svg") :]
    for noise in (
        r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->",
        r' xmlns(:xlink)?="[^"]*"', r'(?<=<g) id="[^"]*"', r" font-family: [^;]*;",
    ):  # fmt: skip
        text = re.sub(noise, "", text, flags=re.DOTALL)
    prefix = "f" + digest(text, description, length=8)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    for drawn, shown in PAGE_COLOURS.items():
        text = text.replace(drawn, shown)
    text = " ".join(text.split()).replace("> <", "><")
    alternative = description.translate({38: "&amp;", 60: "&lt;", 62: "&gt;", 34: "&quot;"})
    text = text.replace("<svg", f'<svg role="img" aria-label="{alternative}"', 1)
    if (width := figure.get_size_inches()[0]) > WIDTH:
        # Keeps its size and scrolls in its box, where other figures shrink with the page.
        text = text.replace("<svg", f'<svg class="wide" style="width: {width * REM:.1f}rem"', 1)
    if data is None:
        return text
    rows = [[_finite(value) for value in row] for row in data.rows]
    shown = json.dumps({"columns": data.columns, "rows": rows}, ensure_ascii=False)
    return text.replace("</svg>", f"<metadata>{html.escape(shown, quote=False)}</metadata></svg>")


def _finite(value: str | float | None) -> str | float | None:
    """Return the value, or None where JSON has no number for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
