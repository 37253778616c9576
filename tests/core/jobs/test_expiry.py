"""Expired rows are deleted in batches, whatever their number."""

from dataclasses import dataclass, field

import pytest
from typing_extensions import override

from agentapi_mcp.core.jobs.expiry import BATCH, delete_expired
from agentapi_mcp.core.jobs.ports import ExpiredRowStore, ExpiringRows


@dataclass
class Rows(ExpiredRowStore):
    """A number of expired rows."""

    left: int
    batches: list[int] = field(default_factory=list[int])

    @override
    async def delete_expired(self, rows: ExpiringRows, limit: int) -> int:
        del rows
        self.batches.append(min(limit, self.left))
        self.left -= self.batches[-1]
        return self.batches[-1]


@pytest.mark.parametrize(
    ("expired", "batches"),
    [(0, [0]), (7, [7]), (BATCH, [BATCH, 0]), (2 * BATCH + 7, [BATCH, BATCH, 7])],
)
async def test_all_expired_rows_are_deleted_in_batches(expired: int, batches: list[int]) -> None:
    rows = Rows(expired)
    assert await delete_expired(rows, ExpiringRows.INVITATIONS) == expired
    assert rows.batches == batches
