"""The provider's own words reach the reader, from wherever they stand, and its secrets do not."""

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.backends.kinds.ccrouter import RouterFaults
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.redaction import LONGEST_LINE, Redactor
from agentapi_mcp.base.errors import BackendFault
from tests.support.hostile import json_values

SECRET = "s3cret-0123456789"  # noqa: S105  # the test looks for it everywhere
FAULTS = FaultReader(provider="stub", redactor=Redactor([SECRET]))
ROUTER_FAULTS = RouterFaults(provider="router", redactor=Redactor([SECRET]))


# What is said by who passes an error on, and tells nothing.
NOTHING = [
    "ok",
    "Error",
    "error: 400",
    "HTTP 502 Bad Gateway",
    "status code: 404 Not Found",
    "unknown error.",
    "failed",
    "Forbidden",
    "422 Unprocessable Entity",
    "unprocessable content",
    "Too Many Requests",
    "Internal Server Error",
]
VIOLATIONS = [{"field": "contents", "description": "Nope"}]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "Nope"}}, "Nope"),
        ({"error": "Nope"}, "Nope"),
        ({"message": "Nope"}, "Nope"),
        ({"detail": "Nope"}, "Nope"),
        (
            {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted", "input": SECRET}]},
            "stream_options: Extra inputs are not permitted",
        ),
        ({"detail": [{"loc": ["query", 3], "msg": "Nope"}, {"msg": "no"}]}, "query.3: Nope; no"),
        ({"detail": {"error": {"message": "Nope"}}}, "Nope"),
        ({"errors": [{"message": "Nope", "code": 3}, "nor this"]}, "Nope; nor this"),
        ({"errors": {"temperature": ["is too hot"], "top_p": "is odd"}}, "temperature: is too hot; top_p: is odd"),
        ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "insufficient balance"),
        ({"code": 500, "msg": "Nope", "success": False}, "Nope"),
        ({"title": "Bad Request", "status": 400, "detail": "Nope"}, "Nope"),  # RFC 9457
        ({"statusCode": 400, "error": "Bad Request", "message": ["a must be b", "c is odd"]}, "a must be b; c is odd"),
        ({"fault": {"faultstring": "Nope"}}, "Nope"),
        ({"error": {"message": "Bad", "details": [{"code": "x", "message": "Nope"}]}}, "Nope; Bad"),
        (
            [{"error": {"message": "Bad", "details": [{"@type": "x", "reason": "R", "fieldViolations": VIOLATIONS}]}}],
            "contents: Nope; Bad",
        ),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "Nope"}}}, "Nope"),
        ({"error": {"message": "It failed", "metadata": {"raw": '{"error":{"message":"Nope"}}'}}}, "Nope; It failed"),
        ({"error": {"message": 'It failed: {"message": "Nope"}', "metadata": {"raw": "Nope"}}}, None),
        ({"error": {"message": '{"error": {"message": "Nope"}}'}}, "Nope"),
        ({"error": {"message": {"message": "Nope"}}}, "Nope"),
        ('"Nope"', "Nope"),
        ({"error": {"message": '[{"msg": "Nope"}]'}}, "Nope"),
        ({"errcode": 3, "errmsg": "Nope"}, "Nope"),
        *(({"error": {"message": empty}, "detail": "Nope"}, "Nope") for empty in NOTHING),
        ("upstream connect error or disconnect/reset before headers", None),
        ('data: {"error": {"message": "Nope"}}\n\ndata: [DONE]\n\n', "Nope"),
        ("<html><head><title>502 Bad &amp; Gateway</title></head><body>secret text</body></html>", "502 Bad & Gateway"),
        ("<!DOCTYPE html>\n<body><h1>Blocked <b>here</b></h1></body>", "Blocked here"),
        ('<?xml version="1.0"?><Error><Code>X</Code><Message>Nope</Message></Error>', "Nope"),
        ("{not JSON", None),
        ({"error": {"message": "Nope\n  and more\nTraceback (most recent call last)\n  File x"}}, "Nope and more"),
        ({"error": "Unauthorized"}, "Unauthorized"),  # better than nothing
        ({"error": {"message": "Nope"}, "message": "Nope."}, "Nope."),
    ],
)
def test_the_words_of_every_shape_are_read(body: object, said: str | None) -> None:
    expected = said or (body if isinstance(body, str) else 'It failed: {"message": "Nope"}')
    assert str(FAULTS.of_reply(422, {}, body)) == f"stub says: {expected}"
    assert str(FAULTS.of_error(body)) == f"stub says: {expected}"


@pytest.mark.parametrize(
    "body", [None, {}, [], "", {"error": {}}, {"id": "x"}, "<html><body>no title</body></html>", 7]
)
def test_without_words_there_is_the_status(body: object) -> None:
    assert str(FAULTS.of_reply(502, {}, body)) == "stub answered with HTTP 502."


WRAPPERS: list[Callable[[object], object]] = [
    lambda said: {"error": said},
    lambda said: {"error": {"message": said, "type": "invalid_request_error", "code": None}},
    lambda said: {"error": {"code": 400, "message": "Provider returned error", "metadata": {"raw": said}}},
    lambda said: {"error": {"message": "It failed", "metadata": {"raw": json.dumps(said), "provider_name": "Stub"}}},
    lambda said: {"error": {"code": "x", "message": "no", "innererror": {"message": said}}},
    lambda said: {"errors": [said]},
    lambda said: {"errors": {"field": [said]}},
    lambda said: {"detail": said},
    lambda said: {"detail": [{"loc": ["body", "field"], "msg": said, "type": "x"}]},
    lambda said: {"title": "Bad Request", "status": 400, "detail": said},
    lambda said: {"message": said},
    lambda said: {"code": 500, "msg": said, "success": False},
    lambda said: {"base_resp": {"status_code": 1013, "status_msg": said}},
    lambda said: {"type": "error", "error": {"type": "api_error", "message": said}},
    lambda said: {"timestamp": 1, "status": 404, "error": "Not Found", "message": said, "path": "/v1"},
    lambda said: {"fault": {"faultstring": said, "detail": {"errorcode": "x"}}},
    lambda said: [said],
    json.dumps,
    lambda said: f"event: error\ndata: {json.dumps(said)}\n\n",
]
WORDS = st.lists(
    st.sampled_from(["the", "model", "cannot", "do", "this", "because", "of", "42", "é", "不"]), min_size=2, max_size=8
)


