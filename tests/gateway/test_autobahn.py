"""The WebSocket protocol, case by case: the Autobahn test suite, as `kosoku` runs it.

Left out are its cases 9 (how long large messages take) and 12 and 13 (compression, which this server does not offer).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.server import free_port

WITHIN_S = 120
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
# A close frame in the middle of a fragmented message, and then more of it: `websockets` calls that a fault of the
# protocol (1002); the suite would have the close frame answered as such (1000).
EXPLAINED = {"7.1.5": 1002}


def listening(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and server.poll() is None:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)  # pause: until it listens
    raise AssertionError("the echo server does not listen")


def test_no_case_fails_but_what_is_explained(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "echo.log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with log.open("wb") as written:
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("echo_server.py")), str(port)],
            stdout=written, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    try:
        listening(port, server)
        suite = Path(sys.executable).with_name("kosoku")
        left_out = [part for cases in ("9.*", "12.*", "13.*") for part in ("-x", cases)]
        subprocess.run(
            [suite, f"ws://127.0.0.1:{port}", "-p", "4", *left_out, "-o", tmp_path / "reports"],
            capture_output=True, timeout=WITHIN_S, check=False,
        )  # fmt: skip
    finally:
        server.terminate()
        server.wait(30)
    (cases,) = json.loads((tmp_path / "reports" / "index.json").read_text("utf-8")).values()
    assert len(cases) == 247
    failed = {case: told for case, told in cases.items() if not {told["behavior"], told["behaviorClose"]} <= GOOD}
    assert {case: told["remoteCloseCode"] for case, told in failed.items()} == EXPLAINED
    assert "Traceback" not in log.read_text("utf-8")
