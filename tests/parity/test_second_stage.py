"""The second stage against an independent implementation, and the symmetries it must have."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.model.backbone import build_backbone
from cde_retriever.model.evidence import Evidence
from tests.parity.reference import reference_vector
from tests.tiny import FAMILIES, documents, plain_vectors, tiny_encoder

TOLERANCE = 1e-5


def reference(encoder: ContextualEncoder, texts: list[str]) -> np.ndarray:
    """Embed texts one by one with the independent implementation."""
    second = encoder.open_model().second_stage
    embeddings = torch.tensor(encoder.context.vectors)
    with torch.no_grad():
        prefix = second.prefix(Evidence(len(embeddings), embeddings))
        rows = [
            reference_vector(
                second.backbone.state_dict(),
                encoder.config.second_stage["model_type"],
                dict(encoder.config.second_stage),
                prefix,
                ids,
                layout=encoder.config.context_attention,
                gate=getattr(second, "gate", None),
            )
            for ids in encoder.tokenize(texts, "document").ids
        ]
    return torch.stack(rows).float().numpy()


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("size", [1, 30, 512])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_block_masked_full_sequence(family: str, size: int, batch: int) -> None:
    encoder = tiny_encoder(family, context_size=512)
    encoder.fit_context(documents(600), context_size=size)
    assert encoder.context.size == size
    texts = documents(batch, seed=5, words=40)
    np.testing.assert_allclose(
        encoder.encode_documents(texts, batch_size=batch), reference(encoder, texts), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_under_null_context_equals_block_masked_full_sequence(family: str) -> None:
    encoder = tiny_encoder(family)
    encoder.set_context(encoder.null_context())
    texts = documents(5)
    np.testing.assert_allclose(encoder.encode_documents(texts), reference(encoder, texts), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.03)])
@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_and_training_attend_alike(family: str, dtype: str, tolerance: float) -> None:
    """Embedding reads the context's keys apart from the text's, training in one softmax; heads may be closed."""
    encoder = tiny_encoder(family)
    encoder.open_model().second_stage.gate.data[:, 0] = -math.inf
    encoder.open_model().to(getattr(torch, dtype))
    encoder.fit_context(documents(40))
    ids, mask = encoder.text_tokenizer().pad(encoder.tokenize(documents(7, seed=5, words=40), "document").ids)
    state = encoder._active.state
    with torch.no_grad():
        expected = encoder.open_model().second_stage(torch.as_tensor(ids), torch.as_tensor(mask), state).float().numpy()
    np.testing.assert_allclose(encoder.backend.embed(ids, mask, state), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", ["bert", "nomic_bert"])
def test_joint_equals_full_sequence(family: str) -> None:
    encoder = tiny_encoder(family, context_attention="joint")
    encoder.fit_context(documents(40))
    texts = documents(7, seed=5)
    np.testing.assert_allclose(encoder.encode_documents(texts), reference(encoder, texts), atol=TOLERANCE, rtol=0)


def test_joint_in_modernbert_keeps_the_trained_window_over_the_whole_sequence() -> None:
    """The window counts places in [context, text], so the text's far tokens do not see the context there."""
    encoder = tiny_encoder("modernbert", context_attention="joint", positions="sequence", context_size=16)
    encoder.fit_context(documents(40))
    second = encoder.open_model().second_stage
    ids = encoder.tokenize(documents(1, seed=3, words=30), "document").ids
    with torch.no_grad():
        prefix = second.prefix(Evidence(encoder.context.size, torch.tensor(encoder.context.vectors)))
        sequence = torch.cat([prefix, second.backbone.get_input_embeddings()(torch.tensor(ids[0]))])
        plain = build_backbone(dict(encoder.config.second_stage), "eager")
        plain.load_state_dict(second.backbone.state_dict())
        pooled = plain.eval()(inputs_embeds=sequence[None]).last_hidden_state[0, len(prefix) :].mean(dim=0)
    expected = second.output_head(pooled) / second.output_head(pooled).norm()
    got = encoder.encode_documents(documents(1, seed=3, words=30))[0]
    np.testing.assert_allclose(got, expected.detach().numpy(), atol=TOLERANCE, rtol=0)


