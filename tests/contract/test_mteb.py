"""MTEB's tasks on a contextual encoder: the context comes first, and scores are those of the encoder alone."""

import json
import warnings

import numpy as np
import pytest

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError
from tests.tiny import WORDS, documents

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mteb
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.mocks.mock_tasks.classification import MockClassificationTask
    from mteb.mocks.mock_tasks.clustering import MockClusteringTask
    from mteb.mocks.mock_tasks.reranking import MockRerankingTask
    from mteb.mocks.mock_tasks.sts import MockSTSTask

    from cde_retriever import mteb as cde
    from cde_train.cli import main

TEXTS = documents(30)
TITLES = [f"no {i}" if i % 2 else "" for i in range(30)]
QUERIES = {f"q{i}": " ".join(TEXTS[i * 3].split()[1:] + WORDS[i : i + 2]) for i in range(4)}
README = """---
configs:
- config_name: corpus
  data_files: [{split: test, path: corpus.jsonl}]
- config_name: queries
  data_files: [{split: test, path: queries.jsonl}]
- config_name: default
  data_files: [{split: test, path: qrels.jsonl}]
---
"""


@pytest.fixture
def encoder(prompted):
    return ContextualEncoder.from_pretrained(prompted)


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A retrieval task over local files, which MTEB reads with its own loader."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "README.md").write_text(README)
    corpus = [{"_id": f"d{i}", "title": TITLES[i], "text": TEXTS[i]} for i in range(30)]
    write(folder / "corpus.jsonl", corpus)
    write(folder / "queries.jsonl", [{"_id": name, "text": text} for name, text in QUERIES.items()])
    relevant = [{"query-id": f"q{i}", "corpus-id": f"d{i * 3}", "score": 1} for i in range(4)]
    write(folder / "qrels.jsonl", relevant)

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            **dict.fromkeys(("date", "domains", "license", "annotations_creators", "dialect", "reference")),
            name="LocalWords",
            description="made-up words",
            dataset={"path": str(folder), "revision": "0"},
            type="Retrieval",
            category="t2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            sample_creation=None,
            bibtex_citation="",
        )

    return Local()


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def expected(encoder):
    """nDCG@10 of one relevant document a query, ranked by the encoder under the corpus's context."""
    texts = [f"{title} {text}".strip() for title, text in zip(TITLES, TEXTS, strict=True)]
    encoder = encoder.fork()
    encoder.fit_context(texts, seed=3)
    order = np.argsort(-encoder.encode_queries(list(QUERIES.values())) @ encoder.encode_documents(texts).T, axis=1)
    places = [list(row).index(i * 3) for i, row in enumerate(order)]
    return np.mean([1 / np.log2(2 + place) if place < 10 else 0 for place in places])


def test_retrieval_over_local_files(tmp_path, encoder, task):
    (row,) = cde.evaluate(encoder, [task], seed=3, results=tmp_path / "results")
    assert row["score"] == pytest.approx(expected(encoder), abs=1e-4)
    assert 0 < row["score"] < 1
    assert (row["task"], row["split"], row["subset"]) == ("LocalWords", "test", "default")
    assert row["revision"] == f"{encoder.identity.sha256[:12]}-32d-seed3-J16"
    assert not encoder.has_context


def test_results_are_kept_by_seed_and_size(tmp_path, encoder, task):
    for seed, size in ((0, None), (1, None), (0, 8)):
        assert list(cde.evaluate(encoder, [task], seed=seed, context_size=size, results=tmp_path / "results"))
    kept = [path.parent.name for path in (tmp_path / "results").rglob("LocalWords.json")]
    assert sorted(name.partition("-32d-")[2] for name in kept) == ["seed0-J16", "seed0-J8", "seed1-J16"]


@pytest.fixture
def calls(monkeypatch):
    """What was fitted and embedded, in order."""
    made = []

    def record(name):
        original = getattr(ContextualEncoder, name)

        def recorded(self, texts, **settings):
            texts = list(texts)
            made.append((name, texts))
            return original(self, texts, **settings)

        monkeypatch.setattr(ContextualEncoder, name, recorded)

    for name in ("fit_context", "encode_documents", "encode_queries"):
        record(name)
    return made


def test_the_context_is_fitted_before_any_query(encoder, task, calls):
    mteb.evaluate(cde.CDEModel(encoder), task, cache=None)
    assert [name for name, _ in calls] == ["fit_context", "encode_queries", "encode_documents"]
    assert calls[0][1] == calls[2][1]
    assert calls[0][1][:2] == [TEXTS[0], f"no 1 {TEXTS[1]}"]


@pytest.mark.parametrize("made", [MockClassificationTask, MockClusteringTask, MockSTSTask])
def test_other_tasks_are_fitted_once_on_their_first_texts(encoder, made, calls):
    result = mteb.evaluate(cde.CDEModel(encoder), made(), cache=None)
    names = [name for name, _ in calls]
    assert names[0] == "fit_context"
    assert set(names[1:]) == {"encode_documents"}
    assert calls[0][1] == calls[1][1]
    assert np.isfinite([row["main_score"] for rows in result.task_results[0].scores.values() for row in rows]).all()


def test_reranking_fits_on_its_corpus(encoder, calls):
    mteb.evaluate(cde.CDEModel(encoder), MockRerankingTask(), cache=None)
    assert [name for name, _ in calls][:2] == ["fit_context", "encode_queries"]


def test_benchmarks_and_tasks_by_name():
    assert len(cde.tasks_named(["NanoBEIR"])) == 13
    assert {"SciFact", "NFCorpus"} <= {task.metadata.name for task in cde.tasks_named(["BEIR"])}
    with pytest.raises(ConfigError, match="no task or benchmark 'SciFakt'"):
        cde.tasks_named(["SciFakt"])


def test_the_command(tmp_path, prompted, task, encoder, monkeypatch, capsys):
    monkeypatch.setattr("cde_retriever.adapters.mteb.mteb.get_task", {"LocalWords": task}.__getitem__)
    arguments = ["evaluate", str(prompted), "--mteb", "LocalWords", "--seed", "3", "--device", "cpu"]
    assert main([*arguments, "-o", str(tmp_path / "results")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["score"] == pytest.approx(expected(encoder), abs=1e-4)
    assert main(["evaluate"]) == 2
    assert "SETS" in capsys.readouterr().err
