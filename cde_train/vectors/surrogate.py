"""Embed every text once with the surrogate, an ordinary encoder, for clustering, filtering and mining.

A killed run goes on where it stopped, in the same chunks and so to the same bytes (`cde_train.vectors.text_vectors`
says how they are kept). Memory is one chunk, plus about 150 bytes a distinct text for the keys.
"""

import hashlib
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from cde_retriever.errors import CheckpointError, TruncationWarning
from cde_retriever.files.locking import only_writer
from cde_retriever.progress import counter
from cde_train.errors import TrainingDataError
from cde_train.settings import AtLeast1, Settings
from cde_train.vectors.text_vectors import Manifest, TextVectors, append_rows, read_keys, resume, text_key

if TYPE_CHECKING:
    from cde_retriever.encoder.encoder import ContextualEncoder

BATCHES_A_CHUNK = 32
"""Batches sorted by length together and written together; a kill loses the work of one chunk at most."""
BATCHES_A_CALL = 4
"""Batches the surrogate is given at once; the bar moves after them."""


@dataclass(frozen=True)
class SurrogateConfig(Settings):
    """The encoder that embeds every text once, for clustering, filtering and mining.

    Attributes:
        model: A sentence-transformers model, as folder or Hub id; empty for the start's own first stage.
        prompt: Text put before every text, query or document.
        batch_size: Texts through it at once.
    """

    model: str = ""
    prompt: str = ""
    batch_size: AtLeast1 = 64


class Surrogate(Protocol):
    """Anything that turns texts into vectors; a ``SentenceTransformer`` does."""

    def encode(self, sentences: list[str], /, **kwargs: Any) -> Any:
        """Return one vector a text, (n, d); ``batch_size``, ``prompt`` and the like are given only if named."""
        ...


class FirstStage:
    """The first stage as a surrogate: texts to dataset embeddings."""

    def __init__(self, encoder: "ContextualEncoder") -> None:
        self.encoder = encoder

    def encode(self, sentences: list[str], /, **options: Any) -> Any:
        """Return dataset embeddings, (n, d)."""
        batch_size = int(options.get("batch_size", 32))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # a context document is meant to be cut
            return self.encoder.encode_first_stage(sentences, batch_size=batch_size)


