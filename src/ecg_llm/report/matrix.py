"""A matrix as a figure: colour by sign and size, weight by certainty, arms in their own marks."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from ecg_llm.report.figures import (
    FIRST,
    INK,
    LINE,
    MUTED,
    SECOND,
    WIDTH,
    ArmStyle,
    Data,
    blank,
    draw_marker,
    quiet,
    shortened,
    svg,
)

NARROWEST, WIDEST, HIGH = 0.42, 0.8, 0.27
"""Inches of a square: as wide as five characters at least, and never wider than it looks well."""
LETTER = 0.072
"""Inches of a character of a name, on average."""
PALEST, STRONGEST = 0.16, 0.52
"""Opacity of the colour of the smallest and of the largest value; ink stays readable on it."""
WEAK = 0.35
"""Of that opacity, what a value has that is not certain."""


class Square(NamedTuple):
    """One field of a matrix."""

    value: float | None
    """Its colour: blue above 0, orange below, the stronger the larger."""
    text: str = ""
    """What is written into it, at most five characters."""
    weight: Literal["strong", "weak", "none"] = "strong"
    """Bold on full colour; plain on pale colour; grey without colour."""


def matrix_plot(
    rows: Sequence[str],
    columns: Sequence[str],
    squares: Sequence[Sequence[Square | None]],
    description: str,
    *,
    limit: float | None = None,
    styles: Mapping[str, ArmStyle] = MappingProxyType({}),
    data: Data | None = None,
) -> str:
    """Return an SVG of a matrix, a line a row; fields that are None stay empty.

    Where rows and columns bear the same names, these are numbered, the columns show only the
    numbers, and the diagonal is greyed where it is empty.

    Args:
        rows: their names, at least one.
        columns: their names, at least one.
        squares: rows x columns.
        description: what is said to those who cannot see the figure.
        limit: the size of a value that has the strongest colour; by default the largest there is.
        styles: marks of arms, drawn beside their names.
        data: what stands in the metadata; by default a line a field with its value.
    """
    same = list(rows) == list(columns)
    most = limit or max((abs(s.value or 0) for line in squares for s in line if s), default=0) or 1
    left, top = shortened(rows), shortened(columns)
    names = [f"{left[name]} ({i})" if same else left[name] for i, name in _counted(rows)]
    heads = [f"({i})" if same else top[name] for i, name in _counted(columns)]
    side = 0.4 + LETTER * max(map(len, names))
    wide = min(WIDEST, max(NARROWEST, (WIDTH - side) / len(columns)))
    head = 0.35 if same else 0.3 + LETTER * max(map(len, heads))
    figure = blank()
    figure.set_size_inches(
        max(WIDTH, side + wide * len(columns)), head + HIGH * len(rows) + 0.1
    )  # fmt: skip
    axes = figure.subplots()
    for i, line in enumerate(squares):
        for j, square in enumerate(line):
            if square is not None:
                _draw(axes, j, i, square, most)
            elif same and i == j:
                _fill(axes, j, i, LINE, 0.6)
    spare = max(0.0, (WIDTH - side) / wide - len(columns))
    axes.set_xlim(-0.5, len(columns) - 0.5 + spare)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    axes.set_xticks(
        range(len(columns)), heads, parse_math=False, rotation=0 if same else 90
    )  # fmt: skip
    axes.xaxis.tick_top()
    quiet(axes)
    axes.tick_params(axis="x", labelcolor=INK)
    _mark(axes, rows, columns, styles, wide)
    return svg(figure, description, data or _data(rows, columns, squares))


def _counted(names: Sequence[str]) -> list[tuple[int, str]]:
    return list(enumerate(names, 1))


def _draw(axes: Any, x: int, y: int, square: Square, most: float) -> None:
    """Draw one field; what is not told apart keeps a frame, so that it is not taken for empty."""
    value = square.value or 0.0
    opacity = PALEST + (STRONGEST - PALEST) * min(1.0, abs(value) / most)
    if square.weight == "none" or square.value is None:
        _fill(axes, x, y, "none", 1.0)
    else:
        share = 1.0 if square.weight == "strong" else WEAK
        _fill(axes, x, y, FIRST if value >= 0 else SECOND, share * opacity)
    text = axes.text(
        x, y + 0.03, square.text, ha="center", va="center", fontsize=8,
        color=MUTED if square.weight == "none" else INK,
        fontweight="bold" if square.weight == "strong" else "normal", parse_math=False,
    )  # fmt: skip
    text.set_in_layout(False)  # it lies within its field, and measuring it takes long


def _fill(axes: Any, x: int, y: int, colour: str, opacity: float) -> None:
    from matplotlib.patches import Rectangle

    frame = {"edgecolor": LINE, "linewidth": 0.6} if colour == "none" else {"linewidth": 0.0}
    corner = (x - 0.47, y - 0.45)
    field = Rectangle(corner, 0.94, 0.9, facecolor=colour, alpha=opacity, **frame)
    axes.add_patch(field)
    field.set_in_layout(False)


def _mark(
    axes: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    styles: Mapping[str, ArmStyle],
    wide: float,
) -> None:
    """Draw the marks of arms between names and squares."""
    if any(name in styles for name in rows):
        axes.tick_params(axis="y", pad=17)
    if any(name in styles for name in columns):
        axes.tick_params(axis="x", pad=13)
    for i, name in enumerate(rows):
        if name in styles:
            draw_marker(axes, -0.5 - 0.12 / wide, i, styles[name])
    for j, name in enumerate(columns):
        if name in styles:
            draw_marker(axes, j, -0.5 - 0.11 / HIGH, styles[name])


def _data(
    rows: Sequence[str], columns: Sequence[str], squares: Sequence[Sequence[Square | None]]
) -> Data:
    lines = [
        (row, column, square.value)
        for row, line in zip(rows, squares, strict=True)
        for column, square in zip(columns, line, strict=True)
        if square is not None
    ]
    return Data(("row", "column", "value"), lines)
