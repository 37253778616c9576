"""The OAuth 2.0 protected resource: its metadata (RFC 9728), and the challenges that refer to it."""

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi_mcp.base.errors import AgentApiError, NotAuthenticatedError
from agentapi_mcp.core.access.personal_tokens import NOT_VALID
from agentapi_mcp.core.identity.principals import Principal, TokenScope
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, Refusal, json_refusal, pass_on

WELL_KNOWN = "/.well-known/oauth-protected-resource"
_REALM = ("realm", "agentapi-mcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """This server as a protected resource: `resource` is its address, and the audience of its tokens."""

    resource: str
    services_provider: ServicesProvider

    @property
    def metadata_url(self) -> str:
        """The address of the metadata (RFC 9728, section 3.1)."""
        return metadata_url(self.resource)

    async def authenticate(self, token: str) -> Principal:
        """Return the principal of an access token.

        Raises:
            NotAuthenticatedError: the token is not valid for this server.
            PermissionDeniedError: its owner has no account or organisation here.
            StoreUnavailableError: the stores are down.
        """
        authenticator = (await self.services_provider.services()).authenticator
        if authenticator is None:
            raise NotAuthenticatedError(NOT_VALID)
        return await authenticator.authenticate(token)

    async def metadata(self, request: Request) -> Response:
        """Serve the metadata."""
        try:
            authenticator = (await self.services_provider.services()).authenticator
        except AgentApiError as exc:
            refusal = Refusal(status=HTTPStatus.SERVICE_UNAVAILABLE, message=str(exc), headers={"retry-after": "5"})
            return json_refusal(refusal)
        metadata = {
            "resource": self.resource,
            "authorization_servers": [] if authenticator is None else list(authenticator.issuers()),
            "scopes_supported": [str(scope) for scope in TokenScope],
            "bearer_methods_supported": ["header"],
            "resource_name": "AgentAPI",
        }
        del request
        return JSONResponse(metadata, headers={"cache-control": "public, max-age=300"})


def metadata_url(resource: str) -> str:
    """Return the address of a resource's metadata (RFC 9728, section 3.1)."""
    parts = urlsplit(resource)
    return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path.rstrip('/')}"


def challenge(oauth: OAuth | None, parameters: Iterable[tuple[str, str]], scopes: str | None = None) -> str:
    """Return the value of WWW-Authenticate (RFC 6750, section 3); with OAuth it names the metadata (RFC 9728, 5.1)."""
    named = [_REALM, *parameters]
    if scopes is not None:
        named.append(("scope", scopes))
    if oauth is not None:
        named.append(("resource_metadata", oauth.metadata_url))
    # A header value is ASCII; the description of an error may quote the caller.
    text = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in named)
    return text.encode("ascii", "replace").decode("ascii")


def metadata_mount(oauth: OAuth, paths_of_edges: Iterable[str]) -> Mount:
    """Serve the metadata at the resource's path, at the root, and below each edge; some clients try these first.

    Each is there with a slash at its end, too, as in the resource of a client.
    """
    below = (f"{WELL_KNOWN}{path}" for path in paths_of_edges)
    found = dict.fromkeys((urlsplit(oauth.metadata_url).path, WELL_KNOWN, *below))
    paths = tuple(f"{path}{slash}" for path in found for slash in ("", "/"))
    app = Starlette(routes=[Route(path, oauth.metadata) for path in paths], exception_handlers={Exception: pass_on})
    return Mount(paths=paths, exact=True, app=app, authentication=AuthenticationMode.OPEN, cors=True)
