"""Embedding texts once: kept, resumed after a kill, refused when damaged."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from cde_retriever.context.sampling import hash_text
from cde_train.errors import ArtifactError, TrainingDataError
from cde_train.vectors import text_vectors
from cde_train.vectors.surrogate import BATCHES_A_CHUNK, embed_texts, load_surrogate, surrogate_identity
from cde_train.vectors.text_vectors import TextVectors

TEXTS = [f"{'word ' * (i % 5)}text {i}" for i in range(3 * BATCHES_A_CHUNK + 7)]  # at batch size 1: three chunks, and 7


class CountingSurrogate:
    """Vectors one can read off: (length, number of the letter e, 1)."""

    def __init__(self, width=3):
        self.seen, self.width = [], width

    def encode(self, sentences, **_):
        self.seen.append(list(sentences))
        rows = [[len(text), text.count("e"), *[1.0] * (self.width - 2)] for text in sentences]
        return np.array(rows, dtype=np.float32)

    @property
    def texts(self):
        return [text for call in self.seen for text in call]


def embed(texts, folder, surrogate=None, **options):
    options = {"identity": "counting", "show_progress": False, "batch_size": 1, **options}
    return embed_texts(texts, surrogate or CountingSurrogate(), folder, **options)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_vectors_are_unit_rows_in_order_of_first_appearance(tmp_path):
    vectors = embed(["eee", "a", "eee", "bee e"], tmp_path)
    expected = np.array([[3, 3, 1], [1, 0, 1], [5, 3, 1]], dtype=np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors.vectors, expected, atol=1e-7)
    assert (len(vectors), vectors.width, vectors.vectors.dtype) == (3, 3, np.float32)
    assert vectors.rows(["bee e", "eee", "eee"]).tolist() == [2, 0, 0]
    np.testing.assert_array_equal(vectors.take(["a", "eee"]), vectors.vectors[[1, 0]])
    with pytest.raises(ValueError, match="read-only"):
        vectors.vectors[0] = 0


def test_each_distinct_text_is_embedded_once_and_later_calls_append(tmp_path):
    first, second = CountingSurrogate(), CountingSurrogate()
    before = embed(["b", "a", "b"], tmp_path, first)
    after = embed(iter(["c", "a", "d", "c"]), tmp_path, second)
    assert sorted(first.texts) == ["a", "b"]
    assert sorted(second.texts) == ["c", "d"]
    assert after.rows(["b", "a", "c", "d"]).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(after.vectors[:2], before.vectors)
    assert len(TextVectors.open(tmp_path)) == 4


def test_chunks_are_bounded_and_sorted_by_length(tmp_path, monkeypatch):
    """Two chunks, of 64 and 39 texts, each sorted as a whole; a call has four batches, and then the bar moves."""
    moved = []
    monkeypatch.setattr("tqdm.std.tqdm.update", lambda _, n=1: moved.append(n))
    surrogate = CountingSurrogate()
    embed(TEXTS, tmp_path, surrogate, batch_size=2)
    calls = [len(call) for call in surrogate.seen]
    assert calls == [8] * 8 + [8] * 4 + [7]
    for chunk in (surrogate.texts[: 2 * BATCHES_A_CHUNK], surrogate.texts[2 * BATCHES_A_CHUNK :]):
        assert chunk == sorted(chunk, key=len, reverse=True)
    assert [n for n in moved if n] == calls


def test_a_text_without_a_vector_is_named(tmp_path):
    vectors = embed(["a"], tmp_path)
    with pytest.raises(TrainingDataError, match=r"1 of 2 texts have no vector .*'unknown'"):
        vectors.rows(["a", "unknown"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_unusable_vectors_name_their_text_and_leave_complete_chunks(tmp_path, bad):
    class Broken(CountingSurrogate):
        def encode(self, sentences, **_):
            found = super().encode(sentences)
            found[[i for i, text in enumerate(sentences) if text == TEXTS[40]]] *= bad
            return found

    with np.errstate(invalid="ignore"), pytest.raises(TrainingDataError, match=f"1 vectors .* text '{TEXTS[40]}'"):
        embed(TEXTS, tmp_path, Broken())
    assert len(TextVectors.open(tmp_path)) == BATCHES_A_CHUNK  # text 40 is in the second chunk


@pytest.mark.parametrize(
    ("returned", "shape"), [(np.ones(3), r"\(3,\)"), (np.ones((2, 4)), r"\(2, 4\)"), (np.ones((3, 0)), r"\(3, 0\)")]
)
def test_a_surrogate_returning_another_shape_is_refused(tmp_path, returned, shape):
    class Odd:
        def encode(self, _):
            return returned

    with pytest.raises(TrainingDataError, match=f"shape {shape} for 3 texts"):
        embed(["a", "b", "c"], tmp_path, Odd())


def test_a_plain_encode_method_is_enough_and_gets_the_prompt_in_its_texts(tmp_path):
    class Plain:
        def encode(self, sentences):
            self.given = sentences
            return [[float(len(text)), 1.0] for text in sentences]

    plain = Plain()
    embed(["a"], tmp_path, plain, prompt="query: ")
    assert plain.given == ["query: a"]


def test_a_named_prompt_argument_is_used(tmp_path):
    class Prompted:
        def encode(self, sentences, batch_size=32, prompt=None):
            self.given = (sentences, batch_size, prompt)
            return np.ones((len(sentences), 2))

    prompted = Prompted()
    embed(["a"], tmp_path, prompted, prompt="query: ", batch_size=5)
    assert prompted.given == (["a"], 5, "query: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"identity": "other"}, "surrogate 'counting' .* received 'other'"), ({"prompt": "q: "}, "received .* 'q: '")],
)
def test_vectors_of_another_surrogate_or_prompt_are_not_mixed(tmp_path, options, message):
    embed(["a"], tmp_path)
    with pytest.raises(ArtifactError, match=message):
        embed(["b"], tmp_path, **options)


def test_a_changed_width_is_refused_and_nothing_is_written(tmp_path):
    embed(["a"], tmp_path)
    before = files(tmp_path)
    with pytest.raises(ArtifactError, match="width 3, surrogate 'counting' now gives 4"):
        embed(["b"], tmp_path, CountingSurrogate(width=4))
    assert files(tmp_path) == before


@pytest.mark.parametrize("texts", ["one string", [b"bytes"], ["a", 3], [None]])
def test_anything_but_texts_is_refused(tmp_path, texts):
    with pytest.raises(TypeError, match=r"received one str|received (bytes|int|NoneType)"):
        embed(texts, tmp_path)


def test_texts_that_cannot_be_hashed_and_no_texts_are_refused(tmp_path):
    with pytest.raises(TrainingDataError, match="not valid Unicode"):
        embed(["\ud800"], tmp_path)
    with pytest.raises(TrainingDataError, match="no text was given"):
        embed([], tmp_path)
    with pytest.raises(ValueError, match="batch_size must be at least 1, received 0"):
        embed(["a"], tmp_path, batch_size=0)
    with pytest.raises(FileNotFoundError, match="embed the texts first"):
        TextVectors.open(tmp_path / "nowhere")


def test_killed_while_embedding_then_resumed(tmp_path):
    """The process is killed with signal 9 in the third chunk; the files end as those of an uninterrupted run."""
    code = f"""
        import os, signal
        from pathlib import Path
        from cde_train.vectors.surrogate import BATCHES_A_CALL, BATCHES_A_CHUNK
        from tests.unit.test_surrogate import TEXTS, CountingSurrogate, embed
        class Killed(CountingSurrogate):
            def encode(self, sentences, **_):
                if len(self.seen) == 2 * BATCHES_A_CHUNK // BATCHES_A_CALL + 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().encode(sentences)
        embed(TEXTS, Path({str(tmp_path / "killed")!r}), Killed())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    surrogate = CountingSurrogate()
    embed(TEXTS, tmp_path / "killed", surrogate)
    assert len(surrogate.texts) == len(TEXTS) - 2 * BATCHES_A_CHUNK
    embed(TEXTS, tmp_path / "whole")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("step", range(6))
