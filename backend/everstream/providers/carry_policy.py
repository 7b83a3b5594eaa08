"""How a broken answer can be taken up again, by who makes it: the table of policies.

    exact     the provider still runs it: read on where the reading stopped                       (`responses_api`)
    prefill   what was said is sent as the beginning of the assistant's turn, and the model writes on
    prompted  what was said is sent as a finished turn, and the model is told to go on from its end
    restart   nothing of the answer was shown yet: ask again

Whether a model writes on is a matter of its maker and of the server before it, and no document says it of all.  So
there are three sources, in this order: what the operator says (a setting for each provider), this table, and for
everybody else a question of thirty tokens (`carry_known`).  A provider that refuses in one of the known words is
believed at once.

A row is found by the API that is spoken, by the address (host and path), by the name that the server gives itself in
its list of models (`owned_by`), and by the model; the first that fits counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from everstream.core.events import Continuation

Dialect = Literal["chat", "responses", "completions", "messages", "gemini", "interactions", "ollama", "cohere"]
Best = Literal["prefill", "prompted", "probe"]  # probe: nobody knows, ask
Carry = Literal["auto", "prefill", "prefill_echo", "prompted", "restart", "none"]  # as the setting says
Style = Literal["assistant", "prefix", "partial", "continue_final_message"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What one kind of model takes.

    `style`: how a turn is marked as unfinished.  `echo`: the answer begins with what was sent.  `thought`: what to do
    where thinking came before the text: some take no beginning then, some want the thinking with it.  `tokens`: the
    server tells token ids and takes them as a prompt.
    """

    best: Best
    style: Style = "assistant"
    echo: bool = False
    thought: Literal["prompted", "reasoning_content"] = "prompted"
    tokens: bool = False

    @property
    def expected(self) -> Continuation:
        """What can be promised before anybody has asked."""
        return "prefill" if self.best == "prefill" else "prompted"


@dataclass(frozen=True, slots=True)
class Row:
    dialect: Dialect
    policy: Policy
    place: str = ""  # a pattern, searched for in host and path
    owner: str = ""  # the whole of `owned_by`
    model: str = ""  # a pattern, searched for in the model's name


PROMPTED = Policy("prompted")
PROBE = Policy("probe")
_WRITES_ON = Policy("prefill")

