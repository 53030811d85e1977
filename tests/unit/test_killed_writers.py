"""A checkpoint whose writer is killed at any moment is the old or the new one, whole by its own hash."""

import itertools
import os
import random
import time
from pathlib import Path

import pytest

from cde_retriever.checkpoint.folder import hash_checkpoint
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
