"""How many tokens a text is, with a vocabulary and without."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from everstream.providers import tokenizer

needs_package = pytest.mark.skipif(find_spec("bpe_openai") is None, reason="the extra `tokens` is not installed")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_there", True)
    monkeypatch.setattr(tokenizer, "_missed", False)


def test_four_characters_are_a_token_where_nothing_else_is_known() -> None:
    assert [tokenizer.tokens_in("x" * length) for length in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert not tokenizer.counts()
    assert not tokenizer.wanted()


@needs_package
async def test_a_vocabulary_is_loaded_once_it_was_missed(there: None) -> None:
    assert not tokenizer.wanted()
    assert tokenizer.tokens_in("Hello, world!") == 4  # by its length
    assert tokenizer.wanted()
    await tokenizer.prepare()
    assert tokenizer.counts()
    assert not tokenizer.wanted()
    assert tokenizer.tokens_in("Hello, world!") == 4  # by the words: Hello | , | world | !
    assert tokenizer.tokens_in("internationalization") == 2
    assert tokenizer.tokens_in("<|endoftext|>") > 1, "what a person writes is no command"


@needs_package
async def test_a_long_text_is_counted_in_pieces_and_a_longer_one_by_its_beginning(there: None) -> None:
    await tokenizer.prepare()
    text = "word " * 60_000
    assert tokenizer.tokens_in(text) == pytest.approx(60_000, rel=0.001)
    assert tokenizer.tokens_in(text * 10) == pytest.approx(600_000, rel=0.001)
