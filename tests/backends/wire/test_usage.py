"""The bill is true: zero is not unknown, and unknown is not zero."""

import json
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.backends.wire.chat_completions import ChatCompletionsReply
from agentapi_mcp.backends.wire.droid_jsonrpc import DroidAnswer
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.fields import parse_json
from agentapi_mcp.backends.wire.messages import MessagesReply
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.backends.wire.usage import count_of, read_usage
from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.core.backends.events import Usage, UsageReported
from tests.support.hostile import json_values

FAULTS = FaultReader(provider="stub", redactor=Redactor())
PIECE: dict[str, object] = {"choices": [{"delta": {"content": "w"}}]}
END: dict[str, object] = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
FILTERED: dict[str, object] = {"choices": [{"delta": {}, "finish_reason": "content_filter"}]}


def parsed(body: object) -> object:
    """Read JSON as a provider's is read: with exact decimals."""
    return parse_json(json.dumps(body), what="It")


def bill_of_chat(*pieces: object, has_cost: bool = True) -> Usage:
    """Return what is billed after these pieces, whether or not the answer ends with them."""
    answer = ChatCompletionsReply(FAULTS, provider=None, has_cost=has_cost)
    events = [event for piece in pieces for event in answer.feed(parsed(piece))]
    return next((event.usage for event in reversed(events) if isinstance(event, UsageReported)), Usage())


def bill_of_messages(*pieces: dict[str, object]) -> Usage:
    """Return what is billed after these events."""
    answer = MessagesReply(FAULTS, None)
    events = [event for piece in pieces for event in answer.feed(parsed(piece))]
    return next((event.usage for event in reversed(events) if isinstance(event, UsageReported)), Usage())


def start(**usage: object) -> dict[str, object]:
    return {"type": "message_start", "message": {"usage": usage}}


def stop(**usage: object) -> dict[str, object]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


