"""This server among the replicas on its database."""

import hashlib
import json
from urllib.parse import urlsplit

from agentapi_mcp.app.build import Foundation
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.catalogue.health import Part
from agentapi_mcp.core.catalogue.models import AgentDeclaration, CatalogueFile, Replica
from agentapi_mcp.core.catalogue.replicas import Replicas
from agentapi_mcp.settings import VERSION, Settings
from agentapi_mcp.stores.postgres.replicas import PostgresReplicas

# The settings that change what callers are answered. Of those that hold a secret, only whether they are set counts.
_VALUES = (
    "user_id",
    "org_id",
    "wait_seconds",
    "toolsets",
    "tool_prefix",
    "resource_url",
    "abandon_grace_seconds",
    "redis_prefix",
)
_SECRETS = ("redis_url", "bearer_token", "master_key", "master_key_file", "master_key_command")


def build_replicas(base: Foundation, file: CatalogueFile) -> Replicas:
    """Build the comparison with the other replicas; it begins when it is opened."""
    own = Replica(id=new_id(), version=VERSION, configuration=configuration_hash(base.settings, file))
    return Replicas(PostgresReplicas(base.database), base.clock, own)


def replicas_part(replicas: Replicas) -> Part:
    """Return the replicas as a part of the server, which stays ready whatever they differ in."""
    return Part("replicas", "on this database", replicas.remark, remarked=HealthStatus.DEGRADED)


def configuration_hash(settings: Settings, file: CatalogueFile) -> str:
    """Return the hash of what answers depend on: the configuration file and settings, without any secret."""
    content = {
        "file": file.sha256,
        "agents": [_declared(agent) for agent in file.agents],
        "issuers": sorted(issuer.issuer for issuer in file.sign_in.issuers),
        "roles": {word: str(role) for word, role in file.sign_in.roles.items()},
        "settings": {name: getattr(settings, name) for name in _VALUES},
        "set": [name for name in _SECRETS if getattr(settings, name) is not None],
    }
    return hashlib.sha256(json.dumps(content, default=str, sort_keys=True).encode()).hexdigest()


def _declared(agent: AgentDeclaration) -> dict[str, object]:
    """Return what the hash of the file leaves out of an agent: a key that one replica lacks is in `missing`."""
    return {
        "name": agent.name,
        "backend": agent.backend,
        "options": {name: _without_secret(name, value) for name, value in agent.options.items()},
        "missing": agent.missing,
        "otherwise": None if agent.otherwise is None else _declared(agent.otherwise),
    }


def _without_secret(name: str, value: object) -> object:
    """Return the value of a number or a switch, and the server of an address; of all else, that it is set."""
    if isinstance(value, bool | int | float):
        return value
    if name == "base_url" and isinstance(value, str):
        parts = urlsplit(value)
        return parts.scheme, parts.netloc.rpartition("@")[2]
    return "set"
