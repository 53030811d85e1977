"""The public API of `ContextualEncoder`."""

import copy
import itertools
import pickle
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from cde_retriever import (
    CheckpointError,
    ConfigError,
    Context,
    ContextError,
    ContextMismatchError,
    ContextNotFittedError,
    ContextualEncoder,
    TruncationWarning,
)
from cde_retriever.backends.pytorch import as_dtype
from cde_retriever.cli.main import main as cde
from cde_retriever.encoder.batches import batches_of
from tests.tiny import documents, headed_encoder, plain_encoder, tiny_encoder

AWKWARD = ["", " ", "\n\t", "x", "😀", "日本語", "a\x00b", "baron " * 400, "normal text"]


def test_encoding_without_context_raises(encoder) -> None:
    for call in (encoder.encode_documents, encoder.encode_queries):
        with pytest.raises(ContextNotFittedError, match="fit_context"):
            call(["text"])
    with pytest.raises(ContextNotFittedError, match="null_context"):
        _ = encoder.context
    assert not encoder.has_context
    assert encoder.dimension == 32


def test_vectors_are_unit_float32_in_input_order(encoder) -> None:
    encoder.fit_context(documents(40))
    texts = documents(23, words=40)
    vectors = encoder.encode_documents(texts, batch_size=4)
    assert vectors.shape == (23, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for i in (0, 7, 22):
        np.testing.assert_allclose(encoder.encode_documents([texts[i]])[0], vectors[i], atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "nomic_bert", "modernbert"])
def test_awkward_texts_give_finite_unit_vectors(family: str) -> None:
    encoder = tiny_encoder(family)
    encoder.fit_context(documents(40))
    with pytest.warns(TruncationWarning, match="1 of 9 texts are longer than 64 tokens"):
        vectors = encoder.encode_documents(AWKWARD)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_queries(AWKWARD[:3]), vectors[:3], atol=1e-5)


def test_copies_embed_alike_and_have_a_context_of_their_own(tmp_path):
    folder = headed_encoder().save_pretrained(tmp_path / "model")
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu", truncate_dim=20)
    encoder.fit_context(documents(20))
    expected = encoder.encode_documents(documents(5, seed=1))
    one = pickle.loads(pickle.dumps(encoder))
    for copied in (copy.copy(encoder), copy.deepcopy(encoder), one):
        np.testing.assert_allclose(copied.encode_documents(documents(5, seed=1)), expected, atol=1e-6)
    assert not pickle.loads(pickle.dumps(encoder.fork(truncate_dim=9))).has_context
    copied = copy.deepcopy(encoder)
    copied.fit_context(documents(20, seed=3))
    assert encoder.context.fingerprint == one.context.fingerprint != copied.context.fingerprint
    assert copied.backend is encoder.backend
    encoder.open_model()
    for unknown in (encoder, headed_encoder()):
        with pytest.raises(TypeError, match="is in memory alone, so it cannot be pickled; write it with save_"):
            pickle.dumps(unknown)


def test_a_prompt_that_leaves_no_room_for_a_text_is_refused(tmp_path):
    """All queries would be one vector."""
    folder = plain_encoder(tmp_path / "plain")
    settings = {"pooling": "mean", "device": "cpu", "prompts": {"query": "baron kolak ", "document": ""}}
    small = ContextualEncoder.from_pretrained(folder, max_length=4, **settings)
    with pytest.raises(ConfigError, match="max_length is 4, but prompt and special tokens of a query are 4; leave"):
        small.encode_under(["baron"], "query", [small.null_context()])
    asked = [str(folder), "-o", str(tmp_path / "out"), "--pooling", "mean", "--query-prompt", "baron kolak "]
    assert cde(["wrap", *asked, "--max-length", "4"]) == 2
    assert not (tmp_path / "out").exists()
    assert cde(["wrap", *asked, "--max-length", "5"]) == 0
    enough = ContextualEncoder.from_pretrained(folder, max_length=5, **settings)
    assert enough.tokenize(["misim", "ludor"], "query").truncated == []


