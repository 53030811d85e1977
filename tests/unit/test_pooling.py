"""Pooling in every way, and projections, against sentence-transformers' own modules."""

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import import_from_string

from cde_retriever.errors import ConfigError
from cde_retriever.model.config import POOLINGS, ModelConfig
from cde_retriever.model.pooling import after_token, pool
from cde_retriever.model.projection import ACTIVATIONS, Projection
from tests.tiny import tiny_backbone, tiny_encoder

HIDDEN = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
LENGTHS = (7, 4, 3)


def mask_of(prompt=0):
    mask = torch.zeros(3, 7, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    mask[:, :prompt] = 2
    return mask


@pytest.mark.parametrize("prompt", [0, 2])
@pytest.mark.parametrize("ways", [*((way,) for way in POOLINGS), ("cls", "mean", "max")])
def test_pooling_is_that_of_sentence_transformers(ways, prompt):
    theirs = Pooling(4, ways, include_prompt=not prompt)(
        {"token_embeddings": HIDDEN, "attention_mask": (mask_of() > 0).long(), "prompt_length": prompt}
    )["sentence_embedding"]
    assert torch.allclose(pool(HIDDEN, mask_of(prompt), ways), theirs, atol=1e-6)


@pytest.mark.parametrize("way", ["mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_a_text_without_tokens_has_a_zero_mean(way):
    assert pool(HIDDEN, torch.zeros(3, 7, dtype=torch.long), (way,)).abs().max() == 0


@pytest.mark.parametrize(
    ("way", "expected"), [("mean", 100.0), ("mean_sqrt_len_tokens", 100 * 1000**0.5), ("weightedmean", 100.0)]
)
def test_half_precision_is_summed_in_full(way, expected):
    """A thousand tokens of 100 each: their sum is beyond what float16 holds."""
    hidden, mask = torch.full((1, 1000, 2), 100, dtype=torch.float16), torch.ones(1, 1000, dtype=torch.long)
    pooled = pool(hidden, mask, (way,))
    assert pooled.dtype == torch.float16
    assert pooled[0].tolist() == pytest.approx([expected] * 2, rel=1e-3)
    assert pool(hidden.double(), mask, (way,)).dtype == torch.float64


def test_what_stands_up_to_a_token_is_masked_where_a_text_has_it():
    ids = torch.tensor(
        [
            [5, 1, 9, 2, 9, 3],  # after the first 9; the second is a token like any other
            [9, 1, 2, 3, 4, 0],  # at place 0 it marks nothing
            [9, 9, 2, 3, 0, 0],
            [5, 1, 2, 3, 9, 9],  # in the padding it marks nothing either
            [5, 1, 2, 3, 4, 9],  # nothing is left
        ]
    )
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1] * 6, [1, 1, 2, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1] * 6])
    assert after_token(ids, mask, 9).tolist() == [
        [0, 0, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [0, 0, 2, 1, 1, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert after_token(ids, mask, 9).dtype == mask.dtype
    assert ids[1, 0] == 9, "its input is left as it was"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", [4, 6])
@pytest.mark.parametrize("residual", [False, True])
def test_dense_layers_are_those_of_sentence_transformers(activation, outputs, residual):
    from sentence_transformers.base.modules import Dense

    torch.manual_seed(0)
    function = import_from_string(f"torch.nn.{ACTIVATIONS[activation].__name__}")()
    theirs = Dense(4, outputs, bias=outputs == 4, activation_function=function, use_residual=residual)
    layer = {"kind": "dense", "inputs": 4, "outputs": outputs, "bias": outputs == 4}
    ours = Projection([{**layer, "activation": activation, "residual": residual}, {"kind": "normalize"}])
    ours.load_state_dict({f"0.{name}": tensor for name, tensor in theirs.state_dict().items()})
    expected = torch.nn.functional.normalize(theirs({"sentence_embedding": HIDDEN[:, 0]})["sentence_embedding"], dim=-1)
    assert torch.allclose(ours(HIDDEN[:, 0]), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": ("median",)}, "pooling is .'median'., expected some of cls"),
        ({"pooling": ()}, "pooling is .., expected some of cls"),
        ({"projection": ({"kind": "conv"},)}, "layer 0 of projection is .'kind': 'conv'., expected one of dense"),
        ({"pooling": ("cls", "mean"), "context_attention": "cached"}, "pooling has 2 parts, which needs .* 'late'"),
        ({"pool_prompt": False, "context_attention": "joint"}, "pool_prompt is false, which needs .* 'late'"),
    ],
)
def test_unknown_pooling_is_refused(settings, message):
    backbone = tiny_backbone("bert", 100)
    late = {"context_attention": "late", "context_projection": False}
    with pytest.raises(ConfigError, match=message):
        ModelConfig(name="x", first_stage=backbone, second_stage=backbone, **(late | settings))


def test_what_is_at_its_default_is_not_written():
    encoder = tiny_encoder("bert", context_attention="late")
    assert not {"pooling", "pool_prompt", "projection"} & encoder.config.to_dict().keys()
    other = tiny_encoder("bert", context_attention="late", pooling=("cls",))
    assert other.config.to_dict()["pooling"] == ("cls",)
    assert ModelConfig.from_dict({**other.config.to_dict(), "pooling": ["cls"]}) == other.config
    assert other.identity.sha256 != encoder.identity.sha256
