"""One training step with two-stage gradient caching against a plain bi-encoder's with gradient caching.

Ours: the `cached` layout on the checkpoint's backbone, a batch of pairs and a context of documents. With a frozen first
stage the context's vectors are there before the step, as in training; with a trained one the step makes them. Theirs:
`CachedMultipleNegativesRankingLoss` of sentence-transformers on the same backbone, the same pairs, in mini-batches of
our chunk. Both: forward and backward over tokenised texts, without optimiser and without dropout.

A query is a pair's query, gone on with its document's words to one length, and a document is cut at another, so all
texts of a kind are equally long and nobody pads. Both sides also in bfloat16, by autocast. Under a frozen first stage
the word embeddings, which both stages share, are frozen too; they are on the other side as well.
"""

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.performance.rivals import load_encoder, sentence_transformer, untrained_layout, write_plain_backbone
from benchmarks.performance.texts import docstrings
from benchmarks.performance.timing import interleave, medians, ratio
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.data.pairs import TrainingPair
from cde_train.data.readers import read_pairs
from cde_train.training.config import TrainConfig
from cde_train.training.cpu_attention import faster_attention
from cde_train.training.gradient_caching import Chunking, TwoStageBatch, cached_step
from cde_train.training.parameters import prepare_parameters

READS = (
    "training_batch",
    "training_context",
    "training_chunk",
    "training_query_tokens",
    "training_document_tokens",
    "training_repetitions",
)
TEMPERATURE = 0.02
PLAIN_OF = {"frozen": "plain", "trained": "plain", "frozen_bf16": "plain_bf16", "trained_bf16": "plain_bf16"}

Ids = list[list[int]]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build both sides and time one step of each in turns."""
    start = load_encoder(options.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        write_plain_backbone(start, Path(folder))
        models = {name: untrained_layout(Path(folder), start, "cached") for name in PLAIN_OF}
        reference = sentence_transformer(Path(folder), start)
    queries, documents, context = draw(models["frozen"], options)
    subjects = {
        name: our_step(encoder, queries, documents, context, options.training_chunk, name)
        for name, encoder in models.items()
    }
    plain = plain_step(reference, queries, documents, options.training_chunk)
    subjects |= {"plain": plain, "plain_bf16": torch.autocast("cpu", dtype=torch.bfloat16)(plain)}
    timings = interleave(subjects, options.training_repetitions, "Training steps")
    return {
        "ratios": {name: ratio(timings, name, plain_one) for name, plain_one in PLAIN_OF.items()},
        "seconds_a_step": medians(timings),
        "seconds": timings,
        "about": {
            "against": "CachedMultipleNegativesRankingLoss of sentence-transformers",
            "pairs_from": options.pairs.name
            if options.pairs.is_file()
            else "docstrings of the Python standard library",
            "batch": len(queries),
            "context_documents": len(context),
            "chunk": options.training_chunk,
            "query_tokens": len(queries[0]),
            "document_tokens": len(documents[0]),
        },
    }


def draw(encoder: ContextualEncoder, options: argparse.Namespace) -> tuple[Ids, Ids, Ids]:
    """Return token ids of queries, their documents, and other documents as context; each kind of one length.

    Raises:
        ValueError: if there are too few pairs that are long enough.
    """
    lengths = options.training_query_tokens, options.training_document_tokens
    count = options.training_batch + options.training_context
    queries: Ids = []
    documents: Ids = []
    tokenizers = [encoder.text_tokenizer(length) for length in lengths]
    pairs = real_pairs(options.pairs)
    random.Random(0).shuffle(pairs)
    for pair in pairs:
        query, document = (
            tokenizer.tokenize([text], "document").ids[0]
            for tokenizer, text in zip(tokenizers, (f"{pair.query} {pair.document}", pair.document), strict=True)
        )
        if (len(query), len(document)) == lengths:
            queries.append(query)
            documents.append(document)
        if len(queries) == count:
            return (
                queries[: options.training_batch],
                documents[: options.training_batch],
                documents[-options.training_context :],
            )
    raise ValueError(f"{options.pairs} holds {len(queries)} pairs of {lengths} tokens, {count} are needed")


def real_pairs(file: Path) -> list[TrainingPair]:
    """Return the pairs of a file, or else the standard library's docstrings, each with its first line."""
    if file.is_file():
        return read_pairs(file)
    return [TrainingPair(text.partition("\n")[0], text, "stdlib") for text in sorted(set(docstrings()))]


def our_step(
    encoder: ContextualEncoder, queries: Ids, documents: Ids, context: Ids, chunk: int, name: str
) -> Callable[[], object]:
    """Return our step; its name says which stages are trained, and in what."""
    trained, low = name.startswith("trained"), name.endswith("bf16")
    prepare_parameters(encoder.open_model(), TrainConfig(train_first_stage=trained))
    tokenizer = encoder.text_tokenizer(encoder.config.max_length)

    def pad(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        input_ids, mask = tokenizer.pad(ids)
        return torch.as_tensor(input_ids), torch.as_tensor(mask)

    known: Ids | Tensor = context
    if not trained:
        with torch.no_grad():
            known = torch.cat([encoder.open_model().first_stage(*pad([ids])) for ids in context])
    batch = TwoStageBatch(queries, documents, known, torch.zeros(len(queries), len(queries), dtype=torch.bool))

    how = Chunking(pad, chunk, lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled=low))

    def step() -> None:
        encoder.open_model().zero_grad(set_to_none=True)
        with faster_attention(encoder.open_model()) if low else nullcontext():
            cached_step(encoder.open_model(), batch, TEMPERATURE, how)

    return step


def plain_step(reference: Any, queries: Ids, documents: Ids, chunk: int) -> Callable[[], object]:
    """Return the step of sentence-transformers."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    reference.requires_grad_(True)
    reference[0].auto_model.get_input_embeddings().requires_grad_(False)
    loss = CachedMultipleNegativesRankingLoss(reference, scale=1 / TEMPERATURE, mini_batch_size=chunk)
    features = [{"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), len(ids[0]), dtype=torch.long)}
                for ids in (queries, documents)]  # fmt: skip

    def step() -> None:
        reference.zero_grad(set_to_none=True)
        loss([dict(feature) for feature in features], torch.empty(0)).backward()

    return step
