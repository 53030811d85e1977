"""Documents that a context was fitted on are embedded once: for the context, and not again as documents."""

import pytest

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from tests.tiny import documents, headed_encoder

TEXTS = documents(40)


@pytest.fixture
def encoder(tmp_path, monkeypatch) -> ContextualEncoder:
    """Return an encoder whose backend counts the texts that it runs, in `encoder.ran`."""
    made = ContextualEncoder.from_pretrained(headed_encoder().save_pretrained(tmp_path / "model"))
    backend, made.ran = made.backend, 0

    def counting(input_ids, mask, state, run=backend.embed):
        made.ran += len(input_ids)
        return run(input_ids, mask, state)

    monkeypatch.setattr(backend, "embed", counting)
    return made


def ran(encoder, work):
    before = encoder.ran
    return work(), encoder.ran - before


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("parts", ["one", "dense", "both"])
def test_the_sample_is_not_embedded_again(encoder, parts, keeps):
    if keeps:
        encoder.keep_plain()
    context, sampled = ran(encoder, lambda: encoder.fit_context(TEXTS, context_size=16))
    found, others = ran(encoder, lambda: encoder.encode_documents(TEXTS, parts=parts))
    assert (sampled, others) == (16, 24)
    encoder.plain_documents = None
    encoder.set_context(context)  # as in another process
    expected, all_of_them = ran(encoder, lambda: encoder.encode_documents(TEXTS, parts=parts))
    assert all_of_them == 40
    for mine, theirs in zip(found, expected, strict=True) if parts == "both" else [(found, expected)]:
        difference = mine - theirs
        assert abs(difference).max() < 1e-6


def test_its_vectors_are_those_of_the_context_bit_for_bit(encoder):
    context = encoder.fit_context(TEXTS[:1])  # one document has no neighbours to move towards
    assert (encoder.encode_documents(TEXTS[:1], parts="dense") == context.vectors).all()


def test_a_query_and_a_changed_document_are_embedded(encoder):
    encoder.fit_context(TEXTS)
    for work in (lambda: encoder.encode_queries(TEXTS[:3]), lambda: encoder.encode_documents([TEXTS[0] + "."] * 3)):
        assert ran(encoder, work)[1] == 3
    assert ran(encoder, lambda: encoder.encode_documents([]))[0].shape == (0, encoder.dimension)


@pytest.mark.parametrize("keeps", [False, True])
def test_cut_texts_are_told_though_they_are_in_the_sample(encoder, keeps):
    if keeps:
        encoder.keep_plain()
    long = ["word " * 500, *TEXTS[:3]]
    encoder.fit_context(long)
    with pytest.warns(TruncationWarning, match="1 of 4 texts"):
        _, others = ran(encoder, lambda: encoder.encode_documents(long))
    assert others == 0


def test_an_open_model_may_change_and_embeds_them_again(encoder):
    encoder.open_model()
    encoder.fit_context(TEXTS, context_size=16)
    assert ran(encoder, lambda: encoder.encode_documents(TEXTS))[1] == 40
