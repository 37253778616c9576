"""Validate settings of organisations and preferences of clients before they are stored."""

from collections.abc import Sequence
from typing import cast

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.text import listed, one_line
from agentapi_mcp.base.validation import MAX_NAME, check_text
from agentapi_mcp.core.catalogue.catalogue import CatalogueEntry
from agentapi_mcp.core.catalogue.parameters import Parameters, check_parameters
from agentapi_mcp.core.catalogue.policy import LISTS, model_names

_MOST_ALLOWED = 200
_KINDS = {"enabled": "true or false", "temperature": "a number", "max_tokens": "a whole number"}
_AGENTS = frozenset({"default_agent", "allowed_agents"})
_MODELS = frozenset({"default_model", "allowed_models", "model"})


def check_setting(
    setting: str,
    typed: object | None,
    entries: Sequence[CatalogueEntry],
    argument: str,
    elsewhere: Sequence[str] = (),
) -> None:
    """Validate a value: None means that its type was wrong; names must be among the entries, or agents `elsewhere`.

    Raises:
        InvalidRequestError: names the `argument`, the reason and what is allowed.
    """
    if typed is None:
        kind = "a list of names" if setting in LISTS else _KINDS.get(setting, "text that is not blank")
        raise InvalidRequestError(f"must be {kind}.", argument=argument)
    if setting in {"temperature", "max_tokens", "system_prompt"}:
        check_parameters(Parameters(**{setting: typed}))  # type: ignore[arg-type]  # typed_setting made it
        return
    names = cast("tuple[str, ...]", typed) if setting in LISTS else (str(typed),)
    if not 1 <= len(names) <= _MOST_ALLOWED:
        raise InvalidRequestError(
            f"must have between 1 and {_MOST_ALLOWED} names; unset it to allow all.", argument=argument
        )
    if setting in _AGENTS:
        check_names(names, "agent", [*(entry.name for entry in entries), *elsewhere], argument)
    elif setting in _MODELS:
        known = {name: None for entry in entries for model in entry.row.models for name in model_names(entry, model)}
        check_names(names, "model", list(known), argument)


def check_names(names: Sequence[str], what: str, known: Sequence[str], argument: str) -> None:
    """Validate that all names are known.

    Raises:
        InvalidRequestError: names the unknown one, and lists the known ones.
    """
    for name in names:
        check_text(name, argument, MAX_NAME)
        if name not in known:
            raise InvalidRequestError(
                f"names {one_line(name, 60)!r}, and there is no such {what}; there are: {listed(known)}.",
                argument=argument,
            )
