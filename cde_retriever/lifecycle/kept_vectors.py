"""Make plain vectors of texts, and keep them in a folder, so that an interrupted command continues where it stopped."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.sampling import hash_text
from cde_retriever.encoder.dimensions import full_dimension
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.text_runner import label_of
from cde_retriever.errors import ConfigError
from cde_retriever.files.replacing import write_atomically
from cde_retriever.progress import counter

CHUNK = 128
DIGEST = 32

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str], str], Vectors]
"""Makes plain unit vectors, (n, d), of texts that are ``"document"`` or ``"query"``."""


def plain_embedding(encoder: ContextualEncoder) -> Embed:
    """Return what embeds texts with an encoder's model, without any context.

    Raises:
        ConfigError: for a model without a corpus head, where the context changes what the model itself computes.
    """
    if encoder.config.corpus_head is None:
        raise ConfigError(
            f"{encoder.config.name} has no corpus head, so contexts cannot be compared on the same plain vectors; name "
            "an encoder such as sentence-transformers/all-MiniLM-L6-v2, or leave --model out"
        )
    plain = encoder.fork(truncate_dim=full_dimension(encoder.backend)).without_context()

    def embed(texts: Sequence[str], role: str) -> Vectors:
        if role == "query":
            return plain.encode_queries(texts, parts="dense")
        return plain.encode_documents(texts, parts="dense", on_truncation=lambda _: None)

    return embed


def kept_embedding(encoder: ContextualEncoder, folder: Path, *, show_progress: bool) -> "KeptVectors":
    """Return the same, of which a folder keeps what was embedded; raises as `plain_embedding` does."""
    return KeptVectors(plain_embedding(encoder), encoder.identity.sha256, folder, show_progress=show_progress)


class KeptVectors:
    """Plain vectors of one model: a file for every hundred texts or so, each with its hash.

    Args:
        embed: Makes the vectors that are not kept yet.
        identity: What tells the model from others.
        folder: Where they are kept.
        show_progress: Whether to show a progress bar on stderr.
    """

    def __init__(self, embed: Embed, identity: str, folder: Path, *, show_progress: bool = False) -> None:
        self._embed, self._identity, self._folder, self._show = embed, identity, folder, show_progress

    def __call__(self, texts: Sequence[str], role: str) -> Vectors:
        """Return plain vectors of texts, (n, d), in their order."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        place = {text: row for row, text in enumerate(distinct)}
        parts = []
        with counter(total=len(distinct), label=label_of(role, True), unit=role, show=self._show) as bar:
            for start in range(0, len(distinct), CHUNK):
                chunk = distinct[start : start + CHUNK]
                parts.append(self._chunk(chunk, role))
                bar.update(len(chunk))
        vectors: Vectors = np.concatenate(parts)[[place[text] for text in texts]]
        return vectors

    def _chunk(self, texts: list[str], role: str) -> Vectors:
        key = "\n".join([self._identity, role, *map(hash_text, texts)])
        file = self._folder / f"{hash_text(key)[:32]}.f32"
        kept = file.read_bytes() if file.exists() else b""
        if hashlib.sha256(kept[DIGEST:]).digest() == kept[:DIGEST]:  # a damaged file is made again
            return np.frombuffer(kept[DIGEST:], "<f4").reshape(len(texts), -1)
        vectors = np.asarray(self._embed(texts, role), "<f4")
        data = vectors.tobytes()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, hashlib.sha256(data).digest() + data)
        return vectors
