"""Train cells of the table in rungs and measure after each, so that an effect that grows is seen growing.

    python -m benchmarks.ablation.curves benchmarks/ablation/curves.toml --until 65536 --seeds 0 1 2
    python -m benchmarks.ablation.curves benchmarks/ablation/curves.toml --page docs/figures/ablation-curves
    python -m benchmarks.ablation.curves benchmarks/ablation/held_out.toml --page docs/figures/ablation-held-out

A rung ends where the pairs seen are twice those of the rung before it. It begins with that one's weights, warms up and
decays to zero by itself, so that every point of a curve is a finished model, and a later session adds rungs without
repeating any. Rungs are taken breadth first: all cells and seeds at one size, then at the next. What is done is kept;
a killed rung goes on from its saved state; several processes may work at once, as in `benchmarks.ablation`.
"""

import argparse
import json
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ablation.__main__ import Run, data_config, gate_of, ndcg, plan, taken
from benchmarks.ablation.curves_page import write_page
from benchmarks.ablation.data import draw_pairs, held_out_sets
from benchmarks.hardness import batch_difficulty
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_train.batching.clustering import Clustering, cluster_pairs
from cde_train.batching.false_negatives import FilterConfig
from cde_train.batching.packing import Packer, PackingConfig
from cde_train.batching.spherical_kmeans import ClusteringConfig
from cde_train.data.pairs import TrainingPair, texts_of
from cde_train.data.retrieval_sets import find_retrieval_sets, read_retrieval_set
from cde_train.training.batches import TrainingSet
from cde_train.training.config import StartConfig, TrainConfig
from cde_train.training.start import start_from
from cde_train.training.trainer import train
from cde_train.vectors.surrogate import embed_texts, load_surrogate, surrogate_identity
from cde_train.vectors.text_vectors import TextVectors


def read_settings(file: Path) -> dict[str, Any]:
    """Return what a file says; joined with the file that it ``extends``, but for that one's cells and effects."""
    own = tomllib.loads(file.read_text())
    if "extends" not in own:
        return own
    base = read_settings(file.with_name(own.pop("extends"))) | {"cell": {}, "effects": {}}
    return base | {key: base[key] | value if isinstance(value, dict) else value for key, value in own.items()}


@dataclass(frozen=True)
class Rung:
    """One cell with one seed, from the pairs seen where it begins to those where it ends."""

    run: Run
    begin: int
    end: int

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.run.folder / str(self.end)

    @property
    def result(self) -> Path:
        """What it found."""
        return self.folder / "result.json"

    @property
    def model(self) -> Path:
        """Its checkpoint."""
        return self.folder / "model"

    @property
    def start(self) -> Path | None:
        """The checkpoint that it goes on from, None for the first rung."""
        return self.run.folder / str(self.begin) / "model" if self.begin else None


def rungs(config: dict[str, Any], until: int, cells: Sequence[str], seeds: Sequence[int]) -> Iterator[Rung]:
    """Yield the rungs that end at `until` pairs or before, breadth first; of some cells and seeds, or of all."""
    runs = [run for run in plan(config) if run.cell in (cells or config["cell"]) and run.seed in (seeds or [run.seed])]
    begin, end = 0, config["first_rung"]
    while end <= until:
        yield from (Rung(run, begin, end) for run in runs)
        begin, end = end, 2 * end


@dataclass(frozen=True)
class Pairs:
    """What all rungs are trained on: the pairs, and the surrogate's vectors of their texts."""

    pairs: list[TrainingPair]
    vectors: TextVectors

    @classmethod
    def draw(cls, config: dict[str, Any]) -> "Pairs":
        """Draw the pairs and embed what is not embedded yet."""
        data = data_config(config)
        pairs, surrogate = draw_pairs(data), load_surrogate(data.surrogate)
        identity = surrogate_identity(surrogate, Path(data.surrogate).name)
        return cls(
            pairs, embed_texts(texts_of(pairs), surrogate, Path(config["output"]) / "surrogate", identity=identity)
        )

    def cluster(self, settings: dict[str, Any], output: Path) -> Clustering:
        """Return a cell's clusters, found once: of each domain, or where ``mixed`` is true of everything together."""
        settings = dict(settings)
        mixed = settings.pop("mixed", False)
        file = (
            output
            / f"clusters-{'mixed' if mixed else settings['method']}-{settings.get('cluster_size', 0)}.safetensors"
        )
        if not file.exists():
            domains = ["everything" if mixed else pair.domain for pair in self.pairs]
            cluster_pairs(*self.views(), domains, ClusteringConfig(**settings), show_progress=False).save(file)
        return Clustering.load(file)

    def views(self) -> tuple[Any, Any]:
        """Return the vectors of queries and of documents, (N, d) each, left on disk."""
        return self.vectors.view([p.query for p in self.pairs]), self.vectors.view([p.document for p in self.pairs])

    def difficulty(self, batches: NDArray[np.int64], most: int = 100) -> float:
        """Return how hard batches are on average, (m, batch size); of the first `most` of them."""
        queries, documents = self.views()
        rows = np.unique(batches[:most])
        found = batch_difficulty(queries[rows], documents[rows], np.searchsorted(rows, batches[:most]))
        return float(found.mean())