SAID: dict[str, object] = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "w"}}


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 0.00014}, "0.00014"),
        ({"cost": "0.00014"}, "0.00014"),
        ({"cost": 1e-7}, "1e-7"),
        ({"cost": 0}, "0"),  # a free model
        ({"cost": 0, "is_byok": False, "cost_details": {"upstream_inference_cost": None}}, "0"),
        ({"cost": 0, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.5}}, "0"),
        ({"cost": 0.5, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.5}}, "0.5"),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.036}}, "0.036"),
        ({"cost": "0.95", "is_byok": True, "cost_details": {"upstream_inference_cost": "19"}}, "19.95"),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0}}, "0"),
        ({"cost": 0, "is_byok": True}, None),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": "?"}}, None),
        ({"is_byok": True, "cost_details": {"upstream_inference_cost": 0.036}}, None),
        ({"cost": 0, "cost_details": {"upstream_inference_cost": 0.036}}, None),  # whose key it was is not said
        ({"cost": 0.5, "cost_details": {"upstream_inference_cost": 0.4}}, "0.5"),
        ({"cost": -1}, None),
        ({"cost": True}, None),
        ({"cost": [1]}, None),
    ],
)
def test_the_cost_is_what_is_paid_in_all(usage: dict[str, object], cost: str | None) -> None:
    expected = None if cost is None else Decimal(cost)
    counts = {"prompt_tokens": 11, "completion_tokens": 5}
    read = bill_of_chat(PIECE, END, {"choices": [], "usage": counts | usage})
    assert read == Usage(11, 5, cost_usd=expected)
    assert bill_of_chat(PIECE, END, {"usage": counts | usage}, has_cost=False) == Usage(11, 5)  # in which currency?


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": "11", "completion_tokens": 5.0}, Usage(11, 5)),
        ({"prompt_tokens": 11, "completion_tokens": 5.5}, Usage(11)),
        ({"prompt_tokens": 11.5, "completion_tokens": 5}, Usage(None, 5)),
        ({"prompt_tokens": -1, "completion_tokens": 5}, Usage(None, 5)),
        ({"prompt_tokens": 11, "completion_tokens": -5}, Usage(11)),
        ({"prompt_tokens": 11, "completion_tokens": 10**30}, Usage(11)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage()),  # nobody counted
        ({"prompt_tokens": 0, "completion_tokens": 5}, Usage(None, 5)),
        ({"prompt_tokens": 11, "completion_tokens": 0}, Usage(11)),  # of an answer with words
        ({"prompt_tokens": 11, "completion_tokens": None}, Usage(11)),
        ({"prompt_tokens": 11, "prompt_tokens_details": {"cached_tokens": "4"}}, Usage(11, cached_tokens=4)),
        ({"prompt_tokens": 11, "prompt_tokens_details": {"cached_tokens": 0}}, Usage(11, cached_tokens=0)),
        ({"prompt_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0}}, Usage()),
        ({"prompt_tokens": 11, "prompt_tokens_details": None, "cached_tokens": 4}, Usage(11, cached_tokens=4)),  # Kimi
        # DeepSeek
        (
            {"prompt_tokens": 11, "completion_tokens": 5, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 7},
            Usage(11, 5, 4),
        ),
        # Responses: the cached tokens are part of the input
        (
            {"input_tokens": 11, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}},
            Usage(11, 5, 4),
        ),
        # Messages: they stand beside it
        ({"input_tokens": 11, "output_tokens": 5, "cache_read_input_tokens": 4}, Usage(15, 5, 4)),
        ({"prompt_tokens": 15, "completion_tokens": 5, "cache_read_input_tokens": 4}, Usage(15, 5, 4)),  # LiteLLM
        ({"prompt_tokens": 11, "completion_tokens": 5, "input_tokens": 0, "output_tokens": 0}, Usage(11, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 11, "output_tokens": 5}, Usage(11, 5)),
        # xAI: reasoning stands beside the completion, and is billed
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(32, 103, reasoning_tokens=94),
        ),
        # OpenAI: it is part of the completion
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 103,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(32, 103, reasoning_tokens=94),
        ),
        # Gemini's compatible endpoint: it is part of the total alone
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}, Usage(20, 603)),
        # a total that has something else in it
        (
            {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 16, "cache_read_input_tokens": 4},
            Usage(7, 5, 4),
        ),
        ({"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 3}, Usage(11, 5)),
        (
            {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 16, "reasoning_tokens": 3},
            Usage(7, 5, reasoning_tokens=3),
        ),
        ({"input_tokens": 7, "output_tokens": 5, "total_tokens": 16}, Usage(7, 5)),
        # Responses and Messages say what is reasoning of the output
        (
            {"input_tokens": 7, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 3}},
            Usage(7, 5, reasoning_tokens=3),
        ),
        (
            {"input_tokens": 7, "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 3}},
            Usage(7, 5, reasoning_tokens=3),
        ),
        ({"output_tokens": 5}, Usage(None, 5)),
        # What was written to a cache: beside the input of Messages, with how long it is kept; part of OpenRouter's and
        # LiteLLM's
        (
            {
                "input_tokens": 11,
                "output_tokens": 5,
                "cache_read_input_tokens": 4,
                "cache_creation_input_tokens": 9,
                "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 6},
            },
            Usage(24, 5, 4, cache_write_tokens=9, cache_write_1h_tokens=6),
        ),
        ({"input_tokens": 11, "cache_creation_input_tokens": 9}, Usage(20, cache_write_tokens=9)),
        ({"input_tokens": 11, "cache_creation_input_tokens": 0}, Usage(11, cache_write_tokens=0)),
        ({"input_tokens": 0, "cache_creation_input_tokens": 0}, Usage()),
        ({"input_tokens": 11, "cache_creation_input_tokens": "many"}, Usage()),
        ({"input_tokens": 20, "input_tokens_details": {"cache_write_tokens": 9}}, Usage(20, cache_write_tokens=9)),
        (
            {"prompt_tokens": 194, "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100}},
            Usage(194, cached_tokens=0, cache_write_tokens=100),
        ),
        ({"prompt_tokens": 20, "cache_creation_input_tokens": 9}, Usage(20, cache_write_tokens=9)),
    ],
)
def test_counts_are_read_in_every_form_or_they_are_unknown(usage: dict[str, object], expected: Usage) -> None:
    assert bill_of_chat(PIECE, END, {"choices": [], "usage": usage}) == expected
    assert bill_of_chat({**PIECE, "usage": usage}, END) == expected
    assert bill_of_chat(PIECE, END, {"choices": [], "x_groq": {"id": "x", "usage": usage}}) == expected


def test_a_cost_beside_counts_that_nobody_made_is_true_unless_it_is_zero() -> None:
    counts = {"prompt_tokens": 0, "completion_tokens": 0}
    assert bill_of_chat(PIECE, END, {"usage": counts | {"cost": 0.5}}) == Usage(cost_usd=Decimal("0.5"))
    assert bill_of_chat(PIECE, END, {"usage": counts | {"cost": 0}}) == Usage()


def test_a_usage_of_the_api_comes_before_that_of_groq() -> None:
    counts, other = {"prompt_tokens": 11, "completion_tokens": 5}, {"prompt_tokens": 1, "completion_tokens": 1}
    assert bill_of_chat(PIECE, END, {"usage": counts, "x_groq": {"usage": other}}) == Usage(11, 5)
    assert bill_of_chat(PIECE, END, {"usage": None, "x_groq": {"usage": counts}}) == Usage(11, 5)


def test_geminis_own_form_is_read() -> None:
    usage = {"promptTokenCount": 20, "candidatesTokenCount": 198, "thoughtsTokenCount": 405, "totalTokenCount": 623}
    assert bill_of_chat(PIECE, END, {"usageMetadata": usage}) == Usage(20, 603, reasoning_tokens=405)
    more = {"cachedContentTokenCount": 8, "toolUsePromptTokenCount": 3}
    assert bill_of_chat(PIECE, END, {"usageMetadata": usage | more}) == Usage(23, 603, 8, 405)


def test_no_output_is_told_only_of_an_answer_that_ended_without_any() -> None:
    none = {"prompt_tokens": 11, "completion_tokens": 0}
    assert bill_of_chat({"choices": [], "usage": none}) == Usage(11)  # the first of a stream's reports
    assert bill_of_chat(PIECE, {"choices": [], "usage": none}) == Usage(11)
    assert bill_of_chat(FILTERED, {"choices": [], "usage": none}) == Usage(11, 0)
    assert bill_of_messages(start(input_tokens=11), stop(output_tokens=0)) == Usage(11, 0)
    assert bill_of_messages(start(input_tokens=11), SAID, stop(output_tokens=0)) == Usage(11)


def test_reports_are_cumulative_and_a_zero_takes_nothing_back() -> None:
    reports = [{"prompt_tokens": 11, "completion_tokens": count, "cost": count} for count in (1, 3, 0)]
    assert bill_of_chat(*({**PIECE, "usage": usage} for usage in reports)) == Usage(11, 3, cost_usd=Decimal(3))
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0}
    assert bill_of_chat({**PIECE, "usage": reports[1]}, {**END, "usage": zeros}) == Usage(11, 3, cost_usd=Decimal(3))
    assert bill_of_chat({**PIECE, "usage": zeros}) == Usage()
    nulls = dict.fromkeys(zeros)
    assert bill_of_chat({**PIECE, "usage": reports[1]}, {**END, "usage": nulls}) == Usage(11, 3, cost_usd=Decimal(3))
    worse = {"prompt_tokens": -1, "completion_tokens": 7}
    assert bill_of_chat({**PIECE, "usage": reports[1]}, {**END, "usage": worse}, has_cost=False) == Usage(None, 7)
    assert bill_of_messages(start(input_tokens=11, output_tokens=1), SAID, stop(output_tokens=5)) == Usage(11, 5)
    again = stop(input_tokens=0, cache_read_input_tokens=0, output_tokens=5)
    assert bill_of_messages(start(input_tokens=11, cache_read_input_tokens=4), SAID, again) == Usage(15, 5, 4)


