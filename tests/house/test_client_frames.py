"""What the TypeScript client knows of the wire is what the server says over it."""

from __future__ import annotations

from tests.house import client_frames, client_messagepack


def test_the_frames_of_the_client_are_those_of_the_server() -> None:
    written = client_frames.FILE.read_text(encoding="utf-8")
    assert written == client_frames.frames_module(), "make it anew: python -m tests.house.client_frames"


def test_the_client_is_held_to_the_messagepack_that_servers_read_and_write() -> None:
    written = client_messagepack.FILE.read_text(encoding="utf-8")
    assert written == client_messagepack.messagepack_cases(), "make it anew: python -m tests.house.client_messagepack"
