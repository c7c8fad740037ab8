"""Curves as inline SVG: small, printable, without scripts, in the colours of the page.

Matplotlib draws with stand-ins, which are then replaced by the variables of the style sheet, so
that light, dark and print have colours of their own. No text of a run is drawn, only numbers.
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

MOST_RUNS = 8  # that have a colour and a sign of their own
_POINTS = 1600  # of the curves of one figure
_DECADE = 20.0  # from here on a scale may be logarithmic
# By which runs are told apart without colours: as text, and as Matplotlib names them.
SIGNS = "●■▲▼◆◄►★"
_MARKERS = "os^vD<>*"
_SIGNS_OF_A_CURVE = 6
_FEW = {"train": 12, "held-out": 40}  # points that are also drawn as dots

# Stand-in -> variable of the style sheet.
_INK, _MUTED, _LINE, _ALARM = "#010101", "#020202", "#030303", "#040404"
_RUNS = [f"#0505{number:02x}" for number in range(MOST_RUNS)]
_COLOURS = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _ALARM: "var(--alarm)",
    **{stand_in: f"var(--run-{number})" for number, stand_in in enumerate(_RUNS)},
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
        run: Its number, which decides the colour.
        kind: Train or held-out.
        steps: Ascending, [N].
        values: [N].
    """

    run: int
    kind: Kind
    steps: np.ndarray
    values: np.ndarray


def wide(curves: Sequence[Curve]) -> bool:
    """Whether the values are positive and so different that a logarithmic scale shows more."""
    least = min(curve.values.min() for curve in curves)
    return bool(least > 0 and max(curve.values.max() for curve in curves) > _DECADE * least)


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        title: What is shown; may come from a file.
        unit: Of the values.
        curves: In it.
        logarithmic: Whether its scale is.
        marks: Steps at which something happened, and what to write there.
        end: The last step of the scale.
        names: Of the runs; may come from folders.
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
        """What those hear who do not see it."""
        told = "; ".join(_told(curve, self.names[curve.run]) for curve in self.curves)
        return f"{self.title} by update; {told}"


def _told(curve: Curve, name: str) -> str:
    what = "training" if curve.kind == "train" else "held out"
    steps, values = curve.steps, curve.values
    low, high = values.argmin(), values.argmax()
    return (
        f"{name + ', ' if name else ''}{what}: first {short(values[0])}, last {short(values[-1])},"
        f" lowest {short(values[low])} at {steps[low]:,.0f},"
        f" highest {short(values[high])} at {steps[high]:,.0f}"
    )


def thinned(steps: np.ndarray, values: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about `points` of them: of every stretch the least and the largest value."""
    if len(steps) <= points:
        return steps, values
    kept = {0, len(steps) - 1}
    for part in np.array_split(np.arange(len(steps)), max(1, points // 2)):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    chosen = np.array(sorted(kept))
    return steps[chosen], values[chosen]


def drawn(chart: Chart, number: int) -> Markup:
    """The figure as SVG; `number` keeps its ids apart from those of others on the page."""
    with _style():
        figure, axes = _axes()
        points = max(100, _POINTS // max(1, len(chart.curves)))
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
    """A histogram as SVG: counts [N] between edges [N + 1]."""
    with _style():
        figure, axes = _axes()
        axes.grid(visible=False, axis="x")
        share = counts / max(1, counts.sum())
        axes.bar(edges[:-1], share, np.diff(edges) * 0.92, align="edge", color=_RUNS[0])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("tokens", loc="right", labelpad=2)
        return _svg(figure, number, title)


def short(value: float) -> str:
    """A number for a scale."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


@contextmanager
def _style() -> Iterator[None]:
    # Whatever the user's matplotlibrc says.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def _axes() -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.7, 2.5))
    FigureCanvasSVG(figure)
    # The same for all, which saves the time to find out, and puts them in line.
    figure.subplots_adjust(left=0.125, right=0.985, bottom=0.165, top=0.925)
    return figure, figure.add_subplot()


def _curve(axes: Any, curve: Curve, points: int, alone: bool) -> None:
    steps, values = thinned(curve.steps, curve.values, points)
    held_out = curve.kind == "held-out"
    few = len(steps) <= _FEW[curve.kind]
    # In different places for every run, so that curves which coincide do not hide their signs.
    apart = 1 if few else max(1, len(steps) // _SIGNS_OF_A_CURVE)
    begin = curve.run * max(1, apart // MOST_RUNS) % apart
    (line,) = axes.plot(
        steps,
        values,
        color=_RUNS[curve.run],
        linewidth=1.6 if held_out else 1.0,
        linestyle=(0, (4, 2)) if held_out else "-",
        alpha=1.0 if held_out else 0.75,
        marker=_MARKERS[curve.run] if few or not alone else None,
        markevery=slice(begin, None, apart),
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
            low, place = [0.04] * len(steps), axes.get_xaxis_transform()
            (line,) = axes.plot(
                list(steps), low, "x", markersize=5, color=_ALARM, transform=place, zorder=4
            )
            line.set_gid("mark-skipped")
            continue
        colour, dashes = styles[kind]
        for step, label in steps.items():
            line = axes.axvline(step, color=colour, linewidth=1.1, linestyle=dashes, zorder=1.5)
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
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    size = re.search(r'viewBox="[^"]+"', svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="f{number}-', svg)
    svg = svg.replace("url(#", f"url(#f{number}-").replace('href="#', f'href="#f{number}-')
    for stand_in, variable in _COLOURS.items():
        svg = svg.replace(stand_in, variable)
    head = f'<svg {size[0] if size else ""} role="img" aria-label="{escape(title)}">'
    svg = re.sub(r"<svg.*?>", "", svg, count=1, flags=re.DOTALL).replace("xlink:href", "href")
    return Markup(head + svg)  # noqa: S704  every text in it is ours but the title, escaped
