"""Curves as inline SVG: small, printable, without scripts, in the colors of the page.

Matplotlib draws with placeholder colors. They are then replaced by variables of the style sheet, so
that light, dark and print have their own colors. Only numbers are drawn, no text from a run.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

MAX_RUNS = 8  # each has its own color and sign
_MAX_POINTS = 1600  # per figure
_WIDE = 20.0  # ratio of values above which a scale may be logarithmic
# Signs that distinguish runs without colors: as text, and their names in Matplotlib.
SIGNS = "●■▲▼◆◄►★"
_MARKERS = "os^vD<>*"
_SIGNS_PER_CURVE = 6
_FEW_POINTS = {"train": 12, "held-out": 40}  # up to here points are also drawn as dots

# Placeholder -> variable of the style sheet.
_INK, _MUTED, _LINE, _ALARM = "#010101", "#020202", "#030303", "#040404"
_RUNS = [f"#0505{number:02x}" for number in range(MAX_RUNS)]
_COLORS = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _ALARM: "var(--alarm)",
    **{placeholder: f"var(--run-{number})" for number, placeholder in enumerate(_RUNS)},
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bert-jax",
    "path.simplify": False,  # thinned already
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}

Kind = Literal["train", "held-out"]
Mark = Literal["phase", "restart", "preempted", "skipped"]


@dataclass(frozen=True)
class Curve:
    """Values over steps.

    Attributes:
        run: Index of the run, which decides the color.
        kind: "train", or "held-out" for evaluations.
        steps: Ascending, [N].
        values: [N].
    """

    run: int
    kind: Kind
    steps: np.ndarray
    values: np.ndarray


def wide(curves: Sequence[Curve]) -> bool:
    """Return True if the values are positive and span a wide range."""
    least = min(curve.values.min() for curve in curves)
    return bool(least > 0 and max(curve.values.max() for curve in curves) > _WIDE * least)


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        title: Title; may come from a file.
        unit: Unit of the values.
        curves: Curves.
        logarithmic: True for a logarithmic scale.
        marks: Steps of events, with their labels.
        end: Last step of the scale.
        names: Names of the runs; may come from folders.
    """

    title: str
    unit: str
    curves: Sequence[Curve]
    logarithmic: bool = False
    marks: dict[Mark, dict[int, str]] = field(default_factory=dict)
    end: float = 1.0
    names: Sequence[str] = ("",)

    @property
    def label(self) -> str:
        """Description for screen readers."""
        curves = "; ".join(_description(curve, self.names[curve.run]) for curve in self.curves)
        return f"{self.title} by update; {curves}"


def _description(curve: Curve, name: str) -> str:
    kind = "training" if curve.kind == "train" else "evaluation"
    steps, values = curve.steps, curve.values
    low, high = values.argmin(), values.argmax()
    return (
        f"{name + ', ' if name else ''}{kind}: first {short(values[0])}, last {short(values[-1])},"
        f" lowest {short(values[low])} at {steps[low]:,.0f},"
        f" highest {short(values[high])} at {steps[high]:,.0f}"
    )


def thinned(steps: np.ndarray, values: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a curve to about `points`: of each span the smallest and the largest value."""
    if len(steps) <= points:
        return steps, values
    kept = {0, len(steps) - 1}
    for part in np.array_split(np.arange(len(steps)), max(1, points // 2)):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    chosen = np.array(sorted(kept))
    return steps[chosen], values[chosen]


def draw(chart: Chart, number: int) -> Markup:
    """Draw a chart as SVG; `number` makes its ids unique on the page."""
    with _style():
        figure, axes = _axes()
        points = max(100, _MAX_POINTS // max(1, len(chart.curves)))
        for curve in chart.curves:
            _curve(axes, curve, points, alone=len(chart.names) == 1)
        if chart.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("updates", loc="right", labelpad=2)
        axes.set_xlim(0, chart.end * 1.02)
        _mark(axes, chart.marks)
        return _svg(figure, number, chart.label)


def bars(counts: np.ndarray, edges: np.ndarray, number: int, title: str) -> Markup:
    """Draw a histogram as SVG: counts [N] between edges [N + 1]."""
    with _style():
        figure, axes = _axes()
        axes.grid(visible=False, axis="x")
        fractions = counts / max(1, counts.sum())
        axes.bar(edges[:-1], fractions, np.diff(edges) * 0.92, align="edge", color=_RUNS[0])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("tokens", loc="right", labelpad=2)
        return _svg(figure, number, title)


def short(value: float) -> str:
    """Format a number for a scale."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


@contextmanager
def _style() -> Iterator[None]:
    # Independent of the user's matplotlibrc.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def _axes() -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.7, 2.5))
    FigureCanvasSVG(figure)
    # Fixed margins are faster than computed ones, and align all figures.
    figure.subplots_adjust(left=0.125, right=0.985, bottom=0.165, top=0.925)
    return figure, figure.add_subplot()


def _curve(axes: Any, curve: Curve, points: int, alone: bool) -> None:
    steps, values = thinned(curve.steps, curve.values, points)
    held_out = curve.kind == "held-out"
    few = len(steps) <= _FEW_POINTS[curve.kind]
    # Each run has its own offset, so that coinciding curves do not hide their signs.
    stride = 1 if few else max(1, len(steps) // _SIGNS_PER_CURVE)
    offset = curve.run * max(1, stride // MAX_RUNS) % stride
    (line,) = axes.plot(
        steps,
        values,
        color=_RUNS[curve.run],
        linewidth=1.6 if held_out else 1.0,
        linestyle=(0, (4, 2)) if held_out else "-",
        alpha=1.0 if held_out else 0.75,
        marker=_MARKERS[curve.run] if few or not alone else None,
        markevery=slice(offset, None, stride),
        markersize=3.5 if alone else 4.5,
        zorder=3 if held_out else 2,
    )
    line.set_gid(f"curve-{curve.run}-{curve.kind}")


def _mark(axes: Any, marks: dict[Mark, dict[int, str]]) -> None:
    styles: dict[Mark, tuple[str, Any]] = {
        "phase": (_INK, "-"),
        "restart": (_INK, (0, (1, 2))),
        "preempted": (_ALARM, (0, (5, 2))),
    }
    for kind, steps in marks.items():
        if kind == "skipped":
            heights, transform = [0.04] * len(steps), axes.get_xaxis_transform()
            (line,) = axes.plot(
                list(steps), heights, "x", markersize=5, color=_ALARM, transform=transform, zorder=4
            )
            line.set_gid("mark-skipped")
            continue
        color, dashes = styles[kind]
        for step, label in steps.items():
            line = axes.axvline(step, color=color, linewidth=1.1, linestyle=dashes, zorder=1.5)
            line.set_gid(f"mark-{kind}-{step}")
            axes.annotate(
                label,
                (step, 1),
                xycoords=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=8,
                color=_MUTED,
            )


def _svg(figure: Figure, number: int, title: str) -> Markup:
    out = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    size = re.search(r'viewBox="[^"]+"', svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="f{number}-', svg)
    svg = svg.replace("url(#", f"url(#f{number}-").replace('href="#', f'href="#f{number}-')
    for placeholder, variable in _COLORS.items():
        svg = svg.replace(placeholder, variable)
    head = f'<svg {size[0] if size else ""} role="img" aria-label="{escape(title)}">'
    svg = re.sub(r"<svg.*?>", "", svg, count=1, flags=re.DOTALL).replace("xlink:href", "href")
    return Markup(head + svg)  # noqa: S704  the title is escaped; all other text is ours
