"""Finding a turn by the beginning or the end of its id."""

from agentapi_mcp.base.errors import NotFoundError
from agentapi_mcp.cli.ids import TURN, check_part, find_id, whole_id
from agentapi_mcp.core.services import Services

_SEARCHED = 1000  # newest turns, among which a part of an id is looked for


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
    newest = await services.turns.recent(services.principal, _SEARCHED)
    try:
        return find_id((str(turn.id) for turn in newest), text, TURN)
    except NotFoundError as exc:
        if len(newest) == _SEARCHED:
            exc.add_note(f"Only your newest {_SEARCHED:,} turns were searched: say the whole id of an older one.")
        raise
