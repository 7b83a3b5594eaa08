"""Questions to other nodes, over messages that may be lost.

    asker                                           the node that is asked
      ask <id> <asker> <question>  ───────────▶  carries it out, once, and keeps the answer
      ask <id> <asker> <question>  ───────────▶  (under way: ignored; done: the kept answer again)
                                   ◀───────────  said <id> <answer>

The store's messages are hints: each may be lost, come twice, or come late.  So a question is sent again until its
answer is there, and an answer is kept for as long as somebody may still ask for it.  What has been carried out is
remembered for longer than its answer is kept: where there is no answer any more the asker hears nothing, but nothing
is done twice.  An asker whose time is up therefore does not know whether it was done.

The id is the only thing that an answer has to show, so nobody can guess it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from everstream.core.errors import EverstreamError
from everstream.runtime.ending import end
from everstream.store.base import Store, StoreUnavailable

logger = structlog.get_logger(__name__)

AGAIN_S = 0.3  # between two sendings of a question: some round trips, far less than a person notices
ANSWERING_MAX = 1024  # questions, and answers to repeated ones, at a time; more are ignored, and come again
ANSWERS_MAX = 4096
ANSWERS_BYTES = 16 << 20
DONE_MAX = 65_536  # questions of which it is known that they were carried out: a minute of a thousand a second
KEPT_S = 60.0  # since it was last asked for: 200 repetitions
_ID_BYTES = 16
_NODE_CHARS_MAX = 128
_ASK = b"ask "
_SAID = b"said "


class Calls:
    """A node's questions to others, and its answers to theirs.  To be made, and used, in the event loop."""

    def __init__(self, store: Store, node: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """`answer` carries out another node's question; it says by its answer what went wrong, and never raises."""
        self._store = store
        self._node = node.encode()
        self._answer = answer
        self._clock = asyncio.get_running_loop().time
        self._asked: dict[bytes, _Asked] = {}  # by id; each has somebody waiting for it
        self._answering: set[bytes] = set()
        self._done = _Done()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def ask(self, node: str, question: bytes, timeout_s: float) -> bytes:
        """The answer of another node, which carries the question out once at most.

        Raises TimeoutError where none came in time, and EverstreamError `store.unavailable` where the question could
        not even be sent the last time, or this node stops.  Either way it may have been carried out, or yet be.
        """
        if self._stopped:
            raise StoreUnavailable("this node stops")
        question_id = secrets.token_hex(_ID_BYTES).encode()
        asked = self._asked[question_id] = _Asked()
        self._begin(self._send_until_answered(asked, node, b"%s%s %s %s" % (_ASK, question_id, self._node, question)))
        try:
            await asyncio.wait({asked.outcome}, timeout=timeout_s)
            answer = asked.outcome.result() if asked.outcome.done() else None
        finally:
            del self._asked[question_id]
            asked.outcome.cancel()
        if answer is not None:
            return answer
        raise asked.failure or TimeoutError("another node did not answer in time")

    def on_message(self, message: bytes) -> bool:
        """Take a message from another node: True where it was one of ours, be it garbage."""
        if message.startswith(_SAID):
            question_id, _, answer = message[len(_SAID) :].partition(b" ")
            asked = self._asked.get(question_id)
            if asked is not None and not asked.outcome.done():
                asked.outcome.set_result(answer)
            return True
        if message.startswith(_ASK):
            self._on_question(message[len(_ASK) :])
            return True
        return False

    async def stop(self) -> None:
        """Answer nothing more.  Whoever still waits for an answer is told that it does not come."""
        self._stopped = True
        for asked in self._asked.values():
            asked.give_up(StoreUnavailable("this node stops"))
        await end(self._tasks)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="call of another node")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_until_answered(self, asked: _Asked, node: str, message: bytes) -> None:
        # Not cancelled when the outcome is there: a connection to the store does not outlive a cancelled command.
        while not asked.outcome.done():
            try:
                await self._store.send(node, message)
                asked.failure = None
            except EverstreamError as error:
                asked.failure = error
            except Exception as error:
                asked.give_up(error)
            await asyncio.wait({asked.outcome}, timeout=AGAIN_S)

    def _on_question(self, said: bytes) -> None:
        question_id, _, rest = said.partition(b" ")
        asker, space, question = rest.partition(b" ")
        if not (space and len(question_id) == 2 * _ID_BYTES and 0 < len(asker) <= _NODE_CHARS_MAX and asker.isascii()):
            logger.debug("what looks like a question of another node is none")
        elif not self._stopped and question_id not in self._answering and len(self._answering) < ANSWERING_MAX:
            self._answering.add(question_id)
            self._begin(self._reply(question_id, asker.decode(), question))

    async def _reply(self, question_id: bytes, asker: str, question: bytes) -> None:
        try:
            if self._done.knows(question_id, self._clock()):
                answer = self._done.answer(question_id)
            else:
                answer = await self._carry_out(question)
                self._done.add(question_id, answer, self._clock())
            if answer is not None:
                await self._store.send(asker, b"%s%s %s" % (_SAID, question_id, answer))
        except EverstreamError as error:  # the asker comes again
            logger.debug("an answer could not be sent", to=asker, error=error.message)
        except Exception:
            logger.exception("an answer could not be sent", to=asker)
        finally:
            self._answering.discard(question_id)

    async def _carry_out(self, question: bytes) -> bytes | None:
        try:
            return await self._answer(question)
        except Exception:
            logger.exception("a question of another node was not answered")
            return None


class _Asked:
    """A question that is waited for.  The outcome is None where it was given up, for `failure`."""

    __slots__ = ("failure", "outcome")

    def __init__(self) -> None:
        self.outcome: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.failure: Exception | None = StoreUnavailable("the question could not be sent")  # till it was, once

    def give_up(self, failure: Exception) -> None:
        if not self.outcome.done():
            self.failure = failure
            self.outcome.set_result(None)


class _Done:
    """Which questions were carried out lately, the one last asked for at the end, and the answers to the later ones."""

    __slots__ = ("_answers", "_answers_bytes", "_at")

    def __init__(self) -> None:
        self._at: OrderedDict[bytes, float] = OrderedDict()
        self._answers: OrderedDict[bytes, bytes] = OrderedDict()
        self._answers_bytes = 0

    def knows(self, question_id: bytes, now: float) -> bool:
        """Whether it was carried out.  Then it is remembered from now on anew."""
        if question_id not in self._at:
            return False
        self._at[question_id] = now
        self._at.move_to_end(question_id)
        if question_id in self._answers:
            self._answers.move_to_end(question_id)
        return True

    def answer(self, question_id: bytes) -> bytes | None:
        """None where none was given, or it is not kept any more."""
        return self._answers.get(question_id)

    def add(self, question_id: bytes, answer: bytes | None, now: float) -> None:
        self._at[question_id] = now
        if answer is not None and len(answer) <= ANSWERS_BYTES:
            self._answers[question_id] = answer
            self._answers_bytes += len(answer)
        while len(self._at) > DONE_MAX or self._oldest_at() < now - KEPT_S:
            self._drop_answer(self._at.popitem(last=False)[0])
        while len(self._answers) > ANSWERS_MAX or self._answers_bytes > ANSWERS_BYTES:
            self._drop_answer(next(iter(self._answers)))

    def _oldest_at(self) -> float:
        return self._at[next(iter(self._at))]

    def _drop_answer(self, question_id: bytes) -> None:
        self._answers_bytes -= len(self._answers.pop(question_id, b""))
