"""Count requests, texts and seconds, for Prometheus."""

from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/v1/embeddings", "/v1/contexts", "/v1/models", "/health", "/metrics")
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """What a server counts; each server has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("cde_requests", "Requests answered.", ("path", "status"), registry=self.registry)
        self.seconds = Histogram(
            "cde_request_seconds", "Time of a request.", ("path",), buckets=SECONDS, registry=self.registry
        )
        self.running = Gauge("cde_requests_running", "Requests that are being answered.", registry=self.registry)
        self.texts = Counter("cde_texts", "Texts embedded.", ("input_type",), registry=self.registry)
        self.tokens = Counter("cde_tokens", "Tokens read.", ("input_type",), registry=self.registry)

    def write(self) -> bytes:
        """Return all of them in Prometheus's text format."""
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware that counts and times requests; paths that are not served are one.

    Args:
        app: What is behind it.
        metrics: What to count in.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = perf_counter()
        try:
            with self._metrics.running.track_inprogress():
                await self._app(scope, receive, watched)
        finally:
            self._metrics.seconds.labels(path).observe(perf_counter() - began)
            self._metrics.requests.labels(path, status).inc()
