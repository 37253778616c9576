"""Requests and streams that are open at once: how many the server serves, and how many of them one user may hold."""

from collections.abc import Mapping, Sequence

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource, Shares
from agentapi_mcp.web.limits import HttpLimits, Limits
from agentapi_mcp.web.mounts import AuthenticationMode, Mount
from agentapi_mcp.web.requests import PRINCIPAL
from tests.support.clocks import ManualClock

ANN, BO = (Principal(UserId(new_id()), OrgId(new_id())) for _ in range(2))
OPERATOR = None


class Nested:
    """A mount behind the limits, in which each request stays open until all that come after it are answered."""

    def __init__(
        self,
        open_requests: int,
        mode: AuthenticationMode = AuthenticationMode.REQUIRED,
        rates: Mapping[Resource, int] | None = None,
    ) -> None:
        mount = Mount(paths=("/",), app=self._serve, authentication=mode, uses=tuple(rates or (Resource.REQUESTS,)))
        shares = Shares(ManualClock(), {Resource.OPEN_REQUESTS: open_requests} | dict(rates or {}))
        self._limits = Limits(self._serve, mount, HttpLimits(), shares)
        self._left: list[tuple[int, Principal | None, str]] = []
        self._statuses: dict[int, int] = {}

    async def statuses(self, *principals: Principal | None, addresses: Sequence[str] = ()) -> list[int]:
        """Send a request as each of them, one after the other, and return the statuses in this order."""
        senders = addresses or ["192.0.2.1"] * len(principals)
        self._left = [(number, *each) for number, each in enumerate(zip(principals, senders, strict=True))]
        await self._send_left()
        return [self._statuses[number] for number in range(len(principals))]

    async def _send_left(self) -> None:
        while self._left:
            number, principal, address = self._left.pop(0)

            async def send(message: Message, number: int = number) -> None:
                if message["type"] == "http.response.start":
                    self._statuses[number] = message["status"]

            scope: Scope = {
                "type": "http",
                "method": "GET",
                "headers": [],
                "client": (address, 1),
                PRINCIPAL: principal,
            }
            await self._limits({**scope, PRINCIPAL: principal}, _receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._send_left()
        await PlainTextResponse("served")(scope, receive, send)


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def test_one_user_holds_most_of_the_open_requests_of_an_idle_server_and_leaves_room() -> None:
    nested = Nested(open_requests=16)
    alone = [ANN] * 16
    assert await nested.statuses(*alone) == [200] * 14 + [429] * 2
    assert await nested.statuses(*alone, BO, OPERATOR) == [200] * 14 + [429] * 2 + [200, 200]
    assert await nested.statuses(*alone) == [200] * 14 + [429] * 2  # those before are closed


async def test_a_share_shrinks_while_others_hold_more_than_half() -> None:
    nested = Nested(open_requests=16)
    # What is left free after it bounds what a second user may have.
    assert await nested.statuses(*[ANN] * 10, *[BO] * 5, OPERATOR) == [200] * 13 + [429] * 2 + [200]


async def test_a_server_that_is_full_says_so_of_itself() -> None:
    nested = Nested(open_requests=2)
    assert await nested.statuses(ANN, BO, OPERATOR) == [200, 200, 503]


@pytest.mark.parametrize("mode", [AuthenticationMode.OPEN, AuthenticationMode.REQUIRED])
async def test_who_has_no_account_is_told_apart_by_address_where_anybody_may_ask(mode: AuthenticationMode) -> None:
    nested = Nested(open_requests=16, mode=mode)
    last = 200 if mode is AuthenticationMode.OPEN else 429
    addresses = ["192.0.2.1"] * 16 + ["192.0.2.2"]
    assert await nested.statuses(*[OPERATOR] * 17, addresses=addresses) == [200] * 14 + [429] * 2 + [last]


async def test_each_request_counts_as_what_its_mount_uses() -> None:
    nested = Nested(open_requests=100, rates={Resource.KEY_PAGES: 16})
    assert await nested.statuses(*[ANN] * 16, BO) == [200] * 14 + [429] * 2 + [200]


async def test_strangers_at_many_addresses_leave_room_for_the_next() -> None:
    nested = Nested(open_requests=64, mode=AuthenticationMode.OPEN)
    addresses = [f"192.0.2.{number % 40}" for number in range(400)] + ["192.0.2.99"]
    statuses = await nested.statuses(*[OPERATOR] * 401, addresses=addresses)
    assert set(statuses[:400]) == {200, 429}
    assert statuses[400] == 200
