"""Embed the texts of a request: few queries at once, all else in steps, between which others have their turn.

A step that runs is waited for, so steps are short: queries of others wait for one at most, a server that is told to
stop ends after one, and nothing more is done for a caller who is gone.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.tokens import TokenizedTexts
from cde_retriever.errors import ConfigError
from cde_retriever.serving.contexts import ServedContexts
from cde_retriever.serving.metrics import Metrics
from cde_retriever.serving.requests import MOST_TEXTS, EmbeddingRequest, write_embeddings

STEP = 32
"""Texts of a step; more in a batch are no faster (`cde_retriever.encoder.text_runner.DEFAULT_BATCH`)."""


class CallerGoneError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Embedding:
    """Embeds what callers ask for.

    Attributes:
        contexts: What is served.
        metrics: What texts and tokens are counted in.
        alone: Held while something runs that takes long, so that only one thread waits for the model with it.
    """

    contexts: ServedContexts
    metrics: Metrics
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, request: EmbeddingRequest, caller: Request) -> JSONResponse:
        """Return the answer to a request.

        Raises:
            CDEError: if no such context is served, or the request asks for what the server does not have.
            CallerGoneError: if the caller hung up before everything was embedded.
        """
        if request.input_type == "query" and len(request.texts()) <= STEP:
            return await run_in_threadpool(self._answer_at_once, request)
        encoder, read = await run_in_threadpool(self._read, request)
        texts, vectors = request.texts(), np.zeros((len(read.ids), encoder.dimension), np.float32)
        by_length = sorted(range(len(texts)), key=lambda row: len(read.ids[row]))
        async with self.alone:
            for start in range(0, len(texts), STEP):
                if await caller.is_disconnected():
                    raise CallerGoneError
                rows = by_length[start : start + STEP]
                step = partial(_encode, encoder, request.input_type, [texts[row] for row in rows])
                vectors[rows] = await run_in_threadpool(step)
        return await run_in_threadpool(self._write, request, encoder, read, vectors)

    def _answer_at_once(self, request: EmbeddingRequest) -> JSONResponse:
        encoder, read = self._read(request)
        return self._write(request, encoder, read, _encode(encoder, request.input_type, request.texts()))

    def _read(self, request: EmbeddingRequest) -> tuple[ContextualEncoder, TokenizedTexts]:
        """Return the encoder that is meant, and what it reads of the texts."""
        encoder, texts = self.contexts.find(request.model), request.texts()
        if len(texts) > MOST_TEXTS:
            raise ConfigError(
                f"input holds {len(texts)} texts, expected at most {MOST_TEXTS} a request, the chunks of all documents "
                "together; send several requests"
            )
        if request.dimensions not in (None, encoder.dimension):
            raise ConfigError(
                f"dimensions is {request.dimensions}, but this server keeps {encoder.dimension}; leave it out, or "
                "start the server with --truncate-dim"
            )
        try:
            return encoder, encoder.tokenize(texts, request.input_type)
        except ValueError as error:  # a text that is no valid Unicode
            raise ConfigError(str(error)) from error

    def _write(
        self, request: EmbeddingRequest, encoder: ContextualEncoder, read: TokenizedTexts, vectors: NDArray[np.float32]
    ) -> JSONResponse:
        tokens = sum(map(len, read.ids))
        self.metrics.texts.labels(request.input_type).inc(len(read.ids))
        self.metrics.tokens.labels(request.input_type).inc(tokens)
        model = address_of(encoder)
        return JSONResponse(write_embeddings(request, vectors, model=model, tokens=tokens, cut=read.truncated))


def address_of(encoder: ContextualEncoder) -> str:
    """Return what stands in ``model`` for an encoder's context."""
    return f"{encoder.identity.name}@{encoder.context.fingerprint}"


def _encode(encoder: ContextualEncoder, role: str, texts: list[str]) -> NDArray[np.float32]:
    if role == "query":
        return encoder.encode_queries(texts)
    return encoder.encode_documents(texts, on_truncation=lambda _: None)
