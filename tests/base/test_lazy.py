"""A module that is imported when something of it is first used."""

import sys

import pytest

from agentapi_mcp.base.lazy import LazyModule

_RARE = "this"  # of the standard library; nothing else imports it


def test_a_lazy_module_is_imported_when_something_of_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    module = LazyModule(_RARE)
    assert _RARE not in sys.modules
    try:
        assert isinstance(module.s, str)
        assert sys.modules[_RARE].s == module.s
        assert "Readability counts." in capsys.readouterr().out
    finally:
        sys.modules.pop(_RARE, None)


def test_what_a_lazy_module_does_not_have_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="module 'math' has no attribute 'nothing'"):
        _ = LazyModule("math").nothing
