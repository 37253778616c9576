"""What a catalogue file may say, key by key."""

from datetime import date
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from agentapi_mcp.core.records.agents import ModelDeclaration, Prices


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _whole_too(value: object) -> object:
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value


AgentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_storable)]
ShortName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_storable)]
BackendName = Annotated[str, Field(min_length=1, max_length=50)]
Text = Annotated[str, Field(max_length=100_000), AfterValidator(_storable)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Price = Annotated[Decimal, Field(ge=0, le=1_000_000), BeforeValidator(_whole_too)]


class Shape(BaseModel):
    """A table that has no other keys than these, each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PricesShape(Shape):
    """`prices`: US dollars per million tokens."""

    input: Price | None = None
    output: Price | None = None
    cached_input: Price | None = None
    source: Name | None = None
    on: date | None = None


class ModelShape(Shape):
    """`[[agents.NAME.models]]`."""

    name: Name
    model_id: Name
    provider: ShortName
    display_name: Name | None = None
    description: Text | None = None
    enabled: bool = True
    context_window: Count | None = None
    max_output_tokens: Count | None = None
    prices: PricesShape = PricesShape()

    def declaration(self) -> ModelDeclaration:
        """Say it as core does."""
        return ModelDeclaration(
            name=self.name,
            model_id=self.model_id,
            provider=self.provider,
            display_name=self.display_name,
            description=self.description,
            enabled=self.enabled,
            context_window=self.context_window,
            max_output_tokens=self.max_output_tokens,
            prices=Prices(**dict(self.prices)),
        )


class OtherwiseShape(Shape):
    """`[agents.NAME.otherwise]`: how the agent is reached where it cannot be reached as it is said above."""

    backend: BackendName
    options: dict[str, object] = Field(default_factory=dict, repr=False)


class AgentShape(Shape):
    """`[agents.NAME]`; the backend itself judges the options."""

    backend: BackendName
    description: Text = ""
    instructions: Text | None = None
    enabled: bool = True
    default_model: Name | None = None
    options: dict[str, object] = Field(default_factory=dict, repr=False)
    models: list[ModelShape] = Field(default_factory=list)
    otherwise: OtherwiseShape | None = None


class FileShape(Shape):
    """A whole file."""

    use_defaults: bool = True
    agents: dict[AgentName, AgentShape] = Field(default_factory=dict)


def keys_at(location: tuple[str | int, ...]) -> tuple[str, ...]:
    """List the keys that the table around `location` may have."""
    shapes: dict[int, type[Shape]] = {1: FileShape, 3: AgentShape, 4: OtherwiseShape, 5: ModelShape, 6: PricesShape}
    return tuple(shapes[len(location)].model_fields)