def test_a_stream_that_begins_with_zeros_is_not_known_to_be_free_of_input() -> None:
    assert bill_of_messages(start(input_tokens=0, output_tokens=0), SAID) == Usage()
    assert bill_of_messages(start(input_tokens=0, output_tokens=1), SAID, stop(output_tokens=5)) == Usage(None, 5)
    late = stop(input_tokens=11, output_tokens=5)
    assert bill_of_messages(start(input_tokens=0, output_tokens=0), SAID, late) == Usage(11, 5)
    assert bill_of_messages(SAID, late) == Usage(11, 5)
    assert bill_of_messages(start(input_tokens=0, cache_read_input_tokens=4), SAID) == Usage(4, cached_tokens=4)
    assert bill_of_messages(start(input_tokens=11, cache_read_input_tokens=0.5), SAID, stop(output_tokens=5)) == Usage(
        None, 5
    )


def test_droids_zeros_are_unknown_as_well() -> None:
    def bill(**usage: object) -> object:
        return DroidAnswer(FAULTS).feed({"type": "agent_turn_completed", "reason": "completed", "tokenUsage": usage})

    whole = bill(inputTokens=7, outputTokens=5, cacheReadTokens=4, cacheCreationTokens=2, thinkingTokens=3)
    assert whole == UsageReported(Usage(13, 5, 4, 3, cache_write_tokens=2))
    assert bill(inputTokens=0, outputTokens=5, cacheReadTokens=0) == UsageReported(Usage(None, 5))
    assert bill(inputTokens=0, outputTokens=0, cacheReadTokens=0, thinkingTokens=0) is None


@given(st.integers(0, 10**12))
@example(0)
def test_a_count_may_come_as_a_float_or_as_text(count: int) -> None:
    forms = [parsed(form) for form in (count, float(count), str(count), f"{count}.0")]
    assert [count_of(form) for form in (*forms, float(count))] == [count] * 5
    assert [count_of(form) for form in (parsed(count + 0.5), f"{count}.5", -1 - count, f"-{count + 1}")] == [None] * 4


@given(
    json_values(
        ("prompt_tokens", "completion_tokens", "input_tokens", "total_tokens", "cost", "is_byok", "cost_details"),
        st.sampled_from(["1e99999", "7", "sNaN", Decimal("1e-99999"), float("inf"), 10**400, True]),
    )
)
def test_a_usage_of_any_shape_is_read_or_unknown(usage: object) -> None:
    read = read_usage(as_object(usage), has_cost=True)
    assert read.input_tokens is None or read.input_tokens > 0
    assert read.output_tokens is None or read.output_tokens > 0
    assert read.cost_usd is None or read.cost_usd >= 0
