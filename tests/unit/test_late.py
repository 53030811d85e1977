"""`late`: the pooled vector and the corpus' moments, against the formula in numpy and the symmetries it must have."""

import numpy as np
import pytest
import torch

from benchmarks.direct_step import direct_step
from cde_retriever import ConfigError, ContextualEncoder
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.moments import MomentHead, PowerLessOne
from cde_train.training.config import StartConfig
from cde_train.training.gradient_caching import Chunking, TwoStageBatch, cached_step
from cde_train.training.start import start_from
from tests.tiny import FAMILIES, documents, plain_vectors, tiny_backbone, tiny_encoder, tiny_tokenizer


def late_encoder(family="bert", **config):
    return tiny_encoder(family, context_attention="late", **config)


def seen(second, rows, dropped=None):
    """Return what the second stage makes of a context's vectors."""
    return second.prepare(Evidence(len(rows), rows), dropped)


def formula(plain, context, head):
    """Apply the head in float64, after the module docstring of `cde_retriever.model.moments`."""
    amount, power, mean_prior, prior = (
        p.item() for p in (head.amount, head.power, head.log_mean_prior.exp(), head.log_covariance_prior.exp())
    )
    context = context.astype(np.float64)
    count, width = context.shape
    mean = context.mean(axis=0) * count / (count + mean_prior)
    covariance = np.cov(context, rowvar=False, bias=True)
    rho = prior / (prior + count)
    mixed = (1 - rho) * covariance / (np.trace(covariance) / width) + rho * np.eye(width)
    values, vectors = np.linalg.eigh(mixed)
    amounts = amount + plain @ head.amount_direction.detach().numpy().astype(np.float64) / np.sqrt(width)
    moved = (plain - amounts[:, None] * mean) @ (vectors @ np.diag(values ** (-power / 2)) @ vectors.T)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


@pytest.mark.parametrize("size", [5, 30, 512])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_formula(family, size):
    encoder = late_encoder(family, context_size=512)
    context = encoder.fit_context(documents(600), context_size=size)
    texts = documents(7, seed=5)
    plain = plain_vectors(encoder, texts)
    expected = formula(plain, context.vectors, encoder.open_model().second_stage.moment_head)
    np.testing.assert_allclose(encoder.encode_documents(texts), expected, atol=1e-5, rtol=0)
    assert np.abs(expected - plain).max() > 1e-2, "the context must matter"


@pytest.mark.parametrize("family", FAMILIES)
def test_starts_as_the_plain_encoder_and_null_context_stays_it(family):
    encoder = late_encoder(family)
    texts = documents(7, seed=5)
    plain = plain_vectors(encoder, texts)
    encoder.set_context(encoder.null_context())
    null = encoder.encode_documents(texts)
    np.testing.assert_allclose(null, plain, atol=1e-6, rtol=0)
    encoder.open_model().second_stage.moment_head.load_state_dict(MomentHead(encoder.dimension).state_dict())
    encoder.fit_context(documents(40))
    np.testing.assert_array_equal(encoder.encode_documents(texts), null)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rows", ["one", "equal", "five", "many"])
def test_any_context_is_finite(tmp_path, rows, dtype):
    """One document, or copies of one, have a mean and no covariance: nothing is whitened, whatever rounding says."""
    folder = late_encoder(context_size=512).save_pretrained(tmp_path / "model")
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu", dtype=dtype)
    context = encoder.fit_context(documents({"one": 1, "equal": 1, "five": 5, "many": 600}[rows]))
    repeated = torch.tensor(context.vectors, dtype=encoder.backend.dtype).repeat(7 if rows == "equal" else 1, 1)
    mean, transform = seen(encoder.open_model().second_stage, repeated)
    assert mean.dtype == transform.dtype == torch.float32
    if rows in ("one", "equal"):
        scale = transform[0, 0]
        torch.testing.assert_close(transform, scale * torch.eye(32), atol=0.02 * scale.item(), rtol=0)
    vectors = encoder.encode_documents(documents(7))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_order_of_context_and_of_batch_and_padding_change_nothing():
    encoder = late_encoder()
    context = encoder.fit_context(documents(40))
    texts = documents(11, words=50)
    whole = encoder.encode_documents(texts, batch_size=11)
    np.testing.assert_allclose(encoder.encode_documents(texts[::-1], batch_size=3)[::-1], whole, atol=1e-5, rtol=0)
    second, rows = encoder.open_model().second_stage, torch.tensor(context.vectors)
    for one, other in zip(seen(second, rows), seen(second, rows.flip(0)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_dropped_documents_are_left_out():
    second = late_encoder().open_model().second_stage
    rows = torch.nn.functional.normalize(torch.randn(9, 32), dim=1)
    dropped = torch.arange(9) % 3 == 1
    for got, expected in zip(seen(second, rows, dropped), seen(second, rows[~dropped]), strict=True):
        assert torch.equal(got, expected)
    mean, transform = seen(second, rows, torch.ones(9, dtype=torch.bool))
    assert torch.equal(mean, torch.zeros(32))
    assert torch.equal(transform, torch.eye(32))


def test_term_statistics_count_the_documents_that_are_not_dropped_and_no_words_as_zero():
    encoder = tiny_encoder("bert", context_attention="late", term_statistics=True, context_moments=False)
    second = encoder.open_model().second_stage
    frequencies = torch.arange(encoder.vocabulary_size).float() % 4
    dropped = torch.tensor([True, False, False, True, False])
    (state,) = second.prepare(Evidence(5, frequencies=frequencies), dropped)
    says = second.term_head.information
    assert torch.equal(state, says(frequencies, 3))
    assert not torch.equal(state, says(frequencies, 5))
    (unknown,) = second.prepare(Evidence(4))
    assert torch.equal(unknown, says(torch.zeros(encoder.vocabulary_size), 4))
    assert not torch.equal(unknown, says(torch.ones(encoder.vocabulary_size), 4))


def test_round_trip_and_nothing_unused_is_stored(tmp_path):
    encoder = late_encoder()
    own = [
        name
        for name in encoder.open_model().state_dict()
        if name.startswith("second_stage.") and "backbone" not in name
    ]
    assert len(own) == 5
    assert all(name.startswith("second_stage.moment_head.") for name in own)
    again = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "model"), device="cpu")
    assert again.identity == encoder.identity
    for e in (encoder, again):
        e.fit_context(documents(40))
    np.testing.assert_array_equal(again.encode_queries(documents(7)), encoder.encode_queries(documents(7)))