ROWS: tuple[Row, ...] = (
    # platform.claude.com, streaming, "Error recovery": up to Claude 4.5 the partial answer may begin a new assistant
    # turn, not together with thinking; from 4.6 on such a turn is refused, and a user's message has to ask for more.
    Row("messages", _WRITES_ON, model=r"claude-(?:[a-z]+-)?(?:[1-3]\b|4[.-][0-5]\b|4$|4[@-]\d{8})"),
    Row("messages", PROMPTED, model=r"claude-"),
    Row("messages", PROBE),
    # The Responses API knows no unfinished turn (OpenAI, xAI, Perplexity, vLLM): exact in the background, or prompted.
    Row("responses", PROMPTED),
    # A trailing assistant message is a finished turn (OpenAI, Azure: API reference; Perplexity: no statement).
    Row("chat", PROMPTED, place=r"^api\.openai\.com|\.openai\.azure\.com|^api\.perplexity\.ai"),
    # docs.mistral.ai, "Prefix": the flag is needed, and the answer begins with the prefix.
    Row("chat", Policy("prefill", "prefix", echo=True), place=r"^api\.mistral\.ai"),
    # api-docs.deepseek.com, "Chat Prefix Completion (Beta)": only under /beta; `reasoning_content` is the thinking.
    Row("chat", Policy("prefill", "prefix", thought="reasoning_content"), place=r"^api\.deepseek\.com/beta"),
    Row("chat", PROMPTED, place=r"^api\.deepseek\.com"),
    # platform.moonshot.ai, "Partial Mode", and Model Studio, "Partial mode" (not while thinking): not repeated.
    Row("chat", Policy("prefill", "partial"), place=r"^api\.moonshot\.|^dashscope[\w-]*\.aliyuncs\.com"),
    # OpenRouter hands a trailing assistant message on; these models refuse it or begin a new turn.
    Row("chat", PROMPTED, place=r"^openrouter\.ai", model=r"^openai/|claude-(?:[a-z]+-)?(?:4[.-][6-9]|[5-9])"),
    # Servers of one's own, by what they call themselves in /models.  vLLM: `continue_final_message`, `return_token_ids`
    # (docs.vllm.ai, OpenAI-compatible server); SGLang: `continue_final_message` in its chat request; llama.cpp's server
    # writes on after a trailing assistant message by itself (tools/server/README.md, --no-prefill-assistant).
    Row("chat", Policy("prefill", "continue_final_message", tokens=True), owner="vllm"),
    Row("chat", Policy("prefill", "continue_final_message"), owner="sglang"),
    Row("chat", _WRITES_ON, owner="llamacpp"),
    # Groq, OpenRouter, Together, Fireworks, LM Studio, Ollama and all the others: by model and by template.
    Row("chat", PROBE),
    # A trailing turn of the model's is written on up to Gemini 3.1 and by 3.5-flash; the others refuse it ("Requests
    # ending with a model turn are not supported").  Other names behind the same API (Gemma, tuned models): ask.
    Row("gemini", _WRITES_ON, model=r"gemini-(?:[12][.-]|3-|3\.[01]-|3\.5-flash(?!-lite)|pro-latest)"),
    Row("gemini", PROMPTED, model=r"gemini-"),
    Row("gemini", PROBE),
    # The Interactions API knows no unfinished step: exact in the background, or prompted.
    Row("interactions", PROMPTED),
    # Ollama's own API: some templates leave a trailing assistant message open, others close it (model/renderers).
    Row("ollama", PROBE),
    # docs.cohere.com, Chat API: an assistant's message is a finished turn.
    Row("cohere", PROMPTED),
    # A plain completion writes on from any text: there are no turns.
    Row("completions", _WRITES_ON),
)
_WITHOUT_UNFINISHED_TURNS: frozenset[Dialect] = frozenset({"responses", "interactions", "cohere"})


def policy_of(dialect: Dialect, address: str, owner: str, model: str) -> Policy:
    """The table's word.  `address` is a base URL; `owner` is "" where it is not known."""
    place = re.sub(r"^\w+://(?:[^/@]*@)?", "", address)
    for row in ROWS:
        if (
            row.dialect == dialect
            and (not row.place or re.search(row.place, place))
            and (not row.owner or row.owner == owner)
            and (not row.model or re.search(row.model, model))
        ):
            return row.policy
    return PROMPTED


def overruled(policy: Policy, dialect: Dialect, carry: Carry) -> Policy:
    """The policy as the operator wants it.  An API that has no unfinished turns cannot be talked into them."""
    if carry == "auto":
        return policy
    if carry in ("prefill", "prefill_echo") and dialect not in _WITHOUT_UNFINISHED_TURNS:
        return replace(policy, best="prefill", echo=carry == "prefill_echo")
    return replace(policy, best="prompted")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Words in which a beginning is refused; `lasting`: it will be refused the next time too."""

    words: str
    lasting: bool = True


REFUSALS: tuple[Refusal, ...] = (
    Refusal("does not support assistant message prefill"),  # Anthropic, Claude 4.6 and later
    Refusal("ending with a model turn are not supported"),  # Gemini 3.5-flash-lite, 3.6 and later
    Refusal("Expected last role User or Tool"),  # Mistral, without `prefix`
    Refusal("incompatible with enable_thinking"),  # llama.cpp
    Refusal("cannot end with trailing whitespace", lasting=False),  # Anthropic; the next text may end otherwise
)


def refusal_in(message: str) -> Refusal | None:
    """The known refusal that a provider's message holds."""
    folded = message.lower()
    return next((refusal for refusal in REFUSALS if refusal.words.lower() in folded), None)
