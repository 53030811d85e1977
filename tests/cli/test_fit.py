"""`cde-train fit` and the single steps, end to end on a tiny plain encoder."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.locking import only_writer
from cde_train.cli import main
from cde_train.data.readers import read_pairs
from cde_train.data.retrieval_sets import read_retrieval_set
from cde_train.evaluation import sampled_corpus
from cde_train.evaluation.model_card import MADE
from cde_train.run import phases, preparation
from tests.tiny import documents, plain_encoder, tiny_checkpoint

SETTINGS = """
[model]
context_size = 8
max_length = 48
[held_out]
share = 0.3
least = 2
[pseudo_queries]
keep_rank = 1000
[clustering]
cluster_size = 4
iterations = 5
restarts = 1
[[phase]]
name = "weak"
steps = 3
batch_size = 4
chunk_size = 2
train_length = 24
context_sizes = [2, 4]
warmup_steps = 1
eval_steps = 2
save_steps = 2
[[phase]]
name = "supervised"
epochs = 1
batch_size = 4
chunk_size = 4
train_length = 24
context_sizes = [2, 4]
warmup_steps = 0
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return plain_encoder(tmp_path_factory.mktemp("base") / "plain")


@pytest.fixture(scope="module")
def config(tmp_path_factory, base):
    file = tmp_path_factory.mktemp("config") / "run.toml"
    file.write_text(SETTINGS.replace("[model]", f"[model]\nbase = {json.dumps(str(base))}"))
    return file


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "words.jsonl"
    texts = documents(40, seed=3, words=10)
    rows = [{"query": text.split(maxsplit=1)[-1][:20] + f" {i}", "document": text} for i, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config, pairs):
    """The output of a whole run."""
    output = tmp_path_factory.mktemp("finished") / "my-cde"
    assert main(["fit", str(pairs), "-o", str(output), "--config", str(config)]) == 0
    return output


def test_fit_leaves_a_checkpoint_a_card_a_report_and_the_configuration(finished):
    assert {path.name for path in finished.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "report.json",
        "run.toml",
        "work",
    }
    encoder = ContextualEncoder.from_pretrained(finished, device="cpu")
    assert encoder.config.name == "my-cde"
    encoder.fit_context(documents(12))
    assert np.isfinite(encoder.encode_queries(["baron kolak"])).all()
    card = (finished / "README.md").read_text()
    assert "# my-cde\n\nAn encoder with a corpus head, which searches by vector and words together" in card
    assert "| held_out | starting model, vector and words |" in card
    assert encoder.encode_queries(["baron kolak"], parts="both").sparse.nnz > 0
    assert MADE not in card
    assert "| documents | 40 |" in card, "pairs have documents too"
    assert re.search(r"\| supervised \| steps \d+ \|", card), "where nothing is measured, no best step is named"
    assert (
        f"**{json.loads((finished / 'work/manifest.json').read_text())['steps']['report']['report']['advice']}**"
        in card
    )
    assert tomllib.loads(re.search("```toml\n(.*)```", card, re.DOTALL)[1]).keys() == {
        *("model", "surrogate", "clustering", "packing", "filtering", "held_out", "phase")
    }


def test_both_phases_changed_the_model(finished):
    folders = [finished / "work" / name for name in ("start", "phase-weak/model", "phase-supervised/model")]
    hashes = {ContextualEncoder.from_pretrained(folder, device="cpu").identity.sha256 for folder in folders}
    assert len(hashes) == 3
    assert ContextualEncoder.from_pretrained(finished, device="cpu").identity.sha256 in hashes


def test_a_finished_run_is_not_done_again(finished, config, pairs, capsys):
    before = {path: path.stat().st_mtime_ns for path in (finished / "work").rglob("*.safetensors")}
    assert main(["fit", str(pairs), "-o", str(finished), "--config", str(finished / "run.toml")]) == 0
    out, err = capsys.readouterr()
    assert "done already" in err
    assert json.loads(out)["checkpoint"] == str(finished)
    assert {path: path.stat().st_mtime_ns for path in (finished / "work").rglob("*.safetensors")} == before


def test_a_second_start_of_a_run_at_work_is_refused(finished, pairs, capsys):
    """It would train the same steps over the same states, and clear away those that the first is writing."""
    command = ["fit", str(pairs), "-o", str(finished), "--config", str(finished / "run.toml")]
    with only_writer(finished / "work"):
        assert main(command) == 1
    assert "another process is writing to" in capsys.readouterr().err
    assert main(command) == 0


