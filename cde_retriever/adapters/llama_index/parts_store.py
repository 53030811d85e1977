"""Answer hybrid searches beside a vector store that knows dense vectors alone.

A `PartsStore` holds the nodes of an index in two parts (`cde_retriever.search.parts_index`). It is a namespace of the
storage context, ``cde_parts``, which ``persist()`` writes and ``StorageContext.from_defaults(persist_dir=...)`` reads
like any other: metadata as LlamaIndex keeps them, vectors and words in base64.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.simple import SimpleVectorStoreData as StoreData
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode, VectorStoreQueryResult
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.storage import check_stamps, embedded_text
from cde_retriever.adapters.stamps import DIGEST, check_stamp
from cde_retriever.context.knowledge import Parts
from cde_retriever.errors import ContextFormatError, ContextMismatchError
from cde_retriever.search.hybrid import weigh
from cde_retriever.search.index_file import index_from_bytes, index_to_bytes
from cde_retriever.search.parts_index import PartsIndex

NAMESPACE = "cde_parts"
_CONTENT = "cde_parts_index"
MODES = {
    "hybrid": VectorStoreQueryMode.HYBRID,
    "dense": VectorStoreQueryMode.DEFAULT,
    "sparse": VectorStoreQueryMode.SPARSE,
}
"""What LlamaIndex calls the ways to search."""
_NAMES = {mode: name for name, mode in MODES.items()}


class PartsStore(SimpleVectorStore):
    """The nodes of an index in two parts, and who embeds its queries.

    Args:
        data: What LlamaIndex keeps of the nodes; vectors are left out of it.
        beside: The vector store of the index, whose nodes it follows.
        embedding: The index's; it gives dense parts.
        parts: Both parts of the nodes.
    """

    _beside: SimpleVectorStore = PrivateAttr()
    _embedding: CDEEmbedding = PrivateAttr()
    _parts: PartsIndex = PrivateAttr()

    def __init__(self, data: StoreData, beside: SimpleVectorStore, embedding: CDEEmbedding, parts: PartsIndex) -> None:
        super().__init__(data)
        self._beside, self._embedding, self._parts = beside, embedding, parts

    @classmethod
    def open(cls, stored: SimpleVectorStore, beside: SimpleVectorStore, embedding: CDEEmbedding) -> Self:
        """Return the store that was written to a namespace.

        Raises:
            ContextMismatchError: if it was made under another context, or for other nodes or vectors than `beside` has.
            ContextFormatError: if it is damaged.
        """
        source = f"the file of namespace {NAMESPACE} in the storage context"
        data = StoreData.from_dict(stored.data.to_dict())
        try:
            content = base64.b64decode(data.metadata_dict.pop(_CONTENT)["index"], validate=True)
        except (binascii.Error, TypeError, KeyError) as error:
            raise ContextFormatError(f"{source} is damaged ({error!r}); restore it, or index again") from error
        store = cls(data, beside, embedding, index_from_bytes(content, embedding.context_fingerprint, source))
        store._check()
        return store

    @classmethod
    def empty(cls, beside: SimpleVectorStore, embedding: CDEEmbedding) -> Self:
        """Return the store of a new index, whose context is there.

        Raises:
            ContextMismatchError: if `beside` holds vectors already.
        """
        store = cls(StoreData(), beside, embedding, PartsIndex(embedding.context_fingerprint))
        store._check()
        return store

    def _check(self) -> None:
        """Refuse what belongs to other nodes, or to other vectors of the same."""
        theirs, own = self._beside.data.metadata_dict, self.data.metadata_dict
        same = self._beside.data.embedding_dict.keys() == self.data.embedding_dict.keys() == set(self._parts.ids)
        if not same or any(own[name].get(DIGEST) != theirs[name].get(DIGEST) for name in own):
            raise ContextMismatchError(
                f"the files of the vectors and of namespace {NAMESPACE} hold different nodes: one was exchanged, or a "
                "process was killed while it persisted the storage context; restore both, or index again (and use "
                "index.persist(folder), which replaces the folder as a whole)"
            )

    def add(self, nodes: Sequence[BaseNode], **_: Any) -> list[str]:
        """Take nodes with their dense parts, and count their words."""
        nodes = list({node.node_id: node for node in nodes}.values())  # of an id given twice stores keep the last
        self._parts.add([node.node_id for node in nodes], embedded_in_parts(nodes, self._embedding))
        return super().add([node.model_copy(update={"embedding": []}) for node in nodes])

    def follow(self) -> None:
        """Forget nodes that the vector store has no more.

        Raises:
            ContextMismatchError: if it has nodes that came past the index.
        """
        own, theirs = self.data.embedding_dict, self._beside.data.embedding_dict
        if own.keys() == theirs.keys():
            return
        unknown = theirs.keys() - own.keys()
        if unknown:
            raise ContextMismatchError(
                f"{len(unknown)} nodes, such as {min(unknown)}, were put into the vector store past the index, and "
                "their words are unknown; insert nodes through the CDEVectorStoreIndex"
            )
        gone = list(own.keys() - theirs.keys())
        self._parts.delete(gone)
        super().delete_nodes(gone)

    def query(self, query: VectorStoreQuery, **_: Any) -> VectorStoreQueryResult:
        """Answer a query in one of `MODES`; a vector must bear the stamp, words are those of the query's text."""
        self.follow()
        mode, asked = asked_in_parts(query, self._embedding, type(self).__name__)
        hits = self._parts.search(asked, query.similarity_top_k, mode=mode, allowed=self._allowed(query))
        return VectorStoreQueryResult(ids=[hit.id for hit in hits], similarities=[hit.score for hit in hits])

    def _allowed(self, query: VectorStoreQuery) -> set[str] | None:
        """Return the ids of the nodes that a query asks among; None for all."""
        found = None if query.node_ids is None else set(query.node_ids)
        if query.doc_ids is not None:
            wanted, of_document = set(query.doc_ids), self.data.text_id_to_ref_doc_id
            found = {name for name in (of_document if found is None else found) if of_document.get(name) in wanted}
        if query.filters is not None:
            fits = build_metadata_filter_fn(lambda name: self.data.metadata_dict[name], query.filters)
            there = self.data.embedding_dict
            found = {name for name in (there if found is None else found & there.keys()) if fits(name)}
        return found

    def to_dict(self, **_: Any) -> dict[str, Any]:
        """Return what is stored, vectors and words included."""
        return self._stored().to_dict()

    def persist(self, *where: Any, **settings: Any) -> None:
        """Write it as LlamaIndex writes its own stores."""
        SimpleVectorStore(self._stored()).persist(*where, **settings)

    def _stored(self) -> StoreData:
        self.follow()
        content = base64.b64encode(index_to_bytes(self._parts)).decode("ascii")
        data = StoreData.from_dict(self.data.to_dict())
        data.metadata_dict = {**data.metadata_dict, _CONTENT: {"index": content}}
        return data


