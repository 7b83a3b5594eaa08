"""Models that run on this machine, without any key: the GGUF files of the data directory (`local_models`).

    request ──▶ template, token ids ──▶ a place ──▶ /completion with ids ──▶ Tokens ──▶ text and marks

The conversation is put into the model's own words by the model's own template, and into token ids, before anything is
asked for: so a conversation that is too long is refused at once, and what the model reads is known to the last token.
With the answer's ids, which come beside its text, a broken answer is carried on from precisely where it stopped, by
whatever node has the same file; greedy, it is the answer that nobody interrupted (see `local_server` for why).

Where ids are not known the text is written on, which the template knows how to say, and without any text it begins
again.  Ids are told only where they stand for the text, all of it and no more:

* One character may take several tokens.  The server tells the last of them only, and their number.  The text is then
  taken apart again, and believed where number and last token agree; else no ids are told from there on.
* Before a stop sequence the server cuts text of which it has told the ids, so none are told where there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from everstream.core.events import (
    Continuation,
    DeltaText,
    Finish,
    FinishReason,
    HeadersReceived,
    Mark,
    Request,
    Usage,
)
from everstream.providers.base import Batch, ModelInfo, Progress, ProviderError, ProviderEvent
from everstream.providers.carry_ladder import tokens_head
from everstream.providers.carry_request import stops_of
from everstream.providers.carry_tokens import Way, continued, way_of
from everstream.providers.chat_request import chat_body
from everstream.providers.http_errors import cut_off, garbage, stream_error
from everstream.providers.local_child import Child, Shape
from everstream.providers.local_models import HOW, PACKAGED, LocalModel, folder_of, has_engine, model_named, models_in
from everstream.providers.sse import JsonEvents
from everstream.providers.text_only import check_text_only

ALIVE_S: Final = 10.0  # how often one who waits for a place says so
KNOWN_PIECES_MAX: Final = 4_096

_REASONS: dict[str, FinishReason] = {"eos": "stop", "word": "stop", "limit": "length"}


class _Timings(msgspec.Struct, gc=False):
    cache_n: int = 0


class _Piece(msgspec.Struct, gc=False):
    """What `/completion` says in a stream (llama.cpp, tools/server/README.md)."""

    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    timings: _Timings | None = None
    prompt_progress: Any = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Piece)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that the model can be given.  `head` goes before the first ids told of its answer; None: none are."""

    prompt: list[int]
    way: Way
    head: tuple[int, ...] | None


