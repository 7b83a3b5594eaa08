"""What tests of commands need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog


@pytest.fixture
def quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A folder of its own to work in, for the embedded store too, and no setting from around it."""
    for variable in [name for name in os.environ if name.upper().startswith("EVERSTREAM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERSTREAM_DATA_DIR", str(tmp_path / "data"))
    yield
    structlog.reset_defaults()
