"""A context of the usual size that holds too little of its corpus for one vector: who is told, and who is not."""

import json
import warnings
from dataclasses import replace

import pytest

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.bulk.run import embed_corpus
from cde_retriever.bulk.settings import BulkSettings
from cde_retriever.context import coverage
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.errors import ConfigError
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.llama_index import CDEEmbedding
from tests.tiny import HEADED, documents, tiny_checkpoint

TEXTS = documents(40, seed=3)
TOLD = r"holds 16 of 40 documents, and one vector knows words best near these: .* or a context size of 40, at 2 to"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "head", **{**HEADED, "context_size": 16})


@pytest.fixture(autouse=True)
def usual(monkeypatch):
    monkeypatch.setattr(coverage, "FITTED_SIZE", 16)


@pytest.mark.parametrize("kind", [CDEEmbedding, CDEEmbeddings], ids=lambda kind: kind.__name__)
def test_who_embeds_in_one_vector_is_told(kind, model):
    with pytest.warns(UserWarning, match=TOLD):
        kind(model_name=model).fit(TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(model_name=model).fit(TEXTS[:32])  # half
        kind(model_name=model, context_size=16).fit(TEXTS)  # as asked
        kind(model_name=model).dense_part().fit(TEXTS)  # two parts need few
        context = kind(model_name=model).dense_part().fit(TEXTS)
        for head in (None, HeadSettings(query_noise=0.0)):  # fits no queries
            coverage.warn_if_small(context, head)


def test_so_is_who_embeds_in_bulk(model, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    settings = BulkSettings(model=ModelSpec(str(model)))
    with pytest.warns(UserWarning, match=TOLD):
        embed_corpus(corpus, tmp_path / "told", settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed_corpus(corpus, tmp_path / "told", settings)  # what is there stays
        embed_corpus(corpus, tmp_path / "both", replace(settings, parts="both"))
        chosen = replace(settings, context_size=24)
        embed_corpus(corpus, tmp_path / "chosen", chosen)
        embed_corpus(corpus, tmp_path / "chosen", chosen)
    with pytest.raises(ConfigError, match=r"--context-size is 40, but context \w+ was made to hold 24 doc"):
        embed_corpus(corpus, tmp_path / "chosen", replace(settings, context_size=40))
    with pytest.raises(ConfigError, match="--context-size is 0, expected at least 1"):
        replace(settings, context_size=0)
