"""The words that usage is told by: providers, and terms, which are features and kinds of interactions."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AuthType(StrEnum):
    """How a provider lets callers in."""

    API_KEY = "api_key"
    OAUTH = "oauth"
    BEARER_TOKEN = "bearer_token"  # noqa: S105  # the name of a way to sign in
    NONE = "none"


class TermKind(StrEnum):
    """What a term is one of."""

    FEATURE = "feature"
    INTERACTION_TYPE = "interaction_type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider of models. Its `base_url` is shown only; `added_at` is None for one that came with the program."""

    id: str
    name: str
    description: str | None = None
    auth_type: AuthType = AuthType.API_KEY
    base_url: str | None = None
    is_active: bool = True
    added_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A term of a kind. Lists have them by `sort_order`, by None last; `added_at` is as of a provider."""

    kind: TermKind
    id: str
    name: str
    description: str | None = None
    category: str | None = None
    icon: str | None = None
    color: str | None = None
    sort_order: int | None = None
    is_active: bool = True
    added_at: datetime | None = None
