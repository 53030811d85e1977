"""Make an index of ours of one whose vectors another embedding made, which stays as it is.

Where that embedding is the encoder beneath our model, its vectors are the plain vectors that a corpus head starts from,
and no document goes through the model again. Whether they are is not believed but seen: a sample of the documents is
embedded, and if one of them has another vector than the index, all documents are embedded.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.neighbours import unit
from cde_retriever.context.whole_numbers import true_or_false
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import PlainDocuments
from cde_retriever.encoder.shared_weights import shared_encoder
from cde_retriever.errors import ConfigError
from cde_retriever.files.leftovers import remove
from cde_retriever.files.locking import LOCK, only_writer
from cde_retriever.lifecycle.collection import Collection
from cde_retriever.lifecycle.kept_vectors import Embed, kept_embedding, plain_embedding
from cde_retriever.lifecycle.stored_index import ForeignIndex, NewIndex, open_foreign

PathLike = str | os.PathLike[str]
Vectors = NDArray[np.float32]
DEFAULT_MODEL = ModelSpec()
COMPARED = 100
"""Documents that are embedded to see whose vectors an index holds."""
SAME = 0.9999
"""The least cosine of two vectors that one model made of one text, on two machines or in two precisions."""


@dataclass(frozen=True)
class Migration:
    """What a migration did.

    Attributes:
        old: The folder that was read, or the name of the collection.
        new: The folder of the new index, or of the new collection's context.
        collection: The name of the new collection; None for an index in its folder.
        context: Fingerprint of the new index's context.
        documents: Texts in both.
        taken_over: How many of them kept their vectors as plain ones; the others were embedded.
        cosine: The lowest cosine of a compared document's old vector and its plain one; None if they are of two widths,
            or the model has no corpus head, so that nothing could be taken over.
    """

    old: str
    new: str
    collection: str | None
    context: str
    documents: int
    taken_over: int
    cosine: float | None


def migrate(
    old: PathLike | Collection,
    new: PathLike,
    *,
    model: ModelSpec = DEFAULT_MODEL,
    parts: str | None = None,
    keep_plain: bool = False,
    trust_pickle: bool = False,
    show_progress: bool = False,
) -> Migration:
    """Make an index of ours of one of LlamaIndex or LangChain that another embedding built.

    Ids, texts and metadata stay. A killed process leaves no new index, and the same call again goes on. Of a collection
    comes another one in the same store, whose name ``collection_in(new, old.name)`` tells.

    Args:
        old: Folder that LlamaIndex's ``storage_context.persist`` or ``FAISS.save_local`` wrote, or a collection of
            Chroma or Qdrant; it stays.
        new: Folder of the new index, or of the new collection's context, which is not there yet.
        model: The model of the new index; the default for the bundled one.
        parts: ``"both"`` for hybrid search, ``"one"`` for one vector; None for what the framework does by default.
            Both of a collection are kept in `new`.
        keep_plain: Whether the new index keeps plain vectors, so that `refit` needs no model.
        trust_pickle: Whether the index is known not to be made by somebody else: FAISS indexes keep documents in a
            pickle, and opening one runs what it says.
        show_progress: Whether to show progress bars on stderr.

    Raises:
        FileNotFoundError: if there is no old folder.
        ConfigError: if it holds no such index, no texts, an index of ours, or a pickle that is not trusted; if there
            is something at `new`, or a collection of the new one's name; for `parts` or `keep_plain` with a model that
            has no corpus head.
        OutputError: if a store lost what was written to it.
        OSError: if another process makes the same index, or the disk is full.
    """
    true_or_false("keep_plain", keep_plain)
    collection = old if isinstance(old, Collection) else None
    name, new = str(old) if collection is None else collection.name, Path(new)
    stored = open_foreign(Path(name) if collection is None else collection, trust_pickle)
    if new.exists():
        raise ConfigError(f"there is something at {new} already; give the folder of a new index")
    if not stored.texts:
        raise ConfigError(f"the index {name} holds no documents; build a new one with from_documents")
    encoder = shared_encoder(model)
    if keep_plain:
        encoder.keep_plain()
    work = new.with_name(f"{new.name}.migrate")
    with only_writer(work):
        kept, cosine, taken = _plain_vectors(encoder, stored, work, show_progress)
        made = _build(stored, NewIndex(model, parts, kept, keep_plain), collection, work, new)
        for path in work.iterdir():
            if path.name != LOCK:
                remove(path)
    there = None if collection is None else collection.in_force(new)
    return Migration(name, str(new), there, made, len(stored.texts), taken, cosine)


def _build(stored: ForeignIndex, wanted: NewIndex, collection: Collection | None, work: Path, new: Path) -> str:
    """Build the new index in a folder that gets its name when all is there; return its context's fingerprint."""
    unfinished = work / "unfinished"
    if collection is not None and unfinished.is_dir():
        collection.discard(unfinished, new)
    remove(unfinished)
    unfinished.mkdir()
    made = stored.build(unfinished, wanted)
    unfinished.rename(new)
    return made


def _plain_vectors(
    encoder: ContextualEncoder, stored: ForeignIndex, work: Path, show_progress: bool
) -> tuple[PlainDocuments | None, float | None, int]:
    """Return the documents' plain vectors, and of the old ones the lowest cosine with these and how many they are.

    Those that are embedded are kept in the work folder. Of a model without a corpus head there are none.
    """
    if encoder.config.corpus_head is None:
        return None, None, 0
    kept, texts = PlainDocuments(), stored.texts
    cosine = _lowest_cosine(plain_embedding(encoder), encoder.dense_dimension, texts, stored.vectors)
    if cosine is not None and cosine >= SAME and stored.vectors is not None:
        kept.add(texts, unit(stored.vectors))
        return kept, cosine, len(texts)
    embed = kept_embedding(encoder, work, show_progress=show_progress)
    kept.add(texts, embed(texts, "document"))
    return kept, cosine, 0


def _lowest_cosine(plain: Embed, width: int, texts: Sequence[str], vectors: Vectors | None) -> float | None:
    """Return the lowest cosine of stored and plain vectors of documents of all lengths; None if not comparable."""
    if vectors is None or vectors.shape[1] != width or not np.isfinite(vectors).all():
        return None
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    rows = [by_length[place] for place in np.unique(np.linspace(0, len(texts) - 1, COMPARED).astype(int))]
    found = plain([texts[row] for row in rows], "document")
    return float((unit(vectors[rows]) * found).sum(axis=1).min())
