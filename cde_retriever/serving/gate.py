"""Let in who has a key, and as often as the rate allows, before anything of a request is read."""

import hashlib
import hmac
import re
from collections.abc import Sequence

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cde_retriever.errors import ConfigError
from cde_retriever.serving.requests import write_error

OPEN = ("/health",)
"""What needs no key and has no rate: those who watch the server ask it."""

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""What programs of this machine call it."""

TOO_LONG = "the request has more than {most} bytes; send fewer texts at once"


class Gate:
    """ASGI middleware that refuses callers.

    Args:
        app: What is behind it.
        keys: The keys that are let in, sent as ``Authorization: Bearer KEY``; none lets in all.
        rate: Requests a caller may make; None for any number. A caller is a key, or an address where there are no
            keys.
        names: What callers may call this server, without port; none for any. To whom a key is no bar, its names are: a
            page of another site reaches a server of this machine by a name that it lets point here (DNS rebinding).
        most_bytes: Longest request by what its header states; one that states nothing is counted as it is read.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[str] = (),
        rate: RateLimitItem | None = None,
        names: Sequence[str] = (),
        *,
        most_bytes: int,
    ) -> None:
        self._app, self._most_bytes = app, most_bytes
        self._names = [name.lower() for name in names]
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._limit = rate
        self._counts = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401, 413, 421 or 429."""
        refusal = None
        if scope["type"] == "http":
            refusal = self._wrong_name(scope) or (None if scope["path"] in OPEN else self._refusal(scope))
        await (refusal or self._app)(scope, receive, send)

    def _wrong_name(self, scope: Scope) -> JSONResponse | None:
        called = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if not self._names or re.sub(r":\d+$", "", called.lower()) in self._names:
            return None
        message = (
            f"this server is called {called[:100]!r}, expected {', '.join(self._names)}; start it with --allow-host "
            "NAME to answer to another name, or with keys"
        )
        return JSONResponse(write_error(421, message), 421)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        header = dict(scope["headers"]).get(b"authorization", b"")
        given = hashlib.sha256(header.removeprefix(b"Bearer ")).digest()
        caller = (scope.get("client") or ("",))[0]
        if self._keys:
            if not sum(hmac.compare_digest(given, key) for key in self._keys):  # all of them, in equal time
                return JSONResponse(write_error(401, "no valid key; send Authorization: Bearer KEY"), 401)
            caller = given.hex()
        if self._limit is not None and not self._counts.hit(self._limit, caller):
            message = f"more than {self._limit.amount} requests in {self._limit.get_expiry()} seconds; wait and retry"
            headers = {"Retry-After": str(max(1, self._limit.get_expiry() // self._limit.amount))}
            return JSONResponse(write_error(429, message), 429, headers)
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > self._most_bytes:
            return JSONResponse(write_error(413, TOO_LONG.format(most=self._most_bytes)), 413)
        return None


def read_rate(rate: str) -> RateLimitItem:
    """Return a rate such as ``"600/minute"`` as `limits` has it.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        return parse(rate)
    except ValueError:
        raise ConfigError(f"rate is {rate!r}, expected a number of requests and a time, such as 600/minute") from None
