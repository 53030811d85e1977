"""ONNX Runtime and OpenVINO give what PyTorch gives, with no PyTorch; exports are whole, or not there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import cde_retriever
from cde_retriever.backends.export import export_onnx
from cde_retriever.backends.export_folder import EXPORT_NAME, NULL_STATE, PREPARE, SECOND_STAGE, Export, cached_export
from cde_retriever.backends.exported import wanted_threads
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.checkpoint.folder import CONFIG_NAME, hash_checkpoint
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.shared_weights import shared_encoder
from cde_retriever.errors import CheckpointError, ConfigError, ContextMismatchError
from tests.tiny import FAMILIES, documents, tiny_backbone, tiny_checkpoint, tiny_tokenizer

TOLERANCE = 1e-5
TERMS = {
    "context_attention": "late",
    "context_moments": False,
    "term_statistics": True,
    "term_shrinkage": 0.3,
    "sketch_width": 32,
}
RUNTIMES = ("onnx", "openvino")
LAYOUTS = {
    "cached": {"context_attention": "cached"},
    "joint": {"context_attention": "joint"},
    "terms": {**TERMS, "share_backbone": True},
}


def few_layers(folder, family="bert", **config):
    """Write a tiny checkpoint of two layers, one of a window if the family has any; an export's time goes by layers."""
    layers = 1 if family == "nomic_bert" else 2  # its layers are alike, and BERT's show how several go together
    backbone = tiny_backbone(family, tiny_tokenizer().get_vocab_size()) | {"num_hidden_layers": layers}
    return tiny_checkpoint(folder, family, second_stage=backbone, **config)


@pytest.fixture(scope="module", autouse=True)
def cache_of_all(tmp_path_factory):
    """Keep exports out of the user's cache, and for all tests: tiny checkpoints of one layout are one checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CDE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path):
    return few_layers(tmp_path / "tiny", **LAYOUTS["terms"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a function that copies an export of `checkpoint` to a folder; it is written once, which takes seconds."""
    place = tmp_path_factory.mktemp("exported")

    def copy(folder, dtype="float32"):
        if not (place / dtype).is_dir():
            export_onnx(few_layers(place / "tiny", **LAYOUTS["terms"]), place / dtype, dtype)
        return shutil.copytree(place / dtype, folder)

    return copy


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vectors_are_those_of_pytorch(layout, family, runtime, tmp_path):
    folder = few_layers(tmp_path / "tiny", family, **LAYOUTS[layout])
    ours, theirs = load_both(folder, runtime)
    assert ours.identity == theirs.identity
    for size in (1, 3, 16):  # graphs were traced with another number of documents
        context = theirs.fit_context(documents(40, seed=size), context_size=size)
        ours.set_context(context)
        assert_same(ours, theirs)
    for encoder in (ours, theirs):
        encoder.set_context(encoder.null_context())
    assert ours.context.fingerprint == theirs.context.fingerprint
    assert_same(ours, theirs)


def load_both(folder, runtime):
    return [ContextualEncoder.from_pretrained(folder, backend=name, device="cpu") for name in (runtime, "torch")]


def assert_same(ours, theirs):
    texts = [*documents(9, seed=5, words=30), "", "one"]
    np.testing.assert_allclose(ours.encode_documents(texts), theirs.encode_documents(texts), atol=TOLERANCE)
    for query in ("wind", " ".join(documents(3, seed=6))):
        np.testing.assert_allclose(ours.encode_queries([query]), theirs.encode_queries([query]), atol=TOLERANCE)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_context_fitted_on_an_export_is_that_of_pytorch(layout, runtime, tmp_path):
    folder = few_layers(tmp_path / "tiny", **LAYOUTS[layout])
    ours, theirs = load_both(folder, runtime)
    mine, other = (encoder.fit_context(documents(40), seed=3) for encoder in (ours, theirs))
    assert mine.fingerprint == other.fingerprint
    np.testing.assert_allclose(mine.vectors, other.vectors, atol=TOLERANCE)
    np.testing.assert_array_equal(mine.frequencies, other.frequencies)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_eight_bits_are_near_and_smaller(runtime, tmp_path):
    folder = few_layers(tmp_path / "tiny", **LAYOUTS["cached"])
    exact, small = (ContextualEncoder.from_pretrained(folder, backend=runtime, dtype=d) for d in ("float32", "int8"))
    for encoder in (exact, small):
        encoder.fit_context(documents(40))
    queries = documents(9, seed=3, words=6)
    together = small.encode_queries(queries)
    alone = np.stack([small.encode_queries([query])[0] for query in queries])
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)
    cosines = (exact.encode_documents(documents(20)) * small.encode_documents(documents(20))).sum(axis=1)
    assert (cosines < 1 - 1e-7).all(), "the same to the last bit would not be 8 bits"
    assert cosines.min() > 0.98
    sizes = [(encoder.backend.folder / SECOND_STAGE).stat().st_size for encoder in (exact, small)]
    assert sizes[1] < sizes[0]


