"""An answer as a person sees it: its text as it grows, marks where something happened to it, figures at the end."""

from __future__ import annotations

from everstream.reader import Stream
from everstream.reducer import Frame
from everstream.terminal import Page

CARRIED = {
    "node_lost": "[carried on after a server loss]",
    "drain": "[carried on by another server]",
    "provider_lost": "[carried on after the provider broke off]",
}

ENDINGS = {
    "failed": "failed",
    "interrupted": "interrupted; this part is kept",
    "budget": "the budget is used up",
    "length": "cut at the limit of tokens",
    "content_filter": "stopped by the content filter",
}


class Answer:
    """Shows one stream as it grows: pieces as they come.  A snapshot is compared with what is on the screen."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._shown: list[str] = []
        self._thinking = False  # is the last thing shown

    def show(self, frame: Frame, stream: Stream) -> None:
        kind = frame["type"]
        if kind in ("delta_text", "delta_refusal"):
            self._say(frame["text"])
        elif kind == "delta_thinking":
            self._thinking = True
            self._page.think(frame["text"])
        elif kind == "delta_tool_call":
            if frame.get("name"):
                self._page.margin()
                self._page.think(f"[tool call] {frame['name']} ")
            self._page.think(frame["arguments"])
        elif kind == "seam" and frame["continuation"] is not None:
            self._page.dim(f" {CARRIED.get(frame['reason'], '[carried on]')} ")
            if frame["continuation"] == "restart":
                self._page.margin()
                self._shown.clear()
        elif kind == "snapshot":
            self._catch_up(stream.state.text or stream.state.refusal)

    def _say(self, text: str) -> None:
        if self._thinking:
            self._thinking = False
            self._page.margin()
        self._shown.append(text)
        self._page.say(text)

    def _catch_up(self, now: str) -> None:
        shown = "".join(self._shown)
        if now.startswith(shown):
            self._say(now[len(shown) :])
        else:
            self._page.note("[what was shown has changed; the answer as it stands:]")
            self._shown.clear()
            self._say(now)


def figures(end: Frame) -> str:
    """What an answer cost in time and tokens, from its `stream_end`."""
    metrics, usage = end.get("metrics") or {}, end.get("usage") or {}
    parts = []
    if metrics.get("ttft_ms") is not None:
        parts.append(f"{metrics['ttft_ms'] / 1000:.2f} s to first token")
    if metrics.get("tokens_per_s") is not None:
        parts.append(f"{metrics['tokens_per_s']:.1f} tokens/s")
    if usage:
        about = "about " if usage.get("source") == "estimated" else ""
        parts.append(f"{about}{usage['input_tokens']} in, {usage['output_tokens']} out")
    cost = end.get("cost")
    if cost:
        parts.append(f"{cost['total']:.6f} {cost['currency']}")
    return " · ".join(parts)
