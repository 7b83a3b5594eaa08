"""A real model, run as the server runs it: what it says, how it is stopped, how a broken answer is carried on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.local_model import MODEL, QUESTION, lay_out
from tests.runtime.conftest import until

from everstream.core.events import DeltaText, Finish, HeadersReceived, Mark, Message, Params, Request, Resumed
from everstream.providers.base import Progress, ProviderError
from everstream.providers.chat_completions import PROMPT_ENDS
from everstream.providers.local import LocalProvider
from everstream.providers.local_child import Child, Shape

TOKENS = 32
WAIT_S = 60.0


@dataclass(slots=True)
class Said:
    """An answer as it came; `cuts` are the places at which it could have broken off, as a relay would keep them."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    resumed: list[Resumed] = field(default_factory=list)
    headers: int = 0
    cuts: list[Progress] = field(default_factory=list)

    def take(self, event: object) -> None:
        if isinstance(event, DeltaText):
            self.text += event.text
        elif isinstance(event, Mark):
            self.ids += event.tokens
            self.cuts.append(Progress(self.text, tokens=tuple(self.ids)))
        elif isinstance(event, Finish):
            self.finish = event
        elif isinstance(event, Resumed):
            self.resumed.append(event)
        elif isinstance(event, HeadersReceived):
            self.headers += 1


def asking(question: str = QUESTION, **params: Any) -> Request:
    return Request(MODEL, [Message("user", question)], Params(**{"temperature": 0, "max_tokens": TOKENS} | params))


async def heard(provider: LocalProvider, request: Request, progress: Progress | None = None) -> Said:
    said = Said()
    async with asyncio.timeout(WAIT_S):
        async for batch in provider.generate(request, progress):
            for event in batch:
                said.take(event)
    return said


@asynccontextmanager
async def running(data_dir: Path, **shape: Any) -> AsyncIterator[LocalProvider]:
    lay_out(data_dir)
    provider = LocalProvider(data_dir, Shape(**{"parallel": 2, "context_tokens": 512} | shape))
    try:
        yield provider
    finally:
        await provider.aclose()


def child_of(provider: LocalProvider) -> Child:
    return provider._children["smollm2"]


async def at_work(child: Child) -> int:
    """How many answers it computes at this moment."""
    return sum(slot["is_processing"] for slot in await child.ask("/slots"))


