"""Everstream: durable, resumable, cancellable streams from language models to people.

    import everstream

    for text in everstream.iter_stream("scripted/count", "Count!"):
        print(text, end="")

What is named here is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from everstream.client import Client as Client
    from everstream.client_sync import SyncClient as SyncClient
    from everstream.core.errors import EverstreamError as EverstreamError
    from everstream.core.events import Budget as Budget
    from everstream.core.events import Cost as Cost
    from everstream.core.events import DeltaRefusal as DeltaRefusal
    from everstream.core.events import DeltaText as DeltaText
    from everstream.core.events import DeltaThinking as DeltaThinking
    from everstream.core.events import DeltaToolCall as DeltaToolCall
    from everstream.core.events import ErrorInfo as ErrorInfo
    from everstream.core.events import Event as Event
    from everstream.core.events import Finish as Finish
    from everstream.core.events import FirstToken as FirstToken
    from everstream.core.events import HeadersReceived as HeadersReceived
    from everstream.core.events import LastToken as LastToken
    from everstream.core.events import Message as Message
    from everstream.core.events import Request as Request
    from everstream.core.events import RequestStart as RequestStart
    from everstream.core.events import Seam as Seam
    from everstream.core.events import StreamEnd as StreamEnd
    from everstream.core.events import Tool as Tool
    from everstream.core.events import Usage as Usage
    from everstream.gateway.application import App as App
    from everstream.gateway.application import create_app as create_app
    from everstream.gateway.auth import Credentials as Credentials
    from everstream.gateway.auth import Principal as Principal
    from everstream.library import TextStream as TextStream
    from everstream.library import aclose as aclose
    from everstream.library import close as close
    from everstream.library import iter_stream as iter_stream
    from everstream.library import run as run
    from everstream.library import run_async as run_async
    from everstream.library import start as start
    from everstream.library import start_async as start_async
    from everstream.library import stream as stream
    from everstream.library_engine import Engine as Engine
    from everstream.library_result import Result as Result
    from everstream.library_result import StreamMetrics as StreamMetrics
    from everstream.library_stream import Stream as Stream
    from everstream.providers.base import ProviderError as ProviderError
    from everstream.providers.function import Model as Model
    from everstream.providers.function_stream import ModelStream as ModelStream
    from everstream.runtime.tools import ToolContext as ToolContext
    from everstream.runtime.tools import ToolError as ToolError
    from everstream.runtime.turns import Turn as Turn
    from everstream.settings import Settings as Settings

__version__ = "0.1.0"

_PLACES: Final = {
    "client": ("Client",),
    "client_sync": ("SyncClient",),
    "core.errors": ("EverstreamError",),
    "core.events": (
        *("RequestStart", "HeadersReceived", "FirstToken", "DeltaText", "DeltaThinking", "DeltaToolCall"),
        *("DeltaRefusal", "Seam", "LastToken", "StreamEnd", "Event"),
        *("Budget", "Cost", "ErrorInfo", "Message", "Tool", "Usage"),
        *("Finish", "Request"),
    ),
    "gateway.application": ("App", "create_app"),
    "gateway.auth": ("Credentials", "Principal"),
    "library": ("TextStream", "aclose", "close", "iter_stream", "run", "run_async", "start", "start_async", "stream"),
    "library_engine": ("Engine",),
    "library_result": ("Result", "StreamMetrics"),
    "library_stream": ("Stream",),
    "providers.base": ("ProviderError",),
    "providers.function": ("Model",),
    "providers.function_stream": ("ModelStream",),
    "runtime.tools": ("ToolContext", "ToolError"),
    "runtime.turns": ("Turn",),
    "settings": ("Settings",),
}
_PLACE_OF: Final = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    place = _PLACE_OF.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{place}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACE_OF})
