"""The ids of what is kept."""

from typing import NewType
from uuid import UUID

AgentId = NewType("AgentId", UUID)
ModelRowId = NewType("ModelRowId", UUID)
SessionId = NewType("SessionId", UUID)
MessageId = NewType("MessageId", UUID)
TurnId = NewType("TurnId", UUID)
ApiKeyId = NewType("ApiKeyId", UUID)
