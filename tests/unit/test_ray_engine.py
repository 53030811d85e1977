"""The ray engine on a local cluster: several workers, one killed midway, and what the local engine gives."""

import json
import os
import shutil
import signal
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ray", reason='Ray is not installed: pip install "cde-retriever[ray]"')
import ray

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.bulk.parts import part_files
from cde_retriever.bulk.ray_engine import _by_file, _read, embed_on_ray
from cde_retriever.bulk.reading import read_parts as verified_parts
from cde_retriever.bulk.run import embed_corpus
from cde_retriever.bulk.settings import BulkSettings
from cde_retriever.context.context import Context
from cde_retriever.corpus.rows import Columns, Corpus, CorpusFile
from cde_retriever.errors import ConfigError, CorpusError
from tests.tiny import documents, plain_encoder
from tests.unit.test_bulk import read_parts

pytestmark = pytest.mark.timeout(900)  # a cluster that waits for itself does not say so
WORKERS = 2


def start_cluster(attempts=4):
    """Start Ray, which gives its own processes 30 seconds to start: too few on a machine busy with other jobs."""
    try:
        ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, object_store_memory=100_000_000)
    except Exception as error:
        if attempts == 1 or "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        start_cluster(attempts - 1)


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_worker_niceness", "0")  # by default workers give way to whatever else runs
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.delenv("RAY_ADDRESS", raising=False)
        start_cluster()
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two files; the 16th shard of 25 documents begins in the first and ends in the second."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(documents(990))]
    (folder / "a.jsonl").write_text("".join(rows[:390]))
    (folder / "b.jsonl").write_text("".join(rows[390:]))
    return folder


def settings(checkpoint, **values):
    return BulkSettings(ModelSpec(str(checkpoint), device="cpu"), batch_size=8, shard_size=25, **values)


@pytest.fixture(scope="module")
def local(corpus, checkpoint, tmp_path_factory):
    """The output of the local engine."""
    output = tmp_path_factory.mktemp("local") / "out"
    embed_corpus(corpus, output, settings(checkpoint))
    return output


def assert_same_output(output, expected):
    assert [file.name for file in part_files(output)] == [file.name for file in part_files(expected)]
    assert Context.load(output).fingerprint == Context.load(expected).fingerprint
    (ids, vectors), (expected_ids, expected_vectors) = read_parts(output), read_parts(expected)
    assert ids == expected_ids
    np.testing.assert_allclose(vectors, expected_vectors, atol=1e-6)


def test_a_run_is_gone_on_with_and_a_worker_killed_midway_changes_nothing(cluster, corpus, checkpoint, local, tmp_path):
    output = shutil.copytree(local, tmp_path / "out")
    there = {3, 15, 39}
    for number in set(range(40)) - there:
        (output / f"part-{number:06d}.parquet").unlink()
    reports, killed = [], []

    def kill_the_first(report):
        reports.append(report)
        if not killed:
            killed.append(report.process)
            os.kill(report.process, signal.SIGKILL)

    ray_settings = settings(checkpoint, engine="ray", workers=WORKERS)
    done = embed_corpus(corpus, output, ray_settings, on_part=kill_the_first)
    assert (done.documents, done.embedded, done.skipped) == (990, 925, 65)
    assert sorted(report.number for report in reports) == sorted(set(range(40)) - there)
    by_killed = sum(report.process == killed[0] for report in reports)
    assert 1 <= by_killed < len(reports), "one worker did everything before it was killed"
    assert os.getpid() not in {report.process for report in reports}
    assert_same_output(output, local)


def test_both_parts_are_those_of_the_local_engine(cluster, corpus, tmp_path):
    (tmp_path / "plain").mkdir()
    spec = ModelSpec.of(str(plain_encoder(tmp_path / "plain")), device="cpu", pooling="mean")
    local = BulkSettings(spec, batch_size=8, shard_size=250, parts="both")
    embed_corpus(corpus, tmp_path / "local", local)
    embed_corpus(corpus, tmp_path / "ray", replace(local, engine="ray", workers=WORKERS))
    assert_same_output(tmp_path / "ray", tmp_path / "local")
    for ours, expected in zip(verified_parts(tmp_path / "ray"), verified_parts(tmp_path / "local"), strict=True):
        assert (ours.sparse != expected.sparse).nnz == 0 < expected.sparse.nnz


