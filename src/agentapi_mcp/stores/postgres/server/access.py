"""Say who may connect to a server that runs under a uid of its own: root, and no other account."""

import os
import sys

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount
from agentapi_mcp.stores.postgres.server.paths import Home, write_file

# Windows only imports this module.
# pyright: reportPossiblyUnboundVariable=false
if sys.platform != "win32":
    from pwd import getpwuid

# No line for TCP. The server's own uid has no account, so that `peer` refuses it as well.
_RULES = "local all all peer map=agentapi\n"


def access_settings(home: Home, account: ServerAccount) -> list[str]:
    """Return the settings that name the files of the rules, written if needed; none for an account of the machine.

    There the rules that the data was made with hold, `trust`. `peer` would keep out nobody whom the private directory
    lets in, and would ask at every connection for the name of a uid that may have another, or none, on this machine.

    Raises:
        StoreUnavailableError: root has no name here.
    """
    if not account.is_homes:
        return []
    # Beside the data, which the server may write: it cannot change them, and its own settings do not override these.
    rules, names = home.base / "pg_hba.conf", home.base / "pg_ident.conf"
    for path, text in ((rules, _RULES), (names, f'agentapi "{_name_of_root()}" all\n')):
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_file(path, text, mode=0o644)
    return [f"hba_file={rules}", f"ident_file={names}"]


def _name_of_root() -> str:
    try:
        return getpwuid(os.geteuid()).pw_name
    except KeyError as exc:
        raise StoreUnavailableError(
            "This machine has no account with the uid 0, by whose name the embedded Postgres knows who may connect: "
            "run as another user, or set AGENTAPI_DATABASE_URL."
        ) from exc