def embedded_in_parts(nodes: Sequence[BaseNode], embedding: CDEEmbedding) -> Parts:
    """Return both parts of nodes that bear their dense one.

    Raises:
        ContextMismatchError: if it was made under another context than the embedding's.
    """
    check_stamps(nodes, embedding.stamp)
    texts = [embedded_text(node) for node in nodes]
    dense = np.array([node.get_embedding() for node in nodes], np.float32)
    return Parts(dense, embedding.encoder.encode_documents(texts, parts="sparse"))


def asked_in_parts(query: VectorStoreQuery, embedding: CDEEmbedding, holder: str) -> tuple[str, Parts]:
    """Return a query's mode as `PartsIndex.search` calls it, and its parts; words are those of its text.

    A query's ``alpha`` weighs them (`cde_retriever.search.hybrid.weigh`).

    Raises:
        ConfigError: if alpha is not from 0 to 1.
        ContextMismatchError: if its vector does not bear the embedding's stamp; names `holder`.
        ValueError: for another mode than those of `MODES`, or fewer than one node.
    """
    encoder = embedding.encoder
    dense = np.zeros((1, encoder.dense_dimension), np.float32)
    if query.query_embedding is not None:
        check_stamp(embedding.stamp, getattr(query.query_embedding, "stamp", None), f"what {holder} holds")
        dense[0] = query.query_embedding
    if query.similarity_top_k < 1:
        raise ValueError(f"similarity_top_k is {query.similarity_top_k}, expected at least 1")
    if query.mode not in _NAMES:
        raise ValueError(f"mode is {query.mode!r}, expected one of {', '.join(MODES)}")
    parts = Parts(dense, encoder.encode_queries([query.query_str or ""], parts="sparse"))
    return _NAMES[query.mode], weigh(parts, query.alpha) if query.mode == VectorStoreQueryMode.HYBRID else parts
