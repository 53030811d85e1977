"""Chroma as a server: what collections in a folder do, those of a server do too, under readers of other clients."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import chromadb
import pytest

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.cli.main import main
from cde_retriever.errors import ContextMismatchError
from cde_retriever.lifecycle.collection import Collection, collection_in
from cde_retriever.lifecycle.migrate import migrate
from cde_retriever.lifecycle.refit import confirm_refit
from tests.contract.llama_index_corpus import SETTINGS
from tests.contract.test_refit_collections import NAME, Place, assert_refitted, assert_same
from tests.readers import seen_meanwhile
from tests.tiny import HEADED, tiny_checkpoint

LONGEST = 60
"""Seconds that the server may take to start."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Yield the port of a server, which ends with the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [Path(sys.executable).with_name("chroma"), "run", "--path", folder, "--host", "127.0.0.1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + LONGEST
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail((folder / "log").read_text())
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def client_of(port: int) -> chromadb.ClientAPI:
    """Return a client of the server; Chroma writes the address into settings, so they are the client's own."""
    return chromadb.HttpClient("127.0.0.1", port, settings=SETTINGS.model_copy())


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Served(Place):
    """A collection of a server."""

    def __init__(self, kind: str, port: int, *place: Path) -> None:
        self.port = port
        super().__init__(kind, *place)

    def connect(self) -> None:
        self.client = client_of(self.port)
        self.collection = Collection(self.client, NAME)

    def read(self, documents: int) -> str:
        """Return what a reader finds who opens the collection with a client of its own."""
        reader = Served(f"{self.framework}-chroma-{self.form}", self.port, self.checkpoint, self.folder)
        return Place.read(reader, documents)


@pytest.mark.parametrize("kind", ["li-chroma-one", "lc-chroma-beside"])
def test_collections_of_a_server_are_built_refitted_and_restored(kind, server, tmp_path):
    place = Served(kind, server, tiny_checkpoint(tmp_path / "head", **HEADED), tmp_path)
    place.build()
    first = next(iter(place.contents()))
    if place.framework == "li":
        (node,) = place.open().vector_store.get_nodes([first])
        place.open().delete_ref_doc(node.ref_doc_id)
    else:
        place.open().delete([first])
    before, done = place.contents(), []
    assert (len(before), first in before) == (23, False)
    two_steps = (ContextMismatchError,) if place.framework == "li" else ()  # it opens the embedding before the index
    assert place.read(23) == next(iter(before.values()))[1].partition("/")[0]
    seen = seen_meanwhile(lambda: place.read(23), lambda: done.append(place.run()) or done[0].new, two_steps)
    assert seen <= {done[0].old, done[0].new}
    assert_refitted(place, before, done[0].new)
    assert place.undo()
    assert_same(place.contents(), before)
    store = ["--chroma", f"http://127.0.0.1:{server}", "--collection", NAME, "--model", str(place.checkpoint)]
    assert main(["refit", str(place.context), *store]) == 0
    assert_refitted(place, before, done[0].new)
    assert confirm_refit(place.context, collection=place.collection)
    assert place.names() == {f"{NAME}-{done[0].new[:12]}"}
    place.client.delete_collection(collection_in(place.context, NAME))


def test_a_collection_of_a_server_is_migrated(server, tmp_path):
    client = client_of(server)
    texts = [f"Pump {n} fills tank {n + 1}." for n in range(9)]
    ids = [f"d{n}" for n in range(9)]
    client.create_collection("bare", embedding_function=None).add(
        ids, embeddings=[[float(n == m) for m in range(9)] for n in range(9)], documents=texts
    )
    head = tiny_checkpoint(tmp_path / "head", **HEADED)
    done = migrate(Collection(client, "bare"), tmp_path / "new", model=ModelSpec(str(head)))
    new = client.get_collection(done.collection).get()
    assert dict(zip(new["ids"], new["documents"], strict=True)) == dict(zip(ids, texts, strict=True))
    assert client.get_collection("bare").count() == 9
