"""How settings are shown: as TOML, and without what must not be seen.

A key is never shown, nor what may be one: the password in an address, and whatever in a section's headers, query and
body has the name of a credential.  Better one value too many masked than one too few.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "********"
STRUCTURED: Final = frozenset({"headers", "query", "body"})  # keys of a section that hold keys and values
_CREDENTIAL: Final = re.compile(r"auth|key|token|secret|cookie|passw|credential|signature|session|^sig$", re.IGNORECASE)
_COUNTS: Final = re.compile(r"tokens(_field)?$", re.IGNORECASE)  # max_tokens is no credential
_LOOKS_SECRET: Final = re.compile(r"(?:bearer|basic)\s|sk-|[\w+/=.-]{32,}$", re.IGNORECASE)


def mask_url(url: str) -> str:
    """The same URL, well formed or not, without the password that it may carry before the host or in its query."""
    masked = re.sub(r"(?s)^((?:.*?://)?[^:@]*):.*@", rf"\1:{MASK}@", url)
    return re.sub(r"(?i)([?&][^=&]*(?:password|key|token|secret|sig)=)[^&]*", rf"\1{MASK}", masked)


def masked_section(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section as it may be shown: without its key, and without what looks like one in headers, query and body."""
    shown = {key: _masked(value) if key in STRUCTURED else value for key, value in section.items()}
    if "api_key" in shown:
        shown["api_key"] = MASK
    if "base_url" in shown:
        shown["base_url"] = re.sub(r"(?<=://)[^/?#@:]+@", f"{MASK}@", mask_url(shown["base_url"]))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in shown.items()}


def _masked(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _masked(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, name) for inner in value]
    named = _CREDENTIAL.search(name) is not None and _COUNTS.search(name) is None
    return MASK if named or (isinstance(value, str) and _LOOKS_SECRET.match(value)) else value


def toml(value: Any) -> str:
    """JSON's texts, numbers, true and false are TOML's; its objects are written otherwise, and it has a null."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items() if inner is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(inner) for inner in value if inner is not None) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)
