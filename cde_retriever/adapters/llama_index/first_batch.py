"""Tell when the first batch of documents is not to be the context, and what to tell the user about it.

`VectorStoreIndex` embeds slices of 2,048 nodes in corpus order: a sample of the first is a sample of the first files.
"""

import warnings
from collections.abc import Sequence

from cde_retriever.errors import ContextNotFittedError

INSERT_BATCH_SIZE = 2048  # default of VectorStoreIndex(insert_batch_size=...)
WAYS_OUT = (
    "build with CDEVectorStoreIndex.from_documents(documents), call fit(texts) on the whole corpus, open an index with "
    "CDEEmbedding.from_storage(...), or call use_null_context() to embed without a corpus"
)
SEE_ALL = "use CDEVectorStoreIndex.from_documents or transformations=[splitter, embed], which see all of it"


def refuse_automatic_fit(texts: Sequence[str], *, allowed: bool, fewest: int) -> None:
    """Refuse to make a context of these texts unasked.

    Raises:
        ContextNotFittedError: if it is not allowed, or there are fewer than `fewest` distinct texts.
    """
    if not allowed:
        raise ContextNotFittedError(
            f"no context is set, and on_missing_context is 'error', so {len(texts)} texts were not made one; {WAYS_OUT}"
        )
    distinct = len({text for text in texts if text.strip()})
    if distinct < fewest:
        raise ContextNotFittedError(
            f"no context is set, and a batch of {distinct} distinct texts is too small to fit one on (at least "
            f"{fewest}, min_context_documents): is it a probe, or one inserted document? {WAYS_OUT}"
        )


def warn_of_full_slice(count: int) -> None:
    """Warn if an automatic fit saw as many texts as LlamaIndex hands over at once."""
    if count == INSERT_BATCH_SIZE:
        warnings.warn(
            f"the context was fitted on the first {count} texts; LlamaIndex hands over {INSERT_BATCH_SIZE} at a time, "
            f"so the rest of the corpus was probably not seen; {SEE_ALL}",
            stacklevel=5,
        )


def warn_of_more_texts(count: int, *, seen: int) -> None:
    """Warn that documents came after an automatic fit on the first batch."""
    warnings.warn(
        f"{count} more texts are embedded under a context fitted on the first {seen} only; if they belong to the same "
        f"corpus, {SEE_ALL} (if they are later additions, this is as it should be)",
        stacklevel=5,
    )
