"""OAuth 2.0 client credentials (RFC 6749, section 4.4), such as those of an application in Microsoft Entra ID."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import quote, quote_plus, urlencode

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from typing_extensions import override

from agentapi_mcp.backends.wire.fields import parse_json
from agentapi_mcp.backends.wire.http import Body, Deadlines, HttpClient, HttpRequest
from agentapi_mcp.backends.wire.options import BaseUrl
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.backends.wire.tokens import Token, TokenSource
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_amount, as_object, as_text
from agentapi_mcp.base.urls import parse_http_url
from agentapi_mcp.core.backends.ports import BackendHost

_TWENTY = timedelta(seconds=20)
_DEADLINES = Deadlines(connect=timedelta(seconds=10), idle=_TWENTY, total=_TWENTY)
_UNKNOWN_LIFE = 60  # seconds
_LONGEST_LIFE = 24 * 60 * 60  # seconds
_THIS_MACHINE = frozenset({"127.0.0.1", "localhost", "::1"})
_FIRST_SERVER_ERROR = 500
_TOO_MANY = 429


def _is_kept_secret(url: str) -> str:
    parts = parse_http_url(url)
    if parts.scheme != "https" and parts.hostname not in _THIS_MACHINE:
        raise ValueError("must begin with https://, because the client's secret is sent to it")
    return url


class ClientCredentialsOptions(BaseModel):
    """The credentials of a client, and where they are exchanged for a token."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    token_url: Annotated[BaseUrl, AfterValidator(_is_kept_secret)]
    client_id: str = Field(min_length=1, max_length=500)
    client_secret: SecretStr = Field(min_length=1, max_length=10_000)
    scope: str | None = Field(default=None, min_length=1, max_length=2_000)


class ClientCredentials(TokenSource):
    """Exchanges the credentials for access tokens; `ca_file` has the authorities that the agent trusts."""

    def __init__(self, options: ClientCredentialsOptions, host: BackendHost, ca_file: str | None) -> None:
        self._options = options
        self._ca_file = ca_file
        self._clock = host.clock
        self._client = host.shared(HttpClient)
        secret = options.client_secret.get_secret_value()
        self._redactor = Redactor({secret, quote_plus(secret), quote(secret, safe="")})  # as it is sent, too

    @override
    async def fetch(self) -> Token:
        """Return a new token.

        Raises:
            BackendError: AUTH when the server refuses the credentials.
        """
        options = self._options
        fields = {
            "grant_type": "client_credentials",
            "client_id": options.client_id,
            "client_secret": options.client_secret.get_secret_value(),
            **({"scope": options.scope} if options.scope else {}),
        }
        request = HttpRequest(
            method="POST",
            url=options.token_url,
            headers={"content-type": "application/x-www-form-urlencoded", "accept": "application/json"},
            content=Body(urlencode(fields).encode),
            deadlines=_DEADLINES,
            ca_file=self._ca_file,
        )
        try:
            async with self._client.exchange(request) as reply:
                status, body = reply.status, await reply.body()
        except BackendError as error:
            message = f"No access token came from the token_url of the agent. {error}"
            raise BackendError(error.fault, message) from error
        return self._read(status, body)

    def _read(self, status: int, raw: bytes) -> Token:
        try:
            body = as_object(parse_json(raw, what="The reply"))
        except BackendError:
            body = {}
        token, life = as_text(body.get("access_token")), as_amount(body.get("expires_in"))  # some write it as a text
        if status != 200 or token is None:  # noqa: PLR2004  # the status that has a token
            raise self._refusal(status, as_text(body.get("error_description")) or as_text(body.get("error")) or "")
        seconds = _UNKNOWN_LIFE if life is None else float(min(life, _LONGEST_LIFE))
        return Token(token, self._clock.now() + timedelta(seconds=seconds))

    def _refusal(self, status: int, reason: str) -> BackendError:
        line = self._redactor.line(reason)
        told = f"says: {line}" if line else f"answered with HTTP {status}, and no access token."
        if status == _TOO_MANY or status >= _FIRST_SERVER_ERROR:
            return BackendError(BackendFault.OVERLOADED, f"The token server of the agent {told}")
        step = "Check client_id, client_secret, scope and token_url of the agent; the operator sets them."
        return BackendError(BackendFault.AUTH, f"The token server of the agent {told}", next_step=step)
