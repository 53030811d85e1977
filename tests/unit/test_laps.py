"""Times of the parts of training steps."""

import time

import torch

from cde_train.training import laps as timing
from cde_train.training.laps import Laps
from cde_train.training.trainer import train
from tests.tiny import tiny_encoder
from tests.unit.test_trainer import CONFIG, training_set


def test_parts_take_the_time_between_their_ends(monkeypatch):
    clock = iter([10.0, 11.0, 14.0, 14.5, 20.5])
    monkeypatch.setattr(timing, "perf_counter", lambda: next(clock))
    laps = Laps(torch.device("cpu"))
    for part in ("rest", "batch", "first pass", "batch"):
        laps.end(part)
    assert laps.take() == {"seconds_batch": 1.5, "seconds_first_pass": 3.0}
    laps.end("rest")
    assert laps.take() == {"seconds_rest": 6.0}


def test_a_run_logs_the_parts_of_each_step(tmp_path):
    began = time.perf_counter()
    result = train(tiny_encoder(), training_set(), CONFIG, tmp_path / "run")
    wall = time.perf_counter() - began
    logged = [{k: v for k, v in row.items() if k.startswith("seconds_")} for row in result.log if "loss" in row]
    names = [f"seconds_{part}" for part in ("batch", "first_pass", "loss", "second_pass")]
    assert [list(row) for row in logged] == [names, *[["seconds_rest", *names]] * (len(logged) - 1)]
    assert 0 < sum(sum(row.values()) for row in logged) < wall
    assert min(row["seconds_second_pass"] for row in logged) > 0
