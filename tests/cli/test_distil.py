"""`cde-train fit --config distil`, end to end on a tiny plain encoder."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cde_retriever.cli.main import main as cde
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.cli import main
from cde_train.distillation.student import Law
from cde_train.run import distil
from tests.tiny import documents, plain_encoder, tiny_checkpoint

LEARNED = ("directions", "topics", "levelling", "topic_weight")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Return the command's arguments but the output."""
    place = tmp_path_factory.mktemp("distil")
    base, file = plain_encoder(place / "plain"), place / "words.jsonl"
    texts = documents(120, seed=3, words=30)
    rows = [{"query": " ".join(text.split()[1:6]) + f" {i}", "document": text} for i, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("model.max_length=48", "held_out.share=0.4", "model.context_size=64")
    return ["fit", str(file), "--config", "distil", "--base", str(base), *(w for s in settings for w in ("--set", s))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, command):
    """Return the output of a run whose start weighs topics so little that learning is bound to help."""
    output = tmp_path_factory.mktemp("finished") / "my-cde"
    with pytest.MonkeyPatch.context() as patch:
        poor = replace(HeadSettings.short(32), directions=20, topics=11, levelling=0.0, topic_weight=0.01)
        patch.setattr(HeadSettings, "short", classmethod(lambda *_: poor))
        assert main([*command, "-o", str(output)]) == 0
    return output


def head(folder: Path) -> dict[str, float]:
    return json.loads((folder / "config.json").read_text())["corpus_head"]


def test_what_was_learned_is_delivered_where_it_is_better(finished):
    assert {path.name for path in finished.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "report.json", "run.toml", "tokenizer.json", "work")
    }
    steps = json.loads((finished / "work/manifest.json").read_text())["steps"]
    assert steps["report"]["report"]["delivered"] == "what was learned"
    learned = steps["distillation"]["report"]
    kept = {name: learned[name] for name in LEARNED if learned[name]}  # a levelling of 0 is not written
    assert head(finished) == head(finished / "work/start") | kept
    assert learned["topic_weight"] > 0.02
    assert learned["divergence"] < learned["divergence_before"]
    encoder = ContextualEncoder.from_pretrained(finished, device="cpu")
    assert (encoder.config.name, encoder.dimension, encoder.config.context_size) == ("my-cde", 32, 64)


def test_the_report_has_start_plain_null_and_foreign_with_intervals(finished):
    report = json.loads((finished / "report.json").read_text())
    found = {d["rival"]: d for d in report["differences"]}
    assert {"start", "plain", "null", "foreign", "mixture", "bm25"} <= found.keys()
    assert found["start"]["low"] > 0
    means = {mode: values["ndcg_at_10"] for mode, values in report["means"].items()}
    assert found["start"]["mean"] == pytest.approx(means["corpus"] - means["start"])
    ranked = {result["mode"]: result["ndcg_per_query"] for result in report["results"]}
    assert ranked["foreign"] not in (ranked["corpus"], ranked["null"])
    card = (finished / "README.md").read_text()
    assert "- It is better than the model it started from: +" in card
    assert re.search(r"\*\*(Take this model|Use .* better than this model)", card)
    sections = re.findall(r"^\[(.*)\]$", card.split("```toml")[1], re.MULTILINE)
    assert sections == ["model", "surrogate", "held_out", "distillation"]  # and no more: these are what it used
    assert "context_attention" not in card
    assert "Foreign context: the reference of the Python language." in card
    assert distil.KEPT not in card
    assert (
        "# my-cde\n\nAn encoder with a short vector that knows the corpus it searches, made with `cde-train`." in card
    )
    assert "two-stage" not in card


def test_a_finished_run_is_not_done_again(finished, command, capsys):
    before = {path: path.stat().st_mtime_ns for path in (finished / "work").rglob("*")}
    assert main([*command, "-o", str(finished)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (finished / "work").rglob("*")} == before
    assert json.loads(capsys.readouterr().out)["delivered"] == "what was learned"


def test_the_start_is_kept_where_nothing_better_was_learned(command, tmp_path, monkeypatch):
    monkeypatch.setattr(Law, "put_into", lambda _, start: HeadSettings(**{**vars(start), "levelling": 3.0}))
    output = tmp_path / "out"
    assert main([*command, "-o", str(output)]) == 0
    assert head(output / "work/model")["levelling"] == 3.0
    assert (output / "config.json").read_bytes() == (output / "work/start/config.json").read_bytes()
    card = (output / "README.md").read_text()
    assert distil.KEPT in card
    assert "It is better than the model it started from" not in card
    assert f"**Stay with {distil.THE_START}" in card or f"better than {distil.THE_START}" in card


def test_a_run_killed_in_every_step_ends_with_the_same_checkpoint(command, tmp_path):
    class Killed(BaseException):
        pass

    def die(*_arguments, **_options):
        raise Killed

    undisturbed, output = tmp_path / "undisturbed" / "my-cde", tmp_path / "killed" / "my-cde"
    assert main([*command, "-o", str(undisturbed)]) == 0
    for name in ("embed_texts", "learn", "compare_learned", "write_model_card"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distil, name, die)
            with pytest.raises(Killed):
                main([*command, "-o", str(output)])
        assert not (output / "config.json").exists()
    assert main([*command, "-o", str(output)]) == 0
    for name in ("config.json", "model.safetensors", "report.json"):
        assert (output / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_a_checkpoint_without_a_short_vector_is_refused_before_anything_is_written(command, tmp_path, capsys):
    base = tiny_checkpoint(tmp_path / "base", context_attention="late")
    assert main([*command, "-o", str(tmp_path / "out"), "--base", str(base)]) == 2
    assert "has no short vector, whose numbers are learned" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_short_vector_whose_queries_are_fitted_is_refused(command, tmp_path, capsys):
    base = command[command.index("--base") + 1]
    assert cde(["wrap", base, "-o", str(tmp_path / "base"), "--pooling", "mean", "--vector-size", "16"]) == 0
    assert main([*command, "-o", str(tmp_path / "out"), "--base", str(tmp_path / "base")]) == 2
    said = capsys.readouterr().err
    assert "fits queries to its short vector, as of cde wrap --vector-size, and needs nothing learned" in said
    assert not (tmp_path / "out").exists()


def test_more_numbers_than_the_encoder_has_are_refused_and_it_is_loaded_once(command, tmp_path, capsys, monkeypatch):
    loaded, from_spec = [], ContextualEncoder.from_spec
    monkeypatch.setattr(ContextualEncoder, "from_spec", lambda spec: loaded.append(spec) or from_spec(spec))
    assert main([*command, "-o", str(tmp_path / "out"), "--set", "distillation.vector_size=33"]) == 2
    said = capsys.readouterr().err
    assert "distillation.vector_size is 33, but vectors of" in said
    assert "have 32 numbers; give at most so many, or 0 for those" in said
    assert [spec.reading.max_length for spec in loaded] == [48]
