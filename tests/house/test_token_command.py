"""`everstream token`: what it signs is taken by a server with the same settings, and it says nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import jwt
import pytest

from everstream.cli import main
from everstream.config import load
from everstream.gateway.auth import Principal
from everstream.gateway.json_tokens import JsonTokens
from everstream.token_command import token_of

SECRET = "correct horse battery staple, twice"


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.upper().startswith("EVERSTREAM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERSTREAM_AUTH", "jwt")
    monkeypatch.setenv("EVERSTREAM_JWT_SECRET", SECRET)


def printed(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """The token, which is all that stands on standard output; nothing stands on standard error."""
    assert main(["token", *given]) == 0
    out, err = capsys.readouterr()
    assert (err, out.count("\n"), out.count(".")) == ("", 1, 2)
    return out.strip()


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """What is said on standard error of wrong usage; no token is made."""
    assert main(["token", *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert SECRET not in err
    return err


def accepted(token: str, **flags: str) -> Principal | None:
    return asyncio.run(JsonTokens(load(flags).settings).find(token))


def test_a_server_with_the_same_settings_takes_the_token(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = time.time()
    principal = accepted(printed(capsys, "ann", "--name", "Ann"))
    assert principal is not None
    assert (principal.id, principal.name) == ("ann", "Ann")
    assert before + 3_600 <= (principal.expires_at or 0) <= time.time() + 3_601
    (tmp_path / "everstream.toml").write_text(
        'jwt_audience = "chat"\njwt_issuer = "us"\njwt_user_claim = "email"\njwt_name_claim = "nick"\n'
    )
    token = printed(capsys, "bob@h", "--name", "Bob", "--ttl-s", "0.5")
    claims = jwt.decode(token, SECRET, ["HS256"], audience="chat")
    assert {name: claims[name] for name in claims if name not in ("iat", "exp")} == {
        "email": "bob@h", "nick": "Bob", "aud": "chat", "iss": "us",
    }  # fmt: skip
    found = accepted(token)
    assert found is not None
    assert (found.id, found.name) == ("bob@h", "Bob")
    assert accepted(token, jwt_issuer="them") is None


def test_claims_are_added_and_may_take_the_place_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    token = printed(capsys, "ann", "--claim", "team=blue", "--claim", "roles=[1, 2]", "--claim", "exp=1")
    claims = jwt.decode(token, SECRET, ["HS256"], options={"verify_exp": False})
    assert (claims["team"], claims["roles"], claims["exp"]) == ("blue", [1, 2], 1)
    assert accepted(token) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the following arguments are required: USER"),
        (["ann", "--ttl-s", "0"], "argument --ttl-s: '0' is no number of seconds above 0"),
        (["ann", "--ttl-s", "soon"], "'soon' is no number of seconds"),
        (["ann", "--ttl-s", "nan"], "'nan' is no number of seconds"),
        (["ann", "--ttl-s", "1e12"], "ten years at most"),
        (["ann", "--claim", "x"], "'x' is not NAME=VALUE"),
        (["ann", "--claim", "iss=3"], "no token can say this: Issuer (iss) must be a string."),
        (["ann", "--clam", "x=1"], "there is no flag --clam"),
        (["ann", "bob"], "unexpected argument: bob"),
        ([""], "a user is 1 to 256 characters"),
        (["a" * 257], "a user is 1 to 256 characters"),
        (["ann", "--name", "A\nnn"], "a name is 1 to 256 characters"),
        (["ann", "--jwt-secret", "short"], "jwt_secret = ******** (flag --jwt-secret): should be at least 32 bytes"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *given)


def test_without_a_secret_it_says_what_to_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERSTREAM_JWT_SECRET", "")
    said = refused(capsys, "ann", "--jwt-jwks-url", "https://h/keys")
    assert said == (
        "everstream token: there is nothing to sign a token with: set EVERSTREAM_JWT_SECRET, "
        "as to what `openssl rand -hex 32` makes\n"
    )


@pytest.mark.parametrize("auth", ["none", "keys"])
def test_a_token_that_no_server_would_take_comes_with_a_note(auth: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "ann", "--auth", auth]) == 0
    out, err = capsys.readouterr()
    assert accepted(out.strip()) is not None
    assert err == f"everstream token: note: a server with these settings takes no tokens, for auth = '{auth}'\n"


def test_a_token_of_a_program_is_that_of_the_command() -> None:
    settings = load().settings
    found = accepted(token_of(settings, "ann", None, 60.0, {}))
    assert found is not None
    assert (found.id, found.name) == ("ann", "ann")