async def test_a_greedy_answer_cut_anywhere_is_carried_on_to_the_same_text(tmp_path: Path) -> None:
    async with running(tmp_path) as provider:
        whole = await heard(provider, asking())
        assert len(whole.text) > 80
        assert whole.finish is not None
        assert whole.finish.finish_reason == "length"
        usage = whole.finish.usage
        assert usage is not None
        assert (usage.source, usage.output_tokens) == ("provider", TOKENS)
        assert usage.input_tokens == whole.ids.index(PROMPT_ENDS) - 1
        for cut in whole.cuts[:: len(whole.cuts) // 3]:
            rest = await heard(provider, asking(), cut)
            assert [seam.continuation for seam in rest.resumed] == ["prefill"]
            assert cut.text + rest.text == whole.text
            assert [*(cut.tokens or ()), *rest.ids] == whole.ids
        end = await heard(provider, asking(), whole.cuts[-1])
        assert (end.text, end.finish and end.finish.finish_reason) == ("", "length")


async def test_another_process_carries_it_on_to_the_same_text(tmp_path: Path) -> None:
    """As after a crash: nothing that it had computed is left, so all of it is read in again."""
    async with running(tmp_path / "a") as one, running(tmp_path / "b") as other:
        whole = await heard(one, asking(max_tokens=70))
        cut = whole.cuts[50]
        rest = await heard(other, asking(max_tokens=70), cut)
        assert cut.text + rest.text == whole.text


async def test_ids_are_told_of_characters_that_take_several_tokens(tmp_path: Path) -> None:
    async with running(tmp_path) as provider:
        said = await heard(provider, asking("Write 👋 你好 世界 and some Chinese 汉字.", max_tokens=30))
        assert any(ord(character) > 0x2E80 for character in said.text)
        for cut in said.cuts:
            ids = list(cut.tokens or ())
            made = ids[ids.index(PROMPT_ENDS) + 1 :]
            assert (await child_of(provider).ask("/detokenize", {"tokens": made}))["content"] == cut.text
        assert said.cuts[-1].text == said.text


async def test_without_ids_the_text_is_written_on_and_without_text_it_begins_again(tmp_path: Path) -> None:
    async with running(tmp_path) as provider:
        whole = await heard(provider, asking())
        beginning = whole.text[: whole.text.index(" ", 40) + 1]
        rest = await heard(provider, asking(max_tokens=8), Progress(beginning))
        assert [seam.continuation for seam in rest.resumed] == ["prefill"]
        assert whole.text.startswith(beginning + rest.text)
        assert rest.text
        assert not rest.ids
        again = await heard(provider, asking(), Progress(" "))
        assert [seam.continuation for seam in again.resumed] == ["restart"]
        assert again.text == whole.text


async def test_at_a_stop_sequence_it_stops_and_tells_no_ids(tmp_path: Path) -> None:
    async with running(tmp_path) as provider:
        whole = await heard(provider, asking())
        stop = whole.text[30:38]
        said = await heard(provider, asking(stop=stop))
        assert said.text == whole.text[: whole.text.index(stop)]
        assert said.finish is not None
        assert (said.finish.finish_reason, said.ids) == ("stop", [])


async def test_a_cancel_ends_the_computing(tmp_path: Path) -> None:
    async with running(tmp_path) as provider:
        async with aclosing(provider.generate(asking(max_tokens=400))) as batches:
            async for batch in batches:
                if any(isinstance(event, DeltaText) for event in batch):
                    break
            child = child_of(provider)
            assert await at_work(child) == 1
        before = asyncio.get_running_loop().time()
        async with asyncio.timeout(WAIT_S):
            while await at_work(child):
                pass
        print(f"idle {(asyncio.get_running_loop().time() - before) * 1000:.0f} ms after the cancel")
        assert child.running


async def test_two_answers_come_at_once_and_a_third_waits_for_a_place(tmp_path: Path) -> None:
    async with running(tmp_path) as provider:
        alone = await heard(provider, asking())
        order: list[int] = []
        greeted: list[int] = []

        async def one(number: int) -> str:
            said = Said()
            async for batch in provider.generate(asking()):
                for event in batch:
                    said.take(event)
                (order if said.text else greeted).append(number)
            return said.text

        async with asyncio.timeout(WAIT_S):
            texts = await asyncio.gather(*(one(number) for number in range(3)))
        assert texts == [alone.text] * 3
        first_ended = min(len(order) - 1 - order[::-1].index(number) for number in range(3))
        together = set(order[: first_ended + 1])
        assert len(together) == 2, "two at a time, the third after one of them"
        assert set(greeted) == {0, 1, 2}


async def test_a_process_that_dies_in_mid_answer_is_an_error_and_the_next_call_starts_another(tmp_path: Path) -> None:
    async with running(tmp_path) as provider:
        said = Said()

        async def cut_off() -> None:
            async for batch in provider.generate(asking(max_tokens=400)):
                for event in batch:
                    said.take(event)
                pid = child_of(provider).pid
                if len(said.ids) > 60 and pid is not None:
                    os.kill(pid, signal.SIGKILL)

        with pytest.raises(ProviderError) as broken:
            await cut_off()
        assert (broken.value.code, broken.value.retryable) == ("provider.connection", True)
        rest = await heard(provider, asking(), said.cuts[5])
        assert rest.resumed[0].continuation == "prefill"
        whole = await heard(provider, asking())
        assert said.cuts[5].text + rest.text == whole.text


async def test_a_model_that_nobody_asks_is_unloaded_and_loaded_again(tmp_path: Path) -> None:
    async with running(tmp_path, idle_s=0.2) as provider:
        first = await heard(provider, asking(max_tokens=4))
        child = child_of(provider)
        assert child.running
        await until(lambda: not child.running)
        assert (await heard(provider, asking(max_tokens=4))).text == first.text


async def test_a_conversation_that_is_too_long_is_refused_with_both_numbers(tmp_path: Path) -> None:
    async with running(tmp_path, parallel=1, context_tokens=256) as provider:
        with pytest.raises(ProviderError, match=r"\d{4} tokens long, and local/smollm2 sees 256") as refused:
            await heard(provider, asking("word " * 1500))
        assert (refused.value.code, refused.value.retryable) == ("provider.invalid", False)


async def test_an_answer_without_a_bound_ends_where_the_context_does(tmp_path: Path) -> None:
    async with running(tmp_path, parallel=1, context_tokens=256) as provider:
        said = await heard(provider, Request(MODEL, asking("word " * 190).messages, extra={"ignore_eos": True}))
        assert said.finish is not None
        assert said.finish.usage is not None
        assert said.finish.finish_reason == "length"
        assert said.finish.usage.total_tokens == pytest.approx(256, abs=1)


async def test_a_file_that_is_no_model_says_so_and_leaves_no_process(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "models" / "broken.gguf").write_bytes(b"GGUF" + bytes(4000))
    provider = LocalProvider(tmp_path)
    with pytest.raises(ProviderError, match="broken cannot be loaded") as refused:
        await heard(provider, Request("local/broken", [Message("user", "hello")]))
    assert not refused.value.retryable
    await provider.aclose()