def test_the_export_is_kept_until_the_checkpoint_changes(checkpoint, exported, cache):
    file = exported(cached_export(hash_checkpoint(checkpoint), "float32")) / EXPORT_NAME
    assert file.is_relative_to(cache)
    written = file.stat().st_mtime_ns
    ContextualEncoder.from_pretrained(checkpoint, backend="onnx")
    assert file.stat().st_mtime_ns == written
    other = few_layers(checkpoint, seed=1, **LAYOUTS["terms"])
    for _ in range(2):
        ContextualEncoder.from_pretrained(other, backend="onnx")
        assert len(list((cache / "onnx").iterdir())) == 2


def test_a_context_of_another_model_is_refused(checkpoint, tmp_path):
    other = ContextualEncoder.from_pretrained(few_layers(tmp_path / "other", seed=1, **LAYOUTS["terms"]))
    with pytest.raises(ContextMismatchError, match="sha256"):
        ContextualEncoder.from_pretrained(checkpoint, backend="onnx").set_context(other.fit_context(documents(5)))


def test_what_cannot_be_exported_says_why(tmp_path, checkpoint, exported):
    moments = few_layers(tmp_path / "moments", context_attention="late")
    with pytest.raises(ConfigError, match=r"context_moments, whose eigen-decomposition .* use backend='torch'"):
        ContextualEncoder.from_pretrained(moments, backend="onnx")
    made = exported(tmp_path / "made")
    with pytest.raises(ConfigError, match="made is an export already; copy it, or export the checkpoint"):
        export_onnx(made, tmp_path / "again")
    with pytest.raises(ConfigError, match="dtype is 'bfloat16', ONNX exports are float32 or int8"):
        ContextualEncoder.from_pretrained(checkpoint, backend="onnx", dtype="bfloat16")
    with pytest.raises(ConfigError, match="backend is 'onxx', expected 'torch', 'onnx', 'openvino'"):
        ContextualEncoder.from_pretrained(checkpoint, backend="onxx")
    with pytest.raises(
        ConfigError, match=r"device is 'tpu', but the installed ONNX Runtime has .*CPUExecutionProvider"
    ):
        ContextualEncoder.from_pretrained(checkpoint, backend="onnx", device="tpu")
    with pytest.raises(ConfigError, match=r"device is 'cuda', but the installed OpenVINO has cpu.*; use 'cpu'"):
        ContextualEncoder.from_pretrained(checkpoint, backend="openvino", device="cuda")
    with pytest.raises(ValueError, match="'int8' needs backend='onnx'"):
        ContextualEncoder.from_pretrained(checkpoint, dtype="int8")


def test_an_export_is_written_over_its_own_kind_alone(tmp_path, checkpoint, exported):
    folder = exported(tmp_path / "made")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    sha256 = hash_checkpoint(checkpoint)
    other = few_layers(tmp_path / "other", seed=1, **LAYOUTS["terms"])
    for source, dtype in ((checkpoint, "int8"), (other, "float32")):
        received = rf"\S+ \({hash_checkpoint(source)[:12]}, {dtype}\); choose another folder, or delete"
        with pytest.raises(ConfigError, match=rf"made holds \S+ \({sha256[:12]}, float32\), received {received}"):
            export_onnx(source, folder, dtype)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    for content, fault in (("{", "is damaged"), ("[]", "holds list, expected a JSON object")):
        (folder / CONFIG_NAME).write_text(content)
        with pytest.raises(CheckpointError, match=rf"config.json {fault}.*; choose another folder, or delete this one"):
            export_onnx(other, folder)
    for damaged in (SECOND_STAGE, EXPORT_NAME):  # the remedy that a damaged export names
        (folder / damaged).write_bytes(b"damaged")
        export_onnx(checkpoint, folder)
        Export.read(folder).verify(folder)


@pytest.mark.parametrize(("runtime", "name"), [("onnx", "OnnxBackend"), ("openvino", "OpenVinoBackend")])
def test_an_export_has_no_pytorch_model(checkpoint, tmp_path, runtime, name):
    encoder = ContextualEncoder.from_pretrained(checkpoint, backend=runtime)
    message = f"tiny.* runs as an export .backend={name}.*load the checkpoint with backend='torch'"
    with pytest.raises(ConfigError, match=message):
        encoder.open_model()
    with pytest.raises(ConfigError, match=message):
        encoder.save_pretrained(tmp_path / "copy")
    with pytest.raises(ConfigError, match="has no use for first-stage vectors"):
        encoder.encode_first_stage(["a text"])


