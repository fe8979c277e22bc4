"""What a benchmark found: printed, and kept as a table and a picture."""

from __future__ import annotations

import html
import math
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent / "results"

_LEFT, _RIGHT, _WIDTH, _TOP, _BAR, _GAP = 190, 80, 760, 70, 13, 14
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 14px; font-weight: 600 }
.grid { stroke: #d0d7de }
.whisker { stroke: #24292f; stroke-width: 1.5 }
.s0 { fill: #bf5b17 } .s1 { fill: #2f7fbf } .s2 { fill: #7a9a3a } .s3 { fill: #8a8a8a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .grid { stroke: #3d444d } .whisker { stroke: #e6edf3 }
}
"""


@dataclass(frozen=True)
class Spread:
    """Measurements of one thing."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """Three quarters of the values are above."""
        return self._quarters()[0]

    @property
    def high(self) -> float:
        """Three quarters of the values are below."""
        return self._quarters()[2]

    def _quarters(self) -> list[float]:
        if len(self.values) == 1:
            return [self.values[0]] * 3
        return statistics.quantiles(self.values, method="inclusive")

    def over(self, other: Spread) -> Spread:
        """The ratio to another thing, each value over the other's of the same round."""
        pairs = zip(self.values, other.values, strict=True)
        return Spread([mine / theirs for mine, theirs in pairs])

    def __str__(self) -> str:
        return f"{_number(self.median)} ({_number(self.low)} to {_number(self.high)})"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


@dataclass(frozen=True)
class Bars:
    """Some bars side by side, one a series, under one label."""

    label: str
    values: Sequence[Spread]


@dataclass
class Report:
    """One benchmark's results. ``notes`` say what was measured, and how."""

    name: str
    title: str
    notes: Sequence[str]
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    limits: list[tuple[str, float, float]] = field(default_factory=list)

    def expect(self, what: str, value: float, limit: float) -> None:
        """A target: ``value`` is to be at most ``limit``. ``end`` fails where it is not."""
        self.limits.append((what, value, limit))

    def picture(self, name: str, series: Sequence[str], bars: Sequence[Bars], unit: str) -> None:
        RESULTS.mkdir(exist_ok=True)
        text = _svg(self.title, series, bars, unit)
        (RESULTS / f"{name}.svg").write_text(text, encoding="utf-8")

    def end(self) -> None:
        """Print and keep the table, then fail if a target was missed."""
        lines = [f"# {self.title}", "", *self.notes, "", f"Measured on {_machine()}.", ""]
        lines += [_row(self.columns), _row(["---", *["---:"] * (len(self.columns) - 1)])]
        lines += [_row(row) for row in self.rows]
        if self.limits:
            lines += [
                "",
                _row(["target", "found", "at most", "met"]),
                _row(["---", "---:", "---:", "---"]),
            ]
        for what, value, limit in self.limits:
            met = "yes" if value <= limit else "**no**"
            lines.append(_row([what, f"{value:.2f}", f"{limit:.2f}", met]))
        text = "\n".join([*lines, ""])
        print(f"\n{text}")
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.md").write_text(text, encoding="utf-8")
        missed = [f"{what}: {value:.2f}" for what, value, limit in self.limits if value > limit]
        if missed:
            pytest.fail(f"targets missed: {'; '.join(missed)}", pytrace=False)


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _machine() -> str:
    system = f"{platform.system()} {platform.machine()}"
    return f"{system}, {os.cpu_count()} processors, Python {platform.python_version()}"


def _svg(title: str, series: Sequence[str], groups: Sequence[Bars], unit: str) -> str:
    """Bars from left to right on a logarithmic scale; the line on each is the middle half."""
    values = [spread for group in groups for spread in group.values]
    scale = _Scale(min(s.low for s in values), max(s.high for s in values))
    marks: list[str] = []
    y = _TOP
    for group in groups:
        marks.append(_text(8, y + len(group.values) * _BAR / 2 + 4, group.label))
        for number, spread in enumerate(group.values):
            marks += _bar(number, spread, y, scale)
            y += _BAR
        y += _GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 40}" role="img">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            _text(8, 20, title, "title"),
            *_legend(series),
            *_grid(scale, y),
            _text(8, y + 30, f"{unit}, on a logarithmic scale"),
            *marks,
            "</svg>",
            "",
        ]
    )


class _Scale:
    """Where a value is, between the powers of ten around all of them."""

    def __init__(self, low: float, high: float) -> None:
        self.low = math.floor(math.log10(low))
        self.high = max(math.ceil(math.log10(high)), self.low + 1)

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _bar(number: int, spread: Spread, y: int, scale: _Scale) -> list[str]:
    width = scale(spread.median) - _LEFT
    ends = f'x1="{scale(spread.low):.1f}" x2="{scale(spread.high):.1f}"'
    line = y + _BAR // 2 - 1
    return [
        f'<rect class="s{number}" x="{_LEFT}" y="{y}" height="{_BAR - 2}" width="{width:.1f}"/>',
        f'<line class="whisker" {ends} y1="{line}" y2="{line}"/>',
        _text(scale(spread.high) + 6, line + 4, _number(spread.median)),
    ]


def _legend(series: Sequence[str]) -> Iterator[str]:
    for number, name in enumerate(series):
        at = 8 + number * 180
        yield f'<rect class="s{number}" x="{at}" y="32" width="12" height="12"/>'
        yield _text(at + 18, 42, name)


def _grid(scale: _Scale, bottom: int) -> Iterator[str]:
    for power in range(scale.low, scale.high + 1):
        at = scale(10.0**power)
        ends = f'x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 6}" y2="{bottom - 6}"'
        yield f'<line class="grid" {ends}/>'
        yield _text(at - 3, bottom + 10, f"{10.0**power:g}")


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{html.escape(words)}</text>'
