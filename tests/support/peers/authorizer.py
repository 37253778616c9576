"""An authorization server with a sign-in: its visitor is whom the test says, and it checks what a client must do."""

import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

from typing_extensions import override

from agentapi_mcp.testing.http import Answer, Exchange
from tests.support.peers.issuer import IssuerPeer, SigningKey

CLIENT, SECRET = "agentapi-pages", "s3cret/with:signs"


@dataclass
class _Code:
    asked: dict[str, str]
    subject: str
    used: bool = False


@dataclass
class Lies:
    """What the server does otherwise than it should."""

    state: str | None = None
    iss: str | None = None
    leaves_iss_out: bool = False
    promises_iss: object = None
    claims: dict[str, object] = field(default_factory=dict[str, object])
    token_status: int = 200


class AuthorizerPeer(IssuerPeer):
    """The server; `subject` is who sits before the browser."""

    def __init__(self, key: SigningKey) -> None:
        super().__init__(key)
        self.subject = "nobody"
        self.secret: str | None = SECRET
        self.lies = Lies()
        self._codes: dict[str, _Code] = {}

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        match urlsplit(exchange.path).path:
            case "/authorize":
                await self._authorize(exchange, answer)
            case "/token":
                await self._token(exchange, answer)
            case "/.well-known/oauth-authorization-server" if self.mood == "well":
                said: dict[str, object] = {
                    "issuer": self.issuer,
                    "jwks_uri": self.jwks_uri,
                    "authorization_endpoint": f"{self.origin}/authorize",
                    "token_endpoint": f"{self.origin}/token",
                    "scopes_supported": ["openid", "keys", "chat"],
                }
                if self.lies.promises_iss is not None:
                    said["authorization_response_iss_parameter_supported"] = self.lies.promises_iss
                await answer.json(200, said)
            case _:
                await super().answer(exchange, answer)

    async def _authorize(self, exchange: Exchange, answer: Answer) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(exchange.path).query).items()}
        assert (asked["response_type"], asked["client_id"]) == ("code", CLIENT)
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self._codes[code] = _Code(asked, self.subject)
        back = {"code": code, "state": self.lies.state or asked["state"], "iss": self.lies.iss or self.issuer}
        if self.lies.leaves_iss_out:
            del back["iss"]
        await answer.text(303, "", headers={"location": f"{asked['redirect_uri']}?{urlencode(back)}"})

    async def _token(self, exchange: Exchange, answer: Answer) -> None:
        form = {name: values[0] for name, values in parse_qs(exchange.content.decode()).items()}
        code = self._codes.get(form.get("code", ""))
        if code is None or code.used or not self._may(exchange, form, code):
            await answer.json(400, {"error": "invalid_grant"})
            return
        code.used = True
        now = time.time()
        claims: dict[str, object] = {
            "iss": self.issuer,
            "sub": code.subject,
            "aud": form["resource"],
            "exp": now + 300,
            "client_id": CLIENT,
            "scope": code.asked.get("scope", ""),
        }
        token = self.keys[0].sign(claims | self.lies.claims)
        await answer.json(self.lies.token_status, {"access_token": token, "token_type": "Bearer"})

    def _may(self, exchange: Exchange, form: dict[str, str], code: _Code) -> bool:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        known = form.get("client_id") == CLIENT
        if self.secret is not None:
            pair = base64.b64encode(f"{CLIENT}:{self.secret.replace('/', '%2F').replace(':', '%3A')}".encode()).decode()
            known = exchange.headers.get("authorization") == f"Basic {pair}"
        same = form["redirect_uri"] == code.asked["redirect_uri"] and form["resource"] == code.asked["resource"]
        return known and same and challenge.decode() == code.asked["code_challenge"]


def described(peer: AuthorizerPeer) -> str:
    """Write the issuer into a configuration file."""
    return f'[[issuers]]\nissuer = "{peer.issuer}"\nnewcomers = "personal"\nclient_id = {json.dumps(CLIENT)}\n'
