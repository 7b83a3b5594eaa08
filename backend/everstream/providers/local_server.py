"""The process that runs one local model: llama.cpp's own HTTP server, out of the package `xllamacpp`.

    python -m everstream.providers.local_server MODEL.gguf
        first line of stdin     {"key": …, "threads": …, "parallel": …, "context_tokens": …}
        first line of stdout    {"port": …}, once the model is loaded
        end of stdin            the node is gone, or wants no more of it: end

It is a process of its own so that neither a crash in native code nor the model's memory is the node's.  It ends with
its node whatever way that ends: the kernel closes the pipe, and on Linux sends a signal besides, which is heard while
the model still loads.  A Ctrl-C or a SIGTERM for the whole group is the node's to answer, which may have answers to
finish.

`BATCH_TOKENS` is less than it could be.  From 64 tokens a batch on llama.cpp adds up attention in another order, so
that a text that is read in (after a crash, say) leaves slightly other numbers than the same text when it was written
word by word, and every second greedy answer departs from its uninterrupted run at some later word.  Below 64 they are
equal to the last bit, also among other answers (measured: 0 of 86 seams against 41 of 86).  It costs a quarter of the
speed at which prompts are read, and gives back that a cancel is heard, and that others are served, every 32 tokens.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Any, Final
from urllib.parse import urlsplit

import xllamacpp

BATCH_TOKENS: Final = 32
HTTP_THREADS_BESIDE: Final = 4  # for short questions, while every answer keeps one thread
NICE: Final = 5  # whoever serves goes before whoever computes
ONLY_ERRORS: Final = 1
_PR_SET_PDEATHSIG: Final = 1


def main(path: str) -> None:
    _die_with_the_parent()
    _answer_no_signals()
    told = os.dup(1)
    os.dup2(2, 1)  # whatever native code prints is no answer of ours
    asked = json.loads(sys.stdin.buffer.readline())
    server = xllamacpp.Server(_params(path, asked))
    with os.fdopen(told, "wb") as out:
        out.write(json.dumps({"port": urlsplit(server.listening_address).port}).encode() + b"\n")
    while sys.stdin.buffer.readline():
        pass
    os._exit(0)  # threads of native code are under way, and nothing of theirs is worth a clean-up


def _params(path: str, asked: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [asked["key"]]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    params.n_parallel = asked["parallel"]
    params.n_ctx = asked["context_tokens"] * asked["parallel"]  # it is divided among them
    params.n_threads_http = asked["parallel"] + HTTP_THREADS_BESIDE
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_gpu_layers = 0
    params.fit_params = False  # it would make the context smaller without a word
    params.cache_ram_mib = 0  # a second cache, of prompts that no slot holds any more
    params.ui = False
    params.cors_origins = ""
    params.verbosity = ONLY_ERRORS
    return params


def _die_with_the_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answer_no_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        os.nice(NICE)


if __name__ == "__main__":
    main(sys.argv[1])
