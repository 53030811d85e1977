"""A corpus to vectors on disk by the local engine: what is written, resuming, and what is refused."""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.sparse

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.bulk.parts import damaged_parts, part_files
from cde_retriever.bulk.reading import read_parts as verified_parts
from cde_retriever.bulk.records import PartRecords
from cde_retriever.bulk.repeated_ids import RepeatedIds
from cde_retriever.bulk.run import embed_corpus
from cde_retriever.bulk.settings import BulkSettings
from cde_retriever.context.context import Context
from cde_retriever.context.knowledge import Parts
from cde_retriever.corpus.rows import Columns
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import (
    CheckpointError,
    ConfigError,
    ContextFormatError,
    ContextMismatchError,
    CorpusError,
    OutputError,
)
from cde_retriever.files.locking import only_writer
from cde_retriever.search.hybrid import search
from tests.model_runs import count_texts
from tests.plain_models import save_model
from tests.tiny import documents, plain_encoder, tiny_checkpoint

ROWS = [{"id": f"d{i}", "title": f"t{i}", "text": text} for i, text in enumerate(documents(50))]
TEXTS = [f"{row['title']} {row['text']}" for row in ROWS]


def write_corpus(folder, rows=ROWS):
    """Write the rows as two files of both formats."""
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows[:21]).encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[21:]), folder / "b.parquet", row_group_size=10)
    return folder


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def settings(checkpoint):
    return BulkSettings(ModelSpec(str(checkpoint), device="cpu"), batch_size=4, shard_size=8)


def read_parts(folder):
    """Return ids and vectors of all parts, in order."""
    tables = [pyarrow.parquet.read_table(file) for file in part_files(folder)]
    table = pyarrow.concat_tables(tables)
    return table["id"].to_pylist(), np.stack(table["vector"].to_numpy())


