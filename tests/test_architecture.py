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

# A room may import from those before it, never from those after it; inside a room no circle. docs/architecture.md
# describes the same rooms.
ROOMS = {
    "cde_retriever": (
        "errors",
        "progress",
        "files",
        "corpus",
        "words",
        "context",
        "model",
        "checkpoint",
        "backends",
        "encoder",
        "bulk",
        "search",
        "pages",
        "lifecycle",
        "adapters",
        "serving",
        "cli",
        "llama_index",
        "langchain",
        "chroma",
        "haystack",
        "mteb",
        "sentence_transformers",
    ),
    "cde_train": (
        "errors",
        "settings",
        "vectors",
        "data",
        "batching",
        "evaluation",
        "training",
        "distillation",
        "run",
        "report",
        "cli",
    ),
}
# Rooms of which neither sees the other, though the order would allow it.
APART = {("cde_train.evaluation", "cde_train.batching")}
DOORS = tuple(
    f"cde_retriever.{name}"
    for name in ("llama_index", "langchain", "chroma", "haystack", "mteb", "sentence_transformers")
)
FRAMEWORK_ROOMS = ("cde_retriever.adapters", *DOORS)
THROUGH_A_DOOR = {("cde_train.evaluation.commands", "cde_retriever.mteb")}
"""Who uses an adapter: a module, and the door it goes through."""
TORCH_ROOMS = (
    "cde_retriever.model",
    "cde_retriever.checkpoint",
    "cde_retriever.backends.pytorch",
    "cde_retriever.backends.packed",
    "cde_retriever.backends.export",
    "cde_retriever.adapters.sentence_transformers",
    "cde_train",
)
WITHOUT_TORCH = (
    "cde_retriever.model.config",
    "cde_retriever.checkpoint.folder",
    "cde_retriever.backends.exported",
    "cde_retriever.backends.export_folder",
)

# What the bare install brings, and who may import what it does not.
REQUIRED = {
    *("filelock", "huggingface_hub", "numpy", "regex", "safetensors", "scipy", "snowballstemmer", "stopwordsiso"),
    *("threadpoolctl", "tokenizers", "torch", "tqdm", "transformers"),
}
OPTIONAL = {
    "llama_index": ("cde_retriever.adapters.llama_index.", "cde_retriever.llama_index"),
    "llama_index_instrumentation": "cde_retriever.adapters.llama_index.",
    "langchain_core": ("cde_retriever.adapters.langchain.", "cde_retriever.langchain"),
    "langchain_chroma": "cde_retriever.adapters.langchain.collection_documents",
    "langchain_qdrant": (
        "cde_retriever.adapters.langchain.sparse_embeddings",
        "cde_retriever.adapters.langchain.collection_documents",
    ),
    "qdrant_client": ("cde_retriever.adapters.langchain.native_parts", "cde_retriever.cli.store_options"),
    "pyarrow": (
        "cde_retriever.corpus.rows",
        "cde_retriever.bulk.parts",
        "cde_retriever.bulk.ray_engine",
        "cde_train.data.tables",
    ),
    "bs4": "cde_retriever.corpus.web_pages",
    "markdownify": "cde_retriever.corpus.web_pages",
    "markdown_it": "cde_retriever.corpus.sections",
    "charset_normalizer": "cde_retriever.corpus.decoding",
    "semantic_text_splitter": "cde_retriever.corpus.passage_size",
    "ray": "cde_retriever.bulk.ray_engine",
    "onnxruntime": (
        "cde_retriever.backends.onnx_runtime",
        "cde_retriever.backends.export",
        "cde_retriever.backends.quantizing",
    ),
    "openvino": "cde_retriever.backends.openvino",
    "onnx": ("cde_retriever.backends.export", "cde_retriever.backends.quantizing"),
    "onnxscript": "cde_retriever.backends.export",
    "pydantic": (
        "cde_retriever.adapters.langchain.",
        "cde_retriever.adapters.contextual_embedding",
        "cde_retriever.serving.requests",
        "cde_train.settings",
    ),
    "fastapi": "cde_retriever.serving.",
    "starlette": "cde_retriever.serving.",
    "uvicorn": "cde_retriever.serving.server",
    "limits": "cde_retriever.serving.gate",
    "plotly": "cde_retriever.pages.page",
    "prometheus_client": "cde_retriever.serving.metrics",
    "chromadb": ("cde_retriever.adapters.chroma", "cde_retriever.cli.store_options"),
    "haystack": "cde_retriever.adapters.haystack",
    "mteb": "cde_retriever.adapters.mteb",
    "tomli_w": "cde_train.run.config",
    "bm25s": "cde_retriever.search.bm25",
    "Stemmer": "cde_retriever.search.bm25",
    "ir_measures": "cde_train.evaluation.ranking",
    "sklearn": "cde_train.evaluation.baselines",
    "sentence_transformers": ("cde_train.", "cde_retriever.adapters.sentence_transformers."),
    "faiss": "cde_train.",
    "datasets": "cde_train.",
    "accelerate": "cde_train.",
    "peft": "cde_train.",
}
CHECKING_CALLS = {"raises", "warns", "run_state_machine_as_test"}
FRAMEWORKS = {
    *("datasets", "faiss", "llama_index", "langchain_core", "sentence_transformers", "bm25s"),
    *("chromadb", "haystack", "mteb"),
}


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


