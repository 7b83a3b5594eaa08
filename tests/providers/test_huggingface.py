"""Hugging Face models in this process: a tiny one with chance for weights, made here, asked as a real one is.

Without torch and transformers only what needs neither is tested (`make test-huggingface` installs them).
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.conftest import until

from everstream.core.events import DeltaText, Finish, Mark, Message, Params, Request, Resumed
from everstream.providers import huggingface
from everstream.providers.base import Batch, Progress, ProviderError
from everstream.providers.chat_completions import PROMPT_ENDS
from everstream.providers.huggingface import HOW, HuggingFaceProvider

HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch and transformers are missing: make test-huggingface")
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' end ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)
WORDS = ["<pad>", "</s>", "<unk>", ":", "end", "user", "assistant", "system", *(f"w{number}" for number in range(120))]
WAIT_S = 60.0


def make_model(folder: Path) -> None:
    """A Llama of two layers that knows 128 words."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    plain.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(WORDS), max_position_embeddings=256, eos_token_id=1, pad_token_id=0, bos_token_id=None, **shape
    )
    model = LlamaForCausalLM(config)
    for weights in model.parameters():  # what is drawn is then far from a tie
        weights.data.mul_(3.0)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("huggingface") / "tiny"
    make_model(folder)
    return folder


@pytest.fixture
async def provider(folder: Path) -> AsyncIterator[HuggingFaceProvider]:
    provider = HuggingFaceProvider(f"{folder}, ")
    yield provider
    await provider.aclose()


def asking(content: str = "w1 w2 w3", **params: Any) -> Request:
    return Request(
        "huggingface/tiny", [Message("user", content)], Params(**{"temperature": 0, "max_tokens": 24} | params)
    )


async def heard(provider: HuggingFaceProvider, request: Request, progress: Progress | None = None) -> list[Any]:
    async with asyncio.timeout(WAIT_S):
        return [event async for batch in provider.generate(request, progress) for event in batch]


def text_of(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, DeltaText))


def ids_of(events: list[Any]) -> list[int]:
    return [token for event in events if isinstance(event, Mark) for token in event.tokens]


async def test_where_the_library_is_missing_the_words_that_bring_it_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "NEEDED", ("no_such_library",))
    provider = HuggingFaceProvider("acme/tiny")
    assert [(model.id, model.usable, model.why_not) for model in await provider.models()] == [
        ("huggingface/acme/tiny", False, HOW)
    ]
    with pytest.raises(ProviderError, match="pip install"):
        provider.check(Request("huggingface/acme/tiny", []))
    await provider.aclose()


async def test_only_what_the_settings_name_is_offered(tmp_path: Path) -> None:
    assert await HuggingFaceProvider("").models() == []
    provider = HuggingFaceProvider(f"acme/tiny,{tmp_path}")
    assert [model.id for model in await provider.models()] == ["huggingface/acme/tiny", f"huggingface/{tmp_path.name}"]
    for name in ("acme/other", "", "../tiny"):
        with pytest.raises(ProviderError) as refused:
            provider.check(Request(f"huggingface/{name}", []))
        assert refused.value.code == "model.unknown"


@needs_torch
async def test_a_greedy_answer_cut_anywhere_is_carried_on_to_the_same_text(provider: HuggingFaceProvider) -> None:
    whole = await heard(provider, asking())
    finish = whole[-1]
    assert isinstance(finish, Finish)
    ids = ids_of(whole)
    start = ids.index(PROMPT_ENDS) + 1
    assert len(ids) - start == 24
    assert finish.finish_reason == "length"
    assert finish.usage is not None
    assert (finish.usage.input_tokens, finish.usage.output_tokens, finish.usage.source) == (start - 2, 24, "provider")
    texts = [event.text for event in whole if isinstance(event, DeltaText)]
    assert len(texts) == 24
    for cut in (1, 11, 23, 24):
        progress = Progress("".join(texts[:cut]), tokens=tuple(ids[: start + cut]))
        rest = await heard(provider, asking(), progress)
        assert Resumed("prefill") in rest
        assert progress.text + text_of(rest) == text_of(whole)
        assert [*(progress.tokens or ()), *ids_of(rest)] == ids


