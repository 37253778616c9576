"""Names as people and models spell them: in another case, or with other signs between the words."""

from collections.abc import Iterable

_SIGNS = str.maketrans("_ ", "--")
_LONGEST = 255


def spelling(name: str) -> str:
    """Return what all spellings of a name have in common."""
    return name.strip().casefold().translate(_SIGNS)


def named(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is meant by another spelling; None if none is, or more than one."""
    if len(name) > _LONGEST:
        return None
    wanted = spelling(name)
    found = {each for each in known if spelling(each) == wanted}
    return found.pop() if len(found) == 1 else None
