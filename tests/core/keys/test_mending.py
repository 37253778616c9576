"""The next step after a fault of a key names what mends it, for whoever pays."""

import pytest

from agentapi_mcp.base.errors import FAULT_ADVICE, BackendError, BackendFault
from agentapi_mcp.core.catalogue.health import check_of_turn
from agentapi_mcp.core.keys.mending import Payer
from agentapi_mcp.core.keys.models import KeySource

VARIABLES = ("HOUSE_KEY",)
NAMED = {
    KeySource.SERVER: ("the key in HOUSE_KEY", "set another one in HOUSE_KEY and start the program again"),
    KeySource.USER: ("your own key for house", "`agentapi-mcp keys add house`"),
    KeySource.ORGANIZATION: ("your organisation's key for house", "`agentapi-mcp keys add house --organization`"),
    KeySource.ACCOUNT: ("your connected account at house", "`agentapi-mcp accounts connect house`"),
}
MENDED = [BackendFault.AUTH, BackendFault.PAYMENT]


@pytest.mark.parametrize("source", NAMED)
@pytest.mark.parametrize("fault", list(BackendFault))
def test_what_is_said_of_each_fault_to_whoever_pays(fault: BackendFault, source: KeySource) -> None:
    advice = FAULT_ADVICE[fault].next_step
    step = Payer(source, "house", VARIABLES).mends(BackendError(fault, "No."))
    what, replacing = NAMED[source]
    if fault in MENDED:
        assert (what in step, replacing in step, advice in step) == (True, True, False)
    elif fault in {BackendFault.PERMISSION, BackendFault.RATE_LIMIT}:
        assert step == f"{advice} It was asked with {what}."
    else:
        assert step == advice


@pytest.mark.parametrize("fault", MENDED)
def test_a_step_of_the_backends_own_stays(fault: BackendFault) -> None:
    step = Payer(variables=VARIABLES).mends(BackendError(fault, "No.", next_step="Log in to the CLI again."))
    assert step.startswith("Log in to the CLI again. ")
    assert "HOUSE_KEY" in step


@pytest.mark.parametrize("payer", [Payer(), Payer(KeySource.UNKNOWN, "house", VARIABLES)])
def test_where_nothing_is_known_of_the_key_the_advice_is_that_of_the_fault(payer: Payer) -> None:
    error = BackendError(BackendFault.AUTH, "No.")
    assert payer.mends(error) == error.next_step


@pytest.mark.parametrize("fault", [BackendFault.AUTH, BackendFault.PAYMENT, BackendFault.UPSTREAM])
def test_an_agents_health_names_the_variable_where_the_servers_key_is_at_fault(fault: BackendFault) -> None:
    error = check_of_turn(fault, Payer(variables=VARIABLES)).error or ""
    assert error.startswith(f"A turn failed: {fault}.")
    assert ("HOUSE_KEY" in error) is (fault in MENDED)
