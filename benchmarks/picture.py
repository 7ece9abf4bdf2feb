"""Draws what `bench.py` and `growth.py` have measured, as one picture.

::

    make bench-picture BENCH=bench.json GROWTH=growth.json
    python benchmarks/picture.py bench.json growth.json docs/performance.svg

Above, a panel for each work: how many times a second each peer does it. Below, a panel for each curve: how the cost
grows, and a dotted line as steep as what is linear. The kind of picture follows from the name of the file; SVG stays
small and sharp, and has its letters as outlines and its background in it, so that it looks the same everywhere.
"""

import argparse
import importlib
import importlib.util
import io
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from exponents import microseconds

OURS: Final = "typedrpc"
PLAIN: Final = ("bare echo", "floor")
"""What is no peer: less than a call."""

INK, GREY, RULE = "#1f2328", "#59636e", "#d8dee4"
OURS_COLOUR, PEER_COLOUR, PLAIN_COLOUR = "#0b62c4", "#b6c2cf", "#e3e7eb"
LINES: Final = ("#0b62c4", "#c4410b", "#1a7f37", "#8250df", "#9a6700")

WIDTH: Final = 900 / 96
"""Of the picture, in inches."""

COLUMNS: Final = 3
BAR: Final = 0.145
"""Inches for each bar, and around the bars of a panel."""

NAMES: Final = 1.12
"""Inches for the names at the left of them."""

PANEL: Final = 0.52
CURVE: Final = 1.95
HEAD: Final = 0.84
BETWEEN: Final = 0.62
FOOT: Final = 0.45
LONGEST: Final = 2.0
"""Bars are cut off at this many times the fastest call: what is less than a call may be far ahead of it."""

WORKS: Final = {
    "add": "add(int, int), one after another",
    "threads": "add from 8 threads",
    "map": "add over 20,000 inputs",
    "records": "100 dataclasses there and back",
    "stream": "stream of 20,000 ints",
    "1 MiB": "1 MiB of bytes there and back",
    "64 MiB": "64 MiB of bytes there and back",
    "connections": "1,000 connections, a call each",
    "unix": "add over a unix socket",
    "asyncio one after another": "asyncio: add, one after another",
    "asyncio 64 in flight": "asyncio: add, 64 in flight",
}

Peers = Mapping[str, Mapping[str, float | None]]


def in_order(peers: Peers) -> list[tuple[str, float]]:
    """Peers with their rates, the fastest first; typedrpc ahead of who is as fast."""
    rates = [(name, rate) for name, figures in peers.items() if (rate := figures["rate"])]
    return sorted(rates, key=lambda peer: (-peer[1], peer[0] != OURS))


def labels_of(rates: Sequence[tuple[str, float]]) -> list[str]:
    """What stands at each bar: the rate of typedrpc, and how many times as fast as that each other one is."""
    ours = dict(rates).get(OURS)
    return [f"{count(rate)}/s" if name == OURS or ours is None else f"{ratio(rate / ours)}" for name, rate in rates]


