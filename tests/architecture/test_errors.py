"""Every error has its own code, its advice, its exit status and the words of the command line."""

import ast
import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

from agentapi_mcp import core, stores
from agentapi_mcp.base.errors import (
    FAULT_ADVICE,
    AgentApiError,
    BackendFault,
    ConflictError,
    InvalidRequestError,
    LimitExceededError,
    NextStep,
)
from agentapi_mcp.cli.outputs import EXIT_STATUS, WORDS, explain
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.requests import ChatRequest


def leaves(kind: type[AgentApiError]) -> list[type[AgentApiError]]:
    """List the classes below one that have none below themselves."""
    below = kind.__subclasses__()
    return [leaf for one in below for leaf in leaves(one)] if below else [kind]


def test_every_leaf_has_its_own_code() -> None:
    codes = [leaf.code for leaf in leaves(AgentApiError)]
    assert len(codes) == len(set(codes))
    assert AgentApiError.code not in codes


def test_every_fault_has_advice() -> None:
    assert set(FAULT_ADVICE) == set(BackendFault)
    assert all(advice.next_step for advice in FAULT_ADVICE.values())


def test_every_leaf_has_an_exit_status_of_its_family() -> None:
    families = [kind for kind, _ in EXIT_STATUS if kind is not AgentApiError]
    assert [leaf for leaf in leaves(AgentApiError) if not issubclass(leaf, tuple(families))] == []


def test_every_next_step_and_argument_has_the_words_of_the_command_line() -> None:
    assert set(WORDS.next_steps) == set(NextStep)
    asked = {each.name for kind in (ChatRequest, Parameters) for each in fields(kind)} - {"parameters", "preferences"}
    assert asked <= set(WORDS.arguments)


def test_no_error_of_the_core_or_of_a_store_names_a_tool() -> None:
    tools = re.compile(r"\b(?:get_turn|cancel_turn|list_agents|list_models|list_sessions|get_transcript|get_health)\b")
    raised = [
        text.value
        for folder in (core, stores)
        for path in Path(folder.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise | ast.Return)
        for text in ast.walk(node)
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    ]
    assert "There is no such turn." in raised
    said = [*raised, *(advice.next_step for advice in FAULT_ADVICE.values())]
    assert [text for text in said if tools.search(text)] == []


def test_an_error_at_a_terminal_names_its_commands_and_options() -> None:
    assert explain(InvalidRequestError("is blank.", argument="system_prompt")) == "--system is blank."
    busy = ConflictError("Busy.", turn_id="7", next_step=NextStep.WAIT_OR_CANCEL)
    assert "`agentapi-mcp turns cancel 7`" in explain(busy)
    assert explain(LimitExceededError("Too many.", retry_after=timedelta(seconds=2.2))) == "Too many. Try again in 3 s."
