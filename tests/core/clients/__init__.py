"""Tests of MCP clients."""
