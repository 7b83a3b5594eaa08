"""Failures of a provider, told in the protocol's codes.

Three sources say that something went wrong: the HTTP status of the answer, an error object inside a stream that
began with 200, and the connection itself.  All three end here, in one table, so that the same failure has the same
code with every provider.  The order of the tests matters: what a vendor *names* (a content policy, a spent quota, a
missing model) is more exact than the status it comes with, for vendors use 400 for all of them.

500 and unnamed failures are `provider.unknown`; 502, 503, 504 and 529 say that the machine behind is not able right
now, which is `provider.overloaded`.  `provider.unknown` with a status of 500 or more is marked retryable.

Messages are shown to clients.  A vendor's message is cut to `MESSAGE_CHARS_MAX` and anything in it that looks like
a credential is struck out: some vendors repeat the key that they reject.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any

from everstream.providers.base import ProviderError

MESSAGE_CHARS_MAX = 500
RETRY_WAIT_MS_MAX = 2_000  # that a new attempt is waited for; above, the error is told at once
RETRY_AFTER_MS_MAX = 3_600_000  # a vendor that says "tomorrow" is not waited for

_SECRETS = re.compile(
    r"""(?ix)
    \b(?:bearer|basic)\s+[\w.~+/=*-]{4,}            # a header, repeated
    | \b(?:sk|pk|rk|gsk|xai|hf|csk|pplx|nvapi|key|api)[-_][\w*.-]{6,}   # the vendors' prefixes
    | \bAIza[\w-]{10,} | \beyJ[\w-]{10,}(?:\.[\w-]+){0,2}
    | (?<=key\sprovided:\s)[^\s,;]+? (?=\.?(?:\s|$))   # "Incorrect API key provided: …"
    | (?<=api\skey:\s)[^\s,;]+
    """
)

_BY_STATUS: dict[int, str] = {
    400: "provider.invalid",
    401: "provider.auth",
    402: "provider.rate_limit",
    403: "provider.auth",
    404: "provider.invalid",
    408: "provider.timeout",
    413: "provider.invalid",
    422: "provider.invalid",
    429: "provider.rate_limit",
    500: "provider.unknown",
    502: "provider.overloaded",
    503: "provider.overloaded",
    504: "provider.overloaded",
    529: "provider.overloaded",
}

# What vendors name, in `code` or `type`, wherever it comes from.
_BY_NAME: dict[str, str] = {
    "api_error": "provider.unknown",
    "authentication_error": "provider.auth",
    "billing_error": "provider.rate_limit",
    "content_filter": "provider.content_filter",
    "content_policy_violation": "provider.content_filter",
    "context_length_exceeded": "provider.invalid",
    "insufficient_quota": "provider.rate_limit",
    "internal_error": "provider.unknown",
    "internal_server_error": "provider.unknown",
    "invalid_api_key": "provider.auth",
    "invalid_prompt": "provider.content_filter",
    "invalid_request_error": "provider.invalid",
    "model_not_found": "model.unknown",
    "overloaded": "provider.overloaded",
    "overloaded_error": "provider.overloaded",
    "permission_error": "provider.auth",
    "rate_limit_error": "provider.rate_limit",
    "rate_limit_exceeded": "provider.rate_limit",
    "request_too_large": "provider.invalid",
    "responsibleaipolicyviolation": "provider.content_filter",
    "server_error": "provider.unknown",
    "service_unavailable": "provider.overloaded",
    "timeout_error": "provider.timeout",
    "tool_use_failed": "provider.invalid",
}
_NAMES_OF_A_STATUS = frozenset({"invalid_request_error", "api_error"})  # said of many things; the status knows
_CONTENT = re.compile(
    r"(?i)content[ _-]?(?:policy|filter|management policy)|safety system|responsible ?ai"
    r"|flagged .{0,40}(?:moderat|unsafe)"
)
_QUOTA = re.compile(
    r"(?i)insufficient[_ ](?:quota|balance|credits?)|exceeded your current quota|credit balance is too low"
)
_MODEL = re.compile(
    r"(?i)\bmodel\b.{0,120}(?:does not exist|not found|not exist|unknown|is not (?:available|supported|a valid))"
    r"|(?:unknown|no such|invalid) model|^model:|not a valid model"
)
_KEY = re.compile(r"(?i)(?:incorrect|invalid|wrong|missing)\b.{0,20}\bapi[ _-]?key")
_NOT_RETRYABLE_QUOTA = frozenset({"insufficient_quota", "billing_error"})


def redact(text: str) -> str:
    """`text` without credentials, in one line, no longer than `MESSAGE_CHARS_MAX`."""
    text = " ".join(_SECRETS.sub("[hidden]", text[: 4 * MESSAGE_CHARS_MAX]).split())
    return text if len(text) <= MESSAGE_CHARS_MAX else text[: MESSAGE_CHARS_MAX - 1] + "…"


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """How long the provider asks to wait: `retry-after-ms`, or `Retry-After` (RFC 9110 10.2.3: seconds or a date)."""
    try:
        wait_ms = float(headers["retry-after-ms"])
    except (KeyError, ValueError):
        said = headers.get("retry-after")
        if not said:
            return None
        try:
            wait_ms = float(said) * 1000
        except ValueError:
            try:
                wait_ms = (email.utils.parsedate_to_datetime(said).timestamp() - time.time()) * 1000
            except ValueError:
                return None
    return int(min(max(wait_ms, 0), RETRY_AFTER_MS_MAX)) if wait_ms == wait_ms else None


async def tell_of_long_waits(response: Any) -> None:
    """A hook for the SDKs' HTTP clients: an error that asks for a long wait is told, not sat out.

    The SDKs sleep as long as the provider says, up to two minutes, before they try again; whoever waits for an answer
    sees nothing meanwhile.  Both obey this header of the response.
    """
    if response.status_code >= 400 and (retry_after_ms(response.headers) or 0) > RETRY_WAIT_MS_MAX:
        response.headers["x-should-retry"] = "false"


def status_error(name: str, status: int, headers: Mapping[str, str], body: Any) -> ProviderError:
    """What an answer with `status` (400 or more) means; `body` is its JSON, its text or None."""
    return _classified(name, status, body, retry_after_ms(headers))


def stream_error(name: str, error: Any) -> ProviderError:
    """What an error object inside a stream means.  It may name a status of its own."""
    status = 0
    if isinstance(error, dict):
        for key in ("status_code", "status", "code"):
            said = error.get(key)
            if isinstance(said, str) and said.isdecimal():
                said = int(said)
            if isinstance(said, int) and 400 <= said < 600:
                status = said
                break
    return _classified(name, status, error, None)


def cut_off(name: str) -> ProviderError:
    """The answer stopped without the provider's own terminal mark."""
    return ProviderError("provider.connection", f"{name} stopped before its answer was finished")


