"""Schema of a catalogue file."""

from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.base.urls import parse_http_url
from agentapi_mcp.core.access.models import ASYMMETRIC, Issuer, Newcomers, Service, SubjectIs
from agentapi_mcp.core.accounts.models import AccountKind, AccountProvider
from agentapi_mcp.core.catalogue.models import ModelDeclaration
from agentapi_mcp.core.identity.principals import Role
from agentapi_mcp.core.keys.models import plain_provider


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _whole_too(value: object) -> object:
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _asymmetric(value: str) -> str:
    if value not in ASYMMETRIC:
        raise ValueError(f"must be one of {', '.join(ASYMMETRIC)}: a shared secret verifies nobody")
    return value


def _address(value: str) -> str:
    parts = parse_http_url(value)
    local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ValueError("must be an https address, or an http one on this machine")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must be an address without a user name, query or fragment")
    return value


Address = Annotated[str, Field(max_length=2000), AfterValidator(_storable), AfterValidator(_address)]
AgentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_storable)]
ShortName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_storable)]
BackendName = Annotated[str, Field(min_length=1, max_length=50)]
Text = Annotated[str, Field(max_length=100_000), AfterValidator(_storable)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Price = Annotated[Decimal, Field(ge=0, le=1_000_000), BeforeValidator(_whole_too)]


class Shape(BaseModel):
    """A strictly typed table that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class PricesShape(Shape):
    """`prices`: US dollars per million tokens."""

    input: Price | None = None
    output: Price | None = None
    cached_input: Price | None = None
    source: Name | None = None
    on: date | None = None


class ModelShape(Shape):
    """`[[agents.NAME.models]]`."""

    name: Name
    model_id: Name
    provider: ShortName
    display_name: Name | None = None
    description: Text | None = None
    enabled: bool = True
    context_window: Count | None = None
    max_output_tokens: Count | None = None
    prices: PricesShape = PricesShape()

    def declaration(self) -> ModelDeclaration:
        """Convert it to the core model."""
        return ModelDeclaration(
            name=self.name,
            model_id=self.model_id,
            provider=self.provider,
            display_name=self.display_name,
            description=self.description,
            enabled=self.enabled,
            context_window=self.context_window,
            max_output_tokens=self.max_output_tokens,
            prices=Prices(**dict(self.prices)),
        )


class OtherwiseShape(Shape):
    """`[agents.NAME.otherwise]`: the fallback configuration of an agent."""

    backend: BackendName
    options: dict[str, object] = Field(default_factory=dict, repr=False)


class AgentShape(Shape):
    """`[agents.NAME]`; the backend validates the options."""

    backend: BackendName
    description: Text = ""
    instructions: Text | None = None
    enabled: bool = True
    default_model: Name | None = None
    abandon_after_seconds: float = Field(default=600, ge=0, le=86_400, allow_inf_nan=False)
    options: dict[str, object] = Field(default_factory=dict, repr=False)
    models: list[ModelShape] = Field(default_factory=list)
    needs_account: AgentName | None = None
    otherwise: OtherwiseShape | None = None


_ISSUERS = {AccountKind.OPENROUTER: "https://openrouter.ai", AccountKind.GOOGLE: "https://accounts.google.com"}
_SCOPES = {AccountKind.GOOGLE: ("https://www.googleapis.com/auth/cloud-platform",)}


class AccountShape(Shape):
    """`[[accounts]]`: a provider where users connect accounts of their own."""

    name: AgentName
    kind: Annotated[AccountKind, Field(strict=False)]
    issuer: Address | None = None
    client_id: Name | None = None
    client_secret: ShortName | None = None
    scopes: list[Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]{1,200}$")]] | None = None
    providers: list[ShortName] | None = None
    agents: list[AgentName] | None = None

    def declaration(self) -> AccountProvider:
        """Convert it to the core model, without the secret."""
        providers = [self.name] if self.providers is None else self.providers
        return AccountProvider(
            name=self.name,
            kind=self.kind,
            issuer=self.issuer or _ISSUERS.get(self.kind, ""),
            client_id=self.client_id,
            scopes=_SCOPES.get(self.kind, ()) if self.scopes is None else tuple(self.scopes),
            pays_for=frozenset(map(plain_provider, providers)),
            agents=None if self.agents is None else frozenset(self.agents),
        )

    def fault(self) -> tuple[str, str] | None:
        """Return the key that does not fit the kind, with the reason."""
        if self.kind is AccountKind.OPENROUTER:
            given = {"client_id": self.client_id, "client_secret": self.client_secret, "scopes": self.scopes}
            extra = next((key for key, value in given.items() if value is not None), None)
            if extra is None:
                return None
            return extra, f"{extra!r} is not used: OpenRouter's flow knows no clients"
        if self.client_id is None:
            return "kind", f"an account of the kind {self.kind} needs a 'client_id', which its provider gives out"
        if self.kind is AccountKind.OAUTH and self.issuer is None:
            return "kind", "an account of the kind oauth needs an 'issuer', whose metadata has its addresses"
        return None


class IssuerKind(StrEnum):
    """Defaults of a known identity provider."""

    STANDARD = "standard"
    WORKOS = "workos"
    SUPABASE = "supabase"


class ServiceShape(Shape):
    """`[[issuers.services]]`: a program with a token of its own (client credentials)."""

    client_id: Name | None = None
    subject: Name | None = None
    organization: Annotated[UUID, Field(strict=False)]
    role: Annotated[Role, Field(strict=False)] = Role.MEMBER
    name: Name | None = None

    def declaration(self) -> Service:
        """Convert it to the core model."""
        return Service(
            client_id=self.client_id,
            subject=self.subject,
            org_id=OrgId(self.organization),
            role=self.role,
            name=self.name,
        )


class IssuerShape(Shape):
    """`[[issuers]]`: an authorization server whose access tokens are accepted."""

    issuer: Address
    kind: Annotated[IssuerKind, Field(strict=False)] = IssuerKind.STANDARD
    audience: Name | None = None
    jwks_uri: Address | None = None
    algorithms: list[Annotated[str, AfterValidator(_asymmetric)]] | None = None
    needs_scopes: bool | None = None
    trusts_email: bool = False
    organization_claim: Name | None = None
    client_id: Name | None = None
    client_secret: str | None = Field(default=None, repr=False)
    newcomers: Annotated[Newcomers, Field(strict=False)] = Newcomers.NONE
    domains: dict[str, Annotated[UUID, Field(strict=False)]] = Field(default_factory=dict)
    organizations: dict[str, Annotated[UUID, Field(strict=False)]] = Field(default_factory=dict)
    services: list[ServiceShape] = Field(default_factory=list)

    def declaration(self) -> Issuer:
        """Convert it to the core model, with the defaults of its kind."""
        known = _KNOWN[self.kind]
        is_supabase = self.kind is IssuerKind.SUPABASE
        return Issuer(
            issuer=self.issuer,
            audience=self.audience or ("authenticated" if is_supabase else None),
            jwks_uri=self.jwks_uri or (f"{self.issuer}/.well-known/jwks.json" if is_supabase else None),
            algorithms=ASYMMETRIC if self.algorithms is None else tuple(self.algorithms),
            subject_is=known,
            needs_scopes=self.kind is IssuerKind.STANDARD if self.needs_scopes is None else self.needs_scopes,
            trusts_email=self.trusts_email,
            organization_claim=self.organization_claim or ("org_id" if self.kind is IssuerKind.WORKOS else None),
            newcomers=self.newcomers,
            domains={name.lower(): OrgId(org) for name, org in self.domains.items()},
            organizations={name: OrgId(org) for name, org in self.organizations.items()},
            client_id=self.client_id,
            services=tuple(service.declaration() for service in self.services),
        )


_KNOWN = {
    IssuerKind.STANDARD: SubjectIs.OWN,
    IssuerKind.WORKOS: SubjectIs.WORKOS_ID,
    IssuerKind.SUPABASE: SubjectIs.PROFILE_ID,
}


class FileShape(Shape):
    """A catalogue file."""

    use_defaults: bool = True
    issuers: list[IssuerShape] = Field(default_factory=list)
    accounts: list[AccountShape] = Field(default_factory=list)
    roles: dict[ShortName, Annotated[Role, Field(strict=False)]] = Field(default_factory=dict)
    agents: dict[AgentName, AgentShape] = Field(default_factory=dict)


def keys_at(location: tuple[str | int, ...]) -> tuple[str, ...]:
    """List the valid keys of the table around `location`."""
    shapes: dict[int, type[Shape]] = {1: FileShape, 3: AgentShape, 4: OtherwiseShape, 5: ModelShape, 6: PricesShape}
    if location[0] == "issuers":
        shapes |= {3: IssuerShape, 5: ServiceShape}
    if location[0] == "accounts":
        shapes |= {3: AccountShape}
    return tuple(shapes[len(location)].model_fields)
