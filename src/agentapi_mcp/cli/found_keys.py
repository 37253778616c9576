"""Finding a stored API key by its name, or by the beginning or the end of its id."""

from __future__ import annotations

from agentapi_mcp.cli.ids import KEY, find_id, whole_id

TYPE_CHECKING = False  # type checkers take it for true; the help of a command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.services import Services


async def key_id(services: Services, which: str, whose: tuple[bool, ...] = (False, True)) -> str:
    """Return the whole id of a key: of the caller's own (False), of the organisation's (True), or of both.

    Raises:
        InvalidRequestError: the part of an id is too short.
        NotFoundError: no key fits, or more than one.
    """
    keys = [key for shared in whose for key in await services.api_keys.list_(services.principal, organization=shared)]
    named = [str(key.id) for key in keys if key.name == which]
    return named[0] if named else whole_id(which) or find_id([str(key.id) for key in keys], which, KEY)