def top_level_imports(path):
    """Return the names a file imports when it is imported itself."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return names


def loaded_by(statement):
    """Return the top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


ALL = modules(*PACKAGES)


def room_of(name):
    """Return the package of a module or name, and the place of its room in that package's list."""
    package, _, rest = name.partition(".")
    return package, ROOMS[package].index(rest.partition(".")[0])


def test_every_room_is_in_the_list():
    for package, rooms in ROOMS.items():
        there = {name.split(".")[1] for name in ALL if name.startswith(f"{package}.")}
        assert there == set(rooms), f"{package}: add new rooms to ROOMS, after what they import"


@pytest.mark.parametrize("name", ALL)
def test_imports_point_one_way(name):
    package, place = room_of(name)
    for other in imports(ALL[name]) & ALL.keys():
        theirs, before = room_of(other)
        if theirs == package:
            assert before <= place, f"{name} imports {other}, whose room comes after its own"
            assert (".".join(name.split(".")[:2]), ".".join(other.split(".")[:2])) not in APART


def test_no_circle():
    seen, done = [], set()

    def visit(name):
        assert name not in seen, f"a circle: {' -> '.join([*seen[seen.index(name) :], name])}"
        if name not in done:
            seen.append(name)
            for other in imports(ALL[name]) & ALL.keys():
                visit(other)
            done.add(seen.pop())

    for name in ALL:
        visit(name)
    assert done == ALL.keys()


@pytest.mark.parametrize("name", ALL)
def test_packages_keep_apart(name):
    seen = imports(ALL[name])
    roots = {other.partition(".")[0] for other in seen}
    assert not roots & {"examples", "tests", "benchmarks"}, f"{name} imports what is not installed"
    assert not seen & {f"{package}.__init__" for package in PACKAGES}
    assert not seen & set(PACKAGES), f"{name} imports from a package; import from the module"
    if name.startswith("cde_retriever."):
        assert "cde_train" not in roots, f"{name} imports the trainer"
    if not name.startswith(FRAMEWORK_ROOMS):
        doors = [door for user, door in THROUGH_A_DOOR if user == name]
        foreign = [other for other in seen if other.startswith(FRAMEWORK_ROOMS) and not other.startswith((*doors, " "))]
        assert not foreign, f"{name} imports an adapter"


@pytest.mark.parametrize("name", ALL)
def test_torch_stays_in_its_rooms(name):
    loaded = {node.partition(".")[0] for node in top_level_imports(ALL[name])}
    allowed = name.startswith(TORCH_ROOMS) and name not in WITHOUT_TORCH
    assert allowed or not loaded & {"torch", "transformers"}, f"{name} imports PyTorch when it is imported"


@pytest.mark.parametrize("name", ALL)
def test_optional_dependencies_stay_where_they_belong(name):
    outside = {other.partition(".")[0] for other in imports(ALL[name])} - set(sys.stdlib_module_names) - {*PACKAGES}
    for dependency in outside - REQUIRED:
        assert dependency in OPTIONAL, f"{name} imports {dependency}, which is neither in REQUIRED nor in OPTIONAL"
        assert name.startswith(OPTIONAL[dependency]), f"{name} imports {dependency}; only {OPTIONAL[dependency]} may"


def test_the_files_that_the_documentation_names_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:cde_retriever|cde_train|tests)/[\w./]+)`", page)
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_picture_of_a_texts_way_is_that_of_a_fresh_run():
    code = "from tests.data_way import drawn; print(drawn())"  # a process of its own: nothing is loaded yet
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    stored = (ROOT / "docs" / "text-way.svg").read_text()
    assert done.stdout[done.stdout.index("<svg") :].strip() == stored.strip(), "run python -m tests.data_way"


def test_importing_the_package_costs_nothing():
    assert loaded_by("import cde_retriever") & {"torch", "transformers", "numpy", *FRAMEWORKS} == set()


def test_loading_a_model_loads_no_framework():
    loaded = loaded_by("import cde_retriever.backends.pytorch")
    assert "torch" in loaded
    assert loaded & FRAMEWORKS == set()


@pytest.mark.parametrize("backend", ["onnx_runtime", "openvino"])
def test_queries_on_an_export_need_no_torch(backend):
    loaded = loaded_by(f"import cde_retriever.encoder.shared_weights, cde_retriever.backends.{backend}")
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


def test_names_that_tests_and_benchmarks_import_from_each_other_are_there():
    # mypy reads neither, so a name that is gone would be seen only once the file that asks for it runs.
    files = modules("tests", "benchmarks")
    given = {name: names_given(path) for name, path in files.items()}
    asked = {(asker, name) for asker, path in files.items() for name in imports(path) if name not in files}
    found = {(asker, *name.rpartition(".")[::2]) for asker, name in asked}
    missing = [
        f"{asker} imports {home}.{name}" for asker, home, name in sorted(found) if name not in given.get(home, {name})
    ]
    assert any(home in files for _, home, _ in found)
    assert missing == []


def names_given(path):
    """Return the names that a file defines or imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names |= {getattr(node, "name", None), getattr(node, "id", None)}
    return names


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
