"""Finding a turn by the beginning or the end of its id."""

from __future__ import annotations

from agentapi_mcp.cli.ids import TURN, check_part, find_id, whole_id

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.services import Services


async def find_turn(services: Services, text: str) -> str:
    """Return the full id of the turn whose id begins or ends with a text.

    Raises:
        InvalidRequestError: the text is too short.
        NotFoundError: no turn fits, or more than one.
    """
    whole = whole_id(text)
    if whole is not None:
        return whole
    check_part(text, TURN)
    return find_id(map(str, await services.turns.ids_like(services.principal, text)), text, TURN)
