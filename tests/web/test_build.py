"""Packages carry the page: made on a machine without Node.js, they have it whole, and serve it.

The package builder runs here as it does for everybody, on a copy of the checkout, with a PATH on which there is no
Node.js: the one of the wheel has to do, and npm has to install what the build needs, and no more.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server import ROOT, ServerProcess, clean_environment
from tests.web.node import hook

PARTS = ("backend", "web", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore")
NOT_COPIED = shutil.ignore_patterns("node_modules", "_web*", "__pycache__", "dist")
BUILD_S = 120.0
PAGE = "everstream/_web/"


def copied(folder: Path) -> Path:
    """A copy of what packages are made of, with nothing built or installed in it."""
    folder.mkdir()
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=NOT_COPIED)
        else:
            shutil.copy(source, folder / name)
    return folder


def without_node(**extra: str) -> dict[str, str]:
    """An environment in which a shell finds no Node.js."""
    kept = [place for place in os.environ["PATH"].split(os.pathsep) if not (Path(place) / "node").exists()]
    assert shutil.which("node", path=os.pathsep.join(kept)) is None
    proxies = {name: value for name, value in os.environ.items() if name.upper().endswith("_PROXY")}
    return {**clean_environment(), **proxies, "PATH": os.pathsep.join(kept), **extra}


def built(checkout: Path, target: str, **extra: str) -> tuple[Path, str]:
    """The package that hatchling makes of a checkout, and what it says to it."""
    out = checkout / "dist" / target
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    env = without_node(**extra)
    run = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, timeout=BUILD_S, check=False)
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    (package,) = out.iterdir()
    return package, said


def fetched(server: ServerProcess, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    checkout = copied(tmp_path_factory.mktemp("build") / "checkout")
    package, said = built(checkout, "wheel")
    if "cannot be built here" in said:
        pytest.skip(f"npm can install nothing here: {said.strip()}")
    yield package
    shutil.rmtree(checkout)


@pytest.fixture(scope="module")
def checkout(wheel: Path) -> Path:
    """Where the wheel was built."""
    return wheel.parents[2]


def test_a_wheel_that_is_made_without_node_js_has_the_whole_page(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as package:
        names = {name.removeprefix(PAGE) for name in package.namelist() if name.startswith(PAGE)}
        documents = "".join(package.read(PAGE + name).decode() for name in ("index.html", "api.html"))
        licences = package.read(PAGE + "licenses.md").decode()
        scripts = "".join(package.read(PAGE + name).decode() for name in names if name.endswith(".js"))
    named = set(re.findall(r'(?:href|src)="\./(assets/[^"]+)"', documents))
    named |= {f"assets/{name}" for name in re.findall(r'["`\'/]([\w.-]+-[\w-]{8}\.(?:js|css))["`\']', scripts)}
    assert len(named) > 5
    assert named <= names
    assert {f"{name}.br" for name in named if name.endswith(".js")} <= names
    for bundled in ("preact", "marked", "lowlight", "highlight.js", "uplot"):
        assert f"## {bundled} - " in licences, "whose work it is comes along with it"
    assert not [name for name in names if "node_modules" in name or name.endswith((".ts", ".tsx", ".map"))]


def test_only_what_the_build_needs_is_installed_for_it(wheel: Path, checkout: Path) -> None:
    installed = {path.name for path in (checkout / "web" / "node_modules").iterdir()}
    assert {"vite", "preact"} <= installed
    assert not {"vitest", "typescript", "axe-core", "fast-check"} & installed


def test_a_server_from_that_wheel_serves_the_page_where_there_is_no_node_js(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as package:
        package.extractall(site)
    env = {"PYTHONPATH": str(site), "PATH": without_node()["PATH"]}
    with ServerProcess(tmp_path / "data", env=env) as server:
        server.start()
        assets = [path.name for path in (site / PAGE / "assets").iterdir() if path.suffix not in (".br", ".gz")]
        assert fetched(server, "/") == (200, (site / PAGE / "index.html").read_bytes())
        for name in assets:
            assert fetched(server, f"/assets/{name}") == (200, (site / PAGE / "assets" / name).read_bytes())
    assert len(assets) > 5


def test_a_source_distribution_carries_the_page_and_needs_no_node_js(
    wheel: Path, checkout: Path, tmp_path: Path
) -> None:
    before = (checkout / "backend" / PAGE / "index.html").stat().st_mtime_ns
    package, _ = built(checkout, "sdist")
    assert (checkout / "backend" / PAGE / "index.html").stat().st_mtime_ns == before, "nothing had changed"
    with tarfile.open(package) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    assert (unpacked / "hatch_build.py").is_file()
    assert (unpacked / "web" / "package-lock.json").is_file()
    assert not (unpacked / "web" / "node_modules").exists()
    assert hook().is_complete(unpacked)
    again, _ = built(unpacked, "wheel")
    assert not (unpacked / "web" / "node_modules").exists(), "nothing was built"
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert [n for n in other.namelist() if PAGE in n] == [n for n in one.namelist() if PAGE in n]


def test_a_package_can_be_made_without_the_page_and_says_so(tmp_path: Path) -> None:
    package, said = built(copied(tmp_path / "checkout"), "wheel", EVERSTREAM_SKIP_WEB="1")
    assert "without the chat page" in said
    with zipfile.ZipFile(package) as wheel:
        assert not [name for name in wheel.namelist() if name.startswith(PAGE)]


# ------------------------------------------------------------------------------------------------ the hook's parts


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkout with a page that seems to be built."""
    root = tmp_path / "small"
    for name in ("hatch_build.py", "web/app/src/main.ts", "web/client/src/index.ts", "web/app/test/one.test.ts"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"// {name}\n")
    page = root / hook().PAGE
    page.mkdir(parents=True)
    (page / "index.html").write_text("built")
    (page / hook().DIGEST).write_text(hook().digest_of(root))
    return root


