"""A module that is imported when something of it is first used."""

from importlib import import_module


class LazyModule:
    """Stands for a module that is slow to import, and that not every path through its user needs.

    Type checkers and the import contracts see the import beside it, in the branch that does not run.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        """Return something of the module, which is imported for it."""
        return getattr(import_module(self._name), attribute)
