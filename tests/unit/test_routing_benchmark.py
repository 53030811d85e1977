"""The benchmark of several contexts: its rankings are those of the sets, routed or not."""

import json

from benchmarks import routing
from tests.tiny import HEADED, tiny_encoder
from tests.unit.test_quality import write_sets


def test_sets_are_searched_alone_together_and_routed(tmp_path):
    folder, sets = tiny_encoder(**HEADED).save_pretrained(tmp_path / "model"), write_sets(tmp_path / "sets")
    output = tmp_path / "routing.json"
    shared = ["--cache", str(tmp_path / "cache"), "--dtype", "float32", "--output", str(output)]
    routing.main([str(folder), str(sets), "--only", "a", "b", "--cost", "2", *shared])
    stated = json.loads(output.read_text())
    found = {row["row"]: (row["a"], row["b"]) for row in stated["results"]}
    clusters = {f"routed, a context a cluster, {which} asked" for which in ("1", "that of the answers")}
    assert {"one context of all", "null context", "context of a", *clusters} < found.keys()
    every = found["routed, a context a set, 2 asked"]
    assert every == found["routed, a context a set, 5 asked"], "there are two"
    assert all(value <= alone for value, alone in zip(every, found["each set alone"], strict=True))
    assert stated["cost"].keys() == {"one index", *(f"{n} contexts" for n in routing.ASKED)}
    assert "| each set alone |" in output.with_suffix(".md").read_text()
    routing.main([str(folder), str(sets), "--only", "a", "b", *shared])
    assert json.loads(output.read_text()) == stated, "times that were measured are kept"
