"""Run the ablation, or write its tables.

    python -m benchmarks.ablation benchmarks/ablation/ablation.toml                 # every run not done yet
    python -m benchmarks.ablation benchmarks/ablation/ablation.toml --only both-0   # one run, by cell and seed
    python -m benchmarks.ablation benchmarks/ablation/ablation.toml --table docs/figures/ablation

A run trains one cell of the table with one seed and retrieves over the full corpus of every evaluation set. What is
done is kept (``result.json`` in the run's folder), a killed run goes on from its saved state, and several processes may
work at the same list: each takes what nobody has taken.
"""

import argparse
import fcntl
import json
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ablation.data import DataConfig, draw_pairs, embed_pairs, unseen_sets
from benchmarks.ablation.table import write_tables
from benchmarks.hardness import batch_difficulty
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.loaded_model import Vectors
from cde_retriever.errors import TruncationWarning
from cde_retriever.files.replacing import write_atomically
from cde_train.batching.clustering import cluster_pairs
from cde_train.batching.false_negatives import FilterConfig
from cde_train.batching.packing import Packer, PackingConfig
from cde_train.batching.spherical_kmeans import ClusteringConfig
from cde_train.data.pairs import TrainingPair
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, read_retrieval_set
from cde_train.evaluation.comparison import rank_in_context
from cde_train.evaluation.ranking import evaluate
from cde_train.evaluation.ranking import measure as measure_ranking
from cde_train.training.batches import TrainingSet
from cde_train.training.config import StartConfig, TrainConfig
from cde_train.training.start import start_from
from cde_train.training.trainer import train
from cde_train.vectors.surrogate import FirstStage, embed_texts
from cde_train.vectors.text_vectors import TextVectors


@dataclass(frozen=True)
class Run:
    """One cell with one seed, and the folder of what it leaves."""

    cell: str
    seed: int
    settings: dict[str, Any]
    output: Path

    @property
    def folder(self) -> Path:
        """Where the run's files are."""
        return self.output / f"{self.cell}-{self.seed}"

    @property
    def result(self) -> Path:
        """What it found."""
        return self.folder / "result.json"


def plan(config: dict[str, Any]) -> list[Run]:
    """Return all runs, seed by seed, so that every cell has a figure early; cells that are `last` come last."""
    runs = [
        Run(name, seed, cell, Path(config["output"]))
        for seed in config["seeds"]
        for name, cell in config["cell"].items()
        if seed in cell.get("seeds", config["seeds"])
    ]
    return sorted(runs, key=lambda run: bool(run.settings.get("last")))


@contextmanager
def taken(folder: Path) -> Iterator[bool]:
    """Take a run's folder for this process; say whether nobody else has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def data_config(config: dict[str, Any]) -> DataConfig:
    """Return the draw of pairs that the configuration asks for."""
    return DataConfig(**{**config["data"], "leave_out": tuple(config["data"]["leave_out"])})


def training_pairs(config: dict[str, Any]) -> tuple[list[TrainingPair], TextVectors, Vectors, Vectors]:
    """Return the pairs, the surrogate's vectors, and of these the queries' and the documents', (N, d) each."""
    data = data_config(config)
    pairs = draw_pairs(data)
    vectors = embed_pairs(pairs, data, Path(config["output"]) / "surrogate")
    return pairs, vectors, vectors.take([p.query for p in pairs]), vectors.take([p.document for p in pairs])


def start_encoder(config: dict[str, Any], name: str) -> ContextualEncoder:
    """Return the start, whose first stage is what all runs share."""
    return start_from(config["start"]["base"], StartConfig(name, max_length=config["start"]["max_length"]))


