"""Give an index a new context, fitted on the documents that it holds by now.

A context never changes, so an index that grew into other subjects is embedded again under a new one: into a folder
beside it (`cde_retriever.lifecycle.shadow`), while the old index answers; then the two exchange places. The old one
stays until it is confirmed that the new one is good.
"""

import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.context.drift import Drift
from cde_retriever.context.sampling import hash_text
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import PlainDocuments
from cde_retriever.errors import ConfigError, OutputError, TruncationWarning
from cde_retriever.lifecycle.collection import Collection
from cde_retriever.lifecycle.shadow import Begun, Shadow
from cde_retriever.lifecycle.stored_index import StoredIndex
from cde_retriever.progress import counter

PathLike = str | os.PathLike[str]
DOCUMENTS_AT_ONCE = 1000
"""A killed process loses the vectors of so many documents at most."""
MEASURED = 64
"""Documents that a plan embeds to measure the rate."""
DEFAULT_MODEL = ModelSpec()


@dataclass(frozen=True)
class RefitPlan:
    """What a refit would do.

    Attributes:
        documents: Texts to embed.
        seconds: How long that will take, from the rate of `MEASURED` of them on this machine.
        old: Fingerprint of the index's context.
        new: Fingerprint of the context that its texts give now; the same if a refit would change nothing.
        context_documents: Documents of the new context.
        kept_documents: How many of them are in the old one too.
        cosine: Mean cosine of a text's vector and its new one; 1 for no change.
        drift: How many documents the old context was drawn from, how many joined since, and how unlike it they are.
    """

    documents: int
    seconds: float
    old: str
    new: str
    context_documents: int
    kept_documents: int
    cosine: float
    drift: Drift


@dataclass(frozen=True)
class Refit:
    """What a refit did.

    Attributes:
        index: The index's folder, as it was given.
        old: Fingerprint of the context that it had.
        new: Fingerprint of the context that it has; the same if its texts give the same, and nothing was done.
        documents: Texts in the index.
        embedded: How many of them this call embedded; the others were there already.
        kept_plain: How many of these needed no model, because the index keeps their plain vectors (`keep_plain`), or
            its vectors are plain ones (``context_for="queries"``).
        kept: Folder of the old index, until `confirm_refit` removes it; None if nothing was done.
    """

    index: str
    old: str
    new: str
    documents: int
    embedded: int
    kept_plain: int
    kept: str | None


def plan_refit(
    index: PathLike,
    *,
    collection: Collection | None = None,
    model: ModelSpec = DEFAULT_MODEL,
    trust_pickle: bool = False,
) -> RefitPlan:
    """Say what a refit would do; fits the context in memory, embeds a few texts, and writes nothing.

    Args, and errors, as for `refit`.
    """
    shadow = Shadow(Path(index), collection)
    stored = shadow.open(model, trust_pickle)
    old = stored.encoder.context
    encoder = _fork(stored)
    began = time.perf_counter()
    new = _fit(stored, encoder, False)
    fitting, sampled = time.perf_counter() - began, set(new.text_hashes)
    others = [number for number, text in enumerate(stored.texts) if hash_text(text) not in sampled]
    by_length = sorted(others or range(len(stored.texts)), key=lambda number: len(stored.texts[number]))
    chosen = [by_length[i] for i in np.unique(np.linspace(0, len(by_length) - 1, MEASURED).astype(int))]
    texts = [stored.texts[number] for number in chosen]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # the refit tells of all texts
        encoder.encode_documents(texts[:2], parts=stored.parts)  # the first call prepares
        began = time.perf_counter()
        vectors = encoder.encode_documents(texts, parts=stored.parts)
    seconds = fitting + (time.perf_counter() - began) * len(others) / len(texts)  # fitting embedded the sample
    kept = len({*old.text_hashes} & {*new.text_hashes})
    cosine = float((vectors * stored.vectors_of(chosen)).sum(axis=1).mean())
    return RefitPlan(len(stored.texts), seconds, old.fingerprint, new.fingerprint, new.size, kept, cosine, stored.drift)


