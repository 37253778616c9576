"""A token server as Google's, and the key file of a service account that uses it."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typing_extensions import override

from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer


class TokenPeer(HttpPeer):
    """Gives tokens `ya29.stub-1`, `ya29.stub-2`, … that are good for an hour; or refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = False

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        del exchange
        if self.refuses:
            await answer.json(400, {"error": "invalid_grant", "error_description": "Account deleted: s3cret"})
            return
        token = f"ya29.stub-{len(self.exchanges)}"
        await answer.json(200, {"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    def write_key_file(self, path: Path) -> None:
        """Write the key file of a service account whose tokens come from here."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        content = {
            "type": "service_account",
            "project_id": "example-project",
            "private_key_id": "1",
            "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            "client_email": "robot@example-project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.origin}/token",
        }
        path.write_text(json.dumps(content))
