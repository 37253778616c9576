"""How many requests may be open at once, of all users and of one."""

from contextlib import AsyncExitStack

import pytest

from agentapi_mcp.base.ids import UserId, new_id
from agentapi_mcp.web.limits import OpenRequests


@pytest.mark.parametrize(("most", "of_one"), [(4, 2), (5, 2), (1, 1)])
async def test_one_user_holds_half_of_the_open_requests(most: int, of_one: int) -> None:
    open_requests, ann, bob = OpenRequests(most), UserId(new_id()), UserId(new_id())
    async with AsyncExitStack() as stack:
        for _ in range(of_one):
            assert open_requests.refusal(ann) is None
            await stack.enter_async_context(open_requests.counted(ann))
        refusal = open_requests.refusal(ann)
        assert refusal is not None
        assert refusal.status == 429
        others = open_requests.refusal(bob)
        assert (None if others is None else others.status) == (None if of_one < most else 503)
    assert open_requests.refusal(ann) is None


async def test_users_together_hold_all_of_the_open_requests() -> None:
    open_requests = OpenRequests(2)
    async with AsyncExitStack() as stack:
        for user_id in (UserId(new_id()), None):
            assert open_requests.refusal(user_id) is None
            await stack.enter_async_context(open_requests.counted(user_id))
        for user_id in (UserId(new_id()), None):
            refusal = open_requests.refusal(user_id)
            assert refusal is not None
            assert refusal.status == 503
