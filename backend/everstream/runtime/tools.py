"""Functions of the application's that the server runs when a model calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from everstream.core.events import Tool


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A registered function, what the model is told of it, and how it is run."""

    name: str
    description: str
    parameters: dict[str, Any]
    function: Callable[..., Any]
    approval: bool | Callable[[dict[str, Any]], bool]
    timeout_s: float | None
    repeatable: bool

    def described(self) -> Tool:
        return Tool(self.name, self.description, self.parameters)


class Tools(Mapping[str, ServerTool]):
    """The tools of one application, by name."""

    def __init__(self) -> None:
        self._tools: dict[str, ServerTool] = {}

    def __getitem__(self, name: str) -> ServerTool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)
