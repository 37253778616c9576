"""The test kit: the contract of every backend, for a package that brings one. It needs `agentapi-mcp[testing]`."""

import pytest

# Before the module is imported, so that its assertions tell what they saw.
pytest.register_assert_rewrite("agentapi_mcp.testing.contract")