def refit(
    index: PathLike,
    *,
    collection: Collection | None = None,
    model: ModelSpec = DEFAULT_MODEL,
    trust_pickle: bool = False,
    documents_at_once: int = DOCUMENTS_AT_ONCE,
    show_progress: bool = False,
) -> Refit:
    """Embed an index's documents again under a context of their own, and put the result in its place.

    Called again after a killed process it goes on where that stopped, unless the index was written since. Who has the
    old index open goes on with it; who opens the folder finds the old index or the new one.

    Args:
        index: The folder of a LlamaIndex index (`CDEVectorStoreIndex.persist`) or of a LangChain FAISS index
            (`cde_retriever.langchain.save_local`), or the ``context_dir`` of a collection.
        collection: The collection of Chroma or Qdrant whose context is there; the new one gets a name of its own, which
            `collection_in` tells. None for an index in its folder.
        model: The model that made the index; the default for the bundled one.
        trust_pickle: Whether the index is known not to be made by somebody else: FAISS indexes keep documents in a
            pickle, and opening one runs what it says.
        documents_at_once: How many documents to embed before their vectors are written.
        show_progress: Whether to show progress bars on stderr.

    Raises:
        FileNotFoundError: if there is no such folder.
        ConfigError: if it holds no such index, no texts, or a pickle that is not trusted; if it changed since a refit
            that is not confirmed.
        ContextMismatchError: if another model made it, or its files do not belong together.
        OutputError: if it was written meanwhile, a store lost what was written to it, or what is beside it is damaged.
        OSError: if another process refits it, or the disk is full, which is seen before anything is embedded where it
            can be; the old index is in place.
    """
    shadow = Shadow(Path(index), collection)
    with shadow.alone():
        begun = shadow.read()
        if begun is not None and shadow.is_swapped(begun):
            shadow.clear_vectors()
            _check_unchanged(shadow, shadow.open(model, trust_pickle), begun)
            return _done(shadow, begun, 0, 0)
        source, stored = shadow.hash_index(), shadow.open(model, trust_pickle)
        encoder = _fork(stored)
        same = begun is not None and (begun.source, begun.part) == (source, documents_at_once)
        if begun is None or not same or shadow.keeps_old(begun):
            shadow.clear()
            begun = None
        shadow.need_space(_vector_bytes(stored))
        if begun is None:
            context = _fit(stored, encoder, show_progress)
            old = stored.encoder.context.fingerprint
            begun = Begun(source, old, context.fingerprint, len(stored.texts), documents_at_once, shadow.name)
            if context.fingerprint == old:
                return Refit(str(shadow.given), old, old, len(stored.texts), 0, 0, None)
            context.save(shadow.folder)
            shadow.begin(begun)
        embedded, known = _make(shadow, stored, begun, encoder, show_progress)
        shadow.swap(source)
        shadow.clear_vectors()
    return _done(shadow, begun, embedded, known)


def confirm_refit(index: PathLike, *, collection: Collection | None = None) -> bool:
    """Remove the old index that a refit kept; return whether there was one.

    Raises:
        FileNotFoundError: if there is no such folder.
        ConfigError: if a refit has begun and is not done.
        OSError: if another process refits the index.
    """
    shadow = Shadow(Path(index), collection)
    if not shadow.folder.exists():
        return False
    with shadow.alone():
        begun = shadow.read()
        if begun is not None and not shadow.is_swapped(begun):
            raise ConfigError(f"the refit of {shadow.given} is not done; run it again to continue, or undo it")
        shadow.clear()
    return begun is not None


def undo_refit(index: PathLike, *, collection: Collection | None = None) -> bool:
    """Put the old index back, and drop the new one with all that a refit made; return whether the old one was kept.

    Documents that were added to the new index go with it. Of a refit that is not done the beginning is dropped.

    Raises:
        FileNotFoundError: if there is no such folder.
        OutputError: if the old index is gone, or the record of what was made.
        OSError: if another process refits the index.
    """
    shadow = Shadow(Path(index), collection)
    if not shadow.folder.exists():
        return False
    with shadow.alone():
        begun = shadow.read()
        if begun is None and shadow.other.is_dir():
            raise OutputError(
                f"nothing says whether {shadow.given} or {shadow.kept} is the old index, as refit.json is gone; move "
                "the one that you want to the index's place by hand, and delete the other"
            )
        swapped = begun is not None and shadow.is_swapped(begun) and shadow.other.is_dir()
        if swapped:
            shadow.swap()
        shadow.clear()
    return swapped


