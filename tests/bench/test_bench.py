"""The bench's own claims: its tools count every delta, its arithmetic compares like with like.  No time is asserted.

The tests that run the C tools are skipped where there is no C compiler, with that reason.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve

from everstream.settings import Settings
from tests.bench import attack, fanout, idle, micro, reconnect, report
from tests.bench.__main__ import main, turns
from tests.bench.audience import CountingEncoder, Reader, frames_with_tokens
from tests.bench.build import NoCompiler, compiler, program
from tests.bench.fanout_turn import Stuck, Told, Turn
from tests.bench.hall import faults_of_stuck
from tests.bench.process import Process
from tests.bench.scenarios import QUICK, SCENARIOS, Sample, play
from tests.bench.targets import Bench

SMALL = {
    "steady": replace(QUICK["steady"], streams=8, deltas=20, per_s=50, warm_ms=0),
    "burst": replace(QUICK["burst"], streams=2, deltas=500, naive_deltas=50),
    "ttft": replace(QUICK["ttft"], repeats=3),
    "resume": replace(QUICK["resume"], deltas=300, repeats=2),
    "cancel": replace(QUICK["cancel"], streams=4, targets=("server",)),
}

HAS_SERVER = importlib.util.find_spec("everstream.__main__") is not None


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))
    names = ("naive", "server", "floor") if HAS_SERVER else ("naive", "floor")
    with Bench(names) as running:
        yield running


@pytest.mark.parametrize("target", ["naive", "server", "floor"])
@pytest.mark.parametrize("name", list(SMALL))
def test_every_delta_is_counted_once_and_in_order(bench: Bench, name: str, target: str) -> None:
    if target not in SMALL[name].targets:
        pytest.skip(f"{target} has no {name}")
    if target not in bench.targets:
        pytest.skip("the server cannot be started yet")
    sample = play(bench, SMALL[name], bench.targets[target])
    assert sample.complaints == ()
    if name == "cancel":
        assert sample.figures["provider_unclosed"] == 0
    else:
        assert all(value >= 0 for figure, value in sample.figures.items() if not figure.startswith("ttft"))


def test_a_delta_that_never_comes_is_complained_of(bench: Bench) -> None:
    cut = replace(SMALL["steady"], deltas=10_000, limit_s=0.5)
    sample = play(bench, cut, bench.targets["floor"])
    assert any("ended as they should" in complaint for complaint in sample.complaints)
    assert any("deltas arrived" in complaint for complaint in sample.complaints)


def test_cpu_is_that_of_the_process_and_its_children(bench: Bench, tmp_path: Path) -> None:
    spin = "import subprocess,sys,time\nfor i in range(300000): pass\n"
    parent = spin + "subprocess.run([sys.executable,'-c','for i in range(3000000): pass\\nprint(1,flush=True)\\n"
    parent += "import time\\ntime.sleep(60)'])\n"
    process = Process("spinner", [sys.executable, "-c", parent], tmp_path / "out", os.environ)
    try:
        process.wait_ready(lambda: process.text().startswith("1"))
        alone_ns = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
        assert process.cpu_ns() > alone_ns > 0
    finally:
        process.stop()
    assert not Path(f"/proc/{process.pid}").exists()


def test_nothing_of_a_bench_stays_behind() -> None:
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))
    with Bench(("floor",)) as running:
        pids = [running.targets["floor"].process.pid]
        place = running.place
        assert place.is_dir()
    assert not place.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_bench_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    program_text = (
        "import os,sys,time\nfrom pathlib import Path\nfrom tests.bench.process import Process\n"
        f"child = Process('sleeper', ['sleep', '600'], Path({str(tmp_path / 'out')!r}), os.environ)\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", program_text], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert "sleep" in (child / "comm").read_text()
        parent.kill()
    until = time.monotonic() + 10
    while _is_alive(child) and time.monotonic() < until:
        time.sleep(0.01)  # pause: between two looks at a process that ends
    assert not _is_alive(child)


def _is_alive(process: Path) -> bool:
    """Whether the process runs; one that has ended and is not yet waited for does not."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_without_a_compiler_the_bench_says_so_and_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert main(["--quick"]) == 2
    assert "install a C compiler" in capsys.readouterr().err


def test_a_program_is_compiled_once(bench: Bench) -> None:
    first = program("floor")
    made = first.stat().st_mtime_ns
    assert program("floor") == first
    assert first.stat().st_mtime_ns == made