def test_what_late_cannot_have_is_named():
    with pytest.raises(
        ConfigError, match=r"context_projection is True.*prompt_tokens is 2.*normalize_first_stage is F"
    ):
        late_encoder(context_projection=True, prompt_tokens=2, normalize_first_stage=False)
    with pytest.raises(ConfigError, match="the stages are 16 and 32 wide; context_attention 'late' needs equal widths"):
        late_encoder(first_stage=tiny_backbone("bert", 100, hidden_size=16))


def symmetric(values):
    """Return a float64 matrix with these eigenvalues."""
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64))
    return (basis * torch.tensor(values, dtype=torch.float64)) @ basis.T


@pytest.mark.parametrize("power", [-0.3, 0.0, 0.5])
@pytest.mark.parametrize("values", [[0.2, 0.2, 0.2, 3.0], [1.0] * 4, [0.5, 0.5 + 1e-9, 1, 2], [0.1, 0.7, 2, 9]])
def test_gradient_of_the_power_with_repeated_eigenvalues(values, power):
    def function(root, exponent):
        return PowerLessOne.apply((root + root.T) / 2, exponent)

    matrix = symmetric(values).requires_grad_()
    exponent = torch.tensor(power, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (matrix, exponent), atol=1e-7)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_gradient_at_parameters_and_context(count):
    """Fewer documents than dimensions give eigenvalues that are equal up to rounding."""
    torch.manual_seed(1)
    head = MomentHead(6).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    names, start = zip(*head.named_parameters(), strict=True)
    plain = torch.nn.functional.normalize(torch.randn(2, 6, dtype=torch.float64), dim=1)

    def function(context, *parameters):
        values = dict(zip(names, parameters, strict=True))
        call = torch.func.functional_call
        return call(_Applied(head), {f"head.{name}": value for name, value in values.items()}, (plain, context))

    context = torch.randn(count, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (context, *start), atol=1e-6)


class _Applied(torch.nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, plain, context):
        return self.head(plain, *self.head.moments(context))


@pytest.mark.parametrize("dropped", [False, True])
def test_cached_step_equals_plain_autograd(dropped):
    encoder = late_encoder(share_word_embeddings=True)
    model = encoder.open_model().double().requires_grad_(True)
    ids = [encoder.tokenize(documents(5, seed=seed), "document").ids for seed in (1, 2, 3)]
    batch = TwoStageBatch(*ids, torch.zeros(5, 5, dtype=torch.bool), torch.arange(5) == 2 if dropped else None)
    found = []
    for step in (cached_step, direct_step):
        model.zero_grad(set_to_none=True)
        step(model, batch, 0.05, Chunking(encoder.text_tokenizer().pad, 2))
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == dict(model.named_parameters()).keys()
    for name, expected in found[1].items():
        assert (found[0][name] - expected).abs().max() <= 1e-10 * max(1.0, expected.abs().max().item()), name
        assert expected.abs().max() > 1e-8 or name.endswith("key.bias"), name


def test_autocast_leaves_the_moments_in_float32():
    second = late_encoder().open_model().second_stage
    rows = torch.nn.functional.normalize(torch.randn(20, 32), dim=1)
    exact = seen(second, rows)
    with torch.autocast("cpu", torch.bfloat16):
        state = seen(second, rows)
        vectors = second.moment_head(rows, *state)
    assert all(torch.equal(a, b) for a, b in zip(state, exact, strict=True))
    assert torch.equal(vectors, second.moment_head(rows, *exact))


def test_start_from_a_plain_encoder(tmp_path):
    from transformers import AutoConfig, AutoModel

    settings = tiny_backbone("bert", tiny_tokenizer().get_vocab_size())
    AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings)).save_pretrained(tmp_path)
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    encoder = start_from(tmp_path, StartConfig("late", context_attention="late", max_length=64))
    encoder.fit_context(documents(40))
    texts = documents(5, seed=3)
    np.testing.assert_allclose(encoder.encode_documents(texts), plain_vectors(encoder, texts), atol=1e-6, rtol=0)
