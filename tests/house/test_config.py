"""The settings: one table, four sources, and errors that say what to do."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from everstream import config
from everstream.config import NAMES, ConfigError, Source, describe, effective, env_of, flag_of, load
from everstream.settings import Settings
from everstream.vouching import is_this_machine

UNITS = ("_ms", "_s", "_bytes", "_tokens")
CPU_LIMIT_S = 1.5  # measured 0.32 s; the bound only has to catch an import that does not belong here


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.upper().startswith("EVERSTREAM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def problems(flags: dict[str, str | bool] | None = None, config_file: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(flags, config_file)
    return caught.value.problems


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "everstream.toml").write_text("port = 1\nheartbeat_ms = 1001\nlinger_s = 1.5\n")
    monkeypatch.setenv("EVERSTREAM_PORT", "2")
    monkeypatch.setenv("EVERSTREAM_HEARTBEAT_MS", "1002")
    loaded = load({"port": "3"})
    assert (loaded.settings.port, loaded.settings.heartbeat_ms, loaded.settings.linger_s) == (3, 1002, 1.5)
    assert loaded.settings.host == "127.0.0.1"
    sources = [loaded.origins[name].source for name in ("port", "heartbeat_ms", "linger_s", "host")]
    assert sources == [Source.FLAG, Source.ENV, Source.FILE, Source.DEFAULT]


def test_the_file_is_the_flags_then_the_environments_then_the_working_directorys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "everstream.toml").write_text("port = 1\n")
    (tmp_path / "env.toml").write_text("port = 2\n")
    (tmp_path / "flag.toml").write_text("port = 3\n")
    assert load().settings.port == 1
    monkeypatch.setenv("EVERSTREAM_CONFIG", str(tmp_path / "env.toml"))
    assert load().settings.port == 2
    assert load(config_file=tmp_path / "flag.toml").settings.port == 3


def test_settings_made_in_a_program_read_no_environment_and_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "everstream.toml").write_text("port = 1\n")
    monkeypatch.setenv("EVERSTREAM_PORT", "2")
    assert Settings().port == 8000


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_can_be_given_in_all_three_places(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    value = getattr(Settings(), name)
    fit = {"jwt_secret": "given/" * 6, "jwt_jwks_url": "https://given/given"}
    text = fit.get(name, "given/given") if value in (None, "") else str(value)
    quoted = f'"{text}"' if value is None or isinstance(value, str | Path) else text.lower()
    assert load({name: text}).origins[name].place == flag_of(name)
    (tmp_path / "everstream.toml").write_text(f"{name} = {quoted}\n")
    assert load().origins[name].source is Source.FILE
    monkeypatch.setenv(env_of(name), text)
    assert load().origins[name].place == env_of(name)


def test_an_unknown_name_is_an_error_that_names_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "everstream.toml").write_text('key-prefix = "a"\n[server]\nport = 3\n')
    monkeypatch.setenv("EVERSTREAM_HEARTBEET_MS", "5")
    said = problems({"prot": "3"})
    assert said == (
        "there is no setting key-prefix; did you mean key_prefix? (file everstream.toml)",
        "there is no setting server (file everstream.toml)",
        "there is no environment variable EVERSTREAM_HEARTBEET_MS; did you mean EVERSTREAM_HEARTBEAT_MS?",
        "there is no flag --prot; did you mean --port?",
    )


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("port", "http", "a whole number"),
        ("port", "65536", "less than or equal to 65535"),
        ("port", "-1", "greater than or equal to 0"),
        ("linger_s", "soon", "a number"),
        ("linger_s", "nan", "a finite number"),
        ("linger_s", "inf", "a finite number"),
        ("linger_s", "-1", "greater than or equal to 0"),
        ("store_timeout_s", "0", "greater than 0"),
        ("stream_ttl_s", "-5", "greater than or equal to 60"),
        ("insecure", "maybe", "true or false"),
        ("host", "", "not empty"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("openai_api", "batch", "'chat' or 'responses'"),
        ("store", "redis", "a URL such as embedded:// or redis://host:6379/0"),
        ("key_prefix", "{es}", "1 to 32 letters, digits or _ . : -"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_and_where_from(name: str, value: str, wanted: str) -> None:
    assert problems({name: value}) == (f"{name} = {value!r} (flag {flag_of(name)}): should be {wanted}",)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(UNITS)])
def test_no_time_and_no_size_may_be_negative(name: str) -> None:
    assert len(problems({name: "-1"})) == 1


def test_a_lease_must_be_renewed_before_it_lapses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTREAM_LEASE_MS", "500")
    assert problems() == (
        "lease_renew_ms = 500 must be less than lease_ms = 500 "
        "(lease_renew_ms: default, lease_ms: environment EVERSTREAM_LEASE_MS)",
    )


def test_tokens_need_something_that_vouches_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTREAM_JWT_SECRET", "")
    assert problems({"auth": "keys,jwt"}) == (
        "auth = 'keys,jwt' needs jwt_secret or jwt_jwks_url "
        "(auth: flag --auth, jwt_secret: default, jwt_jwks_url: default)",
    )
    assert load({"auth": "jwt", "jwt_secret": "x" * 32}).settings.auth == "jwt"
    assert load({"auth": "jwt", "jwt_jwks_url": "https://h/keys"}).settings.jwt_secret is None
    assert load({"auth": "keys"}).settings.auth == "keys"


@pytest.mark.parametrize(
    ("secret", "wanted"),
    [
        ("774411", "at least 32 bytes, as `openssl rand -hex 32` makes them"),
        ("7" * 31, "at least 32 bytes, as `openssl rand -hex 32` makes them"),
        ("7" + " " * 40, "at least 32 bytes, as `openssl rand -hex 32` makes them"),
        (
            "-----BEGIN PUBLIC KEY-----774411 AAAAAAA",
            "a random text, and no key file: public keys are for jwt_jwks_url",
        ),
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA774411",
            "a random text, and no key file: public keys are for jwt_jwks_url",
        ),
    ],
)
def test_a_secret_that_could_be_guessed_or_is_none_is_an_error_and_not_shown(secret: str, wanted: str) -> None:
    assert problems({"jwt_secret": secret}) == (f"jwt_secret = ******** (flag --jwt-secret): should be {wanted}",)


def test_a_secret_is_measured_in_bytes_and_never_shown() -> None:
    loaded = load({"jwt_secret": "é" * 16, "jwt_jwks_url": "https://h/keys?key=hidden"})
    shown = "\n".join(config.as_toml(loaded))
    assert 'jwt_secret = "********"' in shown
    assert "é" not in shown + repr(loaded.settings)
    assert "hidden" not in shown


def test_this_machine_is_told_from_what_only_looks_like_it() -> None:
    here = ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST", "es.localhost"]
    elsewhere = ["0.0.0.0", "::", "127.0.0.1.h", "localhost.h", "notlocalhost", "10.0.0.1", "127.1", "2130706433", ""]
    assert [host for host in [*here, *elsewhere] if is_this_machine(host)] == here


@pytest.mark.parametrize("url", ["https://h/k", "http://127.0.0.1:9/k", "http://[::1]:9/k", "http://localhost/k"])
def test_published_keys_are_fetched_where_nobody_can_change_them_on_their_way(url: str) -> None:
    assert load({"jwt_jwks_url": url}).settings.jwt_jwks_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://h/k",
        "http://127.0.0.1.h/k",
        "http://localhost@h/k",
        "https://u:774411@h/k",
        "https://774411@h/k",
        "file:///etc/keys",
        "ftp://h/k",
        "h/k",
        "https://",
        "https://h:x/k",
        "https://[h/k",
        "http://",
        "data:,x",
    ],
)
def test_an_address_of_keys_that_others_could_answer_for_is_an_error(url: str) -> None:
    (line,) = problems({"jwt_jwks_url": url})
    assert line.startswith("jwt_jwks_url = ")
    assert "(flag --jwt-jwks-url): should be an https address without a password (http only on this machine)" in line
    assert "774411" not in line


def test_all_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTREAM_PORT", "x")
    monkeypatch.setenv("EVERSTREAM_NONSENSE", "x")
    assert len(problems({"host": "", "linger_s": "x"})) == 4


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe"])
def test_a_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    (line,) = problems(config_file=path)
    assert line.startswith(f"the settings file {path} is not TOML: ")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    assert problems(config_file=path) == (f"the settings file {path} cannot be read: No such file or directory",)
    (line,) = problems(config_file=tmp_path)
    assert "cannot be read: Is a directory" in line


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTREAM_PORT", "")
    monkeypatch.setenv("EVERSTREAM_OPENAI_API_KEY", "")
    monkeypatch.setenv("EVERSTREAM_CONFIG", "")
    loaded = load()
    assert loaded.settings == Settings()
    assert loaded.origins["port"].source is Source.DEFAULT


def test_a_secret_is_never_shown() -> None:
    loaded = load({"openai_api_key": "sk-hidden", "store": "redis://me:pass@word@db:6379/0"})
    assert loaded.settings.openai_api_key is not None
    assert loaded.settings.openai_api_key.get_secret_value() == "sk-hidden"
    shown = str(effective(loaded))
    assert "sk-hidden" not in repr(loaded.settings) + shown
    assert "pass" not in shown
    assert "word" not in shown
    assert effective(loaded)["store"] == "redis://me:********@db:6379/0"


def test_a_wrong_secret_is_not_shown_either(tmp_path: Path) -> None:
    path = tmp_path / "es.toml"
    path.write_text("openai_api_key = 774411\n")
    (line,) = problems(config_file=path)
    assert line.startswith("openai_api_key = ********")
    assert "774411" not in line
    for url in ("REDIS://u:774411@h", "u:774411@h", "redis:u:774411@h", "Redis://h?password=774411&db=1"):
        (line,) = problems({"store": url})
        assert "774411" not in line


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is_and_every_number_its_unit() -> None:
    rows = list(describe())
    assert [row.name for row in rows] == list(NAMES)
    counts = {
        "port", "workers", "carry_on_attempts", "streams_per_connection", "commands_in_flight",
        "provider_max_connections", "provider_max_retries",
        "streams_in_memory", "local_parallel", "local_threads", "sessions_per_connection", "session_messages",
        "session_members", "session_turns", "session_queue", "tool_rounds", "connections", "connections_per_address",
            "user_streams", "user_starts_per_minute", "user_tokens_per_day", "user_usd_per_day", "user_connections",
    }  # fmt: skip
    for row in rows:
        assert row.description.endswith("."), row.name
        assert row.flag == "--" + row.name.replace("_", "-")
        assert row.env == "EVERSTREAM_" + row.name.upper()
        if re.fullmatch(r"[\d.]+", row.default) and row.name != "host":
            assert row.name.endswith(UNITS) or row.name in counts, row.name


def test_the_data_directory_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the XDG rules are Linux's")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert Settings().data_dir == tmp_path / ".local" / "share" / "everstream"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert Settings().data_dir == tmp_path / "xdg" / "everstream"
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/invalid")
    assert Settings().data_dir == tmp_path / ".local" / "share" / "everstream"
    assert load({"data_dir": "~/x"}).settings.data_dir == tmp_path / "x"
    assert load({"data_dir": "x"}).settings.data_dir == Path.cwd() / "x"


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "es.toml"
    path.write_text("port = 1\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads every file")
    assert problems(config_file=path) == (f"the settings file {path} cannot be read: Permission denied",)
    path.chmod(stat.S_IRUSR)


def test_reading_the_settings_stays_light() -> None:
    script = (
        "import resource, everstream.config as c; c.load(); u = resource.getrusage(0); print(u.ru_utime + u.ru_stime)"
    )
    backend = str(Path(config.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": backend},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert float(run.stdout) < CPU_LIMIT_S


# --------------------------------------------------------------------------- [endpoints.NAME]


FILE = """
[endpoints.mistral]
api_key = "sk-file"