def content(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_vectors_are_those_of_the_encoder_under_the_fitted_context(corpus, settings, checkpoint, tmp_path):
    done = embed_corpus(corpus, tmp_path / "out", settings)
    assert (done.documents, done.embedded, done.skipped, done.empty, done.cut) == (50, 50, 0, 0, 0)
    assert done.core_seconds > 0
    records = {"_cde/context.safetensors", "_cde/manifest.json", "_cde/parts.jsonl"}
    assert set(content(tmp_path / "out")) == {".lock", *records, *(f"part-{i:06d}.parquet" for i in range(7))}
    encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu")
    context = encoder.fit_context(TEXTS)
    assert Context.load(tmp_path / "out").fingerprint == context.fingerprint == done.context
    ids, vectors = read_parts(tmp_path / "out")
    assert ids == [row["id"] for row in ROWS]
    np.testing.assert_allclose(vectors, encoder.encode_documents(TEXTS), atol=1e-6)


def test_a_part_says_of_which_context_and_model_it_is(corpus, settings, tmp_path):
    done = embed_corpus(corpus, tmp_path / "out", settings)
    keys = set()
    for number, file in enumerate(part_files(tmp_path / "out")):
        schema = pyarrow.parquet.read_schema(file)
        model = Context.load(tmp_path / "out").model.sha256
        stated = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        keys.add(stated.pop("cde_corpus"))
        expected = {"cde_context": done.context, "cde_model": model, "cde_part": str(number), "cde_parts": "one"}
        assert stated == expected
        assert schema.field("id").type == pyarrow.string()
        assert schema.field("vector").type == pyarrow.list_(pyarrow.field("element", pyarrow.float32()), 32)
    assert len(keys) == 1


def test_a_context_that_is_given_is_taken_and_kept(corpus, settings, checkpoint, tmp_path):
    encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu")
    context = encoder.fit_context(documents(20, seed=9))
    assert embed_corpus(corpus, tmp_path / "out", settings, context=context).context == context.fingerprint
    assert Context.load(tmp_path / "out").fingerprint == context.fingerprint
    np.testing.assert_allclose(read_parts(tmp_path / "out")[1], encoder.encode_documents(TEXTS), atol=1e-6)


@pytest.fixture
def in_parts(tmp_path):
    """Settings with a plain encoder, which gets a corpus head, for both parts."""
    (tmp_path / "plain").mkdir()
    spec = ModelSpec.of(str(plain_encoder(tmp_path / "plain")), device="cpu", pooling="mean")
    return BulkSettings(spec, batch_size=4, shard_size=8, parts="both")


def test_both_parts_are_those_of_the_encoder_and_rank_alike(corpus, in_parts, tmp_path):
    embed_corpus(corpus, tmp_path / "out", in_parts)
    encoder = ContextualEncoder.from_spec(in_parts.model)
    encoder.fit_context(TEXTS)
    expected = encoder.encode_documents(TEXTS, parts="both")
    schema = pyarrow.parquet.read_schema(tmp_path / "out" / "part-000006.parquet")
    assert schema.field("vector").type.list_size == encoder.dense_dimension == 32
    assert schema.field("sparse_indices").type.value_type == pyarrow.uint32()
    assert schema.field("sparse_values").type.value_type == pyarrow.float32()
    assert schema.metadata[b"cde_parts"] == b"both"
    read = list(verified_parts(tmp_path / "out"))
    assert [len(part.ids) for part in read] == [8] * 6 + [2]
    dense, sparse = np.concatenate([part.vectors for part in read]), scipy.sparse.vstack([part.sparse for part in read])
    np.testing.assert_allclose(dense, expected.dense, atol=1e-6)
    for name in ("indptr", "indices", "data"):
        assert getattr(sparse, name).tolist() == getattr(expected.sparse, name).tolist()
    queries = encoder.encode_queries(TEXTS[:5], parts="both")
    assert (
        search(queries, Parts(dense, sparse), 3).positions.tolist() == search(queries, expected, 3).positions.tolist()
    )


def test_the_dense_part_alone_and_what_a_folder_holds_stays(corpus, in_parts, tmp_path):
    embed_corpus(corpus, tmp_path / "out", replace(in_parts, parts="dense"))
    encoder = ContextualEncoder.from_spec(in_parts.model)
    encoder.fit_context(TEXTS)
    np.testing.assert_allclose(
        read_parts(tmp_path / "out")[1], encoder.encode_documents(TEXTS, parts="dense"), atol=1e-6
    )
    assert {part.sparse for part in verified_parts(tmp_path / "out")} == {None}
    with pytest.raises(OutputError, match="holds vectors with parts dense, received both; choose another output"):
        embed_corpus(corpus, tmp_path / "out", in_parts)


def test_both_parts_are_gone_on_with(corpus, in_parts, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "out"
    embed_corpus(corpus, whole, in_parts)
    shutil.copytree(whole, output)
    (output / "part-000002.parquet").unlink()
    assert embed_corpus(corpus, output, in_parts).embedded == 8
    assert (output / "part-000002.parquet").read_bytes() == (whole / "part-000002.parquet").read_bytes()


def test_a_model_without_a_sparse_part_is_refused_before_anything_is_read(corpus, settings, tmp_path):
    with pytest.raises(ConfigError, match=r"parts is 'both', but model .* has no corpus head"):
        embed_corpus(corpus, tmp_path / "out", replace(settings, parts="both"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="--parts is 'sparse', expected one, dense or both"):
        replace(settings, parts="sparse")


def test_an_output_of_format_2_which_knew_no_parts_is_gone_on_with(corpus, settings, tmp_path):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    file = output / "_cde" / "manifest.json"
    values = json.loads(file.read_text())
    assert (values.pop("format_version"), values.pop("parts"), len(values.pop("sha256"))) == (4, "one", 64)
    assert values.pop("fitted") is True
    sha256 = hashlib.sha256(json.dumps([values], sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({"format_version": 2, **values, "sha256": sha256}))
    (output / "part-000001.parquet").unlink()
    assert embed_corpus(corpus, output, settings).embedded == 8
    assert sum(len(part.ids) for part in verified_parts(output)) == 50


KILLED = """
import os, signal, sys
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.bulk.run import embed_corpus
from cde_retriever.bulk.settings import BulkSettings

def die(report):
    if report.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)

model, corpus, output = sys.argv[1:]
embed_corpus(corpus, output, BulkSettings(ModelSpec(model, device="cpu"), batch_size=4, shard_size=8), on_part=die)
"""


def test_a_killed_run_is_gone_on_with_and_ends_the_same(corpus, settings, checkpoint, tmp_path):
    embed_corpus(corpus, tmp_path / "whole", settings)
    output = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(checkpoint), str(corpus), str(output)])
    assert killed.returncode == -9
    assert [file.name for file in part_files(output)] == [f"part-{i:06d}.parquet" for i in range(4)]
    (output / ".part-000004.parquet.abc").write_bytes(b"half")  # as of a worker killed while it wrote
    times = {file: file.stat().st_mtime_ns for file in part_files(output)}
    done = embed_corpus(corpus, output, settings)
    assert (done.embedded, done.skipped) == (18, 32)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert [file.name for file in output.iterdir() if file.name.startswith(".")] == [".lock"]
    ids, vectors = read_parts(output)
    assert ids == [row["id"] for row in ROWS]
    np.testing.assert_allclose(vectors, read_parts(tmp_path / "whole")[1], atol=1e-6)


def test_documents_of_a_fitted_context_are_embedded_once_also_by_a_run_that_goes_on(
    corpus, in_parts, tmp_path, monkeypatch
):
    ran, output = count_texts(monkeypatch), tmp_path / "out"
    embed_corpus(corpus, output, in_parts)
    assert sum(ran) == len(ROWS)  # all are in the context
    _, vectors = read_parts(output)
    part_files(output)[1].unlink()
    ran.clear()
    embed_corpus(corpus, output, in_parts)
    assert not ran
    assert (read_parts(output)[1] == vectors).all()
    other = tmp_path / "other"
    embed_corpus(corpus, other, in_parts, context=Context.load(output))  # perhaps of another precision
    part_files(other)[1].unlink()
    embed_corpus(corpus, other, in_parts)
    assert sum(ran) > len(ROWS)
    np.testing.assert_allclose(read_parts(other)[1], vectors, atol=1e-6)


@pytest.mark.parametrize("damage", ["gone", "cut", "of fewer rows", "flipped", "not recorded"])
def test_only_parts_that_are_not_whole_are_done_again(corpus, settings, tmp_path, damage):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    before = content(output)
    part = output / "part-000002.parquet"
    if damage == "gone":
        part.unlink()
    elif damage == "cut":
        part.write_bytes(part.read_bytes()[:-10])
    elif damage == "flipped":
        flip(part, len(part.read_bytes()) // 2)
    elif damage == "not recorded":  # as of a run killed just after it wrote
        records = output / "_cde" / "parts.jsonl"
        records.write_text("".join(line for line in records.read_text().splitlines(True) if '"number": 2' not in line))
    else:
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(part).slice(0, 3), part)
    seen = []
    done = embed_corpus(corpus, output, settings, on_part=lambda report: seen.append(report.number))
    assert seen == [2]
    assert (done.embedded, done.skipped) == (8, 42)
    after = content(output)
    for found in (before, after):  # the order of lines is that of writing
        found["_cde/parts.jsonl"] = set(found["_cde/parts.jsonl"].splitlines())
    assert after == before
    assert embed_corpus(corpus, output, settings).embedded == 0


def flip(file, place):
    """Flip a bit of a file."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << (place % 8)
    file.write_bytes(data)


def test_no_flipped_bit_is_taken_or_read(corpus, settings, tmp_path):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    parts = part_files(output)
    expected = content(output)
    rng = np.random.default_rng(0)
    for turn in range(30):
        part = parts[turn % len(parts)]
        flip(part, int(rng.integers(len(part.read_bytes()))))
        with pytest.raises(OutputError, match=f"{part.name} is not as it was written; run the same cde embed again"):
            list(verified_parts(output))
        records = PartRecords(output)
        assert damaged_parts(output, list(records.done.values())) == [int(part.stem.removeprefix("part-"))]
        part.write_bytes(expected[part.name])
    flip(parts[3], 200)
    assert embed_corpus(corpus, output, settings).embedded == 8
    assert content(output)[parts[3].name] == expected[parts[3].name]


def test_parts_are_read_in_order_and_verified(corpus, settings, tmp_path):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    found = list(verified_parts(output))
    ids, vectors = read_parts(output)
    assert [identifier for part in found for identifier in part.ids] == ids
    np.testing.assert_array_equal(np.concatenate([part.vectors for part in found]), vectors)
    (output / "part-000004.parquet").unlink()
    with pytest.raises(OutputError, match=r"part-000004.parquet cannot be read .*; run the same cde embed again"):
        list(verified_parts(output))
    with pytest.raises(OutputError, match=r"holds no finished output of this version"):
        next(verified_parts(corpus))


def test_the_folder_is_a_parquet_data_set(corpus, settings, tmp_path):
    embed_corpus(corpus, tmp_path / "out", settings)
    table = pyarrow.parquet.read_table(tmp_path / "out")
    assert table["id"].to_pylist() == [row["id"] for row in ROWS]


def test_a_part_of_another_corpus_or_place_is_refused_not_overwritten(corpus, settings, checkpoint, tmp_path):
    output, context = tmp_path / "out", other_context(checkpoint)
    embed_corpus(corpus, output, settings, context=context)
    changed = [{**row, "text": row["text"] + " baron"} for row in ROWS]
    embed_corpus(write_corpus(tmp_path / "other", changed), tmp_path / "foreign", settings, context=context)
    part = output / "part-000001.parquet"
    for source, message in (
        (tmp_path / "foreign" / part.name, "has cde_corpus"),
        (output / "part-000002.parquet", "has cde_part '2', expected '1'"),
    ):
        part.write_bytes(source.read_bytes())
        with pytest.raises(OutputError, match=f"{part.name} {message}.*; move it out of this folder"):
            embed_corpus(corpus, output, settings)
        assert part.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rows": 21', '"rows": 20'),
        ('"width": 32', '"width": 16'),
        ('"shard_size": 8', '"shard_size": 9'),
        ("tiny", "x"),
    ],
)
def test_an_edited_manifest_is_refused(corpus, settings, tmp_path, old, new):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    file = output / "_cde" / "manifest.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    before = content(output)
    with pytest.raises(OutputError, match=r"manifest.json is not as it was written .*; restore it, or choose another"):
        embed_corpus(corpus, output, settings)
    assert content(output) == before


def test_half_a_line_of_the_records_is_passed_over_and_a_damaged_one_refused(corpus, settings, tmp_path):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    file = output / "_cde" / "parts.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert embed_corpus(corpus, output, settings).embedded == 2  # the last part
    assert file.read_bytes() == whole
    file.write_bytes(b"{}\n" + whole)
    with pytest.raises(OutputError, match=r"parts.jsonl, line 1 is damaged .*; delete the file, and the same command"):
        embed_corpus(corpus, output, settings)
    file.unlink()
    assert embed_corpus(corpus, output, settings).embedded == 50


FIRST_FORMAT = Path(__file__).parent.parent / "fixtures" / "bulk"
FIRST_SETTINGS = BulkSettings(ModelSpec("checkpoints/terms", device="cpu"), shard_size=8)


@pytest.fixture
def first_format(tmp_path, monkeypatch):
    """A whole output of version 0.1.0; return its folder."""
    shutil.copytree(FIRST_FORMAT, tmp_path / "bulk")
    shutil.copytree(FIRST_FORMAT.parent / "checkpoints" / "terms", tmp_path / "checkpoints" / "terms")
    monkeypatch.chdir(tmp_path)
    return Path("bulk/whole")


def test_an_output_of_the_first_format_gets_records_once(first_format):
    before = {file.name: file.read_bytes() for file in part_files(first_format)}
    assert embed_corpus("bulk/corpus.jsonl", first_format, FIRST_SETTINGS).embedded == 0
    assert set(content(first_format)) == {
        ".lock",
        "_cde/context.safetensors",
        "_cde/manifest.json",
        "_cde/parts.jsonl",
        *before,
    }
    assert {name: content(first_format)[name] for name in before} == before
    assert sum(len(part.ids) for part in verified_parts(first_format)) == 24


def test_parts_of_the_first_format_are_compared_with_the_corpus(first_format):
    whole = [file.read_bytes() for file in part_files(first_format)]
    flip(first_format / "part-000000.parquet", 900)
    shutil.copy(first_format / "part-000002.parquet", first_format / "part-000001.parquet")
    done = embed_corpus("bulk/corpus.jsonl", first_format, FIRST_SETTINGS)
    assert (done.embedded, done.skipped) == (16, 8)
    assert (first_format / "part-000002.parquet").read_bytes() == whole[2]
    assert [identifier for part in verified_parts(first_format) for identifier in part.ids] == [
        f"d{i}" for i in range(24)
    ]


def test_an_edited_manifest_of_the_first_format_is_refused(first_format):
    file = first_format / "manifest.json"
    file.write_text(file.read_text().replace('"rows": 24', '"rows": 20'))
    before = {part.name: part.read_bytes() for part in part_files(first_format)}
    with pytest.raises(OutputError, match=r"says that corpus.jsonl has 20 rows, it has 2\d; restore the manifest"):
        embed_corpus("bulk/corpus.jsonl", first_format, FIRST_SETTINGS)
    assert {part.name: part.read_bytes() for part in part_files(first_format)} == before


def test_a_folder_of_documents_keeps_its_passages_beside_their_vectors(settings, checkpoint, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# Guide\n\n## Install\n\nbaron kolak\n\n## Use\n\n" + "misim ludor. " * 60)
    (docs / "b.html").write_text("<script>no text</script>")
    done = embed_corpus(docs, tmp_path / "out", settings)
    table = pyarrow.parquet.read_table(tmp_path / "out")
    assert table["id"].to_pylist() == [f"a.md#{i + 1}" for i in range(done.documents)]
    texts = table["text"].to_pylist()
    assert texts[0] == "Guide > Install\n\nbaron kolak"
    assert len(texts) > 2
    assert (done.cut, done.without_documents) == (0, ("b.html",))
    encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu")
    encoder.set_context(Context.load(tmp_path / "out"))
    np.testing.assert_allclose(read_parts(tmp_path / "out")[1], encoder.encode_documents(texts), atol=1e-6)
    assert embed_corpus(docs, tmp_path / "out", settings).embedded == 0
    (docs / "b.html").write_text("now it has")
    with pytest.raises(OutputError, match=r"another corpus: b.html has changed"):
        embed_corpus(docs, tmp_path / "out", settings)


def test_a_run_killed_while_it_reads_begins_again(corpus, settings, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cde_retriever.bulk.manifest.Manifest.write", die)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(corpus, tmp_path / "out", settings)
    monkeypatch.undo()
    assert set(content(tmp_path / "out")) == {".lock", "_cde/context.safetensors"}
    assert embed_corpus(corpus, tmp_path / "out", settings).embedded == 50


def other_context(checkpoint):
    return ContextualEncoder.from_pretrained(checkpoint, device="cpu").fit_context(documents(9, seed=4))


def test_another_context_model_or_setting_is_refused_and_nothing_changes(corpus, settings, checkpoint, tmp_path):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    (output / "part-000002.parquet").unlink()
    before = content(output)
    other_model = replace(settings.model, name=str(tiny_checkpoint(tmp_path / "other", seed=1)))
    with pytest.raises(
        ContextMismatchError, match=r"holds vectors under context \w{12}, received \w{12}; choose another"
    ):
        embed_corpus(corpus, output, settings, context=other_context(checkpoint))
    same = {"model": settings.model, "batch_size": 4, "shard_size": 8}
    for changed, message in (
        ({"model": other_model}, r"holds vectors with model \w+, received \w+; choose another output"),
        ({"shard_size": 9}, "holds vectors with shard_size 8, received 9"),
        ({"model": replace(settings.model, dtype="bfloat16")}, "holds vectors with dtype float32, received bfloat16"),
        ({"columns": Columns(title="")}, r"holds vectors with columns Columns\(.*title=None\), received .*title=''"),
    ):
        with pytest.raises(OutputError, match=message):
            embed_corpus(corpus, output, BulkSettings(**(same | changed)))
    assert content(output) == before


def test_another_corpus_is_refused_by_the_name_of_the_file(corpus, settings, tmp_path):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    before = content(output)
    (corpus / "c.jsonl").write_text('{"id": "new", "text": "x"}\n')
    with pytest.raises(OutputError, match=r"another corpus: c.jsonl is new"):
        embed_corpus(corpus, output, settings)
    (corpus / "c.jsonl").unlink()
    (corpus / "b.parquet").rename(corpus / "b.away")
    with pytest.raises(OutputError, match=r"another corpus: b.parquet is gone"):
        embed_corpus(corpus, output, settings)
    (corpus / "b.away").rename(corpus / "b.parquet")
    (corpus / "a.jsonl.gz").write_bytes(gzip.compress(b'{"id": "new", "text": "x"}\n'))
    with pytest.raises(OutputError, match=r"another corpus: a.jsonl.gz has changed"):
        embed_corpus(corpus, output, settings)
    assert content(output) == before


def test_a_part_of_something_else_is_refused_not_overwritten(corpus, settings, checkpoint, tmp_path):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    embed_corpus(corpus, tmp_path / "foreign", settings, context=other_context(checkpoint))
    foreign = (tmp_path / "foreign" / "part-000001.parquet").read_bytes()
    (output / "part-000001.parquet").write_bytes(foreign)
    with pytest.raises(OutputError, match=r"part-000001.parquet has cde_context '.*', expected '.*'; move it out"):
        embed_corpus(corpus, output, settings)
    assert (output / "part-000001.parquet").read_bytes() == foreign


def test_a_damaged_output_is_refused_by_name(corpus, settings, tmp_path):
    output = tmp_path / "out"
    embed_corpus(corpus, output, settings)
    file = output / "_cde" / "manifest.json"
    manifest = file.read_text()
    file.write_text(manifest[:-20])
    with pytest.raises(OutputError, match=r"manifest.json is damaged"):
        embed_corpus(corpus, output, settings)
    file.write_text("[" * 100_000)
    with pytest.raises(OutputError, match=r"manifest.json is damaged .*nested too deep"):
        embed_corpus(corpus, output, settings)
    file.write_text(manifest.replace('"format_version": 4', '"format_version": 5'))
    with pytest.raises(OutputError, match=r"manifest.json has format 5, this version reads 2 or 3 or 4"):
        embed_corpus(corpus, output, settings)
    file.unlink()
    with pytest.raises(OutputError, match=r"holds parts but no _cde/manifest.json"):
        embed_corpus(corpus, output, settings)
    file.write_text(manifest)
    (output / "_cde" / "context.safetensors").write_bytes(b"none")
    with pytest.raises(ContextFormatError, match=r"context.safetensors is damaged"):
        embed_corpus(corpus, output, settings)


def test_shorter_vectors(corpus, settings, checkpoint, tmp_path):
    short = replace(settings, model=replace(settings.model, truncate_dim=12))
    embed_corpus(corpus, tmp_path / "out", short)
    encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu", truncate_dim=12)
    encoder.set_context(Context.load(tmp_path / "out"))
    np.testing.assert_allclose(read_parts(tmp_path / "out")[1], encoder.encode_documents(TEXTS), atol=1e-6)
    with pytest.raises(OutputError, match="with width 12, received 32; choose another output"):
        embed_corpus(corpus, tmp_path / "out", settings)


def test_a_second_writer_is_refused(corpus, settings, tmp_path):
    output = tmp_path / "out"
    with only_writer(output), pytest.raises(OSError, match=f"another process is writing to {output}"):
        embed_corpus(corpus, output, settings=settings)
    assert embed_corpus(corpus, output, settings=settings).embedded > 0


def test_a_bad_row_is_found_before_anything_is_written(settings, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [*ROWS[:40], {"id": "bad", "title": "t", "text": "\ufffd"}])
    (corpus / "c.jsonl").write_text('{"id": "x", "text": "whole"}\n{"id": "y"}\n')
    with pytest.raises(CorpusError, match=r"c.jsonl, line 2 has no column 'text', it has id"):
        embed_corpus(corpus, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_empty_and_overlong_texts_have_vectors_and_are_counted(settings, tmp_path):
    rows = [{"id": 1, "text": " "}, {"id": 2, "text": "baron " * 500}, {"id": 3, "text": None}, {"id": 4, "text": "x"}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = embed_corpus(tmp_path / "c.jsonl", tmp_path / "out", settings)
    assert (done.embedded, done.empty, done.cut) == (4, 2, 1)
    again = embed_corpus(tmp_path / "c.jsonl", tmp_path / "out", settings)
    assert (again.embedded, again.empty, again.cut) == (0, 2, 1)
    ids, vectors = read_parts(tmp_path / "out")
    assert ids == ["1", "2", "3", "4"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_documents_that_share_an_id_are_embedded_and_said(settings, tmp_path):
    rows = [{"id": name, "text": text} for name, text in zip([7, "b", "7", "7"], documents(4), strict=True)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match="^2 documents have the id of another before them, the first '7';"):
        assert embed_corpus(tmp_path / "c.jsonl", tmp_path / "out", settings).documents == 4
    assert read_parts(tmp_path / "out")[0] == ["7", "b", "7", "7"]


def test_of_more_ids_than_are_held_those_that_repeat_are_estimated():
    ids = RepeatedIds(most=100)
    for name in [*map(str, range(20_000)), *map(str, range(0, 20_000, 2))]:
        ids.add(name)
    assert len(ids._seen) <= 100
    assert 3000 < ids.documents < 30_000  # of 10,000, by some 50 that are held
    with pytest.warns(UserWarning, match=f"^about {ids.documents} documents"):
        ids.warn()


def test_a_corpus_without_documents_is_refused(settings, checkpoint, tmp_path):
    (tmp_path / "c.jsonl").write_text("\n\n")
    for context in (None, other_context(checkpoint)):
        with pytest.raises(CorpusError, match=r"c\.jsonl has no document; give"):
            embed_corpus(tmp_path / "c.jsonl", tmp_path / "out", settings, context=context)


def test_wrong_places_and_settings_are_refused(corpus, settings, tmp_path):
    with pytest.raises(ConfigError, match=r"is inside the corpus"):
        embed_corpus(corpus, corpus / "out", settings)
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        embed_corpus(tmp_path / "nowhere", tmp_path / "out", settings)
    with pytest.raises(CheckpointError):
        embed_corpus(corpus, tmp_path / "out", BulkSettings(ModelSpec(str(tmp_path))))
    for values, message in (
        ({"engine": "spark"}, "--engine is 'spark', expected local or ray"),
        ({"workers": 2}, "--workers is 2, but the local engine is one process"),
        ({"batch_size": 0}, "--batch-size is 0, expected at least 1"),
        ({"shard_size": 0}, "--shard-size is 0, expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            BulkSettings(**values)


def test_memory_does_not_grow_with_the_corpus(settings, checkpoint, tmp_path, monkeypatch):
    def count(self, texts, **_):
        return np.ones((len(texts), 32), np.float32)

    monkeypatch.setattr(ContextualEncoder, "encode_documents", count)
    context = other_context(checkpoint)

    def peak(rows):
        lines = (json.dumps({"id": i, "text": f"{i} " + "x" * 2000}) + "\n" for i in range(rows))
        (tmp_path / f"{rows}.jsonl").write_text("".join(lines))
        tracemalloc.start()
        wide = BulkSettings(settings.model, shard_size=100)
        assert embed_corpus(tmp_path / f"{rows}.jsonl", tmp_path / f"{rows}", wide, context=context).embedded == rows
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(100)  # what is loaded once
    assert peak(4000) < peak(400) + 200_000  # the texts alone are 7.2 MB more


LONG = """
import json, resource, sys
from pathlib import Path

def peak():  # of this process alone: what getrusage says begins with the memory of the process that started it
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.bulk.run import embed_corpus
from cde_retriever.bulk.settings import BulkSettings

model, folder = sys.argv[1], Path(sys.argv[2])
peaks = []
for name, characters in (("short", 1_000), ("long", 10_000_000)):
    with (folder / f"{name}.jsonl").open("w") as lines:
        for i in range(16):
            text = (f"{i} baron kolak misim. " * (characters // 20))[:characters]
            lines.write(json.dumps({"id": i, "text": text}) + "\\n")
    assert embed_corpus(folder / f"{name}.jsonl", folder / name, BulkSettings(ModelSpec(model, device="cpu"))).cut == 16
    peaks.append(peak())
    (folder / f"{name}.jsonl").unlink()
print(*peaks)
"""


def test_memory_does_not_grow_with_the_length_of_documents(checkpoint, tmp_path):
    """Sixteen documents of 10 MB: all of them held at once would be 160 MB."""
    done = subprocess.run([sys.executable, "-c", LONG, str(checkpoint), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    short, long = map(int, done.stdout.split())
    unit = 1 if sys.platform == "darwin" else 1024  # of what the system says
    assert (long - short) * unit < 160e6
    assert long * unit < 1.5e9


def test_the_language_of_a_corpus(corpus, tmp_path):
    save_model(tmp_path)
    settings = BulkSettings(ModelSpec(str(tmp_path / "model"), device="cpu"), shard_size=8, language="german")
    embed_corpus(corpus, tmp_path / "out", settings)
    context = Context.load(tmp_path / "out")
    assert context.words.language == "german"
    assert embed_corpus(corpus, tmp_path / "out", replace(settings, language=None)).skipped == 50
    for output, given in ((tmp_path / "out", None), (tmp_path / "other", context)):
        with pytest.raises(
            ConfigError, match=r"--language is 'french', but the words of context .* in 'german'; leave"
        ):
            embed_corpus(corpus, output, replace(settings, language="french"), context=given)
    with pytest.raises(
        ConfigError, match=r"--selection is 'kmeans', but the documents .* were chosen by 'random'; leave"
    ):
        embed_corpus(corpus, tmp_path / "out", replace(settings, selection="kmeans"))


def test_a_size_of_one_vector_is_no_size_of_parts(corpus, in_parts, tmp_path):
    with pytest.raises(ConfigError, match="--truncate-dim cuts one vector alone; leave it out, or take --parts one"):
        embed_corpus(corpus, tmp_path / "out", replace(in_parts, model=replace(in_parts.model, truncate_dim=5)))
    assert not (tmp_path / "out").exists()