def test_onnx_runtime_keeps_the_memory_of_queries_and_gives_back_that_of_documents(checkpoint, monkeypatch):
    runs = []

    class Session(onnxruntime.InferenceSession):
        def run(self, names, inputs, options=None):
            kept = options is None or options.get_run_config_entry("memory.enable_memory_arena_shrinkage") != "cpu:0"
            runs.append((inputs["input_ids"].size, kept))
            return super().run(names, inputs, options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    encoder = ContextualEncoder.from_pretrained(checkpoint, backend="onnx")
    encoder.set_context(encoder.null_context())
    encoder.encode_queries(documents(3))
    encoder.encode_documents(documents(600))
    assert {kept for size, kept in runs if size <= 2048} == {True}
    assert {kept for size, kept in runs if size > 2048} == {False}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_damaged_export_is_refused_by_name(exported, runtime, tmp_path):
    folder = exported(tmp_path / "export")
    files = [file.name for file in folder.iterdir() if file.name != EXPORT_NAME]
    assert len(files) >= 5
    for name in files:
        whole = (folder / name).read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1  # of the same size, and a graph with it still runs
        (folder / name).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=rf"{name} is not what was exported .*export the checkpoint again"):
            ContextualEncoder.from_pretrained(folder, backend=runtime)
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=f"cannot read .*{name}.*export the checkpoint again"):
            ContextualEncoder.from_pretrained(folder, backend=runtime)
        (folder / name).write_bytes(whole)
    record = (folder / EXPORT_NAME).read_text()
    values = json.loads(record)
    for changed, message in (
        (json.dumps(values | {"format_version": 99}), "has format 99, this version reads 2"),
        (json.dumps(values | {"files": {}}), r"config.json is not what was exported .*export.json says None"),
        (record[: len(record) // 2], "export.json is damaged"),
        ("[" * 9999, "export.json is damaged .*nested too deep"),
    ):
        (folder / EXPORT_NAME).write_text(changed)
        with pytest.raises(CheckpointError, match=message):
            ContextualEncoder.from_pretrained(folder, backend=runtime)
    (folder / EXPORT_NAME).write_text(record)
    ContextualEncoder.from_pretrained(folder, backend=runtime)


def test_a_graph_that_is_opened_later_is_compared_then(exported, tmp_path):
    folder = exported(tmp_path / "export")
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu")
    other = export_onnx(few_layers(tmp_path / "other", seed=1, **LAYOUTS["terms"]), tmp_path / "other export")
    for name in (PREPARE, NULL_STATE):
        shutil.copy(other / name, folder / name)
    with pytest.raises(CheckpointError, match=f"{PREPARE} is not what was exported"):
        encoder.fit_context(documents(5))
    with pytest.raises(CheckpointError, match=f"{NULL_STATE} is not what was exported"):
        encoder.set_context(encoder.null_context())


def test_a_damaged_export_of_the_cache_is_made_again(checkpoint, exported, cache):
    exported(cached_export(hash_checkpoint(checkpoint), "float32"))
    before = ContextualEncoder.from_pretrained(checkpoint, backend="onnx")
    file = before.backend.folder / SECOND_STAGE
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="the kept export is made again: .*second_stage.onnx is not what was exported"):
        after = ContextualEncoder.from_pretrained(checkpoint, backend="onnx")
    for encoder in (before, after):
        encoder.fit_context(documents(9))
    np.testing.assert_array_equal(after.encode_documents(documents(5)), before.encode_documents(documents(5)))


def test_a_cache_that_cannot_be_written_names_the_ways_out(checkpoint, cache):
    cache.write_text("a file, where a folder should be")
    with pytest.raises(CheckpointError, match=r"set CDE_CACHE to a folder .* or write it with: cde export .*tiny -o F"):
        ContextualEncoder.from_pretrained(checkpoint, backend="onnx")


def test_graphs_tell_nothing_of_the_machine_that_made_them(exported, tmp_path):
    for dtype in ("float32", "int8"):
        for file in exported(tmp_path / dtype, dtype).glob("*.onnx"):
            content = file.read_bytes()
            assert b"stack_trace" not in content
            assert str(Path(cde_retriever.__file__).parent).encode() not in content
            assert b"site-packages" not in content


def test_an_export_says_itself_what_runs_it(exported, tmp_path, monkeypatch):
    folder = exported(tmp_path / "export")
    assert type(ContextualEncoder.from_pretrained(folder).backend).__name__ == "OnnxBackend"
    assert (
        shared_encoder(ModelSpec(str(folder))).backend is shared_encoder(ModelSpec(str(folder), backend="onnx")).backend
    )
    with pytest.raises(ConfigError, match="is an ONNX export, which PyTorch does not run; leave backend out"):
        ContextualEncoder.from_pretrained(folder, backend="torch")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert type(ContextualEncoder.from_pretrained(folder).backend).__name__ == "OpenVinoBackend"


@pytest.mark.parametrize(("variable", "threads"), [("2,1", 2), ("3", 3), (" 4, 2", 4), ("", 0), ("many", 0), ("-1", 0)])
def test_threads_follow_the_variable_of_openmp(variable, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert wanted_threads() == threads


def test_a_failed_export_leaves_nothing(checkpoint, cache, monkeypatch):
    monkeypatch.setattr("cde_retriever.backends.export._export", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ContextualEncoder.from_pretrained(checkpoint, backend="onnx")
    assert list((cache / "onnx").iterdir()) == []


def test_an_export_says_its_own_precision(checkpoint, exported, tmp_path):
    folder = exported(tmp_path / "export", "int8")
    with pytest.raises(ConfigError, match="holds something that is no export"):
        export_onnx(checkpoint, checkpoint)
    assert ContextualEncoder.from_pretrained(folder, backend="onnx").backend.export.dtype == "int8"
    with pytest.raises(ConfigError, match="is an export in int8, received dtype 'float32'"):
        ContextualEncoder.from_pretrained(folder, backend="onnx", dtype="float32")


@pytest.mark.parametrize("argument", ["", ", backend='openvino'"], ids=["as it says", "openvino"])
def test_queries_need_neither_torch_nor_safetensors(checkpoint, exported, argument, tmp_path):
    folder = exported(tmp_path / "export")
    encoder = ContextualEncoder.from_pretrained(checkpoint)
    encoder.fit_context(documents(30)).save(tmp_path)
    code = f"""
import sys
for name in ("torch", "transformers", "safetensors", "sentence_transformers"):
    sys.modules[name] = None
from cde_retriever import Context, ContextualEncoder
encoder = ContextualEncoder.from_pretrained({str(folder)!r}{argument})
encoder.set_context(Context.load({str(tmp_path)!r}))
print(*encoder.encode_queries(["what turns the wheel?"])[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    vector = np.array(done.stdout.split(), dtype=np.float32)
    np.testing.assert_allclose(vector, encoder.encode_queries(["what turns the wheel?"])[0], atol=TOLERANCE)


def test_both_frameworks_serve_an_export_without_torch(checkpoint, exported, tmp_path):
    folder = exported(tmp_path / "serving")
    encoder = ContextualEncoder.from_pretrained(checkpoint)
    encoder.fit_context(documents(30)).save(tmp_path)
    code = f"""
import sys
for name in ("torch", "transformers", "safetensors", "sentence_transformers"):
    sys.modules[name] = None
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.llama_index import CDEEmbedding
print(*CDEEmbedding({str(folder)!r}, context={str(tmp_path)!r}).get_query_embedding("what turns the wheel?"))
print(*CDEEmbeddings(model_name={str(folder)!r}, context={str(tmp_path)!r}).embed_query("what turns the wheel?"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = encoder.encode_queries(["what turns the wheel?"])[0]
    for line in done.stdout.splitlines():
        np.testing.assert_allclose(np.array(line.split(), np.float32), expected, atol=TOLERANCE)
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(("runtime", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_says_how_to_install_it(checkpoint, monkeypatch, runtime, package):
    ContextualEncoder.from_pretrained(checkpoint, backend="onnx")  # it is there, and still needs what runs it
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'pip install "cde-retriever\[{runtime}\]"'):
        ContextualEncoder.from_pretrained(checkpoint, backend=runtime)


def test_an_export_serves_every_runtime(checkpoint, exported, cache):
    exported(cached_export(hash_checkpoint(checkpoint), "float32"))
    one, other = (ContextualEncoder.from_pretrained(checkpoint, backend=name) for name in RUNTIMES)
    assert len(list((cache / "onnx").iterdir())) == 1
    assert one.identity == other.identity
    assert one.backend is not other.backend


def test_backends_share_no_session(checkpoint, exported, cache):
    for dtype in ("float32", "int8"):
        exported(cached_export(hash_checkpoint(checkpoint), dtype), dtype)
    one, other = (shared_encoder(ModelSpec(str(checkpoint), backend="onnx")) for _ in range(2))
    assert one.backend is other.backend
    assert shared_encoder(ModelSpec(str(checkpoint))).backend is not one.backend
    small = shared_encoder(ModelSpec(str(checkpoint), backend="onnx", dtype="int8"))
    assert small.backend is not one.backend


def test_a_saved_context_opens_on_both(checkpoint, tmp_path):
    context = ContextualEncoder.from_pretrained(checkpoint, backend="onnx").fit_context(documents(30))
    context.save(tmp_path / "index")
    encoder = ContextualEncoder.from_pretrained(checkpoint)
    encoder.set_context(Context.load(tmp_path / "index"))
    assert encoder.context.fingerprint == context.fingerprint
