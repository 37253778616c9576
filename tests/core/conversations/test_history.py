"""What is learned about the tokens of a model."""

import pytest

from agentapi_mcp.core.conversations.history import TokenRatios


def test_the_models_that_are_not_used_any_more_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentapi_mcp.core.conversations.history.MOST_MODELS", 2)
    ratios = TokenRatios()
    ratios.learn("one", prompt_bytes=400, input_tokens=200)
    ratios.learn("two", prompt_bytes=400, input_tokens=300)
    assert ratios.get("one") == pytest.approx(2)
    ratios.learn("three", prompt_bytes=400, input_tokens=50)
    assert [ratios.get(model) for model in ("one", "two", "three")] == pytest.approx([2, 1, 0.5])
