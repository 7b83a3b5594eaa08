"""The TypeScript client's own tests, and the package that is made of it.

Its tests run under Node.js (`web/client/test`); the package is built beside the tree, packed, and unpacked where a
program finds it that imports it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.server import ROOT, ServerProcess
from tests.web.node import CannotInstall, installed, node_environment, run

CLIENT = ROOT / "web" / "client"
SCHEDULES = {"streams": 10_000, "sessions": 3_000}
BUILD_S = 60.0

PROGRAM = """
import { Client, applyFrame, newStream } from "@everstream/client";
const stream = newStream("r_1");
const verdict = applyFrame(stream, { type: "delta_text", stream: "r_1", after: 0, upto: 1, text: "hi" });
console.log(JSON.stringify([new Client({ url: "ws://127.0.0.1:1/ws" }).state, verdict, stream.text]));
"""
READS = """
import { Client } from "@everstream/client";
const client = new Client({ OPTIONS });
client.open();
const stream = client.generate({ model: "scripted/count", messages: "hi", params: { tokens: 5, rate: 0 } });
let text = "";
for await (const piece of stream.textDeltas()) text += piece;
const { reason, usage } = await stream.result;
console.log(JSON.stringify([text, reason, usage.output_tokens, client.transport]));
client.close();
"""
CONSUMER = """
import { Client } from "@everstream/client";
import type { Frame, Part, Result, Session, StreamState } from "@everstream/client";
import { EverstreamChatTransport } from "@everstream/client/ai";

export const client = new Client({ url: "ws://127.0.0.1:1/ws", encoding: "msgpack" });
export const transport = new EverstreamChatTransport({ client, model: "scripted/count" });
export const session: Session = client.session(null);
export const lengthOf = (stream: StreamState): number => stream.text.length;

export async function told(): Promise<Result> {
  const stream = client.generate({ model: "scripted/count", messages: "hi" });
  for await (const part of stream) said(part);
  return stream.result;
}

function said(part: Part): string | null {
  return part.type === "text" ? part.text : null;
}

client.on("frame", ({ frame }) => seen(frame as Frame));

function seen(frame: Frame): number {
  switch (frame.type) {
    case "delta_text":
      return frame.text.length;
    case "stream_end":
      return frame.usage.total_tokens;
    default:
      return frame.upto ?? 0;
  }
}
"""
README = CLIENT / "README.md"
OPTIONS = {"strict": True, "noEmit": True, "target": "ES2023", "module": "nodenext", "types": [], "skipLibCheck": False}


@pytest.fixture(scope="module")
def packages() -> Path:
    try:
        return installed()
    except CannotInstall as problem:
        pytest.skip(f"the client's packages cannot be installed: {problem}")


def test_the_clients_own_tests_pass(packages: Path) -> None:
    done = run("npm", "test", "-w", "@everstream/client")
    assert done.returncode == 0, done.stdout
    counted = {of: int(number) for of, number in re.findall(r"schedules of (\w+): (\d+)", done.stdout)}
    print(f"schedules of frames: {counted}")
    assert counted == SCHEDULES, done.stdout


@pytest.fixture(scope="module")
def unpacked(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a program finds the package."""
    beside = tmp_path_factory.mktemp("client")
    copy = beside / "web" / "client"
    shutil.copytree(CLIENT, copy, ignore=shutil.ignore_patterns("dist", "node_modules", "test", "LICENSE"))
    shutil.copy(CLIENT.parent / "tsconfig.base.json", copy.parent)
    shutil.copy(ROOT / "LICENSE", beside)
    (copy.parent / "node_modules").symlink_to(packages / "node_modules")
    packed = said_by("npm", "pack", "--pack-destination", str(beside), cwd=copy).splitlines()[-1]
    consumer = tmp_path_factory.mktemp("consumer")
    home = consumer / "node_modules" / "@everstream"
    home.mkdir(parents=True)
    with tarfile.open(beside / packed) as tarball:
        tarball.extractall(home, filter="data")
    (home / "package").rename(home / "client")
    (consumer / "package.json").write_text('{"type": "module"}')
    return consumer


def said_by(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=node_environment(), capture_output=True, text=True, timeout=BUILD_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_package_has_what_it_needs_and_nothing_else(unpacked: Path) -> None:
    package = unpacked / "node_modules" / "@everstream" / "client"
    assert {path.name for path in package.iterdir()} == {"LICENSE", "README.md", "dist", "package.json", "src"}
    sources = {path.stem for path in (package / "src").iterdir()}
    assert {path.name for path in (package / "dist").iterdir()} == {
        f"{name}{ending}" for name in sources for ending in (".js", ".js.map", ".d.ts")
    }
    for path in (package / "dist").glob("*.ts"):
        assert '.ts"' not in path.read_text("utf-8"), f"{path.name} names a source"
    manifest = json.loads((package / "package.json").read_text("utf-8"))
    assert "dependencies" not in manifest
    for way in manifest["exports"].values():
        assert all((package / file).is_file() for file in way.values())


def test_a_program_imports_the_package_as_it_is_published(unpacked: Path) -> None:
    (unpacked / "program.js").write_text(PROGRAM)
    assert json.loads(said_by("node", "program.js", cwd=unpacked)) == ["closed", "applied", "hi"]


@pytest.mark.parametrize("options", ["", 'encoding: "msgpack",', 'transport: "http",'])
def test_an_answer_is_read_by_the_package_as_it_is_published(
    unpacked: Path, server: ServerProcess, options: str
) -> None:
    address = f"{server.url.replace('http', 'ws', 1)}/ws"
    (unpacked / "reads.js").write_text(READS.replace("OPTIONS", f'{options} url: "{address}"'))
    text, reason, output_tokens, transport = json.loads(said_by("node", "reads.js", cwd=unpacked))
    assert (text, reason, output_tokens) == ("1 2 3 4 5", "complete", 5)
    assert transport == ("http" if "http" in options else "websocket")


def readme_blocks() -> list[str]:
    blocks = re.findall(r"^```ts\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    return blocks


def test_the_types_of_the_package_are_those_a_program_is_checked_against(unpacked: Path, packages: Path) -> None:
    programs = {"consumer.ts": CONSUMER} | {f"readme{n}.ts": block for n, block in enumerate(readme_blocks())}
    for name, text in programs.items():
        (unpacked / name).write_text(text)
    (unpacked / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": list(programs)}))
    compiler = str(packages / "node_modules" / "typescript" / "bin" / "tsc")
    said_by("node", compiler, "-p", ".", cwd=unpacked)
    (unpacked / "consumer.ts").write_text(CONSUMER.replace("stream.text.length", "stream.text"))
    with pytest.raises(AssertionError, match=r"TS2322"):
        said_by("node", compiler, "-p", ".", cwd=unpacked)
