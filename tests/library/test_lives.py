"""An implicit engine lives as long as its loop: `asyncio.run` ends it, whatever is under way, and nothing is left.

Programs run in a process of their own, in which every warning is an error: what is not closed says so.
"""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.server import clean_environment

import everstream
from everstream import library_engine

RUN_S = 60
WARNINGS = ("-W", "error", "-W", "ignore:open_binary is deprecated")  # the second comes from a vocabulary's package

PROGRAMS = {
    "loops, one after the other": """
        async def whole():
            result = await everstream.run_async("scripted/count", "hi", tokens=5, rate=0)
            print(result.text)

        async def left():
            async for event in everstream.stream("scripted/count", "hi", rate=50):
                if event.type == "delta_text":
                    break

        async def held():
            global stream
            stream = everstream.stream("scripted/count", "hi", rate=50)
            while (await anext(stream)).type != "delta_text":
                pass

        async def still_read():
            global task
            task = asyncio.create_task(everstream.run_async("scripted/count", "hi", rate=50))
            await whole()

        async def own_engine():
            async with everstream.Engine() as engine:
                await engine.stream("scripted/count", "hi", rate=50).start()

        for program in (whole, left, held, still_read, own_engine):
            asyncio.run(program())
        assert stream.result.partial
        stream.cancel()
    """,
    "plain functions that nobody closes": """
        for text in everstream.iter_stream("scripted/count", "hi", rate=50):
            break
        for _ in range(2):
            print(everstream.run("scripted/count", "hi", tokens=5, rate=0).text)
    """,
    "a plain iterator that is held at the end": """
        stream = everstream.iter_stream("scripted/count", "hi", rate=50)
        next(stream)
        print("1 2 3 4 5\\n1 2 3 4 5")
    """,
    "a process that forks": """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        print(everstream.run("scripted/count", "hi", tokens=5, rate=0).text, flush=True)
        child = os.fork()
        if child == 0:
            print(everstream.run("scripted/count", "hi", tokens=5, rate=0).text, flush=True)
            everstream.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """,
}


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    lines = [line.removeprefix("        ") for line in program.splitlines()]
    return subprocess.run(
        [sys.executable, *WARNINGS, "-c", "\n".join(["import asyncio, everstream", *lines])],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=RUN_S,
        check=False,
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_cleanly_after(name: str, tmp_path: Path) -> None:
    done = run(PROGRAMS[name], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 2 3 4 5\n" * 2, "")


@pytest.mark.parametrize("left", [0, 1])
def test_the_end_of_a_loop_closes_its_engine_and_waits_for_nothing(left: int) -> None:
    loops = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        asks = [everstream.run_async("scripted/count", "hi", tokens=tokens) for tokens in (1, 100)[: left + 1]]
        await asyncio.wait([asyncio.create_task(ask) for ask in asks], return_when=asyncio.FIRST_COMPLETED)
        assert loops[0] in library_engine._implicit

    began = time.monotonic()
    asyncio.run(main())
    print(f"from the first request to the end of the loop: {time.monotonic() - began:.3f} s")
    assert loops[0] not in library_engine._implicit


async def test_the_same_settings_share_an_engine_and_others_do_not() -> None:
    one = await library_engine.implicit_engine(everstream.Settings())
    assert await library_engine.implicit_engine(everstream.Settings()) is one
    assert await library_engine.implicit_engine({"carry_on": True}) is one
    other = await library_engine.implicit_engine({"carry_on": False})
    assert other is not one
    assert await library_engine.implicit_engine(None) is not one
    await everstream.aclose()
    assert await library_engine.implicit_engine(None) is not one
    await everstream.aclose()


async def test_a_loop_has_only_so_many_engines() -> None:
    for port in range(library_engine.SETTINGS_MAX):
        await library_engine.implicit_engine({"port": port})
    with pytest.raises(RuntimeError, match="different settings"):
        await library_engine.implicit_engine({"port": 999})
    await everstream.aclose()


# --------------------------------------------------------------------------- the package's front door


def test_importing_the_package_imports_nothing_else(tmp_path: Path) -> None:
    done = run("import sys\n        print([name for name in sys.modules if name.startswith('everstream')])", tmp_path)
    assert (done.stdout, done.stderr) == ("['everstream']\n", "")


def test_what_type_checkers_are_told_is_what_is_there() -> None:
    [guarded] = [
        node
        for node in ast.parse(Path(everstream.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    ]
    told = {
        (node.module, alias.name) for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    given = {(f"everstream.{place}", name) for name, place in everstream._PLACE_OF.items()}
    assert told == given
    for name in everstream._PLACE_OF:
        assert getattr(everstream, name) is not None
        assert name in dir(everstream)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = everstream.nothing
