"""A token server as Microsoft Entra ID's: client credentials for a scope."""

from urllib.parse import parse_qs

from typing_extensions import override

from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer

CREDENTIAL = "entra-client-0123456789~abc"
SCOPE = "https://cognitiveservices.azure.com/.default"


class EntraPeer(HttpPeer):
    """Gives tokens `ey.stub-1`, `ey.stub-2`, … that are good for an hour; or refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.life: object = 3600

    @property
    def credentials(self) -> dict[str, str]:
        """The options that lead here."""
        url = f"{self.origin}/tenant/oauth2/v2.0/token"
        return {"token_url": url, "client_id": "app", "client_secret": CREDENTIAL, "scope": SCOPE}

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        given = {name: values[0] for name, values in parse_qs(exchange.content.decode()).items()}
        if self.is_away:
            await answer.json(503, {"error": "temporarily_unavailable"})
        elif given.get("grant_type") != "client_credentials" or given.get("scope") != SCOPE:
            await answer.json(400, {"error": "invalid_request", "error_description": "AADSTS90014: No scope."})
        elif given.get("client_secret") != CREDENTIAL or given.get("client_id") != "app":
            said = f"AADSTS7000215: Invalid client secret provided: {given.get('client_secret')}"
            said += f" in {exchange.content.decode()}"
            await answer.json(401, {"error": "invalid_client", "error_description": said})
        else:
            token = f"ey.stub-{len(self.exchanges)}"
            life = {} if self.life is None else {"expires_in": self.life}
            await answer.json(200, {"access_token": token, "token_type": "Bearer", **life})
