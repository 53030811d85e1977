"""Write what a context knows of tokens as the ``idf.json`` that sentence-transformers' `SparseStaticEmbedding` reads.

That module gives a text one number for each token of a closed vocabulary: the token's weight where the text has it. So
the file can say how rare a token is among the context's documents, and nothing else that the sparse part of a text is
made of: stems, character grams, how often a document holds a word, words beyond the vocabulary. Use it for queries
beside a model that expands documents over the same tokenizer; between two texts of this module alone it is weak.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from cde_retriever.context.context import Context
from cde_retriever.errors import ContextError
from cde_retriever.files.replacing import write_atomically
from cde_retriever.words.sparse import Sparse
from cde_retriever.words.statistics import GRAM_PRIOR, WordStatistics

PRIOR_DOCUMENTS = 4.0
"""How many documents the prior counts as, under which an unseen token is in one of 10,000."""


def write_idf(context: Context, tokenizer: Any, file: str | os.PathLike[str]) -> Path:
    """Write the weight of each token, log(1 / share of the context's documents that have it); all or nothing.

    Args:
        context: A context that keeps its texts.
        tokenizer: A `transformers` tokenizer, the one that the sparse model will have.
        file: Where to, such as ``"idf.json"``.

    Raises:
        ContextError: if the context keeps no texts.
    """
    if not context.texts:
        raise ContextError(
            f"context {context.fingerprint[:12]} keeps no texts, only their hashes or nothing; fit one with "
            "store_texts=True"
        )
    documents = tokenizer(list(context.texts), add_special_tokens=False)["input_ids"]
    counted = WordStatistics.of(Sparse.of_rows([dict.fromkeys(ids, 1.0) for ids in documents]))
    special = set(tokenizer.all_special_tokens)
    tokens = {token: number for token, number in tokenizer.get_vocab().items() if token not in special}
    weights = counted.information(np.array(list(tokens.values()), np.int64), GRAM_PRIOR, PRIOR_DOCUMENTS)
    path = Path(file)
    write_atomically(path, json.dumps(dict(zip(tokens, weights.tolist(), strict=True))).encode())
    return path
