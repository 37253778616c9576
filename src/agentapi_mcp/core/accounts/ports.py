"""Ports of connected accounts: storage, cache, and the flows of providers."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from agentapi_mcp.base.ids import UserId
from agentapi_mcp.core.access.models import LoginAnswer, LoginBegun
from agentapi_mcp.core.accounts.models import Account, AccountProvider, SealedAccount, Tokens


class FlowRefusedError(Exception):
    """The provider refuses for good: consent denied, or a void grant; the message is for users, in our words."""


class FlowUnavailableError(Exception):
    """The provider cannot be reached or fails for now, which says nothing about the grant; the message is for logs."""


class AccountFlow(Protocol):
    """The OAuth flow of a provider.

    Raises:
        FlowRefusedError: the provider refuses.
        FlowUnavailableError: the provider cannot answer now.
    """

    async def begin(self, provider: AccountProvider, redirect_uri: str) -> LoginBegun:
        """Return the URL where a user consents, with state and PKCE verifier."""
        ...

    async def finish(
        self, provider: AccountProvider, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str
    ) -> Tokens:
        """Exchange the code of the callback for tokens."""
        ...

    async def renew(self, provider: AccountProvider, tokens: Tokens) -> Tokens:
        """Exchange the refresh token; the result has the old one where the provider issued no new one."""
        ...

    async def revoke(self, provider: AccountProvider, tokens: Tokens) -> bool:
        """Revoke the tokens; False where the provider has no way to."""
        ...


class AccountStore(Protocol):
    """Sealed accounts of users, each a part of its user's row."""

    async def find(self, user_id: UserId) -> Mapping[str, SealedAccount]:
        """Read a user's accounts by provider."""
        ...

    async def put(self, new: SealedAccount) -> None:
        """Store an account in place of the one that the user had at the provider."""
        ...

    async def claim(self, stored: SealedAccount, owner: str) -> bool:
        """Take the lease to renew the tokens; False if they changed meanwhile, or somebody else has the lease."""
        ...

    async def replace(self, old: SealedAccount, new: SealedAccount) -> bool:
        """Replace an account and end its lease; False if it changed meanwhile."""
        ...

    async def release(self, stored: SealedAccount, owner: str) -> None:
        """Let the lease end shortly, so that a provider in trouble is not asked without pause."""
        ...

    async def remove(self, stored: SealedAccount) -> bool:
        """Remove an account; False if it changed meanwhile."""
        ...

    async def sealed(self, after: UserId, limit: int) -> Sequence[SealedAccount]:
        """List the accounts of some users that have any, by user."""
        ...


class AccountCache(Protocol):
    """Sealed access tokens that need no renewal yet; every entry may be absent."""

    async def find(self, user_id: UserId, providers: Sequence[str]) -> Mapping[str, bytes]:
        """Read the entries there are, by provider."""
        ...

    async def claim(self, user_id: UserId, providers: Sequence[str]) -> str | None:
        """Announce that the accounts are read from the store now; None where no entry can be stored."""
        ...

    async def put(self, account: Account, sealed: bytes, claim: str | None) -> None:
        """Store an entry until the token is to be renewed, if none was removed since the claim."""
        ...

    async def remove(self, user_id: UserId, provider: str) -> None:
        """Remove an entry, and end all claims to store one."""
        ...
