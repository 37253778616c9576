"""Options shared by HTTP backends, and messages for invalid options."""

import re
import ssl
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails

from agentapi_mcp.backends.wire.http import Deadlines
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.urls import parse_http_url
from agentapi_mcp.base.validation_messages import describe_fault

OptionsT = TypeVar("OptionsT", bound=BaseModel)

_DAY = 24 * 60 * 60
# Headers by which the operator's own account would be used beside the caller's key.
_CREDENTIALS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})
# A query is part of the address, which is no secret.
_KEY_IN_QUERY = re.compile(r"(?i)(?:^|&)[^=&]*(?:key|token|secret|password|sig|code)(?:=|&|$)")


def _base_url(url: str) -> str:
    parts = parse_http_url(url.strip())
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password; use api_key or headers")
    if parts.query or parts.fragment:
        raise ValueError("must not hold a query or fragment")
    return url.strip().rstrip("/")


def _api_url(url: str) -> str:
    parts = parse_http_url(url.strip())
    if _KEY_IN_QUERY.search(parts.query):
        raise ValueError("must not hold a key in its query; use api_key or headers")
    base = _base_url(parts._replace(query="").geturl())
    return f"{base}?{parts.query}" if parts.query else base


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


def _ca_file(path: str) -> str:
    path = str(Path(path).expanduser())
    if not Path(path).is_absolute():  # a client starts the program in any directory
        raise ValueError("must be an absolute path")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # also what is no certificate
        raise ValueError("must name a file of certificates (PEM) that can be read") from error
    return path


BaseUrl = Annotated[str, AfterValidator(_base_url)]
ApiUrl = Annotated[str, AfterValidator(_api_url)]  # with a query, which every request has
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
HeaderText = Annotated[str, AfterValidator(_header_text)]
Timeout = Annotated[float, Field(gt=0, le=_DAY, allow_inf_nan=False)]


class HttpOptions(BaseModel):
    """Options of every HTTP backend."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    # What clients of this API append to its base URL, and people paste with it.
    endpoint: ClassVar[str] = ""

    base_url: ApiUrl
    api_key: HeaderValue | None = None
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict[HeaderName, HeaderValue])
    ca_file: Annotated[str, AfterValidator(_ca_file)] | None = None
    connect_timeout_seconds: Timeout = 10
    idle_timeout_seconds: Timeout = 120
    total_timeout_seconds: Timeout = 1800

    @field_validator("base_url")
    @classmethod
    def _leads_to_the_api(cls, url: str) -> str:
        base, mark, query = url.partition("?")
        return f"{base.removesuffix(cls.endpoint)}{mark}{query}"

    def url_of(self, path: str) -> str:
        """Return the URL of a path of the API, which may have a query beside that of the base URL."""
        base, _, query = self.base_url.partition("?")
        path, _, own = path.partition("?")
        return "?".join(filter(None, (base + path, "&".join(filter(None, (own, query))))))


class KeyedOptions(HttpOptions):
    """Options of a backend that supports the caller's own key in place of the operator's."""

    own_keys: bool = True
    api_key_header: HeaderName | None = None

    @property
    def takes_own_keys(self) -> bool:
        """Whether callers may use own keys: not if disabled, or if the operator's credentials would be sent as well."""
        credentials = _CREDENTIALS | {(self.api_key_header or "authorization").lower()}
        return self.own_keys and not credentials & {name.lower() for name in self.headers}


def deadlines_of(options: HttpOptions) -> Deadlines:
    """Return the three deadlines."""
    return Deadlines(
        connect=timedelta(seconds=options.connect_timeout_seconds),
        idle=timedelta(seconds=options.idle_timeout_seconds),
        total=timedelta(seconds=options.total_timeout_seconds),
    )


def secrets_of(options: HttpOptions) -> tuple[str, ...]:
    """List the secrets to redact."""
    values = (options.api_key, *options.headers.values())
    return tuple(value.get_secret_value() for value in values if value is not None)


def read_options(model: type[OptionsT], options: Mapping[str, object]) -> OptionsT:
    """Validate options against a backend's model, with messages that never contain a value.

    A blank option, and a blank header, is one that is not set: `${VAR:-}` leaves it out.

    Raises:
        ConfigurationError: names each invalid option, and why.
    """
    try:
        return model.model_validate(_without_blanks(options))
    except ValidationError as error:
        faults = sorted(error.errors(include_url=False, include_input=False), key=_is_missing)
        reasons = "; ".join(_reason(model, fault) for fault in faults)
    # Raised outside the handler: pydantic's error, which would be chained, holds the values.
    raise ConfigurationError(f"The backend's options are wrong: {reasons}.")


def _without_blanks(options: Mapping[str, object]) -> dict[str, object]:
    given = {name: value for name, value in options.items() if not _is_blank(value)}
    headers = given.get("headers")
    if isinstance(headers, dict):
        pairs = cast("dict[str, object]", headers).items()
        given["headers"] = {name: value for name, value in pairs if not _is_blank(value)}
    return given


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _is_missing(fault: ErrorDetails) -> bool:
    return fault["type"] == "missing"  # sorted last: most often the option is present but misspelt


def _reason(model: type[BaseModel], fault: ErrorDetails) -> str:
    name = ".".join(str(step)[:60] for step in fault["loc"] if step != "[key]")
    if fault["type"] == "extra_forbidden":
        return f"{name} is not an option; there are: {', '.join(sorted(model.model_fields))}"
    return f"{name} {describe_fault(fault)}".strip()
