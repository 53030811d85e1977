"""Embed shards on a Ray cluster, with Ray Data: few readers, many actors that each hold the model.

    pending shards by file ──tasks──▶ shards, one a row ──actors──▶ parts on disk, reports to the driver

- The context goes into the object store once (``ray.put``); an actor fetches it when it starts.
- A reader reads one file at a time, from its first pending shard on, and goes into the next where a shard does.
- Back-pressure is Ray Data's: a reader waits while what it has read fills its share of the object store.
- A shard of long documents does not travel: its actor reads it, a few megabytes at a time, as the local engine does.
- Ray Data restarts actors that die and gives their shards to an actor again, without limit; a part is written whole or
  not at all, so a shard embedded twice does no harm. An exception in Python ends the run instead.

All machines need this package, the checkpoint, and the folders of corpus and output under the same paths.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow

from cde_retriever.backends.kernels import keep_few_kernels
from cde_retriever.bulk.settings import BulkSettings
from cde_retriever.bulk.shards import PartReport, Shard, embed_shard, read_shards
from cde_retriever.context.context import Context
from cde_retriever.corpus.rows import Corpus, Document
from cde_retriever.errors import CDEError, ConfigError

try:
    import ray
    import ray.data
except ModuleNotFoundError as missing:
    raise ImportError(
        f'--engine ray needs Ray Data ({missing}); install it with: pip install "cde-retriever[ray]", or use '
        "--engine local, which needs no Ray"
    ) from missing

WORKERS_A_READER = 8
"""A reader reads thousands of times faster than a core embeds; few suffice, and they reserve no core."""
CHARACTERS_A_ROW = 32_000_000
"""Most characters of a shard that a reader holds and hands over; 8,192 documents of half a page have fewer."""


def embed_on_ray(
    corpus: Corpus, key: str, pending: Sequence[int], output: Path, context: Context, settings: BulkSettings
) -> Iterator[PartReport]:
    """Embed shards on the cluster that ``RAY_ADDRESS`` or ``ray.init`` names, else on one started on this machine.

    Args:
        corpus: The corpus.
        key: Hash of the corpus, for the metadata of parts.
        pending: Numbers of the shards, ascending.
        output: Folder of the parts.
        context: The context to embed under.
        settings: Checkpoint, sizes, device and workers.

    Yields:
        A report a part, in the order they are done.

    Raises:
        ConfigError: if the cluster has fewer GPUs or cores than workers are asked for.
        CDEError: what went wrong on a worker.
    """
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False)
    try:
        stored = ray.put(context.to_bytes())  # named, so that it stays there for workers that are started again
        for row in _pipeline(corpus, key, pending, output, stored, settings).iter_rows():
            yield PartReport(**row)
    except ray.exceptions.RayError as error:
        cause = _own_cause(error)
        if cause is None:
            raise
        raise cause from error
    finally:
        if started:
            ray.shutdown()


def _pipeline(
    corpus: Corpus, key: str, pending: Sequence[int], output: Path, context: Any, settings: BulkSettings
) -> Any:
    """Return the dataset of reports; nothing runs before it is iterated over."""
    device, workers = _placement(settings)
    groups = _by_file(corpus, pending, settings.shard_size)
    ray_context = ray.data.DataContext.get_current().copy()
    ray_context.enable_progress_bars = False
    ray_context.target_max_block_size = 1  # bytes, so that every shard is a block: one task, one retry
    with ray.data.DataContext.current(ray_context):
        shards = ray.data.from_items(
            [{"numbers": group} for group in groups], override_num_blocks=len(groups)
        ).map_batches(
            _read,
            fn_args=(corpus, settings.shard_size),
            batch_size=1,
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=-(-workers // WORKERS_A_READER)),
        )
        return shards.map_batches(
            _Worker,
            fn_constructor_args=(context, settings, device, output, key, corpus),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            **{"num_gpus" if device == "cuda" else "num_cpus": 1},
        )


def _placement(settings: BulkSettings) -> tuple[str, int]:
    """Return the device of a worker and the number of workers."""
    there = ray.cluster_resources()
    device = settings.model.device or ("cuda" if there.get("GPU", 0) >= 1 else "cpu")
    unit = "GPU" if device == "cuda" else "CPU"
    most = int(there.get(unit, 0))
    workers = settings.workers or most
    if not 1 <= workers <= most:
        raise ConfigError(
            f"--workers is {workers}, but the Ray cluster has {most} {unit}s and each worker takes one; ask for fewer, "
            "add machines, or choose another --device"
        )
    return device, workers


def _by_file(corpus: Corpus, pending: Sequence[int], size: int) -> list[list[int]]:
    """Return shards in groups: those that begin in the same file."""
    starts = corpus.starts()
    groups: dict[int, list[int]] = {}
    for number in pending:
        groups.setdefault(bisect.bisect_right(starts, number * size), []).append(number)
    return list(groups.values())


def _own_cause(error: BaseException | None) -> CDEError | None:
    """Return the error of this package that made Ray raise, if one did; Ray has added advice of its own to its text."""
    while error is not None:
        if isinstance(error, CDEError) and not isinstance(error, ray.exceptions.RayError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _read(batch: dict[str, Any], corpus: Corpus, size: int) -> Iterator[Any]:
    """Yield the shards of a group as tables of one row; without their documents where these are long."""
    texts = pyarrow.large_list(pyarrow.large_string())
    schema = pyarrow.schema({"number": pyarrow.int64(), "ids": texts, "texts": texts})
    for numbers in batch["numbers"]:
        for shard in read_shards(corpus, size, [int(number) for number in numbers]):
            row: dict[str, Any] = {"number": shard.number}
            documents = _short_documents(shard)
            if documents is not None:
                row |= {"ids": [d.id for d in documents], "texts": [d.text for d in documents]}
            yield pyarrow.Table.from_pylist([row], schema=schema)


def _short_documents(shard: Shard) -> list[Document] | None:
    """Read a shard to its end and return its documents; None if they have more than `CHARACTERS_A_ROW`."""
    documents, characters = [], 0
    for document in shard.documents:
        characters += len(document.text)
        if characters <= CHARACTERS_A_ROW:
            documents.append(document)
        else:
            documents.clear()
    return documents if characters <= CHARACTERS_A_ROW else None


class _Worker:
    """An actor: it loads the model once, fetches the context, and turns shards into parts."""

    def __init__(
        self, context: Any, settings: BulkSettings, device: str, output: Path, key: str, corpus: Corpus
    ) -> None:
        from cde_retriever.encoder.encoder import ContextualEncoder  # here, because readers have no use for torch

        keep_few_kernels()
        self.encoder = ContextualEncoder.from_spec(replace(settings.model, device=device))
        self.encoder.set_context(Context.from_bytes(ray.get(context)))
        self.output, self.settings, self.key, self.corpus = output, settings, key, corpus

    def __call__(self, rows: Any) -> Iterator[Any]:
        """Embed the shards of a table; yield a report each.

        A generator, because of what that raises Ray keeps the exception, of what a function raises only the text.
        """
        for row in rows.to_pylist():
            keep_texts = self.corpus.passages is not None
            shard = self._shard(row)
            report = embed_shard(self.encoder, shard, self.output, self.settings, self.key, keep_texts=keep_texts)
            yield pyarrow.Table.from_pylist([asdict(report)])

    def _shard(self, row: dict[str, Any]) -> Shard:
        """Return the shard of a row, read from the corpus if the row is without its documents."""
        if row["ids"] is None:
            return next(read_shards(self.corpus, self.settings.shard_size, [row["number"]]))
        return Shard(row["number"], len(row["ids"]), map(Document, row["ids"], row["texts"]))
