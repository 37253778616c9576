"""A provider where accounts are connected: OAuth with rotation and revocation, and OpenRouter's flow."""

import base64
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, urlencode, urlsplit

from typing_extensions import override

from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer

CLIENT, SECRET = "agentapi-accounts", "s3cret/of:accounts"
Mood = Literal["well", "hangs", "fails", "limits", "nonsense"]


@dataclass
class _Grant:
    """What a user consented to; all of its tokens end with it."""

    asked: dict[str, str]
    scope: str
    is_valid: bool = True
    refresh: str | None = None
    old: set[str] = field(default_factory=set[str])


@dataclass
class Lies:
    """What the provider does otherwise than it should, or than its user wants."""

    state: str | None = None
    iss: str | None = None
    leaves_iss_out: bool = False
    denies: bool = False
    withholds: str | None = None
    metadata: dict[str, object] = field(default_factory=dict[str, object])
    tokens: dict[str, object] = field(default_factory=dict[str, object])


class AccountProviderPeer(HttpPeer):
    """The provider; `mood` is that of its token endpoint, `lasts` the seconds that an access token does."""

    def __init__(self) -> None:
        super().__init__()
        self.mood: Mood = "well"
        self.lies = Lies()
        self.lasts: int | None = 600
        self.rotates = True
        self.renewals = 0
        self.families_ended = 0
        self.meanwhile: Callable[[], Awaitable[object]] | None = None
        self._codes: dict[str, _Grant] = {}
        self._grants: dict[str, _Grant] = {}

    def accepts(self, token: str) -> bool:
        """Return whether an access token is good."""
        grant = self._grants.get(token)
        return grant is not None and grant.is_valid

    def end_all(self) -> None:
        """End every grant, as a user does on the provider's page of connected programs."""
        for grant in self._grants.values():
            grant.is_valid = False

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        match urlsplit(exchange.path).path:
            case "/.well-known/oauth-authorization-server":
                await answer.json(200, self._metadata())
            case "/authorize":
                await self._authorize(exchange, answer)
            case "/auth":
                await self._openrouter(exchange, answer)
            case "/token" | "/api/v1/auth/keys" if self.mood != "well":
                await self._fail(answer)
            case "/token":
                await self._token(exchange, answer)
            case "/api/v1/auth/keys":
                await self._key(exchange, answer)
            case "/revoke":
                await self._revoke(exchange, answer)
            case _:
                await answer.json(404, {})

    def _metadata(self) -> dict[str, object]:
        return {
            "issuer": self.origin,
            "authorization_endpoint": f"{self.origin}/authorize",
            "token_endpoint": f"{self.origin}/token",
            "revocation_endpoint": f"{self.origin}/revoke",
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            **self.lies.metadata,
        }

    async def _authorize(self, exchange: Exchange, answer: Answer) -> None:
        asked = _query(urlsplit(exchange.path).query)
        assert (asked["response_type"], asked["client_id"], asked["code_challenge_method"]) == ("code", CLIENT, "S256")
        back = {"state": self.lies.state or asked["state"], "iss": self.lies.iss or self.origin}
        if self.lies.leaves_iss_out:
            del back["iss"]
        if self.lies.denies:
            back["error"] = "access_denied"
        else:
            scopes = [scope for scope in asked.get("scope", "").split() if scope != self.lies.withholds]
            back["code"] = self._new_code(_Grant(asked, " ".join(scopes)))
        await answer.text(303, "", headers={"location": f"{asked['redirect_uri']}?{urlencode(back)}"})

    async def _openrouter(self, exchange: Exchange, answer: Answer) -> None:
        asked = _query(urlsplit(exchange.path).query)
        assert asked["code_challenge_method"] == "S256"
        back = {"error": "access_denied"} if self.lies.denies else {"code": self._new_code(_Grant(asked, ""))}
        await answer.text(303, "", headers={"location": f"{asked['callback_url']}?{urlencode(back)}"})

    async def _fail(self, answer: Answer) -> None:
        match self.mood:
            case "hangs":
                await answer.hang()
            case "limits":
                await answer.json(429, {"error": "slow_down"})
            case "nonsense":
                await answer.text(200, "<html>", "text/html")
            case _:
                await answer.json(503, {})

    async def _token(self, exchange: Exchange, answer: Answer) -> None:
        form = _query(exchange.content.decode())
        pair = base64.b64encode(f"{CLIENT}:{SECRET.replace('/', '%2F').replace(':', '%3A')}".encode()).decode()
        if exchange.headers.get("authorization") != f"Basic {pair}":
            await answer.json(401, {"error": "invalid_client"})
            return
        grant = await self._granted(form)
        if grant is None:
            await answer.json(400, {"error": "invalid_grant"})
            return
        said: dict[str, object] = {
            "access_token": self._new_access(grant),
            "token_type": "Bearer",
            "scope": grant.scope,
        }
        if self.lasts is not None:
            said["expires_in"] = self.lasts
        if grant.refresh is None or self.rotates:
            if grant.refresh is not None:
                grant.old.add(grant.refresh)
            grant.refresh = f"refresh-{secrets.token_urlsafe(16)}"
            said["refresh_token"] = grant.refresh
        await answer.json(200, said | self.lies.tokens)

    async def _granted(self, form: dict[str, str]) -> _Grant | None:
        if form["grant_type"] == "authorization_code":
            grant = self._codes.pop(form["code"], None)
            fits = grant is not None and form["redirect_uri"] == grant.asked["redirect_uri"]
            return grant if fits and grant is not None and _proves(form["code_verifier"], grant) else None
        self.renewals += 1
        if self.meanwhile is not None:
            await self.meanwhile()
        for grant in self._grants.values():
            if form["refresh_token"] in grant.old and grant.is_valid:
                # RFC 9700, section 4.14.2: somebody has an old token, so the whole family ends.
                grant.is_valid = False
                self.families_ended += 1
            if form["refresh_token"] == grant.refresh and grant.is_valid:
                return grant
        return None

    async def _key(self, exchange: Exchange, answer: Answer) -> None:
        said = json.loads(exchange.content)
        grant = self._codes.pop(said["code"], None)
        if grant is None or not _proves(said["code_verifier"], grant):
            await answer.json(403, {"error": {"code": 403, "message": "Invalid code or code_verifier"}})
            return
        await answer.json(200, {"key": self._new_access(grant), "user_id": "user_1"})

    async def _revoke(self, exchange: Exchange, answer: Answer) -> None:
        token = _query(exchange.content.decode())["token"]
        for access, grant in self._grants.items():
            if token in {access, grant.refresh}:
                grant.is_valid = False
        await answer.text(200, "")

    def _new_code(self, grant: _Grant) -> str:
        code = secrets.token_urlsafe(16)
        self._codes[code] = grant
        return code

    def _new_access(self, grant: _Grant) -> str:
        access = f"access-{secrets.token_urlsafe(16)}"
        self._grants[access] = grant
        return access


def described(peer: AccountProviderPeer, name: str, more: str = 'scopes = ["models", "chat"]\n') -> str:
    """Write the provider into a configuration file."""
    return (
        f'[[accounts]]\nname = "{name}"\nkind = "oauth"\nissuer = "{peer.origin}"\nclient_id = "{CLIENT}"\n'
        f'client_secret = "{SECRET}"\n{more}'
    )


def _proves(verifier: str, grant: _Grant) -> bool:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return challenge == grant.asked["code_challenge"]


def _query(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text).items()}
