"""Every Redis key that is written, with its lifetime."""

import re
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Key:
    """A kind of key: name template, lifetime and content."""

    pattern: str
    lifetime: timedelta
    holds: str

    @property
    def seconds(self) -> int:
        """The lifetime, as commands take it."""
        return int(self.lifetime.total_seconds())

    def name(self, prefix: str, *ids: object) -> str:
        """Return the key name for these ids."""
        return prefix + self.pattern.format(*ids)


_TAG = re.compile(r"[^{]*\{[^{}]+\}[^{}]*")


def keeps_slots(prefix: str) -> bool:
    """Return whether keys that belong together are in one slot of a cluster: the prefix has a whole hash tag, or none.

    Of a key with a part in braces that part alone decides on the slot (Redis, cluster specification, "Hash tags").
    """
    return not {"{", "}"} & set(prefix) or _TAG.fullmatch(prefix) is not None


HISTORY = Key("chat:session:{}:messages", timedelta(hours=1), "recent history, with the id of its last message")
SESSION = Key("session:{}", timedelta(hours=24), "a chat session's state: user, organisation, agent, model, metadata")
# A row of `mcp_sessions` has a session_id of three parts, and that of a chat session is a UUID: both have one name.
CLIENT = Key("session:{}", timedelta(hours=24), "an MCP client's state, which is trusted for ten seconds")
HEALTH = Key("agent:health:{}", timedelta(minutes=5), "what was last measured of an agent")
METRICS = Key("agent:metrics:{}:{}", timedelta(hours=1), "how an agent did for an organisation, from its first turn on")
TURN_EVENTS = Key("turn:{}:events", timedelta(hours=1), "the stream of a running turn's events")
HELD = Key("share:{}:{}:held", timedelta(seconds=5), "how much of a resource each replica holds for a user")
USED = Key("share:{}:{}:used", timedelta(minutes=1), "when all that a user has used of a rate is forgotten")
OAUTH_TOKEN = Key(
    "oauth_token:{}:{}",
    timedelta(minutes=5),
    "a connected account's sealed access token; one that expires is kept until it is to be renewed",
)
ROW_READ = Key(
    # The braces are a hash tag: in a cluster it is in the slot of the copy.
    "row_read:{{{}}}",
    timedelta(seconds=10),
    "for a copy of a row: the claim of who reads that row, and then that the copy may be trusted",
)
PROBE = Key("agentapi:probe:{}", timedelta(seconds=30), "the health check's own, which is asked for and never made")

KEYS = (HISTORY, SESSION, CLIENT, HEALTH, METRICS, TURN_EVENTS, HELD, USED, OAUTH_TOKEN, ROW_READ, PROBE)
