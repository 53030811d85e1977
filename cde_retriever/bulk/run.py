"""Embed a whole corpus into Parquet files under one context, in as many runs as it takes.

    OUT/part-000000.parquet         ids and vectors of the first shard, and so on (`cde_retriever.bulk.parts`)
    OUT/_cde/context.safetensors    the context; fitted to the corpus in one pass, if none is given
    OUT/_cde/manifest.json          model, context, files of the corpus, size of a shard
    OUT/_cde/parts.jsonl            the parts that are done, with their hashes

1. The files of the corpus are hashed. On the first run all rows are read once: checked, counted, and sampled for the
   context.
2. Context and manifest are written; on later runs they are compared instead, and anything else is refused.
3. Parts that are there are compared with their hashes. Shards without a whole part are embedded, here or on a Ray
   cluster; each part is written whole or not at all, and then recorded.

Memory is the model, the vectors of a shard, and a few megabytes of text, whatever the size of the corpus and of its
documents, besides the documents of the context and some hundred bytes a part.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cde_retriever.bulk import first_format
from cde_retriever.bulk.manifest import MANIFEST, Manifest
from cde_retriever.bulk.parts import (
    CONTEXT_KEY,
    MODEL_KEY,
    damaged_parts,
    part_file,
    part_files,
    refuse_foreign_part,
    remove_leftovers,
)
from cde_retriever.bulk.records import PartRecord, PartRecords
from cde_retriever.bulk.repeated_ids import RepeatedIds
from cde_retriever.bulk.settings import BulkSettings
from cde_retriever.bulk.shards import PartReport, embed_shard, part_metadata, read_shards, shard_rows, written_width
from cde_retriever.bulk.summary import BulkSummary
from cde_retriever.context.context import FILE_NAME, Context
from cde_retriever.context.coverage import warn_if_small
from cde_retriever.corpus.rows import Corpus, CorpusFile, are_documents, find_files, read_documents
from cde_retriever.encoder.corpus_head import check_parts
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, ContextMismatchError, CorpusError, OutputError
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.locking import only_writer
from cde_retriever.files.records import RECORDS_FOLDER
from cde_retriever.progress import counter, progress

if TYPE_CHECKING:  # a corpus of rows needs no reader of documents
    from cde_retriever.corpus.passage_size import PassageSize

CHARACTERS_OF_CONTEXT = 50_000_000
"""Most characters of texts that a context's file holds."""


def embed_corpus(
    corpus: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: BulkSettings | None = None,
    *,
    context: Context | None = None,
    show_progress: bool = False,
    on_part: Callable[[PartReport], object] = lambda _: None,
) -> BulkSummary:
    """Embed every document of a corpus that has no vector in the output yet.

    Args:
        corpus: A ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file, or a folder of such; or a text file, web page or
            folder of such, which are cut into passages.
        output: Folder for context, manifest and parts; one that was begun is continued.
        settings: How; None for the defaults.
        context: The context; None for the output's own, or else one fitted to the corpus.
        show_progress: Whether to show progress bars on stderr.
        on_part: Called after each part, in this process.

    Raises:
        FileNotFoundError: if there is no corpus.
        CorpusError: if a file is damaged or a row is no document; names it.
        OutputError: if the output belongs to another corpus, model, shard size or precision, or is damaged.
        ContextMismatchError: if it belongs to another context, or the context to another model.
        ConfigError: if the cluster cannot hold the workers, or the model has no sparse part.
        ImportError: if the engine is not installed.
        OSError: if another process writes to the output.
    """
    settings = settings or BulkSettings()
    if settings.engine == "ray":
        import cde_retriever.bulk.ray_engine  # noqa: F401 - what is missing is said now, not after hours of reading
    found = find_files(corpus)
    root, names = found.folder, found.names
    folder = Path(output).expanduser()
    if Path(corpus).expanduser().is_dir() and folder.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"the output {folder} is inside the corpus {root}; choose another place")
    kept = Manifest.read(folder) or Manifest.read_first_format(folder)
    maker = context.model.name if context else kept.model_name if kept else None
    settings = replace(settings, model=settings.model.for_stored(maker))
    encoder = ContextualEncoder.from_spec(settings.model)
    check_parts(settings.parts, encoder.config.corpus_head is not None, encoder.identity.name)
    if settings.model.truncate_dim is not None and written_width(encoder, settings.parts) != encoder.dimension:
        raise ConfigError("--truncate-dim cuts one vector alone; leave it out, or take --parts one")
    passages = encoder.passage_size() if are_documents(names) else None
    run = _Run(root, names, folder, settings, encoder, passages, show_progress)
    with only_writer(folder):
        manifest = run.prepare(context)
        found.warn_of_others()
        return run.embed(manifest, on_part)


