"""A bounded number of requests begins in each turn of the event loop, so that a crowd keeps nobody else from theirs."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable

from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.web.requests import source_of

# One takes about a millisecond to its first wait; what is under way has its part of each turn, too.
AT_ONCE = 8


class Turnstile:
    """Lets requests begin, over all mounts: those who send them take turns, each in the order in which theirs came."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._left = at_once
        self._waiting = OrderedDict[Hashable, deque[asyncio.Future[None]]]()
        self._is_counting = False

    async def enter(self, sender: Hashable) -> None:
        """Return when a request may begin, which is at once unless many come together."""
        self._count_this_turn()
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(sender, deque()).append(turn)
        await turn

    def _count_this_turn(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_counting = False
        self._left = self._at_once
        while self._waiting and self._left > 0:
            sender, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[sender] = turns  # behind the others
            if not turn.done():  # its request was cancelled meanwhile
                turn.set_result(None)
                self._left -= 1
        if self._waiting:
            self._count_this_turn()


class Paced:
    """Middleware that lets requests begin by a turnstile."""

    def __init__(self, app: ASGIApp, turnstile: Turnstile) -> None:
        self._app = app
        self._turnstile = turnstile

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._turnstile.enter(_sender_of(scope))
        await self._app(scope, receive, send)


def _sender_of(scope: Scope) -> Hashable:
    """Return by what a sender is told apart before it is known who that is: what they sign in with, and from where."""
    credentials = [value for name, value in scope["headers"] if name == b"authorization"]
    return (*credentials, source_of(scope))
