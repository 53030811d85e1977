"""Answer HTTP requests: OpenAI's ``/v1/embeddings`` under one of several contexts, and what goes with it.

| | |
| --- | --- |
| ``POST /v1/embeddings`` | vectors of texts, under the context that ``model="name@fingerprint"`` names |
| ``GET /v1/contexts`` | the contexts that are served |
| ``GET /v1/models`` | the same as OpenAI's clients list models |
| ``POST /v1/contexts`` | fit a context to documents, where the server has a store for it |
| ``GET /health`` | whether it answers |
| ``GET /metrics`` | counts and times, for Prometheus |

Queries run in threads, so that those which come together run as one batch (`cde_retriever.encoder.shared_queries`).
What the server says about itself waits for no thread, however many callers there are.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CDEError
from cde_retriever.serving.contexts import (
    ServedContexts,
    UnkeptContextError,
    UnknownContextError,
    UnreadableContextError,
)
from cde_retriever.serving.embedding import CallerGoneError, Embedding, address_of
from cde_retriever.serving.gate import TOO_LONG, Gate, read_rate
from cde_retriever.serving.metrics import Measured, Metrics
from cde_retriever.serving.requests import (
    ContextRequest,
    EmbeddingRequest,
    fault_of,
    write_error,
)

SERVED = "POST /v1/embeddings, GET /v1/models, GET and POST /v1/contexts, GET /health, GET /metrics"
MOST_BYTES = 16 * 2**20
"""Most bytes of a request."""
CALLER_GONE = 499
"""Status that metrics count, as nginx calls it; nobody receives it."""
_STATUS = {UnknownContextError: 404, UnreadableContextError: 503, UnkeptContextError: 507}
"""Of what is not the fault of a request's form, which is 400."""


def make_app(
    contexts: ServedContexts,
    *,
    keys: Sequence[str] = (),
    rate: str | None = None,
    names: Sequence[str] = (),
    most_bytes: int = MOST_BYTES,
) -> FastAPI:
    """Return the application.

    Args:
        contexts: What is served.
        keys: Keys of callers, as `Gate` takes them.
        rate: Requests a caller may make, such as ``"600/minute"``; None for any number.
        names: What callers may call this server, as `Gate` takes them.
        most_bytes: Longest request.

    Raises:
        ConfigError: if the rate cannot be read.
    """
    limit, metrics = None if rate is None else read_rate(rate), Metrics()
    embedding = Embedding(contexts, metrics)
    app = FastAPI(
        title="Contextual document embeddings",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        middleware=[
            Middleware(Measured, metrics=metrics),
            Middleware(Gate, keys=keys, rate=limit, names=names, most_bytes=most_bytes),
            Middleware(RequestBodyLimitMiddleware, max_body_size=most_bytes),  # of bodies that state no length
        ],
        exception_handlers={**_HANDLERS, 413: _too_long(most_bytes)},
    )

    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingRequest, caller: Request) -> Response:
        return await embedding.answer(request, caller)

    @app.get("/v1/contexts")
    async def list_contexts() -> dict[str, Any]:
        data = [_describe(encoder) for encoder in contexts.encoders]
        return {"object": "list", "data": data, "unreadable": list(contexts.unreadable)}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        names = [address_of(encoder) for encoder in contexts.encoders]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "cde-retriever"} for name in names]
        return {"object": "list", "data": data}

    @app.post("/v1/contexts")
    async def fit_context(request: ContextRequest) -> dict[str, Any]:
        async with embedding.alone:
            return _describe(await run_in_threadpool(contexts.fit, request.documents, request.language))

    @app.get("/health")
    @app.head("/health", include_in_schema=False)
    async def health() -> dict[str, Any]:
        held, unreadable = len(contexts.encoders), len(contexts.unreadable)
        return {"status": "ok", "model": contexts.model, "contexts": held, "unreadable": unreadable}

    @app.get("/metrics")
    async def write_metrics() -> Response:
        return Response(metrics.write(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _describe(encoder: ContextualEncoder) -> dict[str, Any]:
    context = encoder.context
    return {
        "object": "context",
        "model": address_of(encoder),
        "documents": context.size,
        "documents_seen": context.documents_seen,
        "dimension": encoder.dimension,
        "max_length": encoder.config.max_length,
    }


def _refuse(_: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)
    return JSONResponse(write_error(status, str(error)), status)


def _refuse_form(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    form = ContextRequest if request.url.path == "/v1/contexts" else EmbeddingRequest
    return JSONResponse(write_error(400, fault_of(error.errors(), list(form.model_fields))), 400)


def _refuse_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    said, headers = str(error.detail), error.headers
    if error.status_code in (404, 405):
        said = f"{request.method} {request.url.path[:100]} is not served; {SERVED} are"
    if error.status_code == 400:
        said = f"the body cannot be read ({said}); send a JSON object in UTF-8, not deeply nested"
    if error.status_code == 405:
        headers = {"Allow": ", ".join(_methods_of(request))}
    return JSONResponse(write_error(error.status_code, said), error.status_code, headers)


def _methods_of(request: Request) -> list[str]:
    """Return the methods that a path is served with, those of all its routes; Starlette names the first one's."""
    routes = [route for route in request.app.routes if getattr(route, "path", None) == request.url.path]
    return sorted({method for route in routes for method in route.methods})


def _too_long(most_bytes: int) -> Any:  # Starlette's types know no handlers that return at once
    return lambda *_: JSONResponse(write_error(413, TOO_LONG.format(most=most_bytes)), 413)


def _close(_: Request, __: Exception) -> Response:
    return Response(status_code=CALLER_GONE)


def _fail(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(write_error(500, f"the server failed ({type(error).__name__}); its log says more"), 500)


_HANDLERS: dict[Any, Any] = {
    CDEError: _refuse,
    UnicodeError: _refuse,
    RequestValidationError: _refuse_form,
    HTTPException: _refuse_http,
    CallerGoneError: _close,
    Exception: _fail,
}
