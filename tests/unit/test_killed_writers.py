"""A checkpoint, or an index of two parts, whose writer is killed is the old or the new one, whole by its own hash."""

import itertools
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from cde_retriever.checkpoint.folder import hash_checkpoint
from cde_retriever.context.knowledge import Parts
from cde_retriever.search.index_file import index_to_bytes, open_index, save_index
from cde_retriever.search.parts_index import PartsIndex
from tests.killing import killed, kills
from tests.tiny import tiny_encoder


def write_slowly(path, data):
    """Write a file in pieces with pauses, so that most moments lie inside of a file."""
    with path.open("wb") as stream:
        for start in range(0, len(data), len(data) // 4 + 1):
            stream.write(data[start : start + len(data) // 4 + 1])
            stream.flush()
            time.sleep(0.001)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_what_a_killed_writer_leaves_is_whole(tmp_path):
    encoders = [tiny_encoder(seed=seed) for seed in (0, 1)]
    moments, whole = random.Random(1), {encoder.identity.sha256 for encoder in encoders}
    target = encoders[0].save_pretrained(tmp_path / "target")

    def write_in_turn(begin):
        Path.write_bytes = write_slowly  # in the child alone
        begin()
        for encoder in itertools.cycle(encoders):
            encoder.save_pretrained(target)

    for _ in range(kills(10)):
        assert killed(write_in_turn, moments.uniform(0, 0.05))
        assert hash_checkpoint(target) in whole
    encoders[0].save_pretrained(target)
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_what_a_killed_writer_of_an_index_leaves_is_whole(tmp_path):
    rng, indexes = np.random.default_rng(0), []
    for count in (300, 200):
        sparse = scipy.sparse.random_array((count, 1000), density=0.05, format="csr", rng=rng, dtype=np.float32)
        index = PartsIndex("context")
        index.add([str(row) for row in range(count)], Parts(rng.random((count, 32), dtype=np.float32), sparse))
        indexes.append(index)
    file, moments = save_index(indexes[0], tmp_path), random.Random(1)
    whole = {index_to_bytes(index) for index in indexes}

    def write_in_turn(begin):
        begin()
        for index in itertools.cycle(indexes):
            save_index(index, tmp_path)

    for _ in range(kills(10)):
        assert killed(write_in_turn, moments.uniform(0, 0.05))
        assert file.read_bytes() in whole
        assert len(open_index(tmp_path, "context")) in (300, 200)
    save_index(indexes[0], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
