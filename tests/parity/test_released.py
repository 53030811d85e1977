"""The authors' released networks as the loader computes them equal the specification written out, all variants."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cde_retriever.checkpoint.released import MODERN, NOMIC, NULL, VARIANTS
from tests.parity.released_reference import context_vector, text_vector
from tests.tiny import documents
from tests.unit.test_released import TINY, folder, opened  # noqa: F401 - a fixture

TEXTS = ["baron kolak", "misim: ludor zevex ratul : tinol", "x", "baron kolak misim ludor zevex ratul tiron " * 3]


@pytest.mark.parametrize("role", ["query", "document"])
def test_every_variant_is_what_is_specified(folder, role):  # noqa: F811
    version = folder.name[-2:]
    embedder = NOMIC if version == "v1" else MODERN
    source = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    for name, variant in VARIANTS[embedder].items():
        encoder = opened(folder, name)
        context = encoder.list_context(documents(12))
        colon = encoder.tokenizer.encode(": ", add_special_tokens=False).ids[0]
        sizes = TINY[embedder]
        read = encoder.tokenize(context.texts, "document").ids
        rows = torch.stack([context_vector(source, sizes, version, ids) for ids in read])
        assert np.abs(context.vectors - rows.numpy()).max() < 1e-5 * float(rows.abs().max())
        contexts = {context: rows}
        if version == "v1":
            contexts[encoder.null_context()] = source[NULL].repeat(12, 1)
        for used, vectors in contexts.items():
            encoder.set_context(used)
            found = getattr(encoder, "encode_queries" if role == "query" else "encode_documents")(TEXTS)
            for ids, vector in zip(encoder.tokenize(TEXTS, role).ids, found, strict=True):
                first = 0 if variant.whole_text or colon not in ids[1:] else ids.index(colon, 1) + 1
                expected = text_vector(source, sizes, version, vectors, ids, variant, first)
                assert np.abs(vector - expected.numpy()).max() < 1e-5
