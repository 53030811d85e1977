"""The steps before training, each from files to a file: what `cde-train fit` strings together.

    embed    texts of the pairs   -> folder of vectors
    cluster  pairs, vectors       -> clusters.safetensors
    pack     clusters             -> batches.npy
    filter   pairs, vectors, batches -> report of what the loss leaves out

Files are written whole or not at all.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from cde_retriever.checkpoint.folder import CONFIG_NAME, find_checkpoint
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError
from cde_retriever.files.replacing import write_atomically
from cde_train.batching.clustering import Clustering, ClusteringConfig, cluster_pairs
from cde_train.batching.difficulty import pair_difficulty
from cde_train.batching.packing import Packer, PackingConfig
from cde_train.data.pairs import TrainingPair
from cde_train.data.readers import read_data
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.errors import TrainingDataError
from cde_train.run.sections import RunConfig, SurrogateConfig
from cde_train.training.config import StartConfig
from cde_train.training.start import start_from
from cde_train.vectors.surrogate import (
    FirstStage,
    Surrogate,
    TextVectors,
    embed_texts,
    load_surrogate,
    surrogate_identity,
)

PAIRS = "pairs.jsonl"
Say = Callable[[str], None]


def read_step(path: str | os.PathLike[str], say: Say) -> list[TrainingPair]:
    """Read pairs for a step that needs them.

    Raises:
        TrainingDataError: if there are only documents.
    """
    found = read_data(path)
    if found.skipped:
        say(f"{path}: skipped " + ", ".join(f"{count} ({reason})" for reason, count in found.skipped.items()))
    if not found.pairs:
        raise TrainingDataError(
            f"{path} holds documents without queries; cde-train fit makes pairs of them, in OUT/work/data/{PAIRS}, "
            "which this command takes"
        )
    return found.pairs


def write_pairs(pairs: Iterable[TrainingPair], file: Path) -> None:
    """Write pairs as JSONL that `cde_train.data.readers.read_pairs` reads."""
    lines = (json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    write_atomically(file, "".join(lines).encode())


def write_retrieval_set(data: RetrievalSet, folder: Path) -> None:
    """Write a retrieval set that `cde_train.data.retrieval_sets.read_retrieval_set` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids, texts in (
        ("corpus.jsonl", data.document_ids, data.documents),
        ("queries.jsonl", data.query_ids, data.queries),
    ):
        rows = (
            json.dumps({"_id": key, "text": text}, ensure_ascii=False) for key, text in zip(ids, texts, strict=True)
        )
        write_atomically(folder / name, "".join(row + "\n" for row in rows).encode())
    judged = ((query, document, gain) for query, gains in data.relevant.items() for document, gain in gains.items())
    lines = (f"{query}\t0\t{document}\t{gain}\n" for query, document, gain in judged)
    write_atomically(folder / "qrels.tsv", "".join(lines).encode())


def open_surrogate(config: SurrogateConfig, start: Callable[[], ContextualEncoder]) -> tuple[Surrogate, str]:
    """Return the surrogate and its identity.

    Args:
        config: Which it is.
        start: Gives the model that training starts from, whose first stage is taken where none is named.
    """
    if config.model:
        surrogate = load_surrogate(config.model)
        return surrogate, surrogate_identity(surrogate, config.model)
    encoder = start()
    return cast(Surrogate, FirstStage(encoder)), f"first stage of {encoder.config.name}@{encoder.identity.sha256[:16]}"


def open_start(config: RunConfig, name: str) -> ContextualEncoder:
    """Return the model to start from.

    Raises:
        CheckpointError: if the base cannot be found or read.
        ConfigError: if settings differ from those of a CDE checkpoint; names each.
    """
    model = config.model
    folder, _ = find_checkpoint(model.base or None)
    settings = StartConfig(**{f.name: getattr(model, f.name) for f in fields(StartConfig)})
    if not is_cde_checkpoint(folder):
        return start_from(folder, replace(settings, name=name), config.phase[0].seed if config.phase else 0)
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu")
    faults = []
    for f in fields(StartConfig):
        asked, there, default = (
            getattr(settings, f.name),
            getattr(encoder.config, f.name),
            getattr(StartConfig("x"), f.name),
        )
        if f.name != "name" and asked not in (there, default):
            faults.append(f"model.{f.name} is {asked!r}, but the checkpoint {folder.name} has {there!r}")
    if faults:
        raise ConfigError("; ".join(faults) + "; leave it out, or start from a plain encoder")
    encoder.model.config = replace(encoder.config, name=name)
    return encoder


def is_cde_checkpoint(folder: Path) -> bool:
    """Tell a CDE checkpoint from a plain encoder."""
    file = folder / CONFIG_NAME
    return file.is_file() and "cde_format_version" in json.loads(file.read_text(encoding="utf-8"))


def texts_of(pairs: Sequence[TrainingPair]) -> list[str]:
    """Return every text of the pairs: queries, documents, hard negatives."""
    texts = [pair.query for pair in pairs] + [pair.document for pair in pairs]
    return texts + [text for pair in pairs for text in pair.negatives]


def embed_step(
    texts: Sequence[str], surrogate: tuple[Surrogate, str], config: SurrogateConfig, folder: Path
) -> TextVectors:
    """Embed the texts that the folder does not hold yet."""
    encoder, identity = surrogate
    return embed_texts(texts, encoder, folder, identity=identity, prompt=config.prompt, batch_size=config.batch_size)


def cluster_step(pairs: Sequence[TrainingPair], vectors: TextVectors, config: ClusteringConfig) -> Clustering:
    """Group the pairs of each domain."""
    return cluster_pairs(*_both_sides(pairs, vectors), [pair.domain for pair in pairs], config)


def packer(
    pairs: Sequence[TrainingPair], vectors: TextVectors, clustering: Clustering, config: PackingConfig
) -> Packer:
    """Return what packs the clusters, large ones split by difficulty."""
    difficulty = pair_difficulty(*_both_sides(pairs, vectors), clustering.labels)
    return Packer(clustering, config, difficulty.astype(np.float32))


def _both_sides(pairs: Sequence[TrainingPair], vectors: TextVectors) -> tuple[Any, Any]:
    """Return the vectors of queries and of documents, (N, d) each, left on disk until they are read."""
    return vectors.view([pair.query for pair in pairs]), vectors.view([pair.document for pair in pairs])
