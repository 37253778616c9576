"""What a backend is given, and what it says it offers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from agentapi_mcp.core.identity import Principal
from agentapi_mcp.core.records.ids import SessionId, TurnId
from agentapi_mcp.core.records.sessions import HistoryMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTurn:
    """What a backend is to answer; `history` is oldest first and fits, `state` is its own handle of this session.

    `api_key` is the caller's, for a backend that declares OWN_KEYS: it takes it in place of the operator's.
    """

    turn_id: TurnId
    session_id: SessionId
    principal: Principal
    message: str
    model_id: str | None = None
    system: str | None = None
    history: tuple[HistoryMessage, ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    api_key: SecretStr | None = None
    state: Mapping[str, str] = field(default_factory=dict[str, str])
