"""An authorization server's public side: its metadata and its keys, with every lie that a test wants of it."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from typing_extensions import override

from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Mood = Literal[
    "well", "hangs", "fails", "lies", "empty", "huge", "redirects", "other_issuer", "nonsense", "bad_address"
]


@dataclass
class SigningKey:
    """A key pair with its name; it is made when it is first used, since tests name keys that most runs never use."""

    kid: str
    algorithm: str = "RS256"

    @cached_property
    def private(self) -> Private:
        """The private half."""
        match self.algorithm[:2]:
            case "ES":
                return ec.generate_private_key(ec.SECP256R1())
            case "Ed":
                return ed25519.Ed25519PrivateKey.generate()
            case _:
                return rsa.generate_private_key(65537, 2048)

    @property
    def jwk(self) -> dict[str, object]:
        """The public half, as a JWK."""
        public = self.private.public_key()
        match public:
            case ec.EllipticCurvePublicKey():
                said = ECAlgorithm.to_jwk(public, as_dict=True)
            case ed25519.Ed25519PublicKey():
                said = OKPAlgorithm.to_jwk(public, as_dict=True)
            case _:
                said = RSAAlgorithm.to_jwk(public, as_dict=True)
        return {**said, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    @property
    def pem(self) -> bytes:
        """The public half, as everybody may know it."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, claims: Mapping[str, object], **header: object) -> str:
        """Make a token."""
        named: dict[str, object] = {"kid": self.kid, "typ": "at+jwt", **header}
        headers = {name: value for name, value in named.items() if value is not None}
        said = json.dumps(dict(claims)).encode()  # as it is: the library would refuse what some tests want
        return jwt.api_jws.encode(said, self.private, algorithm=self.algorithm, headers=headers)


class IssuerPeer(HttpPeer):
    """The server; `mood` says how it is, `keys` what it publishes."""

    def __init__(self, *keys: SigningKey, path: str = "") -> None:
        super().__init__()
        self.keys = list(keys)
        self.mood: Mood = "well"
        self.path = path

    @property
    def issuer(self) -> str:
        """The name it gives itself."""
        return f"{self.origin}{self.path}"

    @property
    def jwks_uri(self) -> str:
        """Where its keys are."""
        return f"{self.origin}/keys"

    @property
    def times_asked(self) -> int:
        """How often somebody wanted its keys."""
        return sum(exchange.path == "/keys" for exchange in self.exchanges)

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        if exchange.path != "/keys":
            await self._metadata(exchange, answer)
            return
        match self.mood:
            case "hangs":
                await answer.hang()
            case "fails":
                await answer.json(500, {})
            case "empty":
                await answer.json(200, {"keys": []})
            case "huge":
                await answer.text(200, json.dumps({"keys": [], "more": "x" * 300_000}), "application/json")
            case "redirects":
                await answer.text(302, "", headers={"location": f"{self.origin}/elsewhere"})
            case "nonsense":
                await answer.text(200, "<html>", "text/html")
            case _:
                await answer.json(200, {"keys": [key.jwk for key in self.keys]})

    async def _metadata(self, exchange: Exchange, answer: Answer) -> None:
        if exchange.path != f"/.well-known/oauth-authorization-server{self.path}":
            await answer.json(404, {})
            return
        name = "https://somebody.else" if self.mood == "other_issuer" else self.issuer
        keys = "https://[no-address" if self.mood == "bad_address" else self.jwks_uri
        await answer.json(200, {"issuer": name, "jwks_uri": keys})


def forged_with_public_key(key: SigningKey, claims: Mapping[str, object]) -> str:
    """Sign with what everybody knows, as if it were a shared secret (RFC 8725, section 2.1)."""
    header = {"alg": "HS256", "typ": "at+jwt", "kid": key.kid}
    signed = f"{_part(header)}.{_part(claims)}"
    return f"{signed}.{_encoded(hmac.new(key.pem, signed.encode(), hashlib.sha256).digest())}"


def unsigned(claims: Mapping[str, object]) -> str:
    """Make a token that nobody signed."""
    return f"{_part({'alg': 'none', 'typ': 'at+jwt'})}.{_part(claims)}."


def _part(value: object) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
