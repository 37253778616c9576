"""Requests and streams that are open at once: how many the server serves, and how many of them one user may hold."""

from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.web.limits import HttpLimits, Limits, OpenRequests
from agentapi_mcp.web.mounts import AuthenticationMode, Mount
from agentapi_mcp.web.requests import PRINCIPAL

ANN, BO = (Principal(UserId(new_id()), OrgId(new_id())) for _ in range(2))
OPERATOR = None


class Nested:
    """A mount behind the limits, in which each request stays open until all that come after it are answered."""

    def __init__(self, open_requests: int) -> None:
        mount = Mount(paths=("/",), app=self._serve, authentication=AuthenticationMode.REQUIRED)
        self._limits = Limits(self._serve, mount, HttpLimits(), OpenRequests(open_requests))
        self._left: list[tuple[int, Principal | None]] = []
        self._statuses: dict[int, int] = {}

    async def statuses(self, *principals: Principal | None) -> list[int]:
        """Send a request as each of them, one after the other, and return the statuses in this order."""
        self._left = list(enumerate(principals))
        await self._send_left()
        return [self._statuses[number] for number in range(len(principals))]

    async def _send_left(self) -> None:
        while self._left:
            number, principal = self._left.pop(0)

            async def send(message: Message, number: int = number) -> None:
                if message["type"] == "http.response.start":
                    self._statuses[number] = message["status"]

            await self._limits({"type": "http", "method": "GET", "headers": [], PRINCIPAL: principal}, _receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._send_left()
        await PlainTextResponse("served")(scope, receive, send)


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def test_one_user_holds_half_of_the_open_requests_and_the_others_share_the_rest() -> None:
    nested = Nested(open_requests=4)
    assert await nested.statuses(ANN, ANN, ANN, BO) == [200, 200, 429, 200]
    assert await nested.statuses(ANN, BO, ANN, BO, ANN, BO, OPERATOR) == [200, 200, 200, 200, 429, 429, 503]
    assert await nested.statuses(ANN, ANN) == [200, 200]  # those before are closed


async def test_the_operator_may_hold_all_open_requests() -> None:
    assert await Nested(open_requests=4).statuses(*[OPERATOR] * 5) == [200, 200, 200, 200, 503]


async def test_one_user_may_hold_one_request_of_a_server_that_serves_no_more() -> None:
    assert await Nested(open_requests=1).statuses(ANN, ANN, BO) == [200, 429, 503]
