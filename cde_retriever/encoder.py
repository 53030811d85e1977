"""`ContextualEncoder`: a checkpoint, a context, and texts to vectors. Everything a framework adapter needs."""

import os
import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from tqdm.auto import tqdm

from cde_retriever.checkpoint import Checkpoint, find_checkpoint, hash_model, read_checkpoint, write_checkpoint
from cde_retriever.config import ModelConfig
from cde_retriever.context import Context, ModelIdentity, make_context, sample_documents
from cde_retriever.errors import ContextMismatchError, ContextNotFittedError
from cde_retriever.model import State, TwoStageModel
from cde_retriever.tokenization import TextTokenizer, check_texts, count_documents

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class _Active:
    """The context in force and what the second stage made of it, replaced together."""

    context: Context
    state: State


class ContextualEncoder:
    """Embed documents and queries given a context.

    Safe to use from several threads: one call runs at a time, and each call works under one context throughout.

    Args:
        model: The two-stage model.
        tokenizer: Its tokenizer, without prompts.
        identity: What tells this model from others; by default hashed from model and tokenizer.
        stored_dtype: Dtype in which `save_pretrained` writes the weights.
    """

    def __init__(
        self,
        model: TwoStageModel,
        tokenizer: Tokenizer,
        *,
        identity: ModelIdentity | None = None,
        stored_dtype: torch.dtype = torch.float32,
    ) -> None:
        config = model.config
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.identity = identity or _identity(config, hash_model(model, tokenizer, stored_dtype), None)
        self._stored_dtype = stored_dtype
        self._active: _Active | None = None
        self._origin: ContextualEncoder | None = None
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> "ContextualEncoder":
        """Load a checkpoint.

        Args:
            name: A folder or a Hub id; None for the bundled default.
            revision: Branch, tag or commit on the Hub.
            device: ``"cpu"``, ``"cuda"``, ``"mps"`` …; None takes CUDA, else MPS, else the CPU.
            dtype: ``torch.float32`` (default), ``torch.bfloat16`` or ``torch.float16``, or their names.

        Raises:
            CheckpointError: if it cannot be found, or is incomplete or damaged.
            ValueError: for an unknown dtype.
        """
        folder, commit = find_checkpoint(name, revision)
        read = read_checkpoint(folder, revision=commit, device=device or default_device(), dtype=as_dtype(dtype))
        return cls._from_checkpoint(read)

    @classmethod
    def _from_checkpoint(cls, read: Checkpoint) -> "ContextualEncoder":
        identity = _identity(read.model.config, read.sha256, read.revision)
        return cls(read.model, read.tokenizer, identity=identity, stored_dtype=read.stored_dtype)

    def fork(self) -> "ContextualEncoder":
        """Return an encoder over the same weights, without a context yet; one call at a time runs over all forks."""
        twin = type(self)(self.model, self.tokenizer, identity=self.identity, stored_dtype=self._stored_dtype)
        twin._lock = self._lock
        twin._origin = self  # lives as long as its forks, so that `sharing` finds it
        return twin

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write the checkpoint to a folder; all or nothing.

        Args:
            folder: Where to.
            dtype: Dtype of the stored weights; by default the one they were stored in.
        """
        return write_checkpoint(folder, self.model, self.tokenizer, dtype=dtype or self._stored_dtype)

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def dimension(self) -> int:
        """Width of the vectors; needs no context."""
        return self.model.dimension

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids the second stage knows."""
        return int(self.model.second_stage.backbone.config.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def _texts(self) -> TextTokenizer:
        return self.text_tokenizer(self.config.max_length)

    def text_tokenizer(self, max_length: int) -> TextTokenizer:
        """Return what turns texts into this model's token ids, cut at a length in tokens, at most the model's own."""
        return TextTokenizer(
            self.tokenizer,
            prompts=self.config.prompts,
            max_length=min(max_length, self.config.max_length),
            pad_token_id=int(self.config.second_stage.get("pad_token_id") or 0),
        )

    # The context

    @property
    def context(self) -> Context:
        """The context in force.

        Raises:
            ContextNotFittedError: if none was set.
        """
        return self._require_active().context

    @property
    def has_context(self) -> bool:
        """Whether a context was set."""
        return self._active is not None

    def fit_context(
        self,
        documents: Iterable[str],
        *,
        seed: int = 0,
        context_size: int | None = None,
        store_texts: bool = True,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> Context:
        """Sample a corpus, embed the sample with the first stage, and set the result as context.

        One pass over the documents; memory grows with the context, not with the corpus.

        Args:
            documents: The corpus, as texts; any iterable.
            seed: Seed of the sample.
            context_size: Most context documents; None for the model's own number.
            store_texts: Whether the context keeps the sampled texts, or only their hashes.
            batch_size: Texts through the model at once; does not change the result.
            show_progress: Whether to show a progress bar on stderr.

        Raises:
            TypeError: if an item is not a string; names its index.
            ContextError: if no document has any text.
        """
        sample = sample_documents(documents, context_size or self.config.context_size, seed)
        vectors = self.encode_first_stage(sample.texts, batch_size=batch_size, show_progress=show_progress)
        needs = None if self.config.positions == "text" else self.config.context_size
        context = make_context(
            sample,
            vectors,
            self.identity,
            store_texts=store_texts,
            needs=needs,
            frequencies=self._count_terms(sample.texts) if self.config.term_statistics else None,
        )
        self.set_context(context)
        return context

    def set_context(self, context: Context) -> None:
        """Embed under this context from now on.

        Raises:
            TypeError: if it is not a `Context`.
            ContextMismatchError: if another model made it; names both.
        """
        if not isinstance(context, Context):
            raise TypeError(f"expected a Context, received {type(context).__name__}; use Context.load(path)")
        self._check_model(context)
        rows = context.vectors
        if context.oversampled_to is not None:
            rows = rows[np.arange(context.oversampled_to) % len(rows)]
        embeddings = torch.tensor(rows, device=self.device, dtype=self._dtype)
        frequencies = None
        if self.config.term_statistics:
            frequencies = torch.zeros(self.vocabulary_size, device=self.device)
            frequencies[torch.tensor(context.frequencies[:, 0])] = torch.tensor(context.frequencies[:, 1]).float()
        with self._lock, torch.inference_mode():
            self._active = _Active(context, self.model.second_stage.prepare(embeddings, frequencies=frequencies))

    def _count_terms(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return token ids and in how many of the documents each occurs, (k, 2)."""
        counts = count_documents(self._texts.tokenize(texts, "document").ids, self.vocabulary_size)
        found = np.flatnonzero(counts)
        return np.stack([found, counts[found]], axis=1)

    def null_context(self) -> Context:
        """Return the context that stands for "no corpus"; setting it is a mode of its own, with a fingerprint."""
        width = int(self.config.first_stage["hidden_size"])
        return Context(vectors=np.zeros((0, width), np.float32), model=self.identity)

    def _check_model(self, context: Context) -> None:
        ours, theirs = self.identity, context.model
        for name in ("sha256", "prompts", "max_length", "ordered"):
            mine, other = getattr(ours, name), getattr(theirs, name)
            if mine != other:
                raise ContextMismatchError(
                    f"context {context.fingerprint[:12]} was made by model {theirs.name!r} with {name} {other!r}, "
                    f"this is {ours.name!r} with {name} {mine!r}; load that model, or fit a context with this one"
                )

    def _require_active(self) -> _Active:
        active = self._active
        if active is None:
            raise ContextNotFittedError(
                "no context is set; call fit_context(documents), or set_context(Context.load(path)), or "
                "set_context(encoder.null_context()) to embed without a corpus"
            )
        return active

    # Texts to vectors

    def encode_documents(self, texts: Sequence[str], *, batch_size: int = 32, show_progress: bool = False) -> Vectors:
        """Embed documents under the context in force.

        Args:
            texts: The documents, given to the model as they are.
            batch_size: Texts through the model at once; does not change the result.
            show_progress: Whether to show a progress bar on stderr.

        Returns:
            Unit vectors, (n, d) float32, in input order.

        Raises:
            ContextNotFittedError: if no context is set.
            TypeError: if a text is not a string; names its index.
        """
        return self._encode(texts, "document", batch_size, show_progress)

    def encode_queries(self, texts: Sequence[str], *, batch_size: int = 32, show_progress: bool = False) -> Vectors:
        """Embed queries under the context in force; otherwise as `encode_documents`."""
        return self._encode(texts, "query", batch_size, show_progress)

    def encode_first_stage(self, texts: Sequence[str], *, batch_size: int = 32, show_progress: bool = False) -> Vectors:
        """Embed documents with the first stage alone, (n, d) float32; needs no context.

        These are a context's vectors. They are not comparable with those of `encode_documents`.
        """
        first = self.model.first_stage
        return self._run(texts, "document", first, first.backbone.config.hidden_size, batch_size, show_progress)

    def _encode(self, texts: Sequence[str], role: str, batch_size: int, show_progress: bool) -> Vectors:
        active = self._require_active()

        def embed(input_ids: Tensor, mask: Tensor) -> Tensor:
            output: Tensor = self.model.second_stage(input_ids, mask, active.state)
            return output

        return self._run(texts, role, embed, self.dimension, batch_size, show_progress)

    def _run(
        self, texts: Sequence[str], role: str, embed: Any, width: int, batch_size: int, show_progress: bool
    ) -> Vectors:
        """Tokenise, run in batches of similar length, longest first, and put the rows back in input order."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, received {batch_size}")
        texts = check_texts(texts)
        output = np.zeros((len(texts), width), dtype=np.float32)
        tokenized = self._texts.tokenize(texts, role)
        if tokenized.truncated:
            warnings.warn(
                f"{len(tokenized.truncated)} of {len(texts)} texts are longer than {self.config.max_length} tokens and "
                f"were cut (the first is text {tokenized.truncated[0]}); split them to use them whole",
                stacklevel=4,
            )
        order = sorted(range(len(texts)), key=lambda i: -len(tokenized.ids[i]))
        starts = range(0, len(order), batch_size)
        with self._lock, torch.inference_mode():
            for start in tqdm(starts, desc=f"Embedding {len(texts)} texts", unit="batch", disable=not show_progress):
                rows = order[start : start + batch_size]
                input_ids, mask = self._texts.pad([tokenized.ids[i] for i in rows])
                vectors = embed(input_ids.to(self.device), mask.to(self.device))
                output[rows] = vectors.float().cpu().numpy()
        return output

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


def _identity(config: ModelConfig, sha256: str, revision: str | None) -> ModelIdentity:
    return ModelIdentity(
        name=config.name,
        revision=revision,
        sha256=sha256,
        prompts=dict(config.prompts),
        max_length=config.max_length,
        ordered=config.order_matters,
    )


def default_device() -> str:
    """Return the fastest device of this machine: ``"cuda"``, ``"mps"`` or ``"cpu"``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a floating dtype from itself or its name, such as ``"bfloat16"``.

    Raises:
        ValueError: if it is none of float32, bfloat16, float16.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is None or dtype in known.values():
        return dtype  # type: ignore[return-value]
    if dtype in known:
        return known[str(dtype)]
    raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(known)}")
