"""Models of the Hugging Face hub, or of a folder, run inside this process with the library `transformers`.

    request ──▶ the model's own thread: load, template, ids ──▶ draw ──▶ queue ──▶ text and marks

Which models there are is the operator's word (`huggingface_models`), for each takes memory and perhaps a download.
What lies on this machine is used as it is; the hub is asked only for what does not (HF_HOME and HF_HUB_OFFLINE are
obeyed).

Each model has one thread, and so answers one after the other; two models at most are in memory, and the one that was
asked least recently makes room.  The thread looks at the cancel before each token.  An answer's token ids are known, so
one that broke off is carried on by them, from precisely where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import structlog

from everstream.core.events import Continuation, DeltaText, Finish, HeadersReceived, Mark, Request, Usage
from everstream.providers.base import Batch, ModelInfo, Progress, ProviderError, ProviderEvent
from everstream.providers.carry_join import Continued
from everstream.providers.carry_ladder import tokens_head
from everstream.providers.carry_request import stops_of
from everstream.providers.carry_tokens import Way, continued, way_of
from everstream.providers.chat_request import chat_body
from everstream.providers.http_errors import redact
from everstream.providers.text_only import check_text_only

logger = structlog.get_logger(__name__)

RUNNER: Final = "everstream.providers.huggingface_run"
NEEDED: Final = ("torch", "transformers")
HOW: Final = "pip install 'everstream[huggingface]'"
LOADED_MAX: Final = 2
TOKENS_DEFAULT: Final = 1_024  # on a machine without an accelerator that is minutes
ALIVE_S: Final = 10.0
END_S: Final = 10.0


class HuggingFaceProvider:
    """A provider (see `base.Provider`).  `models`: names `owner/name`, or folders, which go by their last part."""

    name = "huggingface"

    def __init__(self, models: str) -> None:
        sources = [source.strip() for source in models.split(",")]
        self._sources = {_name_of(source): source for source in sources if source}
        self._held: dict[str, _Held] = {}  # the least recently asked first

    # ------------------------------------------------------------------ base.Provider

    async def models(self) -> list[ModelInfo]:
        """Those that the settings name."""
        why_not = _hindrance()
        known = {"thinking": False, "tools": False, "images": False}
        return [
            ModelInfo(f"{self.name}/{name}", why_not is None, "prefill", why_not, **known) for name in self._sources
        ]

    def window(self, model: str) -> int | None:
        """Known once a model is loaded.  Contract: `base.KnowingProvider`."""
        held = self._held.get(model)
        return None if held is None else held.window

    async def prepare(self) -> None:
        """There is nothing to prepare: a model is loaded when it is asked, for it takes memory."""

    def check(self, request: Request) -> None:
        """Raises ProviderError `model.unknown` where the model is not offered, `request.invalid` for what it cannot."""
        name = request.model_name
        if name not in self._sources:
            raise ProviderError("model.unknown", f"`{name[:128]}` is not among huggingface_models")
        if why_not := _hindrance():
            raise ProviderError("model.unknown", f"huggingface/{name} is not usable: {why_not}")
        check_text_only(request, "models that run here")

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
        if progress is not None and continued(progress) is None:
            raise ProviderError("provider.connection", "the answer cannot be carried on", retryable=False)
        held = self._hold(request.model_name)
        answer = _Answer(request, way_of(request, progress, tokens_head(request.model)))
        work = held.work(answer.run)
        join = answer.way.join
        try:
            while True:
                batch = await answer.next(work)
                yield batch if join is None else join.take(batch)
                if any(isinstance(event, Finish) for event in batch) or (join is not None and join.over):
                    return
        finally:
            answer.stopped.set()
            held.release(work)

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Nothing runs on after the reading has ended."""

    async def aclose(self) -> None:
        """Stop what runs, and forget the models.  Idempotent."""
        held = list(self._held.values())
        self._held.clear()
        await asyncio.gather(*(one.aclose() for one in held))

    def _hold(self, name: str) -> _Held:
        held = self._held.pop(name, None) or _Held(name, self._sources[name])
        self._held[name] = held
        for old in [other for other, one in self._held.items() if not one.users][: len(self._held) - LOADED_MAX]:
            if old != name:
                self._held.pop(old).drop()
        return held