def test_stopped_at_any_write_then_resumed(tmp_path, monkeypatch, step):
    """Each chunk writes vectors, keys and manifest; stop in each of those of the 2nd and 3rd chunk."""
    embed(TEXTS, tmp_path / "whole")
    whole, calls = files(tmp_path / "whole"), iter(range(100))
    write, replace = text_vectors._write_at_end, text_vectors._write_manifest

    def stop_in_vectors_or_keys(file, content):
        if next(calls) == 4 + step:
            write(file, content[: len(content) // 2 + 1])  # half a row, too
            raise KilledError
        write(file, content)

    def stop_in_manifest(folder, manifest):
        if next(calls) == 4 + step:
            raise KilledError
        replace(folder, manifest)

    with monkeypatch.context() as patch:
        patch.setattr(text_vectors, "_write_at_end", stop_in_vectors_or_keys)
        patch.setattr(text_vectors, "_write_manifest", stop_in_manifest)
        with pytest.raises(KilledError):
            embed(TEXTS, tmp_path / "stopped")
    complete = 1 + (step // 3)
    seen = TextVectors.open(tmp_path / "stopped")  # readable in between, without the half-written rows
    assert len(seen) == complete * BATCHES_A_CHUNK
    surrogate = CountingSurrogate()
    embed(TEXTS, tmp_path / "stopped", surrogate)
    assert set(surrogate.texts) == set(TEXTS[complete * BATCHES_A_CHUNK :])
    assert files(tmp_path / "stopped") == whole


@pytest.mark.parametrize("name", [text_vectors.VECTORS, text_vectors.KEYS])
def test_a_full_disk_leaves_the_state_before(tmp_path, monkeypatch, name):
    embed(["a", "b"], tmp_path)
    before, write = files(tmp_path), text_vectors._write_at_end

    def full(file, content):
        write(file, content[:5] if file.name == name else content)
        if file.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(text_vectors, "_write_at_end", full)
        with pytest.raises(OSError, match=r"disk is full.* keeps its 2 vectors") as raised:
            embed(["a", "b", "c"], tmp_path)
    assert raised.value.errno == errno.ENOSPC
    assert files(tmp_path) == before
    assert len(embed(["a", "b", "c"], tmp_path)) == 3


def damage(kind, folder):
    file = folder / {"manifest": "manifest.json", "fields": "manifest.json", "keys": "keys.sha256"}.get(
        kind, "vectors.f32"
    )
    content = bytearray(file.read_bytes())
    if kind == "short":
        file.write_bytes(content[:-1])
    elif kind == "gone":
        file.unlink()
    elif kind == "manifest":
        file.write_bytes(content[:-9])
    elif kind == "fields":
        file.write_text('{"format_version": 1}')
    else:  # one bit
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    return file.name


@pytest.mark.parametrize("kind", ["short", "gone", "bit", "keys", "manifest", "fields"])
def test_damage_is_an_error_that_names_the_file(tmp_path, kind):
    embed(TEXTS, tmp_path)
    name = damage(kind, tmp_path)
    for use in (lambda: TextVectors.open(tmp_path), lambda: embed([*TEXTS, "more"], tmp_path)):
        with pytest.raises(ArtifactError, match=name):
            use()


def test_rows_without_a_manifest_and_unknown_formats_are_refused(tmp_path):
    embed(["a"], tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 2}))
    with pytest.raises(ArtifactError, match="format 2, this version reads 1"):
        TextVectors.open(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"there without manifest\.json"):
        embed(["a"], tmp_path)


def test_a_second_writer_is_refused(tmp_path):
    class Nested(CountingSurrogate):
        def encode(self, _):
            embed(["other"], tmp_path)

    with pytest.raises(OSError, match="another process is writing"):
        embed(["a"], tmp_path, Nested())
    assert len(embed(["a"], tmp_path)) == 1


def test_keys_are_the_hashes_the_context_uses(tmp_path):
    embed(["a", "b"], tmp_path)
    assert (tmp_path / "keys.sha256").read_bytes().hex() == hash_text("a") + hash_text("b")


def test_a_sentence_transformers_model_from_a_folder(tmp_path):
    """A static embedding model written here: two words, vectors chosen by hand."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"up": 0, "right": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = torch.tensor([[0.0, 3.0], [2.0, 0.0], [-1.0, -1.0]])
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights.numpy())], device="cpu")
    model.save(str(tmp_path / "model"))
    surrogate = load_surrogate(tmp_path / "model", device="cpu")
    vectors = embed(["right", "up", "up right"], tmp_path / "vectors", surrogate)
    np.testing.assert_allclose(vectors.vectors[:2], [[1, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(vectors.vectors[2], np.array([2, 3]) / np.sqrt(13), atol=1e-6)
    name = surrogate_identity(surrogate, "mine")
    assert name == surrogate_identity(model, "mine")
    model[0].embedding.weight.data[0, 0] += 1
    assert name != surrogate_identity(model, "mine")
    assert surrogate_identity(CountingSurrogate(), "counting") == "counting"
