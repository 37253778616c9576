"""Exceptions out of task groups."""

from agentapi_mcp.base.exceptions import innermost


def test_the_first_exception_within_groups_is_found() -> None:
    first = ValueError("first")
    assert innermost(ExceptionGroup("outer", [ExceptionGroup("inner", [first, OSError()]), KeyError()])) is first
    assert innermost(first) is first