def test_a_page_is_built_anew_when_a_source_changes_comes_or_goes(small: Path) -> None:
    assert hook().is_complete(small)
    source = small / "web" / "app" / "src" / "main.ts"
    text = source.read_text()
    source.write_text("changed\n")
    assert not hook().is_complete(small)
    source.write_text(text)
    assert hook().is_complete(small)
    source.rename(source.with_name("other.ts"))
    assert not hook().is_complete(small)


def test_what_the_page_is_not_made_of_does_not_build_it_anew(small: Path) -> None:
    (small / "web" / "app" / "test" / "one.test.ts").write_text("changed\n")
    (small / "web" / "node_modules").mkdir()
    (small / "web" / "node_modules" / "some.js").write_text("installed\n")
    assert hook().is_complete(small)


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        ("v20.19.0", True),
        ("v22.12.0", True),
        ("v24.1.0", True),
        ("v18.20.1", False),
        ("v21.7.0", False),
        ("huh", False),
    ],
)
def test_the_machines_node_js_is_taken_only_where_vite_runs_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    for name in ("node", "npm"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (hook().node_on_path() is not None) == taken


def test_without_any_node_js_the_reason_is_said_and_the_old_page_stays(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = hook()
    (small / "web" / "app" / "src" / "main.ts").write_text("changed\n")
    monkeypatch.setenv("PATH", str(small))
    monkeypatch.setattr(build, "node_of_wheel", lambda: None)
    with pytest.raises(build.PageNotBuilt, match=r"no Node\.js"):
        build.build(small)
    assert (small / build.PAGE / "index.html").read_text() == "built"


def test_broken_sources_are_an_error_and_the_old_page_stays(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = hook()
    (small / "web" / "app" / "src" / "main.ts").write_text("changed\n")
    monkeypatch.setattr(build, "is_installed", lambda web, development: True)
    with pytest.raises(build.PageBroken):  # there is no Vite at all
        build.build(small)
    assert (small / build.PAGE / "index.html").read_text() == "built"
    assert [path.name for path in (small / build.PAGE).parent.iterdir()] == ["_web"]
