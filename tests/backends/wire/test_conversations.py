"""What is said in a session, as strict chat templates want it."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.backends.wire.conversations import instructions_of, spoken_of
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.testing.peers import backend_turn

MESSAGES = st.builds(HistoryMessage, st.sampled_from(MessageRole), st.sampled_from(["", " \n", "a", "b"]))


@given(st.lists(MESSAGES))
def test_of_any_history_user_and_assistant_speak_by_turns_and_the_user_first(history: list[HistoryMessage]) -> None:
    turn = replace(backend_turn("now"), history=tuple(history))
    sent = spoken_of(turn)
    assert sent[0]["role"] == "user"
    assert sent[-1]["role"] == "user"
    assert sent[-1]["content"].endswith("now")
    assert all(one["role"] != other["role"] for one, other in pairwise(sent))
    assert all(message["content"].strip() for message in sent)
    # Nothing is lost, and nothing said in another role.
    assert parts_of([instructions_of(turn)]) == [each.text for each in history if is_kept(each, MessageRole.SYSTEM)]
    by_user, by_others = ([m["content"] for m in sent if m["role"] == role] for role in ("user", "assistant"))
    said = [each.text for each in history if is_kept(each, MessageRole.USER)]
    assert parts_of(by_user)[-len(said) - 1 :] == [*said, "now"]
    assert parts_of(by_others) == [
        each.text for each in history if is_kept(each, MessageRole.ASSISTANT, MessageRole.TOOL)
    ]


def parts_of(contents: list[str]) -> list[str]:
    return [part for content in contents for part in content.split("\n\n") if part]


def is_kept(message: HistoryMessage, *roles: MessageRole) -> bool:
    return message.role in roles and bool(message.text.strip())


@pytest.mark.parametrize(
    ("roles", "first"),
    [
        ([MessageRole.ASSISTANT], "(The conversation so far, or the end of it.)"),
        ([MessageRole.TOOL], "(The conversation so far, or the end of it.)"),
        ([MessageRole.USER, MessageRole.ASSISTANT], "said"),
        ([], "now"),
    ],
)
def test_where_the_user_does_not_speak_first_they_are_told_to(roles: list[MessageRole], first: str) -> None:
    history = tuple(HistoryMessage(role, "said") for role in roles)
    assert spoken_of(replace(backend_turn("now"), history=history))[0]["content"] == first
