"""What messages begin with, as this process knows it: the store says whether it still holds when a turn begins."""

from datetime import timedelta

from cachetools import TTLCache

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import OrgId, SessionId, UserId
from agentapi_mcp.core.conversations.models import Defaults
from agentapi_mcp.core.identity.principals import Principal

_LIFETIME = timedelta(hours=1)
_MOST = 8_000_000  # in characters of JSON
_OVERHEAD = 1_000  # of an entry, beside that

_Key = tuple[UserId, OrgId, SessionId | None]


class KnownDefaults:
    """The defaults of sessions, and of new ones, for the users who asked for them; the ones used last are kept."""

    def __init__(self, clock: Clock) -> None:
        self._known = TTLCache[_Key, Defaults](
            _MOST, _LIFETIME.total_seconds(), timer=clock.monotonic, getsizeof=lambda known: known.size + _OVERHEAD
        )

    def find(self, principal: Principal, session_id: SessionId | None) -> Defaults | None:
        """Return what the next message of the session, or of a new one, begins with, if that is known."""
        return self._known.get((principal.user_id, principal.org_id, session_id))

    def keep(self, principal: Principal, defaults: Defaults) -> None:
        """Keep them for the next message of this user."""
        if defaults.size + _OVERHEAD <= _MOST:
            self._known[principal.user_id, principal.org_id, defaults.session_id] = defaults

    def forget(self, principal: Principal, session_id: SessionId | None) -> None:
        """Forget them: they have changed."""
        self._known.pop((principal.user_id, principal.org_id, session_id), None)
