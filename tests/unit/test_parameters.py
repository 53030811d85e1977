"""Which parameters are trained, at what rate and with what decay, in every layout."""

import pytest

from cde_retriever.errors import ConfigError
from cde_train.training.config import TrainConfig
from cde_train.training.parameters import parameter_groups, prepare_parameters
from tests.tiny import tiny_encoder

RATES = {"learning_rate": 0.1, "new_learning_rate": 0.2, "gate_learning_rate": 0.3, "weight_decay": 0.4}
MATRIX, VECTOR, NEW, GATE = (0.1, 0.4), (0.1, 0.0), (0.2, 0.0), (0.3, 0.0)
"""Rate and decay of matrices and of vectors of a backbone, of what is new, of a gate or a late head."""


def groups_of(layout, **settings):
    """Return rate and decay of each parameter that is trained, by name, after training was prepared."""
    model = tiny_encoder(context_attention=layout["layout"], **{k: v for k, v in layout.items() if k != "layout"})
    model = model.open_model()
    config = TrainConfig(**RATES, **settings)
    prepare_parameters(model, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in parameter_groups(model, config):
        assert set(group) == {"params", "lr", "weight_decay"}
        for parameter in group["params"]:
            assert names[id(parameter)] not in found, "a parameter is in two groups"
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert found.keys() == {n for n, p in model.named_parameters() if p.requires_grad and p.numel()}
    return found


CACHED = {"layout": "cached", "output_head": "mlp"}
LATE = {"layout": "late", "term_statistics": True, "sketch_width": 8}


def test_rates_and_decay_by_kind():
    found = groups_of(CACHED, train_first_stage=True)
    expected = {
        "second_stage.gate": GATE,
        "second_stage.prompt": NEW,
        "second_stage.null_context": NEW,
        "second_stage.context_projection.weight": NEW,
        "second_stage.context_projection.bias": NEW,
        "second_stage.output_head.mlp.0.weight": NEW,
        "second_stage.output_head.mlp.2.bias": NEW,
        "second_stage.backbone.embeddings.word_embeddings.weight": MATRIX,
        "second_stage.backbone.embeddings.LayerNorm.weight": VECTOR,
        "second_stage.backbone.encoder.layer.1.attention.self.query.weight": MATRIX,
        "second_stage.backbone.encoder.layer.1.attention.self.query.bias": VECTOR,
        "first_stage.backbone.encoder.layer.0.intermediate.dense.weight": MATRIX,
        "first_stage.backbone.encoder.layer.0.intermediate.dense.bias": VECTOR,
    }
    assert {name: found[name] for name in expected} == expected
    assert set(found.values()) == {MATRIX, VECTOR, NEW, GATE}


def test_the_numbers_of_a_late_head_move_at_the_gate_s_rate():
    found = groups_of(LATE)
    heads = {name: rates for name, rates in found.items() if ".backbone." not in name}
    assert {name.split(".")[1] for name in heads} == {"moment_head", "term_head"}
    assert set(heads.values()) == {GATE}


DENSE = {"kind": "dense", "inputs": 32, "outputs": 16, "bias": True, "activation": "tanh", "residual": False}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("settings", [{}, {"train_backbone": False}, {"lora_rank": 2}])
def test_the_layers_after_pooling_of_a_plain_encoder_are_trained_as_its_backbone_is(shared, settings):
    layout = LATE | {"context_moments": False, "share_backbone": shared, "projection": (DENSE,)}
    found = {name: rates for name, rates in groups_of(layout, **settings).items() if ".projection." in name}
    linear = "second_stage.projection.0.linear."
    trained = {f"{linear}weight": MATRIX, f"{linear}bias": VECTOR}
    assert found == ({} if settings.get("train_backbone") is False else trained)


@pytest.mark.parametrize(
    ("layout", "settings", "first", "second"),
    [
        (CACHED, {}, False, True),
        (CACHED, {"train_first_stage": True}, True, True),
        (CACHED, {"train_backbone": False}, False, False),
        (CACHED, {"train_backbone": False, "train_first_stage": True}, True, False),
        (LATE | {"context_moments": False, "share_backbone": True}, {}, False, True),
        (LATE | {"context_moments": False, "share_backbone": True}, {"train_backbone": False}, False, False),
        (LATE | {"share_backbone": True}, {"train_backbone": False}, False, False),
    ],
)
def test_what_is_not_trained_is_frozen(layout, settings, first, second):
    """Of an encoder that is both stages, names are the second stage's, or the first's if that comes first."""
    found = groups_of(layout, **settings)
    backbones = {name.split(".")[0] for name in found if ".backbone." in name}
    assert backbones == {stage for stage, on in (("first_stage", first), ("second_stage", second)) if on}
    assert any(".backbone." not in name for name in found), "the heads are trained whatever else is"


def test_word_embeddings_that_both_stages_share_are_frozen_with_the_first():
    words = "second_stage.backbone.embeddings.word_embeddings.weight"
    tied = CACHED | {"share_word_embeddings": True}
    assert words not in groups_of(tied)
    assert words in groups_of(tied, train_first_stage=True)
    assert words in groups_of(CACHED)


def test_low_rank_updates_move_as_the_backbone_does_and_what_they_update_is_frozen():
    found = groups_of(CACHED, lora_rank=2, lora_alpha=6)
    backbone = {name: rates for name, rates in found.items() if ".backbone." in name}
    assert backbone
    assert all(".lora_" in name for name in backbone)
    assert set(backbone.values()) == {MATRIX}
    assert found["second_stage.gate"] == GATE
    model = tiny_encoder().open_model()
    prepare_parameters(model, TrainConfig(lora_rank=2, lora_alpha=6))
    layer = model.second_stage.backbone.encoder.layer[0].intermediate.dense
    assert layer.scaling == {"default": 3.0}


def test_everything_that_is_trained_needs_a_gradient_again():
    model = tiny_encoder().open_model().requires_grad_(False)
    prepare_parameters(model, TrainConfig(train_first_stage=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_settings_that_do_not_go_with_the_model_are_refused_by_name():
    model = tiny_encoder(context_attention="late").open_model()
    with pytest.raises(ConfigError, match=r"^train_first_stage is true, but the model's context_attention is 'late'"):
        prepare_parameters(model, TrainConfig(train_first_stage=True))
