"""The test kit: the contract suite for packages that provide a backend. It needs `agentapi-mcp[testing]`."""

import pytest

# Before the module is imported: pytest rewrites assertions at import, to report the values they compare.
pytest.register_assert_rewrite("agentapi_mcp.testing.contract")
