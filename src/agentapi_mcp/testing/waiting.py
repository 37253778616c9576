"""Waiting for an event with a timeout that fails the test."""

import asyncio
from collections.abc import Awaitable

import pytest


async def expect_soon(happens: Awaitable[object], what: str, seconds: float = 20.0) -> None:
    """Wait for an event; fail the test if it does not happen in time."""
    try:
        async with asyncio.timeout(seconds):
            await happens
    except TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")
