"""Long texts as overlapping windows: which windows, what their vectors become, and that it makes another model."""

import json
import warnings

import numpy as np
import pytest
from tokenizers import Tokenizer

from cde_retriever.checkpoint.reading import Reading
from cde_retriever.cli.main import main
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.windows import Windows
from cde_retriever.errors import CheckpointError, ConfigError, ContextMismatchError
from cde_retriever.llama_index import CDEEmbedding
from tests.plain_models import PROMPTS, save_model
from tests.tiny import WORDS, documents, tiny_checkpoint

LENGTH = 24
"""Tokens of a window: two special ones, a prompt of at most three, the others words."""


def test_windows_cover_a_text_and_overlap():
    text = [101, 7, *range(1000, 1040), 102]  # a special token, a prompt, 40 words, a special token
    windows = Windows.of([[101, 7, 102], text], 19, 2, 1)  # 16 words a window, 2 of them shared
    assert windows.ids == [
        [101, 7, 102],
        [101, 7, *range(1000, 1016), 102],
        [101, 7, *range(1014, 1030), 102],
        [101, 7, *range(1028, 1040), 102],
    ]
    assert windows.starts.tolist() == [0, 1]
    assert len(Windows.of([text[:18] + text[-1:]], 19, 2, 1).ids) == 1
    assert [len(row) for row in Windows.of([text[:19] + text[-1:]], 19, 2, 1).ids] == [19, 6]


def test_vectors_are_joined_by_their_tokens():
    windows = Windows([[1] * 4, [1] * 4, [1] * 1, []], np.array([0, 2, 3]))
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 0]], np.float32)
    assert np.allclose(windows.join(vectors), [[0.5**0.5, 0.5**0.5], [0.6, 0.8], [0, 0]])
    uneven = Windows([[1] * 3, [1] * 1], np.array([0]))
    assert np.allclose(uneven.join(vectors[:2]), [[3 / 10**0.5, 1 / 10**0.5]])


def opened(folder, **said):
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu", max_length=LENGTH, **said)
    encoder.set_context(encoder.null_context())
    return encoder


@pytest.mark.parametrize("tokenizer", ["wordpiece", "unigram"])
@pytest.mark.parametrize("role", ["query", "document"])
def test_a_long_text_is_the_mean_of_its_windows(tmp_path, tokenizer, role):
    save_model(tmp_path, tokenizer=tokenizer, pooling="cls", prompts=PROMPTS)
    cut, whole = (opened(tmp_path / "model", long_texts=way) for way in (None, "windows"))
    words = (WORDS * 4)[:50]
    around = len(cut.tokenize(["baron"], role).ids[0]) - 1
    room = LENGTH - around
    step = room - room // 8
    parts = [" ".join(words[i : i + room]) for i in range(0, len(words) - room // 8, step)]
    weights = [around + len(part.split()) for part in parts]
    encode = "encode_queries" if role == "query" else "encode_documents"
    expected = np.average(getattr(cut, encode)(parts, parts="dense"), axis=0, weights=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is cut
        found = getattr(whole, encode)([" ".join(words), parts[0]], parts="dense")
    assert len(parts) > 2
    assert np.abs(found[0] - expected / np.linalg.norm(expected)).max() < 1e-6
    assert np.abs(found[1] - getattr(cut, encode)(parts[:1], parts="dense")[0]).max() < 1e-6


def test_it_is_another_model(tmp_path):
    save_model(tmp_path)
    cut, whole = (opened(tmp_path / "model", long_texts=way) for way in (None, "windows"))
    assert cut.identity.sha256 != whole.identity.sha256
    with pytest.raises(ContextMismatchError):
        whole.set_context(cut.fit_context(documents(9)))
    saved = ContextualEncoder.from_pretrained(whole.save_pretrained(tmp_path / "saved"))
    assert saved.identity.sha256 == whole.identity.sha256
    assert saved.config.long_texts == "windows"
    written = cut.save_pretrained(tmp_path / "written")
    changed = ContextualEncoder.from_pretrained(written, long_texts="windows")
    again = ContextualEncoder.from_pretrained(changed.save_pretrained(tmp_path / "again"))
    assert again.identity.sha256 == changed.identity.sha256 != cut.identity.sha256
    assert again.config.long_texts == "windows"


@pytest.mark.usefixtures("exports")
def test_exports_and_adapters_read_windows(tmp_path):
    pytest.importorskip("onnxruntime")
    save_model(tmp_path)
    written = opened(tmp_path / "model").save_pretrained(tmp_path / "written")
    text = " ".join(WORDS * 3)
    encoder = ContextualEncoder.from_pretrained(written, long_texts="windows", backend="onnx")
    embedding = CDEEmbedding(str(written), long_texts="windows", device="cpu")
    embedding.fit([*documents(9), text])
    encoder.set_context(embedding.context)
    assert np.abs(encoder.encode_documents([text])[0] - embedding.get_text_embedding(text)).max() < 1e-5
    assert CDEEmbedding(str(written), device="cpu").encoder.identity.sha256 != encoder.identity.sha256


def test_the_command_embeds_windows(tmp_path, capsys):
    save_model(tmp_path)
    texts = [*documents(20), " ".join(WORDS * 9)]
    (tmp_path / "c.jsonl").write_text(
        "".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(texts))
    )
    said = ["embed", str(tmp_path / "c.jsonl"), "-o", str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    assert main([*said, "--long-texts", "windows", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["cut"] == 0
    assert main([*said, "--device", "cpu"]) == 1  # another model's folder


def test_what_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="long_texts is 'drop', expected 'cut' or 'windows'"):
        Reading(long_texts="drop")
    with pytest.raises((ConfigError, CheckpointError), match="long_texts is 'windows', which needs a corpus_head"):
        ContextualEncoder.from_pretrained(tiny_checkpoint(tmp_path / "tiny"), long_texts="windows")
    save_model(tmp_path, prompts=PROMPTS)
    with pytest.raises(ConfigError, match=r"max_length is 5, but prompt and special tokens of a query are \d+; leave"):
        ContextualEncoder.from_pretrained(tmp_path / "model", max_length=5, long_texts="windows").tokenize(["a"])


def test_very_long_texts_are_read_to_their_end(tmp_path):
    save_model(tmp_path)
    encoder = opened(tmp_path / "model", long_texts="windows")
    text = " ".join(["baron"] * 3000)
    assert len(encoder.tokenize([text]).ids[0]) == 3002
    assert isinstance(encoder.tokenizer, Tokenizer)
