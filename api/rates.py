"""How many requests one caller may send in a while: of one key, or without keys of one address. Per process."""

import math
import time

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.types import ASGIApp, Receive, Scope, Send

from api import problems
from api.auth import ANONYMOUS, needed


class Rates:
    """ASGI middleware, inside of the one that says who the caller is. Two counters a caller are all it keeps."""

    def __init__(self, app: ASGIApp, *, limit: RateLimitItem) -> None:
        self._app = app
        self._limit = limit
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What takes no key is asked by machines that must not be kept from it.
        if scope["type"] == "http" and needed(scope["method"], scope["path"]):
            actor = scope["state"]["actor"]
            caller = (actor, scope["client"][0] if actor == ANONYMOUS and scope["client"] else "")
            if not await self._limiter.hit(self._limit, *caller):
                stats = await self._limiter.get_window_stats(self._limit, *caller)
                seconds = max(1, math.ceil(stats.reset_time - time.time()))
                detail = f"More than {self._limit}: wait for as long as Retry-After says"
                refused = problems.answer("too-many-requests", detail, headers={"Retry-After": str(seconds)})
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)
