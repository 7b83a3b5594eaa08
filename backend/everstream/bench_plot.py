"""The figures of a bench as a picture: time to the first token and speed of each model, side by side.

One SVG that needs nothing else: no script, no font, no style sheet.  It has no background, and its colours suit a light
page and a dark one, whichever the reader's system asks for.  A bar is the median, the line over it goes from the least
to the most, and each call is a dot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from everstream.bench_report import Score, Spread

WIDTH = 860
NAME_CHARS_MAX = 34
_NAMES = 250  # the room for the models' names
_PANEL = 280  # the width of the bars' room
_BETWEEN = 30
_ROW = 44
_TOP = 64
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.quiet{fill:#57606a;font-size:11px}.head{font-weight:600}"
    ".bar{fill:#2f6feb}.fast{fill:#1a7f5a}.line{stroke:#24292f;stroke-width:1.5}.dot{fill:#24292f;fill-opacity:.55}"
    ".axis{stroke:#57606a;stroke-opacity:.4}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.quiet{fill:#9aa4af}.bar{fill:#5b93ff}.fast{fill:#3fb98a}"
    ".line{stroke:#e6edf3}.dot{fill:#e6edf3}.axis{stroke:#9aa4af}}"
)


def as_svg(scores: Sequence[Score]) -> str:
    """The picture, as the text of an SVG file."""
    height = _TOP + _ROW * len(scores) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img"><title>Time to the first token and tokens a second, by model</title>',
        f"<style>{_STYLE}</style>",
    ]
    for i, score in enumerate(scores):
        y = _TOP + _ROW * i + 21
        parts.append(_text(16, y, _short(score.model), full=score.model))
        told = f"{score.calls} calls" + (f", {score.failed} failed" if score.failed else "")
        parts.append(_text(16, y + 14, told, style="quiet"))
    left = _NAMES
    for heading, note, style, spreads in (
        ("time to first token, ms", "less is better", "bar", [score.ttft_ms for score in scores]),
        ("tokens a second", "more is better", "fast", [score.tokens_per_s for score in scores]),
    ):
        parts.append(_text(left, 26, heading, style="head"))
        parts.append(_text(left, 43, note, style="quiet"))
        parts += _panel(left, style, spreads)
        left += _PANEL + _BETWEEN
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, style: str, spreads: Sequence[Spread | None]) -> list[str]:
    top = max((spread.max for spread in spreads if spread is not None), default=0.0)
    end = _round_up(top)
    scale = (_PANEL - 40) / end
    bottom = _TOP + _ROW * len(spreads)
    parts = [f'<line class="axis" x1="{left}" y1="{_TOP}" x2="{left}" y2="{bottom}"/>']
    for at in (0.5, 1.0):
        x = left + at * end * scale
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 16, f"{at * end:g}", style="quiet", anchor="middle"))
    for i, spread in enumerate(spreads):
        y = _TOP + _ROW * i + 12
        if spread is None:
            parts.append(_text(left + 6, y + 14, "no figure", style="quiet"))
            continue
        parts.append(
            f'<rect class="{style}" x="{left}" y="{y}" width="{max(spread.median * scale, 1):.1f}" height="18" rx="2">'
            f"<title>{_told(spread)}</title></rect>"
        )
        low, high, middle = left + spread.min * scale, left + spread.max * scale, y + 9
        parts.append(f'<line class="line" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>')
        parts += [f'<circle class="dot" cx="{left + v * scale:.1f}" cy="{middle}" r="3"/>' for v in spread.values]
        parts.append(_text(high + 8, y + 14, f"{spread.median:.4g}"))
    return parts


def _told(spread: Spread) -> str:
    return f"median {spread.median:g}, from {spread.min:g} to {spread.max:g}"


def _round_up(value: float) -> float:
    """The next number that is easy to read: 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value)


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS_MAX else f"{name[: NAME_CHARS_MAX - 1]}…"


def _text(x: float, y: float, said: str, *, style: str = "", anchor: str = "", full: str = "") -> str:
    marks = (f' class="{style}"' if style else "") + (f' text-anchor="{anchor}"' if anchor else "")
    title = f"<title>{escape(full)}</title>" if full and full != said else ""
    return f'<text x="{x:.1f}" y="{y}"{marks}>{escape(said)}{title}</text>'
