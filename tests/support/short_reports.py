"""A plugin of pytest: a test that fails by an exception group of one leaf reports the leaf alone.

Task groups wrap what a test's body raises once for each that is open round it, and pytest prints all of them natively.
"""

from collections.abc import Generator
from typing import cast

import pytest

FAILURES: tuple[type[BaseException], ...] = (Exception, pytest.fail.Exception)


def only_leaf(error: BaseException) -> BaseException | None:
    """Return the one exception within nested groups; None where there is no group, or more than one leaf."""
    leaf = error
    while isinstance(leaf, BaseExceptionGroup):
        within = cast("BaseExceptionGroup[BaseException]", leaf).exceptions
        if len(within) != 1:
            return None
        leaf = within[0]
    return None if leaf is error else leaf


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report the leaf, as if no group had been round it."""
    leaf = None if call.excinfo is None else only_leaf(call.excinfo.value)
    if isinstance(leaf, FAILURES):  # what is no failure, as a skip or an interrupt, is left to pytest
        call.excinfo = pytest.ExceptionInfo[BaseException].from_exception(leaf)
    return (yield)