def test_a_load_client_that_cannot_connect_fails_with_words(bench: Bench) -> None:
    words = [str(program("load")), "run", "1", "openai/sim-n1", "1", "1", "5", "0", "0", "x"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "cannot connect" in done.stderr


def test_targets_take_turns_there_and_back_again() -> None:
    order = list(turns(SCENARIOS["steady"], ("naive", "server", "floor"), 2))
    assert order == ["naive", "server", "floor", "floor", "server", "naive"]


def test_every_scenario_has_a_quick_form() -> None:
    assert QUICK.keys() == SCENARIOS.keys()


def test_ratios_are_of_medians_of_one_run() -> None:
    values = {"naive": [400.0, 900.0, 420.0], "server": [42.0, 40.0, 400.0], "floor": [21.0, 20.0, 22.0]}
    samples = [
        Sample("steady", target, {"server_cpu_us": value, "deltas_per_s": 5.0}, (), 0.1)
        for target, of_target in values.items()
        for value in of_target
    ]
    ratios = report.ratios(report.medians(samples))
    assert ratios["naive:server"] == {"server_cpu_us": 10.0}
    assert ratios["server:floor"] == {"server_cpu_us": 2.0}


def test_a_complaint_reaches_the_table_and_the_document() -> None:
    sample = Sample("steady", "server", {"server_cpu_us": 42.0}, ("1 of 2 deltas arrived",), 0.1)
    assert "! server: 1 of 2 deltas arrived" in report.table(SCENARIOS["steady"], [sample])
    found = json.loads(json.dumps(report.document([(SCENARIOS["steady"], [sample])], report.machine())))
    assert found["scenarios"]["steady"]["samples"][0]["complaints"] == ["1 of 2 deltas arrived"]


def test_the_micro_path_shows_every_delta_to_its_reader() -> None:
    for per_read in micro.SHAPES.values():
        path = micro.Path(per_read)
        before = path.shown
        path.step()
        assert path.shown == before + per_read
    found = micro.measure(quick=True)
    assert set(found["shapes"]) == set(micro.SHAPES)
    assert all(shape["ratio"] > 0 for shape in found["shapes"].values())


# ---------------------------------------------------------------------- many readers of one stream

FEW = fanout.Size(readers=60, sockets=12, tokens=20, per_s=50.0, rounds=1)


@pytest.fixture(scope="module")
def fanned() -> dict[str, Any]:
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))
    return fanout.measure(FEW)


def test_every_reader_is_given_every_token_once(fanned: dict[str, Any]) -> None:
    assert fanned["complaints"] == []
    told = {sample["name"]: sample for sample in fanned["samples"]}
    assert told.keys() == set(fanout.TURNS)
    assert told["plain"]["inside_frames"] + told["plain"]["socket_frames"] > 0


def test_a_frame_is_encoded_once_for_all_its_readers(fanned: dict[str, Any]) -> None:
    for sample in fanned["samples"]:
        readers = FEW.readers - FEW.sockets if sample["socket_frames"] else FEW.readers
        given = sample["inside_frames"] / (1 if sample["name"] == "alone" else readers)
        if sample["inside_frames"]:
            assert given == sample["encoded"], sample["name"]  # all in step: each frame made went to each of them
        if sample["socket_frames"]:
            assert sample["socket_frames"] == sample["encoded"] * FEW.sockets, sample["name"]


def test_nothing_is_kept_or_made_for_a_stuck_reader(fanned: dict[str, Any]) -> None:
    (told,) = (sample for sample in fanned["samples"] if sample["name"] == "stuck")
    assert told["stuck"]["woken"] >= told["encoded"]
    assert told["stuck"]["moved"] == 0
    assert told["stuck"]["held_after"] == told["stuck"]["held_before"] > 0
    assert told["encoded"] <= FEW.tokens // 2
    assert fanned["turns"]["stuck"]["held_bytes"] < 2 * Settings().write_high_water_bytes


@pytest.mark.parametrize(
    ("given", "faulty"),
    [
        (["@000000000000001 ", "@000000000000002 @000000000000003 "], 0),
        (["@000000000000001 ", "@000000000000003 "], 1),
        (["@000000000000001 ", "@000000000000002 ", "@000000000000002 @000000000000003 "], 1),
        (["@000000000000002 ", "@000000000000001 ", "@000000000000003 "], 1),
    ],
)
async def test_a_reader_that_misses_doubles_or_swaps_a_token_is_found(given: list[str], faulty: int) -> None:
    whole, other = (Reader(asyncio.get_running_loop(), CountingEncoder()) for _ in range(2))
    whole.frames = [b"@000000000000001 @000000000000002 @000000000000003 "]
    other.frames = [frame.encode() for frame in given]
    assert frames_with_tokens([whole, other], [1, 2, 3]) == (1 + len(given), faulty)


def test_a_frame_made_for_each_reader_and_a_stuck_reader_that_was_fed_are_complained_of() -> None:
    turn = Turn("stuck", inside=10, sockets=0, tokens=5, per_s=50.0, stuck=True)
    told = Told("stuck", 0.1, 0.0, 100.0, 50, 0, 5, 0.0, None, (), (), (), Stuck(5, 0, 9, 9), [])
    assert fanout.complaints_of(turn, told) == []
    assert fanout.complaints_of(turn, msgspec.structs.replace(told, encoded=50))
    assert faults_of_stuck(Stuck(5, 0, 9, 9)) == []
    assert faults_of_stuck(Stuck(5, 1, 9, 9))
    assert faults_of_stuck(Stuck(5, 0, 9, 10))