def test_sliding_window_layers_see_the_whole_context_from_every_token() -> None:
    """With the window closed to all but neighbours, a change of context still reaches the last token directly."""
    encoder = tiny_encoder("modernbert")
    state_of = encoder.open_model().second_stage
    hidden = []
    for seed in (1, 2):
        encoder.fit_context(documents(40, seed=seed))
        ids, mask = map(
            torch.as_tensor, encoder.text_tokenizer().pad(encoder.tokenize(documents(1, words=40), "document").ids)
        )
        captured: list[torch.Tensor] = []
        sliding = next(layer for layer in state_of.backbone.layers if layer.attention_type == "sliding_attention")
        handle = sliding.attn.register_forward_hook(lambda *args, kept=captured: kept.append(args[2][0]))
        with torch.no_grad():
            state_of(ids, mask, encoder._active.state)
        handle.remove()
        hidden.append(captured[0][0, -1])
    assert sliding.attn.sliding_window == 5  # half of local_attention 8, and one
    assert (hidden[0] - hidden[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_permuting_the_context_changes_nothing(family: str) -> None:
    encoder = tiny_encoder(family, context_size=64)
    context = encoder.fit_context(documents(100))
    texts = documents(7, words=40)
    before = encoder.encode_documents(texts)
    order = np.random.default_rng(0).permutation(context.size)
    shuffled = dataclasses.replace(
        context,
        vectors=context.vectors[order],
        texts=tuple(context.texts[i] for i in order),
        text_hashes=tuple(context.text_hashes[i] for i in order),
    )
    encoder.set_context(shuffled)
    assert shuffled.fingerprint == context.fingerprint
    np.testing.assert_allclose(encoder.encode_documents(texts), before, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("layout", ["cached", "joint"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_batch_composition_change_nothing(family: str, layout: str) -> None:
    encoder = tiny_encoder(family, context_attention=layout)
    encoder.fit_context(documents(40))
    texts = documents(11, words=50)
    whole = encoder.encode_documents(texts, batch_size=11)
    for size in (1, 3):
        np.testing.assert_allclose(encoder.encode_documents(texts, batch_size=size), whole, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(encoder.encode_documents(texts[::-1])[::-1], whole, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_gate_is_the_plain_backbone(family: str) -> None:
    encoder = tiny_encoder(family)
    encoder.open_model().second_stage.gate.data.fill_(-math.inf)
    encoder.fit_context(documents(40))
    texts = documents(7, words=50)
    np.testing.assert_allclose(encoder.encode_documents(texts), plain_vectors(encoder, texts), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_context_matters(family: str) -> None:
    """The negative control of this file: another corpus, other vectors."""
    encoder = tiny_encoder(family)
    texts = documents(7)
    vectors = []
    for seed in (1, 2):
        encoder.fit_context(documents(40, seed=seed))
        vectors.append(encoder.encode_documents(texts))
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


@pytest.mark.parametrize("positions", ["prompt_and_text", "sequence"])
def test_joint_with_fixed_positions_repeats_a_small_corpus_and_says_so(positions: str) -> None:
    encoder = tiny_encoder("nomic_bert", context_attention="joint", positions=positions)
    context = encoder.fit_context(documents(5))
    assert (context.size, context.oversampled_to) == (5, 16)
    small = encoder.encode_documents(documents(3))
    repeated: Context = dataclasses.replace(
        context,
        vectors=context.vectors[np.arange(16) % 5],
        texts=tuple(context.texts[i % 5] for i in range(16)),
        text_hashes=tuple(context.text_hashes[i % 5] for i in range(16)),
        oversampled_to=None,
    )
    encoder.set_context(repeated)
    np.testing.assert_allclose(encoder.encode_documents(documents(3)), small, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near_float32(family: str, tmp_path) -> None:
    exact = tiny_encoder(family)
    folder = exact.save_pretrained(tmp_path / "model")
    context = exact.fit_context(documents(40))
    half = ContextualEncoder.from_pretrained(folder, dtype="bfloat16", device="cpu")
    half.set_context(context)
    texts = documents(7, words=30)
    cosine = (exact.encode_documents(texts) * half.encode_documents(texts)).sum(axis=1)
    assert next(half.open_model().parameters()).dtype == torch.bfloat16
    assert cosine.min() > 0.99


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_equals_cpu(family: str, tmp_path) -> None:
    folder = tiny_encoder(family).save_pretrained(tmp_path / "model")
    vectors = []
    for device in ("cpu", "cuda"):
        encoder = ContextualEncoder.from_pretrained(folder, device=device)
        encoder.fit_context(documents(40))
        vectors.append(encoder.encode_documents(documents(7, words=30)))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4, rtol=0)
