"""A spec takes what users pass, and is the same value for the same thing."""

from pathlib import Path

import pytest
import torch

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.errors import ConfigError


def test_paths_devices_and_dtypes_become_their_names():
    spec = ModelSpec.of(Path("a") / "b", revision="v1", device=torch.device("cuda", 1), dtype=torch.bfloat16)
    assert spec == ModelSpec("a/b", "v1", "cuda:1", "bfloat16", None, None)
    assert hash(spec) == hash(ModelSpec.of("a/b", revision="v1", device="cuda:1", dtype="bfloat16"))
    assert ModelSpec.of() == ModelSpec(None, None, None, None, None, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "onxx"}, "backend is 'onxx', expected 'torch', 'onnx', 'openvino'"),
        ({"truncate_dim": 0}, "truncate_dim must be at least 1, received 0"),
    ],
)
def test_what_fits_no_model_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        ModelSpec(**values)
