"""`cde-train report`: the figures of a run's own files, in a real browser, at any moment, and nothing is written to."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cde_retriever.files.hashing import files_of, hash_file
from cde_train.batching.packing import load_batches
from cde_train.cli import main
from cde_train.data.readers import read_pairs
from cde_train.report.run_page import write_run_page
from cde_train.vectors.text_vectors import TextVectors
from tests.unit.test_comparison import made
from tests.unit.test_model_card import VALUES

RUN = Path(__file__).parent.parent / "fixtures" / "fit" / "full"


@pytest.fixture
def run(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    return tmp_path / "run"


def rows_of(folder, part):
    (file,) = folder.glob(f"*{part}*.csv")
    return list(csv.reader(file.open()))


def test_the_page_shows_the_runs_own_figures(run, opened, capsys, tmp_path):
    before = {file: hash_file(file) for file in files_of(run)}
    assert main(["report", str(run), "-o", str(tmp_path / "seen")]) == 0
    assert {file: hash_file(file) for file in files_of(run)} == before
    file = tmp_path / "seen" / "report.html"
    assert json.loads(capsys.readouterr().out) == {"page": str(file)}
    found = opened.go(file)
    assert found.errors == []
    assert found.only_asked_for(file)
    found.screenshot("run")
    log = json.loads((run / "work/phase-training/states/checkpoint-2/trainer_state.json").read_text())["log_history"]
    assert rows_of(file.parent, "loss")[1:] == [["loss", str(r["step"]), str(r["loss"])] for r in log if "loss" in r]
    text = found.page.inner_text("main")
    assert "It is not finished" in text
    left_out = json.loads((run / "work/phase-training/filter.json").read_text())
    for example in left_out["examples"]:
        assert found.page.get_by_role("cell", name=example["dropped"], exact=True).count() >= 1


def test_a_finished_run_says_what_to_do_and_shows_every_way_it_was_compared_with(run, opened, tmp_path):
    manifest = run / "work/manifest.json"
    values = json.loads(manifest.read_text())
    said = {"advice": "Stay with the start.", "verdicts": ["It is worse than BM25."]}
    values["steps"]["report"] = {"files": {}, "report": said, "seconds": 1.0}
    manifest.write_text(json.dumps(values))
    (run / "work/report").mkdir()
    (run / "work/report/report.json").write_text(json.dumps(made(VALUES).to_dict()))
    found = opened.go(write_run_page(run).save(tmp_path / "report.html", tables=True))
    assert found.errors == []
    assert found.page.locator("main p").first.inner_text() == "Stay with the start."
    hybrid = "BM25 0.4 + plain backbone 0.6"
    assert f"{hybrid}\t75\t75\t75" in found.page.get_by_role("table", name="held-out part").inner_text()
    (row,) = [row for row in rows_of(tmp_path, "minus") if row[0] == hybrid]
    assert [float(value) for value in row[1:]] == pytest.approx([-20, -20, -20])


def test_difficulty_is_what_batching_maximises(run, tmp_path):
    write_run_page(run).save(tmp_path / "report.html", tables=True)
    pairs, vectors = read_pairs(run / "work/data/pairs.jsonl"), TextVectors.open(run / "work/vectors")
    batches = load_batches(run / "work/phase-training/batches.npy", pairs=len(pairs))
    shown = rows_of(tmp_path, "difficulty")[1:]
    assert len(shown) == len(batches)
    for batch, (_, _, said) in zip(batches, shown, strict=True):
        q, d = (vectors.take([getattr(pairs[i], side) for i in batch]) for side in ("query", "document"))
        cosines = (q @ d.T + d @ q.T) / 2
        others = cosines[~np.eye(len(batch), dtype=bool)]
        assert float(said) == pytest.approx(others.mean(), abs=1e-5)


def test_a_run_that_has_hardly_begun_has_a_page(run, opened, tmp_path):
    shutil.rmtree(run / "work/phase-training")
    (run / "work/data/clusters.safetensors").unlink()
    found = opened.go(write_run_page(run).save(tmp_path / "report.html"))
    assert found.errors == []
    assert found.page.locator(".plot").count() == 0
    assert found.page.get_by_role("heading", name="Phase training").count() == 1


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run; give the folder that cde-train fit wrote to" in capsys.readouterr().err


def test_times_and_environment_are_the_runs_own(run, opened, tmp_path):
    state = run / "work/phase-training/states/checkpoint-2/trainer_state.json"
    kept = json.loads(state.read_text())
    for step, entry in enumerate(kept["log_history"][:2]):
        entry |= {"seconds_batch": 0.5, "seconds_first_pass": 1.0, "seconds_second_pass": 2.0 + step}
    state.write_text(json.dumps(kept))
    manifest = run / "work/manifest.json"
    values = json.loads(manifest.read_text())
    values["steps"]["data"]["seconds"] = 12.5
    values["environments"] = [{"torch": "2.1", "device": "cpu"}, {"torch": "2.2", "device": "cpu"}]
    manifest.write_text(json.dumps(values))
    page = opened.go(write_run_page(run).save(tmp_path / "report.html")).page
    batch, an_epoch = 4, values["steps"]["training batches"]["report"]["batches_an_epoch"]
    said = f"{batch / 4:.1f} pairs a second: a step of 4 takes 4.00 s, an epoch of {an_epoch} steps {4 * an_epoch} s."
    assert page.get_by_text(said).is_visible()
    table = page.get_by_role("table", name="Where a step of training spends its time")
    assert [row.inner_text().split("\t") for row in table.locator("tbody tr").all()] == [
        ["batch", "0.5", "12"],
        ["first pass", "1", "25"],
        ["second pass", "2.50", "62"],
    ]
    assert "data\t12.50" in page.get_by_role("table", name="Time of each step").inner_text()
    assert "torch\t2.1\t2.2" in page.get_by_role("table", name="What it ran on").inner_text()


def test_a_long_text_is_shown_in_part_and_what_is_empty_is_said(run):
    file = run / "work/phase-training/filter.json"
    left_out = json.loads(file.read_text())
    left_out["examples"][0]["dropped"] = "many words " * 1000
    file.write_text(json.dumps(left_out))
    shown = write_run_page(run).to_html()
    assert f"<td>{27 * 'many words '}…</td>" in shown
    assert "<td>skipped</td><td>none</td>" in shown