class _Held:
    """A model and its thread.  `users` counts the answers that wait for it or come from it."""

    def __init__(self, name: str, source: str) -> None:
        self.users = 0
        self._name = name
        self._source = source
        self._model: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"model {name}")

    def work(self, run: Callable[[Any], None]) -> asyncio.Future[None]:
        self.users += 1
        return asyncio.get_running_loop().run_in_executor(self._thread, lambda: run(self._loaded()))

    def release(self, work: asyncio.Future[None]) -> None:
        """An answer is over for its reader; its thread may take a token longer."""
        self.users -= 1
        if not work.done():
            work.cancel()  # in vain if it has begun: then it sees that it is stopped
        work.add_done_callback(lambda done: None if done.cancelled() else done.exception())

    @property
    def window(self) -> int | None:
        return None if self._model is None else self._model.context_tokens

    def drop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def aclose(self) -> None:
        self.drop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await asyncio.to_thread(self._thread.shutdown)

    def _loaded(self) -> Any:
        if self._model is None:
            began = time.monotonic()
            try:
                self._model = import_module(RUNNER).Loaded(self._source)
            except (ImportError, OSError, ValueError) as error:
                logger.warning("a model could not be loaded", model=self._name, error=repr(error)[:500])
                said = redact(str(error).strip().partition("\n")[0])
                message = f"huggingface/{self._name} cannot be loaded: {said}"
                raise ProviderError("provider.unknown", message, retryable=False) from None
            logger.info("a model is loaded", model=self._name, seconds=round(time.monotonic() - began, 1))
        return self._model


class _Answer:
    """One answer, on both sides: `run` in the model's thread, `next` in the loop."""

    def __init__(self, request: Request, way: Way) -> None:
        self.way = way
        self.stopped = threading.Event()
        self._head = tokens_head(request.model)
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[Batch] = asyncio.Queue()

    async def next(self, work: asyncio.Future[None]) -> Batch:
        """What comes next; an empty batch where nothing came for a while.  Raises what the thread raised."""
        coming = asyncio.ensure_future(self._said.get())
        try:
            await asyncio.wait((coming, work), timeout=ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            if work.done():
                work.result()
            return ()
        finally:
            coming.cancel()

    def _say(self, *events: ProviderEvent) -> None:
        with contextlib.suppress(RuntimeError):  # a loop that has closed hears no more
            self._loop.call_soon_threadsafe(self._said.put_nowait, events)

    def run(self, model: Any) -> None:
        if self.stopped.is_set():
            return
        request = self.way.request
        prompt = list(self.way.prompt or ()) or self._worded(model)
        room = model.context_tokens - len(prompt)
        if room <= 0:
            raise ProviderError(
                "provider.invalid",
                f"the conversation is {len(prompt)} tokens long, and {request.model} sees {model.context_tokens}",
            )
        self._say(HeadersReceived(at=time.time_ns() // 1_000_000))
        asked = request.params.max_tokens
        tokens_max = min(room, TOKENS_DEFAULT if asked is None else asked - self.way.made)
        tokens, ended = 0, False
        if tokens_max > 0:
            made = self._draw(model, prompt, tokens_max)
            tokens, ended = made.tokens, made.ended
        usage = Usage(len(prompt), tokens, len(prompt) + tokens, "provider")
        self._say(Finish("stop" if ended else "length", usage))

    def _draw(self, model: Any, prompt: list[int], tokens_max: int) -> Any:
        params = self.way.request.params
        first = self.way.head_of(prompt, self._head)
        writes_on = self.way.prompt is None and isinstance(self.way.join, Continued)
        before = len(prompt) if writes_on else self.way.made
        waiting = [] if first is None else [*first]

        def emit(text: str, ids: tuple[int, ...]) -> None:
            if first is None:
                self._say(DeltaText(text))
                return
            self._say(DeltaText(text), Mark(tokens=(*waiting, *ids)))
            waiting.clear()

        drawing = import_module(RUNNER).Drawing(
            tokens_max, params.temperature, params.top_p, params.seed, tuple(stops_of(self.way.request))
        )
        try:
            return model.run(prompt, before, drawing, emit, self.stopped)
        except (RuntimeError, ValueError) as error:  # out of memory, or numbers that no distribution has
            logger.warning("a model failed", model=self.way.request.model, error=repr(error)[:500])
            message = f"{self.way.request.model} failed: {type(error).__name__}"
            raise ProviderError("provider.unknown", message, retryable=True) from None

    def _worded(self, model: Any) -> list[int]:
        body, _ = chat_body(self.way.request, official=False)
        messages = [{"role": said["role"], "content": _plain(said["content"])} for said in body["messages"]]
        try:
            return list(model.prompt_of(messages))
        except ValueError as error:
            message = f"the model's template cannot say this conversation: {redact(str(error))}"
            raise ProviderError("provider.invalid", message, retryable=False) from None


def _plain(content: Any) -> str:
    """The text of a message, which may come in parts."""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content or ())


def _name_of(source: str) -> str:
    is_folder = source.startswith((".", "~", "/")) or Path(source).expanduser().is_dir()
    return Path(source).expanduser().resolve().name if is_folder else source


def _hindrance() -> str | None:
    return None if all(find_spec(needed) is not None for needed in NEEDED) else HOW
