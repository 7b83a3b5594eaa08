"""The dialect of OpenAI's Responses API: what is asked, and what comes back.

Its stream is a sequence of typed events about numbered output items.  A delta belongs to the item with its
`output_index`; text, refusal and thinking come as deltas, a tool call as an item that is announced and then filled.
The `done` events repeat everything; they are used only where no delta came before them.

Summaries of reasoning and raw reasoning are both thinking.  A new part of a summary begins a new paragraph.

Terminal events: `response.completed`, `response.incomplete` (out of tokens, filtered), `response.failed`, `error`.
`completed` with a tool call among the items means `tool_calls`: the API has no such reason of its own.  Calls that
the provider runs itself (web search, code, MCP) are not ours to answer and are not shown.

A response that runs in the background can be read again from after any event (`sequence_number`).  A `Run` is that
place; with it goes what the events before it said and the later ones refer to: which parts came in deltas, and which
calls are open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from everstream.core.events import Finish, FinishReason, ImagePart, Mark, Message, Request, Usage
from everstream.providers.base import ProviderError, ProviderEvent
from everstream.providers.batching import Batcher
from everstream.providers.chat_request import chosen_function, effort_of, function_of, image_url
from everstream.providers.http_errors import garbage, stream_error
from everstream.providers.sse import JsonEvents

# --------------------------------------------------------------------------- what is asked


def responses_body(request: Request, *, official: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The JSON body, and warnings about what could not be said in it."""
    params = request.params
    items: list[dict[str, Any]] = []
    for message in request.messages:
        items.extend(_items(message))
    body: dict[str, Any] = {"model": request.model_name, "input": items}
    if official:
        body["stream_options"] = {"include_obfuscation": False}
    if params.system:
        body["instructions"] = params.system
    if params.max_tokens is not None:
        body["max_output_tokens"] = params.max_tokens
    for key in ("temperature", "top_p"):
        value = getattr(params, key)
        if value is not None:
            body[key] = value
    warnings = tuple(
        f"{key} is unknown to the Responses API and was left out"
        for key in ("stop", "seed")
        if getattr(params, key) is not None
    )
    if params.tools:
        # "strict" is on unless told otherwise, and refuses most hand-written schemas.
        body["tools"] = [{"type": "function", **function_of(tool), "strict": False} for tool in params.tools]
    if params.tool_choice is not None:
        name = chosen_function(params.tool_choice)
        if name is not None:
            body["tool_choice"] = {"type": "function", "name": name}
        else:
            body["tool_choice"] = "required" if params.tool_choice == "any" else params.tool_choice
    if isinstance(params.thinking, dict):
        body["reasoning"] = params.thinking
    elif params.thinking is not None:
        effort = effort_of(params.thinking, request.model_name, official=official)
        if effort is not None:
            body["reasoning"] = {"effort": effort} if effort == "none" else {"effort": effort, "summary": "auto"}
    body.update(request.extra)
    body.pop("api", None)
    body["stream"] = True
    return body, warnings


def _items(message: Message) -> list[dict[str, Any]]:
    content: Any = message.content
    if message.role == "tool":
        if not isinstance(content, str):
            content = [_part(part, "input_text") for part in content]
        return [{"type": "function_call_output", "call_id": message.call_id or "", "output": content}]
    if not isinstance(content, str):
        kind = "output_text" if message.role == "assistant" else "input_text"
        content = [_part(part, kind) for part in content]
    items: list[dict[str, Any]] = []
    if content or not message.tool_calls:
        items.append({"role": message.role, "content": content})
    items += [
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        for call in message.tool_calls or ()
    ]
    return items


def _part(part: Any, text_kind: str) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": "input_image", "image_url": image_url(part)}
    return {"type": text_kind, "text": part.text}


# --------------------------------------------------------------------------- what comes back


class _Struct(msgspec.Struct, gc=False):
    pass


