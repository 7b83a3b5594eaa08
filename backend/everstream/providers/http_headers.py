"""The headers of one's own that a vendor's package sends with every request to an endpoint.

The packages take headers from the environment too (an organisation, a project, whatever `OPENAI_CUSTOM_HEADERS`
holds), which is meant for their vendor.  Another service that speaks the same API has no business with them, so they
are taken away where the endpoint is not the vendor's by name.  The key goes where the endpoint wants it, once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from everstream.providers.endpoint import Endpoint


def own_headers(
    endpoint: Endpoint, key: str, *, usual: Iterable[str], foreign: Iterable[str] | None, omit: Any
) -> dict[str, Any]:
    """Name to value; `omit` is the package's word for "do not send".

    `usual` are the headers that carry the key unless the endpoint says otherwise; the first of them is the package's.
    `foreign` are the headers that are not for this endpoint; None: it is the vendor's own.
    """
    headers: dict[str, Any] = {}
    bearer, *others = usual
    if foreign is not None:
        headers |= dict.fromkeys(foreign, omit)
        headers[bearer] = f"Bearer {key}"
    headers |= dict.fromkeys(others, key)
    if endpoint.key_header:
        headers |= {bearer: omit, **dict.fromkeys(others, omit), endpoint.key_header: key}
    for name, value in endpoint.headers.items():
        for same in [known for known in headers if known.lower() == name.lower()]:
            del headers[same]
        headers[name] = value
    return headers


def environment_headers(variable: str) -> list[str]:
    """The names of the headers that a package takes from this variable: lines of `Name: value`."""
    lines = os.environ.get(variable, "").split("\n")
    return [name.strip() for name, colon, _ in (line.partition(":") for line in lines) if colon]


async def without_authorization(request: Any) -> None:
    """A hook of the HTTP client: the key goes out in another header."""
    request.headers.pop("Authorization", None)
