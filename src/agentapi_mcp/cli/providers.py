"""The providers that `agents add` knows: where each is, which variable holds its key, and where it is documented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TYPE_CHECKING = False  # type checkers take it for true
if TYPE_CHECKING:
    from pydantic import SecretStr


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider of models; without a base URL, everyone has an own one, and models are the user's deployments.

    A default model is taken only where the provider's own list has it. `options` are those that the provider needs, and
    `remark` is what its list cannot tell.
    """

    title: str
    base_url: str | None
    backend: str = "openai"
    key_variable: str | None = None
    default_model: str | None = None
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    page: str = "docs/backends/openai.md"
    remark: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is a program on this machine."""
        return self.base_url is not None and self.base_url.startswith("http://127.0.0.1:")


@dataclass(frozen=True, slots=True)
class EnteredKey:
    """A key that was entered, and is in no variable: to be sealed, where there is a master key."""

    provider: str
    variable: str
    value: SecretStr
    has_master_key: bool


# The first answer waits until the model is loaded.
_LOADS_AT_FIRST: Mapping[str, object] = {"idle_timeout_seconds": 600}
_UNBILLED: Mapping[str, object] = {"stops_billing": True}  # nobody bills it, and it stops when the connection closes
PROVIDERS: dict[str, Provider] = {
    "anthropic": Provider(
        title="Anthropic",
        backend="anthropic",
        base_url="https://api.anthropic.com",
        key_variable="ANTHROPIC_API_KEY",
        default_model="claude-sonnet-5",
        page="docs/backends/anthropic.md",
    ),
    "azure": Provider(
        title="Azure OpenAI",
        base_url=None,
        key_variable="AZURE_OPENAI_API_KEY",
        page="docs/providers/azure.md",
    ),
    "deepseek": Provider(
        title="DeepSeek",
        base_url="https://api.deepseek.com/v1",
        key_variable="DEEPSEEK_API_KEY",
        page="docs/providers/deepseek.md",
    ),
    "gemini": Provider(
        title="the Gemini API",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_variable="GEMINI_API_KEY",
        default_model="gemini-3.5-flash",
        page="docs/providers/gemini.md",
    ),
    "groq": Provider(
        title="Groq",
        base_url="https://api.groq.com/openai/v1",
        key_variable="GROQ_API_KEY",
        page="docs/providers/groq.md",
    ),
    "litellm": Provider(
        title="LiteLLM",
        base_url="http://127.0.0.1:4000/v1",
        key_variable="LITELLM_API_KEY",
        page="docs/providers/litellm.md",
    ),
    "llamacpp": Provider(
        title="llama.cpp",
        base_url="http://127.0.0.1:8080/v1",
        options=_UNBILLED,
        page="docs/how-to/add-a-local-model.md",
    ),
    "lmstudio": Provider(
        title="LM Studio",
        base_url="http://127.0.0.1:1234/v1",
        options={**_LOADS_AT_FIRST, **_UNBILLED},
        page="docs/providers/lmstudio.md",
    ),
    "mistral": Provider(
        title="Mistral",
        base_url="https://api.mistral.ai/v1",
        key_variable="MISTRAL_API_KEY",
        options={"include_usage": False},
        page="docs/providers/mistral.md",
    ),
    "ollama": Provider(
        title="Ollama",
        base_url="http://127.0.0.1:11434/v1",
        options={**_LOADS_AT_FIRST, **_UNBILLED},
        page="docs/providers/ollama.md",
        remark=(
            "Ollama cuts a longer conversation to its own context length and says nothing: set context_window of each "
            "model to that length (docs/providers/ollama.md)."
        ),
    ),
    "openai": Provider(
        title="OpenAI",
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        default_model="gpt-5.4-mini",
    ),
    "openrouter": Provider(
        title="OpenRouter",
        base_url="https://openrouter.ai/api/v1",
        key_variable="OPENROUTER_API_KEY",
        default_model="google/gemini-3.5-flash",
        page="docs/providers/openrouter.md",
    ),
    "vllm": Provider(
        title="vLLM", base_url="http://127.0.0.1:8000/v1", options=_UNBILLED, page="docs/providers/vllm.md"
    ),
}