def test_a_run_killed_three_times_ends_with_the_same_weights(finished, config, pairs, tmp_path):
    class Killed(BaseException):
        pass

    def dying(original, call):
        calls = []

        def work(*arguments, **options):
            calls.append(1)
            if len(calls) == call:
                raise Killed
            return original(*arguments, **options)

        return work

    output = tmp_path / "my-cde"
    command = ["fit", str(pairs), "-o", str(output), "--config", str(config)]
    for module, name, call in ((preparation, "cluster_pairs", 1), (phases, "save_batches", 1), (phases, "train", 2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, dying(getattr(module, name), call))
            with pytest.raises(Killed):
                main(command)
        assert not (output / "config.json").exists()
    assert main(command) == 0
    assert (output / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_two_processes_fit_what_one_does(finished, config, pairs, tmp_path):
    """``torchrun`` with two Gloo processes: the first does every step but training, and the model is that of one."""
    output = tmp_path / "my-cde"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.cli.test_fit", "fit", str(pairs), "-o", str(output), "--config", str(config)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in output.iterdir()} == {path.name for path in finished.iterdir()}
    assert json.loads(done.stdout)["checkpoint"] == str(output), "one process says what came of it"
    written = set(re.findall(r"process (\d) wrote (.*)", done.stderr))
    assert {"manifest.json", "clusters.safetensors", "report.json"} <= {Path(file).name for _, file in written}
    assert [file for process, file in written if process != "0" and Path(file).is_relative_to(output)] == []
    together, alone = (load_file(folder / "model.safetensors") for folder in (output, finished))
    assert together.keys() == alone.keys()
    for name, tensor in alone.items():
        # Adam divides by the gradient's size, so where it is rounding noise (a bias of all keys) weights may differ.
        far = (together[name] - tensor).abs() > 1e-4
        assert far.sum() <= 0.01 * far.numel() or name.endswith("key.bias"), name
    assert losses(output) == pytest.approx(losses(finished), abs=1e-4)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (output, finished)]
    assert len(reports[0]["results"]) == len(reports[1]["results"]) > 0


def losses(output):
    """Return the loss of every step of both phases, from their last saved states."""
    states = [
        output / "work" / name for name in ("phase-weak/states/checkpoint-3", "phase-supervised/states/checkpoint-4")
    ]
    logs = [json.loads((state / "trainer_state.json").read_text())["log_history"] for state in states]
    return [row["loss"] for log in logs for row in log if "loss" in row]


def test_another_configuration_in_the_same_output_is_refused_by_name(finished, config, pairs, capsys):
    command = ["fit", str(pairs), "-o", str(finished), "--config", str(config), "--set", "phase.0.steps=2"]
    assert main(command) == 1
    assert "phase.0.steps is 2 here, 3 there" in capsys.readouterr().err


def test_a_damaged_file_is_refused_by_name(finished, config, pairs, tmp_path, capsys):
    output = shutil.copytree(finished, tmp_path / "my-cde")
    (output / "work" / "data" / "pairs.jsonl").write_text("")
    assert main(["fit", str(pairs), "-o", str(output), "--config", str(config)]) == 1
    assert "pairs.jsonl has changed since step 'data' wrote it" in capsys.readouterr().err


def test_fit_takes_a_folder_of_documents(config, tmp_path, capsys):
    folder = tmp_path / "docs"
    folder.mkdir()
    for i, text in enumerate(documents(16, seed=5, words=12)):
        (folder / f"{i}.md").write_text(f"# Chapter {text}\n\n{text} and more of {text}\n")
    command = ["fit", str(folder), "-o", str(tmp_path / "out"), "--config", str(config)]
    assert main([*command, "--set", f"phase.1.data={folder}"]) == 0
    assert ContextualEncoder.from_pretrained(tmp_path / "out", device="cpu").config.name == "out"
    err = capsys.readouterr().err.splitlines()
    assert "phase.0.context_sizes, phase.1.context_sizes change nothing: beneath a corpus head" in err[0]
    first = next(line for line in err if line.startswith(("data: ", "Embedding")))
    assert first.startswith("data: 25 passages read, 46 queries made of them; "), "before texts are embedded"
    assert "If you have queries of people with the documents that answer them, give those" in first
    assert "; 30% of them each go to the report and choosing the best weights; " in first
    parts = [read_pairs(tmp_path / "out/work" / part / "pairs.jsonl") for part in ("held_out", "development")]
    again = {pair.source for pair in read_pairs(tmp_path / "out/work/data-supervised/pairs.jsonl")}
    assert again
    assert not again & {pair.source for part in parts for pair in part}, "the phase reads the same folder"
    card = (tmp_path / "out/README.md").read_text()
    assert MADE in card
    assert "| passages | 25 |" in card, "not documents, which were cut into them"


def test_a_large_corpus_is_sampled_for_report_and_development_set(config, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sampled_corpus, "FEWEST_DOCUMENTS", 13)
    output = tmp_path / "my-cde"
    assert main(["fit", str(pairs), "-o", str(output), "--config", str(config)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["documents"], result["of"]) == (13, 40)
    card = (output / "README.md").read_text()
    assert "Measured on 13 of 40 documents" in card
    assert "nDCG@10, the gain of a ranker that had no part in the choice" in card
    measured = read_retrieval_set(output / "work" / "phase-weak" / "development")
    assert len(measured.documents) == 13
    assert len(read_retrieval_set(output / "work" / "development").documents) > 13


def test_domains_too_small_for_a_batch_are_named_wherever_a_run_says_what_it_did(
    finished, config, pairs, tmp_path, capsys
):
    """Beside the words there are domains of one or two pairs; a batch has four."""
    texts, sizes = documents(9, seed=4, words=10), {"my_notes": 2, "b": 1, "c": 1, "d": 1, "e": 2, "f": 2}
    domains = [name for name, size in sizes.items() for _ in range(size)]
    rows = [{"query": text[:20], "document": text, "domain": name} for text, name in zip(texts, domains, strict=True)]
    words = [json.loads(line) | {"domain": "words"} for line in pairs.read_text().splitlines()]
    file, output = tmp_path / "two.jsonl", tmp_path / "my-cde"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*words, *rows]))
    assert main(["fit", str(file), "-o", str(output), "--config", str(config)]) == 0
    out, err = capsys.readouterr()
    kept = [pair.domain for pair in read_pairs(output / "work/data/pairs.jsonl") if pair.domain != "words"]
    sizes = sorted(((name, kept.count(name)) for name in set(kept)), key=lambda one: (-one[1], one[0]))
    named = ", ".join(f"{name}: {size}" for name, size in sizes)
    assert 2 <= len(sizes) <= 5, "some are held out"
    assert f"pairs of domains too small {len(kept)}, domains too small {named}," in err
    assert json.loads(out)["domains_too_small"] == {"weak": named, "supervised": named}
    assert f"| domains too small | weak {named}, supervised {named} |" in (output / "README.md").read_text()
    last = err.splitlines()[-7:]
    assert last[0].endswith(f", domains too small weak {named}; supervised {named}")
    assert [line[:2] for line in last[1:]] == ["  "] * 6
    assert '"domains_too_small"' not in (finished / "work/manifest.json").read_text(), "where there are none"


