"""The frames that the TypeScript client knows are those of the server's types."""

from __future__ import annotations

from tests.house.client_frames import FILE, frames_module


def test_the_frames_of_the_client_are_those_of_the_server() -> None:
    assert FILE.read_text(encoding="utf-8") == frames_module(), "make it anew: python -m tests.house.client_frames"