def garbage(name: str, trouble: str) -> ProviderError:
    """The stream holds something that is no event.  Asking again may help: a proxy in between is the usual cause."""
    return ProviderError("provider.invalid", f"{name} sent {trouble}", retryable=True)


def _classified(name: str, status: int, body: Any, wait_ms: int | None) -> ProviderError:
    message, words = _told(body)
    code = _code(status, message, words)
    retryable: bool | None = None
    if code == "provider.rate_limit" and (words & _NOT_RETRYABLE_QUOTA or status == 402 or _QUOTA.search(message)):
        retryable = False
    elif code == "provider.unknown":
        retryable = status >= 500 or not status
    shown = redact(message) if message else f"{name} answered with status {status}"
    return ProviderError(code, shown, retryable=retryable, retry_after_ms=wait_ms)


def _code(status: int, message: str, words: set[str]) -> str:
    if status in (0, 400, 403, 422) and (_CONTENT.search(message) or _CONTENT.search(" ".join(words))):
        return "provider.content_filter"
    if status in (0, 400, 403, 404, 422) and ("model_not_found" in words or _MODEL.search(message)):
        return "model.unknown"
    if status in (0, 400) and _KEY.search(message):
        return "provider.auth"
    if _QUOTA.search(message):
        return "provider.rate_limit"
    named = [_BY_NAME[word] for word in words - _NAMES_OF_A_STATUS if word in _BY_NAME]
    if named:
        return min(named)
    if status == 404 and "deploymentnotfound" in words:
        return "model.unknown"
    if status:
        return _BY_STATUS.get(status, "provider.unknown" if status >= 500 else "provider.invalid")
    return "provider.invalid" if "invalid_request_error" in words else "provider.unknown"


def _told(body: Any) -> tuple[str, set[str]]:
    """The message and the names (`code`, `type`, …) in an error body, which every vendor shapes in its own way."""
    words: set[str] = set()
    message = ""
    level: Any = body
    for _ in range(4):  # {"error": {"error": …}} is as deep as proxies go
        if isinstance(level, str):
            message = message or level
            break
        if isinstance(level, list) and level:
            level = level[0]
            continue
        if not isinstance(level, dict):
            break
        for key in ("code", "type", "status", "error_type"):
            if isinstance(level.get(key), str):
                words.add(level[key].lower())
        for key in ("message", "detail", "error_description", "msg"):
            if isinstance(level.get(key), str) and level[key]:
                message = level[key]
                break
        inner = level.get("error", level.get("innererror", level.get("detail")))
        if inner is None:
            break
        level = inner
    return message, words - {"error"}
