"""The options that backends over HTTP share, and how a wrong option is told."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from agentapi_mcp.backends.wire.http import Deadlines
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.validation_messages import describe_fault

OptionsT = TypeVar("OptionsT", bound=BaseModel)

_DAY = 24 * 60 * 60
_CREDENTIALS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # raises for a port that is no number
    except ValueError as error:
        raise ValueError("is not a URL") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL with a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password; use api_key or headers")
    if parts.query or parts.fragment:
        raise ValueError("must not hold a query or fragment")
    return url.strip().rstrip("/")


def _header_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("must be printable ASCII and not empty")
    return SecretStr(text)


def _header_text(text: str) -> str:
    return _header_value(SecretStr(text)).get_secret_value()


def _header_name(name: str) -> str:
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError("is not the name of a header")
    return name


BaseUrl = Annotated[str, AfterValidator(_base_url)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
HeaderText = Annotated[str, AfterValidator(_header_text)]
Timeout = Annotated[float, Field(gt=0, le=_DAY, allow_inf_nan=False)]


class HttpOptions(BaseModel):
    """What every backend over HTTP is given by the operator's file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: BaseUrl
    api_key: HeaderValue | None = None
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict[HeaderName, HeaderValue])
    connect_timeout_seconds: Timeout = 10
    idle_timeout_seconds: Timeout = 120
    total_timeout_seconds: Timeout = 1800


class KeyedOptions(HttpOptions):
    """What a backend is given that can ask with the caller's key in place of the operator's."""

    own_keys: bool = True

    @property
    def takes_own_keys(self) -> bool:
        """Whether it does: not where the operator says no, or where a credential of theirs would go with it."""
        return self.own_keys and not _CREDENTIALS & {name.lower() for name in self.headers}


def deadlines_of(options: HttpOptions) -> Deadlines:
    """Read the three deadlines."""
    return Deadlines(
        connect=timedelta(seconds=options.connect_timeout_seconds),
        idle=timedelta(seconds=options.idle_timeout_seconds),
        total=timedelta(seconds=options.total_timeout_seconds),
    )


def secrets_of(options: HttpOptions) -> tuple[str, ...]:
    """List what must never be shown of these options."""
    values = (options.api_key, *options.headers.values())
    return tuple(value.get_secret_value() for value in values if value is not None)


def read_options(model: type[OptionsT], options: Mapping[str, object]) -> OptionsT:
    """Check options against a backend's model, without ever repeating a value.

    Raises:
        ConfigurationError: names each option that is wrong, and why.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        faults = sorted(error.errors(include_url=False, include_input=False), key=_is_missing)
        reasons = "; ".join(_reason(model, fault) for fault in faults)
    # Raised outside the handler: the library's error holds the values.
    raise ConfigurationError(f"The backend's options are wrong: {reasons}.")


def _is_missing(fault: ErrorDetails) -> bool:
    return fault["type"] == "missing"  # most often it is there, misspelt, and that is told first


def _reason(model: type[BaseModel], fault: ErrorDetails) -> str:
    name = ".".join(str(step)[:60] for step in fault["loc"] if step != "[key]")
    if fault["type"] == "extra_forbidden":
        return f"{name} is not an option; there are: {', '.join(sorted(model.model_fields))}"
    return f"{name} {describe_fault(fault)}".strip()
