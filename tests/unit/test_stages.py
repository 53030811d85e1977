"""Both stages step by step, against the same steps written out on the same backbone."""

import pytest
import torch
from torch.nn.functional import gelu, normalize, relu

from cde_retriever.errors import ContextError
from cde_retriever.model.backbone import input_offset
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.stages import OutputHead
from tests.tiny import documents, tiny_encoder

VECTORS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
DENSE = {"kind": "dense", "inputs": 32, "outputs": 24, "bias": True, "activation": "tanh", "residual": False}


def model_of(layout="joint", **settings):
    return tiny_encoder(context_attention=layout, **settings).open_model()


def texts(count=4):
    """Return token ids and mask, (count, s), the last text shorter than the others; 7 is a token of none of them."""
    encoder = tiny_encoder()
    ids, mask = encoder.text_tokenizer().pad(encoder.tokenize(documents(count, seed=3), "document").ids)
    return torch.as_tensor(ids), torch.as_tensor(mask)


def mean_of(hidden, mask):
    return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


# The first stage


@pytest.mark.parametrize("normal", [True, False])
@pytest.mark.parametrize("head", ["none", "mlp"])
def test_dataset_embeddings_are_the_backbone_s_mean_through_a_head(head, normal):
    first = model_of(first_stage_head=head, normalize_first_stage=normal).first_stage
    ids, mask = texts()
    with torch.no_grad():
        expected = mean_of(first.backbone(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
        if head == "mlp":
            one, _, two = first.mlp
            expected = gelu(expected @ one.weight.T + one.bias) @ two.weight.T + two.bias
        expected = normalize(expected, dim=-1) if normal else expected
        torch.testing.assert_close(first(ids, mask), expected)
    assert (first.mlp is None) == (head == "none")


def test_a_prompt_is_read_but_not_pooled_by_either_stage():
    model = model_of("late", pool_prompt=False, projection=(DENSE, {"kind": "normalize"}))
    ids, mask = texts()
    prompted = torch.where(torch.arange(ids.shape[1]) < 2, 2 * mask, mask)
    with torch.no_grad():
        hidden = model.first_stage.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = mean_of(hidden, (prompted == 1).long())
        got = model.first_stage(ids, prompted)
        assert got.shape == (4, 24)
        torch.testing.assert_close(got, normalize(model.first_stage.projection(pooled), dim=-1))
        states = model.second_stage.hidden_states(ids, prompted, ())
        torch.testing.assert_close(
            states, model.second_stage.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        )


def test_one_encoder_may_be_both_stages():
    model = model_of("late", share_backbone=True, projection=(DENSE,))
    assert model.first_stage.backbone is model.second_stage.backbone
    assert model.first_stage.projection is model.second_stage.projection
    assert not [name for name in model.stored_state() if name.startswith("first_stage.")]
    apart = model_of("late")
    assert apart.first_stage.backbone is not apart.second_stage.backbone
    assert [name for name in apart.stored_state() if name.startswith("first_stage.")]


def test_shared_words_are_stored_once_under_the_second_stage():
    model = model_of(share_word_embeddings=True)
    words = [name for name in model.stored_state() if "word_embeddings" in name]
    assert words == ["second_stage.backbone.embeddings.word_embeddings.weight"]
    assert model.first_stage.backbone.get_input_embeddings() is model.second_stage.backbone.get_input_embeddings()
    own = [name for name in model_of().stored_state() if "word_embeddings" in name]
    assert len(own) == 2


def test_a_model_says_how_wide_its_vectors_are_and_is_made_to_embed():
    model = model_of("late", term_statistics=True, sketch_width=8)
    assert model.dimension == 32 + 8
    assert not model.training


# Heads


@pytest.mark.parametrize(("activation", "function"), [("gelu", gelu), ("relu", relu)])
@pytest.mark.parametrize("kind", ["none", "mlp", "residual_mlp"])
def test_output_heads_by_hand(kind, activation, function):
    torch.manual_seed(0)
    head = OutputHead(kind, 4, activation)
    with torch.no_grad():
        if kind == "none":
            assert head(VECTORS) is VECTORS
            return
        one, _, two = head.mlp
        if kind == "residual_mlp":
            assert torch.equal(head(VECTORS), VECTORS), "it starts as the identity"
            two.weight.normal_()
            two.bias.normal_()
        mapped = function(VECTORS @ one.weight.T + one.bias) @ two.weight.T + two.bias
        torch.testing.assert_close(head(VECTORS), mapped + VECTORS if kind == "residual_mlp" else mapped)
    assert tuple(one.weight.shape) == tuple(two.weight.shape) == (4, 4)


def test_gelu_is_the_head_s_activation_unless_told():
    assert isinstance(OutputHead("mlp", 4).mlp[1], torch.nn.GELU)


# The second stage


@pytest.mark.parametrize("token", [None, 2])
def test_texts_are_pooled_after_a_token_where_they_have_it(token):
    """Token 3 ends every text; put at place 3, it leaves the places after it. Without a token, all are pooled."""
    model = model_of(pool_after_token=None if token is None else 3, output_head="mlp")
    ids, mask = texts()
    ids[:, 3] = 3
    second, state = model.second_stage, (torch.randn(4, 32, generator=torch.Generator().manual_seed(1)),)
    with torch.no_grad():
        pooled_mask = mask if token is None else mask * (torch.arange(ids.shape[1]) > 3)
        expected = mean_of(second.hidden_states(ids, mask, state), pooled_mask)
        expected = normalize(second.output_head(expected), dim=-1)
        torch.testing.assert_close(second(ids, mask, state), expected)


def test_embeddings_that_are_normalised_already_are_not_normalised_again():
    for kept in (True, False):
        norm = model_of_modernbert(kept).second_stage.backbone.get_submodule("embeddings").norm
        assert isinstance(norm, torch.nn.LayerNorm) == kept
        assert isinstance(norm, torch.nn.Identity) != kept


def model_of_modernbert(embedding_norm):
    return tiny_encoder("modernbert", context_attention="joint", embedding_norm=embedding_norm).open_model()


# Before a text


@pytest.mark.parametrize("layout", ["joint", "cached"])
def test_the_prefix_is_the_projected_context_and_the_prompt(layout):
    second, vectors = model_of(layout).second_stage, torch.randn(5, 32)
    dropped = torch.tensor([False, True, False, False, True])
    linear = second.context_projection
    with torch.no_grad():
        projected = vectors @ linear.weight.T + linear.bias
        whole = torch.cat([projected, second.prompt])
        torch.testing.assert_close(second.prefix(Evidence(5, vectors, None)), whole)
        torch.testing.assert_close(second.prefix(Evidence(5, vectors, None), torch.zeros(5, dtype=torch.bool)), whole)
        whole[:5][dropped] = second.null_context[0]
        torch.testing.assert_close(second.prefix(Evidence(5, vectors, None), dropped), whole)
        null = second.prefix(Evidence(0, None, None))
        torch.testing.assert_close(null, torch.cat([second.null_context, second.prompt]))
        assert second.prefix(Evidence(0, None, None), torch.zeros(0, dtype=torch.bool)).shape == (3, 32)


def test_a_prefix_without_projection_holds_the_vectors_themselves():
    second, vectors = model_of(context_projection=False).second_stage, torch.randn(5, 32)
    assert second.context_projection is None
    assert torch.equal(second.prefix(Evidence(5, vectors, None))[:5], vectors)
    second.enter_like_words()  # there is nothing to start


def test_a_null_context_may_stand_in_every_place_or_be_missing():
    second = model_of(null_context="repeated", context_size=6).second_stage
    with torch.no_grad():
        prefix = second.prefix(Evidence(0, None, None))
    assert prefix.shape == (6 + 2, 32)
    assert torch.equal(prefix[:6], second.null_context.expand(6, -1))
    with torch.no_grad():
        vectors, dropped = torch.randn(3, 32), torch.tensor([True, False, False])
        assert torch.equal(second.prefix(Evidence(3, vectors, None), dropped)[0], second.null_context[0])
    encoder = tiny_encoder(context_attention="joint", prompt_tokens=0)
    assert encoder.open_model().second_stage.prompt.shape == (0, 32)


def test_a_model_without_a_null_context_says_so():
    second = model_of(null_context="vector").second_stage
    second.null_context = None
    with pytest.raises(ContextError, match=r"^tiny-bert has no null context; fit it a context of any texts$"):
        second.prefix(Evidence(0, None, None))


def test_new_parameters_start_small_as_identity_or_as_nothing():
    from cde_retriever.model.joint import JointSecondStage

    torch.manual_seed(0)
    second = JointSecondStage(model_of(prompt_tokens=50).config)
    assert torch.equal(second.null_context, torch.zeros(1, 32))
    assert torch.equal(second.context_projection.weight, torch.eye(32))
    assert torch.equal(second.context_projection.bias, torch.zeros(32))
    assert 0.018 < second.prompt.std().item() < 0.022


def test_a_context_document_enters_as_a_word_does():
    """BERT adds position and token type to whatever enters; the projection takes them away beforehand."""
    second = model_of().second_stage
    second.enter_like_words()
    embeddings = second.backbone.embeddings
    expected = -(embeddings.position_embeddings.weight[0] + embeddings.token_type_embeddings.weight[0])
    torch.testing.assert_close(second.context_projection.bias, expected)
    torch.testing.assert_close(second.context_projection.bias, -input_offset(second.backbone))
    assert input_offset(second.backbone.to("meta")).is_meta  # on whatever device the backbone is


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("text", [0, 0, 0, 0, 0, 0, 1, 2]),
        ("prompt_and_text", [0, 0, 0, 3, 4, 5, 6, 7]),
        ("sequence", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_positions_of_three_documents_two_prompt_tokens_and_three_of_text(positions, expected):
    second = model_of(positions=positions).second_stage
    assert second._positions(5, 3, torch.device("cpu")).tolist() == [expected]


def test_a_state_embeds_in_a_copy_of_the_model_that_has_prepared_none():
    one, other = model_of("cached").second_stage, model_of("cached").second_stage
    ids, mask = texts()
    with torch.no_grad():
        state = one.prepare(Evidence(5, torch.randn(5, 32), None))
        torch.testing.assert_close(other(ids, mask, state), one(ids, mask, state))
    assert len(state) == 2 * 3 + 1
    assert state[0].shape == (1, 4, 5 + 2, 8)
    with torch.no_grad():
        torch.testing.assert_close(state[-1], one.gate - torch.tensor(7.0).log())