def test_more_workers_than_the_cluster_holds_are_refused(cluster, corpus, checkpoint, tmp_path):
    too_many = settings(checkpoint, engine="ray", workers=WORKERS + 1)
    with pytest.raises(ConfigError, match="--workers is 3, but the Ray cluster has 2 CPUs"):
        embed_corpus(corpus, tmp_path / "out", too_many)


def test_what_goes_wrong_on_a_worker_is_said_in_our_words(cluster, corpus, checkpoint, local, tmp_path):
    one = settings(checkpoint, engine="ray", workers=1)
    short = Corpus(corpus, (CorpusFile("a.jsonl", "", rows=400),), Columns())
    with pytest.raises(CorpusError, match=f"^{corpus}/a.jsonl has fewer rows than before") as raised:
        list(embed_on_ray(short, "", [15], tmp_path, Context.load(local), one))
    assert type(raised.value) is CorpusError


def test_readers_wait_for_workers(cluster, checkpoint, local, tmp_path):
    """The corpus is a pipe of 120 MB, the store has 100 MB, of which Ray Data takes half."""
    size, count = 1_000_000, 120
    os.mkfifo(tmp_path / "c.jsonl")
    written = []

    def write():
        with (tmp_path / "c.jsonl").open("wb") as pipe:
            for i in range(count):
                pipe.write(json.dumps({"id": i, "text": " " * size}).encode() + b"\n")
                written.append(i)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    corpus = Corpus(tmp_path, (CorpusFile("c.jsonl", "", rows=count),), Columns())
    one_each = replace(settings(checkpoint, engine="ray", workers=1), shard_size=1)
    (tmp_path / "out").mkdir()
    waiting = [
        len(written) - done
        for done, _ in enumerate(
            embed_on_ray(corpus, "", range(count), tmp_path / "out", Context.load(local), one_each)
        )
    ]
    writer.join()
    assert len(waiting) == len(written) == count
    assert max(waiting) < 80


def test_documents_too_long_to_hand_over_are_read_by_the_worker(cluster, checkpoint, tmp_path):
    """Three shards of twelve, of which the middle one has 36 million characters."""
    (tmp_path / "corpus").mkdir()
    with (tmp_path / "corpus" / "a.jsonl").open("w") as file:
        for i, text in enumerate(documents(36)):
            long = " luron" * 500_000 if 12 <= i < 24 else ""
            file.write(json.dumps({"id": i, "text": text + long}) + "\n")
    corpus = Corpus(tmp_path / "corpus", (CorpusFile("a.jsonl", "", rows=36),), Columns())
    tracemalloc.start()
    rows = [table.to_pylist()[0] for table in _read({"numbers": [[0, 1, 2]]}, corpus, 12)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row["ids"] and row["ids"][0] for row in rows] == ["0", None, "24"]
    assert peak < 50_000_000, "the documents of a long shard are let go one by one"
    for engine in ({"engine": "local"}, {"engine": "ray", "workers": 1}):
        twelve_each = replace(settings(checkpoint, **engine), shard_size=12)
        embed_corpus(tmp_path / "corpus", tmp_path / engine["engine"], twelve_each)
    assert_same_output(tmp_path / "ray", tmp_path / "local")


def test_shards_are_read_by_the_file_they_begin_in():
    corpus = Corpus("folder", tuple(CorpusFile(str(i), "", rows) for i, rows in enumerate((25, 0, 3, 40))), Columns())
    assert _by_file(corpus, range(7), size=10) == [[0, 1, 2], [3, 4, 5, 6]]
    assert _by_file(corpus, [1, 5, 6], size=10) == [[1], [5, 6]]
