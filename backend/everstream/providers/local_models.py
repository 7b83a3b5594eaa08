"""Which models lie on this machine, ready to be run: the GGUF files of one folder.

`DATA_DIR/models/NAME.gguf` is the model `local/NAME`.  One of them has a package of its own and is fetched by a command
(`local_install`); it is offered before it is there, with the words that bring it.  The folder is looked at each time,
so that a running server sees what was put there, or taken away, since it was started.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = "models"
SUFFIX: Final = ".gguf"
PACKAGED: Final = "smollm2"
ENGINE: Final = "xllamacpp"
HOW: Final = "run: everstream local install"
LISTED_MAX: Final = 200

_NAME = re.compile(r"[\w][\w.+-]{0,127}")  # what can be said in a request without quotes or paths


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A file, and what tells it from another of its name."""

    name: str
    path: Path
    size_bytes: int
    changed_ns: int


def folder_of(data_dir: Path) -> Path:
    """Where the models of a data directory lie.  It need not exist."""
    return data_dir.expanduser().absolute() / FOLDER


def models_in(folder: Path) -> dict[str, LocalModel]:
    """The models of a folder by name; none where it cannot be read."""
    try:
        paths = sorted(folder.glob(f"*{SUFFIX}"))[:LISTED_MAX]
    except OSError:
        return {}
    found = (model_at(path) for path in paths)
    return {model.name: model for model in found if model is not None}


def model_at(path: Path) -> LocalModel | None:
    """The model in a file; None where it is no file, or has a name that a request could not say."""
    name = path.name.removesuffix(SUFFIX)
    if not _NAME.fullmatch(name):
        return None
    try:
        told = path.stat()
    except OSError:
        return None
    return LocalModel(name, path, told.st_size, told.st_mtime_ns) if path.is_file() else None


def model_named(folder: Path, name: str) -> LocalModel | None:
    """The model of that name, where it is there."""
    return model_at(folder / f"{name}{SUFFIX}") if _NAME.fullmatch(name) else None


def has_engine() -> bool:
    """Whether what runs the models can be imported.  It is not imported for that."""
    return importlib.util.find_spec(ENGINE) is not None