@example(wrappers=[WRAPPERS[15]] * 4, words="a b", is_page=False)
@given(wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=4), words=WORDS.map(" ".join), is_page=st.booleans())
def test_words_anywhere_reach_the_reader_and_secrets_never_do(
    wrappers: list[Callable[[object], object]],
    words: str,
    is_page: bool,  # noqa: FBT001  # a parameter
) -> None:
    said = f"{words}, with {SECRET} and sk-abc0123456789"
    body: object = f"<html><title>{said}</title><p>{SECRET}</p></html>" if is_page else said
    for wrap in wrappers:
        body = wrap(body)
    for faults in (FAULTS, ROUTER_FAULTS):
        for error in (faults.of_reply(400, {}, body), faults.of_error(body)):
            assert words in str(error)
            assert SECRET not in str(error)
            assert "sk-abc" not in str(error)


@given(
    json_values(("error", "errors", "detail", "message", "metadata", "raw", "base_resp"), st.just(f"x {SECRET} " * 99))
)
@example({"errors": [{"message": "x" * 400}] * 400})
@example(json.dumps({"detail": "[" * 5_000}))
@example(json.dumps(json.dumps(json.dumps(json.dumps({"error": SECRET})))))
def test_an_error_of_any_shape_is_one_bounded_line_without_secrets(body: object) -> None:
    said = str(FAULTS.of_reply(400, {}, body))
    assert len(said) <= LONGEST_LINE + len("stub says: ")
    assert len(said.splitlines()) == 1
    assert SECRET not in said


NAMES_OF_WORDS = (
    "message msg status_msg status_message error_message error_msg errorMessage errmsg error_description"
    " errorDescription faultstring description title reason Message error errors detail details fault innererror"
    " inner_error cause base_resp"
)


@pytest.mark.parametrize("name", NAMES_OF_WORDS.split())
def test_every_name_of_words_is_read(name: str) -> None:
    assert str(FAULTS.of_reply(400, {}, {"error": {name: "Nope"}})) == "stub says: Nope"
    assert str(FAULTS.of_reply(400, {}, {name: "Nope"})) == "stub says: Nope"


@pytest.mark.parametrize("name", ["error_type", "status", "code", "type", "reason", "Code", "__type", "error_code"])
def test_every_name_of_a_code_is_read(name: str) -> None:
    assert FAULTS.of_reply(418, {}, {"error": {"message": "?", name: "InvalidApiKey"}}).fault is BackendFault.AUTH


@pytest.mark.parametrize(
    "page",
    [
        "<title>Nope</title>",
        "<center>x<h1> Nope </h1>",
        "<body>x<h1>Nope</h1>",
        "<HEAD><TITLE>\nNope</TITLE>",
        "<error>x<message>Nope</message></error>",
    ],
)
def test_a_page_is_told_by_its_title(page: str) -> None:
    assert str(FAULTS.of_reply(502, {}, page)) == "stub says: Nope"


@pytest.mark.parametrize("name", ["quotaId", "quotaMetric"])
def test_a_quota_is_known_by_its_id_or_its_metric(name: str) -> None:
    details = [{"violations": [{name: "RequestsPerDay"}]}]
    body = {"error": {"message": "Retry in 3 s", "code": 429, "details": details}}
    assert FAULTS.of_reply(429, {}, body).fault is BackendFault.PAYMENT


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"statusCode": 429, "message": "?"}, BackendFault.RATE_LIMIT),
        ({"status_code": "402", "message": "?"}, BackendFault.PAYMENT),
        ({"status": 400, "message": "?"}, BackendFault.BAD_REQUEST),
        ({"code": 599, "message": "?"}, BackendFault.UPSTREAM),
        ({"code": 399, "message": "?"}, BackendFault.UPSTREAM),  # numbers of the provider's own
        ({"code": 600, "message": "?"}, BackendFault.UPSTREAM),
        ({"status_code": 1008, "message": "?"}, BackendFault.UPSTREAM),  # not MiniMax's
        ({"message": "?", "metadata": {"reasons": ["violence"]}}, BackendFault.CONTENT_POLICY),
        ({"message": "?", "metadata": {"flagged_input": "x"}}, BackendFault.CONTENT_POLICY),
    ],
)
def test_the_status_and_the_flags_of_every_shape_are_read(error: object, fault: BackendFault) -> None:
    assert FAULTS.of_error({"error": error}).fault is fault


@pytest.mark.parametrize("code", [399, 400, 599, 600])
def test_a_number_is_a_status_if_it_is_one_of_errors(code: int) -> None:
    assert ("HTTP" in str(FAULTS.of_error({"error": {"code": code}}))) is (400 <= code <= 599)


def test_an_error_that_is_nested_without_end_costs_little() -> None:
    body: object = "deep"
    for _ in range(40):
        body = {"error": [body] * 2}
    assert str(FAULTS.of_error(body)) == "stub failed."
