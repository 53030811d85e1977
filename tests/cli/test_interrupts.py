"""Ctrl-C in the middle of a command: 130, one sentence that is true, no traceback, and nothing half-written.

A forked child runs the command and gets a real SIGINT; every wait has a deadline.
"""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.schema import TextNode

from cde_retriever.cli.main import main as cde
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from cde_train.cli import main as cde_train
from tests.cli.test_fit import SETTINGS
from tests.killing import forked
from tests.tiny import HEADED, documents, plain_encoder, tiny_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
DEADLINE = 60
OUTSIDE, TRIES = 77, 50
"""Code of a child that was interrupted while its command was read or had ended already; how often to try again."""
CONTINUES, AFRESH = "it continues where it stopped", "it starts from the beginning"


RUN = Path(__file__).parent.parent / "fixtures" / "fit" / "full"
STEPS = (
    "embed pairs.jsonl -o vectors --config run.toml",
    "cluster pairs.jsonl -o clusters.safetensors --vectors vectors --config run.toml",
    "pack pairs.jsonl -o batches.npy --vectors vectors --clusters clusters.safetensors --config run.toml",
)
COMMANDS = [
    (cde, "embed rows.jsonl -o OUT --model model --device cpu", CONTINUES),
    (cde, "doctor rows.jsonl -o OUT --model model", CONTINUES),
    (cde, "wrap plain -o OUT --pooling mean", AFRESH),
    (cde, "migrate old -o OUT --model model", CONTINUES),
    (cde, "refit OUT --model model", CONTINUES),
    (cde_train, "fit few.jsonl -o OUT --config run.toml", CONTINUES),
    (cde_train, STEPS[0].replace("-o vectors", "-o OUT"), CONTINUES),
    (cde_train, STEPS[1].replace("clusters.safetensors", "OUT"), AFRESH),
    (cde_train, STEPS[2].replace("batches.npy", "OUT"), AFRESH),
    (cde_train, "filter pairs.jsonl -o OUT --vectors vectors --batches batches.npy --config run.toml", AFRESH),
    (cde_train, "evaluate model sets/first -o OUT", CONTINUES),
    (cde_train, "evaluate model sets/first", AFRESH),
    (cde_train, "analyse model sets -o OUT", AFRESH),
    (cde_train, f"report {RUN} -o OUT", AFRESH),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, an encoder, settings, pairs, what the steps of a run wrote, judged sets and indexes."""
    folder = tmp_path_factory.mktemp("work")
    tiny_checkpoint(folder / "model", context_size=32, **HEADED)
    base = plain_encoder(folder / "plain")
    (folder / "run.toml").write_text(SETTINGS.replace("[model]", f"[model]\nbase = {json.dumps(str(base))}"))
    texts = documents(600, words=10)
    rows = [{"query": f"{text.split(maxsplit=1)[1]} {i}", "document": text} for i, text in enumerate(texts)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:60]))
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts[:200]))
    )
    for name in ("first", "second"):
        (folder / "sets" / name).mkdir(parents=True)
        for file, found in (("corpus", texts[:200]), ("queries", [row["query"] for row in rows[:50]])):
            lines = [json.dumps({"_id": str(i), "title": "", "text": text}) for i, text in enumerate(found)]
            (folder / "sets" / name / f"{file}.jsonl").write_text("\n".join(lines))
        (folder / "sets" / name / "qrels.tsv").write_text("".join(f"{i} 0 {i} 1\n" for i in range(50)))
    nodes = [TextNode(text=text, id_=str(number)) for number, text in enumerate(texts[:120])]
    index = CDEVectorStoreIndex(nodes[:60], embed_model=CDEEmbedding(folder / "model", device="cpu"))
    index.insert_nodes(nodes[60:])
    index.persist(folder / "index")
    old = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=32))
    old.storage_context.persist(str(folder / "old"))
    before = Path.cwd()
    os.chdir(folder)
    for command in STEPS:
        assert cde_train(command.split()) == 0
    yield folder
    os.chdir(before)


def interrupted(run, errors, seconds):
    """Let a child run a command, interrupt it after some seconds of its computing; return its code and what it said."""

    def work():
        stream, running = errors.open("w"), ["the command"]
        os.dup2(stream.fileno(), 2)
        sys.stderr = stream
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPROF, lambda *_: running and os.kill(os.getpid(), signal.SIGINT))
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            code = run()
            running.clear()
        except KeyboardInterrupt as stop:
            within = any("options.run(options)" in line for line in traceback.format_tb(stop.__traceback__))
            code = 1 if within else OUTSIDE
        stream.flush()
        os._exit(code)

    child, until = forked(work), time.monotonic() + DEADLINE
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail(f"it did not end within {DEADLINE} s")
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1]), errors.read_text()


@pytest.mark.parametrize(("program", "command", "sentence"), COMMANDS, ids=[row[1].split(" -")[0] for row in COMMANDS])
def test_an_interrupt_is_one_true_sentence(program, command, sentence, place, tmp_path):
    def begin(name):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        (tmp_path / name).mkdir()
        if command.startswith("refit"):
            shutil.copytree("index", tmp_path / name / "out")

    def run(name):
        return program([str(tmp_path / name / "out") if word == "OUT" else word for word in command.split()])

    begin("whole")
    began = time.process_time()
    assert run("whole") == 0
    seconds = time.process_time() - began
    code, tries = 0, 0
    while code in (0, OUTSIDE) and tries < TRIES:  # a child imports nothing, and may be done sooner
        tries += 1
        begin("stopped")
        code, said = interrupted(lambda: run("stopped"), tmp_path / "errors", seconds * random.random())
    assert (code, "Traceback" in said) == (130, False), said
    assert said.splitlines()[-1] == f"interrupted; run the same command again: {sentence}"
    if sentence == AFRESH:  # a report's tables may be there, each of them whole
        left = files(tmp_path / "stopped")
        assert not left or (command.startswith("report") and left < files(tmp_path / "whole"))
        return
    assert run("stopped") == 0
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def files(folder):
    """Return the names of all files in a folder; those of what is kept are drawn."""
    return {re.sub("[0-9a-f]{32}", "*", str(file.relative_to(folder))) for file in folder.rglob("*")}
