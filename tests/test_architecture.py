"""The shape of the project: who imports whom, what an import costs, and that tests test."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cde_retriever

ROOT = Path(__file__).parent.parent
PACKAGES = ("cde_retriever", "cde_train")

# Imports point up this list only; modules of one line do not see each other. A new module needs a place in it.
ORDER = [
    ("cde_retriever.errors", "cde_retriever.atomic_files", "cde_retriever.batching", "cde_retriever.truncation"),
    ("cde_retriever.config", "cde_retriever.checkpoint_files", "cde_retriever.onnx_files"),
    ("cde_retriever.tokenization", "cde_retriever.context", "cde_retriever.backend"),
    ("cde_retriever.pooling", "cde_retriever.packed_linear", "cde_retriever.shared_keys", "cde_retriever.late"),
    ("cde_retriever.attention", "cde_retriever.packed_model"),
    ("cde_retriever.backbone", "cde_retriever.terms"),
    ("cde_retriever.model",),
    ("cde_retriever.low_rank",),
    ("cde_retriever.checkpoint",),
    ("cde_retriever.torch_backend", "cde_retriever.export_backend"),
    ("cde_retriever.onnx_backend", "cde_retriever.openvino_backend"),
    ("cde_retriever.onnx_export",),
    ("cde_retriever.loading",),
    ("cde_retriever.encoder",),
    ("cde_retriever.sharing",),
    ("cde_retriever.corpus_files", "cde_retriever.vector_parts", "cde_retriever.folder_lock"),
    ("cde_retriever.bulk_settings", "cde_retriever.bulk_manifest", "cde_retriever.shards"),
    ("cde_retriever.ray_engine",),
    ("cde_retriever.bulk",),
    ("cde_retriever.cli",),
    ("cde_retriever.llama_index_storage", "cde_retriever.llama_index_first_batch", "cde_retriever.langchain_guard"),
    ("cde_retriever.llama_index_embedding", "cde_retriever.langchain"),
    ("cde_retriever.llama_index_guard",),
    ("cde_retriever.llama_index",),
    ("cde_train.errors", "cde_train.train_config", "cde_train.file_hashes", "cde_train.processes"),
    ("cde_train.evaluation", "cde_train.documents", "cde_train.many_contexts"),
    ("cde_train.data",),
    ("cde_train.text_vectors", "cde_train.pair_vectors"),
    (
        "cde_train.losses",
        "cde_train.initialization",
        "cde_train.low_rank",
        "cde_train.surrogate",
        "cde_train.spherical_kmeans",
    ),
    (
        "cde_train.clustering",
        "cde_train.false_negatives",
        "cde_train.difficulty",
        "cde_train.tour",
        "cde_train.gradient_caching",
        "cde_train.parameters",
        "cde_train.saved_state",
    ),
    ("cde_train.packing", "cde_train.hard_negatives"),
    ("cde_train.batches",),
    ("cde_train.baselines", "cde_train.decontamination"),
    ("cde_train.pseudo_queries", "cde_train.holdout"),
    ("cde_train.comparison", "cde_train.term_prior"),
    ("cde_train.trainer", "cde_train.kept_results"),
    ("cde_train.model_card",),
    ("cde_train.run_sections",),
    ("cde_train.run_config",),
    ("cde_train.run_folder", "cde_train.steps"),
    ("cde_train.fit",),
    ("cde_train.cli",),
]
ADAPTERS = ("cde_retriever.llama_index", "cde_retriever.langchain")

# What the bare install brings, and who may import what it does not.
REQUIRED = {"filelock", "huggingface_hub", "numpy", "safetensors", "tokenizers", "torch", "tqdm", "transformers"}
OPTIONAL = {
    "llama_index": "cde_retriever.llama_index",
    "langchain_core": "cde_retriever.langchain",
    "pyarrow": ("cde_retriever.corpus_files", "cde_retriever.vector_parts", "cde_retriever.ray_engine"),
    "ray": "cde_retriever.ray_engine",
    "onnxruntime": ("cde_retriever.onnx_backend", "cde_retriever.onnx_export"),
    "openvino": "cde_retriever.openvino_backend",
    "onnx": "cde_retriever.onnx_export",
    "onnxscript": "cde_retriever.onnx_export",
    "pydantic": ("cde_retriever.langchain", "cde_train.run_config"),
    "tomli_w": "cde_train.run_config",
    "bm25s": "cde_train.baselines",
    "Stemmer": "cde_train.baselines",
    "ir_measures": "cde_train.evaluation",
    "sentence_transformers": "cde_train.",
    "faiss": "cde_train.",
    "datasets": "cde_train.",
    "accelerate": "cde_train.",
    "peft": "cde_train.",
}
CHECKING_CALLS = {"raises", "warns", "run_state_machine_as_test"}
FRAMEWORKS = {"datasets", "faiss", "llama_index", "langchain_core", "sentence_transformers", "bm25s"}


def modules(*packages):
    """Map the name of each module of the packages to its file, the packages themselves left out."""
    files = {path for package in packages for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"}
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(files)}


def imports(path):
    """Return the full names a file imports, wherever in it; of ``from a import b`` both ``a`` and ``a.b``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; write the full name"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def loaded_by(statement):
    """Return the top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


ALL = modules(*PACKAGES)
LEVELS = {name: level for level, names in enumerate(ORDER) for name in names}


def test_every_module_has_a_place_in_the_order():
    assert ALL.keys() - LEVELS.keys() == set(), "add these to ORDER, after what they import and before who imports them"
    assert LEVELS.keys() - ALL.keys() == set(), "these are in ORDER and gone from the tree"


@pytest.mark.parametrize("name", ALL)
def test_imports_point_one_way(name):
    for other in imports(ALL[name]) & LEVELS.keys():
        assert LEVELS[other] < LEVELS.get(name, len(ORDER)), f"{name} imports {other}, which ORDER puts after it"


@pytest.mark.parametrize("name", ALL)
def test_packages_keep_apart(name):
    seen = imports(ALL[name])
    roots = {other.partition(".")[0] for other in seen}
    assert not roots & {"examples", "tests", "benchmarks"}, f"{name} imports what is not installed"
    assert not seen & {f"{package}.__init__" for package in PACKAGES}
    assert not seen & set(PACKAGES), f"{name} imports from a package; import from the module"
    if name.startswith("cde_retriever."):
        assert "cde_train" not in roots, f"{name} imports the trainer"
    for adapter in ADAPTERS:
        if not name.startswith(adapter):
            assert not [other for other in seen if other.startswith(adapter)], f"{name} imports an adapter"


@pytest.mark.parametrize("name", ALL)
def test_optional_dependencies_stay_where_they_belong(name):
    outside = {other.partition(".")[0] for other in imports(ALL[name])} - set(sys.stdlib_module_names) - {*PACKAGES}
    for dependency in outside - REQUIRED:
        assert dependency in OPTIONAL, f"{name} imports {dependency}, which is neither in REQUIRED nor in OPTIONAL"
        assert name.startswith(OPTIONAL[dependency]), f"{name} imports {dependency}; only {OPTIONAL[dependency]} may"


def test_importing_the_package_costs_nothing():
    assert loaded_by("import cde_retriever") & {"torch", "transformers", "numpy", *FRAMEWORKS} == set()


def test_loading_a_model_loads_no_framework():
    loaded = loaded_by("import cde_retriever.torch_backend")
    assert "torch" in loaded
    assert loaded & FRAMEWORKS == set()


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_queries_on_an_export_need_no_torch(backend):
    loaded = loaded_by(f"import cde_retriever.encoder, cde_retriever.{backend}_backend, cde_retriever.sharing")
    assert loaded & {"torch", "transformers", "safetensors", *FRAMEWORKS} == set()
    assert {"numpy", "tokenizers", "cde_retriever"} <= loaded


@pytest.mark.parametrize("name", cde_retriever.__dir__())
def test_exported_names_resolve(name):
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+", cde_retriever.__version__)
    else:
        public = getattr(cde_retriever, name)
        assert isinstance(public, type)
        assert public.__name__ == name
        assert public.__module__.startswith("cde_retriever.")


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="no attribute 'Contxt'"):
        _ = cde_retriever.Contxt


def test_files_are_named_after_a_concept():
    vague = {"utils", "util", "misc", "helpers", "helper", "common", "manager", "managers"}
    named = {word for name in modules(*PACKAGES, "examples", "tests") for word in name.split(".")[-1].split("_")}
    assert named & vague == set()


def test_every_test_checks_something():
    functions = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.setdefault(node.name, []).append((path, node))
    checking = {name for name, found in functions.items() if any(checks(node, set()) for _, node in found)}
    helpers = {name for name in checking if not name.startswith("test_")}
    idle = [
        f"{path.relative_to(ROOT)}::{name}"
        for name, found in functions.items()
        for path, node in found
        if name.startswith("test_") and not checks(node, helpers)
    ]
    assert idle == []


def checks(function, helpers):
    """Tell whether a function asserts, expects an exception or a warning, or calls one of the helpers that do."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in {*CHECKING_CALLS, *helpers} or called.startswith("assert"):
                return True
    return False
