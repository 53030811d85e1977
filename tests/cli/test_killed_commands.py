"""`cde embed`, `cde export` and `cde-train fit`, killed at random moments: the same command again ends as one run.

Nobody repairs anything in between, and nothing is left that an undisturbed run does not leave.
"""

import itertools
import json
import os
import random
import time

import pytest

from cde_retriever.backends.export_folder import Export
from cde_retriever.cli.main import main
from cde_train.cli import main as train_main
from tests.cli.test_fit import SETTINGS
from tests.killing import killed, kills
from tests.tiny import documents, plain_encoder, tiny_backbone, tiny_encoder, tiny_tokenizer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def content(folder):
    """Return the bytes of all files of a folder by name."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def kill_and_continue(work, folder, count, took, check):
    """Do some work again and again in the same folder, each time to a kill, and in a new one once it is done.

    Args:
        work: Does it in a folder; called in a child.
        folder: The first folder; others of its name lie beside it.
        count: How often to kill.
        took: Seconds of the work undisturbed.
        check: Called with a folder and whether the work in it is done, after each kill and at the end.
    """
    moments, done, kills_left = random.Random(0), itertools.count(), count
    while kills_left:
        stopped = killed(lambda begin, place=folder: (begin(), work(place)), moments.uniform(0, took / 2))
        kills_left -= stopped
        if not stopped:
            check(folder, done=True)
            folder = folder.parent / str(next(done)) / folder.name  # a model's name is its folder's
        elif folder.exists():
            check(folder, done=False)
    work(folder)
    check(folder, done=True)


def timed(work, folder):
    began = time.perf_counter()
    work(folder)
    return time.perf_counter() - began


def test_embed(checkpoint, tmp_path):
    rows = [json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(documents(400))]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    options = ["--model", str(checkpoint), "--device", "cpu", "--shard-size", "16", "--batch-size", "8"]

    def embed(folder):
        assert main(["embed", str(tmp_path / "corpus.jsonl"), "-o", str(folder), *options]) == 0

    embed(tmp_path / "warm")
    took = timed(embed, tmp_path / "whole")
    expected = content(tmp_path / "whole")

    def check(folder, done):
        found = content(folder)
        for name in found.keys() & expected.keys() if not done else expected.keys() | found.keys():
            assert found[name] == expected[name] or (not done and name == "_cde/parts.jsonl"), name

    kill_and_continue(embed, tmp_path / "out", kills(6), took, check)


def test_export(tmp_path):
    """An export over a damaged one: after each kill the old one or the new one, and at the end nothing beside."""
    settings = {"context_attention": "late", "context_moments": False, "term_statistics": True}
    backbone = tiny_backbone("bert", tiny_tokenizer().get_vocab_size()) | {"num_hidden_layers": 1}
    model = tiny_encoder(second_stage=backbone, **settings).save_pretrained(tmp_path / "model")
    folder, moments = tmp_path / "exports" / "out", random.Random(0)

    def export(folder):
        assert main(["export", str(model), "-o", str(folder)]) == 0

    took = timed(export, folder)
    for _ in range(kills(2)):
        (folder / "tokenizer.json").write_bytes(b"damaged")
        old = content(folder)
        killed(lambda begin: (begin(), export(folder)), moments.uniform(0, took))
        if content(folder) != old:
            there = Export.read(folder)
            there.verify(folder)
            assert content(folder).keys() == {"export.json", *there.files}
    export(folder)
    Export.read(folder).verify(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_fit(tmp_path):
    base = plain_encoder(tmp_path / "plain")
    (tmp_path / "run.toml").write_text(SETTINGS.replace("[model]", f"[model]\nbase = {json.dumps(str(base))}"))
    texts = documents(40, seed=3, words=10)
    rows = [{"query": f"{text.split(maxsplit=1)[-1][:20]} {i}", "document": text} for i, text in enumerate(texts)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def fit(folder):
        command = ["fit", str(tmp_path / "words.jsonl"), "-o", str(folder), "--config", str(tmp_path / "run.toml")]
        assert train_main(command) == 0

    took = timed(fit, tmp_path / "whole" / "cde")
    expected = content(tmp_path / "whole" / "cde")
    same = ("config.json", "model.safetensors", "tokenizer.json", "run.toml")

    def check(folder, done):
        found = content(folder)
        assert not done or found.keys() == expected.keys()
        for name in same if done or "config.json" in found else ():
            assert found[name] == expected[name], name

    kill_and_continue(fit, tmp_path / "out" / "cde", kills(3), took, check)
