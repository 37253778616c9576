"""What a process does before and after its imports, so that they, and what they leave, cost little."""

import gc
import sys

# Python's default of 700 new containers visits the young ones 30 times for one large request, and is a tenth of the
# time of most commands, since what a module makes stays.
_THRESHOLDS = (10_000, 20, 20)


def prepare() -> None:
    """Make imports cheap, before there are any."""
    gc.set_threshold(*_THRESHOLDS)
    # structlog loads rich where something else installed it, for colours that no log of ours has.
    sys.modules["rich"] = None  # type: ignore[assignment]  # how an import is turned off (the import system, 5.3.1)


def allow_rich() -> None:
    """Let rich be imported after all, by what shows answers in a terminal; structlog has been imported before."""
    if not sys.modules.get("rich", sys):
        del sys.modules["rich"]


def leave_out_what_stays() -> None:
    """Exempt all objects that there are now from garbage collection.

    To be called once a server has started: a visit of its modules and classes would stop the event loop for 80 ms.
    """
    gc.collect()
    gc.freeze()
