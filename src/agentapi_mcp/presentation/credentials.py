"""Tokens, keys and accounts as JSON, without what is secret of them."""

from agentapi_mcp.core.access.models import PersonalToken
from agentapi_mcp.core.accounts.models import Account
from agentapi_mcp.core.identity.principals import TokenScope
from agentapi_mcp.core.keys.models import ApiKey
from agentapi_mcp.presentation.values import moment


def account_json(account: Account) -> dict[str, object]:
    """Return an account for programs, without its tokens."""
    return {
        "provider": account.provider,
        "state": str(account.state),
        "scopes": list(account.scopes),
        "connected_at": moment(account.connected_at),
        "expires_at": account.expires_at and moment(account.expires_at),
    }


def key_json(key: ApiKey) -> dict[str, object]:
    """Return a key for programs, without its value."""
    return {
        "id": str(key.id),
        "name": key.name,
        "whose": str(key.owner.key_source),
        "provider": key.provider,
        "model": key.model,
        "last_four": key.last_four,
        "active": key.active,
        "created_at": moment(key.created_at),
        "last_used_at": key.last_used_at and moment(key.last_used_at),
    }


def token_json(token: PersonalToken) -> dict[str, object]:
    """Return a token for programs, without its secret."""
    return {
        "id": str(token.id),
        "name": token.name,
        "last_four": token.last_four,
        "scopes": scopes_of(token),
        "toolsets": toolsets_of(token),
        "created_at": moment(token.created_at),
        "expires_at": moment(token.expires_at),
        "last_used_at": token.last_used_at and moment(token.last_used_at),
    }


def scopes_of(token: PersonalToken) -> list[str]:
    """Return what a token may do, in the order of the documentation."""
    return [str(scope) for scope in TokenScope if scope in token.scopes]


def toolsets_of(token: PersonalToken) -> list[str] | None:
    """Return which toolsets its clients see; None means those of the server."""
    return None if token.toolsets is None else sorted(token.toolsets)
