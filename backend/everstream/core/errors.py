"""The taxonomy of what can go wrong: one table, read by code, tests and documents alike.

Every failure that a client can see has a code.  The code decides whether trying again can help, which HTTP
status says the same thing, and which WebSocket close code goes with it when the connection cannot go on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """What follows from an error code."""

    retryable: bool
    http_status: int
    close_code: int | None = None  # only where the connection cannot go on


FAULTS: dict[str, Fault] = {
    "protocol.bad_frame": Fault(False, 400, 4500),
    "protocol.unknown_type": Fault(False, 400),
    "protocol.hello_expected": Fault(False, 400, 4510),
    "protocol.too_large": Fault(False, 413, 4509),
    "auth.required": Fault(False, 401, 4501),
    "auth.denied": Fault(False, 401, 4501),
    "auth.forbidden": Fault(False, 403, 4503),
    "request.invalid": Fault(False, 400),
    "request.not_found": Fault(False, 404),
    "stream.unknown": Fault(False, 404),
    "session.unknown": Fault(False, 404),
    "session.busy": Fault(True, 409),
    "model.unknown": Fault(False, 404),
    "limit.rate": Fault(True, 429, 4003),
    "limit.streams": Fault(True, 429),
    "limit.budget": Fault(False, 402),
    "node.draining": Fault(True, 503, 4001),
    "store.unavailable": Fault(True, 503),
    "provider.auth": Fault(False, 502),
    "provider.rate_limit": Fault(True, 429),
    "provider.overloaded": Fault(True, 503),
    "provider.timeout": Fault(True, 504),
    "provider.connection": Fault(True, 502),
    "provider.invalid": Fault(False, 502),
    "provider.content_filter": Fault(False, 400),
    "provider.unknown": Fault(False, 502),
    "internal": Fault(True, 500),
}

# Close codes that no error code stands behind.  4000-4499 mean "come back", 4500-4999 mean "do not".
CLOSE_TOO_SLOW = 4002
CLOSE_RATE = 4003
CLOSE_EXPIRED = 4005


class EverstreamError(Exception):
    """A failure with a code of the table.

    `message` is shown to the client: it never carries a key, a prompt or an answer.  `retry_after_ms` is how
    long to wait before trying again, where somebody (a provider, a limit) said so.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = FAULTS[code].retryable if retryable is None else retryable
        self.retry_after_ms = retry_after_ms