def load_surrogate(name_or_folder: str | os.PathLike[str], device: str | None = None) -> Surrogate:
    """Load a sentence-transformers model; code from a model's repository is never run.

    Raises:
        ImportError: if sentence-transformers is not installed.
        CheckpointError: if the model cannot be found or read.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            'the surrogate needs sentence-transformers; install it with: pip install "cde-retriever[train]"'
        ) from error
    try:
        return cast(Surrogate, SentenceTransformer(str(name_or_folder), device=device, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read the surrogate {str(name_or_folder)!r} ({error!s:.200}); expected a sentence-transformers "
            "model, as folder or Hub id"
        ) from error


def surrogate_identity(surrogate: Surrogate, name: str) -> str:
    """Return a name that changes with the surrogate's weights and maximum length, where it has any to look at."""
    if not hasattr(surrogate, "state_dict"):
        return name
    digest = hashlib.sha256(str(getattr(surrogate, "max_seq_length", None)).encode())
    for key, tensor in sorted(surrogate.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return f"{name}@{digest.hexdigest()[:16]}"


def open_surrogate(config: SurrogateConfig, start: Callable[[], "ContextualEncoder"]) -> tuple[Surrogate, str]:
    """Return the surrogate and its identity.

    Args:
        config: Which it is.
        start: Gives the model that training starts from, whose first stage is taken where none is named.
    """
    if config.model:
        surrogate = load_surrogate(config.model)
        return surrogate, surrogate_identity(surrogate, config.model)
    encoder = start()
    return cast(Surrogate, FirstStage(encoder)), f"first stage of {encoder.config.name}@{encoder.identity.sha256[:16]}"


def embed_texts(
    texts: Iterable[str],
    surrogate: Surrogate,
    folder: str | os.PathLike[str],
    *,
    identity: str,
    prompt: str = "",
    batch_size: int = 64,
    show_progress: bool = True,
    label: str = "Embedding texts",
) -> TextVectors:
    """Embed every distinct text that the folder does not hold yet.

    Args:
        texts: The texts; any iterable, read once.
        surrogate: The encoder; called with lists of `batch_size` * 4 texts, longest first.
        folder: Where the vectors lie or will lie. Texts that take different prompts need different folders.
        identity: Name of the surrogate and its weights, for instance from `surrogate_identity`.
        prompt: Text put before every text.
        batch_size: Texts through the surrogate at once.
        show_progress: Show a progress bar on stderr.
        label: What the bar says.

    Raises:
        TypeError: if an item is not a string.
        TrainingDataError: if a vector is zero or not finite, or there is no text; names the text.
        ArtifactError: if the folder's files are damaged, or belong to another surrogate.
        OSError: if the disk is full, or another process writes to the folder. What was complete stays.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be an iterable of strings, received one {type(texts).__name__}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, received {batch_size}")
    folder = Path(folder)
    with only_writer(folder):
        manifest = resume(folder, Manifest(identity, prompt))
        rows = read_keys(folder, manifest)
        total = len(texts) if isinstance(texts, Sized) else None
        with counter(total=total, label=label, unit="text", show=show_progress) as bar:
            for seen, chunk in _new_texts(texts, rows, batch_size * BATCHES_A_CHUNK):
                if chunk:
                    vectors = _embed(list(chunk.values()), surrogate, prompt, batch_size, bar.update)
                    manifest = append_rows(folder, manifest, vectors, list(chunk))
                    rows.update(zip(chunk, range(len(rows), manifest.rows), strict=True))
                bar.update(seen - len(chunk))
        return TextVectors.opened(folder, manifest, rows)


def _new_texts(texts: Iterable[str], rows: dict[bytes, int], size: int) -> Iterator[tuple[int, dict[bytes, str]]]:
    """Yield chunks of distinct unknown texts by key, each with the number of texts read for it."""
    seen, chunk = 0, dict[bytes, str]()
    for text in texts:
        seen += 1
        key = text_key(text)
        if key not in rows:
            chunk.setdefault(key, text)
        if len(chunk) == size or seen >= 1 << 16:  # the second keeps the bar moving over known texts
            if len(chunk) < size:
                yield seen, {}
            else:
                yield seen, chunk
                chunk = {}
            seen = 0
    yield seen, chunk


def _embed(
    texts: list[str], surrogate: Surrogate, prompt: str, batch_size: int, done: Callable[[int], object]
) -> NDArray[np.float32]:
    """Return unit vectors in the order of the texts, (n, d); `done` is told how many more there are, now and then."""
    accepted = inspect.signature(surrogate.encode).parameters
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False, "convert_to_numpy": True}
    if prompt and "prompt" in accepted:  # pooling may leave a prompt out if it knows of it
        options["prompt"] = prompt
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))  # stable: fixed batches, little padding
    given = [texts[i] if "prompt" in options else prompt + texts[i] for i in order]
    options = {name: value for name, value in options.items() if name in accepted}
    parts = []
    for start in range(0, len(given), batch_size * BATCHES_A_CALL):
        part = given[start : start + batch_size * BATCHES_A_CALL]
        encoded = np.asarray(surrogate.encode(part, **options), dtype=np.float32)
        if encoded.ndim != 2 or len(encoded) != len(part) or not encoded.shape[1]:
            raise TrainingDataError(
                f"the surrogate returned shape {encoded.shape} for {len(part)} texts, expected one a text, (n, d)"
            )
        parts.append(encoded)
        done(len(part))
    found = np.concatenate(parts)
    length = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
    broken = np.flatnonzero(~np.isfinite(length[:, 0]) | (length[:, 0] == 0))
    if len(broken):
        first = int(broken[0])
        raise TrainingDataError(
            f"the surrogate gave {len(broken)} vectors that are zero or not finite, the first (norm "
            f"{length[first, 0]}) for text {texts[order[first]]!r:.80}; leave it out, or change surrogate or dtype"
        )
    vectors = np.empty_like(found)
    vectors[order] = found / length
    return vectors
