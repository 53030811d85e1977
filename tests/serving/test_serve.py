"""`cde serve`, asked by OpenAI's own client: the encoder's vectors, refusals, contexts, metrics, shutdown."""

import base64
import errno
import http.client
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from starlette.testclient import TestClient

from cde_retriever.cli.main import main
from cde_retriever.context.context import Context
from cde_retriever.serving.app import make_app
from cde_retriever.serving.contexts import ServedContexts
from tests.serving.conftest import serving
from tests.tiny import documents

QUERY = {"input_type": "query"}
DOCUMENT = {"input_type": "document"}
KEY = "first-key"
LIMIT = 2**20


@pytest.fixture(scope="module")
def server(headed_folder, encoders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contexts")
    for number, encoder in enumerate(encoders):
        encoder.context.save(folder / f"{number}.safetensors")
    files = [folder / "0.safetensors", folder / "1.safetensors"]
    store = folder / "store"
    with serving(
        *files, "--store", store, "--most-bytes", LIMIT, "--model", headed_folder, CDE_API_KEYS=f"{KEY}, second-key"
    ) as said:
        yield said | {"store": store}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server['url']}/v1", api_key=KEY, max_retries=0, timeout=30) as made:
        yield made


def get(server, path, key=KEY):
    request = urllib.request.Request(server["url"] + path, headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def vectors_of(answer):
    return np.array([one.embedding for one in answer.data], np.float32)


def test_vectors_are_the_encoders_under_the_context_asked_for(client, encoders, server, corpora):
    texts = [*corpora[0][:3], "a question of lak and ron"]
    for encoder, model in zip(encoders, server["models"], strict=True):
        assert model == f"tiny-bert@{encoder.context.fingerprint}"
        asked = client.embeddings.create(model=model, input=texts, extra_body=QUERY)
        np.testing.assert_allclose(vectors_of(asked), encoder.encode_queries(texts), atol=1e-6)
        short = model.partition("@")[0] + "@" + encoder.context.fingerprint[:12]
        stored = client.embeddings.create(model=short, input=texts, extra_body=DOCUMENT, encoding_format="float")
        np.testing.assert_allclose(vectors_of(stored), encoder.encode_documents(texts), atol=1e-6)
        assert stored.model == model
        assert stored.usage.total_tokens == sum(map(len, encoder.tokenize(texts).ids))
    first, second = (encoder.encode_documents(texts) for encoder in encoders)
    assert np.abs(first - second).max() > 0.01


def test_chunks_of_documents_may_be_nested(client, encoders, server, corpora):
    chunks = [corpora[0][:2], corpora[0][2:5]]
    answer = client.embeddings.create(model=server["models"][0], input=chunks, extra_body=DOCUMENT)
    np.testing.assert_allclose(vectors_of(answer), encoders[0].encode_documents(corpora[0][:5]), atol=1e-6)
    assert [(one.index, one.document, one.chunk) for one in answer.data] == [
        *((0, 0, 0), (1, 0, 1)),
        *((2, 1, 0), (3, 1, 1), (4, 1, 2)),
    ]
    one = client.embeddings.create(model=server["models"][0], input="ron lak", extra_body=QUERY)
    assert [item.index for item in one.data] == [0]


def test_what_was_cut_is_said(client, server):
    answer = client.embeddings.create(model=server["models"][0], input=["ron", "lak " * 100], extra_body=DOCUMENT)
    assert answer.truncated == [1]


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"model": "tiny-bert"}, 404, "expected 'tiny-bert@' and the fingerprint"),
        ({"model": "tiny-bert@"}, 404, "GET /v1/contexts lists them"),
        ({"model": "tiny-bert@" + 64 * "0"}, 404, "expected 'tiny-bert@'"),
        ({"model": "/etc/passwd@" + 64 * "0"}, 404, "expected 'tiny-bert@'"),
        ({"input": []}, 400, "input is [], expected a text, a list of 1 to 2048 texts"),
        ({"input": [[]]}, 400, "input is [[]], expected a text, a list of 1 to 2048 texts"),
        ({"input": ["a"] * 2049}, 400, "input holds 2049 texts, expected at most 2048 a request"),
        ({"input": [["a"] * 1025] * 2}, 400, "input holds 2050 texts, expected at most 2048 a request"),
        ({"input": [1, 2]}, 400, "no token numbers"),
        ({"dimensions": 5}, 400, "dimensions is 5, but this server keeps"),
        ({"extra_body": {}}, 400, "input_type is missing, expected 'query' or 'document'"),
        ({"extra_body": {"input_type": "passage"}}, 400, "input_type is 'passage', expected 'query' or 'document'"),
        (
            {"extra_body": QUERY | {"inputs": 1}},
            400,
            "inputs is unknown; expected model, input, input_type, encoding_format, dimensions, user",
        ),
    ],
)
def test_requests_that_cannot_be_meant_are_refused_with_a_sentence(client, server, asked, status, said):
    request = {"model": server["models"][0], "input": ["a"], "extra_body": QUERY} | asked
    with pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(**request)
    assert refused.value.status_code == status
    assert said in refused.value.body["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body is no JSON object"),
        (b"[" * 200_000, "send a JSON object in UTF-8, not deeply nested"),
        (b'{"model": ' + b"1" * 5000 + b"}", "the body cannot be read"),
        (b'{"input": "\\ud800", "model": "MODEL", "input_type": "query"}', "text 0"),
    ],
)
def test_bodies_that_are_bombs_are_refused(server, body, said):
    """Nested too deep, numbers of any length, no Unicode."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    body = body.replace(b"MODEL", server["models"][0].encode())
    request = urllib.request.Request(server["url"] + "/v1/embeddings", body, headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 400
    assert said in json.loads(refused.value.read())["error"]["message"]


@pytest.mark.parametrize("stated", [True, False])
def test_a_body_is_as_long_as_allowed_whatever_it_states(server, stated):
    connection = http.client.HTTPConnection(server["url"].removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/v1/embeddings")
    connection.putheader("Authorization", f"Bearer {KEY}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader(*(("Content-Length", str(10**12)) if stated else ("Transfer-Encoding", "chunked")))
    connection.endheaders()
    if not stated:
        connection.send((b"%x\r\n" % (LIMIT + 1)) + b" " * (LIMIT + 1) + b"\r\n")
    answer = connection.getresponse()
    assert answer.status == 413
    said = json.loads(answer.read())["error"]["message"]
    assert said == f"the request has more than {LIMIT} bytes; send fewer texts at once"
    connection.close()


def test_a_path_that_is_not_served_is_told_what_is(server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(server, "/v1/nothing")
    assert refused.value.code == 404
    said = json.loads(refused.value.read())["error"]["message"]
    assert said.startswith("GET /v1/nothing is not served; POST /v1/embeddings, GET /v1/models, GET and POST")


@pytest.mark.parametrize(
    ("path", "methods"), [("/v1/contexts", "GET, POST"), ("/v1/embeddings", "POST"), ("/health", "GET, HEAD")]
)
def test_a_method_that_is_not_served_is_told_which_are(server, path, methods):
    request = urllib.request.Request(server["url"] + path, method="DELETE", headers={"Authorization": f"Bearer {KEY}"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert (refused.value.code, refused.value.headers["Allow"]) == (405, methods)


def test_those_who_watch_a_server_may_ask_for_no_body(server):
    request = urllib.request.Request(server["url"] + "/health", method="HEAD")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert (answer.status, answer.read()) == (200, b"")


def test_documents_that_are_no_unicode_are_the_callers_fault(server):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    body = b'{"documents": ["a", "\\ud800"]}'
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(server["url"] + "/v1/contexts", body, headers), timeout=30)
    assert refused.value.code == 400
    assert "document 1 is not valid Unicode" in json.loads(refused.value.read())["error"]["message"]


def test_a_port_that_is_taken_is_told_with_what_to_do(capsys, server, headed_folder):
    port = server["url"].rpartition(":")[2]
    assert main(["serve", "--null", "--port", port, "--model", str(headed_folder), "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert f"cannot listen at 127.0.0.1, port {port}: Address already in use" in said
    assert "give another --port or --host" in said


def test_a_header_is_as_long_as_allowed(server):
    connection = http.client.HTTPConnection(server["url"].removeprefix("http://"), timeout=30)
    connection.request("GET", "/health", headers={"X": "x" * 10**6})
    assert connection.getresponse().status == 400
    connection.close()
    assert json.loads(get(server, "/health"))["status"] == "ok"


def test_without_a_key_nobody_is_let_in_but_to_health(server, client):
    for path in ("/v1/contexts", "/metrics", "/v1/embeddings", "/openapi.json"):
        for key in ("", "firstkey", KEY[:-1], "first-key, second-key"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(server, path, key)
            assert refused.value.code == 401
    assert json.loads(get(server, "/health", ""))["model"] == "tiny-bert"
    assert json.loads(get(server, "/v1/contexts", "second-key"))["data"]


def test_contexts_are_listed_and_fitted(server, client, encoders):
    corpus = documents(20, seed=9)
    made = client.post("/contexts", body={"documents": corpus}, cast_to=object)
    name = encoders[0].fork().fit_context(corpus).fingerprint
    assert made["model"] == f"tiny-bert@{name}"
    assert (made["documents"], made["documents_seen"]) == (16, 20)
    assert client.post("/contexts", body={"documents": corpus[::-1]}, cast_to=object)["model"] == made["model"]
    assert [file.stem for file in server["store"].iterdir()] == [name]
    listed = [one["model"] for one in client.get("/contexts", cast_to=object)["data"]]
    assert listed == [*server["models"], made["model"]]
    assert [one.id for one in client.models.list()] == listed
    client.embeddings.create(model=made["model"], input=["ron"], extra_body=QUERY)
    for body, said in (
        ({"documents": []}, "documents is [], expected a list of texts"),
        ({"documents": [" "]}, "none of the 1 documents has any text"),
        ({"documents": ["a"], "language": "klingon"}, "which Snowball has no stemmer for"),
        ({"documents": ["a"], "language": "español"}, "which Snowball has no stemmer for"),
        ({"documents": ["a"], "path": "/etc"}, "path is unknown; expected documents, language"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.post("/contexts", body=body, cast_to=object)
        assert said in refused.value.body["message"]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EACCES])
def test_a_store_that_takes_no_more_is_told_to_the_caller_and_in_the_log(
    fault, encoders, tmp_path, monkeypatch, caplog
):
    def refuse(*_):
        raise OSError(fault, os.strerror(fault))

    held = ServedContexts(encoders[0].fork(), [encoders[0].context], store=tmp_path)
    caller = TestClient(make_app(held))
    monkeypatch.setattr("os.fsync", refuse)
    answer = caller.post("/v1/contexts", json={"documents": documents(20, seed=9)})  # raises what has no handler
    said = answer.json()["error"]["message"]
    assert answer.status_code == 507
    assert f"cannot keep the context ({os.strerror(fault)}), so it is not served; whoever runs the server" in said
    assert str(tmp_path) not in said
    logged = [record for record in caplog.records if record.name.startswith("cde_retriever")]
    assert [record.exc_info for record in logged] == [None]
    assert os.strerror(fault) in logged[0].getMessage()
    assert (list(tmp_path.iterdir()), len(held.encoders)) == ([], 1)
    monkeypatch.undo()
    assert caller.post("/v1/contexts", json={"documents": documents(20, seed=9)}).status_code == 200
    assert (len(list(tmp_path.iterdir())), len(held.encoders)) == (1, 2)


def test_a_damaged_context_of_a_store_is_refused_alone_until_its_documents_come_again(encoders, corpora, tmp_path):
    whole, damaged = (encoder.context for encoder in encoders)
    for context in (whole, damaged):
        context.save(tmp_path / f"{context.fingerprint}.safetensors")
    file = tmp_path / f"{damaged.fingerprint}.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "a-name.safetensors").mkdir()
    caller = TestClient(make_app(ServedContexts(encoders[0].fork(), [], store=tmp_path)))

    def ask(context):
        body = {"model": f"tiny-bert@{context.fingerprint[:12]}", "input": "ron", **QUERY}
        return caller.post("/v1/embeddings", json=body)

    listed = caller.get("/v1/contexts").json()
    assert [one["model"] for one in listed["data"]] == [f"tiny-bert@{whole.fingerprint}"]
    assert sorted(listed["unreadable"]) == sorted([damaged.fingerprint, "a-name"])
    assert caller.get("/health").json() == {"status": "ok", "model": "tiny-bert", "contexts": 1, "unreadable": 2}
    assert (ask(whole).status_code, ask(damaged).status_code) == (200, 503)
    said = ask(damaged).json()["error"]["message"]
    assert f"the file of context {damaged.fingerprint[:12]} is in the store of this server, but damaged" in said
    assert "send its documents to POST /v1/contexts" in said
    assert str(tmp_path) not in said
    made = caller.post("/v1/contexts", json={"documents": corpora[1]})
    assert (made.status_code, made.json()["model"]) == (200, f"tiny-bert@{damaged.fingerprint}")
    assert Context.load(file).fingerprint == damaged.fingerprint
    assert (ask(damaged).status_code, caller.get("/health").json()["unreadable"]) == (200, 1)


def test_a_server_with_a_damaged_context_starts_and_says_so(encoders, headed_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    encoders[0].context.save(tmp_path / "whole.safetensors")
    monkeypatch.setattr("cde_retriever.serving.server.serve", lambda _app, _host, _port, ready: ready("here"))
    assert main(["serve", "--store", str(tmp_path), "--model", str(headed_folder), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["models"] == [f"tiny-bert@{encoders[0].context.fingerprint}"]
    assert err.startswith(f"warning: {tmp_path / 'damaged.safetensors'} is damaged")
    assert "this context is not served" in err.splitlines()[0]


def test_metrics_count_texts_and_answers(server, client):
    def counted(name):
        lines = get(server, "/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    texts, bad = 'cde_texts_total{input_type="query"}', 'cde_requests_total{path="/v1/embeddings",status="404"}'
    before = counted(texts), counted(bad)
    client.embeddings.create(model=server["models"][0], input=["ron", "lak"], extra_body=QUERY)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="none", input=["ron"], extra_body=QUERY)
    assert (counted(texts), counted(bad)) == (before[0] + 2, before[1] + 1)


def test_callers_at_once_get_their_own_vectors(server, client, encoders):
    texts = documents(64, seed=4)
    expected = [encoder.encode_queries(texts) for encoder in encoders]

    def ask(number):
        answer = client.embeddings.create(
            model=server["models"][number % 2], input=texts[number : number + 1], extra_body=QUERY
        )
        return np.abs(vectors_of(answer)[0] - expected[number % 2][number]).max()

    with ThreadPoolExecutor(16) as pool:
        assert max(pool.map(ask, range(64))) < 1e-5


def test_a_stopped_server_finishes_what_callers_wait_for(headed_folder, encoders, tmp_path):
    encoders[0].context.save(tmp_path)
    texts = documents(2000, seed=5, words=60)
    with serving(tmp_path, "--model", headed_folder) as said:
        client = openai.OpenAI(base_url=f"{said['url']}/v1", api_key="none", max_retries=0, timeout=30)
        answers = []

        def ask():
            answers.append(client.embeddings.create(model=said["models"][0], input=texts, extra_body=DOCUMENT))

        caller = threading.Thread(target=ask)
        caller.start()
        while "cde_requests_running 2.0" not in get(said, "/metrics"):  # this one, and the other
            assert caller.is_alive()
            time.sleep(0.005)
        said["process"].send_signal(signal.SIGTERM)
        caller.join(60)
        assert len(answers[0].data) == 2000
        assert said["process"].wait(30) == 0


def test_a_store_is_served_again_and_a_rate_holds(headed_folder, encoders, tmp_path):
    encoders[1].context.save(tmp_path / "any-name.safetensors")
    with serving("--store", tmp_path, "--null", "--rate", "3/hour", "--model", headed_folder) as said:
        null = encoders[0].fork()
        null.set_context(null.null_context())
        assert said["models"] == [f"tiny-bert@{one.context.fingerprint}" for one in (null, encoders[1])]
        client = openai.OpenAI(base_url=f"{said['url']}/v1", api_key="none", max_retries=0, timeout=30)
        for _ in range(3):
            answer = client.embeddings.create(model=said["models"][0], input="ron", extra_body=QUERY)
        np.testing.assert_allclose(vectors_of(answer), null.encode_queries(["ron"]), atol=1e-5)
        with pytest.raises(openai.RateLimitError) as refused:
            client.embeddings.create(model=said["models"][0], input="ron", extra_body=QUERY)
        assert "more than 3 requests in 3600 seconds" in refused.value.body["message"]
        assert refused.value.response.headers["Retry-After"] == "1200"
        assert get(said, "/health")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "holds no keys; set it to one or several"),
        ([], "no context to serve"),
        (["--null", "--rate", "often"], "rate is 'often', expected a number of requests and a time"),
        (["nowhere"], "no context at nowhere"),
        (["--null", "--port", "70000"], "port is 70000, expected 0 to 65535"),
        (["--null", "--most-contexts", "0"], "--most-contexts must be at least 1, received 0"),
    ],
)
def test_wrong_use_is_2_and_one_sentence(capsys, monkeypatch, headed_folder, tmp_path, arguments, said):
    monkeypatch.delenv("CDE_API_KEYS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *arguments, "--model", str(headed_folder), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_vector_in_base64_is_little_endian_floats(server, encoders):
    body = {"model": server["models"][0], "input": "ron", "input_type": "query", "encoding_format": "base64"}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(server["url"] + "/v1/embeddings", json.dumps(body).encode(), headers)
    answer = json.loads(urllib.request.urlopen(request, timeout=30).read())
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, encoders[0].encode_queries(["ron"])[0], atol=1e-6)


THREADS = """
import ctypes, sys, threading
from cde_retriever.cli.main import main
from cde_retriever.context.context import Context
main(["serve", sys.argv[1]])
together = threading.Barrier(4)
threads = [threading.Thread(target=together.wait) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such heaps")
def test_threads_of_a_server_share_one_heap(tmp_path):
    missing = str(tmp_path / "missing")
    said = subprocess.run([sys.executable, "-c", THREADS, missing], capture_output=True, text=True, check=True).stderr
    assert "missing" in said
    assert "Arena 0" in said
    assert "Arena 1" not in said
