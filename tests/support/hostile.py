"""What nobody should send, for property tests; and how such a test runs beside a server that is open."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentapi_mcp.testing.hostile import HOSTILE_TEXTS

T = TypeVar("T")

TEXTS = st.text() | st.sampled_from(HOSTILE_TEXTS)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, -0.0, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, float("nan"), float("inf")])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS


def json_values(keys: Sequence[str] = (), values: st.SearchStrategy[object] | None = None) -> st.SearchStrategy[object]:
    """Make any value of JSON; among its keys and scalars are often these, so that it is nearly right."""
    names = st.sampled_from(keys) | TEXTS if keys else TEXTS
    leaves = SCALARS if values is None else values | SCALARS
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6), max_leaves=12
    )


async def holds(
    values: st.SearchStrategy[T], check: Callable[[T], Awaitable[None]], *, examples: int, also: Sequence[T] = ()
) -> None:
    """Check a property on this loop, where what it needs is open already; a value that hangs fails."""
    loop = asyncio.get_running_loop()

    async def bounded(value: T) -> None:
        async with asyncio.timeout(25):
            await check(value)

    def one(value: T) -> None:
        asyncio.run_coroutine_threadsafe(bounded(value), loop).result()

    proved = settings(max_examples=examples, deadline=None, report_multiple_bugs=False)(given(values)(one))
    for value in also:
        proved = example(value)(proved)
    await asyncio.to_thread(proved)
