"""An oracle of hybrid search that knows neither stamps nor indexes, for random sequences of what users do."""

import logging
import os
import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.search.hybrid import inner_products
from tests.tiny import HEADED, tiny_backbone, tiny_encoder, tiny_tokenizer

SEQUENCES, STEPS = int(os.environ.get("CDE_SEQUENCES", "12")), int(os.environ.get("CDE_STEPS", "16"))
FIRST = int(os.environ.get("CDE_SEED", "0"))
"""A long run: CDE_SEQUENCES=1000 CDE_SEED=12 CDE_STEPS=16, number of sequences, first seed, operations in each."""
MODES = ("hybrid", "dense", "sparse")
QUERIES = ("baron kolak misim", "zevex ludor 12", "ratul")


def headed_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of one layer with a corpus head, and return its folder."""
    backbone = tiny_backbone("bert", tiny_tokenizer().get_vocab_size()) | {"num_hidden_layers": 1}
    return tiny_encoder(**HEADED, second_stage=backbone).save_pretrained(folder)


class PartsOracle:
    """Ranks texts under a context with an encoder of its own."""

    def __init__(self, checkpoint: Path) -> None:
        self.encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu")
        self.known: dict[tuple[str, str, str], tuple] = {}

    def parts(self, context: Context, role: str, text: str) -> tuple:
        key = (context.fingerprint, role, text)
        if key not in self.known:
            self.encoder.set_context(context)
            encode = self.encoder.encode_queries if role == "query" else self.encoder.encode_documents
            self.known[key] = encode([text], parts="both")
        return self.known[key]

    def scores(self, context: Context, texts: list[str], query: str, mode: str) -> np.ndarray:
        asked = self.parts(context, "query", query)
        made = [self.parts(context, "document", text) for text in texts]
        dense = np.array([float(asked.dense[0] @ one.dense[0]) for one in made])
        words = np.array([float(inner_products(asked.sparse, one.sparse)[0, 0]) for one in made])
        return {"hybrid": dense + words, "dense": dense, "sparse": words}[mode]

    def judge(self, context: Context, stored: list[str], found: list[str], query: str, mode: str, count: int) -> None:
        """Assert that exactly the best stored texts were found, in their order under this context."""
        best = np.sort(self.scores(context, stored, query, mode))[::-1]
        best = (best[best > 0] if mode == "sparse" else best)[:count]
        assert len(set(found)) == len(found)
        assert set(found) <= set(stored)
        np.testing.assert_allclose(self.scores(context, found, query, mode), best, atol=1e-4)


def play_sequences(folder: Path, world: Callable[..., Any], right: Sequence[str], wrong: Sequence[str]) -> None:
    """Play random sequences of right and wrong operations, each in a world of its own.

    Args:
        folder: Where to write the checkpoint.
        world: Made of a checkpoint, a folder, an oracle, a source of randomness and counts; has the operations.
        right: Names of operations that must work, as often as they are to be drawn.
        wrong: Names for its `wrong`, which must raise; after each the world is queried.
    """
    checkpoint = headed_checkpoint(folder / "checkpoint")
    oracle, counts = PartsOracle(checkpoint), Counter[str]()
    for seed in range(FIRST, FIRST + SEQUENCES):
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # foreign contexts are warned of; that is tested elsewhere
            try:
                _play(world(checkpoint, Path(place), oracle, random.Random(seed), counts), right, wrong)
            except BaseException as error:
                error.add_note(f"sequence {seed}, after {dict(counts)}")
                raise
    logging.getLogger(__name__).info("%d sequences: %s", SEQUENCES, dict(counts))
    assert counts["answered"] > 3 * SEQUENCES, counts
    for name in wrong:
        assert counts[f"refused {name}"] >= 1, (name, counts)


def _play(world: Any, right: Sequence[str], wrong: Sequence[str]) -> None:
    world.build()
    world.build()
    for _ in range(STEPS):
        if world.rng.random() < 0.6:
            getattr(world, world.rng.choice(right))()
        else:
            world.wrong(world.rng.choice(wrong))
            world.query()
