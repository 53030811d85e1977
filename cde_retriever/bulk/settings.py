"""Define how a corpus is embedded in bulk."""

from dataclasses import dataclass, field

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.corpus.rows import Columns
from cde_retriever.errors import ConfigError

ENGINES = ("local", "ray")
FORMS = ("one", "dense", "both")


@dataclass(frozen=True)
class BulkSettings:
    """How a corpus is embedded.

    Attributes:
        model: The model, and how to run it.
        columns: Which columns make a document.
        parts: What of a document is written: ``"one"`` vector, the ``"dense"`` part for hybrid search, or ``"both"``
            its parts (docs/hybrid.md).
        batch_size: Texts of 128 tokens through the model at once, of shorter ones more; does not change the result.
        shard_size: Documents a part; what a killed worker has to do again.
        engine: ``"local"``, this process, or ``"ray"``, a cluster.
        language: Whose words the corpus is counted in where a context is fitted (`ContextualEncoder.fit_context`).
        selection: How context documents are chosen where one is fitted, likewise.
        context_size: How many at most; None for the model's own number.
        workers: Actors of the ray engine; None for as many as the cluster has GPUs, or else cores.

    Raises:
        ConfigError: if a value cannot be.
    """

    model: ModelSpec = field(default_factory=ModelSpec)
    columns: Columns = field(default_factory=Columns)
    parts: str = "one"
    batch_size: int = 32
    shard_size: int = 8192
    engine: str = "local"
    language: str | None = None
    selection: str = "random"
    context_size: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be, in the words of the command line."""
        if self.engine not in ENGINES:
            raise ConfigError(f"--engine is {self.engine!r}, expected {' or '.join(ENGINES)}")
        if self.parts not in FORMS:
            raise ConfigError(f"--parts is {self.parts!r}, expected {', '.join(FORMS[:-1])} or {FORMS[-1]}")
        if self.workers is not None and self.engine == "local":
            raise ConfigError(f"--workers is {self.workers}, but the local engine is one process; add --engine ray")
        for name in ("batch_size", "shard_size", "context_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected at least 1")

    def refuse_other_making(self, context: Context) -> None:
        """Refuse a context that is there already, and was made otherwise than these settings say.

        Raises:
            ConfigError: naming what differs.
        """
        said, counted = self.language, context.words and context.words.language
        if said not in (None, counted):
            raise ConfigError(
                f"--language is {said!r}, but the words of context {context.fingerprint[:12]} were counted in "
                f"{counted!r}; leave --language out, or choose another output and no --context"
            )
        if self.selection not in (BulkSettings.selection, context.selection):
            raise ConfigError(
                f"--selection is {self.selection!r}, but the documents of context {context.fingerprint[:12]} were "
                f"chosen by {context.selection!r}; leave it out, or choose another output and no --context"
            )
        if self.context_size not in (None, context.choice.size):
            raise ConfigError(
                f"--context-size is {self.context_size}, but context {context.fingerprint[:12]} was made to hold "
                f"{context.choice.size or context.size} documents; leave it out, or choose another output and no "
                "--context"
            )
