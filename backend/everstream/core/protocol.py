"""One client connection as a state machine: frames in, commands out.

    NEW ──hello──▶ READY ──▶ … ──▶ CLOSED
     │ anything else: error hello_expected, close 4510

The shell around it feeds every frame from the socket and does what comes back: run a command, send a reply, close.
Nothing here touches a socket, a clock or a store.  A frame that cannot be understood costs the sender an error
frame; ten of them in a row cost the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from everstream.core.commands import COMMANDS, Command, Id, Ping
from everstream.core.errors import FAULTS, EverstreamError
from everstream.core.log import Log
from everstream.core.wire import Encoding, decode

PROTOCOL_VERSION = 1
BAD_FRAMES_MAX = 10  # in a row

# Frames that a server sends and that are no entries of a stream.
SERVER_FRAMES = (
    *("welcome", "ok", "accepted", "cancelled", "subscribed", "snapshot"),
    *("error", "pong", "heartbeat", "goaway", "presence", "typing"),
)


@dataclass(frozen=True, slots=True)
class Run:
    """Carry this command out."""

    command: Command


@dataclass(frozen=True, slots=True)
class Refuse:
    """Send this error frame, and close with `close_code` where there is one."""

    frame: dict[str, Any]
    close_code: int | None = None


Action = Run | Refuse


class ConnectionState(Enum):
    NEW = "new"
    READY = "ready"
    CLOSED = "closed"


class ClientProtocol:
    """The server's side of one connection."""

    __slots__ = ("_bad_frames", "_frame_bytes_max", "encoding", "state")

    def __init__(self, encoding: Encoding, frame_bytes_max: int, *, ready: bool = False) -> None:
        """`ready`: who is there is known already, and `hello` was said in some other way."""
        self.encoding = encoding
        self.state = ConnectionState.READY if ready else ConnectionState.NEW
        self._frame_bytes_max = frame_bytes_max
        self._bad_frames = 0

    def receive(self, data: str | bytes) -> Action:
        """One frame from the client."""
        if len(data) > self._frame_bytes_max:
            return self._close("protocol.too_large", f"a frame may have {self._frame_bytes_max} bytes")
        try:
            frame = decode(self.encoding, data, self._frame_bytes_max)
        except ValueError as error:
            self._bad_frames += 1
            if self._bad_frames >= BAD_FRAMES_MAX:
                return self._close("protocol.bad_frame", "too many bad frames in a row")
            return Refuse(error_frame("protocol.bad_frame", str(error)))
        self._bad_frames = 0
        return self.command(frame)

    def hello_timed_out(self) -> Refuse | None:
        """The time for `hello` is over; None where it came."""
        if self.state is not ConnectionState.NEW:
            return None
        return self._close("protocol.hello_expected", "no `hello` in time")

    def command(self, frame: dict[str, Any]) -> Action:
        """One frame that is decoded already."""
        kind = frame.get("type")
        if not isinstance(kind, str):
            return Refuse(error_frame("protocol.bad_frame", "not a map with a string `type`"))
        command_id = frame.get("id")
        if not isinstance(command_id, str | int) or isinstance(command_id, bool):
            command_id = None
        if self.state is ConnectionState.NEW and kind != "hello":
            return self._close("protocol.hello_expected", "the first command must be `hello`", command_id)
        if self.state is ConnectionState.READY and kind == "hello":
            return Refuse(error_frame("request.invalid", "`hello` was said already", command_id))
        shape = COMMANDS.get(kind)
        if shape is None:
            return Refuse(error_frame("protocol.unknown_type", f"no command `{kind[:64]}`", command_id))
        if shape is Ping:
            fields = {name: value for name, value in frame.items() if name != "type"}
            return Run(Ping(id=command_id, fields=fields))
        try:
            command = msgspec.convert(frame, shape)
        except msgspec.ValidationError as error:
            return Refuse(error_frame("request.invalid", f"{kind}: {error}", command_id))
        if kind == "hello":
            self.state = ConnectionState.READY
        return Run(command)

    def _close(self, code: str, message: str, command_id: Id = None) -> Refuse:
        self.state = ConnectionState.CLOSED
        return Refuse(error_frame(code, message, command_id), FAULTS[code].close_code)


def error_frame(
    code: str,
    message: str,
    command_id: Id = None,
    *,
    stream: str | None = None,
    retryable: bool | None = None,
    retry_after_ms: int | None = None,
) -> dict[str, Any]:
    """The `error` frame of a failed command."""
    frame: dict[str, Any] = {"type": "error"}
    if command_id is not None:
        frame["id"] = command_id
    if stream is not None:
        frame["stream"] = stream
    frame |= {"code": code, "message": message}
    frame["retryable"] = FAULTS[code].retryable if retryable is None else retryable
    if retry_after_ms is not None:
        frame["retry_after_ms"] = retry_after_ms
    return frame


def error_of(error: EverstreamError, command_id: Id = None, *, stream: str | None = None) -> dict[str, Any]:
    return error_frame(
        error.code,
        error.message,
        command_id,
        stream=stream,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
    )


def reply(kind: str, command_id: Id, **fields: Any) -> dict[str, Any]:
    """A reply that echoes the command's id, where it had one."""
    frame: dict[str, Any] = {"type": kind}
    if command_id is not None:
        frame["id"] = command_id
    return frame | fields


def status_of(log: Log) -> str:
    return "ended" if log.ended else "open"


def snapshot_frame(log: Log, command_id: Id = None) -> dict[str, Any]:
    """Everything readers may see of a stream, in place of its entries.  It replaces what the client holds."""
    total = log.total()
    frame = reply(
        "snapshot",
        command_id,
        stream=log.stream,
        epoch=log.position(log.committed).epoch,
        upto=log.committed,
        status=status_of(log),
        text=total.text,
        thinking=total.thinking,
        tool_calls=total.tool_calls,
        end=total.end,
    )
    if total.refusal:
        frame["refusal"] = total.refusal
    return frame
