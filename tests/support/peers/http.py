"""The scriptable HTTP server of the test kit, under the name by which this suite's tests import it."""

from agentapi_mcp.testing.http import Answer, Exchange, ExchangeOutcome, HttpPeer, Pace, Steps, Ticks

__all__ = ["Answer", "Exchange", "ExchangeOutcome", "HttpPeer", "Pace", "Steps", "Ticks"]
