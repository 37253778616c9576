"""Lookups of personal tokens, which anybody can ask for with a made-up one."""

import asyncio

from agentapi_mcp.core.access.models import FoundToken
from agentapi_mcp.core.access.ports import PersonalTokenStore

# The check digits of a token can be computed, so what has the form of one may still be a guess.
MOST_AT_ONCE = 100


class TokenLookups:
    """Finds tokens in one statement at a time, for all requests that wait for it.

    However many guesses arrive, they take one connection of the process, and a valid token waits for a few statements.
    """

    def __init__(self, store: PersonalTokenStore) -> None:
        self._store = store
        self._one_at_a_time = asyncio.Lock()
        self._waiting: dict[asyncio.Future[FoundToken | None], bytes] = {}

    async def find(self, token_hash: bytes) -> FoundToken | None:
        """Find a token as the store has it now, in a statement that begins after this call.

        Raises:
            StoreUnavailableError: the store is down.
        """
        answer: asyncio.Future[FoundToken | None] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = token_hash
        try:
            # The lock is fair: whoever gets it is among the first who wait, and those before it have their answers.
            async with self._one_at_a_time:
                if not answer.done():
                    await self._look_up()
            return answer.result()
        finally:
            self._waiting.pop(answer, None)

    async def _look_up(self) -> None:
        # If this fails or is cancelled, the others still wait, and the next of them asks.
        batch, wanted = dict[asyncio.Future[FoundToken | None], bytes](), set[bytes]()
        for answer, token_hash in self._waiting.items():
            # Of different tokens only so many; the same one is found once for all, also for a thousand clients.
            if len(wanted) < MOST_AT_ONCE or token_hash in wanted:
                wanted.add(token_hash)
                batch[answer] = token_hash
        found = await self._store.find(frozenset(wanted))
        for answer, token_hash in batch.items():
            if not answer.done():
                answer.set_result(found.get(token_hash))
