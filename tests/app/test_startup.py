"""The services come up in the background: callers wait within bounds, hear why they do not come, and can try again."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import pytest

from agentapi_mcp.app.startup import Startup
from agentapi_mcp.base.errors import ConfigurationError, StoreUnavailableError
from agentapi_mcp.core.services import Services

SOON = timedelta(seconds=20)
PASSWORD = "postgresql://app:hunter2@db"  # noqa: S105  # what must reach no caller


@dataclass
class Reloads:
    """Services of which only the reload is asked for."""

    times: int = 0

    def reload(self) -> None:
        """Count."""
        self.times += 1


@dataclass
class Opening:
    """Opens services, once for each outcome: the exception that is raised, or None."""

    outcomes: list[Exception | None]
    may_open: asyncio.Event = field(default_factory=asyncio.Event)
    services_provider: Startup = field(init=False)
    opened: Reloads = field(default_factory=Reloads)
    closed: int = 0

    @property
    def services(self) -> Services:
        """What is opened."""
        return cast("Services", self.opened)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Services]:
        """Open them, or fail, once that is allowed."""
        await self.may_open.wait()
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome
        yield self.services
        self.closed += 1


@asynccontextmanager
async def running(*outcomes: Exception | None, held: bool = False) -> AsyncGenerator[Opening]:
    """Run a startup until the test ends; one that is held opens nothing before it is allowed to."""
    opening = Opening(list(outcomes))
    if not held:
        opening.may_open.set()
    opening.services_provider = Startup(opening.open, SOON)
    async with asyncio.timeout(SOON.total_seconds()), asyncio.TaskGroup() as group:
        group.create_task(opening.services_provider.run())
        yield opening
        opening.services_provider.close()


async def _allow(opening: Opening) -> None:
    opening.may_open.set()


async def test_services_are_given_to_callers_and_closed_with_the_program() -> None:
    async with running(None) as opening:
        assert opening.services_provider.find() is None
        assert await opening.services_provider.services() is opening.services
        assert opening.services_provider.find() is opening.services
        assert opening.closed == 0
    assert opening.closed == 1


async def test_every_caller_hears_why_the_start_failed_and_the_next_one_tries_again() -> None:
    heard: list[str] = []

    async def ask(services_provider: Startup) -> None:
        with pytest.raises(ConfigurationError) as caught:
            await services_provider.services()
        heard.append(str(caught.value))

    async with running(ConfigurationError("The file is wrong."), None, held=True) as opening:
        async with asyncio.TaskGroup() as asking:
            for _ in range(3):
                asking.create_task(ask(opening.services_provider))
            asking.create_task(_allow(opening))  # after the others, which wait by then
        assert heard == ["The file is wrong."] * 3
        assert opening.services_provider.find() is None
        assert await opening.services_provider.services() is opening.services
    assert opening.outcomes == []


async def test_a_reason_inside_exception_groups_is_found() -> None:
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [ConfigurationError("The file is wrong.")])])
    async with running(nested) as opening:
        with pytest.raises(ConfigurationError, match=r"The file is wrong\."):
            await opening.services_provider.services()


async def test_an_unforeseen_error_is_logged_and_tells_callers_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "agentapi_mcp.app.startup"):
        async with running(ValueError(PASSWORD)) as opening:
            with pytest.raises(StoreUnavailableError) as caught:
                await opening.services_provider.services()
    assert PASSWORD not in str(caught.value)
    assert [(record.message, str(record.exc_info[1])) for record in caplog.records if record.exc_info] == [
        ("start_failed", PASSWORD)
    ]


async def test_a_start_that_takes_too_long_is_not_waited_for_but_goes_on() -> None:
    may_open = asyncio.Event()

    @asynccontextmanager
    async def open_late() -> AsyncGenerator[Services]:
        await may_open.wait()
        yield services

    services = cast("Services", Reloads())
    services_provider = Startup(open_late, timedelta(0))
    async with asyncio.timeout(SOON.total_seconds()), asyncio.TaskGroup() as group:
        group.create_task(services_provider.run())
        with pytest.raises(StoreUnavailableError, match="not up yet"):
            await services_provider.services()
        may_open.set()
        while services_provider.find() is None:
            with pytest.raises(StoreUnavailableError, match="not up yet"):
                await services_provider.services()
        assert await services_provider.services() is services
        services_provider.close()


async def test_services_that_fail_to_close_are_there_no_more() -> None:
    @asynccontextmanager
    async def open_badly() -> AsyncGenerator[Services]:
        yield cast("Services", Reloads())
        raise ConfigurationError("It cannot be closed.")

    services_provider = Startup(open_badly, SOON)
    async with asyncio.timeout(SOON.total_seconds()), asyncio.TaskGroup() as group:
        running = group.create_task(services_provider.run())
        await services_provider.services()
        services_provider.close()
        await running
        assert services_provider.find() is None


async def test_the_configuration_is_read_again_where_there_are_services_to_use_it() -> None:
    async with running(None) as opening:
        opening.services_provider.reload()
        assert opening.opened.times == 0
        await opening.services_provider.services()
        opening.services_provider.reload()
        assert opening.opened.times == 1
