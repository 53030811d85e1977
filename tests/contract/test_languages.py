"""Other languages than English, one of them without spaces: a corpus's own context is above plain vectors there."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.head_ranking import PlainTexts, fit_on_kept, rank_plain, rank_with_head
from benchmarks.languages import STEMMERS, quality, read, read_pages
from cde_retriever.encoder.encoder import ContextualEncoder

MANUALS = Path("/usr/share/man")
PAGES, CHARACTERS = 40, 240


@pytest.mark.parametrize("language", ["de", "fr", "ja"])
def test_own_context_is_above_plain_vectors(language):
    queries, documents = read_pages(MANUALS / language)
    if len(queries) < PAGES:
        pytest.skip(f"this machine has {len(queries)} manual pages in {language}")
    queries, documents = queries[:PAGES], [text[:CHARACTERS] for text in documents[:PAGES]]
    encoder = ContextualEncoder.from_pretrained(device="cpu")
    encoder.set_context(encoder.null_context())
    vectors = encoder.encode_documents(documents, parts="dense"), encoder.encode_queries(queries, parts="dense")
    texts = PlainTexts(documents, queries, *vectors)
    context = fit_on_kept(encoder, texts, language=STEMMERS.get(language, "none"))
    plain = quality(rank_plain(texts))
    assert quality(rank_with_head(encoder, texts, context, "both")) > plain + 5
    assert quality(rank_with_head(encoder, texts, context, "one")) > plain + 5


def test_every_second_question_is_asked_of_all_paragraphs(tmp_path):
    paragraphs = [
        {"context": f"paragraph {row}", "qas": [{"question": f"question {row}.{place}"} for place in range(count)]}
        for row, count in enumerate((3, 1, 2))
    ]
    file = tmp_path / "xquad.de.json"
    file.write_text(json.dumps({"data": [{"paragraphs": paragraphs[:2]}, {"paragraphs": paragraphs[2:]}]}))
    asked = read(file)
    assert asked.name == "xquad-de"
    assert asked.queries == ["question 0.0", "question 0.2", "question 2.0"]
    assert asked.documents == ["paragraph 0", "paragraph 1", "paragraph 2"]
    assert quality([np.arange(10)] * 3, asked.answers) == pytest.approx(100 * (1 + 1 + 0.5) / 3)  # ranks 1, 1, 3