def _without_long_texts(context: Context) -> Context:
    """Return a context that holds only the hashes of its texts where these are very long; its fingerprint stays."""
    held = sum(map(len, context.texts or ()))
    return replace(context, texts=None) if held > CHARACTERS_OF_CONTEXT else context


@dataclass(frozen=True)
class _Run:
    """One run of `embed_corpus`; `names` are the corpus's files, below `root`."""

    root: Path
    names: list[str]
    folder: Path
    settings: BulkSettings
    encoder: ContextualEncoder
    passages: "PassageSize | None"
    show_progress: bool

    def prepare(self, context: Context | None) -> Manifest:
        """Begin the output, or compare it with what is asked for; set its context."""
        manifest = Manifest.read(self.folder)
        if manifest is not None:
            self.compare(manifest, context)
            first_format.remove_first_format(self.folder)
            return manifest
        manifest = Manifest.read_first_format(self.folder)
        if manifest is None:
            return self.begin(context)
        self.compare(manifest, context)
        metadata = part_metadata(self.encoder, manifest.corpus, 0, manifest.parts)
        shared = {key: metadata[key] for key in (CONTEXT_KEY, MODEL_KEY)}
        first_format.convert(self.folder, manifest, self._corpus(manifest), shared)
        return manifest

    def begin(self, context: Context | None) -> Manifest:
        """Read the corpus once, set the context, and write down both."""
        if part_files(self.folder):
            raise OutputError(
                f"{self.folder} holds parts but no {RECORDS_FOLDER}/{MANIFEST}, which says of what; restore it, or "
                "choose another output"
            )
        if context is not None:
            self.settings.refuse_other_making(context)
            self.encoder.set_context(context)
        hashes = self._hash_files()
        rows: list[int] = []
        is_fitted = context is None
        with progress(self._texts(rows), label="Reading", unit="doc", show=self.show_progress) as texts:
            if context is None:
                fitted = self.encoder.fit_context(
                    texts,
                    batch_size=self.settings.batch_size,
                    language=self.settings.language,
                    selection=self.settings.selection,
                    context_size=self.settings.context_size,
                    show_progress=self.show_progress,
                )
                context = _without_long_texts(fitted)
                self.encoder.set_context(context)
                self.encoder.take_sample()  # so does a run that continues, and both give the same bits
                if self.settings.parts == "one" and self.settings.context_size is None:
                    warn_if_small(context, self.encoder.head_settings)
            else:
                deque(texts, maxlen=0)
        manifest = Manifest(
            model=self.encoder.identity.sha256,
            model_name=self.encoder.identity.name,
            context=context.fingerprint,
            width=written_width(self.encoder, self.settings.parts),
            dtype=self.encoder.backend.precision,
            shard_size=self.settings.shard_size,
            columns=self.settings.columns,
            files=tuple(CorpusFile(name, hashes[name], count) for name, count in zip(self.names, rows, strict=True)),
            parts=self.settings.parts,
            fitted=is_fitted,
        )
        context.save(self.folder / RECORDS_FOLDER / FILE_NAME)
        manifest.write(self.folder)
        return manifest

    def compare(self, manifest: Manifest, context: Context | None) -> None:
        """Set the output's context; refuse to continue with anything else than what it was begun with."""
        manifest.refuse_setting("model", self.encoder.identity.sha256, self.folder)
        context = context or Context.load(self.folder)
        if context.fingerprint != manifest.context:
            raise ContextMismatchError(
                f"{self.folder} holds vectors under context {manifest.context[:12]}, received "
                f"{context.fingerprint[:12]}; choose another output, or continue without --context"
            )
        self.settings.refuse_other_making(context)
        manifest.refuse_setting("dtype", self.encoder.backend.precision, self.folder)
        for name in ("parts", "shard_size", "columns"):
            manifest.refuse_setting(name, getattr(self.settings, name), self.folder)
        manifest.refuse_setting("width", written_width(self.encoder, self.settings.parts), self.folder)
        manifest.refuse_files(self._hash_files(), self.folder)
        self.encoder.set_context(context)
        if manifest.fitted:
            self.encoder.take_sample()
        context.save(self.folder / RECORDS_FOLDER / FILE_NAME)

    def embed(self, manifest: Manifest, on_part: Callable[[PartReport], object]) -> BulkSummary:
        """Embed what is missing."""
        records = PartRecords(self.folder)
        rows = shard_rows(manifest.rows, manifest.shard_size)
        pending = self._pending(manifest, records, len(rows))
        left = sum(rows[number] for number in pending)
        core_seconds, start = 0.0, time.perf_counter()
        bar = counter(
            total=manifest.rows,
            initial=manifest.rows - left,
            label="Embedding documents",
            unit="doc",
            show=self.show_progress and left > 0,
        )
        with bar, closing(self._embed(manifest, pending, bar.update)) as reports:
            for report in reports:
                records.add(PartRecord(report.number, report.documents, report.sha256, report.empty, report.cut))
                core_seconds += report.core_seconds
                on_part(report)
        seconds = time.perf_counter() - start
        lost = [number for number in range(len(rows)) if number not in records.done]
        if lost:
            raise OutputError(f"{self.folder} lacks {len(lost)} parts, the first is {lost[0]}; run the same again")
        remove_leftovers(self.folder)
        return BulkSummary(
            output=str(self.folder),
            context=manifest.context,
            documents=manifest.rows,
            embedded=left,
            skipped=manifest.rows - left,
            empty=sum(record.empty for record in records.done.values()),
            cut=sum(record.cut or 0 for record in records.done.values()),
            without_documents=tuple(file.name for file in manifest.files if not file.rows),
            seconds=seconds,
            core_seconds=core_seconds,
        )

    def _pending(self, manifest: Manifest, records: PartRecords, parts: int) -> list[int]:
        """Return the parts that are missing or damaged, and see that none of something else is overwritten."""
        damaged = set(damaged_parts(self.folder, list(records.done.values())))
        pending = [number for number in range(parts) if number not in records.done or number in damaged]
        for number in pending:
            metadata = part_metadata(self.encoder, manifest.corpus, number, manifest.parts)
            refuse_foreign_part(part_file(self.folder, number), metadata)
        return pending

    def _embed(
        self, manifest: Manifest, pending: list[int], advance: Callable[[int], object]
    ) -> Generator[PartReport, None, None]:
        corpus, key, settings = self._corpus(manifest), manifest.corpus, self.settings
        if settings.engine == "local":
            for shard in read_shards(corpus, settings.shard_size, pending):
                yield embed_shard(
                    self.encoder,
                    shard,
                    self.folder,
                    settings,
                    key,
                    keep_texts=self.passages is not None,
                    advance=advance,
                )
        elif pending:
            from cde_retriever.bulk.ray_engine import embed_on_ray

            for report in embed_on_ray(corpus, key, pending, self.folder.resolve(), self.encoder.context, settings):
                advance(report.documents)
                yield report

    def _corpus(self, manifest: Manifest) -> Corpus:
        return Corpus(self.root, manifest.files, self.settings.columns, self.passages)

    def _texts(self, rows: list[int]) -> Iterator[str]:
        """Yield every text; put into `rows` how many each file has, once it has been read."""
        ids = RepeatedIds()
        for name in self.names:
            rows.append(0)
            for document in read_documents(self.root, name, self.settings.columns, passages=self.passages):
                rows[-1] += 1
                ids.add(document.id)
                yield document.text
        if not sum(rows):
            more = f"and {len(self.names) - 1} more have" if len(self.names) > 1 else "has"
            raise CorpusError(f"{self.root / self.names[0]} {more} no document; give a corpus with at least one")
        ids.warn()

    def _hash_files(self) -> dict[str, str]:
        with ThreadPoolExecutor() as pool:
            hashes = pool.map(hash_file, [self.root / name for name in self.names])
            return dict(zip(self.names, hashes, strict=True))