def perform(rung: Rung, config: dict[str, Any], data: Pairs) -> dict[str, Any]:
    """Train and measure a rung, and return what was found."""
    run = rung.run
    settings = config["train"] | run.settings.get("train", {})
    size = settings["batch_size"]
    settings |= {"seed": run.seed, "steps": (rung.end - rung.begin) // size}
    settings["context_sizes"] = tuple(settings["context_sizes"])
    packer = Packer(data.cluster(run.settings["clustering"], run.output), PackingConfig(size, seed=run.seed))
    batches = packer.run(steps=rung.end // size)[rung.begin // size :]
    encoder = open_start(rung, config)
    began, cpu = time.monotonic(), time.process_time()
    states = rung.folder / "states"
    filtering = FilterConfig(**config.get("filtering", {}) | run.settings.get("filtering", {}))
    trained = train(encoder, TrainingSet(data.pairs, batches, data.vectors, filtering), TrainConfig(**settings), states)
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    encoder.save_pretrained(rung.model, dtype=torch.float32)
    losses = [row["loss"] for row in trained.log if "loss" in row]
    return {
        "cell": run.cell,
        "seed": run.seed,
        "pairs": rung.end,
        "batch_difficulty": data.difficulty(batches),
        "training_seconds": seconds,
        "training_cpu_seconds": cpu_seconds,
        "last_loss": float(np.mean(losses[-20:])),
        "gate": gate_of(encoder),
        "sets": measure(encoder, run, config),
    }


def open_start(rung: Rung, config: dict[str, Any]) -> ContextualEncoder:
    """Return what a rung begins with."""
    if rung.start is not None:
        return ContextualEncoder.from_pretrained(rung.start, device="cpu")
    layout = rung.run.settings.get("context_attention", "cached")
    sizes = {name: config["start"][name] for name in ("max_length", "context_size")}
    encoder = start_from(
        config["start"]["base"], StartConfig("curves", context_attention=layout, **sizes), rung.run.seed
    )
    if layout == "cached":
        torch.nn.init.constant_(encoder.open_model().second_stage.gate, config["start"]["gate"])
    return encoder


def measure(encoder: ContextualEncoder, run: Run, config: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return nDCG@10, from 0 to 1, of every set, or of every domain held out, under every context of the cell."""
    if "held_out" in config:
        sets = held_out_sets(data_config(config), config["held_out"])
    else:
        paths = [path for path in find_retrieval_sets(config["evaluation"]) if path.name in config["sets"]]
        sets = [read_retrieval_set(path) for path in paths]
    return {
        data.name: {c: ndcg(encoder, data, c, sets[(i + 1) % len(sets)]) for c in run.settings["contexts"]}
        for i, data in enumerate(sets)
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation.curves", description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--until", type=int, default=2**21, help="pairs that a run sees in all")
    parser.add_argument("--cells", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[])
    parser.add_argument("--page", type=Path, help="write PAGE.json, PAGE.md and the figure from what is done")
    options = parser.parse_args(arguments)
    config = read_settings(options.config)
    chosen = list(rungs(config, options.until, options.cells, options.seeds))
    if options.page:
        results = [json.loads(rung.result.read_text()) for rung in chosen if rung.result.exists()]
        write_page(options.config, config, results, options.page)
        return 0
    data = Pairs.draw(config)
    for rung in chosen:
        with taken(rung.folder) as mine:
            if mine and not rung.result.exists() and (rung.start is None or rung.start.exists()):
                result = perform(rung, config, data)
                write_atomically(rung.result, json.dumps(result, indent=2).encode())
                shutil.rmtree(rung.folder / "states")
                print(json.dumps({k: v for k, v in result.items() if k != "sets"}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