[endpoints.lab]
base_url = "http://127.0.0.1:9000/v1"
models = ["a", "b"]
headers = { "X-Team" = "chat", "X-Api-Key" = "hidden" }
body = { "temperature" = 0.5, "nested" = { "token" = "hidden", "max_tokens" = 5 } }
"""


def test_each_key_of_a_section_has_its_own_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "everstream.toml").write_text(FILE)
    monkeypatch.setenv("EVERSTREAM_ENDPOINTS", '{"lab": {"api": "messages"}, "groq": {"api_key": "sk-json"}}')
    monkeypatch.setenv("EVERSTREAM_ENDPOINTS__LAB__API", "responses")
    monkeypatch.setenv("EVERSTREAM_ENDPOINTS__LAB__LEAVE_OUT", "seed, top_p")
    monkeypatch.setenv("EVERSTREAM_ENDPOINTS__LAB__QUERY", '{"api-version": "1"}')
    monkeypatch.setenv("EVERSTREAM_ENDPOINTS__LAB__TOOLS", "true")
    monkeypatch.setenv("EVERSTREAM_ENDPOINTS__LAB__PRESET", "")
    loaded = load({"endpoints": '{"lab": {"models": ["c"]}}'})
    lab = loaded.settings.endpoints["lab"]
    assert list(loaded.settings.endpoints) == ["mistral", "lab", "groq"]
    assert (lab.base_url, lab.api, lab.models) == ("http://127.0.0.1:9000/v1", "responses", ("c",))
    assert (lab.leave_out, lab.query, lab.tools) == (("seed", "top_p"), {"api-version": "1"}, True)
    places = {key: str(loaded.origins[f"endpoints.lab.{key}"]) for key in ("base_url", "api", "models")}
    assert places == {
        "base_url": "file everstream.toml",
        "api": "environment EVERSTREAM_ENDPOINTS__LAB__API",
        "models": "flag --endpoints",
    }
    assert loaded.origins["endpoints"].source is Source.FLAG


def test_no_secret_of_a_section_is_shown(tmp_path: Path) -> None:
    (tmp_path / "everstream.toml").write_text(FILE)
    secret = (
        '{"base_url": "https://me:hidden@h/v1?key=hidden", "headers": {"X-A": "Bearer hidden"}, "api_key": "hidden"}'
    )
    loaded = load({"endpoints": f'{{"other": {secret}}}'})
    text = "\n".join(config.as_toml(loaded))
    assert "hidden" not in text + str(effective(loaded)) + repr(loaded.settings)
    assert "sk-file" not in text + str(effective(loaded)) + repr(loaded.settings)
    assert '"X-Team" = "chat"' in text
    assert '"max_tokens" = 5' in text


def test_sections_are_printed_as_a_settings_file(tmp_path: Path) -> None:
    (tmp_path / "everstream.toml").write_text(FILE + '\n[endpoints.azure]\npreset = "azure"\nthinking = true\n')
    first = load()
    (tmp_path / "printed.toml").write_text("\n".join(config.as_toml(first)))
    again = load(config_file=tmp_path / "printed.toml")
    assert effective(again) == effective(first)
    assert tomllib.loads("\n".join(config.as_toml(first)))["endpoints"]["lab"]["models"] == ["a", "b"]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ('{"lab": {"base_ulr": "x"}}', "[endpoints.lab]: there is no key base_ulr; did you mean base_url? ({place})"),
        ('{"lab": {"base_url": "h/v1"}}', "endpoints.lab.base_url = 'h/v1' ({place}): should be an address such as"),
        ('{"groq": {"api": "chat2"}}', "endpoints.groq.api = 'chat2' ({place}): should be 'chat', 'responses'"),
        ('{"groq": {"tools": "maybe"}}', "endpoints.groq.tools = 'maybe' ({place}): should be true or false"),
        ('{"groq": {"models": "a"}}', "endpoints.groq.models = 'a' ({place}): should be a list of texts"),
        ('{"groq": {"headers": {"A": 1}}}', "endpoints.groq.headers.A = ******** ({place}): should be text in quotes"),
        ('{"groq": {"api_key": 774411}}', "endpoints.groq.api_key = ******** ({place}): should be text in quotes"),
        (
            '{"lab": {"preset": "mistrall"}}',
            "endpoints.lab.preset = 'mistrall' ({place}): there is no preset mistrall; did you mean mistral?",
        ),
        ('{"groq": 3}', "endpoints.groq = ******** ({place}): should be a section of keys and values"),
        ("3", "endpoints ({place}): should be sections [endpoints.NAME] of keys and values"),
        ("{sk-hidden", 'endpoints ({place}): should be JSON such as {{"NAME"'),
        ('{"local": {"base_url": "http://h"}}', "[endpoints.local]: this name has a meaning of its own"),
        ('{"Lab": {"base_url": "http://h"}}', "[endpoints.Lab]: a name is 1 to 32 of a-z"),
        ('{"lab": {}}', "[endpoints.lab] needs base_url, or a preset: lab is none ({place})"),
    ],
)
def test_what_is_wrong_with_a_section_is_one_line_that_says_what_and_where_from(sections: str, said: str) -> None:
    (line,) = problems({"endpoints": sections})
    assert line.startswith(said.format(place="flag --endpoints"))
    assert "hidden" not in line
    assert "774411" not in line


def test_wrong_variables_of_sections_are_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTREAM_ENDPOINTS__GROQ__HEADERS", "X-Key: hidden")
    monkeypatch.setenv("EVERSTREAM_ENDPOINTS__GROQ__API_KYE", "hidden")
    monkeypatch.setenv("EVERSTREAM_ENDPOINTS__GROQ", "{")
    said = problems()
    assert len(said) == 3
    assert said[0].startswith("endpoints.groq (environment EVERSTREAM_ENDPOINTS__GROQ): should be JSON")
    assert said[1].startswith(
        "endpoints.groq.headers (environment EVERSTREAM_ENDPOINTS__GROQ__HEADERS): should be JSON"
    )
    assert said[2] == (
        "[endpoints.groq]: there is no key api_kye; did you mean api_key?"
        " (environment EVERSTREAM_ENDPOINTS__GROQ__API_KYE)"
    )
    assert "hidden" not in "".join(said)
