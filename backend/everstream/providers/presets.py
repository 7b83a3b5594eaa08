"""The services that are known by name, and how one becomes an endpoint.

A row of `PRESETS` holds what a person would otherwise have to look up: the address, the variable in which the vendor's
own documents put the key, what is spoken there, and in what the service differs from the API that it says it speaks.
A section `[endpoints.NAME]` of the settings overrules a row key by key; a section whose name is no row's, and which
names no `preset`, stands for itself.

A key belongs to a vendor's address.  Behind another one (a proxy, a server of one's own) none is asked for, unless the
section says where it is to be found; but the rules of the vendor (`Endpoint.rules`) hold behind a proxy too.  They do
not for `openai`: so many servers speak its API that the address says nothing of what stands behind it.

Addresses and variables: each vendor's own page for "OpenAI compatibility" or "quick start".  Models are named only
where the service has no list of them that can be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from everstream.endpoint_settings import EndpointSettings
from everstream.providers.endpoint import Api, Endpoint
from everstream.settings import Settings

LOOPBACK: Final = "http://127.0.0.1:"


@dataclass(frozen=True, slots=True)
class Preset:
    """A row: what `Endpoint` says of the same names.

    `key_envs` are the variables that may hold the key, the first that is set counts; none: no key is needed.
    `address_env` is the variable that may hold the address; `complete` makes a base URL of what it holds.
    `listed` services are shown, with what to do, although they cannot be used.
    """

    title: str
    base_url: str
    key_envs: tuple[str, ...] = ()
    api: Api = "chat"
    address_env: str = ""
    complete: Callable[[str], str] | None = None
    listed: bool = False
    rules: str = ""
    priced_as: str = ""
    models: tuple[str, ...] = ()
    leave_out: frozenset[str] = frozenset()
    called: Mapping[str, str] = field(default_factory=dict)
    max_tokens_field: str | None = None
    key_header: str = ""
    lists: bool = True
    thinking: bool | None = None
    tools: bool | None = None
    images: bool | None = None


def azure_url(resource: str) -> str:
    """The base URL of Azure's v1 API, from the resource's address as its portal shows it."""
    resource = resource.rstrip("/")
    return resource if "/openai" in resource else f"{resource}/openai/v1"


def ollama_url(host: str) -> str:
    """The address that a client of Ollama is to ask, from OLLAMA_HOST, which a server is told to listen on as well."""
    scheme, mark, rest = host.rstrip("/").rpartition("://")
    place, slash, path = rest.partition("/")
    name, colon, port = place.rpartition(":")
    if not colon or not port.isdigit():
        name, port = place, "443" if scheme == "https" else "80" if mark else "11434"
    name = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(name, name)
    return f"{scheme or 'http'}://{name}:{port}{slash}{path}"


PRESETS: Final[Mapping[str, Preset]] = {
    "openai": Preset(
        "OpenAI",
        "https://api.openai.com/v1",
        ("OPENAI_API_KEY",),
        address_env="OPENAI_BASE_URL",
        listed=True,
        priced_as="openai",
    ),
    "anthropic": Preset(
        "Anthropic",
        "https://api.anthropic.com",
        ("ANTHROPIC_API_KEY",),
        "messages",
        address_env="ANTHROPIC_BASE_URL",
        listed=True,
        priced_as="anthropic",
    ),
    "gemini": Preset(
        "Google Gemini",
        "https://generativelanguage.googleapis.com",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "gemini",
        listed=True,
        priced_as="google",
    ),
    "mistral": Preset(
        "Mistral",
        "https://api.mistral.ai/v1",
        ("MISTRAL_API_KEY",),
        priced_as="mistral",
        # What it does not know it refuses (422 "Extra inputs are not permitted"); it tells usage unasked.
        leave_out=frozenset({"stream_options"}),
        called={"seed": "random_seed"},
        max_tokens_field="max_tokens",
        tools=True,
    ),
    "deepseek": Preset(
        "DeepSeek",
        "https://api.deepseek.com/beta",  # the only address that takes an unfinished turn; all else is the same
        ("DEEPSEEK_API_KEY",),
        priced_as="deepseek",
        models=("deepseek-v4-flash", "deepseek-v4-pro"),  # the list lies at another address
        thinking=True,
        tools=True,
    ),
    "groq": Preset("Groq", "https://api.groq.com/openai/v1", ("GROQ_API_KEY",), priced_as="groq", tools=True),
    "openrouter": Preset("OpenRouter", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",), priced_as="openrouter"),
    "together": Preset("Together AI", "https://api.together.ai/v1", ("TOGETHER_API_KEY",), priced_as="together"),
    "xai": Preset("xAI", "https://api.x.ai/v1", ("XAI_API_KEY",), priced_as="x-ai", tools=True),
    "fireworks": Preset(
        "Fireworks", "https://api.fireworks.ai/inference/v1", ("FIREWORKS_API_KEY",), priced_as="fireworks"
    ),
    "cerebras": Preset(
        "Cerebras", "https://api.cerebras.ai/v1", ("CEREBRAS_API_KEY",), priced_as="cerebras", tools=True
    ),
    "perplexity": Preset(
        "Perplexity",
        "https://api.perplexity.ai",
        ("PERPLEXITY_API_KEY",),
        priced_as="perplexity",
        models=("sonar", "sonar-pro", "sonar-reasoning-pro", "sonar-deep-research"),
        tools=False,
    ),
    "moonshot": Preset(
        "Moonshot AI", "https://api.moonshot.ai/v1", ("MOONSHOT_API_KEY",), priced_as="moonshotai", tools=True
    ),
    "alibaba": Preset(
        "Alibaba Model Studio",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        ("DASHSCOPE_API_KEY",),
        models=("qwen-max", "qwen-plus", "qwen-flash"),
        tools=True,
    ),
    "zai": Preset(
        "Z.ai",
        "https://api.z.ai/api/paas/v4",
        ("ZAI_API_KEY",),
        priced_as="zai",
        models=("glm-5.3", "glm-5.3-flash", "glm-4.7"),
        thinking=True,
        tools=True,
    ),
    "cohere": Preset(
        "Cohere", "https://api.cohere.com", ("COHERE_API_KEY", "CO_API_KEY"), "cohere", priced_as="cohere", tools=True
    ),
    "azure": Preset(
        "Azure OpenAI",
        "",
        ("AZURE_OPENAI_API_KEY",),
        address_env="AZURE_OPENAI_ENDPOINT",
        complete=azure_url,
        rules="https://resource.openai.azure.com/openai/v1",
        priced_as="azure",
        max_tokens_field="max_completion_tokens",
        key_header="api-key",
        lists=False,  # what it lists are models that could be deployed, not those that are
    ),
    "hf": Preset("Hugging Face router", "https://router.huggingface.co/v1", ("HF_TOKEN",)),
    "ollama": Preset("Ollama", f"{LOOPBACK}11434", (), "ollama", address_env="OLLAMA_HOST", complete=ollama_url),
    "lmstudio": Preset("LM Studio", f"{LOOPBACK}1234/v1"),
    "vllm": Preset("vLLM", f"{LOOPBACK}8000/v1"),
    "llamacpp": Preset("llama.cpp", f"{LOOPBACK}8080/v1"),
    "sglang": Preset("SGLang", f"{LOOPBACK}30000/v1"),
}

OLLAMA_KEY_ENV: Final = "OLLAMA_API_KEY"  # wanted by Ollama's own service, not by a server on this machine


def endpoint_of(
    name: str, given: EndpointSettings, environment: Mapping[str, str], found_at: str | None = None
) -> Endpoint:
    """The endpoint that a section of this name describes, over the preset that it names or that has its name.

    `found_at` is where a server of this machine was found; the settings and the environment come before it.
    """
    preset = PRESETS.get(given.preset or name, Preset(name, ""))
    told = environment.get(preset.address_env, "") if preset.address_env else ""
    if told and preset.complete is not None:
        told = preset.complete(told)
    address = (given.base_url or told or found_at or preset.base_url).rstrip("/")
    key_envs = (given.key_env,) if given.key_env else preset.key_envs
    own = address == preset.base_url
    # Whatever answers at Ollama's usual port is not given a key unasked.
    looked_in = (*key_envs, OLLAMA_KEY_ENV) if preset is PRESETS["ollama"] and not own else key_envs
    key = given.api_key.get_secret_value() if given.api_key else ""
    key_from = "the settings" if key else next((name for name in looked_in if environment.get(name)), "")
    key = key or environment.get(key_from, "")
    return Endpoint(
        name,
        given.api or preset.api,
        address,
        key or None,
        needs_key=bool(given.key_env) or (bool(key_envs) and (own or not preset.base_url)),
        key_from=key_from,
        why_not=_what_to_do(preset, address, key, key_envs),
        models=preset.models if given.models is None else given.models,
        continuation=given.continuation or "auto",
        headers=given.headers or {},
        query=given.query or {},
        body=given.body or {},
        leave_out=preset.leave_out if given.leave_out is None else frozenset(given.leave_out),
        max_tokens_field=given.max_tokens_field or preset.max_tokens_field,
        priced_as=preset.priced_as if given.priced_as is None else given.priced_as,
        context_tokens=given.context_tokens or 0,
        thinking=preset.thinking if given.thinking is None else given.thinking,
        tools=preset.tools if given.tools is None else given.tools,
        images=preset.images if given.images is None else given.images,
        key_header=given.key_header or preset.key_header,
        called=preset.called,
        lists=preset.lists,
        rules=preset.rules or ("" if preset is PRESETS["openai"] else preset.base_url),
    )


def _what_to_do(preset: Preset, address: str, key: str, key_envs: tuple[str, ...]) -> str:
    missing = [] if address else [preset.address_env or "base_url"]
    if key_envs and not key:
        missing.append(" or ".join(key_envs))
    return "set " + " and ".join(missing) if missing else ""


def endpoints_of(
    settings: Settings, environment: Mapping[str, str], found_at: Mapping[str, str]
) -> dict[str, Endpoint]:
    """Every endpoint there is, by name.  `found_at` is where servers of this machine may be found, by name."""
    endpoints = {}
    for name, section in sections_of(settings).items():
        endpoint = endpoint_of(name, section, environment, found_at.get(name))
        preset = PRESETS.get(name)
        offered = (
            preset is None
            or preset.listed
            or name in settings.endpoints
            or (bool(preset.key_envs) and endpoint.hindrance is None)
            or bool(preset.address_env and environment.get(preset.address_env) and endpoint.hindrance is None)
        )
        endpoints[name] = replace(endpoint, offered=offered)
    return endpoints


def sections_of(settings: Settings) -> dict[str, EndpointSettings]:
    """Every endpoint there is, by name: the presets, the settings' own, and what single settings say of the three
    vendors that have some (a section comes before those).  What somebody configured comes before what is only known."""
    flat = {
        "openai": EndpointSettings(
            base_url=settings.openai_base_url,
            api_key=settings.openai_api_key,
            api=settings.openai_api,
            continuation=settings.openai_continuation,
        ),
        "anthropic": EndpointSettings(
            base_url=settings.anthropic_base_url,
            api_key=settings.anthropic_api_key,
            continuation=settings.anthropic_continuation,
        ),
        "gemini": EndpointSettings(
            base_url=settings.gemini_base_url,
            api_key=settings.gemini_api_key,
            continuation=settings.gemini_continuation,
        ),
    }
    sections = {name: flat.get(name, EndpointSettings()) for name in (*flat, *settings.endpoints, *PRESETS)}
    for name, section in settings.endpoints.items():
        if section.preset not in (None, name):  # it has the name alone in common with what single settings speak of
            sections[name] = EndpointSettings()
        sections[name] = sections[name].model_copy(update=section.model_dump(exclude_none=True))
    return sections
