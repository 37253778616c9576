"""What the core needs of those who verify tokens and sign visitors in."""

from collections.abc import Mapping
from typing import Protocol

from agentapi_mcp.core.identity import Principal, Role
from agentapi_mcp.core.records.identities import SignInRules
from agentapi_mcp.core.records.logins import LoginAnswer, LoginBegun


class Door(Protocol):
    """Whom access tokens let in."""

    def issuers(self) -> tuple[str, ...]:
        """List the authorization servers whose tokens are taken."""
        ...

    async def authenticate(self, token: str) -> Principal:
        """Tell whom a token lets in.

        Raises:
            NotAuthenticatedError: it is none for this server.
            PermissionDeniedError: its owner has no account or organisation here.
        """
        ...

    def roles(self) -> Mapping[str, Role]:
        """Tell what other words for roles mean in this database."""
        ...

    def can_log_in(self, issuer: str) -> bool:
        """Tell whether pages of ours can sign a visitor in at this issuer."""
        ...

    async def begin_login(self, issuer: str, redirect_uri: str) -> LoginBegun:
        """Return where to send a visitor to sign in.

        Raises:
            NotAuthenticatedError: the issuer cannot be asked, or not by us.
        """
        ...

    async def finish_login(self, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str) -> Principal:
        """Tell who came back.

        Raises:
            NotAuthenticatedError: they did not sign in, or came back with what was not asked for.
            PermissionDeniedError: they have no account or organisation here.
        """
        ...

    async def take(self, rules: SignInRules) -> None:
        """Go by these rules from now on, and by no others."""
        ...
