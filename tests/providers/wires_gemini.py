"""Gemini's recorded wires, and what this project makes of each: beside `wires`, in the same terms.

`api` is `gemini` for generateContent and `interactions` for the Interactions API.  What differs from what Google's
package reads from a wire, and why:

* A call without an id gets one made of the answer's id and the call's number, for a result has to name its call.
* Arguments that are left out are `{}`: they are JSON for whoever asked.
* Arguments that come in pieces are put together; the package leaves that to its callers.
* `DIFFERS` holds the rest.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from tests.providers.wires import ROOT, ErrorBody, Wire

from everstream.core.events import FinishReason

FINISH: dict[str | None, FinishReason | None] = {
    None: None,
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "completed": "stop",
    "requires_action": "tool_calls",
    "incomplete": "length",
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "IMAGE_SAFETY"),
        "content_filter",
    ),
}

# What a wire ends with here and not there: an error's code, and why.
DIFFERS = {
    "gemini/generate--firebase--streaming-failure-invalid-json": (
        "provider.connection",
        "JSON of another kind and then the end: the package calls it an answer, but nobody said that it was one",
    ),
    "gemini/generate--firebase--streaming-failure-error-mid-stream": (
        "provider.connection",
        "499: the provider gave the answer up, as if the connection had broken; to ask again may help",
    ),
}


@cache
def gemini_wires() -> list[Wire]:
    found = []
    for path in sorted((ROOT / "gemini").glob("*.sse")):
        told = json.loads(path.with_suffix(".expected.json").read_text())["expected"]
        api = "interactions" if path.name.startswith("interactions") else "gemini"
        found.append(_wire(f"gemini/{path.stem}", api, path.read_bytes(), told))
    return found


@cache
def gemini_error_bodies() -> list[ErrorBody]:
    found = []
    for path in sorted((ROOT / "gemini").glob("http-*.json")):
        if not path.name.endswith(".expected.json"):
            status = int(path.name.split("-")[1])
            found.append(ErrorBody(f"gemini/{path.stem}", "gemini", "gemini", status, path.read_bytes()))
    return found


def _wire(key: str, api: str, body: bytes, told: dict[str, Any]) -> Wire:
    error = DIFFERS[key][0] if key in DIFFERS else None
    calls = _merged(body) if b'"partialArgs"' in body else _calls(body, told["tool_calls"])
    reason = FINISH.get(told["finish_reason"], "stop")
    if calls and reason == "stop":
        reason = "tool_calls"
    usage = _usage(told["usage"]) if told["usage"] else None
    thinking = (told.get("thinking") or "") + (told.get("reasoning_summary") or "")
    return Wire(key, "gemini", api, body, told["text"], thinking, "", calls, reason, usage, error, told["events"])


def _calls(body: bytes, told: list[dict[str, Any]]) -> list[tuple[str | None, str, str]]:
    return [
        (
            call.get("id") or _made_id(body, number),
            call["name"],
            "{}" if call["arguments"] == "null" else call["arguments"],
        )
        for number, call in enumerate(told)
    ]


def _made_id(body: bytes, number: int) -> str | None:
    """None: any, where the answer has no id either."""
    answer = re.search(rb'"responseId": ?"([^"]+)"', body)
    return None if answer is None else f"{answer[1].decode()}-{number}"


def _merged(body: bytes) -> list[tuple[str | None, str, str]]:
    """The calls of a wire whose arguments come in pieces, put together as objects."""
    calls: list[tuple[str | None, str, dict[str, Any]]] = []
    for line in body.splitlines():
        if not line.startswith(b"data:"):
            continue
        for candidate in json.loads(line[5:]).get("candidates") or ():
            for part in (candidate.get("content") or {}).get("parts") or ():
                call = part.get("functionCall")
                if call is None:
                    continue
                if call.get("name"):
                    call_id = call.get("id") or _made_id(body, len(calls))
                    calls.append((call_id, call["name"], dict(call.get("args") or {})))
                for piece in call.get("partialArgs") or ():
                    _set(calls[-1][2], piece)
    return [(call_id, name, json.dumps(value)) for call_id, name, value in calls]


def _set(value: Any, piece: dict[str, Any]) -> None:
    steps = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]$]+", piece["jsonPath"])]
    said = next((piece[name] for name in ("stringValue", "numberValue", "boolValue") if name in piece), None)
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(step, int) and len(value) <= step:
            value.append(None)
        before = value[step] if isinstance(step, int) else value.get(step)
        if after is None:
            value[step] = before + said if isinstance(before, str) and isinstance(said, str) else said
        elif before is None:
            value[step] = [] if isinstance(after, int) else {}
        value = value[step]


def _usage(told: dict[str, Any]) -> tuple[int, int, int, int | None, int | None]:
    if "total_input_tokens" in told:
        given = told["total_input_tokens"] + (told.get("total_tool_use_tokens") or 0)
        thinking, cached = told.get("total_thought_tokens"), told.get("total_cached_tokens")
        return given, told["total_output_tokens"] + (thinking or 0), told["total_tokens"], thinking, cached
    given = (told.get("prompt_token_count") or 0) + (told.get("tool_use_prompt_token_count") or 0)
    thinking = told.get("thoughts_token_count")
    made = (told.get("candidates_token_count") or 0) + (thinking or 0)
    return given, made, told.get("total_token_count") or given + made, thinking, told.get("cached_content_token_count")
