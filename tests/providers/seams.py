"""Servers that carry an answer on as real ones do, for answers that real ones gave.

A `Brain` knows the whole text.  Asked with an unfinished turn it writes on, with the turn before that or without; asked
to go on by a user's message it repeats what it was asked for, or part of it, or nothing; or it refuses, in the words of
a vendor.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

from tests.providers.wire_server import Asked, Reply

from everstream.providers.carry_known import PROBE_SAID

REFUSALS = {  # the words of each vendor, in its own shape of an error
    "anthropic": {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "This model does not support assistant message prefill. The conversation must end with a user"
            " message.",
        },
    },
    "gemini": [{"error": {"code": 400, "message": "Requests ending with a model turn are not supported."}}],
    "mistral": {
        "object": "error",
        "message": "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
        "type": "invalid_request_error",
    },
    "llama.cpp": {
        "error": {"code": 400, "message": "Assistant response prefill is incompatible with enable_thinking."}
    },
    "white space": {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "messages: final assistant content cannot end with trailing whitespace",
        },
    },
}
SAID_BY_ITSELF = "abcdefghijklmnopqrstuvwxyz"


def pieces_of(text: str, draw: random.Random) -> list[str]:
    pieces, at = [], 0
    while at < len(text):
        step = draw.randint(1, 12)
        pieces.append(text[at : at + step])
        at += step
    return pieces


def chat(pieces: Iterable[str], *, reasoning: str = "") -> bytes:
    chunks: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": ""}}]
    chunks += [{"delta": {"reasoning_content": reasoning}}] if reasoning else []
    chunks += [{"delta": {"content": piece}} for piece in pieces]
    chunks.append({"delta": {}, "finish_reason": "stop"})
    lines = [{"choices": [{"index": 0, **chunk}]} for chunk in chunks]
    return b"".join(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines) + b"data: [DONE]\n\n"


def messages(pieces: Iterable[str]) -> bytes:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in pieces
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]
    return b"".join(
        f"event: {event['type']}\ndata: ".encode() + json.dumps(event).encode() + b"\n\n" for event in events
    )


def refused(body: Any) -> Reply:
    return Reply(json.dumps(body).encode(), 400, {"content-type": "application/json"}, framing="length")


class Brain:
    """One model.  `reply` is for a `WireServer`.

    `echo`: an unfinished turn is repeated.  `refuses`: a body of `REFUSALS`.  `turn`: it begins a new turn after an
    assistant's.  `repeats`: how many of the last characters it begins with when it is asked to go on.
    """

    def __init__(self, text: str, seed: int = 0) -> None:
        self.text = text
        self.echo = self.turn = False
        self.refuses: Any = None
        self.repeats = 0
        self.shown = ""  # what the reader has seen: for the model that is asked to go on
        self.before = ""  # what it says first then
        self.reasoning = ""
        self.probes = 0
        self._draw = random.Random(seed)

    def reply(self, got: Asked) -> Reply:
        if got.method == "GET":
            return Reply(b"{}", 404, {"content-type": "application/json"}, framing="length")
        body = got.json
        last = body["messages"][-1]
        if last["role"] != "assistant":
            text = self.text[len(self.shown) - self.repeats :] if len(body["messages"]) > 1 else self.text
            return self._said(got, self.before + text)
        if self.refuses is not None:
            return refused(self.refuses)
        sent = last["content"]
        if got.path.startswith("/v1/messages") and sent != sent.rstrip():
            return refused(REFUSALS["white space"])
        if sent == PROBE_SAID:
            self.probes += 1
            rest = SAID_BY_ITSELF if self.turn else SAID_BY_ITSELF[13:]
        else:
            assert self.text.startswith(sent), "what was sent is not what was said"
            rest = self.text if self.turn else self.text[len(sent) :]
        return self._said(got, sent + rest if self.echo else rest)

    def _said(self, got: Asked, text: str) -> Reply:
        pieces = pieces_of(text, self._draw)
        body = messages(pieces) if got.path.startswith("/v1/messages") else chat(pieces, reasoning=self.reasoning)
        return Reply(body, segments=(1, 400), seed=self._draw.randrange(1 << 30))
