"""Finding a member of the organisation by e-mail, or by the beginning or the end of the id."""

from __future__ import annotations

from agentapi_mcp.cli.ids import MEMBER, find_id, whole_id

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.services import Services


async def member_id(services: Services, which: str) -> str:
    """Return the whole id of a member; one of a user who is no member any more is taken as it is.

    Raises:
        InvalidRequestError: the part of an id is too short.
        NotFoundError: no member fits, or more than one.
    """
    whole = whole_id(which)
    if whole is not None:
        return whole
    members = (await services.memberships.list_(services.principal)).members
    # A program, and whoever has no e-mail, is not named by a blank, such as a script's empty variable.
    named = [str(one.user_id) for one in members if one.email and one.email.lower() == which.strip().lower()]
    return named[0] if named else find_id([str(one.user_id) for one in members], which, MEMBER)
