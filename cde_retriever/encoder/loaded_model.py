"""Load a model, save it, and say what it is: `LoadedModel`."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from tokenizers import Tokenizer

from cde_retriever.backends.backend import Backend
from cde_retriever.backends.loading import FoundModel, Route, identify, load
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import ModelIdentity
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.whole_numbers import whole_number
from cde_retriever.encoder.dimensions import full_dimension
from cde_retriever.encoder.text_runner import DEFAULT_BATCH, Ids, TextRun, TextRunner, Vectors
from cde_retriever.encoder.tokens import TextTokenizer, TokenizedTexts
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.evidence import Evidence

if TYPE_CHECKING:  # a server of queries runs without PyTorch
    import torch

    from cde_retriever.corpus.passage_size import PassageSize
    from cde_retriever.model.two_stage import TwoStageModel


class LoadedModel:
    """A model, what runs it and its tokenizer, without a context.

    One thread at a time runs the model; encoders over the same weights (`ContextualEncoder.fork`) share the runner.

    Attributes:
        spec: What it was loaded by; None if it was made of a model in memory.

    Args:
        backend: The two-stage model and what runs it.
        tokenizer: Its tokenizer, without prompts.
        identity: What tells this model from others.
        queries: The backend and tokenizer that queries go through, where they are others.
        truncate_dim: How many numbers of a vector to keep; None for all.

    Raises:
        ConfigError: if the vectors have fewer numbers than `truncate_dim`, or it is below 1.
    """

    spec: ModelSpec | None = None

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        identity: ModelIdentity,
        queries: Route | None = None,
        *,
        truncate_dim: int | None = None,
    ) -> None:
        longest = full_dimension(backend)
        if truncate_dim is not None and whole_number("truncate_dim", truncate_dim, 1) > longest:
            raise ConfigError(
                f"truncate_dim is {truncate_dim}, but vectors of {identity.name} have {longest} numbers; "
                f"expected 1 to {longest}, or None for all"
            )
        self._backend = backend
        self._tokenizer = tokenizer
        self._identity = identity
        self._truncate_dim = None if truncate_dim == longest else truncate_dim
        self._query_route = queries
        self._runner = TextRunner(backend, tokenizer, queries)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: "torch.device | str | None" = None,
        dtype: "torch.dtype | str | None" = None,
        backend: str | None = None,
        truncate_dim: int | None = None,
        pooling: str | None = None,
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        variant: str | None = None,
        long_texts: str | None = None,
        vector_size: int | None = None,
        context_for: str | None = None,
    ) -> Self:
        """Load a model; `from_spec` does the same with all arguments in one value.

        Args:
            name: A folder or a Hub id; None for the bundled default. A CDE checkpoint, a sentence-transformers model,
                or an encoder of `transformers`: the last two get a head that knows the corpus. For all backends but
                ``"torch"`` also the folder of an export (``cde export``); a checkpoint is exported when it is first
                loaded, and kept in the user's cache folder.
            revision: Branch, tag or commit on the Hub.
            device: ``"cpu"``, ``"cuda"``, ``"mps"`` …; None takes the fastest that the backend has.
            dtype: ``torch.float32`` (default), ``torch.bfloat16`` or ``torch.float16``, or their names; for the
                other backends ``"float32"`` (default; that of the export, if `name` is one) or ``"int8"``.
            backend: ``"torch"``, the default; ``"onnx"``, faster for queries; ``"openvino"``, with ``dtype="int8"``
                faster for documents on a CPU. Vectors of all are the same, to rounding.
            truncate_dim: How many numbers of one vector to keep (`cde_retriever.encoder.dimensions`); None for all.
            pooling: How an encoder of `transformers` pools its token vectors, such as ``"mean"`` or ``"cls"``;
                sentence-transformers models and CDE checkpoints say it themselves.
            max_length: Longest text in tokens, at most what the model can read; its own by default. Another one makes
                another model, with an identity of its own.
            prompts: Text put before its queries and documents, ``{"query": …, "document": …}``; its own by default.
            variant: Which network of the authors' own weights to compute (docs/released.md).
            long_texts: What becomes of texts longer than `max_length`: ``"cut"`` off, the default, or read whole as
                overlapping ``"windows"`` whose vectors are joined; the latter of models with a corpus head.
            vector_size: Numbers of one vector of a model with a corpus head; None for the model's own number, of an
                encoder that gets its head here 384 more than the encoder's, which hold words. Fewer than the encoder's
                are the main directions of the context's documents, for stores in which size costs; as many are its own
                alone, and more, up to twice as many or 384 more, hold words beside (docs/encoders.md).
            context_for: ``"queries"``: documents keep the encoder's own vectors, so that an index of them that is there
                can be asked, and a context changes queries alone; also of CDE checkpoints with a corpus head. None for
                a context that changes both.

        Raises:
            CheckpointError: if it cannot be found, is incomplete or damaged, or nothing that is understood.
            ConfigError: for an unknown backend, a device or dtype it does not have, or a `truncate_dim` out of range.
            ValueError: for an unknown dtype.
            ImportError: if the backend is not installed.
        """
        return cls.from_spec(
            ModelSpec.of(
                name,
                revision=revision,
                device=device,
                dtype=dtype,
                backend=backend,
                truncate_dim=truncate_dim,
                pooling=pooling,
                max_length=max_length,
                prompts=prompts,
                variant=variant,
                long_texts=long_texts,
                vector_size=vector_size,
                context_for=context_for,
            )
        )

    @classmethod
    def from_spec(cls, spec: ModelSpec, found: FoundModel | None = None) -> Self:
        """Load the model that a spec names, where `find_model` found it if it was asked; see `from_pretrained`."""
        made = cls(*load(spec, found), truncate_dim=spec.truncate_dim)
        made.spec = spec
        return made

    @classmethod
    def from_model(
        cls, model: "TwoStageModel", tokenizer: Tokenizer, *, stored_dtype: "torch.dtype | None" = None
    ) -> Self:
        """Wrap a PyTorch model and its tokenizer, which adds no prompts.

        `save_pretrained` writes its weights in `stored_dtype`, float32 by default, and the identity is hashed in that.
        """
        from cde_retriever.backends.pytorch import TorchBackend
        from cde_retriever.checkpoint.checkpoint import hash_model
        from cde_retriever.checkpoint.sizes import refuse_unknown_ids

        refuse_unknown_ids(tokenizer, int(model.second_stage.backbone.config.vocab_size), model.config.name)
        backend = TorchBackend(model) if stored_dtype is None else TorchBackend(model, stored_dtype)
        sha256 = hash_model(model, tokenizer, backend.stored_dtype)
        return cls(backend, Tokenizer.from_str(tokenizer.to_str()), identify(model.config, sha256, None))

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: "torch.dtype | None" = None) -> Path:
        """Write the checkpoint to a folder; all or nothing.

        Args:
            folder: Where to.
            dtype: Dtype of the stored weights; by default the one they were stored in.

        Raises:
            ConfigError: if the model runs as an export, which has no weights to write.
        """
        return cast(Path, self._torch().save(Path(folder), self._tokenizer, dtype, self._query_route))

    def open_model(self) -> "TwoStageModel":
        """Hand out the PyTorch model, to look into or to change.

        From then on the encoder, and all its forks, follow the model: they run it as it is, which is slower on a CPU,
        hash it with every call, and once it has changed it has another `identity` and refuses contexts of before.

        Raises:
            ConfigError: if the model runs as an export.
        """
        return cast("TwoStageModel", self._torch().open_model())

    def _torch(self) -> Any:
        if not hasattr(self.backend, "open_model"):
            raise ConfigError(
                f"{self.identity.name} runs as an export (backend={type(self.backend).__name__}), which has no PyTorch "
                "model; load the checkpoint with backend='torch'"
            )
        return self.backend

    @property
    def backend(self) -> Backend:
        """The two-stage model and what runs it."""
        return self._backend

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """A copy of the model's tokenizer, without prompts; what becomes of it does not change what the model reads."""
        return Tokenizer.from_str(self._tokenizer.to_str())

    @property
    def truncate_dim(self) -> int | None:
        """How many numbers of a vector are kept; None for all. Another number needs another encoder (`fork`)."""
        return self._truncate_dim

    @property
    def identity(self) -> ModelIdentity:
        """What tells this model from others; after `open_model` that of the weights as they are now."""
        if not self.backend.is_open:
            return self._identity
        changed = self.backend.changed_sha256(self._tokenizer)
        return identify(self.config, changed or self._identity.sha256, self._identity.revision)

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.backend.config

    @property
    def dimension(self) -> int:
        """Width of the vectors; needs no context."""
        return self.truncate_dim or full_dimension(self.backend)

    @property
    def dense_dimension(self) -> int:
        """Width of the dense part of a text in parts; of a model without a corpus head `dimension`."""
        return self.dimension if self.head_settings is None else self.backend.dimension

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids the second stage knows."""
        return self.backend.vocabulary_size

    @property
    def device(self) -> str:
        """Where the model is, such as ``"cpu"`` or ``"cuda:0"``."""
        return self.backend.device

    def tokenize(self, texts: Sequence[str], role: str = "document") -> TokenizedTexts:
        """Return the token ids that the model reads of texts, and which texts are too long to be read whole.

        Args:
            texts: The texts, without prompt.
            role: ``"query"`` or ``"document"``, which decides the prompt.

        Raises:
            TypeError: if a text is not a string; names its index.
            ValueError: if a text is not valid Unicode; names its index.
        """
        return self._runner.tokenizer(role).tokenize(texts, role)

    def text_tokenizer(self, max_length: int | None = None, *, role: str = "document") -> TextTokenizer:
        """Return what turns texts into this model's token ids, cut at a length in tokens, at most the model's own."""
        return self._runner.new_tokenizer(max_length, role)

    def passage_size(self) -> "PassageSize":
        """Return how long a passage of a document may be for the model to read it whole."""
        from cde_retriever.corpus.passage_size import PassageSize

        return PassageSize.of(self._tokenizer, self.config.max_length, self.config.prompts["document"])

    @cached_property
    def head_settings(self) -> HeadSettings | None:
        """Settings of the corpus head; None for a model without."""
        settings = self.config.corpus_head
        return None if settings is None else HeadSettings.from_dict(settings)

    def encode_first_stage(
        self,
        texts: Sequence[str],
        *,
        role: str = "document",
        batch_size: int = DEFAULT_BATCH,
        show_progress: bool = False,
    ) -> Vectors:
        """Embed texts with the first stage alone, (n, d) float32; needs no context.

        Documents' are a context's vectors, of a model with a corpus head plain ones; not comparable with those of
        `encode_documents`. `role`, ``"query"`` or ``"document"``, decides the prompt.
        """
        ids = self._runner.tokenize(texts, role)
        return self._first_stage(ids, TextRun.of(role, batch_size, show_progress))

    def _first_stage(self, ids: list[Ids], how: TextRun) -> Vectors:
        if self.head_settings is not None:
            return self._plain(ids, how)
        return self._runner.run(ids, how, self.backend.embed_first_stage, self.config.first_stage_width)

    def _plain(self, ids: list[Ids], how: TextRun) -> Vectors:
        """Return vectors of a model with a corpus head, without any context."""
        backend = self._runner.route(how.role)[0]
        embed = partial(backend.embed, state=backend.prepare(Evidence(0)))

        def run(rows: list[Ids]) -> Vectors:
            return self._runner.run(rows, how, embed, self.backend.dimension)

        return self._runner.compared(ids, how.role, run)