def test_without_a_phase_the_prior_is_counted_and_nothing_trained(base, pairs, tmp_path):
    output = tmp_path / "counted"
    command = ["fit", str(pairs), "-o", str(output), "--config", "untrained", "--base", str(base)]
    command += ["--set", "model.dtype=float16", "--set", "held_out.share=0.3", "--set", "model.sketch_width=64"]
    assert main(command) == 0
    assert load_file(output / "model.safetensors")["second_stage.term_head.log_prior"].dtype == torch.float16
    encoder = ContextualEncoder.from_pretrained(output, device="cpu", dtype="float32")
    head, first = encoder.open_model().second_stage.term_head, read_pairs(output / "work" / "data" / "pairs.jsonl")[0]
    word = encoder.tokenizer.encode(first.document, add_special_tokens=False).ids[-1]
    assert head.log_prior[word] > head.log_prior.min()
    plain = load_file(base / "model.safetensors")
    kept = load_file(output / "model.safetensors")
    assert all(
        torch.equal(kept[f"second_stage.backbone.{name}"], value.half())
        for name, value in plain.items()
        if "pooler" not in name
    )
    assert "nothing was trained" in (output / "README.md").read_text()
    assert not (output / "work" / "vectors").exists()
    before = (output / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert (output / "work" / "model" / "model.safetensors").stat().st_mtime_ns <= before, "a second run does nothing"


def test_settings_that_contradict_a_cde_checkpoint_are_refused(finished, pairs, tmp_path, capsys):
    command = ["fit", str(pairs), "-o", str(tmp_path / "out"), "--base", str(finished)]
    assert main([*command, "--set", "model.context_size=9"]) == 2
    assert "model.context_size is 9, but the checkpoint my-cde has 8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "settings that are refused bind nothing"


def test_a_batch_that_processes_cannot_share_is_refused_before_anything_is_written(
    config, pairs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["fit", str(pairs), "-o", str(tmp_path / "out"), "--config", str(config)]) == 2
    assert "phase.1.batch_size is 4, expected a multiple of 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_corrected_settings_go_on_where_wrong_ones_stopped(finished, config, pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it waits for a Hub out of reach
    command = ["fit", str(pairs), "-o", str(tmp_path / "my-cde"), "--config", str(config)]
    for wrong, fault in (
        ("held_out.least=500", "expected at least 500"),
        ("clustering.cluster_size=0", "cluster_size is 0"),
        ("surrogate.model=nowhere/at-all", "nowhere/at-all"),
        ("phase.0.batch_size=300", "lower batch_size to at most"),
    ):
        assert main([*command, "--set", wrong]) != 0
        assert fault in capsys.readouterr().err
    assert main(command) == 0
    assert (tmp_path / "my-cde/model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_the_card_and_the_configuration_tell_the_layout_of_the_checkpoint_they_start_from(pairs, tmp_path):
    base, output = tiny_checkpoint(tmp_path / "base", context_attention="late", context_size=7), tmp_path / "out"
    command = ["fit", str(pairs), "-o", str(output), "--base", str(base), "--config", "default"]
    settings = ["phase.0.batch_size=4", "phase.0.epochs=0", "phase.0.steps=1", "phase.0.warmup_steps=0"]
    settings += ["held_out.share=0.3", "held_out.least=2", "phase.0.train_length=24"]
    assert main([*command, *(word for setting in settings for word in ("--set", setting))]) == 0
    for text in ((output / "README.md").read_text(), (output / "run.toml").read_text()):
        assert 'context_attention = "late"' in text
        assert "context_size = 7\n" in text
        assert "cached" not in text


def test_a_plain_encoder_may_get_a_layout_that_reads_the_context_inside(config, pairs, tmp_path):
    output = tmp_path / "out"
    layout = ["model.context_attention=cached", "model.prompt_tokens=2", "phase.0.steps=1", "phase.0.eval_steps=0"]
    command = ["fit", str(pairs), "-o", str(output), "--config", str(config)]
    assert main([*command, *(word for setting in layout for word in ("--set", setting))]) == 0
    model = ContextualEncoder.from_pretrained(output, device="cpu")
    assert (model.config.context_attention, model.config.prompt_tokens, model.head_settings) == ("cached", 2, None)
    card = (output / "README.md").read_text()
    assert "A two-stage contextual document encoder, made with" in card
    assert "vector and words" not in card


def test_steps_alone_go_from_files_to_files(config, pairs, tmp_path, capsys):
    def run(*arguments):
        assert main([*map(str, arguments)]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    options = ("--config", config)
    vectors, clusters, batches = tmp_path / "vectors", tmp_path / "c.safetensors", tmp_path / "b.npy"
    assert run("embed", pairs, "-o", vectors, *options)["texts"] == 80
    assert run("cluster", pairs, "--vectors", vectors, "-o", clusters, *options)["pairs"] == 40
    files = ("--vectors", vectors, "--clusters", clusters, "-o", batches)
    packed = run("pack", pairs, *files, "--batch-size", 5, "--epochs", 2, *options)
    assert (packed["rows"], packed["batch_size"]) == (16, 5)
    assert np.sort(np.load(batches)[:8].ravel()).tolist() == list(range(40))
    report = run("filter", pairs, "--vectors", vectors, "--batches", batches, "-o", tmp_path / "r.json", *options)
    assert (report["batches"], report["queries"]) == (16, 80)
    assert json.loads((tmp_path / "r.json").read_text())["total"]["false_negatives"] == report["false_negatives"]


def test_steps_alone_give_what_fit_gives(finished, config, tmp_path):
    work, options = finished / "work", ["--config", str(config)]
    data = [str(work / "data" / "pairs.jsonl"), "--vectors", str(work / "vectors")]
    clusters, batches = tmp_path / "clusters.safetensors", tmp_path / "batches.npy"
    assert main(["cluster", *data, "-o", str(clusters), *options]) == 0
    assert clusters.read_bytes() == (work / "data" / "clusters.safetensors").read_bytes()
    assert main(["pack", *data, "--clusters", str(clusters), "-o", str(batches), *options]) == 0
    assert batches.read_bytes() == (work / "phase-weak" / "batches.npy").read_bytes()
    report = tmp_path / "filter.json"
    assert main(["filter", *data, "--batches", str(batches), "-o", str(report), *options]) == 0
    assert report.read_bytes() == (work / "phase-weak" / "filter.json").read_bytes()


def test_settings_without_a_phase_have_no_batches(pairs, tmp_path, capsys):
    for step, files in (("pack", ["--clusters", "c.safetensors"]), ("filter", ["--batches", "b.npy"])):
        command = [step, str(pairs), "--vectors", "vectors", *files, "-o", str(tmp_path / "out")]
        assert main([*command, "--config", "untrained"]) == 2
        assert "phase is empty, and batches are those of phase.0" in capsys.readouterr().err


def test_a_step_without_its_input_says_which(pairs, tmp_path, capsys):
    assert main(["cluster", str(pairs), "--vectors", str(tmp_path), "-o", str(tmp_path / "c")]) == 2
    assert "holds no vectors" in capsys.readouterr().err


def say_what_is_written(event, arguments):
    """Say which process puts which file in its place: whole files are renamed to it."""
    if event == "os.rename":
        sys.stderr.write(f"process {os.environ['RANK']} wrote {arguments[1]}\n")


if __name__ == "__main__":
    sys.addaudithook(say_what_is_written)
    sys.exit(main())