class LocalProvider:
    """A provider (see `base.Provider`).  `data_dir` is where the folder of models lies."""

    name = "local"

    def __init__(self, data_dir: Path, shape: Shape | None = None) -> None:
        self._folder = folder_of(data_dir)
        self._shape = shape or Shape()
        self._children: dict[str, Child] = {}
        self._replaced: set[Child] = set()  # a file was changed while its model was in use
        self._pieces: dict[tuple[str, str], list[int]] = {}

    # ------------------------------------------------------------------ base.Provider

    async def models(self) -> list[ModelInfo]:
        """What lies in the folder now, and first the one that can be fetched by a command."""
        found = models_in(self._folder)
        engine = has_engine()
        names = [PACKAGED, *(name for name in found if name != PACKAGED)]
        return [self._info(name, None if engine and name in found else HOW) for name in names]

    def _info(self, name: str, why_not: str | None) -> ModelInfo:
        known = {"thinking": False, "tools": False, "images": False}
        return ModelInfo(f"{self.name}/{name}", why_not is None, "prefill", why_not, **known, window=self.window(name))

    def window(self, model: str) -> int:
        """What each answer may see; less once a model is loaded that was trained for less.

        Contract: `base.KnowingProvider`.
        """
        child = self._children.get(model)
        return self._shape.context_tokens if child is None else child.context_tokens

    async def prepare(self) -> None:
        """There is nothing to prepare: a model is loaded when it is asked, for it takes memory."""

    def check(self, request: Request) -> None:
        """Raises ProviderError `model.unknown` where the model is not here, `request.invalid` for what it cannot."""
        self._model(request)
        check_text_only(request, "local models")

    def continuation(self, request: Request, progress: Progress) -> Continuation | None:
        """How an answer that broke off after `progress` can be carried on at best.  Contract: `base.Provider`."""
        try:
            self.check(request)
        except ProviderError:
            return None
        return continued(progress)

    async def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch]:
        """Ask, and yield batches as they come.  Contract: `base.Provider.generate`."""
        self.check(request)
        if progress is not None and self.continuation(request, progress) is None:
            raise ProviderError("provider.connection", "the answer cannot be carried on", retryable=False)
        child = await self._child(self._model(request))
        with child.used():
            await child.ready()
            asked = await self._asked(child, request, progress)
            join = asked.way.join
            headers = HeadersReceived(at=time.time_ns() // 1_000_000)
            yield join.take((headers,)) if join is not None else (headers,)
            async with child.place() as place:
                while not (await asyncio.wait((place,), timeout=ALIVE_S))[0]:
                    yield ()
                async with aclosing(self._answer(child, asked)) as batches:
                    async for batch in batches:
                        yield join.take(batch) if join is not None else batch
                        if join is not None and join.over:
                            return

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Nothing runs on after its connection has closed."""

    async def aclose(self) -> None:
        """End what runs.  Idempotent."""
        children = [*self._children.values(), *self._replaced]
        self._children.clear()
        self._replaced.clear()
        await asyncio.gather(*(child.aclose() for child in children))

    # ------------------------------------------------------------------ the model and its process

    def _model(self, request: Request) -> LocalModel:
        name = request.model_name
        model = model_named(self._folder, name)
        if model is not None and has_engine():
            return model
        if model is not None or name == PACKAGED:
            raise ProviderError(
                "model.unknown", f"local/{name} is not usable yet: {HOW.removeprefix('run: ')} brings it"
            )
        raise ProviderError("model.unknown", f"there is no local model `{name[:64]}`: its file is not among the models")

    async def _child(self, model: LocalModel) -> Child:
        child = self._children.get(model.name)
        if child is not None and child.model == model:
            return child
        self._replaced = {old for old in self._replaced if old.running}
        if child is not None:
            self._replaced.add(child)  # it answers what it was asked, and then goes as every idle one does
        self._children[model.name] = child = Child(model, self._shape)
        return child

    # ------------------------------------------------------------------ what is asked

    async def _asked(self, child: Child, request: Request, progress: Progress | None) -> _Asked:
        """The request in the model's tokens.  Raises ProviderError `provider.invalid` where it is too long."""
        head = _head_of(child.model)
        way = way_of(request, progress, head)
        prompt = list(way.prompt or ()) or await self._worded(child, way.request)
        if len(prompt) >= child.context_tokens:
            raise ProviderError(
                "provider.invalid",
                f"the conversation is {len(prompt)} tokens long, and local/{child.model.name} sees"
                f" {child.context_tokens} at a time (local_context_tokens)",
            )
        return _Asked(prompt, way, way.head_of(prompt, head))

    async def _worded(self, child: Child, request: Request) -> list[int]:
        """The conversation in the words of the model's template, as ids."""
        body, _ = chat_body(request, official=False)
        asked = {"messages": body["messages"], "chat_template_kwargs": _NO_THINKING}
        words = (await child.ask("/apply-template", asked))["prompt"]
        cut = {"content": words, "add_special": True, "parse_special": True}
        return list((await child.ask("/tokenize", cut))["tokens"])

    async def _answer(self, child: Child, asked: _Asked) -> AsyncGenerator[Batch]:
        tokens = _Tokens(asked, lambda text: self._taken_apart(child, text))
        body = _body(asked)
        if body["n_predict"] == 0:  # it was all said; only the end was lost
            yield (Finish("length", Usage(len(asked.prompt), 0, len(asked.prompt), "provider")),)
            return
        events = JsonEvents(_DECODER)
        async with aclosing(child.stream("/completion", body)) as reads:
            async for data in reads:
                batch: list[ProviderEvent] = []
                for piece in events.feed(data):
                    if piece.error:
                        raise stream_error("the local model", piece.error)
                    await tokens.take(piece)
                    if piece.stop:
                        yield [*tokens.events(), _finish(piece)]
                        return
                if events.trouble is not None:
                    raise garbage("the local model", events.trouble)
                batch += tokens.events()
                yield batch
        raise cut_off("the local model")

    async def _taken_apart(self, child: Child, text: str) -> list[int]:
        """The tokens that a piece of text is made of, as a rule."""
        key = (child.model.name, text)
        found = self._pieces.get(key)
        if found is None:
            if len(self._pieces) >= KNOWN_PIECES_MAX:
                self._pieces.clear()
            found = self._pieces[key] = (await child.ask("/tokenize", {"content": text, "add_special": False}))[
                "tokens"
            ]
        return found


_NO_THINKING: Final = {"enable_thinking": False}  # its marks would stand in the text


class _Tokens:
    """The text of an answer, and the ids that stand for it.  See the module's text."""

    def __init__(self, asked: _Asked, taken_apart: Any) -> None:
        self._taken_apart = taken_apart
        self._ids: list[int] | None = None if asked.head is None else list(asked.head)  # of what is not given out yet
        self._behind: list[int] = []  # of tokens without a text of their own, so far
        self._text = ""
        self._predicted = 0

    async def take(self, piece: _Piece) -> None:
        if piece.prompt_progress is not None:
            return
        new, self._predicted = piece.tokens_predicted - self._predicted, piece.tokens_predicted
        self._text += piece.content
        if self._ids is None or piece.stop:
            return
        ids = piece.tokens
        if len(ids) != new:
            ids = await self._taken_apart(piece.content)
            if len(ids) != new or ids[-1:] != piece.tokens[-1:]:
                self._ids = None
                return
        self._behind += ids
        if piece.content:
            self._ids += self._behind
            self._behind.clear()

    def events(self) -> list[ProviderEvent]:
        """What there is to give out."""
        if not self._text:
            return []
        events: list[ProviderEvent] = [DeltaText(self._text)]
        self._text = ""
        if self._ids:
            events.append(Mark(tokens=tuple(self._ids)))
            self._ids.clear()
        return events


def _head_of(model: LocalModel) -> int:
    """What the ids of this file's answers begin with: another file of the same name may mean others by them."""
    return tokens_head(f"local/{model.name} {model.size_bytes}")


def _body(asked: _Asked) -> dict[str, Any]:
    """What the request says about drawing tokens, in the server's words.  Without a bound the context is one."""
    request = asked.way.request
    params = request.params
    body: dict[str, Any] = dict(request.extra)
    for key in ("temperature", "top_p", "seed"):
        value = getattr(params, key)
        if value is not None:
            body[key] = value
    body["stop"] = stops_of(request)
    body["n_predict"] = -1 if params.max_tokens is None else max(params.max_tokens - asked.way.made, 0)
    body |= {"prompt": asked.prompt, "stream": True, "return_tokens": True, "return_progress": True, "n_probs": 0}
    return body | {"cache_prompt": True}


def _finish(piece: _Piece) -> Finish:
    read, made = piece.tokens_evaluated, piece.tokens_predicted
    cached = piece.timings.cache_n if piece.timings is not None else None
    return Finish(
        _REASONS.get(piece.stop_type, "stop"), Usage(read, made, read + made, "provider", None, cached or None)
    )
