"""JSON Web Tokens: what vouches for one, and that nothing else does."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tests.gateway.applications import under_ours
from tests.gateway.conftest import client_of
from tests.gateway.test_authenticate import app_with
from tests.providers.wire_server import Reply, WireServer

from everstream.core.errors import EverstreamError
from everstream.gateway import json_tokens
from everstream.gateway.auth import Principal
from everstream.gateway.authenticator import Authenticator
from everstream.gateway.json_tokens import HOLD_S, OUTLIVE_S, PAUSE_S, JsonTokens
from everstream.settings import Settings

SECRET = "correct horse battery staple, twice"
RSA = rsa.generate_private_key(65_537, 2_048)
WEAK_RSA = rsa.generate_private_key(65_537, 1_024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PRIVATE = {"RS256": RSA, "PS256": RSA, "ES256": EC, "EdDSA": ED}
KIND = {"RS256": RSAAlgorithm, "PS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def published(algorithm: str, key: Any = None, **more: Any) -> dict[str, Any]:
    public = (key or PRIVATE[algorithm]).public_key()
    return {**KIND[algorithm].to_jwk(public, as_dict=True), "kid": algorithm, "alg": algorithm, "use": "sig"} | more


SHARED_SECRET = {"kty": "oct", "kid": "oct", "k": urlsafe_b64encode(SECRET.encode()).decode().rstrip("=")}
KEY_SET = [*map(published, PRIVATE), published("RS256", WEAK_RSA, kid="weak"), SHARED_SECRET]


def says(**changes: Any) -> dict[str, Any]:
    """Claims; what is changed to `...` is left out."""
    claims = {"sub": "ann", "exp": time.time() + 60} | changes
    return {name: value for name, value in claims.items() if value is not ...}


def signed(algorithm: str = "HS256", kid: str | None = None, key: Any = None, **changes: Any) -> str:
    key = key or PRIVATE.get(algorithm, SECRET)
    return jwt.encode(says(**changes), key, algorithm, headers={"kid": kid or algorithm})


def forged(header: dict[str, Any], claims: Any, secret: bytes) -> str:
    """A token by HMAC with any bytes, and any header: more than a library would make."""
    parts = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def by_secret(**more: Any) -> JsonTokens:
    return JsonTokens(Settings(auth="jwt", jwt_secret=SECRET, **more))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
async def publisher() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        server.reply = key_set(*KEY_SET)
        yield server


def key_set(*keys: Any) -> Reply:
    return Reply(json.dumps({"keys": keys}).encode())


def by_published(publisher: WireServer, clock: Any = time.monotonic, **more: Any) -> JsonTokens:
    return JsonTokens(Settings(auth="jwt", jwt_jwks_url=f"{publisher.url}/jwks.json", **more), clock)


# --------------------------------------------------------------------------- what vouches


@pytest.mark.parametrize("algorithm", ["HS256", *PRIVATE])
async def test_each_algorithm_in_use_says_who_somebody_is_and_how_long(algorithm: str, publisher: WireServer) -> None:
    tokens = by_published(publisher, jwt_secret=SECRET)
    exp = int(time.time()) + 100
    assert await tokens.find(signed(algorithm, name="Ann", exp=exp)) == Principal("ann", "Ann", float(exp), "")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512", "none", "None", "", "RS512", "ES384", None, 3, ["HS256"], {}])
async def test_no_other_algorithm_vouches(algorithm: Any, publisher: WireServer) -> None:
    tokens = by_published(publisher, jwt_secret=SECRET)
    token = forged({"alg": algorithm, "kid": "RS256"}, says(), SECRET.encode())
    unsigned = token.rpartition(".")[0] + "."
    assert [await tokens.find(token), await tokens.find(unsigned)] == [None, None]
    good = forged({"alg": "HS256"}, says(), SECRET.encode())
    assert await tokens.find(good) is not None, "or the test would show nothing"


async def test_a_secret_vouches_only_for_hs256_and_published_keys_for_all_but_that(publisher: WireServer) -> None:
    assert [await by_secret().find(signed(algorithm)) for algorithm in PRIVATE] == [None] * 4
    published_alone = by_published(publisher)
    assert await published_alone.find(signed("HS256")) is None
    assert await published_alone.find(signed("HS256", kid="oct")) is None, "a published secret is none"
    assert await published_alone.find(signed("RS256")) is not None


async def test_a_public_key_is_never_taken_for_a_secret(publisher: WireServer) -> None:
    public = RSA.public_key()
    guesses = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(published("RS256")).encode(),
        b"",
    ]
    for tokens in (by_published(publisher), by_published(publisher, jwt_secret=SECRET)):
        for guess in guesses:
            for algorithm in ("HS256", "RS256"):
                assert await tokens.find(forged({"alg": algorithm, "kid": "RS256"}, says(), guess)) is None


async def test_a_key_vouches_by_its_own_algorithm_alone(publisher: WireServer) -> None:
    tokens = by_published(publisher)
    assert await tokens.find(signed("PS256", kid="RS256")) is None
    assert await tokens.find(signed("RS256", kid="PS256")) is None
    assert await tokens.find(signed("RS256", kid="ES256")) is None
    assert await tokens.find(signed("ES256", key=ec.generate_private_key(ec.SECP256R1()))) is None


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")  # PyJWT's, of signing with it
async def test_a_short_key_vouches_for_nothing(publisher: WireServer) -> None:
    assert await by_published(publisher).find(signed("RS256", kid="weak", key=WEAK_RSA)) is None


async def test_what_is_changed_behind_a_signature_is_refused() -> None:
    head, body, signature = signed().split(".")
    other = signed(sub="bob").split(".")[1]
    tokens = by_secret()
    changed = [f"{head}.{other}.{signature}", f"{head}.{body}.{signature[:-2]}AA", f"{head}.{body}", f"{head}.{body}."]
    assert [await tokens.find(token) for token in changed] == [None] * 4


# --------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("leeway_s", "claim", "from_now_s", "accepted"),
    [
        (0, "exp", -1, False),
        (0, "exp", 30, True),
        (60, "exp", -30, True),
        (60, "exp", -90, False),
        (0, "nbf", 30, False),
        (0, "nbf", -1, True),
        (60, "nbf", 30, True),
        (60, "nbf", 90, False),
        (0, "iat", 30, False),
        (60, "iat", 30, True),
    ],
)
async def test_a_token_holds_in_its_time_give_or_take_the_leeway(
    leeway_s: int, claim: str, from_now_s: int, accepted: bool
) -> None:
    token = signed(**{claim: time.time() + from_now_s})
    assert (await by_secret(jwt_leeway_s=leeway_s).find(token) is not None) is accepted


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"aud": "chat", "iss": "us"}, True),
        ({"aud": ["mail", "chat"], "iss": "us"}, True),
        ({"aud": "mail", "iss": "us"}, False),
        ({"aud": [], "iss": "us"}, False),
        ({"aud": ["chat", 3], "iss": "us"}, False),
        ({"iss": "us"}, False),
        ({"aud": "chat"}, False),
        ({"aud": "chat", "iss": "them"}, False),
        ({"aud": "chat", "iss": "us/"}, False),
    ],
)
async def test_a_token_is_meant_for_us_and_comes_from_whom_we_trust(claims: dict[str, Any], accepted: bool) -> None:
    tokens = by_secret(jwt_audience="chat", jwt_issuer="us")
    assert (await tokens.find(signed(**claims)) is not None) is accepted


async def test_a_token_that_is_meant_for_somebody_is_refused_where_nobody_says_who_we_are() -> None:
    assert await by_secret().find(signed(aud="chat")) is None
    assert await by_secret().find(signed(iss="anybody")) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": ...}, {"exp": None}, {"exp": "soon"}, {"exp": "99999999999"}, {"exp": True}, {"exp": 10**400},
        {"exp": 1e300}, {"exp": float("nan")}, {"exp": float("inf")}, {"exp": [1]}, {"exp": 1_800_000_000_000},
        {"nbf": "x"}, {"iat": {}}, {"sub": ...}, {"sub": None}, {"sub": ""}, {"sub": 7}, {"sub": ["ann"]},
        {"sub": "a" * 257}, {"sub": "a\nb"}, {"sub": " ann"}, {"sub": "a\u202eb"}, {"sub": "\ud800"},
    ],
)  # fmt: skip
async def test_a_token_without_a_time_or_a_user_that_can_be_used_is_refused(changes: dict[str, Any]) -> None:
    token = forged({"alg": "HS256"}, says(**changes), SECRET.encode())
    assert await by_secret().find(token) is None


async def test_the_claims_of_user_and_name_are_the_settings() -> None:
    tokens = by_secret(jwt_user_claim="email", jwt_name_claim="nick")
    found = await tokens.find(signed(email="ann@h", nick="Ann", name="no"))
    assert found is not None
    assert (found.id, found.name) == ("ann@h", "Ann")
    assert await tokens.find(signed()) is None, "sub does not stand in"


@pytest.mark.parametrize("name", [..., None, "", 7, "a" * 257, "a\nb", {}])
async def test_who_has_no_name_that_can_be_shown_is_shown_by_id(name: Any) -> None:
    found = await by_secret().find(signed(name=name))
    assert found is not None
    assert found.name == "ann"


# --------------------------------------------------------------------------- published keys


async def test_keys_are_fetched_once_for_all_tokens_and_again_after_a_while(publisher: WireServer) -> None:
    tokens = by_published(publisher, clock := Clock())
    assert publisher.requests == [], "not before they are needed"
    found = await asyncio.gather(*(tokens.find(signed(algorithm)) for algorithm in [*PRIVATE] * 5))
    assert None not in found
    clock.now += HOLD_S - 1
    assert await tokens.find(signed("RS256")) is not None
    assert len(publisher.requests) == 1
    clock.now += 1
    publisher.reply = key_set(published("ES256"))
    assert await tokens.find(signed("RS256")) is None, "a key that is withdrawn vouches no more"
    assert len(publisher.requests) == 2


async def test_an_unknown_key_is_looked_for_at_most_once_in_a_while(publisher: WireServer) -> None:
    tokens = by_published(publisher, clock := Clock())
    publisher.reply = key_set(published("ES256"))
    assert await tokens.find(signed("RS256")) is None
    publisher.reply = key_set(published("RS256"))
    made_up = [signed("RS256", kid=f"k{number}") for number in range(50)]
    assert set(await asyncio.gather(*map(tokens.find, made_up))) == {None}
    assert len(publisher.requests) == 1
    clock.now += PAUSE_S
    assert await tokens.find(signed("RS256")) is not None, "a new key is found"
    assert set(await asyncio.gather(*map(tokens.find, made_up))) == {None}
    assert len(publisher.requests) == 2
    assert await tokens.find(jwt.encode(says(), RSA, "RS256")) is None, "a key has a name"


async def test_known_keys_vouch_while_their_publisher_is_away_and_others_are_not_refused(publisher: WireServer) -> None:
    tokens = by_published(publisher, clock := Clock())
    publisher.reply = Reply(b"out", status=503)
    for _ in range(3):
        with pytest.raises(EverstreamError) as told:
            await tokens.find(signed("RS256"))
        assert (told.value.code, told.value.retryable) == ("internal", True)
    assert len(publisher.requests) == 1
    clock.now += PAUSE_S
    publisher.reply = key_set(published("RS256"))
    assert await tokens.find(signed("RS256")) is not None
    publisher.reply = Reply(b"out", status=503)
    clock.now += OUTLIVE_S - 1
    assert await tokens.find(signed("RS256")) is not None
    with pytest.raises(EverstreamError):
        await tokens.find(signed("ES256"))
    clock.now += 1
    with pytest.raises(EverstreamError):
        await tokens.find(signed("RS256"))


NO_KEYS = {
    "nothing": Reply(),
    "no text": Reply(b"\xff"),
    "deep": Reply(b"[" * 100_000),
    "a list": Reply(b"[]"),
    "no set": Reply(b"{}"),
    "keys of no kind": Reply(b'{"keys": 3}'),
    "no keys in it": Reply(b'{"keys": [3, {}, {"kty": "RSA"}]}'),
    "absent": Reply(b"{}", status=404),
    "elsewhere": Reply(status=302, headers={"location": "/elsewhere"}),
    "cut": Reply(b"{}", cut_after=1),
    "silent": Reply(hang_after=-1),
    "silent in the middle": Reply(b"{}", hang_after=1),
    "a key for secrets": key_set(published("RS256", use="enc")),
    "a key without a name": key_set(published("RS256", kid=None)),
}


@pytest.mark.parametrize("reply", NO_KEYS.values(), ids=NO_KEYS)
async def test_an_answer_that_holds_no_keys_is_a_failure_of_the_publisher(reply: Reply, publisher: WireServer) -> None:
    publisher.reply = reply
    with structlog.testing.capture_logs() as logs, pytest.raises(EverstreamError) as told:
        await by_published(publisher, hello_timeout_s=0.4).find(signed("RS256"))
    assert told.value.code == "internal"
    assert [line["log_level"] for line in logs] == ["warning"]


async def test_an_answer_that_drips_is_not_waited_for_to_its_end(publisher: WireServer) -> None:
    publisher.reply = replace(key_set(published("RS256")), segments=(8, 8), pause_s=0.02)  # a second and more
    with pytest.raises(EverstreamError):
        await by_published(publisher, hello_timeout_s=0.4).find(signed("RS256"))


async def test_where_nobody_listens_a_client_may_try_again() -> None:
    tokens = JsonTokens(Settings(auth="jwt", jwt_jwks_url="http://127.0.0.1:9/jwks.json"))
    with pytest.raises(EverstreamError) as told:
        await tokens.find(signed("RS256"))
    assert (told.value.code, told.value.retry_after_ms) == ("internal", 10_000)


# --------------------------------------------------------------------------- what anybody may send


WORDS = st.text(max_size=6)
ODD = st.sampled_from([None, True, [], {}, [[]], {"": 1}, 1e308, -(10**400), float("nan"), "\ud800", "", "9" * 5_000])
JSON = ODD | st.integers() | st.floats() | WORDS
HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "HS256", "RS256", "ES256", "EdDSA", "none"]) | JSON},
    optional={"kid": st.sampled_from([*PRIVATE, "weak"]) | JSON, "crit": JSON, "b64": JSON, "typ": JSON, "jwk": JSON},
)
CLAIMS = st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "iss", "jti", "name"]), JSON) | JSON
IN_PARTS = st.lists(st.text("eyJ0_-=.9", max_size=9), max_size=5).map(".".join)
GARBAGE = st.text(max_size=40) | IN_PARTS
WRONGLY_SIGNED = st.builds(forged, HEADERS, CLAIMS, st.binary(max_size=8))
RIGHTLY_SIGNED = st.builds(forged, HEADERS, CLAIMS, st.just(SECRET.encode()))


def test_whatever_anybody_sends_is_refused_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {key["kid"]: jwt.PyJWK(key) for key in KEY_SET}
    monkeypatch.setattr(json_tokens, "fetched", lambda url, timeout_s: keys)
    with asyncio.Runner() as runner:
        tokens = JsonTokens(Settings(auth="jwt", jwt_secret=SECRET, jwt_jwks_url="https://h/keys"))
        runner.run(tokens.find(signed("RS256")))  # the keys are there

        @settings(max_examples=1_000)
        @given(st.one_of(GARBAGE, WRONGLY_SIGNED, RIGHTLY_SIGNED))
        def refused(token: str) -> None:
            found = runner.run(tokens.find(token))
            # Not by garbage, but by claims that are in order, which chance may make.
            assert found is None or jwt.decode(token, SECRET, ["HS256"])["sub"] == found.id

        with structlog.testing.capture_logs() as logs:
            refused()
    assert {line["event"] for line in logs} == {"a token is refused"}


async def test_what_is_too_long_or_no_text_is_refused_unread() -> None:
    assert await by_secret().find(signed(filler="x" * 4_000)) is not None
    with structlog.testing.capture_logs() as logs:
        for token in (signed(filler="x" * 16_384), "\ud800." + signed(), "é.é.é"):
            assert await by_secret().find(token) is None
    assert {line["reason"] for line in logs} == {"it is no token"}


async def test_no_part_of_a_token_is_logged() -> None:
    token = signed(exp=1, name="the name in it")
    with structlog.testing.capture_logs() as logs:
        assert await by_secret().find(token) is None
        assert await by_secret().find(token[:-5]) is None
        assert await by_secret().find("not.a.token") is None
    assert [line["reason"] for line in logs] == ["ExpiredSignatureError", "InvalidSignatureError", "DecodeError"]
    assert not any(part in repr(logs) for part in [*token.split("."), "the name in it"])


async def test_a_client_comes_in_by_its_token_and_others_are_told_why_not() -> None:
    async with under_ours(app_with(Authenticator(None, by_secret()))) as place:
        async with client_of(f"ws://{place}/ws", hello=False) as client:
            assert (await client.ask("hello", token=signed(name="Ann")))["user"] == {"id": "ann", "name": "Ann"}
        for token, code in ((signed(exp=1), "auth.denied"), ("es_unknown", "auth.denied"), (None, "auth.required")):
            async with client_of(f"ws://{place}/ws", hello=False) as client:
                assert (await client.ask("hello", token=token))["code"] == code
                assert await client.closed() == 4501
