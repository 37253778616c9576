"""Tests of the MCP edge, driven by the SDK's own client in both protocol eras."""
