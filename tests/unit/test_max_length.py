"""`max_length=` on a CDE checkpoint reads longer or shorter texts, up to what it can, and makes another model."""

import numpy as np
import pytest

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, ContextMismatchError
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.llama_index import CDEEmbedding
from tests.plain_models import save_model
from tests.tiny import WORDS, documents, tiny_checkpoint

LONG = " ".join((WORDS * 5)[:60])


def opened(folder, **said):
    return ContextualEncoder.from_pretrained(folder, device="cpu", **said)


@pytest.fixture
def written(tmp_path):
    """Return a CDE checkpoint of texts up to 12 tokens, made from the encoder in the folder ``model``."""
    save_model(tmp_path)
    return opened(tmp_path / "model", max_length=12).save_pretrained(tmp_path / "written")


def test_it_reads_as_much_as_was_said(written):
    longer, fresh = opened(written, max_length=40), opened(written.parent / "model", max_length=40)
    for encoder in (longer, fresh):
        encoder.set_context(encoder.null_context())
    assert len(longer.tokenize([LONG]).ids[0]) == 40
    assert np.array_equal(*(encoder.encode_documents([LONG], parts="dense") for encoder in (longer, fresh)))


def test_it_is_another_model(written):
    own, longer = opened(written), opened(written, max_length=40)
    assert longer.identity.max_length == 40
    assert longer.identity.sha256 == opened(written, max_length=40).identity.sha256 != own.identity.sha256
    assert longer.identity.sha256 != opened(written, max_length=41).identity.sha256
    with pytest.raises(ContextMismatchError, match=r"max_length 12, this is .* with max_length 40"):
        longer.set_context(own.fit_context(documents(9)))
    again = opened(longer.save_pretrained(written.parent / "again"))
    assert (again.identity.sha256, again.config.max_length) == (longer.identity.sha256, 40)


def test_its_own_length_changes_nothing(written):
    assert opened(written, max_length=12).identity == opened(written).identity


def test_it_goes_with_windows(written):
    longer = opened(written, max_length=40, long_texts="windows")
    one_of = (opened(written, max_length=40), opened(written, long_texts="windows"))
    assert longer.identity.sha256 not in {encoder.identity.sha256 for encoder in one_of}
    assert (longer.config.max_length, longer.config.long_texts) == (40, "windows")


@pytest.mark.usefixtures("exports")
def test_exports_and_adapters_read_it(written):
    pytest.importorskip("onnxruntime")
    text = " ".join(LONG.split()[:30])
    encoder = opened(written, max_length=40, backend="onnx")
    embedding = CDEEmbedding(str(written), max_length=40, device="cpu")
    embedding.fit([*documents(9), text])
    encoder.set_context(embedding.context)
    assert np.abs(encoder.encode_documents([text])[0] - embedding.get_text_embedding(text)).max() < 1e-5
    of_langchain = CDEEmbeddings(model_name=str(written), max_length=40, device="cpu", context=embedding.context)
    assert np.allclose(of_langchain.embed_documents([text]), embedding.get_text_embedding(text), atol=1e-6)


@pytest.mark.parametrize(
    ("layout", "longest"),
    [
        ({"context_attention": "joint", "positions": "text"}, 512),
        ({"context_attention": "joint", "positions": "prompt_and_text", "prompt_tokens": 3}, 512 - 8 - 3),
    ],
)
def test_more_than_it_can_read_is_refused(tmp_path, layout, longest):
    folder = tiny_checkpoint(tmp_path / "tiny", context_size=8, **layout)
    assert opened(folder, max_length=longest).config.max_length == longest
    with pytest.raises(ConfigError, match=rf"max_length is {longest + 1}, but .*tiny reads {longest} tokens at most"):
        opened(folder, max_length=longest + 1)
