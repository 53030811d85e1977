"""Settings are checked by their types, all at once, and nothing is converted but a list to a tuple."""

from typing import get_args, get_type_hints

import pytest

from cde_retriever.errors import ConfigError
from cde_retriever.model.config import CONTEXT_ATTENTIONS
from cde_train.data.pseudo_queries import PseudoQueryConfig
from cde_train.run.sections import ModelSection
from cde_train.training.config import HEAD, StartConfig, TrainConfig


def test_every_fault_of_a_section_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        TrainConfig(steps=-1, batch_size=1, null_rate=1.5, temperature=float("nan"), precision="fp8", patience=2)
    assert error.value.faults == (
        "steps is -1, expected at least 0",
        "batch_size is 1, expected at least 2",
        "null_rate is 1.5, expected at most 1",
        "temperature is nan, expected a finite number",
        "precision is 'fp8', expected 'fp32' or 'bf16'",
        "patience is 2 but eval_steps is 0, so nothing is measured; set eval_steps, or patience to 0",
    )


@pytest.mark.parametrize("value", ["tensorboard", "t"])
def test_a_string_is_no_list_of_letters(value):
    with pytest.raises(ConfigError, match=f"report_to is '{value}', but should be a valid array"):
        TrainConfig(report_to=value)
    with pytest.raises(ConfigError, match="generators is 'lead', but should be a valid array"):
        PseudoQueryConfig(generators="lead")


def test_a_list_stands_for_a_tuple_and_text_for_no_number():
    assert TrainConfig(context_sizes=[2, 4]).context_sizes == (2, 4)
    with pytest.raises(ConfigError, match="steps is '3', but should be a valid integer"):
        TrainConfig(steps="3")


def test_a_start_is_of_any_layout_that_a_model_has_or_has_a_head():
    annotation = get_type_hints(StartConfig)["context_attention"]
    assert annotation == get_type_hints(ModelSection)["context_attention"]
    assert get_args(annotation) == (HEAD, *CONTEXT_ATTENTIONS)


def test_the_start_is_checked_by_the_model_it_makes():
    with pytest.raises(ConfigError, match="prompt_tokens is 3, which context_attention 'late' needs to be 0"):
        StartConfig("x", context_attention="late", prompt_tokens=3)
