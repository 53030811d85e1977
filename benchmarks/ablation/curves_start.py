r"""Make the small encoder that the curves start from, and the surrogate, of one real encoder's word table.

    python -m benchmarks.ablation.curves_start runs/all-MiniLM-L6-v2 ../shared/pairs --start runs/start \
        --surrogate runs/static

The start is two random layers of 128 on the table's first 128 principal directions: it knows words, and has learned
nothing about texts. The surrogate is the mean of the table's rows, centred, each times how rare its token is in the
pairs' documents: a thousand texts a second on one core, where six layers embed two hundred.
"""

import argparse
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel

from cde_retriever.encoder.tokens import count_documents
from cde_train.data.readers import read_pairs

WIDTH, LAYERS, HEADS, LENGTH = 128, 2, 2, 64
SPREAD = 0.05
"""Standard deviation of the start's word table; the real one's."""
COUNTED = 30_000
"""Documents on which tokens are counted."""


def make_start(table: Tensor, folder: Path, seed: int = 0) -> None:
    """Write an encoder with random layers on a word table, (V, d), cut to its first principal directions."""
    centred = table - table.mean(dim=0)
    directions = torch.linalg.svd(centred.T @ centred).U[:, :WIDTH]
    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = BertConfig(
        vocab_size=len(table), intermediate_size=4 * WIDTH, max_position_embeddings=LENGTH, pad_token_id=0, **sizes
    )
    model = BertModel(config, add_pooling_layer=False)
    words = centred @ directions
    model.embeddings.word_embeddings.weight.data.copy_(words * (SPREAD / words.std()))
    model.save_pretrained(folder)


def make_surrogate(table: Tensor, tokenizer: Tokenizer, documents: Sequence[str], folder: Path) -> None:
    """Write a static model: the table, centred by the texts' mean token, each row times -log(share of texts) - 1."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(documents)]
    weights, mean = token_weights(ids, table)
    rows = (table - mean) * torch.from_numpy(weights)[:, None]
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=rows.numpy()), Normalize()]).save(
        str(folder)
    )


def token_weights(ids: Sequence[Sequence[int]], table: Tensor) -> tuple[NDArray[np.float32], Tensor]:
    """Return what each token weighs, (V,) float32, and the texts' mean token, (d,).

    Weights are 0 for tokens in more than 1 of e texts.
    """
    share = (count_documents(ids, len(table)) + 0.5) / (len(ids) + 1)
    mean = (torch.from_numpy(share).to(table)[:, None] * table).sum(dim=0) / share.sum()
    return np.maximum(-np.log(share) - 1, 0).astype(np.float32), mean


def main(arguments: Sequence[str] | None = None) -> int:
    """Make both folders."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation.curves_start", description=__doc__.splitlines()[0]
    )
    parser.add_argument("encoder", type=Path, help="folder of the real encoder")
    parser.add_argument("pairs", help="folder of pairs")
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--surrogate", type=Path, required=True)
    options = parser.parse_args(arguments)
    table = AutoModel.from_pretrained(options.encoder, dtype=torch.float32).get_input_embeddings().weight.detach()
    make_start(table, options.start)
    shutil.copy(options.encoder / "tokenizer.json", options.start)
    tokenizer = Tokenizer.from_file(str(options.encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTH)
    documents = sorted({pair.document for pair in read_pairs(options.pairs)})
    documents = random.Random(0).sample(documents, min(COUNTED, len(documents)))
    make_surrogate(table, tokenizer, documents, options.surrogate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