def count(value: float) -> str:
    """A number in three digits or so."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def ratio(value: float) -> str:
    """How many times as fast."""
    return f"{value:.0f} x" if value >= 9.95 else f"{value:.1f} x" if value >= 0.95 else f"{value:.2f} x"


def size(value: float) -> str:
    """Bytes, in the unit that suits them."""
    power = max(0, min(3, int(math.log2(value) // 10))) if value >= 1 else 0
    return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def cpu(point: Mapping[str, float]) -> float:
    """What both processes used, in microseconds."""
    return point["client"] + point["server"]


def duration(value: float) -> str:
    """A time of so many microseconds."""
    return microseconds(value).replace("us", "µs")


def draw_rates(panel: Any, title: str, peers: Peers) -> None:
    """The bars of one work."""
    rates = in_order(peers)
    names, values = [name for name, _ in rates], [rate for _, rate in rates]
    longest = LONGEST * max((rate for name, rate in rates if name not in PLAIN), default=max(values))
    colours = [OURS_COLOUR if name == OURS else PLAIN_COLOUR if name in PLAIN else PEER_COLOUR for name in names]
    lines = range(len(rates))
    panel.barh(lines, [min(value, longest) for value in values], height=0.74, color=colours)
    cut = [line for line, value in zip(lines, values, strict=True) if value > longest]
    panel.scatter([0.93 * longest] * len(cut), cut, marker=[(-0.6, -1), (0.6, 1)], s=70, color="white", linewidth=2.5)
    panel.set_ylim(len(rates) - 0.4, -0.6)
    panel.set_xlim(0, min(max(values), longest) * 1.32)
    for line, name, value, label in zip(lines, names, values, labels_of(rates), strict=True):
        weight = "bold" if name == OURS else "normal"
        colour = OURS_COLOUR if name == OURS else INK
        style: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline", "fontsize": 7.4}
        panel.annotate(
            label, (min(value, longest), line), xytext=(3, 0), ha="left", color=colour, weight=weight, **style
        )
        at_left = ("axes fraction", "data")
        panel.annotate(
            name, (0, line), xytext=(-4, 0), xycoords=at_left, ha="right", color=colour, weight=weight, **style
        )
    at_title: dict[str, Any] = {"textcoords": "offset points", "xycoords": "axes fraction", "fontsize": 8.2}
    panel.annotate(title, (0, 1), xytext=(-72 * NAMES, 4), color=INK, weight="bold", **at_title)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.minorticks_off()
    for side in ("top", "right", "bottom"):
        panel.spines[side].set_visible(False)
    panel.spines["left"].set_color(RULE)


def draw_curve(panel: Any, ticker: Any, curve: str, series: Sequence[Mapping[str, Any]]) -> None:
    """The lines of one curve. Where there are both, threads are drawn through and event loops dashed."""
    colours: dict[str, str] = {}
    for line in series:
        kind, dashed = (
            line["title"].replace("threads", "").replace("asyncio", "").strip(", "),
            "asyncio" in line["title"],
        )
        colour = colours.setdefault(kind, LINES[len(colours) % len(LINES)])
        points = line["points"]
        numbers, costs = [point["n"] for point in points], [cpu(point) for point in points]
        panel.plot(
            numbers, costs, color=colour, linestyle=(0, (3.5, 1.6)) if dashed else "-", linewidth=1.4, marker="o",
            markersize=2.6, label=line["title"],
        )  # fmt: skip
    panel.set_xscale("log")
    panel.set_yscale("log")
    (least, most), (low, high) = panel.get_xlim(), panel.get_ylim()
    last = max((line["points"][-1] for line in series), key=cpu)
    each = cpu(last) / last["n"]
    panel.plot([least, last["n"]], [each * least, cpu(last)], color=GREY, linestyle=":", linewidth=1.1, zorder=0)
    panel.set_xlim(least, most)
    panel.set_ylim(low, low * (high / low) ** (1.12 + 0.11 * len(series)))  # with room for the legend
    written = size if curve == "payload" else count
    panel.xaxis.set_major_locator(
        ticker.LogLocator(base=1024.0, subs=(1.0,)) if curve == "payload" else ticker.LogLocator(numticks=7)
    )
    panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: written(value)))
    panel.yaxis.set_major_locator(ticker.LogLocator(numticks=5))
    panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: duration(value) if value < high else ""))
    panel.minorticks_off()
    panel.tick_params(labelsize=7.2, colors=GREY, length=2, color=RULE)
    panel.grid(color=RULE, linewidth=0.5)
    panel.set_axisbelow(True)
    panel.set_title(curve, fontsize=8.2, loc="left", color=INK, weight="bold", pad=4)
    panel.legend(fontsize=6.8, frameon=False, loc="upper left", labelcolor=INK, handlelength=2.2, labelspacing=0.25,
                 borderaxespad=0.1, borderpad=0.2)  # fmt: skip
    for side in panel.spines.values():
        side.set_color(RULE)


def draw(bench: Mapping[str, Any], growth: Mapping[str, Any], path: Path, table: str = "one core") -> None:
    """Draw one picture of both reports."""
    matplotlib = importlib.import_module("matplotlib")
    figures, ticker = importlib.import_module("matplotlib.figure"), importlib.import_module("matplotlib.ticker")
    works: dict[str, Peers] = {name: peers for name, peers in bench["tables"][table].items() if in_order(peers)}
    rows = [list(works.items())[first : first + COLUMNS] for first in range(0, len(works), COLUMNS)]
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for series in growth["series"]:
        curves.setdefault(series["curve"], []).append(series)
    heights = [PANEL + BAR * max(len(in_order(peers)) for _, peers in row) for row in rows]
    curve_rows = math.ceil(len(curves) / COLUMNS)
    height = HEAD + sum(heights) + BETWEEN + curve_rows * (CURVE + PANEL) + FOOT
    # Letters as outlines; nothing in the file that is another one each time.
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": OURS}):
        figure = figures.Figure(figsize=(WIDTH, height), facecolor="white")

        def text(x: float, down: float, words: str, **style: Any) -> None:
            figure.text(x / WIDTH, 1 - down / height, words, va="top", **{"color": GREY, "fontsize": 8.2, **style})

        def panel(left: float, down: float, width: float, tall: float) -> Any:
            return figure.add_axes((left / WIDTH, 1 - (down + tall) / height, width / WIDTH, tall / height))

        down, column = HEAD, (WIDTH - 0.3) / COLUMNS
        where = "both processes on one core" if table == "one core" else "a core for each process"
        text(0.2, 0.16, f"Speed, {where}", color=INK, fontsize=12.5, weight="bold")
        text(
            0.2, 0.43, "How often a second each does the work; longer is faster. At the bars: how many times as fast as"
        )
        text(0.2, 0.59, "typedrpc. The light bars are no calls: bare bytes, and the least that a typed call could do.")
        for row, tall in zip(rows, heights, strict=True):
            for number, (name, peers) in enumerate(row):
                within = BAR * len(in_order(peers))
                axes = panel(0.2 + number * column + NAMES, down + 0.22, column - NAMES - 0.15, within)
                draw_rates(axes, WORKS.get(name, name), peers)
            down += tall
        text(0.2, down + 0.05, "How cost grows", color=INK, fontsize=12.5, weight="bold")
        text(
            0.2,
            down + 0.32,
            "CPU time of client and server together for all of it, both scales logarithmic. Dotted: linear.",
        )
        down += BETWEEN
        for number, (curve, lines) in enumerate(curves.items()):
            line, place = divmod(number, COLUMNS)
            axes = panel(0.2 + place * column + 0.5, down + 0.2 + line * (CURVE + PANEL), column - 0.65, CURVE)
            draw_curve(axes, ticker, curve, lines)
        line, place = divmod(len(curves), COLUMNS)
        below = down + 0.2 + line * (CURVE + PANEL)
        text(0.2 + place * column + 0.5, below - 0.19, "exponent up to the last point", color=INK, weight="bold")
        for number, series in enumerate(growth["series"] if place else []):
            grows = "-" if series["exponent"] is None else f"{series['exponent']:.2f}"
            at = below + 0.06 + number * 0.125
            text(0.2 + place * column + 0.5, at, f"{series['curve']}, {series['title']}", color=INK, fontsize=6.8)
            text(WIDTH - 0.25, at, grows, color=INK, fontsize=6.8, ha="right")
        text(0.2, height - 0.24, "{python}, {processor}, {cores} cores".format(**bench["machine"]), fontsize=7.4)
        if path.suffix != ".svg":
            figure.savefig(path, dpi=192)
            return
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        path.write_text(compact(drawn.getvalue()), encoding="utf-8")


def compact(svg: str) -> str:
    """The same picture in fewer bytes: no comments, no indentation, short names of letters, and places as exact as
    anybody sees: letters to a hundredth of their size, the rest to a hundredth of a point.
    """
    svg = re.sub(r"<!--.*?-->|^\s+", "", svg, flags=re.DOTALL | re.MULTILINE)
    svg = re.sub(r"DejaVuSans-(Bold-)?", lambda found: "b" if found[1] else "n", svg)
    svg = re.sub(r'(<use xlink:href="#[bn][0-9a-f]+") transform="translate\((\d+)(\.\d+)? 0\)"', r'\1 x="\2"', svg)
    return re.sub(r"(\b\d{2,}\.\d\d)\d+", r"\1", svg).replace("xlink:href", "href")


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw what was measured.")
    parser.add_argument("bench", type=Path, help="what bench.py wrote with --json")
    parser.add_argument("growth", type=Path, help="what growth.py wrote with --json")
    parser.add_argument("picture", type=Path, help="a file that ends in .svg or .png")
    parser.add_argument("--table", default="one core", help="which table of bench.py's (one core)")
    arguments = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed: pip install 'typedrpc[bench]'", file=sys.stderr)
        return 2
    bench, growth = (json.loads(path.read_text(encoding="utf-8")) for path in (arguments.bench, arguments.growth))
    draw(bench, growth, arguments.picture, arguments.table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
