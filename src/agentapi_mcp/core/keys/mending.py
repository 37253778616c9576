"""What mends a turn that failed for the key or the account that it was asked with, for whoever pays."""

from dataclasses import dataclass

from agentapi_mcp.base.errors import FAULT_ADVICE, BackendError, BackendFault, sentences
from agentapi_mcp.base.text import listed
from agentapi_mcp.core.keys.models import KeySource

_ABOUT_KEYS = frozenset({BackendFault.AUTH, BackendFault.PERMISSION, BackendFault.PAYMENT, BackendFault.RATE_LIMIT})


@dataclass(frozen=True, slots=True)
class Payer:
    """With what a turn is asked; `provider` is whose key or account it is, None where nothing says so.

    `variables` are the environment variables that the server's own key is read from.
    """

    source: KeySource = KeySource.SERVER
    provider: str | None = None
    variables: tuple[str, ...] = ()

    def mends(self, error: BackendError) -> str:
        """Return the next step after an error, which names the variable or the command where it is about the key."""
        means = self._means()
        if means is None or error.fault not in _ABOUT_KEYS:
            return error.next_step
        what, replacing = means
        # A step that is more than what is said of every such fault stays.
        known = "" if error.next_step == FAULT_ADVICE[error.fault].next_step else error.next_step
        match error.fault:
            case BackendFault.AUTH:
                return sentences(known, f"It was {what} that was refused: {replacing}")
            case BackendFault.PAYMENT:
                spent = f"No credit or quota is left for {what}: add credit or raise the limit at the provider"
                return sentences(known, f"{spent}, {replacing}, or use another agent")
            case _:
                return sentences(error.next_step, f"It was asked with {what}")

    def _means(self) -> tuple[str, str] | None:
        """Return what was used, and how it is replaced."""
        of = "" if self.provider is None else f" for {self.provider}"
        add = f"agentapi-mcp keys add {self.provider or 'PROVIDER'}"
        match self.source:
            case KeySource.SERVER if self.variables:
                names = listed(self.variables)
                return f"the key in {names}", f"set another one in {names} and start the program again"
            case KeySource.USER:
                return f"your own key{of}", f"remove it (`agentapi-mcp keys list` shows it) and add another (`{add}`)"
            case KeySource.ORGANIZATION:
                who = "an administrator of your organisation replaces it"
                return f"your organisation's key{of}", f"{who} (`{add} --organization`)"
            case KeySource.ACCOUNT:
                connect = f"agentapi-mcp accounts connect {self.provider or 'PROVIDER'}"
                return f"your connected account{of.replace(' for ', ' at ')}", f"connect it again (`{connect}`)"
            case _:
                return None
