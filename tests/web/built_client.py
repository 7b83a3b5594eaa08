"""The TypeScript client as a program finds it that has installed it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.web.node import WEB, run

NAME = "@everstream/client"


def build_client(folder: Path) -> Path:
    """Compile it into `folder`, whose programs may import it by its name then.  Raises CannotInstall."""
    (folder / "package.json").write_text('{"type": "module"}')
    package = folder / "node_modules" / NAME
    package.mkdir(parents=True)
    shutil.copy(WEB / "client" / "package.json", package)
    done = run("npx", "tsc", "-p", "client/tsconfig.build.json", "--outDir", str(package / "dist"))
    assert done.returncode == 0, done.stdout
    return package
