"""Waiting for what must happen soon, with a failure that says what did not."""

import asyncio
from collections.abc import Awaitable

import pytest


async def expect_soon(happens: Awaitable[object], what: str, seconds: float = 20.0) -> None:
    """Wait for what must happen; fail when it does not in time."""
    try:
        async with asyncio.timeout(seconds):
            await happens
    except TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")
