"""Run the application until it is told to stop, then finish what callers wait for."""

import asyncio
import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cde_retriever.errors import ConfigError
from cde_retriever.serving.requests import write_error

LAST_PORT = 65535
LAST_SECONDS = 30
"""So long running requests may take once the server is told to stop."""
MOST_AT_ONCE = 512
"""Connections; those beyond are answered 503."""


def serve(app: FastAPI, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        app: The application.
        host: Address to listen at.
        port: Port; 0 for any that is free.
        ready: Called with the server's address once callers may connect.

    Raises:
        ConfigError: for a port that no machine has.
        OSError: if the address is taken, or not this machine's.
    """
    if not 0 <= port <= LAST_PORT:
        raise ConfigError(f"port is {port}, expected 0 to {LAST_PORT}; 0 takes one that is free")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(
            f"cannot listen at {host}, port {port}: {error.strerror}; give another --port or --host"
        ) from error
    config = uvicorn.Config(
        _Finishing(app),
        http="h11",  # limits the length of headers
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=MOST_AT_ONCE,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn stops by its own, then sends the signal again
    shown = f"[{host}]" if ":" in host else host
    ready(f"http://{shown}:{listening.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listening])


class _Finishing:
    """ASGI application that answers 503 to those whom a server that is told to stop could not answer in time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            await JSONResponse(write_error(503, "the server is stopping; ask again later"), 503)(scope, receive, send)
