"""Requests that take long: others have their turn meanwhile, and nothing more is done for who is gone."""

import asyncio
import json
import threading

import anyio.to_thread
import numpy as np
import pytest
from httpx import ASGITransport, AsyncClient

from cde_retriever.serving import embedding, server
from cde_retriever.serving.app import make_app
from cde_retriever.serving.contexts import ServedContexts
from cde_retriever.serving.embedding import STEP, CallerGoneError, Embedding, address_of
from cde_retriever.serving.metrics import Metrics
from cde_retriever.serving.requests import EmbeddingRequest
from tests.tiny import documents

TEXTS = [" ".join([text] * (number % 4 + 1)) for number, text in enumerate(documents(2 * STEP + 9, seed=3))]


class Caller:
    """A caller who hangs up after so many looks."""

    def __init__(self, stays=10**9):
        self.stays = stays

    async def is_disconnected(self):
        self.stays -= 1
        return self.stays < 0


@pytest.fixture
def served(encoders):
    return ServedContexts(encoders[0], [encoders[0].context])


@pytest.fixture
def asked(served):
    def make(texts, role):
        return EmbeddingRequest(model=address_of(served.encoders[0]), input=texts, input_type=role)

    return make


def within(seconds, awaited):
    return asyncio.run(asyncio.wait_for(awaited, seconds))


@pytest.mark.parametrize("role", ["document", "query"])
def test_steps_give_the_vectors_of_one_call_in_their_order(served, asked, encoders, role):
    answer = within(60, Embedding(served, Metrics()).answer(asked(TEXTS, role), Caller()))
    encode = encoders[0].encode_queries if role == "query" else encoders[0].encode_documents
    made = [one["embedding"] for one in json.loads(answer.body)["data"]]
    np.testing.assert_allclose(made, encode(TEXTS), atol=1e-5)


def test_nothing_more_is_embedded_for_a_caller_who_is_gone(served, asked, monkeypatch):
    encoded = []
    encode = embedding._encode
    monkeypatch.setattr(embedding, "_encode", lambda *given: encoded.append(len(given[2])) or encode(*given))
    with pytest.raises(CallerGoneError):
        within(60, Embedding(served, Metrics()).answer(asked(TEXTS, "document"), Caller(stays=1)))
    assert encoded == [STEP]


def test_queries_pass_a_request_that_takes_long(served, asked):
    async def ask():
        made = Embedding(served, Metrics())
        async with made.alone:
            return await made.answer(asked(["ron lak"], "query"), Caller())

    assert len(json.loads(within(30, ask()).body)["data"]) == 1


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/contexts"])
def test_what_the_server_says_of_itself_waits_for_no_thread(served, path):
    async def ask():
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = 1
        async with limiter, AsyncClient(transport=ASGITransport(make_app(served)), base_url="http://here") as client:
            return await client.get(path)

    assert within(30, ask()).status_code == 200


def test_a_query_has_its_turn_between_the_batches_of_documents(encoders, monkeypatch):
    encoder = encoders[0]
    tokenizer = encoder._runner.tokenizer("document")
    pad, asker, answered = tokenizer.pad, threading.current_thread(), []

    def pad_and_ask(ids, role):
        if threading.current_thread() is asker and role == "document":
            other = threading.Thread(target=lambda: answered.append(encoder.encode_queries(["ron lak"])), daemon=True)
            other.start()
            other.join(20)
        return pad(ids, role)

    monkeypatch.setattr(tokenizer, "pad", pad_and_ask)
    encoder.encode_documents(documents(2, seed=8), batch_size=1)
    assert answered
    np.testing.assert_allclose(answered[0], encoder.encode_queries(["ron lak"]), atol=1e-6)


def test_who_is_not_answered_before_the_server_ends_is_told_so():
    said = []

    async def run():
        async def never(*_):
            await asyncio.sleep(3600)

        async def send(message):
            said.append(message)

        task = asyncio.create_task(server._Finishing(never)({"type": "http", "headers": []}, None, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    within(30, run())
    assert said[0]["status"] == 503
    assert json.loads(said[1]["body"])["error"]["message"] == "the server is stopping; ask again later"
