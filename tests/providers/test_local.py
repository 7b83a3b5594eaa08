"""Local models without a model: what is listed, what is refused, and when token ids may be told of a text."""

from __future__ import annotations

from pathlib import Path

import pytest

from everstream.core.events import DeltaText, ImagePart, Mark, Message, Params, Request, Tool
from everstream.providers import local
from everstream.providers.base import Progress, ProviderError
from everstream.providers.carry_tokens import Way
from everstream.providers.local import LocalProvider, _Asked, _Piece, _Tokens
from everstream.providers.local_models import HOW

HELLO = [Message("user", "hello")]
HEAD = (-99, 1, 2, -1)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "has_engine", lambda: True)


def put(data_dir: Path, name: str) -> None:
    folder = data_dir / "models"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"GGUF")


async def listed(provider: LocalProvider) -> dict[str, str | None]:
    models = await provider.models()
    assert all(model.usable is (model.why_not is None) for model in models)
    return {model.id: model.why_not for model in models}


async def test_the_model_is_offered_before_it_is_there_with_the_words_that_bring_it(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path / "data")
    assert await listed(provider) == {"local/smollm2": HOW}
    with pytest.raises(ProviderError, match="everstream local install") as refused:
        provider.check(Request("local/smollm2", HELLO))
    assert refused.value.code == "model.unknown"
    assert provider.continuation(Request("local/smollm2", HELLO), Progress("text")) is None


async def test_what_is_put_into_the_folder_is_seen_without_a_restart(tmp_path: Path, engine: None) -> None:
    provider = LocalProvider(tmp_path)
    assert await listed(provider) == {"local/smollm2": HOW}
    put(tmp_path, "smollm2.gguf")
    put(tmp_path, "Qwen3-0.6B-Q8_0.gguf")
    put(tmp_path, "no model.gguf")
    put(tmp_path, "notes.txt")
    assert await listed(provider) == {"local/smollm2": None, "local/Qwen3-0.6B-Q8_0": None}
    provider.check(Request("local/Qwen3-0.6B-Q8_0", HELLO))
    (tmp_path / "models" / "smollm2.gguf").unlink()
    assert (await listed(provider))["local/smollm2"] == HOW


async def test_a_file_alone_is_of_no_use_without_what_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "has_engine", lambda: False)
    put(tmp_path, "smollm2.gguf")
    assert await listed(LocalProvider(tmp_path)) == {"local/smollm2": HOW}


@pytest.mark.parametrize("name", ["../secret", "", "a/b", ".hidden", "models", "x" * 200])
def test_a_name_leads_to_no_file_outside_the_folder(tmp_path: Path, engine: None, name: str) -> None:
    put(tmp_path, "smollm2.gguf")
    (tmp_path / "secret.gguf").write_bytes(b"GGUF")
    with pytest.raises(ProviderError) as refused:
        LocalProvider(tmp_path).check(Request(f"local/{name}", HELLO))
    assert refused.value.code == "model.unknown"


def test_tools_and_images_are_refused_before_a_stream_is_made(tmp_path: Path, engine: None) -> None:
    put(tmp_path, "smollm2.gguf")
    provider = LocalProvider(tmp_path)
    picture = Request("local/smollm2", [Message("user", [ImagePart(url="data:,")])])
    with_tool = Request("local/smollm2", HELLO, Params(tools=[Tool("look")]))
    for request in (picture, with_tool):
        with pytest.raises(ProviderError) as refused:
            provider.check(request)
        assert refused.value.code == "request.invalid"


def test_what_is_shown_says_how_it_can_be_carried_on(tmp_path: Path, engine: None) -> None:
    put(tmp_path, "smollm2.gguf")
    provider = LocalProvider(tmp_path)
    request = Request("local/smollm2", HELLO)
    assert provider.continuation(request, Progress()) == "restart"
    assert provider.continuation(request, Progress(" \n")) == "restart"
    assert provider.continuation(request, Progress("Once")) == "prefill"
    assert provider.continuation(request, Progress("Once", refusal="no")) is None


# --------------------------------------------------------------------------- ids and text in step


def tokens_of(apart: list[int], *, tells: bool = True) -> _Tokens:
    async def taken_apart(_: str) -> list[int]:
        return apart

    asked = _Asked([1, 2], Way(Request("local/smollm2", HELLO)), HEAD if tells else None)
    return _Tokens(asked, taken_apart)


async def say(tokens: _Tokens, *pieces: tuple[str, list[int], int]) -> list[object]:
    for content, ids, predicted in pieces:
        await tokens.take(_Piece(content, ids, tokens_predicted=predicted))
    return list(tokens.events())


async def test_ids_stand_beside_the_text_that_they_make() -> None:
    tokens = tokens_of([])
    assert await say(tokens, ("On", [7], 1), ("ce", [8], 2)) == [DeltaText("Once"), Mark(tokens=(*HEAD, 7, 8))]
    assert await say(tokens, (" up", [9], 3)) == [DeltaText(" up"), Mark(tokens=(9,))]


async def test_a_token_without_text_waits_for_the_next_that_has_some() -> None:
    tokens = tokens_of([])
    assert await say(tokens, ("a", [7], 1), ("", [5], 2)) == [DeltaText("a"), Mark(tokens=(*HEAD, 7))]
    assert await say(tokens, ("b", [8], 3)) == [DeltaText("b"), Mark(tokens=(5, 8))]


async def test_a_character_of_several_tokens_is_taken_apart_again() -> None:
    tokens = tokens_of([31, 32, 33])
    assert await say(tokens, ("🌟", [33], 3)) == [DeltaText("🌟"), Mark(tokens=(*HEAD, 31, 32, 33))]


@pytest.mark.parametrize("apart", [[31, 33], [31, 32, 34], []])
async def test_where_number_or_last_token_disagree_no_ids_are_told_any_more(apart: list[int]) -> None:
    tokens = tokens_of(apart)
    assert await say(tokens, ("a", [7], 1)) == [DeltaText("a"), Mark(tokens=(*HEAD, 7))]
    assert await say(tokens, ("🌟", [33], 4)) == [DeltaText("🌟")]
    assert await say(tokens, ("b", [8], 5)) == [DeltaText("b")]


async def test_none_are_told_where_they_would_not_stand_for_the_text() -> None:
    assert await say(tokens_of([], tells=False), ("a", [7], 1)) == [DeltaText("a")]
