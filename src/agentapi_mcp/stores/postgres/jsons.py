"""JSON as a database has it, which others may have written too."""

import json
from typing import cast


def json_object(text: str | None) -> dict[str, object]:
    """Read an object; what is none, or not there, is empty."""
    value: object = json.loads(text or "{}")
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
