"""Hold the contexts that a server answers under, each found by model and fingerprint, never by a path."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock

from cde_retriever.context.context import Context, context_file
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, ContextError, ContextFormatError
from cde_retriever.files.replacing import write_atomically
from cde_retriever.lifecycle.stored_index import folder_kind

SHORTEST = 12
"""Fewest characters of a fingerprint that name a context; messages print as many."""

logger = logging.getLogger(__name__)


class UnknownContextError(ContextError):
    """A server does not hold the context asked for."""


class UnreadableContextError(ContextError):
    """The file of a context in a server's store is damaged, or may not be read."""


class UnkeptContextError(ContextError):
    """A server cannot write a context to its store, so it does not serve it either."""


class ServedContexts:
    """The encoders of a server, one a context, over the same weights. Safe to use from several threads.

    Args:
        encoder: The model.
        contexts: What is served from the start.
        store: Folder that keeps contexts fitted by callers; what it holds already is served too. None for no fitting.
        most: Most contexts held.

    Attributes:
        unreadable: Of files in the store that are damaged or may not be read, why, by their names without the ending.
            Those contexts are not served, the others are.

    Raises:
        ContextMismatchError: if another model made one of them.
        ConfigError: if there are none, or too many.
    """

    def __init__(
        self, encoder: ContextualEncoder, contexts: Iterable[Context], *, store: Path | None = None, most: int = 64
    ) -> None:
        self._encoder, self._store, self._most = encoder, store, most
        self._by_fingerprint: dict[str, ContextualEncoder] = {}
        self.unreadable: dict[str, str] = {}
        self._lock = Lock()
        for context in contexts:
            self._hold(context)
        if store is not None:
            self._read(store)
        elif not self._by_fingerprint:
            raise ConfigError("no context to serve; name files or folders that hold one, or a store to fit some into")

    def _read(self, store: Path) -> None:
        store.mkdir(parents=True, exist_ok=True)
        for file in sorted(store.glob("*.safetensors")):
            try:
                context = Context.load(file)
            except (ContextFormatError, OSError) as error:
                self.unreadable[file.stem] = str(error)
            else:
                self._hold(context)

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._encoder.identity.name

    @property
    def encoders(self) -> list[ContextualEncoder]:
        """The encoders, in the order their contexts came."""
        return list(self._by_fingerprint.values())

    def find(self, address: str) -> ContextualEncoder:
        """Return the encoder under the context that is meant by ``name@fingerprint``.

        Args:
            address: Name of the model, and the fingerprint or its first 12 characters or more.

        Raises:
            UnknownContextError: if there is none.
            UnreadableContextError: if its file in the store is damaged, or may not be read.
        """
        name, _, wanted = address.rpartition("@")
        if name == self.model and len(wanted) >= SHORTEST:
            known = list(self._by_fingerprint.items())  # another thread may add one
            found = [held for fingerprint, held in known if fingerprint.startswith(wanted)]
            if len(found) == 1:
                return found[0]
            if any(name.startswith(wanted) for name in list(self.unreadable)):
                raise UnreadableContextError(
                    f"the file of context {wanted[:SHORTEST]} is in the store of this server, but damaged, or may not "
                    "be read; whoever runs the server has to restore it and start again, or send its documents to "
                    "POST /v1/contexts"
                )
        raise UnknownContextError(
            f"model is {address[:200]!r}, expected '{self.model}@' and the fingerprint of a context that is served "
            f"(its first {SHORTEST} characters or more); GET /v1/contexts lists them"
        )

    def fit(self, documents: Sequence[str], language: str | None) -> ContextualEncoder:
        """Fit a context to documents, keep it in the store, and return its encoder; one that is held stays.

        Args:
            documents: The corpus, or a sample of it.
            language: As `ContextualEncoder.fit_context` takes it.

        Raises:
            ConfigError: without a store, if it is full, or for an unknown language.
            ContextError: if no document has any text, or one is no valid Unicode.
            UnkeptContextError: if the store's disk is full or read-only.
        """
        if self._store is None:
            raise ConfigError("this server fits no contexts; start it with --store FOLDER")
        try:
            context = self._encoder.fork().fit_context(documents, language=language, store_texts=False)
        except ValueError as error:
            raise ContextError(str(error)) from error
        with self._lock:
            if context.fingerprint not in self._by_fingerprint:
                self._refuse_more()
                self._keep(context, self._store / f"{context.fingerprint}.safetensors")
            return self._hold(context)

    def _keep(self, context: Context, file: Path) -> None:
        """Write a context to the store; where that fails the log says which file, and the caller, who knows none, why.

        A damaged file that bears its fingerprint as name can only be the same context, and is replaced.
        """
        try:
            if context.fingerprint in self.unreadable:
                write_atomically(file, context.to_bytes())
            else:
                context.save(file)
        except OSError as error:
            logger.warning("a context that a caller sent documents for is not kept: %s", error)
            why = "" if error.errno is None else f" ({os.strerror(error.errno)})"
            raise UnkeptContextError(
                f"the store of this server cannot keep the context{why}, so it is not served; whoever runs the server "
                "has to free space there or let it be written to, then send the documents again"
            ) from error
        self.unreadable.pop(context.fingerprint, None)

    def _hold(self, context: Context) -> ContextualEncoder:
        held = self._by_fingerprint.get(context.fingerprint)
        if held is None:
            self._refuse_more()
            held = self._encoder.fork()
            held.set_context(context)
            self._by_fingerprint[context.fingerprint] = held
        return held

    def _refuse_more(self) -> None:
        if len(self._by_fingerprint) >= self._most:
            raise ConfigError(
                f"{self._most} contexts are held already, which is the most; delete some from the store and start "
                "again, or raise --most-contexts"
            )


def read_context(path: Path) -> Context:
    """Return the context of a file, of a folder that `Context.save` wrote into, or of an index's folder.

    Raises:
        FileNotFoundError: if there is none.
        ConfigError: if it is a file of another kind.
        ContextFormatError: if it is damaged, or the index keeps none.
    """
    if path.is_file() and path.suffix != ".safetensors":
        raise ConfigError(f"{path} holds no context; name a .safetensors file of one, or the folder of an index")
    if not path.is_dir() or context_file(path).is_file():
        return Context.load(path)
    context = folder_kind(path).context_of(path)
    if context is None:
        raise ContextFormatError(f"the index at {path} keeps no context; name the file that holds it")
    return context