class _Content(_Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(_Struct):
    type: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    input: Any = None
    content: Any = None


class _Details(_Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(_Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Incomplete(_Struct):
    reason: str | None = None


class _Response(_Struct):
    id: str | None = None
    status: str | None = None
    usage: _Usage | None = None
    error: Any = None
    incomplete_details: _Incomplete | None = None


class _Event(_Struct):
    type: str = ""
    sequence_number: int | None = None
    delta: Any = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    item: _Item | None = None
    response: _Response | None = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    input: Any = None
    error: Any = None
    code: Any = None
    message: Any = None


_DECODER = msgspec.json.Decoder(_Event)

_INCOMPLETE: dict[str | None, FinishReason] = {
    "max_output_tokens": "length",
    "max_messages": "length",
    "content_filter": "content_filter",
    "steered": "stop",
}
_CALLS = ("function_call", "custom_tool_call")


class Run(msgspec.Struct, omit_defaults=True):
    """A response of `model` in the background, read up to the event `after`; as plain data it is a mark's cursor."""

    model: str = ""
    response: str = ""
    after: int = -1
    parts: list[tuple[int, int]] = []  # bounded, as the calls are, by the answer's items
    calls: list[tuple[int, int, bool]] = []

    @classmethod
    def of(cls, cursor: Any) -> Run | None:
        """None: the cursor is another provider's, or of no run."""
        try:
            run = msgspec.convert(cursor, cls)
        except msgspec.ValidationError:
            return None
        return run if run.response else None


class ResponsesFold:
    """One streamed response: bytes to events.  A `http_answer.Fold`.

    With a `run`, new or read before, and events that are numbered, each batch that has something to show ends with a
    mark, and the one that has the run's name begins with one.  `failed` is told the run's name where the provider says
    that it has come to nothing, or says nothing but an error.
    """

    def __init__(
        self,
        name: str,
        warnings: tuple[str, ...] = (),
        run: Run | None = None,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.finished = False
        self.ended = False
        self.trouble: ProviderError | None = None
        self._name = name
        self._warnings = warnings
        self._events = JsonEvents(_DECODER)
        self._batch = Batcher()
        self._streamed: set[tuple[int, int]] = set()  # parts that came in deltas; bounded by the answer's items
        self._calls: dict[int, tuple[int, bool]] = {}  # output_index -> our index, whether it has arguments
        self._run = run
        self._failed_run = failed
        self._gave_up = False
        if run is not None:
            self._streamed.update(run.parts)
            self._calls.update({where: (index, filled) for where, index, filled in run.calls})
            self._batch.calls = len(run.calls)

    def feed(self, data: bytes) -> list[ProviderEvent]:
        if self._run is not None:
            return self._marked(self._run, self._events.feed(data))
        return self._fold(self._events.feed(data))

    def end(self) -> list[ProviderEvent]:
        return self._fold(self._events.end())

    def _marked(self, run: Run, events: list[_Event]) -> list[ProviderEvent]:
        marks: list[ProviderEvent] = []
        fresh = [event for event in events if event.sequence_number is None or event.sequence_number > run.after]
        for event in fresh:
            if event.sequence_number is not None:
                run.after = event.sequence_number
            if not run.response and event.response is not None and event.response.id:
                run.response = event.response.id
                if run.after >= 0:
                    marks.append(Mark(cursor=msgspec.to_builtins(run)))
        batch = self._fold(fresh)
        if run.response and (self._gave_up or (self.trouble is not None and not self._batch.shown)):
            self._failed_run(run.response)
        if run.response and run.after >= 0 and batch and not self.ended and self.trouble is None:
            run.parts = list(self._streamed)
            run.calls = [(where, index, filled) for where, (index, filled) in self._calls.items()]
            batch.append(Mark(cursor=msgspec.to_builtins(run)))
        return [*marks, *batch] if marks else batch

    def _fold(self, events: list[_Event]) -> list[ProviderEvent]:
        for event in events:
            kind = event.type
            if kind == "response.output_text.delta":
                if event.delta:
                    self._streamed.add((event.output_index or 0, event.content_index or 0))
                    self._batch.text(str(event.delta))
            else:
                handle = _HANDLERS.get(kind)
                if handle is not None:
                    handle(self, event)
                elif not kind and event.error:
                    self.trouble = stream_error(self._name, event.error)
            if self.ended or self.trouble is not None:
                return self._batch.take()
        if self._events.trouble is not None:
            self.trouble = garbage(self._name, self._events.trouble)
        return self._batch.take()

    def _text_done(self, event: _Event) -> None:
        key = (event.output_index or 0, event.content_index or 0)
        if key not in self._streamed and isinstance(event.text, str) and event.text:
            self._streamed.add(key)
            self._batch.text(event.text)

    def _refusal(self, event: _Event) -> None:
        if event.delta:
            self._streamed.add((event.output_index or 0, event.content_index or 0))
            self._batch.refusal(str(event.delta))

    def _refusal_done(self, event: _Event) -> None:
        key = (event.output_index or 0, event.content_index or 0)
        if key not in self._streamed and isinstance(event.refusal, str) and event.refusal:
            self._streamed.add(key)
            self._batch.refusal(event.refusal)

    def _thinking(self, event: _Event) -> None:
        if event.delta:
            self._batch.thinking(str(event.delta))

    def _summary_part(self, event: _Event) -> None:
        if event.summary_index:
            self._batch.thinking("\n\n")

    def _item_added(self, event: _Event) -> None:
        item = event.item
        if item is not None and item.type in _CALLS:
            arguments = _text(item.arguments) or _text(item.input)
            index = self._batch.new_call(item.call_id, item.name, arguments)
            self._calls[event.output_index or 0] = (index, bool(arguments))

    def _arguments(self, event: _Event) -> None:
        known = self._calls.get(event.output_index or 0)
        if known is not None and event.delta:
            self._batch.arguments(known[0], _text(event.delta))
            self._calls[event.output_index or 0] = (known[0], True)

    def _arguments_done(self, event: _Event) -> None:
        known = self._calls.get(event.output_index or 0)
        arguments = _text(event.arguments) or _text(event.input)
        if known is not None and not known[1] and arguments:
            self._batch.arguments(known[0], arguments)
            self._calls[event.output_index or 0] = (known[0], True)

    def _item_done(self, event: _Event) -> None:
        """The whole item again; of use where a server sends no deltas."""
        item = event.item
        where = event.output_index or 0
        if item is None:
            return
        if item.type in _CALLS:
            if where not in self._calls:
                self._item_added(event)
            else:
                self._arguments_done(_Event(output_index=where, arguments=item.arguments, input=item.input))
        elif item.type == "message" and isinstance(item.content, list):
            for place, raw in enumerate(item.content):
                part = msgspec.convert(raw, _Content, strict=False) if isinstance(raw, dict) else _Content()
                self._text_done(_Event(output_index=where, content_index=place, text=part.text))
                self._refusal_done(_Event(output_index=where, content_index=place, refusal=part.refusal))

    def _completed(self, event: _Event) -> None:
        self._finish("tool_calls" if self._batch.calls else "stop", event)

    def _incomplete(self, event: _Event) -> None:
        details = event.response.incomplete_details if event.response is not None else None
        said = details.reason if details is not None else None
        if said not in ("max_output_tokens", "content_filter"):
            self._warnings += (f"the response is incomplete: {said or 'no reason given'}",)
        self._finish(_INCOMPLETE.get(said, "length"), event)

    def _finish(self, reason: FinishReason, event: _Event) -> None:
        self.finished = self.ended = True
        said = event.response.usage if event.response is not None else None
        self._batch.finish(Finish(reason, None if said is None else _usage(said), self._warnings))

    def _failed(self, event: _Event) -> None:
        self._gave_up = True
        error = event.response.error if event.response is not None else None
        self.trouble = stream_error(self._name, error or "the response failed")

    def _cancelled(self, event: _Event) -> None:
        self._gave_up = True
        self.trouble = ProviderError("provider.connection", f"{self._name} cancelled the response")

    def _error(self, event: _Event) -> None:
        self.trouble = stream_error(self._name, event.error or {"code": event.code, "message": event.message})


_HANDLERS = {
    "response.output_text.done": ResponsesFold._text_done,
    "response.refusal.delta": ResponsesFold._refusal,
    "response.refusal.done": ResponsesFold._refusal_done,
    "response.reasoning_text.delta": ResponsesFold._thinking,
    "response.reasoning_summary_text.delta": ResponsesFold._thinking,
    "response.reasoning_summary_part.added": ResponsesFold._summary_part,
    "response.output_item.added": ResponsesFold._item_added,
    "response.output_item.done": ResponsesFold._item_done,
    "response.function_call_arguments.delta": ResponsesFold._arguments,
    "response.function_call_arguments.done": ResponsesFold._arguments_done,
    "response.custom_tool_call_input.delta": ResponsesFold._arguments,
    "response.custom_tool_call_input.done": ResponsesFold._arguments_done,
    "response.completed": ResponsesFold._completed,
    "response.incomplete": ResponsesFold._incomplete,
    "response.failed": ResponsesFold._failed,
    "response.cancelled": ResponsesFold._cancelled,
    "error": ResponsesFold._error,
}


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode()


def _usage(said: _Usage) -> Usage:
    given, made = said.input_tokens or 0, said.output_tokens or 0
    cached = said.input_tokens_details.cached_tokens if said.input_tokens_details is not None else None
    thinking = said.output_tokens_details.reasoning_tokens if said.output_tokens_details is not None else None
    total = said.total_tokens if said.total_tokens is not None else given + made
    return Usage(given, made, total, "provider", thinking, cached)
