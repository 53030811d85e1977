"""What version 0.1.0 left on disks opens: same fingerprints, same vectors, and half-finished work goes on.

`tests/fixtures/write.py` says what the files are and why they are not written anew. Each test opens a copy, through
public names and commands alone. Vectors are compared to 1e-6, because processors round differently, and trained weights
to as much as training makes of that.
"""

import json
import pickle
import pkgutil
import shutil
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cde_retriever import CheckpointError, Context, ContextMismatchError, ContextualEncoder

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
EXPECTED = load_file(FIXTURES / "expected.safetensors")
FACTS: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text())
TEXTS: dict[str, list[str]] = json.loads((FIXTURES / "texts.json").read_text())
CHECKPOINTS = ("cached", "joint", "joint_in_order", "moments", "terms", "nomic_bert", "modernbert", "low_rank")

ROUNDING = 1e-6
ROUNDING_OF_8_BITS = 1e-2
"""An input on the border of two steps of its 8 bits goes to the other one on another processor."""
ROUNDING_OF_TRAINING = 1e-4
"""AdamW divides by the size of gradients, the small ones included."""


@pytest.fixture(autouse=True)
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a copy of everything that was stored, where the commands of that time find their files."""
    folder = tmp_path / "stored"
    shutil.copytree(FIXTURES, folder)
    monkeypatch.chdir(folder)
    return folder


def run(name: str, *arguments: str) -> None:
    """Run a command of the package, from where ``pyproject.toml`` says it is."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert pkgutil.resolve_name(scripts[name])(list(arguments)) == 0


def assert_vectors(found: Any, key: str, tolerance: float = ROUNDING, row: int | None = None) -> None:
    expected = EXPECTED[key] if row is None else EXPECTED[key][row]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, strict=True)


def assert_rankings(found: list[list[tuple[Any, float]]], key: str, tolerance: float = ROUNDING) -> None:
    expected = FACTS[key]["rankings"]
    assert [[name for name, _ in hits] for hits in found] == [[name for name, _ in hits] for hits in expected]
    scores = [[[score for _, score in hits] for hits in ranking] for ranking in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=0, atol=tolerance)


# Checkpoints and contexts


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_embeds_as_it_did(name: str) -> None:
    facts, key = FACTS[f"checkpoints/{name}"], f"checkpoints/{name}"
    encoder = ContextualEncoder.from_pretrained(key, device="cpu")
    assert encoder.identity.sha256 == facts["model"]
    kept = Context.load(f"contexts/{name}.safetensors")
    assert kept.fingerprint == facts["context"]
    fitted = encoder.fit_context(TEXTS["documents"], seed=3)
    assert fitted.fingerprint == kept.fingerprint
    assert fitted.texts == kept.texts
    np.testing.assert_allclose(fitted.vectors, kept.vectors, rtol=0, atol=ROUNDING, strict=True)
    np.testing.assert_array_equal(fitted.frequencies, kept.frequencies, strict=True)
    for context in (kept, fitted):
        encoder.set_context(context)
        assert_vectors(encoder.encode_documents(TEXTS["documents"]), f"{key}/documents")
        assert_vectors(encoder.encode_queries(TEXTS["queries"]), f"{key}/queries")
    encoder.set_context(encoder.null_context())
    assert encoder.context.fingerprint == facts["null"]
    assert_vectors(encoder.encode_documents(TEXTS["documents"]), f"{key}/null")


def test_a_checkpoint_written_again_is_the_same_one(tmp_path: Path) -> None:
    for name in ("cached", "terms", "modernbert"):
        encoder = ContextualEncoder.from_pretrained(f"checkpoints/{name}", device="cpu")
        folder = encoder.save_pretrained(tmp_path / name)
        again = ContextualEncoder.from_pretrained(folder, device="cpu")
        assert again.identity.sha256 == FACTS[f"checkpoints/{name}"]["model"]


def test_version_1_of_the_bundled_model_embeds_as_it_did() -> None:
    facts, key = FACTS["checkpoints/bundled"], "checkpoints/bundled"
    encoder = ContextualEncoder.from_pretrained("cde-minilm-l6-v1", device="cpu")
    assert encoder.identity.sha256 == facts["model"]
    context = Context.load("contexts/bundled.safetensors")
    assert context.fingerprint == facts["context"] == encoder.fit_context(TEXTS["documents"], seed=3).fingerprint
    encoder.set_context(context)
    assert_vectors(encoder.encode_documents(TEXTS["documents"][:5]), f"{key}/documents")
    assert_vectors(encoder.encode_queries(TEXTS["queries"]), f"{key}/queries")
    encoder.set_context(encoder.null_context())
    assert encoder.context.fingerprint == facts["null"]
    assert_vectors(encoder.encode_documents(TEXTS["documents"][:5]), f"{key}/null")


