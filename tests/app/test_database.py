"""What is said of a database that is not ready."""

import pytest
from pydantic import SecretStr

from agentapi_mcp.app.database import migrate_command
from agentapi_mcp.settings import Settings

DIRECT = "postgresql://postgres:p@db.ref.supabase.co:5432/postgres"


@pytest.mark.parametrize(
    ("owner", "login", "command"),
    [
        (None, "postgresql://app:p@db.example/shop", "agentapi-mcp migrate"),
        ("postgresql://app:p@db.example/shop", "postgresql://app:q@db.example/shop", "agentapi-mcp migrate"),
        (
            "postgresql://own:p@db.example/shop",
            "postgresql://app@db.example/shop",
            "agentapi-mcp migrate --grant-to app",
        ),
        ("postgresql://own:p@db.example/shop", "postgresql://db.example/shop", "agentapi-mcp migrate"),
        ("postgresql://db.example/shop", "postgresql://app@db.example/shop", "agentapi-mcp migrate"),
        (
            "postgresql://own@db.example/shop",
            "postgresql://a%20b%24c@db.example/shop",
            "agentapi-mcp migrate --grant-to 'a b$c'",
        ),
        (DIRECT, "postgresql://app.ref:p@aws.pooler.supabase.com:6543/postgres", "agentapi-mcp migrate --grant-to app"),
        (DIRECT, "postgresql://postgres.ref:p@aws.pooler.supabase.com/postgres", "agentapi-mcp migrate"),
    ],
)
def test_another_login_than_the_owners_is_granted_what_it_needs(owner: str | None, login: str, command: str) -> None:
    settings = Settings(migrate_database_url=None if owner is None else SecretStr(owner), database_url=SecretStr(login))
    assert migrate_command(settings) == command
