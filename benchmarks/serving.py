"""Load `cde serve` with callers at once, beside a server that embeds each call by itself, as those in use do.

    python -m benchmarks.serving -o docs/figures/serving.json

The other server is sentence-transformers with the same weights behind the same FastAPI and uvicorn: one call, one
forward pass, in the order they come. Callers ask one query of 16 tokens after the other over a connection that stays;
both servers are asked in turns, so that a machine that does other work slows both. Two minutes.
"""

import argparse
import base64
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.performance.machine import environment
from benchmarks.performance.rivals import sentence_transformer, write_plain_backbone
from benchmarks.performance.texts import queries_of, real_documents
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically

CALLERS = (1, 16)
OURS, SINGLE = "cde serve", "each call by itself"


def serve_single(folder: str) -> None:
    """Run the other server: `POST /v1/embeddings` with one text, answered by one forward pass."""
    from fastapi import Body, FastAPI

    from cde_retriever.serving.server import serve

    model = sentence_transformer(Path(folder), ContextualEncoder.from_pretrained(device="cpu"))
    app, lock = FastAPI(), threading.Lock()

    @app.post("/v1/embeddings")
    def embed(body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008 - FastAPI's way
        with lock:
            vector = model.encode([body["input"]], show_progress_bar=False)[0]
        row = base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
        return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": row}]}

    serve(app, "127.0.0.1", 0, lambda url: print(json.dumps({"url": url, "models": [""]}), flush=True))


@contextmanager
def running(*command: str) -> Iterator[dict[str, Any]]:
    """Run a server, and yield what it says when it is ready."""
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def ask(said: dict[str, Any], queries: Sequence[str], callers: int, seconds: float) -> tuple[float, list[float]]:
    """Return queries a second and the seconds of each, of callers who ask for some seconds."""
    until = time.perf_counter() + seconds

    def call(number: int) -> list[float]:
        connection = http.client.HTTPConnection(said["url"].removeprefix("http://"), timeout=60)
        taken = []
        while (began := time.perf_counter()) < until:
            text = queries[(number + callers * len(taken)) % len(queries)]
            body = {"input": text, "model": said["models"][0], "input_type": "query", "encoding_format": "base64"}
            connection.request("POST", "/v1/embeddings", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, content
            taken.append(time.perf_counter() - began)
        connection.close()
        return taken

    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        times = [one for taken in pool.map(call, range(callers)) for one in taken]
    return len(times) / (time.perf_counter() - began), times


def measure(queries: Sequence[str], servers: dict[str, dict[str, Any]], rounds: int, seconds: float) -> dict[str, Any]:
    """Ask the servers in turns; return rates, ratios and times."""
    rates: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for said in servers.values():
        ask(said, queries, 2, 2.0)
    for _ in range(rounds):
        for callers in CALLERS:
            for name, said in servers.items():
                rate, taken = ask(said, queries, callers, seconds)
                rates.setdefault(f"{name}, {callers}", []).append(rate)
                times.setdefault(f"{name}, {callers}", []).extend(taken)
    rows = {
        name: {
            "queries_per_second": round(statistics.median(rates[name]), 1),
            **{f"p{share}_ms": round(1000 * float(np.percentile(taken, share)), 1) for share in (50, 99)},
        }
        for name, taken in times.items()
    }
    ratios = {
        str(callers): [
            round(a / b, 2) for a, b in zip(rates[f"{OURS}, {callers}"], rates[f"{SINGLE}, {callers}"], strict=True)
        ]
        for callers in CALLERS
    }
    medians = {callers: statistics.median(row) for callers, row in ratios.items()}
    return {"rows": rows, "ratio": medians, "ratios": ratios}


def main() -> None:
    """Run both servers, load them, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eval-folder", type=Path, default=Path("../shared/eval"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--single", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.single:
        serve_single(options.single)
        return
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        encoder = ContextualEncoder.from_pretrained(device="cpu")
        corpus, source = real_documents(options.eval_folder, 2000)
        encoder.fit_context(corpus).save(place)
        queries = queries_of(encoder, corpus, 500)
        write_plain_backbone(encoder, Path(place) / "plain")
        servers = {
            OURS: stack.enter_context(running("cde_retriever.cli.main", "serve", place, "--port", "0")),
            SINGLE: stack.enter_context(running("benchmarks.serving", "--single", f"{place}/plain")),
        }
        found = measure(queries, servers, options.rounds, options.seconds)
    found["about"] = {**environment(), "texts_from": source, "load": os.getloadavg()[0]}
    print(json.dumps(found, indent=1))
    if options.output:
        write_atomically(options.output, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
