"""The environment of the process, for what needs no more of the settings, which are slow to import."""

import os
import sys
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """Return the environment, for `${VAR}` in the operator's files and for the embedded server."""
    return dict(os.environ)  # noqa: TID251  # the one place that reads it


def platform() -> str:
    """Name the operating system as Python does."""
    return sys.platform
