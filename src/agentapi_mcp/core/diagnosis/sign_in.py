"""Check the sign-in over HTTP as a stranger meets it."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from typing import TypeVar

from agentapi_mcp.base.errors import AgentApiError, StoreUnavailableError
from agentapi_mcp.base.exceptions import notes_of
from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.core.access.models import Issuer
from agentapi_mcp.core.diagnosis.models import Check, SignInSetup, fault, not_checked, not_in_use, ok
from agentapi_mcp.core.diagnosis.ports import ConfiguredInstallation

_VARIABLE = re.compile(r"\bAGENTAPI_[A-Z_]+\b")
_LINES = re.compile(r"`((?:export|unset) [^`]*)`")
_RESOURCE_LINE = "export AGENTAPI_RESOURCE_URL=https://HOST/mcp"
_PROXIES_LINE = "export AGENTAPI_TRUSTED_PROXIES=..."
_OPTIONS = "If `serve` is started with --require-token or --insecure, give `doctor` the option too: it does not see it."

_T = TypeVar("_T")
Timed = Callable[[Awaitable[Check]], Awaitable[None]]


class SignInExamination:
    """Checks the parts of a sign-in in order; `edit` is the command that opens the configuration file."""

    def __init__(self, parts: ConfiguredInstallation, edit: str, limit: timedelta) -> None:
        self._parts = parts
        self._edit = edit
        self._limit = limit

    async def run(self, report: Callable[[Check], None], timed: Timed, *, has_database: bool) -> None:
        """Report on the whole, then on each issuer, on organisations, on the resource URL and on the proxy."""
        setup = self._parts.sign_in()
        if setup.broken is not None:
            report(fault("serve", setup.broken, *_settings_in(setup.broken)))
        report(_whole(setup))
        for issuer in setup.issuers:
            await timed(self._issuer(issuer))
        named = dict(_organizations(setup.issuers))
        if named and has_database:
            await timed(self._organizations(named))
        elif named:
            report(not_checked("organizations", "the database must be there first"))
        if setup.resource_url is not None:
            await timed(self._resource(setup))
        if (check := await self._proxy(setup)) is not None:
            report(check)

    async def _issuer(self, issuer: Issuer) -> Check:
        name = f"issuer {issuer.issuer}"
        try:
            count = await self._within(self._parts.check_issuer(issuer))
        except AgentApiError as exc:
            return fault(name, str(exc), self._edit)
        return ok(name, f"its keys were fetched: {count}")

    async def _organizations(self, named: Mapping[OrgId, str]) -> Check:
        try:
            found = await self._within(self._parts.find_organizations(named.keys()))
        except AgentApiError as exc:
            return fault("organizations", str(exc), self._edit)
        unknown = [f"{where} names {org_id}" for org_id, where in named.items() if org_id not in found]
        if unknown:
            return fault("organizations", f"{'; '.join(unknown)}: no such organisation is in the database", self._edit)
        return ok("organizations", f"those that the configuration file names are in the database: {len(named)}")

    async def _resource(self, setup: SignInSetup) -> Check:
        try:
            await self._within(self._parts.check_resource(setup))
        except AgentApiError as exc:
            # Lines of our own alone: the message quotes what a foreign server answered.
            return fault("resource URL", str(exc), *(notes_of(exc) or (_RESOURCE_LINE,)))
        return ok("resource URL", f"{setup.resource_url} leads a stranger to the sign-in")

    async def _proxy(self, setup: SignInSetup) -> Check | None:
        try:
            found = await self._within(self._parts.has_unknown_proxy())
        except AgentApiError:
            found = None
        match found:
            case None:
                return None if setup.resource_url is None else not_checked("proxy", "the server's /readyz is not there")
            case True:
                detail = "a proxy forwards requests to the server, and AGENTAPI_TRUSTED_PROXIES lacks it"
                return fault("proxy", f"{detail}: all its clients count as one address", _PROXIES_LINE)
            case False:
                # Without a resource URL, whoever has the usual port was asked, and may be another's server.
                said = ok("proxy", "none forwards requests without being trusted")
                return None if setup.resource_url is None else said

    async def _within(self, asking: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._limit.total_seconds()):
                return await asking
        except TimeoutError:
            raise StoreUnavailableError(f"It gave no answer within {self._limit.total_seconds():.0f} s.") from None


def _whole(setup: SignInSetup) -> Check:
    if setup.refusal is not None:
        return fault("sign-in", setup.refusal, *_LINES.findall(setup.refusal))
    if setup.needs_token is not None:
        lines = _LINES.findall(setup.needs_token)
        return fault("sign-in", f"`serve` refuses to start: {setup.needs_token} {_OPTIONS}", *lines)
    if setup.resource_url is None:
        return not_in_use("sign-in", "nobody signs in: no [[issuers]] in the file, and no AGENTAPI_RESOURCE_URL")
    return ok("sign-in", f"for {setup.resource_url}, by {', '.join(each.issuer for each in setup.issuers)}")


def _settings_in(refusal: str) -> list[str]:
    return [f"export {name}=..." for name in dict.fromkeys(_VARIABLE.findall(refusal))]


def _organizations(issuers: tuple[Issuer, ...]) -> Iterator[tuple[OrgId, str]]:
    """Yield the organisations that the rules name, with the place in the file."""
    for issuer in issuers:
        rules = {"domains": issuer.domains, "organizations": issuer.organizations}
        for key, mapping in rules.items():
            for name, org_id in mapping.items():
                yield org_id, f'{key}."{name}" of {issuer.issuer}'
        for service in issuer.services:
            yield service.org_id, f"the service {service.label} of {issuer.issuer}"
