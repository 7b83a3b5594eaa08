"""The arguments of a tool call that comes in pieces, each a value with its place, written down as JSON.

Gemini 3 streams a call's arguments as `{"jsonPath": "$.items[0].name", "stringValue": "Ap", "willContinue": true}`.
Everybody else streams them as text, so they are written as text while they come: the containers above the last value
are still open, and a value either goes on in one of them or closes them first.

    $.a[0].x = 1      {"a":[{"x":1
    $.a[1].x = 2      },{"x":2
    $.b = "hi"        }],"b":"hi"
    (the end)         }

A place that is behind what was written (nobody has been seen to do that) cannot be written to any more.  The value is
kept, and its topmost member is written again at the end: of two members of the same name, parsers take the last.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

GAP_MAX = 1000  # elements of an array that may be left out and are written as null

_STEP = re.compile(r"\.?([^.\[\]'\"]+)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]")
_ESCAPED = re.compile(r"\\(.)")

Step = str | int


def steps_of(path: str) -> tuple[Step, ...]:
    """The members and elements that a JSON path (RFC 9535, singular) goes through; of what is no such path, none."""
    at = 1 if path[:1] == "$" else 0
    steps: list[Step] = []
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            return ()
        plain, index, single, double = found.groups()
        if index is not None:
            steps.append(int(index))
        else:
            steps.append(plain if plain is not None else _ESCAPED.sub(r"\1", single if single is not None else double))
        at = found.end()
    return tuple(steps)


class Arguments:
    """One call's arguments.  `add` and `close` return the text that continues what they returned before."""

    def __init__(self) -> None:
        self._value: dict[str, Any] = {}
        self._at: tuple[Step, ...] = ()  # the last value that was written
        self._closers: list[str] = []  # of the open containers, outermost first
        self._names: list[set[Step]] = []  # of what they hold
        self._in_string = False
        self._missed: dict[str, None] = {}  # topmost members that are not as they were written

    def add(self, path: str, value: Any, more: bool) -> str:
        """A value, or a further piece of the last string; `more`: another piece of it will follow."""
        steps = steps_of(path)
        if not steps or not isinstance(steps[0], str):
            return ""
        if self._in_string and steps == self._at and isinstance(value, str):
            self._in_string = more
            _put(self._value, steps, value, joined=True)
            return _inside(value) + ("" if more else '"')
        if not _put(self._value, steps, value, joined=steps == self._at and isinstance(value, str)):
            return ""
        shared = self._shared(steps)
        if shared is None:
            self._missed[steps[0]] = None
            return ""
        text = self._back_to(shared) + self._down(steps, shared)
        self._at = steps
        self._in_string = more and isinstance(value, str)
        return text + (f'"{_inside(value)}' if self._in_string else _json(value))

    def close(self) -> str:
        """The rest of the text."""
        if not self._closers:
            again = ",".join(f"{_json(name)}:{_json(self._value[name])}" for name in self._missed)
            return f"{{{again}}}"
        text = self._back_to(0)
        for name in self._missed:
            text += f",{_json(name)}:{_json(self._value[name])}"
        return text + "}"

    def _shared(self, steps: tuple[Step, ...]) -> int | None:
        """How many steps the place has in common with the last one; None: it cannot be reached from there."""
        if not self._closers:
            return 0 if all(step <= GAP_MAX for step in steps if isinstance(step, int)) else None
        shared = 0
        while shared < min(len(steps), len(self._at)) and steps[shared] == self._at[shared]:
            shared += 1
        if shared >= min(len(steps), len(self._at)):
            return None  # the same place again, or one above or below it
        step, container = steps[shared], self._closers[shared]
        if isinstance(step, str):
            return shared if container == "}" and step not in self._names[shared] else None
        last = self._at[shared]
        return shared if container == "]" and isinstance(last, int) and 0 < step - last <= GAP_MAX else None

    def _back_to(self, depth: int) -> str:
        text = '"' if self._in_string else ""
        self._in_string = False
        while len(self._closers) > depth + 1:
            text += self._closers.pop()
            self._names.pop()
        return text

    def _down(self, steps: tuple[Step, ...], shared: int) -> str:
        """From the container at that depth to the value's place."""
        text = ""
        for depth in range(shared, len(steps)):
            step = steps[depth]
            if depth == len(self._closers):
                opener, closer = ("[", "]") if isinstance(step, int) else ("{", "}")
                text += opener
                self._closers.append(closer)
                self._names.append(set())
                left_out = step if isinstance(step, int) else 0
            else:
                text += ","
                last = self._at[depth]
                left_out = step - last - 1 if isinstance(step, int) and isinstance(last, int) else 0
            text += "null," * left_out
            if isinstance(step, str):
                text += f"{_json(step)}:"
                self._names[depth].add(step)
        return text


def _put(container: Any, steps: tuple[Step, ...], value: Any, *, joined: bool) -> bool:
    """Set a value in nested dicts and lists, making what is missing; False where that is not possible."""
    for depth, step in enumerate(steps):
        if isinstance(step, int):
            if not isinstance(container, list) or step > len(container) + GAP_MAX:
                return False
            container.extend([None] * (step + 1 - len(container)))
        elif not isinstance(container, dict):
            return False
        before = container.get(step) if isinstance(container, dict) else container[step]
        if depth == len(steps) - 1:
            container[step] = before + value if joined and isinstance(before, str) else value
        elif before is None:
            container[step] = [] if isinstance(steps[depth + 1], int) else {}
        container = container[step]
    return True


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _inside(text: str) -> str:
    return _json(text)[1:-1]
