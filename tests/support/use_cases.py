"""The types of the services, which their module imports for type checkers alone."""

import ast
import inspect
from importlib import import_module
from typing import get_type_hints

from agentapi_mcp.core import services
from agentapi_mcp.core.services import Services


def types_of_services() -> dict[str, object]:
    """Return the type of each field of `Services`."""
    names: dict[str, object] = {}
    for node in ast.walk(ast.parse(inspect.getsource(services))):
        if isinstance(node, ast.ImportFrom):
            module = import_module(str(node.module))
            names |= {alias.name: getattr(module, alias.name) for alias in node.names}
    return get_type_hints(Services, globalns=vars(services) | names)
