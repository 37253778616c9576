"""Pagination."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` is opaque, bound to list and principal, and None on the last page."""

    items: tuple[T, ...]
    next_cursor: str | None = None


async def read_all(read: Callable[[str | None], Awaitable[Page[T]]]) -> list[T]:
    """Read all pages, each with the cursor of the one before."""
    page = await read(None)
    items = list(page.items)
    while page.next_cursor is not None:
        page = await read(page.next_cursor)
        items += page.items
    return items
