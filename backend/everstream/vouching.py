"""What the settings may name to vouch for a client's token: a secret, or an address of public keys.

Both are judged where settings are read, so that a server that could be fooled does not start.  The answers are what
would be right, in words that follow "should be"; what was given is not in them.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

SECRET_BYTES_MIN: Final = 32  # of HS256: as long as what it makes (RFC 7518 section 3.2)
_KEY_FILES: Final = ("-----BEGIN", "ssh-", "ecdsa-")  # how keys begin that are no secrets, or should not be shared ones


def is_this_machine(host: str) -> bool:
    """Whether nobody but this machine is behind an address or a name."""
    host = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def secret_wanted(secret: str) -> str | None:
    """What a secret should be instead; None where it cannot be guessed, as far as its looks go."""
    secret = secret.strip()
    if secret.startswith(_KEY_FILES):
        return "a random text, and no key file: public keys are for jwt_jwks_url"
    if len(secret.encode("utf-8", "replace")) < SECRET_BYTES_MIN:
        return f"at least {SECRET_BYTES_MIN} bytes, as `openssl rand -hex {SECRET_BYTES_MIN}` makes them"
    return None


def key_set_wanted(url: str) -> str | None:
    """What the address of public keys should be instead; None where nobody can change them on their way."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        host = None
    safe = host and (parts.scheme == "https" or (parts.scheme == "http" and is_this_machine(host)))
    if safe and "@" not in parts.netloc:
        return None
    return "an https address without a password (http only on this machine), such as https://host/jwks.json"
