"""Write JSON for other programs of ours, and for the database."""

import json

from pydantic_core import to_json


def json_text(value: object) -> str:
    """Serialize a JSON value, in which ids may stand as they are; a choice is read slowly, and better made a `str`.

    A tenth of a turn's time was spent in `json`, which takes five times as long. A lone surrogate, which UTF-8 does not
    have, is escaped, and NaN is written as such: whoever reads the text refuses what is not JSON to it.
    """
    try:
        return to_json(value, inf_nan_mode="constants").decode()
    except ValueError:
        return json.dumps(value, default=str)
