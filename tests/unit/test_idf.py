"""What sentence-transformers reads of a context's ``idf.json``, against weights by hand."""

import json
import math
from dataclasses import replace

import pytest
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
from transformers import PreTrainedTokenizerFast

from cde_retriever.errors import ContextError
from cde_retriever.search.idf import write_idf
from tests.tiny import WORDS, tiny_encoder, tiny_tokenizer

COMMON, HALF, UNSEEN = WORDS[:3]


@pytest.fixture
def context():
    texts = [f"{COMMON} {COMMON} {HALF}", COMMON, f"{COMMON} {HALF} {WORDS[5]}", f"{COMMON} {WORDS[6]}"]
    return tiny_encoder().fit_context(texts)


def test_sentence_transformers_weighs_a_query_by_it(context, tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), unk_token="[UNK]", pad_token="[PAD]")
    file = write_idf(context, tokenizer, tmp_path / "idf.json")
    weights = json.loads(file.read_text())
    assert len(weights) == len(tokenizer) - 2
    assert "[UNK]" not in weights
    static = SparseStaticEmbedding.from_json(str(file), tokenizer=tokenizer, frozen=True)
    query = SparseEncoder(modules=[static], device="cpu").encode([f"{HALF} {UNSEEN} {COMMON} {HALF} ~"])
    row = query.to_dense()[0]
    # (documents with it + 4 / 10,000) / (4 + 4), but at least one of 4 + 512
    expected = {COMMON: 4, HALF: 2, UNSEEN: 0}
    for token, documents in expected.items():
        share = max((documents + 4e-4) / 8, 1 / 516)
        assert row[tokenizer.convert_tokens_to_ids(token)].item() == pytest.approx(-math.log(share), rel=1e-5)
    assert int((row != 0).sum()) == 3


def test_a_context_without_texts_is_refused(context, tmp_path):
    with pytest.raises(ContextError, match="keeps no texts"):
        write_idf(replace(context, texts=None), None, tmp_path / "idf.json")
    assert list(tmp_path.iterdir()) == []