def test_empty_list_gives_an_empty_array(encoder) -> None:
    encoder.fit_context(documents(40))
    assert encoder.encode_documents([]).shape == (0, 32)
    assert encoder.encode_queries([]).shape == (0, 32)


def test_megabyte_texts_are_cut_and_counted(encoder) -> None:
    encoder.fit_context(documents(40))
    long = "baron kolak " * 90_000
    assert len(long) > 1_000_000
    with pytest.warns(
        TruncationWarning, match=r"2 of 3 texts are longer than 64 tokens .*\(the first is text 1\)"
    ) as told:
        vectors = encoder.encode_documents(["short", long, long + "x"])
    warning = pickle.loads(pickle.dumps(told[0].message))
    assert (warning.indices, warning.texts, warning.max_length) == ((1, 2), 3, 64)
    assert str(warning) == str(told[0].message)
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6)


def test_a_context_document_is_cut_without_a_warning(encoder) -> None:
    long = ["baron kolak " * 90, "short"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.fit_context(long)
    with pytest.warns(TruncationWarning, match="1 of 2 texts are longer"):
        encoder.encode_first_stage(long)


def test_tokens_are_those_the_model_reads() -> None:
    encoder = tiny_encoder(prompts={"query": "baron ", "document": ""}, max_length=8)
    names = encoder.tokenizer.id_to_token
    found = encoder.tokenize(iter(["kolak", "kolak " * 9]), "query")
    assert [[names(token) for token in ids] for ids in found.ids] == [
        ["[CLS]", "baron", "kolak", "[SEP]"],
        ["[CLS]", "baron", *["kolak"] * 5, "[SEP]"],
    ]
    assert found.truncated == [1]
    assert encoder.tokenize(["kolak"]).ids == [found.ids[0][:1] + found.ids[0][2:]]
    assert [len(row) for row in encoder.text_tokenizer(4).tokenize(["kolak " * 9], "query").ids] == [4]


def test_texts_that_come_one_by_one_are_embedded_a_few_at_a_time_under_the_context_of_the_call():
    encoder, texts, read = tiny_encoder(prompts={"query": "ba: ", "document": "ko: "}), documents(7), []
    first = encoder.fit_context(documents(20))
    expected = {"embed": encoder.encode_documents(texts), "query_embed": encoder.encode_queries(texts)}
    for name, vectors in expected.items():
        encoder.set_context(first)
        stream = getattr(encoder, name)((read.append(text) or text for text in texts), batch_size=3)
        encoder.fit_context(documents(20, seed=1))
        rows = [next(stream)]
        assert len(read) == 3
        rows += stream
        assert np.allclose(rows, vectors, atol=1e-6)
        read.clear()
    encoder.set_context(first)
    assert np.allclose(list(encoder.embed(texts[0])), expected["embed"][:1], atol=1e-6)
    assert not np.allclose(expected["embed"], expected["query_embed"])


def test_a_stream_without_a_context_raises_when_it_is_asked_for(encoder):
    with pytest.raises(ContextNotFittedError):
        encoder.embed(["a"])


def test_wrong_types_name_the_index(encoder) -> None:
    encoder.fit_context(documents(40))
    with pytest.raises(TypeError, match="text 1 is NoneType, expected str"):
        encoder.encode_documents(["a", None])
    with pytest.raises(TypeError, match="text 0 is bytes"):
        encoder.encode_queries([b"a"])
    with pytest.raises(TypeError, match="received one str"):
        encoder.encode_queries("a query")
    with pytest.raises(ValueError, match="text 1 is not valid Unicode"):
        encoder.encode_documents(["a", "\ud800"])
    with pytest.raises(ValueError, match="batch_size must be at least 1, received 0"):
        encoder.encode_documents(["a"], batch_size=0)


def test_fit_takes_any_iterable_in_one_pass_and_sets_the_context(encoder) -> None:
    context = encoder.fit_context(iter(documents(40)), seed=3)
    assert encoder.context is context
    assert (context.size, context.documents_seen, context.seed) == (16, 40, 3)
    assert set(context.texts) <= set(documents(40))
    np.testing.assert_allclose(context.vectors, encoder.encode_first_stage(context.texts), atol=1e-6)


def test_fit_is_deterministic_and_blind_to_order_and_duplicates() -> None:
    corpus = documents(40)
    prints = set()
    for texts in (corpus, corpus[::-1], corpus * 2, [*corpus, "", " "]):
        prints.add(tiny_encoder().fit_context(texts).fingerprint)
    assert len(prints) == 1
    assert tiny_encoder().fit_context(corpus, seed=1).fingerprint not in prints


def test_any_corpus_size_works(encoder) -> None:
    for count, size in ((1, 1), (3, 3), (15, 15), (16, 16), (17, 16)):
        assert encoder.fit_context(documents(count)).size == size
        assert np.isfinite(encoder.encode_queries(["a query"])).all()
    assert encoder.fit_context(documents(40), context_size=4).size == 4


def test_failed_fit_leaves_the_old_context(encoder) -> None:
    context = encoder.fit_context(documents(40))
    with pytest.raises(ContextError, match="none of the 1 documents"):
        encoder.fit_context([" "])
    assert encoder.context is context


def test_prompts_tell_queries_from_documents() -> None:
    encoder = tiny_encoder(prompts={"query": "baron: ", "document": "kolak: "})
    encoder.fit_context(documents(40))
    query, document = encoder.encode_queries(["misim"]), encoder.encode_documents(["misim"])
    assert np.abs(query - document).max() > 1e-3
    bare = tiny_encoder()
    bare.set_context(bare.fit_context(documents(40)))
    assert np.abs(bare.encode_queries(["misim"]) - bare.encode_documents(["misim"])).max() == 0


def test_context_moves_between_encoders_of_one_checkpoint(tmp_path) -> None:
    first = tiny_encoder()
    folder = first.save_pretrained(tmp_path / "model")
    first.fit_context(documents(40)).save(tmp_path)
    texts = documents(7)
    second = ContextualEncoder.from_pretrained(folder, device="cpu")
    second.set_context(Context.load(tmp_path))
    np.testing.assert_array_equal(second.encode_documents(texts), first.encode_documents(texts))
    assert second.context.fingerprint == first.context.fingerprint


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"seed": 1}, "sha256 '[0-9a-f]{64}', this is 'tiny-bert' with sha256 '[0-9a-f]{64}'"),
        ({"max_length": 32}, "max_length 32, this is 'tiny-bert' with max_length 64"),
        ({"positions": "sequence"}, "ordered True, this is 'tiny-bert' with ordered False"),
        (
            {"prompts": {"query": "q", "document": ""}},
            "prompts {'query': 'q', 'document': ''}, this is 'tiny-bert' with",
        ),
    ],
)
def test_context_of_another_model_is_refused_and_the_difference_named(config: dict, what: str) -> None:
    encoder = tiny_encoder(context_attention="joint")
    context = tiny_encoder(context_attention="joint", **config).fit_context(documents(40))
    with pytest.raises(ContextMismatchError, match=f"{context.fingerprint[:12]} was made by model .* with {what}"):
        encoder.set_context(context)
    assert not encoder.has_context
    assert context.model.sha256 != encoder.identity.sha256, "the hash covers configuration and weights"