def test_what_version_1_stored_opens_with_version_1_without_a_name(tmp_path: Path) -> None:
    from cde_retriever.langchain import CDEEmbeddings
    from cde_retriever.llama_index import CDEEmbedding

    file, query = "contexts/bundled.safetensors", TEXTS["queries"][0]
    for embedding in (CDEEmbedding(context=file, device="cpu"), pickle.loads(pickle.dumps(CDEEmbedding(context=file)))):
        assert embedding.context_fingerprint == FACTS["checkpoints/bundled"]["context"]
        assert_vectors(np.float32(embedding.get_query_embedding(query)), "checkpoints/bundled/queries", row=0)
    assert_vectors(np.float32(CDEEmbeddings(context=file).embed_query(query)), "checkpoints/bundled/queries", row=0)
    rows = "".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(TEXTS["documents"][:5]))
    Path("few.jsonl").write_text(rows)
    run("cde", "embed", "few.jsonl", "-o", "few", "--context", file)
    run("cde", "embed", "few.jsonl", "-o", "few")  # what was begun with version 1 goes on with it
    assert Context.load("few").model.name == "cde-minilm-l6-v1"


def test_a_context_of_version_1_says_which_model_it_needs() -> None:
    encoder = ContextualEncoder.from_pretrained(device="cpu")
    with pytest.raises(ContextMismatchError, match="load that model, which is bundled, by its name 'cde-minilm-l6-v1'"):
        encoder.set_context(Context.load("contexts/bundled.safetensors"))


def test_a_context_of_hashes_alone_is_the_same_context() -> None:
    context = Context.load("contexts/hashes.safetensors")
    assert context.texts is None
    assert context.fingerprint == FACTS["checkpoints/cached"]["context"]
    encoder = ContextualEncoder.from_pretrained("checkpoints/cached", device="cpu")
    encoder.set_context(context)
    assert_vectors(encoder.encode_documents(TEXTS["documents"]), "checkpoints/cached/documents")


def test_a_stored_null_context_is_the_null_context() -> None:
    context = Context.load("contexts/null.safetensors")
    assert (context.size, context.seed) == (0, None)
    assert context.fingerprint == FACTS["checkpoints/cached"]["null"]
    encoder = ContextualEncoder.from_pretrained("checkpoints/cached", device="cpu")
    encoder.set_context(context)
    assert_vectors(encoder.encode_documents(TEXTS["documents"]), "checkpoints/cached/null")


def test_a_stored_context_of_another_model_is_refused() -> None:
    encoder = ContextualEncoder.from_pretrained("checkpoints/cached", device="cpu")
    with pytest.raises(ContextMismatchError):
        encoder.set_context(Context.load("contexts/joint.safetensors"))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", ROUNDING), ("int8", ROUNDING_OF_8_BITS)], ids=["float32", "int8"]
)
def test_an_export_embeds_as_it_did(dtype: str, tolerance: float) -> None:
    """An export of that time has no checksums, so it is not trusted; one command writes it anew."""
    with pytest.raises(CheckpointError, match=r"format 1, .* export the checkpoint again: cde export CHECKPOINT -o"):
        ContextualEncoder.from_pretrained(f"onnx/{dtype}", backend="onnx", device="cpu")
    run("cde", "export", "checkpoints/terms", "-o", f"onnx/{dtype}", "--dtype", dtype)
    encoder = ContextualEncoder.from_pretrained(f"onnx/{dtype}", device="cpu")
    assert encoder.identity.sha256 == FACTS["checkpoints/terms"]["model"]
    encoder.set_context(Context.load("contexts/terms.safetensors"))
    assert_vectors(encoder.encode_documents(TEXTS["documents"]), f"onnx/{dtype}/documents", tolerance)
    assert_vectors(encoder.encode_queries(TEXTS["queries"]), f"onnx/{dtype}/queries", tolerance)


# Indexes


def test_a_llama_index_index_finds_what_it_did() -> None:
    from llama_index.core import Document, StorageContext, load_index_from_storage

    from cde_retriever.llama_index import CDEContextGuard, CDEEmbedding

    storage = StorageContext.from_defaults(persist_dir="llama_index")
    embedding = CDEEmbedding.from_storage(storage, "checkpoints/cached", device="cpu")
    assert embedding.context_fingerprint == FACTS["llama_index"]["context"]
    index: Any = load_index_from_storage(storage, embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=4)
    rankings = [retriever.retrieve(query) for query in TEXTS["queries"]]
    assert_rankings([[(node.node_id, node.score) for node in nodes] for nodes in rankings], "llama_index")
    for nodes in rankings:
        assert CDEContextGuard(embed_model=embedding).postprocess_nodes(nodes) == nodes
    index.insert(Document(text=TEXTS["queries"][0], id_="new"))
    everything = index.as_retriever(similarity_top_k=25).retrieve(TEXTS["queries"][0])
    assert {node.node.ref_doc_id for node in everything} == {"new", *(f"d{i}" for i in range(24))}


def test_a_llama_index_index_is_refused_to_another_context() -> None:
    from llama_index.core import StorageContext, load_index_from_storage

    from cde_retriever.llama_index import CDEContextGuard, CDEEmbedding

    other = CDEEmbedding("checkpoints/cached", device="cpu")
    other.fit(TEXTS["documents"][:6])
    storage = StorageContext.from_defaults(persist_dir="llama_index")
    index: Any = load_index_from_storage(storage, embed_model=other)
    found = index.as_retriever().retrieve(TEXTS["queries"][0])
    with pytest.raises(ContextMismatchError):
        CDEContextGuard(embed_model=other).postprocess_nodes(found)


