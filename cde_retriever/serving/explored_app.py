"""Show what any query finds in an index, on a page that this machine serves to its own browser."""

from threading import Lock

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from cde_retriever.pages.page import Page, drawing_library
from cde_retriever.serving.exploration import OWN, Exploration
from cde_retriever.serving.explored_page import write_page

SCRIPT = "/plotly.js"
LONGEST = 1000


def make_app(exploration: Exploration, note: str) -> FastAPI:
    """Return the application: ``/?q=QUERY&context=NAME`` is the page of a query, led by one of the contexts.

    Args:
        exploration: The index.
        note: A sentence about its texts.
    """
    hosts = ["127.0.0.1", "localhost"]  # other names would let pages of other sites ask, by DNS rebinding
    app = FastAPI(openapi_url=None, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])
    alone = Lock()

    @app.get("/")
    def show(q: str = "", context: str = OWN) -> HTMLResponse:
        query = q.strip()[:LONGEST]
        leading = context if context in exploration.contexts else OWN
        with alone:
            answers = exploration.ask([query]) if query else []
            page: Page = write_page(exploration, answers, note=note, field=query, leading=leading)
        return HTMLResponse(page.to_html(SCRIPT).encode("utf-8", "replace"))

    @app.get(SCRIPT)
    def script() -> Response:
        return Response(drawing_library(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

    return app
