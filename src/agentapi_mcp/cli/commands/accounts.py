"""The commands for accounts at providers."""

from __future__ import annotations

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.presentation.values import local_time

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.cli import loopback as loopbacks
    from agentapi_mcp.core.accounts.models import Account
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import credentials
else:
    credentials = LazyModule("agentapi_mcp.presentation.credentials")
    loopbacks = LazyModule("agentapi_mcp.cli.loopback")


@click.group(cls=CommandGroup)
def accounts() -> None:
    """Connect accounts of your own at providers, which pay for your messages."""


@accounts.command("list")
@json_option
def accounts_list(*, as_json: bool) -> None:
    """List your accounts, without their tokens."""

    async def list_(services: Services, _settings: object) -> None:
        found = await services.accounts.list_(services.principal)
        if as_json:
            print_json({"accounts": [credentials.account_json(account) for account in found]})
            return
        table(("PROVIDER", "STATE", "CONNECTED", "SCOPES"), [_row(account) for account in found])
        if not found:
            there = ", ".join(provider.name for provider in services.accounts.providers) or "none is declared"
            print_err(f"No account is connected. Providers where one can be: {there}.")

    run(list_)


@accounts.command("connect")
@click.argument("provider")
@click.option("--port", type=click.IntRange(1, 65535), help="Come back to this port, where a provider knows one.")
@json_option
def accounts_connect(provider: str, port: int | None, *, as_json: bool) -> None:
    """Connect an account at PROVIDER: open the printed address in a browser on this machine, and allow access there."""

    async def connect(services: Services, _settings: object) -> None:
        async with loopbacks.open_loopback(port) as loopback:
            begun = await services.accounts.begin(services.principal, provider, loopback.redirect_uri)
            print_err("Open this address in a browser on this machine within ten minutes, and allow access there:")
            (print_err if as_json else print_out)(begun.url)
            answer = await loopback.wait(begun.state)
            await services.accounts.finish(services.principal, provider, begun, answer, loopback.redirect_uri)
        print_err(f"Connected your account at {provider}. It pays from the next message on.")
        if as_json:
            mine = await services.accounts.list_(services.principal)
            print_json(next(credentials.account_json(account) for account in mine if account.provider == provider))

    run(connect)


@accounts.command("disconnect")
@click.argument("provider")
@json_option
def accounts_disconnect(provider: str, *, as_json: bool) -> None:
    """Remove your account at PROVIDER, and revoke its tokens there."""

    async def disconnect(services: Services, _settings: object) -> None:
        done = await services.accounts.disconnect(services.principal, provider)
        for sentence in done.sentences:
            print_err(sentence)
        if as_json:
            print_json({"disconnected": provider, "messages": list(done.sentences)})

    run(disconnect)


def _row(account: Account) -> tuple[object, ...]:
    return account.provider, account.state, local_time(account.connected_at), " ".join(account.scopes)
