"""Children of a process whose other threads embed: forked and spawned ones embed as well, on either runtime."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cde_retriever import ContextualEncoder
from cde_retriever.backends.pytorch import TorchBackend
from cde_retriever.encoder.shared_queries import SharedBatches
from cde_retriever.errors import ConfigError
from cde_retriever.files.forking import ThreadLock
from cde_retriever.model.evidence import Evidence
from tests.tiny import tiny_encoder

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "checkpoints" / "terms"
DOCUMENTS = [f"{number} baron kolak misim {'ludor zevex ' * (number % 9)}" for number in range(30)]
PATIENCE = 60
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")


def in_child(check) -> bool | None:
    """Fork, and return what a check says in the child; None if it hangs."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_finds_locks_free_unless_it_holds_them_itself(monkeypatch):
    monkeypatch.setattr("cde_retriever.files.forking.SECONDS_BEFORE_FORK", 0.05)
    held, own = ThreadLock(), ThreadLock()
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with held:
            inside.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(PATIENCE)

    def usable():
        with held, own:
            return True

    with own:
        assert in_child(usable)
    leave.set()
    thread.join()
    assert usable()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_waits_until_no_other_thread_computes():
    """A child copies the memory of its parent between two computations, not amid one."""
    lock, inside, memory = ThreadLock(), threading.Event(), ["whole"]

    def compute():
        with lock:
            memory[0] = "torn"
            inside.set()
            time.sleep(0.2)
            memory[0] = "whole"

    thread = threading.Thread(target=compute)
    thread.start()
    inside.wait(PATIENCE)
    assert in_child(lambda: memory == ["whole"])
    thread.join()
    with lock:  # the parent can still use it
        assert in_child(lambda: lock.__enter__() is None)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_leader_that_is_not_there():
    inside, leave = threading.Event(), threading.Event()

    def run(key, items):
        if key == "slow":
            inside.set()
            leave.wait(PATIENCE)
        return [2 * item for item in items]

    batches = SharedBatches(run)
    thread = threading.Thread(target=batches, args=("slow", [1]))
    thread.start()
    inside.wait(PATIENCE)
    assert in_child(lambda: batches("key", [3, 4]) == [6, 8])
    leave.set()
    thread.join()


@needs_fork
def test_a_forked_child_says_that_it_cannot_use_an_accelerator():
    """PyTorch's device ``meta`` stands for one."""
    backend = TorchBackend(tiny_encoder().open_model().to("meta"), sole_owner=True)
    ids = np.ones((1, 2), np.int64)

    def is_refused() -> bool:
        for run in (lambda: backend.prepare(Evidence(0)), lambda: backend.embed_first_stage(ids, ids)):
            with pytest.raises(ConfigError, match=r"on 'meta', which a forked process cannot use .*'spawn'.*'cpu'"):
                run()
        return True

    assert in_child(is_refused)
    assert backend.running is not None


@needs_fork
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_children_embed_while_other_threads_do(tmp_path, backend):
    """In a process of its own, since it forks with the threads of the runtime running, two of them."""
    if backend == "onnx":
        pytest.importorskip("onnxruntime")
    command = [sys.executable, "-W", "ignore", "-m", "tests.unit.test_forking", str(CHECKPOINT), backend]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "CDE_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=5 * PATIENCE, check=False)
    assert done.stdout.split() == ["True"] * 3, done.stdout + done.stderr


def embed(folder: str, backend: str) -> np.ndarray:
    """Embed the texts with an encoder of one's own."""
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu", backend=backend)
    encoder.fit_context(DOCUMENTS)
    return encoder.encode_documents(DOCUMENTS)


def main(folder: str, backend: str) -> None:
    """Print for three forks and a spawn whether the child had the right vectors."""
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu", backend=backend)
    encoder.fit_context(DOCUMENTS)
    expected, of_query, stop = encoder.encode_documents(DOCUMENTS), encoder.encode_queries(["misim"]), threading.Event()

    def work():
        while not stop.is_set():
            encoder.encode_queries(DOCUMENTS[:1])
            encoder.encode_documents(DOCUMENTS)

    def right():
        found = encoder.encode_queries(["misim"]), encoder.encode_documents(DOCUMENTS)
        return np.allclose(found[0], of_query, atol=1e-5) and np.allclose(found[1], expected, atol=1e-5)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(0.02)
        sys.stdout.write(f"{in_child(right)}\n")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(embed, folder, backend).result(PATIENCE)
        sys.stdout.write(f"{np.allclose(found, expected, atol=1e-5)}\n")
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