def _fork(stored: StoredIndex) -> ContextualEncoder:
    """Return an encoder like the index's, without a context; where a context leaves documents alone it has theirs."""
    encoder, head = stored.encoder.fork(), stored.encoder.head_settings
    if head is not None and not head.moves_documents and encoder.truncate_dim is None:
        kept = PlainDocuments()
        kept.add(stored.texts, stored.vectors_of(list(range(len(stored.texts)))))
        encoder.keep_plain(kept)
    return encoder


def _fit(stored: StoredIndex, encoder: ContextualEncoder, show_progress: bool) -> Context:
    """Fit an encoder as the index's was, on the texts that it has now, and return the context."""
    if not stored.texts:
        raise ConfigError("the index holds no documents; add some, or build a new one")
    old = stored.encoder.context
    language = None if old.words is None else old.words.language
    kinds = None if old.kind_field is None else stored.kinds(old.kind_field)
    unknown = old.selection == "stratified" and kinds is None  # by whom, the index does not say
    return encoder.fit_context(
        stored.texts,
        seed=old.seed or 0,
        context_size=old.size_again(encoder.config.context_size),
        selection="random" if unknown else old.selection,
        kinds=kinds,
        kind_field=old.kind_field,
        store_texts=old.texts is not None,
        language=language,
        show_progress=show_progress,
    )


def _make(
    shadow: Shadow, stored: StoredIndex, begun: Begun, encoder: ContextualEncoder, show_progress: bool
) -> tuple[int, int]:
    """Make the new index, unless it is there; return how many documents were embedded, and how many without model."""
    if shadow.other.is_dir():
        return 0, 0
    embedded, known = 0, 0
    encoder.set_context(Context.load(shadow.folder))
    encoder.take_sample()  # also by a run that goes on, so that both give the same bits
    kept, made = encoder.plain_documents and encoder.plain_documents.copy(), []
    with counter(total=begun.documents, label="Embedding documents", unit="document", show=show_progress) as bar:
        for number, start in enumerate(range(0, begun.documents, begun.part)):
            texts = stored.texts[start : start + begun.part]
            vectors = shadow.read_vectors(number)
            if vectors is None:
                embedded += len(texts)
                if kept is not None:
                    known += len(texts) - len(kept.missing(texts))
                vectors = encoder.encode_documents(texts, parts=stored.parts)
                shadow.write_vectors(number, vectors)
            made.append(vectors)
            bar.update(len(texts))
    whole = np.concatenate(made)
    shadow.build(lambda folder: stored.rebuild(folder, encoder.context, whole))
    return embedded, known


def _vector_bytes(stored: StoredIndex) -> int:
    """Return how many bytes the vectors of a new index take."""
    encoder = stored.encoder
    width = encoder.dense_dimension if stored.parts == "dense" else encoder.dimension
    return len(stored.texts) * width * np.dtype(np.float32).itemsize


def _check_unchanged(shadow: Shadow, stored: StoredIndex, begun: Begun) -> None:
    """Refuse another refit while the old index of the last one is kept: it would have no place."""
    if stored.drift.added or len(stored.texts) != begun.documents:
        raise ConfigError(
            f"{shadow.given} was refitted and has changed since ({begun.documents} documents then, {len(stored.texts)} "
            f"now, {stored.drift.added} joined), and the index before is still kept in {shadow.kept}; confirm that "
            "refit (--confirm), then refit again"
        )


def _done(shadow: Shadow, begun: Begun, embedded: int, known: int) -> Refit:
    return Refit(str(shadow.given), begun.old, begun.new, begun.documents, embedded, known, str(shadow.kept))
