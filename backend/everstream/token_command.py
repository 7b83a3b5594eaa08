"""`everstream token USER`: sign a token, to try a server out with.

It is signed with the secret of the settings, and says what they want to hear: so the same settings take it.  Where
tokens come from an identity provider, that signs them, and this command has nothing to sign with.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from typing import Any, Final

from everstream.arguments import settings_of, settings_parser
from everstream.config import ConfigError, env_of
from everstream.console import Exit, complain
from everstream.gateway.json_tokens import can_be_shown, signed
from everstream.settings import Settings
from everstream.vouching import SECRET_BYTES_MIN

TTL_S_MAX: Final = 315_360_000.0  # ten years


def run(program: str, given: Sequence[str]) -> int:
    """Print the token and nothing else on standard output.  Raises ConfigError."""
    description = "Sign a JSON Web Token for a user with the secret of the settings, to try a server out with."
    parser = settings_parser(program, description, "USER [FLAGS]")
    parser.add_argument("user", metavar="USER", help="whom it is for")
    parser.add_argument("--name", metavar="TEXT", help="what the user is shown as; without it USER")
    parser.add_argument(
        "--ttl-s", metavar="S", type=_duration, default=3_600.0, help="how long it holds, in seconds (%(default)s)"
    )
    parser.add_argument(
        "--claim",
        metavar="NAME=VALUE",
        action="append",
        type=_claim,
        default=[],
        help="a further claim, or another value for one; the value is JSON, or else text; repeatable",
    )
    arguments, rest = parser.parse_known_args(given)
    settings = settings_of(arguments, rest).settings
    for what, text in (("user", arguments.user), ("name", arguments.name or arguments.user)):
        if not can_be_shown(text):
            raise ConfigError([f"a {what} is 1 to 256 characters that can be shown in one line"])
    token = token_of(settings, arguments.user, arguments.name, arguments.ttl_s, dict(arguments.claim))
    if "jwt" not in settings.auth:
        complain(program, f"note: a server with these settings takes no tokens, for auth = {settings.auth!r}")
    print(token)
    return Exit.DONE


def token_of(settings: Settings, user: str, name: str | None, ttl_s: float, claims: dict[str, Any]) -> str:
    """A token that a server with these settings accepts for `ttl_s` seconds, unless `claims` say otherwise.

    Raises ConfigError where there is no secret, or a claim is nothing that a token can carry.
    """
    if settings.jwt_secret is None:
        wanted = f"set {env_of('jwt_secret')}, as to what `openssl rand -hex {SECRET_BYTES_MIN}` makes"
        raise ConfigError([f"there is nothing to sign a token with: {wanted}"])
    now = time.time()
    says: dict[str, Any] = {settings.jwt_user_claim: user, "iat": int(now), "exp": math.ceil(now + ttl_s)}
    if name is not None:
        says[settings.jwt_name_claim] = name
    if settings.jwt_audience is not None:
        says["aud"] = settings.jwt_audience
    if settings.jwt_issuer is not None:
        says["iss"] = settings.jwt_issuer
    try:
        return signed(says | claims, settings.jwt_secret.get_secret_value())
    except (TypeError, ValueError) as error:
        raise ConfigError([f"no token can say this: {error}"]) from None


def _duration(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= TTL_S_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0, ten years at most")
    return seconds


def _claim(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
