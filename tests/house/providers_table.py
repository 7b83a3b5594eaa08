"""The table of services as the page on providers shows it, made from the tables of the code.

`python -m tests.house.providers_table` prints it, to be pasted.
"""

from __future__ import annotations

import re

from everstream.providers.carry_policy import ROWS, Policy
from everstream.providers.presets import PRESETS, Preset

HEAD = "| provider | text | thinking | tools | images in | usage | carried on, at best | set | price |"
ALL_DO = ("openai", "anthropic", "gemini")  # whose models on offer do all of it
BACKGROUND = {  # where a run outlives the connection that asked for it
    "openai": "`exact` in the background",
    "gemini": "`exact` as an interaction in the background",
}
PREFILL = "`prefill`"
ASKED = "`prefill` if the model writes on, else `prompted`"
OWNERS = {"vllm": "vllm", "llamacpp": "llamacpp", "sglang": "sglang"}  # what a server calls itself

# Models that no service makes: the same columns from the second on.
OTHERS = {
    "app": ("a function of your own", "if it says so", "if it says so", "if it says so", "reported or estimated",
            "as declared: `exact` to none", "[own models](own-models.md)", "unknown"),
    "local": ("a small model that comes along", "no", "no", "no", "reported",
              "`prefill`, by token ids", "`everstream local install`", "unknown"),
    "huggingface": ("Transformers in this process", "no", "no", "no", "reported",
                    "`prefill`, by token ids", "`huggingface_models`", "unknown"),
    "scripted": ("for trials and tests", "yes", "yes", "no", "reported", "`exact`", "nothing", "unknown"),
}  # fmt: skip


def providers_table() -> str:
    rows = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    rows += [_row(name, preset) for name, preset in PRESETS.items()]
    for name, (title, *cells) in OTHERS.items():
        rows.append(f"| `{name}`: {title} | yes | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _row(name: str, preset: Preset) -> str:
    able = [_able(name, said) for said in (preset.thinking, preset.tools, preset.images)]
    cells = [f"`{name}`: {preset.title}", "yes", *able, "reported", _carried(name, preset), _set(preset)]
    return "| " + " | ".join([*cells, "known" if preset.priced_as else "unknown"]) + " |"


def _able(name: str, said: bool | None) -> str:
    if said is None:
        return "yes" if name in ALL_DO else "by model"
    return "yes" if said else "no"


def _carried(name: str, preset: Preset) -> str:
    """The words of the table of policies: all that its rows say of the models of this service."""
    place = re.sub(r"^\w+://", "", preset.rules or preset.base_url)
    said: list[str] = []
    for row in ROWS:
        if (
            row.dialect == preset.api
            and (not row.place or re.search(row.place, place))
            and (not row.owner or row.owner == OWNERS.get(name))
        ):
            said.append(_words(row.policy))
            if not row.model:
                break
    words = said[0] if len(set(said)) == 1 else "`prefill` or `prompted`, by model" if PREFILL in said else ASKED
    return f"{BACKGROUND[name]}, else {words}" if name in BACKGROUND else words


def _words(policy: Policy) -> str:
    if policy.best == "probe":
        return ASKED
    if policy.best == "prompted":
        return "`prompted`"
    return f"{PREFILL}, by token ids" if policy.tokens else PREFILL


def _set(preset: Preset) -> str:
    key = " or ".join(f"`{variable}`" for variable in preset.key_envs)
    if preset.key_envs and not preset.base_url:
        return f"`{preset.address_env}` and {key}"
    if preset.key_envs:
        return key
    address = f"; `{preset.address_env}` elsewhere" if preset.address_env else ""
    port = preset.base_url.partition("127.0.0.1:")[2].partition("/")[0]
    return f"nothing, on port {port} of this machine{address}"


if __name__ == "__main__":
    print(providers_table(), end="")