@needs_torch
async def test_without_ids_the_text_is_written_on_and_without_text_it_begins_again(
    provider: HuggingFaceProvider,
) -> None:
    whole = text_of(await heard(provider, asking()))
    beginning = " ".join(whole.split()[:9])
    rest = await heard(provider, asking(max_tokens=None, stop="never said"), Progress(beginning))
    assert Resumed("prefill") in rest
    assert (beginning + text_of(rest)).startswith(whole)
    assert not ids_of(rest)
    again = await heard(provider, asking(), Progress())
    assert Resumed("restart") in again
    assert text_of(again) == whole


@needs_torch
async def test_at_a_stop_sequence_it_stops_and_nothing_of_it_is_shown(provider: HuggingFaceProvider) -> None:
    whole = text_of(await heard(provider, asking()))
    stop = " ".join(whole.split()[7:9])
    said = await heard(provider, asking(stop=[stop]))
    assert text_of(said) == whole[: whole.index(stop)]
    assert said[-1].finish_reason == "stop"


@needs_torch
async def test_a_cancel_stops_the_drawing_at_the_next_token(provider: HuggingFaceProvider) -> None:
    async with aclosing(provider.generate(asking(max_tokens=230))) as batches:
        async for batch in batches:
            if any(isinstance(event, DeltaText) for event in batch):
                break
    said = await heard(provider, asking(max_tokens=4))  # its thread is free again, or this would not come
    assert len(said) > 2
    assert not provider._held["tiny"].users


@needs_torch
async def test_answers_of_one_model_come_one_after_the_other(
    provider: HuggingFaceProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everstream.providers.huggingface_run import Loaded

    told: list[str] = []
    run = Loaded.run

    def watched(*given: Any) -> Any:
        told.append("begins")
        try:
            return run(*given)
        finally:
            told.append("ends")

    monkeypatch.setattr(Loaded, "run", watched)
    answers = await asyncio.gather(*(heard(provider, asking()) for _ in range(3)))
    assert len({text_of(answer) for answer in answers}) == 1
    assert told == ["begins", "ends"] * 3


@needs_torch
async def test_what_is_wrong_is_said_before_anything_is_shown(provider: HuggingFaceProvider, tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="tokens long") as refused:
        await heard(provider, asking("w5 " * 300))
    assert refused.value.code == "provider.invalid"
    (tmp_path / "config.json").write_text("{}")
    broken = HuggingFaceProvider(str(tmp_path))
    with pytest.raises(ProviderError, match="cannot be loaded") as refused:
        await heard(broken, Request(f"huggingface/{tmp_path.name}", [Message("user", "w1")]))
    assert not refused.value.retryable
    await broken.aclose()


@needs_torch
async def test_the_model_that_was_asked_least_recently_makes_room(folder: Path, tmp_path: Path) -> None:
    names = ["one", "two", "three"]
    for name in names:
        (tmp_path / name).symlink_to(folder)
    provider = HuggingFaceProvider("")
    provider._sources = {name: str(tmp_path / name) for name in names}
    for name in names:
        await heard(provider, Request(f"huggingface/{name}", [Message("user", "w1")], Params(max_tokens=2)))
    assert list(provider._held) == ["two", "three"]
    await provider.aclose()


@needs_torch
async def test_an_answer_that_waits_for_its_turn_says_that_it_lives(
    provider: HuggingFaceProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "ALIVE_S", 0.001)
    batches: list[Batch] = [batch async for batch in provider.generate(asking(max_tokens=3))]
    assert () in batches
    await until(lambda: not provider._held["tiny"].users)


@needs_torch
def test_a_character_of_several_tokens_comes_whole_with_all_its_ids() -> None:
    from everstream.providers.huggingface_run import Pieces

    said = "a🌟é end".encode()
    pieces = Pieces(lambda ids: bytes(ids).decode("utf-8", "replace"), [])
    fed = [pieces.feed(byte) for byte in said]
    assert "".join(text for text, _ in fed) == "a🌟é end"
    assert [len(ids) for text, ids in fed if text] == [1, 4, 2, 1, 1, 1, 1]
    assert b"".join(bytes(ids) for _, ids in fed) == said