def test_what_is_no_context_is_refused(encoder) -> None:
    with pytest.raises(TypeError, match=r"received PosixPath; use Context\.load"):
        encoder.set_context(Path("x"))


def test_null_context_is_a_mode_with_a_fingerprint(encoder) -> None:
    null = encoder.null_context()
    encoder.set_context(null)
    alone = encoder.encode_documents(documents(5))
    assert null.size == 0
    assert null.fingerprint == tiny_encoder().null_context().fingerprint
    assert encoder.fit_context(documents(40)).fingerprint != null.fingerprint
    assert np.abs(encoder.encode_documents(documents(5)) - alone).max() > 1e-3


def test_null_context_is_stored_like_any_other(encoder, tmp_path) -> None:
    encoder.null_context().save(tmp_path)
    assert Context.load(tmp_path).fingerprint == encoder.null_context().fingerprint
    encoder.set_context(Context.load(tmp_path))
    assert encoder.encode_queries(["a"]).shape == (1, 32)


def test_stages_of_different_width(tmp_path) -> None:
    from tests.tiny import tiny_backbone, tiny_tokenizer

    narrow = tiny_backbone("bert", tiny_tokenizer().get_vocab_size(), hidden_size=16)
    encoder = tiny_encoder("nomic_bert", first_stage=narrow)
    context = encoder.fit_context(documents(40))
    assert context.vectors.shape == (16, 16)
    again = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "m"), device="cpu")
    again.set_context(context)
    np.testing.assert_allclose(again.encode_queries(["a"]), encoder.encode_queries(["a"]), atol=1e-6, rtol=0)