def open_in_memory(embeddings: Any) -> Any:
    from langchain_core.vectorstores import InMemoryVectorStore

    return InMemoryVectorStore.load("langchain/in_memory/store.json", embeddings)


def open_faiss(embeddings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from langchain_community.vectorstores import FAISS

    return FAISS.load_local("langchain/faiss", embeddings, allow_dangerous_deserialization=True)


STORES = {"in_memory": open_in_memory, "faiss": open_faiss}


@pytest.mark.parametrize("name", STORES)
def test_a_langchain_index_finds_what_it_did(name: str) -> None:
    from cde_retriever import langchain as cde

    folder = f"langchain/{name}"
    assert Context.load(folder).fingerprint == FACTS[folder]["context"]
    store = cde.open(STORES[name], folder, model_name="checkpoints/cached", device="cpu")
    found = [store.similarity_search_with_score(query, k=4) for query in TEXTS["queries"]]
    # FAISS gives squared distances, whose errors are larger than those of the vectors.
    assert_rankings([[(hit.metadata["source"], score) for hit, score in hits] for hits in found], folder, 1e-5)


@pytest.mark.parametrize("name", STORES)
def test_a_langchain_index_is_refused_to_another_context(name: str) -> None:
    from cde_retriever import langchain as cde

    other = cde.CDEEmbeddings(model_name="checkpoints/cached", device="cpu")
    other.fit(TEXTS["documents"][:6])
    with pytest.raises(ContextMismatchError):
        cde.guard(STORES[name](other), other)


# Work on disk


def vectors_of(folder: str) -> tuple[list[str], Any]:
    """Return ids and vectors of a bulk output."""
    import pyarrow.parquet

    files = sorted(Path(folder).glob("part-*.parquet"))
    table = pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files])
    return table["id"].to_pylist(), np.stack(table["vector"].to_numpy())


@pytest.mark.parametrize(("name", "parts"), [("whole", 3), ("half", 1)])
def test_a_bulk_output_is_gone_on_with(name: str, parts: int, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(Path("bulk", name).glob("part-*.parquet"))
    before = {file: file.read_bytes() for file in files}
    assert len(before) == parts
    command = ["embed", "bulk/corpus.jsonl", "-o", f"bulk/{name}", "--model", "checkpoints/terms"]
    run("cde", *command, "--device", "cpu", "--shard-size", "8")
    done = json.loads(capsys.readouterr().out)
    assert (done["embedded"], done["skipped"]) == (24 - 8 * parts, 8 * parts)
    assert done["context"] == FACTS["bulk"]["context"] == Context.load(f"bulk/{name}").fingerprint
    assert {file: file.read_bytes() for file in files} == before
    ids, vectors = vectors_of(f"bulk/{name}")
    assert ids == [f"d{i}" for i in range(24)]
    assert_vectors(vectors, "bulk")


@pytest.mark.parametrize(("name", "weights"), [("full", "model.safetensors"), ("low_rank", "low_rank.safetensors")])
def test_a_killed_fit_goes_on_and_ends_as_it_would_have(
    name: str, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    states = Path("fit", name, "work", "phase-training", "states")
    assert [state.name for state in states.glob("checkpoint-*")] == ["checkpoint-2"]
    before = {file: file.stat().st_mtime_ns for file in (states / "checkpoint-2").iterdir()}
    run("cde-train", "fit", "fit/pairs.jsonl", "-o", f"fit/{name}", "--config", f"fit/{name}.toml")
    out, err = capsys.readouterr()
    assert json.loads(out)["checkpoint"] == f"fit/{name}"
    for step in ("start", "data", "data vectors", "data clusters", "training batches"):
        assert f"{step}: done already" in err
    assert {file: file.stat().st_mtime_ns for file in before} == before, "the saved state is read, not made again"
    logs = [json.loads((states / f"checkpoint-{n}" / "trainer_state.json").read_text())["log_history"] for n in (2, 4)]
    assert logs[1][:2] == logs[0], "the first two steps are those of the killed run"
    assert Path("fit", name, weights).is_file()
    encoder = ContextualEncoder.from_pretrained(f"fit/{name}", device="cpu")
    if name == "low_rank":
        base = json.loads(Path("fit/low_rank/config.json").read_text())["low_rank"]["base"]
        assert base["name"] == "../../checkpoints/nomic_bert", "a relative base, so that both can move together"
    encoder.fit_context(TEXTS["documents"], seed=3)
    vectors = encoder.encode_documents(TEXTS["documents"])
    assert_vectors(vectors, f"fit/{name}", ROUNDING_OF_TRAINING)
    moved = np.abs(vectors - EXPECTED["checkpoints/nomic_bert/documents"]).max()
    assert moved > 20 * ROUNDING_OF_TRAINING, "training must show, or the comparison says nothing"
