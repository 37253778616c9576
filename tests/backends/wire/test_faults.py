"""Which fault it is: the provider's own words beat the status."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.base.errors import BackendFault

FAULTS = FaultReader(provider="stub", redactor=Redactor())


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (500, {"error": {"metadata": {"error_type": "context_length_exceeded"}}}, BackendFault.CONTEXT_LENGTH),
        (502, {"error": {"metadata": {"error_type": "unmapped"}}}, BackendFault.UPSTREAM),
        (403, {"error": {"metadata": {"flagged_input": "…"}}}, BackendFault.CONTENT_POLICY),
        (429, {"error": {"code": "insufficient_quota"}}, BackendFault.PAYMENT),
        (401, {"error": {"type": "invalid_request_error", "code": None}}, BackendFault.AUTH),
        (400, {"error": {"message": "prompt is too long: 9 tokens"}}, BackendFault.CONTEXT_LENGTH),
        (400, {"error": "the input length exceeds the context length"}, BackendFault.CONTEXT_LENGTH),
        (400, {"object": "error", "message": "no", "code": 400}, BackendFault.BAD_REQUEST),
        (422, {"detail": "no"}, BackendFault.BAD_REQUEST),
        (413, None, BackendFault.CONTEXT_LENGTH),
        (408, None, BackendFault.UPSTREAM),
        (418, ["?"], BackendFault.BAD_REQUEST),
        (504, [], BackendFault.UPSTREAM),
        (503, [{"error": {"status": "UNAVAILABLE"}}], BackendFault.OVERLOADED),
    ],
)
def test_a_refusal_is_told_as_its_fault(status: int, body: object, fault: BackendFault) -> None:
    error = FAULTS.of_reply(status, {}, body)
    assert error.fault is fault
    assert str(error).startswith("stub ")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"code": 429, "message": "no"}, BackendFault.RATE_LIMIT),
        ({"code": "402"}, BackendFault.PAYMENT),
        ({"code": "server_error"}, BackendFault.UPSTREAM),
        ({"code": "anything"}, BackendFault.UPSTREAM),
        (None, BackendFault.UPSTREAM),
    ],
)
def test_an_error_inside_a_good_reply_has_its_own_code(error: object, fault: BackendFault) -> None:
    assert FAULTS.of_error({"error": error}).fault is fault


def test_the_wait_is_the_providers_own_before_the_headers() -> None:
    own = {"error": {"availability": {"retryable": True, "retry_after": 7}}}
    google = [{"error": {"details": [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "1.5s"}]}}]
    assert FAULTS.of_reply(503, {"retry-after": "2"}, own).retry_after == timedelta(seconds=7)
    assert FAULTS.of_reply(429, {"retry-after": "2"}, google).retry_after == timedelta(seconds=1.5)
    assert FAULTS.of_reply(429, {"retry-after": "2"}, None).retry_after == timedelta(seconds=2)


def test_the_wait_may_be_a_date() -> None:
    passed = format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)
    assert FAULTS.of_reply(429, {"retry-after": passed}, None).retry_after == timedelta(0)
    assert FAULTS.of_reply(429, {"retry-after": "soon"}, None).retry_after is None
    assert FAULTS.of_reply(429, {"retry-after": "1e999999"}, None).retry_after == timedelta(days=7)


def test_availability_beats_the_status_and_the_next_step_says_so() -> None:
    final = FAULTS.of_reply(503, {"retry-after": "2"}, {"error": {"availability": {"retryable": False}}})
    assert not final.may_retry
    assert "does not help" in final.next_step
    later = FAULTS.of_reply(400, {}, {"error": {"availability": {"retryable": True}}})
    assert later.may_retry
    assert "may be tried again" in later.next_step


@pytest.mark.parametrize("code", [1302, 10**500])
def test_a_number_of_the_providers_own_is_no_http_status(code: int) -> None:
    error = FAULTS.of_error({"error": {"code": code, "message": "busy"}})
    assert error.fault is BackendFault.UPSTREAM
    assert "HTTP" not in str(error)
    assert len(str(error)) < 400
