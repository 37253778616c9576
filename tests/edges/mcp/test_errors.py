"""Every error of the core has an answer, and no answer tells what it should not."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from agentapi_mcp.base.errors import (
    AgentApiError,
    BackendError,
    BackendFault,
    LimitExceededError,
    NextStep,
    NotFoundError,
)
from agentapi_mcp.edges.mcp.errors import RPC_CODES, WORDS, explain, rpc_error, tool_error
from agentapi_mcp.presentation.errors import ERROR_META_KEY, error_fields
from tests.support.connect import text_of


def tree(root: type[AgentApiError] = AgentApiError) -> Iterator[type[AgentApiError]]:
    yield root
    for branch in root.__subclasses__():
        if branch.__module__.startswith("agentapi_mcp."):
            yield from tree(branch)


def make(kind: type[AgentApiError]) -> AgentApiError:
    return BackendError(BackendFault.PAYMENT, "No.") if issubclass(kind, BackendError) else kind("No.")


@pytest.mark.parametrize("kind", list(tree()))
def test_every_error_has_an_answer_for_tools_and_for_other_requests(kind: type[AgentApiError]) -> None:
    result = tool_error(make(kind))
    assert result.is_error
    assert text_of(result).startswith("No.")
    error = rpc_error(make(kind)).error
    assert error.code < -32000
    assert error.data["code"] == kind.code
    assert (result.meta or {})[ERROR_META_KEY] == error.data


def test_the_tables_hold_nothing_that_the_tree_does_not() -> None:
    codes = {kind.code for kind in tree()}
    assert set(RPC_CODES) == codes
    assert set(WORDS.steps_of_codes) <= codes


def test_a_limit_says_when_to_come_back() -> None:
    error = LimitExceededError("Too many.", retry_after=timedelta(seconds=2.2))
    assert explain(error) == "Too many. Try again in 3 s."
    fields = {"code": "limit_exceeded", "retryable": True, "retry_after_seconds": 3}
    assert rpc_error(error).error.data == fields
    assert tool_error(error).meta == {"agentapi-mcp/error": fields}


def test_an_agent_that_cannot_be_used_says_by_which_fault_and_whether_it_may_pass() -> None:
    for retryable in (True, False):
        error = BackendError(BackendFault.CONNECTION, "No.", retryable=retryable)
        assert error_fields(error) == {"code": "backend", "fault": "connection", "retryable": retryable}


def test_every_next_step_has_words() -> None:
    assert set(WORDS.next_steps) == set(NextStep)
    assert explain(NotFoundError("No.", next_step=NextStep.FIND_TURN)).startswith("No. Call list_sessions")


def test_a_backend_error_names_the_next_step() -> None:
    assert "credit" in explain(BackendError(BackendFault.PAYMENT, "Refused."))
