"""What every test has: it fails when it leaves tasks, sockets or processes behind."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from everstream.providers import tokenizer
from tests.leaks import no_leaks, no_leaks_in_the_loop

# How fast this machine is at the moment is no claim of ours: no deadline, and no check of how long an example takes.
settings.register_profile("everstream", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("everstream")

__all__ = ["no_leaks", "no_leaks_in_the_loop"]


@pytest.fixture(autouse=True)
def tokens_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates are four characters a token, whatever is installed and whoever has loaded it in this process."""
    monkeypatch.setattr(tokenizer, "_there", False)
    monkeypatch.setattr(tokenizer, "_encode", None)