def test_threads_never_see_two_contexts(encoder) -> None:
    """Eight threads embed while a ninth changes the context; each result belongs to one context entirely."""
    contexts = [tiny_encoder().fit_context(documents(40, seed=seed)) for seed in (1, 2)]
    texts = documents(9)
    expected = []
    for context in contexts:
        encoder.set_context(context)
        expected.append(encoder.encode_documents(texts, batch_size=2))
    results: list[np.ndarray] = []

    def embed() -> None:
        for _ in range(5):
            results.append(encoder.encode_documents(texts, batch_size=2))

    threads = [threading.Thread(target=embed) for _ in range(8)]
    for thread in threads:
        thread.start()
    for i in range(40):
        encoder.set_context(contexts[i % 2])
    for thread in threads:
        thread.join()
    assert len(results) == 40
    for result in results:
        assert min(np.abs(result - e).max() for e in expected) < 1e-5


def test_progress_goes_to_stderr_and_only_when_asked(encoder, capsys) -> None:
    encoder.fit_context(documents(40))
    encoder.encode_documents(documents(5))
    assert capsys.readouterr().err == ""
    encoder.encode_documents(documents(5), show_progress=True)
    captured = capsys.readouterr()
    assert "5/5" in captured.err
    assert captured.out == ""


def test_a_bar_says_what_is_embedded(encoder, capsys) -> None:
    texts = documents(80)  # few queries show no bar
    context = encoder.fit_context(texts, show_progress=True)
    encoder.encode_documents(texts, show_progress=True)
    encoder.encode_queries(texts, show_progress=True)
    encoder.encode_first_stage(texts, role="query", show_progress=True)
    encoder.encode_under(texts, "document", [context], show_progress=True)
    lines = capsys.readouterr().err.splitlines()
    of = ["the context", "documents", "queries", "queries", "documents"]
    assert [line.split(":")[0] for line in lines] == [f"Embedding {what}" for what in of]


def test_unknown_checkpoint_is_a_clear_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="'no/such-model' is no folder"):
        ContextualEncoder.from_pretrained("no/such-model")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        ContextualEncoder.from_pretrained(tmp_path)


def test_dtype_names() -> None:
    assert as_dtype("bfloat16") is as_dtype(torch.bfloat16) is torch.bfloat16
    assert as_dtype(None) is None
    with pytest.raises(ValueError, match="'int8', expected one of float32"):
        as_dtype("int8")


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_hold_every_text_once_and_about_as_many_tokens(batch_size):
    lengths = [0, 3, 700, 128, 1, 64, 500, *[5] * 300, *range(20, 60)]
    batches = list(batches_of([[7] * length for length in lengths], batch_size))
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert [lengths[row] for rows in batches for row in rows] == sorted(lengths, reverse=True)
    for rows, after in itertools.pairwise(batches):
        longest = lengths[rows[0]]
        assert len(rows) * longest <= batch_size * 128 or len(rows) == 1
        assert len(rows) <= batch_size * 4
        padding = sum(longest - lengths[row] for row in rows)
        assert padding <= max(48, len(rows) * longest / 8)
        more = padding + longest - lengths[after[0]], (len(rows) + 1) * longest
        full = more[1] > batch_size * 128 or len(rows) == batch_size * 4
        assert full or more[0] > max(48, more[1] / 8), "another text would have fitted"
