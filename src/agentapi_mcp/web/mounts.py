"""How an edge is mounted: its paths, its application, and which shared middleware its requests pass."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Scope

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.core.identity.shares import Resource


class AuthenticationMode(StrEnum):
    """Whether the requests of a mount are authenticated.

    `open`: credentials are ignored. `optional`: credentials are verified when present. `required`: a request without
    credentials is rejected, unless the server requires no token.
    """

    OPEN = "open"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the middleware rejects a request; `error` is set if an error of the core is the reason."""

    status: int
    message: str
    error: AgentApiError | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def json_refusal(refusal: Refusal) -> Response:
    """Render a refusal as `{"error": message}`."""
    return JSONResponse({"error": refusal.message}, refusal.status, headers=dict(refusal.headers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """An edge under its paths.

    A request goes to the first mount whose `paths` hold its path or a parent of it; `/` is the parent of all, and those
    of an `exact` mount are parents of none. It passes the checks of host, origin and limits; `origins` are accepted
    beside those of the operator. With `cors`, browsers let pages of the operator's origins call the mount and read the
    `exposed_headers` of its responses. A body must have the `content_type`, and at most `max_body_bytes` if that is
    less than the server's limit. Requests of a `quiet` mount are logged at debug level. OAuth metadata is served below
    the well-known path at each of the `metadata_paths`. `lifespan` runs while the application is served; `stop` ends
    streams before the process stops, so that their clients see an orderly end. From then on only requests are served of
    which `serves_while_stopping` says, by their scope, that they concern work in progress. Each request counts as one
    of the resources that it `uses`.
    """

    paths: tuple[str, ...]
    app: ASGIApp
    authentication: AuthenticationMode
    exact: bool = False
    render: Callable[[Refusal], Response] = json_refusal
    origins: tuple[str, ...] = ()
    cors: bool = False
    exposed_headers: tuple[str, ...] = ()
    content_type: str = "application/json"
    max_body_bytes: int | None = None
    quiet: bool = False
    uses: tuple[Resource, ...] = (Resource.REQUESTS,)
    metadata_paths: tuple[str, ...] = ()
    lifespan: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    stop: Callable[[], None] = lambda: None
    serves_while_stopping: Callable[[Scope], bool] = lambda _scope: False

    @property
    def parents(self) -> tuple[str, ...]:
        """What a path begins with that is below one of the `paths`."""
        return () if self.exact else tuple(each.rstrip("/") + "/" for each in self.paths)


async def pass_on(_request: Request, error: Exception) -> Response:
    """Raise an error again, for the outermost middleware to answer; without it, Starlette answers in plain text."""
    raise error
