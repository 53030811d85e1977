"""Weights that were changed: another identity, and no vector under a context of the weights before."""

import numpy as np
import pytest
import torch

from cde_retriever import ContextMismatchError, ContextualEncoder
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.encoder.shared_weights import shared_encoder
from tests.tiny import documents, tiny_checkpoint, tiny_encoder, tiny_tokenizer

LATE = {"context_attention": "late", "context_moments": False, "term_statistics": True, "sketch_width": 16}


@pytest.fixture(params=[{}, LATE], ids=["cached", "late"])
def encoder(tmp_path, request):
    return ContextualEncoder.from_pretrained(tiny_checkpoint(tmp_path / "model", **request.param), device="cpu")


def in_place(model):
    with torch.no_grad():
        next(model.second_stage.parameters()).add_(1)


def behind_autograd(model):
    next(model.second_stage.backbone.parameters()).data[0, 0] += 1


def buffer(model):
    next(model.second_stage.buffers()).add_(1)


def other_function(model):
    model.second_stage.backbone.encoder.layer[0].intermediate.intermediate_act_fn = torch.nn.ReLU()


def replaced(model):
    layer = model.second_stage.backbone.encoder.layer[0].output
    layer.dense = torch.nn.Linear(48, 32)


@pytest.mark.parametrize("change", [in_place, behind_autograd, buffer, other_function, replaced])
def test_changed_weights_have_another_identity_and_no_context(encoder, tmp_path, change):
    context, twin = encoder.fit_context(documents(30)), encoder.fork()
    twin.set_context(context)
    vectors, before = encoder.encode_documents(documents(5)), encoder.identity
    model = encoder.open_model()
    assert encoder.identity == before == twin.identity
    np.testing.assert_allclose(encoder.encode_documents(documents(5)), vectors, atol=1e-5)
    change(model)
    assert encoder.identity.sha256 != before.sha256
    assert twin.identity == encoder.identity
    for one in (encoder, twin):
        for call in (one.encode_documents, one.encode_queries):
            with pytest.raises(ContextMismatchError, match=r"was made by model .* with sha256"):
                call(["baron"])
        with pytest.raises(ContextMismatchError, match=before.sha256):
            one.set_context(context)
    fitted = encoder.fit_context(documents(30))
    assert fitted.fingerprint != context.fingerprint
    again = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "changed"), device="cpu")
    stored = change not in (buffer, other_function)
    assert (again.identity.sha256 == encoder.identity.sha256) is stored
    if stored:
        again.set_context(fitted)
        np.testing.assert_allclose(again.encode_queries(["baron"]), encoder.encode_queries(["baron"]), atol=1e-5)


def test_weights_that_are_as_before_serve_the_old_context_again(encoder):
    context = encoder.fit_context(documents(30))
    model, vectors = encoder.open_model(), encoder.encode_queries(["baron"])
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    in_place(model)
    model.load_state_dict(kept)
    np.testing.assert_array_equal(encoder.encode_queries(["baron"]), vectors)
    assert encoder.context is context


def test_a_wrapped_model_is_followed_from_the_start():
    encoder = tiny_encoder()
    encoder.fit_context(documents(30))
    in_place(encoder.open_model())
    with pytest.raises(ContextMismatchError):
        encoder.encode_queries(["baron"])


def test_half_precision_and_a_new_name_are_no_change(tmp_path):
    folder = tiny_checkpoint(tmp_path / "model")
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu", dtype="bfloat16")
    context = encoder.fit_context(documents(30))
    model = encoder.open_model()
    model.config = type(model.config)(**(vars(model.config) | {"name": "other"}))
    assert encoder.identity.name == "other"
    assert encoder.identity.sha256 == context.model.sha256
    assert encoder.encode_queries(["baron"]).shape == (1, 32)


def test_a_changed_model_is_not_shared(tmp_path):
    folder = tiny_checkpoint(tmp_path / "model")
    spec = ModelSpec(str(folder), device="cpu")
    first = shared_encoder(spec)
    identity = first.identity
    in_place(first.open_model())
    second = shared_encoder(spec)
    assert second.identity == identity != first.identity
    assert second.backend is not first.backend


def test_two_names_of_a_device_share_a_model(tmp_path):
    """As ``cuda`` and ``cuda:0`` do."""
    folder = str(tiny_checkpoint(tmp_path / "model"))
    first, second = (shared_encoder(ModelSpec(folder, device=device)) for device in ("cpu", "cpu:0"))
    assert second.backend is first.backend


def test_another_configuration_is_read_and_another_identity(tmp_path):
    encoder = tiny_encoder()
    before, text = encoder.identity.sha256, "kolak " * 30
    assert len(encoder.tokenize([text]).ids[0]) == 32
    model = encoder.open_model()
    model.config = type(model.config)(**(vars(model.config) | {"max_length": 9}))
    assert len(encoder.tokenize([text]).ids[0]) == 9
    assert encoder.identity.sha256 != before
    again = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "model"), device="cpu")
    assert again.identity.sha256 == encoder.identity.sha256


@pytest.mark.parametrize("late", [False, True])
def test_a_tokenizer_that_was_handed_out_changes_nothing(tmp_path, late):
    start = tiny_tokenizer()
    encoder = ContextualEncoder.from_model(tiny_encoder().open_model(), start)
    if late:
        encoder.tokenize(["baron"])
    for tokenizer in (start, encoder.tokenizer):
        tokenizer.add_tokens(["baron kolak"])
    assert encoder.tokenize(["baron kolak"]).ids == tiny_encoder().tokenize(["baron kolak"]).ids
    folder = encoder.save_pretrained(tmp_path / "model")
    assert ContextualEncoder.from_pretrained(folder, device="cpu").identity.sha256 == encoder.identity.sha256


@pytest.mark.parametrize("name", ["identity", "truncate_dim", "backend"])
def test_what_decides_a_vector_cannot_be_assigned(name):
    encoder = tiny_encoder()
    with pytest.raises(AttributeError):
        setattr(encoder, name, getattr(encoder, name))
