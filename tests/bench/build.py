"""Compiles the C programs of the bench into a cache directory, once for each version of their text.

A program's name carries a digest of its source, of the shared header and of the compiler's name, so a changed source
is never run stale, and two runs at once do no harm: each compiles to a name of its own and renames it into place.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-O2", "-Wall", "-Wextra", "-Wno-unused-function")
COMPILE_LIMIT_S = 120


class NoCompiler(RuntimeError):
    """There is no C compiler here, or this is not Linux.  The message says what to do."""


def compiler() -> str:
    """The path of a C compiler: `$CC`, `cc`, `gcc` or `clang`.  Raises NoCompiler."""
    if not sys.platform.startswith("linux"):
        raise NoCompiler("the bench's tools use epoll: run it on Linux")
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise NoCompiler("the bench's tools are written in C: install a C compiler (cc) or set CC")


def program(name: str) -> Path:
    """The compiled `name`.c, ready to run.  Raises NoCompiler; RuntimeError with the compiler's words if it fails."""
    cc = compiler()
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(cc.encode() + " ".join(FLAGS).encode())
    for path in (source, SOURCES / "wire.h"):
        digest.update(path.read_bytes())
    place = _cache() / f"{name}-{digest.hexdigest()[:16]}"
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=place.parent) as directory:
        made = Path(directory) / name
        done = subprocess.run(
            [cc, *FLAGS, "-o", made, source], capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{source.name} does not compile:\n{done.stderr}")
        made.rename(place)
    return place


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    home = Path(root) if root else Path.home() / ".cache"
    place = home / "everstream-bench"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        place = Path(tempfile.gettempdir()) / f"everstream-bench-{os.getuid()}"
        place.mkdir(mode=0o700, exist_ok=True)
    return place
