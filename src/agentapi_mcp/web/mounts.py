"""How an edge is mounted: its paths, its application, and which of the shared checks its requests pass."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from agentapi_mcp.base.errors import AgentApiError


class AuthenticationMode(StrEnum):
    """Whether the requests of a mount must say who sends them.

    `open`: credentials are not looked at. `optional`: they are verified when they are sent. `required`: a request
    without them is refused, unless the server asks nobody for a token.
    """

    OPEN = "open"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that a shared check refuses; `error` is there where one of ours is the reason."""

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

    A request goes to the first mount that has its path among its `paths`, or above it; `/` is above all. `guarded`
    ones pass the checks of host, origin and limits. `origins` may send forms beside the operator's; with `cors`,
    browsers let pages of the operator's origins call the mount and read `exposed_headers` of its answers. A body must
    be of `content_type`, and of at most `max_body_bytes` where that is less than what the server takes. `quiet`
    requests are logged as debug only. Clients look for OAuth metadata below the well-known path at `metadata_paths`.
    `lifespan` runs while the application is served; `stop` ends what is streaming, politely, before the process stops.
    """

    paths: tuple[str, ...]
    app: ASGIApp
    authentication: AuthenticationMode
    render: Callable[[Refusal], Response] = json_refusal
    guarded: bool = True
    origins: tuple[str, ...] = ()
    cors: bool = False
    exposed_headers: tuple[str, ...] = ()
    content_type: str = "application/json"
    max_body_bytes: int | None = None
    quiet: bool = False
    metadata_paths: tuple[str, ...] = ()
    lifespan: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    stop: Callable[[], None] = lambda: None

    def serves(self, path: str) -> bool:
        """Whether a request for this path is for this mount."""
        return any(path == each or path.startswith(each.rstrip("/") + "/") for each in self.paths)