def perform(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """Train, evaluate, and return what was found."""
    pairs, vectors, queries, documents = training_pairs(config)
    clustering = cluster_pairs(
        queries,
        documents,
        [pair.domain for pair in pairs],
        ClusteringConfig(**run.settings["clustering"]),
        show_progress=False,
    )
    settings = config["train"] | run.settings.get("train", {}) | {"seed": run.seed}
    settings["context_sizes"] = tuple(settings["context_sizes"])
    training = TrainConfig(**settings)
    batches = Packer(clustering, PackingConfig(training.batch_size, seed=run.seed)).run(steps=training.steps)
    hardness = batch_difficulty(queries, documents, batches)
    start = StartConfig(
        "ablation",
        context_attention=run.settings.get("context_attention", "cached"),
        context_size=config["start"]["context_size"],
        max_length=config["start"]["max_length"],
    )
    encoder = start_from(config["start"]["base"], start, run.seed)
    first_stage = embed_context_documents(pairs, config, run.output / "first_stage")
    began, cpu = time.monotonic(), time.process_time()
    trained = train(
        encoder,
        TrainingSet(
            pairs, batches, vectors, FilterConfig(**run.settings.get("filtering", {})), dataset_embeddings=first_stage
        ),
        training,
        run.folder / "training",
    )
    spent = {"training_seconds": time.monotonic() - began, "training_cpu_seconds": time.process_time() - cpu}
    losses = [row["loss"] for row in trained.log if "loss" in row]
    return {
        "cell": run.cell,
        "seed": run.seed,
        "settings": run.settings,
        "batch_difficulty": float(hardness.mean()),
        "cluster_sizes": np.percentile(clustering.sizes, [0, 25, 50, 75, 100]).tolist(),
        **spent,
        "steps": trained.steps,
        "last_loss": float(np.mean(losses[-10:])),
        "gate": gate_of(encoder),
        "sets": measure(encoder, run, config),
    }


def embed_context_documents(pairs: list[TrainingPair], config: dict[str, Any], folder: Path) -> TextVectors:
    """Return the frozen first stage's vectors of all documents; every run starts from the same one."""
    if not folder.is_dir():
        encoder = start_encoder(config, "first stage")
        encoder.open_model().to(torch.bfloat16)
        part = folder.with_name(folder.name + ".part")
        embed_texts([pair.document for pair in pairs], FirstStage(encoder), part, identity=config["start"]["base"])
        part.rename(folder)
    return TextVectors.open(folder)


def plain_scores(config: dict[str, Any]) -> dict[str, float]:
    """Return nDCG@10 of the start without training or context, by set; kept once measured."""
    file = Path(config["output"]) / "plain.json"
    found: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    encoder = start_encoder(config, "start")
    encoder.open_model().to(torch.bfloat16)
    for path in find_retrieval_sets(config["evaluation"]):
        data = read_retrieval_set(path)
        if data.name not in found:
            vectors = encoder.encode_first_stage(data.queries), encoder.encode_first_stage(data.documents)
            found[data.name] = evaluate(data, *vectors).means()["ndcg_at_10"]
            write_atomically(file, json.dumps(found, indent=2).encode())
    return found


def cluster_sweep(
    config: dict[str, Any], sizes: Sequence[int] = (64, 128, 256, 512, 1024, 2048)
) -> list[dict[str, Any]]:
    """Return how hard one epoch's batches are for each size of clusters, and for random batches of one domain."""
    file = Path(config["output"]) / "cluster_sizes.json"
    if file.exists():
        done: list[dict[str, Any]] = json.loads(file.read_text())
        return done
    pairs, _, queries, documents = training_pairs(config)
    rows = []
    for size in (0, *sizes):
        clustering = ClusteringConfig(cluster_size=size) if size else ClusteringConfig(method="domain")
        clusters = cluster_pairs(queries, documents, [pair.domain for pair in pairs], clustering, show_progress=False)
        batches = Packer(clusters, PackingConfig(config["train"]["batch_size"])).run(epochs=1)
        rows.append(
            {"cluster_size": size, "batch_difficulty": float(batch_difficulty(queries, documents, batches).mean())}
        )
    write_atomically(file, json.dumps(rows, indent=2).encode())
    return rows


def gate_of(encoder: ContextualEncoder) -> list[float]:
    """Return quartiles of the gate, or the few numbers of a late head."""
    second = encoder.open_model().second_stage
    numbers = [p.detach().flatten() for name, p in second.named_parameters() if "." not in name and 0 < p.numel() < 300]
    return torch.cat(numbers).quantile(torch.linspace(0, 1, 5)).tolist() if numbers else []


def measure(encoder: ContextualEncoder, run: Run, config: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return nDCG@10 of every set under every context of the cell; keeps what is done."""
    file = run.folder / "sets.json"
    found: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    encoder.open_model().to(torch.bfloat16)
    names = [str(path) for path in find_retrieval_sets(config["evaluation"])]
    sets = [read_retrieval_set(name) for name in names]
    for i, data in enumerate(sets):
        done = found.setdefault(data.name, {})
        for context in run.settings["contexts"]:
            if context not in done:
                done[context] = ndcg(encoder, data, context, sets[(i + 1) % len(sets)])
                write_atomically(file, json.dumps(found, indent=2).encode())
    return found


def measure_unseen(runs: list[Run], config: dict[str, Any]) -> None:
    """Measure finished runs, and the start, on pairs of the training domains that were not trained on."""
    sets = unseen_sets(data_config(config))
    start = Path(config["output"]) / "unseen_start.json"
    if not start.exists():
        encoder = start_encoder(config, "start")
        found = {
            s.name: evaluate(s, encoder.encode_first_stage(s.queries), encoder.encode_first_stage(s.documents)).means()
            for s in sets
        }
        write_atomically(start, json.dumps({name: means["ndcg_at_10"] for name, means in found.items()}).encode())
    for run in runs:
        file = run.folder / "unseen.json"
        if not file.exists():
            steps = json.loads(run.result.read_text())["steps"]
            encoder = ContextualEncoder.from_pretrained(run.folder / "training" / f"checkpoint-{steps}")
            encoder.open_model().to(torch.bfloat16)
            own = run.settings["contexts"][0]
            scores = {s.name: ndcg(encoder, s, own, s) for s in sets}
            write_atomically(file, json.dumps(scores).encode())


def unseen_of(run: Run) -> dict[str, Any]:
    """Return what `measure_unseen` found of a run."""
    file = run.folder / "unseen.json"
    return {"unseen": json.loads(file.read_text())} if file.exists() else {}


def ndcg(encoder: ContextualEncoder, data: RetrievalSet, context: str, foreign: RetrievalSet) -> float:
    """Return nDCG@10 from 0 to 1 under a context: the corpus's own, the next set's, or none."""
    source = {"corpus": data.documents, "foreign": foreign.documents, "null": None}[context]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        ranking = rank_in_context(encoder.fork(), data, source)
    return measure_ranking(data, ranking).means()["ndcg_at_10"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--only", nargs="*", help="runs, as CELL-SEED")
    parser.add_argument(
        "--unseen", action="store_true", help="also measure pairs of the training domains not trained on"
    )
    parser.add_argument("--table", type=Path, help="write PATH.json, PATH.md and figures from what is done")
    options = parser.parse_args(arguments)
    config = tomllib.loads(options.config.read_text())
    runs = plan(config)
    if options.table:
        done = [json.loads(run.result.read_text()) | unseen_of(run) for run in runs if run.result.exists()]
        write_tables(done, options.table, plain_scores(config), cluster_sweep(config))
        return 0
    if options.unseen:
        measure_unseen([run for run in runs if run.result.exists()], config)
        return 0
    for run in runs:
        if options.only and f"{run.cell}-{run.seed}" not in options.only:
            continue
        with taken(run.folder) as mine:
            if mine and not run.result.exists():
                result = perform(run, config)
                write_atomically(run.result, json.dumps(result, indent=2).encode())
                print(json.dumps({k: result[k] for k in ("cell", "seed", "training_seconds", "last_loss")}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
