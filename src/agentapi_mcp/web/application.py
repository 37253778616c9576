"""The ASGI application: all mounts behind their shared middleware, with one lifespan."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.core.identity.shares import Shares
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.web.auth_rate_limit import AuthRateLimit
from agentapi_mcp.web.authentication import AcceptedTokens, Authentication, TokenAuthenticator
from agentapi_mcp.web.forwarding import Forwarding, UnknownProxies
from agentapi_mcp.web.framing import Framing
from agentapi_mcp.web.health import health_mount
from agentapi_mcp.web.hosts import AllowedNames, Cors, Hosts, allowed_names
from agentapi_mcp.web.limits import HttpLimits, Limits
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, Refusal, json_refusal
from agentapi_mcp.web.oauth import OAuth, metadata_mount
from agentapi_mcp.web.request_ids import RequestIds
from agentapi_mcp.web.stopping import Draining, Stopping
from agentapi_mcp.web.stream_reauth import REAUTHENTICATE_EVERY
from agentapi_mcp.web.turnstile import Paced, Turnstile


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """Which hosts, web origins and tokens the server accepts.

    Without `token` and `oauth` requests need no token, unless `needs_token` is set.
    `trusted_proxies` are addresses and networks whose word on the client's address is taken. Where no token is needed,
    a request that an unknown proxy forwards is refused unless the server `serves_forwarded` ones: it is from elsewhere.
    `shares` are those of the process. The token behind an open stream is verified again every `reauthenticate_every`.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    oauth: OAuth | None = None
    needs_token: bool = False
    trusted_proxies: tuple[str, ...] = ()
    serves_forwarded: bool = False
    unknown_proxies: UnknownProxies = field(default_factory=UnknownProxies)
    limits: HttpLimits = field(default_factory=HttpLimits)
    shares: Shares = field(default_factory=lambda: Shares(SystemClock()))
    reauthenticate_every: timedelta = REAUTHENTICATE_EVERY
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class WebApplication:
    """The application, and the function that ends its streams and its readiness before the process stops.

    After it, new requests are refused, and `stopping` tells of those that were let in before.
    """

    app: ASGIApp
    stop: Callable[[], None]
    stopping: Stopping


@dataclass(frozen=True, slots=True)
class _Shared:
    """State that the middleware of all mounts shares."""

    options: WebOptions
    names: AllowedNames
    authenticator: TokenAuthenticator
    stopping: Stopping
    turnstile: Turnstile = field(default_factory=Turnstile)


def create_web(services_provider: ServicesProvider, mounts: Sequence[Mount], options: WebOptions) -> WebApplication:
    """Build the application, which may be served once; a request goes to the first mount that serves its path.

    Raises:
        ConfigurationError: an allowed host or origin has a form that no request can carry.
    """
    stopping = Stopping()
    health = health_mount(services_provider, stopping)
    checked = list(mounts)
    if options.oauth is not None:
        paths = [path for mount in mounts for path in mount.metadata_paths]
        checked.insert(0, metadata_mount(options.oauth, paths))
    shared = _Shared(
        options=options,
        names=allowed_names(options.hosts, options.origins),
        authenticator=TokenAuthenticator(
            services_provider,
            AcceptedTokens(options.token, options.oauth, options.needs_token, options.serves_forwarded),
            AuthRateLimit(options.clock),
        ),
        stopping=stopping,
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            for mount in mounts:
                await stack.enter_async_context(mount.lifespan())
            yield

    def stop() -> None:
        stopping.begin()  # not ready first, so that load balancers send no new clients
        for mount in mounts:
            mount.stop()

    wrapped = [(health, _wrap(health, shared, checked=False)), *((mount, _wrap(mount, shared)) for mount in checked)]
    app = _Dispatcher(wrapped, _nowhere(mounts, shared), Starlette(lifespan=lifespan))
    forwarding = Forwarding(app, options.trusted_proxies, options.unknown_proxies)
    return WebApplication(Framing(forwarding), stop, stopping)


class _Dispatcher:
    """Dispatches each request to its mount, or to `nowhere`, and lifespan messages to Starlette."""

    def __init__(self, mounts: Sequence[tuple[Mount, ASGIApp]], nowhere: ASGIApp, lifespan: Starlette) -> None:
        self._mounts = [(mount.paths, mount.parents, app) for mount, app in mounts]
        self._nowhere = nowhere
        self._lifespan = lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            await self._lifespan(scope, receive, send)
            return
        path: str = scope["path"]
        for paths, parents, app in self._mounts:
            if path in paths or path.startswith(parents):
                await app(scope, receive, send)
                return
        await self._nowhere(scope, receive, send)


def _wrap(mount: Mount, shared: _Shared, *, checked: bool = True) -> ASGIApp:
    """Wrap a mount in its middleware: id and trace, turnstile, host and origin, CORS, authentication, limits, draining.

    Of the checks, the probes alone go without: a prober knows neither the server's host name nor a token.
    """
    # The innermost is wrapped first. CORS stands outside authentication: a browser's preflight carries no token.
    app: ASGIApp = mount.app
    if checked:
        app = Draining(app, mount, shared.stopping)
        app = Limits(app, mount, shared.options.limits, shared.options.shares)
    app = Authentication(app, mount, shared.authenticator, reauthenticate_every=shared.options.reauthenticate_every)
    if mount.cors:
        app = Cors(app, mount, shared.names)
    if checked:
        app = Hosts(app, mount, shared.names)
        app = Paced(app, mount, shared.turnstile, shared.authenticator.sender_of)
    return RequestIds(app, mount)


def _nowhere(mounts: Sequence[Mount], shared: _Shared) -> ASGIApp:
    """Return what answers at every other path, to whoever asks.

    A client that looks for a sign-in at several paths would take 401 for one; in a page, it has to read the answer.
    """
    paths = [path for mount in mounts for path in mount.metadata_paths]
    elsewhere = f"; this server is at {' and '.join(paths)}" if paths else ""
    refusal = Refusal(status=HTTPStatus.NOT_FOUND, message=f"There is nothing here{elsewhere}.")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await json_refusal(refusal)(scope, receive, send)

    mount = Mount(paths=("/",), app=app, authentication=AuthenticationMode.OPEN, cors=True)
    hosts = Hosts(Cors(app, mount, shared.names), mount, shared.names)
    return RequestIds(Paced(hosts, mount, shared.turnstile, shared.authenticator.sender_of), mount)