def test_the_fan_out_can_be_asked_for_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fanned: dict[str, Any]
) -> None:
    monkeypatch.setattr(fanout, "measure", lambda size: fanned)
    assert main(["--scenario", "fanout", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "60 readers of one stream" in said
    assert "steady" not in said
    monkeypatch.setattr(fanout, "measure", lambda size: fanned | {"complaints": ["a reader was forgotten"]})
    assert main(["--scenario", "fanout", "--quick"]) == 1
    assert "! a reader was forgotten" in capsys.readouterr().out


# ---------------------------------------------------------------------- many sessions, one connection that comes back

SOME = reconnect.Size(sessions=8, tokens=25, rounds=1)


@pytest.fixture(scope="module")
def returned() -> dict[str, Any]:
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))
    return reconnect.measure(SOME)


def test_one_hello_brings_every_missed_token_of_every_session_once(returned: dict[str, Any]) -> None:
    assert returned["complaints"] == []
    for figures in returned["places"].values():
        assert figures["client_frames"] == 1
        assert figures["server_frames"] >= 3 * SOME.sessions
        assert figures["caught_up_ms"] > 0


@pytest.mark.parametrize(
    ("given", "faults"),
    [
        (["1 2 ", "3 "], []),
        (["1 ", "3 "], ["1 tokens lost ['2'], 0 came again [], of 3"]),
        (["1 2 ", "2 3 "], ["0 tokens lost [], 1 came again ['2'], of 3"]),
        (["2 1 3 "], ["0 tokens lost [], 0 came again [], of 3"]),
    ],
)
async def test_a_server_that_loses_doubles_or_swaps_missed_tokens_is_found(given: list[str], faults: list[str]) -> None:
    async def server(socket: ServerConnection) -> None:
        places = json.loads(await socket.recv())["resume"]
        for place in places:
            await socket.send(json.dumps({"type": "subscribed", "stream": place["stream"]}))
        for text in given:
            await socket.send(json.dumps({"type": "delta_text", "stream": "r_1", "text": text}))
        await socket.wait_closed()

    async with serve(server, "127.0.0.1", 0) as listening:
        target: Any = SimpleNamespace(port=listening.sockets[0].getsockname()[1])
        held = [reconnect.Held("s_1", 1, 2, "r_1", 1, 3)]
        found = await reconnect.come_back(target, held, reconnect.Size(1, 3, 1), limit_s=0.1)
    assert found.complaints == [f"r_1: {fault}" for fault in faults]
    assert (found.sent, found.frames) == (1, 2 + len(given))


def test_a_client_that_had_to_ask_again_is_complained_of() -> None:
    assert reconnect.complaints_of(reconnect.Return(sent=1)) == []
    assert reconnect.complaints_of(reconnect.Return(sent=2)) == ["the client sent 2 frames"]


def test_the_return_can_be_asked_for_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], returned: dict[str, Any]
) -> None:
    monkeypatch.setattr(reconnect, "measure", lambda size: returned)
    assert main(["--scenario", "reconnect", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "8 sessions on one connection, 200 missed tokens" in said
    monkeypatch.setattr(reconnect, "measure", lambda size: returned | {"complaints": ["a token was lost"]})
    assert main(["--scenario", "reconnect", "--quick"]) == 1
    assert "! a token was lost" in capsys.readouterr().out


# ---------------------------------------------------------------------- the doors

SCARCE = idle.Size(connections=60, streams=4, per_s=50.0, gaps_s=0.3, cpu_s=0.2)
SKIRMISH = replace(attack.QUICK, sockets=9, streams=3, per_s=50.0, gaps_s=0.3, slow_s=0.6, flood_s=0.2)


def _needs_compiler() -> None:
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))


def test_idle_connections_are_welcomed_stay_and_are_weighed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _needs_compiler()
    monkeypatch.setattr(idle, "QUICK", SCARCE)
    monkeypatch.setattr(idle, "STEPS", (30,))
    assert main(["--scenario", "idle", "--quick", "--connections", "50"]) == 0
    said = capsys.readouterr().out
    assert "50 idle connections, 4 live streams beside them" in said
    assert "at     30:" in said
    assert "with to before: p50" in said


def test_what_harms_is_cut_off_and_what_is_slow_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _needs_compiler()
    monkeypatch.setattr(attack, "QUICK", SKIRMISH)
    told = tmp_path / "told.json"
    assert main(["--scenario", "attack", "--quick", "--json", str(told)]) == 0
    found = json.loads(told.read_text())["attack"]
    assert found["complaints"] == []
    phases = found["phases"]
    assert [phases[kind]["cut"] for kind in ("head", "silent", "body")] == [SKIRMISH.sockets // 3] * 3
    assert phases["stuck"]["cut_s"] >= SKIRMISH.write_s
    assert phases["burst"]["welcomed"] == SKIRMISH.sockets
    assert all(phase["gaps"]["count"] and not phase["gaps"]["lost"] for phase in phases.values())
