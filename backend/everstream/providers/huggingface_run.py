"""One Hugging Face model in this process: loaded, asked, stopped.  Everything here blocks, and belongs in a thread.

This is the only module that imports torch and transformers, which take seconds and hundreds of megabytes: it is itself
imported when the first model is needed.

Text comes a token at a time, but a token may be half a character, and what a token looks like depends on the one before
it.  So the text of a few tokens is compared with the text of the same tokens and the new one, and given out where it
does not end in the middle of a character: with the ids of all tokens that it stands for (`Pieces`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers

CONTEXT_TOKENS_MAX: Final = 32_768  # some models claim a length that no machine's memory holds
HALF_A_CHARACTER: Final = "\ufffd"
LEADING_TOKENS: Final = 8
HELD_TOKENS_MAX: Final = 8  # no character has more; this is none

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
# Spinning for a core that somebody else needs makes a model ten times slower, so half of them are left alone.
torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))

Emit = Callable[[str, tuple[int, ...]], None]


@dataclass(frozen=True, slots=True)
class Drawing:
    """How tokens are drawn.  What is None is as the model's own configuration says."""

    tokens_max: int
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """What a run came to: how many tokens it drew, and whether it ended by itself."""

    tokens: int
    ended: bool


class Pieces:
    """Token ids in, text out, with the ids that stand for it.  `shown` are those of the answer before."""

    def __init__(self, decode: Callable[[Sequence[int]], str], shown: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._known = list(shown[-LEADING_TOKENS:])  # tokens whose text is out: what the next one looks like needs them
        self._new: list[int] = []
        self._stops = stops
        self._held = ""
        self.stopped = False

    def feed(self, token: int) -> tuple[str, tuple[int, ...]]:
        """The text that this token completes, "" for none, and the ids of all of it."""
        self._new.append(token)
        known = self._decode(self._known)
        text = self._decode([*self._known, *self._new])
        half = text.endswith(HALF_A_CHARACTER) and len(self._new) < HELD_TOKENS_MAX
        if len(text) <= len(known) or half:
            return "", ()
        ids = tuple(self._new)
        self._known = [*self._known, *self._new][-LEADING_TOKENS:]
        self._new = []
        return self._cut(text[len(known) :]), ids

    def end(self) -> str:
        """What was held, for no stop sequence came of it."""
        held, self._held = self._held, ""
        return held

    def _cut(self, text: str) -> str:
        """The text up to a stop sequence; what may be the beginning of one is held."""
        if not self._stops:
            return text
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        longest = max(len(stop) for stop in self._stops) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                self._held = text[-size:]
                return text[:-size]
        self._held = ""
        return text


class Loaded:
    """A model in memory, with its tokenizer."""

    def __init__(self, source: str) -> None:
        """`source` is `owner/name` or a folder.  Raises OSError or ValueError where there is no such model."""
        self._tokenizer = _from_pretrained(transformers.AutoTokenizer, source)
        self._model = _from_pretrained(transformers.AutoModelForCausalLM, source, dtype="auto").eval()
        self._model.to(_device())
        length = getattr(self._model.config, "max_position_embeddings", None) or CONTEXT_TOKENS_MAX
        self.context_tokens = min(length, CONTEXT_TOKENS_MAX)

    def prompt_of(self, messages: list[dict[str, Any]]) -> list[int]:
        """The conversation in the words of the model's template, as ids; a last turn of the assistant stays open.

        Raises ValueError where the template cannot say it.
        """
        tokenizer = self._tokenizer
        open_turn = messages[-1]["role"] == "assistant"
        if tokenizer.chat_template is None:
            lines = [f"{message['role']}: {message['content']}" for message in messages]
            words = "\n".join(lines if open_turn else [*lines, "assistant:"])
            return list(tokenizer(words)["input_ids"])
        # What a template refuses it says with an exception of its own, which is none that could be named here.
        try:
            words = tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=not open_turn,
                continue_final_message=open_turn,
                enable_thinking=False,  # for the templates that know it: the marks of thinking would stand in the text
            )
        except Exception as error:
            raise ValueError(str(error)) from None
        return list(tokenizer(words, add_special_tokens=False)["input_ids"])

    def run(self, prompt: list[int], made: int, drawing: Drawing, emit: Emit, stopped: threading.Event) -> Made:
        """Draw tokens until the model ends, the bound is reached or `stopped` is set, which is seen before each token.

        What is drawn goes to `emit`, in this thread, as text that follows on the prompt's last `made` tokens.
        """
        tokenizer, ends = self._tokenizer, self._ends()
        shown = prompt[len(prompt) - made :]
        pieces = Pieces(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)), shown, drawing.stops)
        drawn: list[int] = []

        def take(token: int) -> None:
            drawn.append(token)
            if token not in ends and not pieces.stopped:
                text, ids = pieces.feed(token)
                if text:
                    emit(text, ids)

        if drawing.seed is not None:
            torch.manual_seed(drawing.seed)
        ids = torch.tensor([prompt], device=self._model.device)
        halt = _Halt(lambda: stopped.is_set() or pieces.stopped)
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=drawing.tokens_max,
                streamer=_Tap(take),
                stopping_criteria=transformers.StoppingCriteriaList([halt]),
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0),
                **_sampling(drawing),
            )
        held = pieces.end()
        if held:
            emit(held, ())
        return Made(len(drawn), pieces.stopped or (bool(drawn) and drawn[-1] in ends))

    def _ends(self) -> frozenset[int]:
        said = self._model.generation_config.eos_token_id
        return frozenset() if said is None else frozenset([said] if isinstance(said, int) else said)


def _sampling(drawing: Drawing) -> dict[str, Any]:
    if drawing.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    asked = {"temperature": drawing.temperature, "top_p": drawing.top_p}
    given = {key: value for key, value in asked.items() if value is not None}
    return {"do_sample": True, **given} if given else {}


def _from_pretrained(kind: Any, source: str, **options: Any) -> Any:
    """What lies on this machine, and only where nothing does, what the hub has."""
    try:
        return kind.from_pretrained(source, local_files_only=True, **options)
    except (OSError, ValueError):
        return kind.from_pretrained(source, **options)


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class _Tap(transformers.generation.streamers.BaseStreamer):  # type: ignore[misc]
    """Hands each token on as it is drawn; the first thing that is put is the prompt."""

    def __init__(self, take: Callable[[int], None]) -> None:
        self._take = take
        self._knows_prompt = False

    def put(self, value: Any) -> None:
        if not self._knows_prompt:
            self._knows_prompt = True
            return
        for token in value.flatten().tolist():
            self._take(token)

    def end(self) -> None:
        """There is nothing to end."""


class _Halt(transformers.StoppingCriteria):  # type: ignore[misc]
    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._wanted(), device=input_ids.device, dtype=torch.bool)
