"""The command line: a table of commands, each a function from its arguments to an exit code.

`everstream --version`, `--help` and a mistyped command must answer at once, and the settings, the store and the web
server together take a second to import.  So this is the one module that imports inside functions: each command
brings in what it needs, when it is the one that was asked for.

What commands share is in `console` (exit codes, what is said of wrong usage) and `arguments` (the flags of settings);
a command with several verbs is a module of its own: `store_command`, `key_command`, `limit_command`, `token_command`.

Exit codes: 0 done; 1 found something to mend (`doctor`) or an unforeseen failure; 2 wrong usage or settings; 3 the
store is not available; 4 the port is taken; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everstream import __version__
from everstream.console import Exit, Parser, complain

if TYPE_CHECKING:
    from everstream.gateway.application import App

TOKEN_ENV: Final = "EVERSTREAM_TOKEN"  # of a client; the server has no such setting


class Command(NamedTuple):
    """A row of the table: what runs it, and its line in `--help`."""

    run: Callable[[str, Sequence[str]], int]
    summary: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.  `arguments` are without the program's name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else ""
    if name in ("-V", "--version"):
        print(f"everstream {__version__}")
        return Exit.DONE
    if name in ("", "-h", "--help", "help"):
        print(_overview(), file=sys.stdout if name else sys.stderr)
        return Exit.DONE if name else Exit.USAGE
    command = COMMANDS.get(name)
    if command is None:
        from everstream.config import unknown

        return complain("everstream", unknown("command", name, COMMANDS), "everstream --help shows all")
    return _guarded(f"everstream {name}", command, given[1:])


def _guarded(program: str, command: Command, given: Sequence[str]) -> int:
    """Run it, and turn the failures that have an exit code of their own into one clear line each."""
    try:
        done = command.run(program, given)
        sys.stdout.flush()  # here, where a closed pipe is still understood
        return done
    except SystemExit as leaving:  # argparse, after --help or wrong usage
        return leaving.code if isinstance(leaving.code, int) else Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # `everstream config | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        complain(program, *getattr(error, "problems", [getattr(error, "message", None) or str(error)]))
        return code


def _code_of(error: Exception) -> Exit | None:
    from everstream.config import ConfigError
    from everstream.core.errors import EverstreamError

    if isinstance(error, ConfigError):
        return Exit.USAGE
    if isinstance(error, EverstreamError) and error.code == "store.unavailable":
        return Exit.STORE
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return Exit.PORT
    return None


# --------------------------------------------------------------------------- the commands


def _serve(program: str, given: Sequence[str]) -> int:
    from everstream.arguments import settings_of, settings_parser

    description = "Run a server until it is told to stop (Ctrl-C or SIGTERM)."
    parser = settings_parser(program, description, "[MODULE:APP] [FLAGS]")
    parser.add_argument("app", nargs="?", metavar="MODULE:APP", help="an application of everstream.create_app()")
    arguments, rest = parser.parse_known_args(given)
    app = _app(arguments.app) if arguments.app is not None and not rest else None
    settings = settings_of(arguments, rest, None if app is None else app.settings).settings
    from everstream.doctor import exposure, no_sharing

    danger = exposure(settings) if app is None or app.authenticate is None else None
    if danger and not settings.insecure:
        return complain(program, f"{danger}; say --insecure if that is meant")
    if hindrance := no_sharing(settings):
        return complain(program, hindrance)
    if settings.workers > 1:
        from everstream.gateway.parent import serve_many

        return serve_many(settings) if app is None else serve_many(settings, arguments.app)
    from everstream.gateway.server import serve

    return serve(settings) if app is None else serve(settings, app)


def _app(name: str) -> App:
    """The application that was named.  Raises ConfigError."""
    from everstream.config import ConfigError
    from everstream.gateway.named import NoSuchApp, app_named

    try:
        return app_named(name)
    except NoSuchApp as error:
        raise ConfigError([str(error)]) from None


def _doctor(program: str, given: Sequence[str]) -> int:
    from everstream.arguments import flags_of, log_to_stderr, settings_parser

    parser = settings_parser(program, "Check what a server needs, and say what to do about what is missing.")
    parser.add_argument("--json", action="store_true", help="write JSON")
    arguments, rest = parser.parse_known_args(given)
    flags = flags_of(arguments, rest)
    from everstream import doctor

    log_to_stderr()
    findings = asyncio.run(doctor.examine(flags, arguments.config))
    print(doctor.as_json(findings) if arguments.json else doctor.as_text(findings))
    return Exit.DONE if doctor.healthy(findings) else Exit.FAILED


def _config(program: str, given: Sequence[str]) -> int:
    from everstream.arguments import settings_of, settings_parser

    parser = settings_parser(program, "Show the settings in force and where each came from.  Secrets are masked.")
    parser.add_argument("--json", action="store_true", help="write JSON")
    arguments, rest = parser.parse_known_args(given)
    loaded = settings_of(arguments, rest)
    from everstream.config import as_toml, effective

    if arguments.json:
        values = effective(loaded)
        shown = {name: {"value": value, "from": str(loaded.origins[name])} for name, value in values.items()}
        print(json.dumps(shown, indent=2, default=str))
        return Exit.DONE
    for line in as_toml(loaded):
        print(line)
    return Exit.DONE


def _chat(program: str, given: Sequence[str]) -> int:
    description = "Talk to a model in the terminal, through a running server.  A question is answered, and that is it."
    parser = Parser(prog=program, usage="[QUESTION] [FLAGS]", description=description)
    parser.add_argument("question", nargs="*", metavar="QUESTION", help="ask this, show the answer, and end")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/ws", help="the server (%(default)s)")
    parser.add_argument("--model", metavar="PROVIDER/NAME", help="the model; without it the server's first usable one")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    parser.add_argument(
        "--file",
        metavar="FILE",
        action="append",
        default=[],
        help="a text that goes before the question, or is the question where there is none; - is standard input; "
        "repeatable",
    )
    parser.add_argument("--session", metavar="ID", help="go on in this session, which the server keeps; new makes one")
    parser.add_argument("--stay", action="store_true", help="go on talking after the question")
    parser.add_argument("--tee", metavar="FILE", help="add the answers to this file as they come")
    parser.add_argument("--json", action="store_true", help="write the frames of the answers, a line each")
    parser.add_argument("--token", help=f"what the server knows you by (better: {TOKEN_ENV} in the environment)")
    parser.add_argument(
        "--param",
        metavar="NAME=VALUE",
        action="append",
        type=_parameter,
        default=[],
        help="a parameter of the request, as temperature=0.2; the value is JSON, or else text; repeatable",
    )
    asked = parser.parse_args(given)
    if asked.stay and "-" in asked.file:
        parser.error("--stay reads standard input, and so does --file -")
    from everstream.chat import Wish
    from everstream.chat import main as talk

    params = {**dict(asked.param), **({"system": asked.system} if asked.system else {})}
    token, question = asked.token or os.environ.get(TOKEN_ENV) or None, " ".join(asked.question).strip()
    shown = (asked.stay, asked.tee, asked.json, asked.session)
    return talk(Wish(asked.url, asked.model, params, token, question, asked.file, *shown))


def _local(program: str, given: Sequence[str]) -> int:
    from everstream.arguments import settings_of, settings_parser

    description = "Fetch a small model that needs no key and no network, see which are here, or take it away."
    parser = settings_parser(program, description, "{install,status,remove} [FLAGS]")
    parser.add_argument(
        "action", choices=("install", "status", "remove"), help="fetch it, show what is here, remove it"
    )
    parser.add_argument("--json", action="store_true", help="write JSON (status)")
    arguments, rest = parser.parse_known_args(given)
    data_dir = settings_of(arguments, rest).settings.data_dir
    from everstream import local_install

    if arguments.action == "status":
        told, usable = local_install.status(data_dir, as_json=arguments.json)
        print(told)
        return Exit.DONE if usable else Exit.FAILED
    try:
        print(local_install.install(data_dir) if arguments.action == "install" else local_install.remove(data_dir))
    except local_install.InstallFailed as failure:
        complain(program, str(failure))
        return Exit.FAILED
    return Exit.DONE


def _bench(program: str, given: Sequence[str]) -> int:
    description = "Measure how fast models answer: time to the first token, tokens a second, gaps, cost."
    parser = Parser(prog=program, usage="MODEL… [FLAGS]", description=description)
    from everstream import bench
    from everstream.arguments import log_to_stderr

    bench.add_arguments(parser, _parameter)
    asked = parser.parse_args(given)
    log_to_stderr()
    return bench.main(asked)


def _key(program: str, given: Sequence[str]) -> int:
    from everstream import key_command

    return key_command.run(program, given)


def _limit(program: str, given: Sequence[str]) -> int:
    from everstream import limit_command

    return limit_command.run(program, given)


def _token(program: str, given: Sequence[str]) -> int:
    from everstream import token_command

    return token_command.run(program, given)


def _store(program: str, given: Sequence[str]) -> int:
    from everstream import store_command

    return store_command.run(program, given)


COMMANDS: Final = {
    "serve": Command(_serve, "run a server"),
    "chat": Command(_chat, "talk to a model through a server, in the terminal"),
    "doctor": Command(_doctor, "check what a server needs, and say what to do"),
    "config": Command(_config, "show the settings in force and where they come from"),
    "local": Command(_local, "a model on this machine, without a key: local install, local status, local remove"),
    "bench": Command(_bench, "measure how fast models answer"),
    "key": Command(_key, "keys that clients show: key create, key list, key revoke"),
    "limit": Command(_limit, "what a user or a key may use: limit set, limit list, limit clear"),
    "token": Command(_token, "JSON Web Tokens that clients show, for trials and tests"),
    "store": Command(_store, "look at or stop the embedded store: store status, store stop"),
}


# --------------------------------------------------------------------------- arguments


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# --------------------------------------------------------------------------- words


def _overview() -> str:
    rows = "\n".join(f"  {name:<8} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: everstream COMMAND [FLAGS]\n\n"
        "Durable, resumable, cancellable streams from language models to people.\n\n"
        f"{rows}\n\n"
        "everstream COMMAND --help shows the flags of a command; everstream --version the version."
    )
