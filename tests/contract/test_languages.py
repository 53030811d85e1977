"""Other languages than English, one of them without spaces: a corpus's own context is above plain vectors there."""

from pathlib import Path

import pytest

from benchmarks.head_ranking import PlainTexts, fit_on_kept, rank_plain, rank_with_head
from benchmarks.languages import STEMMERS, quality, read_pages
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
