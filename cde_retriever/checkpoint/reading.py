"""Say how to read an encoder that is no CDE checkpoint, and identify what was read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cde_retriever.checkpoint.folder import CONFIG_NAME, hash_checkpoint, model_values
from cde_retriever.checkpoint.kinds import CDE, kind_of, read_json
from cde_retriever.context.head_settings import FITTED_SIZE, HeadSettings
from cde_retriever.context.whole_numbers import whole_number
from cde_retriever.errors import ConfigError
from cde_retriever.files.hashing import hash_file
from cde_retriever.model.config import CUT, POOLINGS, ROLES, WINDOWS, ModelConfig

READER_VERSION = 1
"""Grows with every change after which the same files give other vectors."""
NOT_READ = (".bin", ".h5", ".msgpack", ".onnx", ".ot", ".md", ".gguf", ".png", ".py", ".pt")
FOLDERS_NOT_READ = ("onnx", "openvino", "coreml", "checkpoint")
QUERIES = "queries"
LEAST_SIZE = 6
"""Fewest numbers of one vector."""


@dataclass(frozen=True)
class Reading:
    """What a user may say about an encoder; None leaves it to the encoder's own files.

    Attributes:
        pooling: How token vectors become one, a name from `POOLINGS`; only for encoders that do not say it themselves.
        max_length: Longest text in tokens, prompt and special tokens included.
        prompts: Text put before a query and before a document, by role.
        variant: Which of the networks that may have been released to compute (`cde_retriever.checkpoint.released`).
        head: Whether the model knows its corpus; without, vectors are the encoder's own under every context.
        long_texts: What becomes of texts longer than `max_length`: ``"cut"`` or ``"windows"``.
        vector_size: Numbers of one vector (`HeadSettings.sized`), at most twice the encoder's own, or 384 more; None
            for 384 more.
        context_for: ``"queries"`` for documents that keep the encoder's own vectors (`HeadSettings.for_queries`); None
            for a context that changes both.

    Raises:
        ConfigError: for an unknown pooling, role, way with long texts or side of the context, a length below 3, a size
            below `LEAST_SIZE`, or one of the last two without a head or with the other.
        TypeError: for a length or size that is no whole number.
    """

    pooling: str | None = None
    max_length: int | None = None
    prompts: Mapping[str, str] | None = None
    variant: str | None = None
    head: bool = True
    long_texts: str | None = None
    vector_size: int | None = None
    context_for: str | None = None

    def __post_init__(self) -> None:
        """Validate what does not depend on the encoder."""
        if self.pooling not in (None, *POOLINGS):
            raise ConfigError(f"pooling is {self.pooling!r}, expected one of {', '.join(POOLINGS)}")
        if self.long_texts not in (None, CUT, WINDOWS):
            raise ConfigError(f"long_texts is {self.long_texts!r}, expected 'cut' or 'windows'")
        if self.max_length is not None:
            object.__setattr__(self, "max_length", whole_number("max_length", self.max_length, 3))
        if self.vector_size is not None:
            object.__setattr__(self, "vector_size", whole_number("vector_size", self.vector_size, LEAST_SIZE))
            if not self.head:
                raise ConfigError(f"vector_size is {self.vector_size}, which needs the head; leave one of them out")
        if self.context_for not in (None, QUERIES):
            raise ConfigError(f"context_for is {self.context_for!r}, expected 'queries', or None for documents too")
        if self.context_for is not None and (not self.head or self.vector_size is not None):
            other = "needs the head" if not self.head else f"leaves vectors as they are; vector_size {self.vector_size}"
            raise ConfigError(f"context_for is {self.context_for!r}, which {other}; leave one of them out")
        if self.prompts is not None and not set(self.prompts) <= set(ROLES):
            raise ConfigError(f"prompts has the keys {sorted(self.prompts)}, expected some of {sorted(ROLES)}")

    @property
    def head_settings(self) -> HeadSettings:
        """The numbers of the head, if there is one."""
        if self.context_for == QUERIES:
            return HeadSettings().for_queries()
        return HeadSettings()

    def sized(self, head: HeadSettings, plain_width: int, folder: Path) -> HeadSettings:
        """Return the numbers of a head for as many numbers of one vector as were asked for.

        Args:
            head: The head.
            plain_width: Numbers of the encoder's own vectors.
            folder: Where it came from, for messages.

        Raises:
            ConfigError: for more than twice as many as the encoder's own and more than 384 more, or a head whose
                queries are not fitted to vectors of another size.
        """
        size = self.vector_size
        if size is None or size == head.full_width(plain_width):
            return head
        most = max(2 * plain_width, HeadSettings().full_width(plain_width))
        if size > most:
            raise ConfigError(
                f"vector_size is {size}, but vectors of {folder} have {plain_width} numbers; give at most {most}, or "
                "leave it out"
            )
        if not head.query_noise or not head.moves_documents:
            raise ConfigError(
                f"vector_size is {size}, but the one vector of {folder} has a size of its own, which its config.json "
                "says; leave it out"
            )
        return head.sized(size, plain_width)

    def says(self) -> dict[str, Any]:
        """Return what was said, as JSON takes it."""
        said = {"pooling": self.pooling, "max_length": self.max_length, "head": self.head}
        # Later ones are left out where nothing is said, so that identities stay.
        for name in ("variant", "long_texts", "vector_size", "context_for"):
            if getattr(self, name) is not None:
                said[name] = getattr(self, name)
        return {**said, "prompts": None if self.prompts is None else dict(self.prompts)}


def identify_model(folder: Path, reading: Reading) -> str:
    """Return the sha256 of a model's folder, whatever it holds, without loading it.

    Raises:
        CheckpointError: if it holds nothing that is understood.
        ConfigError: if something is said that a CDE checkpoint says itself.
    """
    if kind_of(folder) != CDE:
        return identify_source(folder, reading)
    return identify_changed(hash_checkpoint(folder), changes_of(folder, reading))


def changes_of(folder: Path, reading: Reading) -> dict[str, Any]:
    """Return what is said about a CDE checkpoint that makes another model of it, by the names in its configuration.

    Raises:
        ConfigError: for what it says itself, such as its pooling.
    """
    refuse_sayings(folder, replace(reading, max_length=None, long_texts=None, context_for=None, vector_size=None))
    config = read_json(folder / CONFIG_NAME)
    length = None if reading.max_length == config.get("max_length") else reading.max_length
    said = {"max_length": length, "long_texts": reading.long_texts}
    if reading.context_for == QUERIES:
        said |= _for_queries(folder, config.get("corpus_head"))
    if reading.vector_size is not None:
        said |= _sized(folder, config, reading)
    return {name: value for name, value in said.items() if value is not None}


def _for_queries(folder: Path, head: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what makes a checkpoint one whose context changes queries alone; nothing if it is."""
    if head is None:
        raise ConfigError(
            f"context_for is 'queries', but {folder} has no corpus head, which reads a query's words; leave it out"
        )
    settings = HeadSettings.from_dict(head)
    if settings.query_noise and not settings.moves_documents:
        return {}
    return {"corpus_head": settings.for_queries().to_dict(), "context_size": FITTED_SIZE}


def _sized(folder: Path, values: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """Return what makes a checkpoint one whose one vector has another size; nothing if it has that."""
    config = ModelConfig.from_dict(model_values(values))
    if config.corpus_head is None:
        raise ConfigError(
            f"vector_size is {reading.vector_size}, but {folder} has no corpus head, which makes vectors of other "
            f"sizes; to keep fewer numbers of its vectors, load it with truncate_dim={reading.vector_size}"
        )
    head = HeadSettings.from_dict(config.corpus_head)
    sized = reading.sized(head, config.plain_width, folder)
    return {} if sized == head else {"corpus_head": sized.to_dict()}


def identify_changed(sha256: str, changes: Mapping[str, Any]) -> str:
    """Return the identity of a CDE checkpoint of which something else was said; its own if nothing was."""
    said = "".join(f" {name}={value}" for name, value in changes.items())
    return hashlib.sha256(f"{sha256}{said}".encode()).hexdigest() if said else sha256


def refuse_sayings(folder: Path, reading: Reading) -> None:
    """Refuse what is said about a CDE checkpoint.

    Raises:
        ConfigError: naming what was said.
    """
    said = {name: value for name, value in reading.says().items() if value != getattr(Reading(), name)}
    if said:
        raise ConfigError(
            f"{folder} is a CDE checkpoint or export, whose config.json says {', '.join(said)}; leave that out, or "
            "wrap the encoder it was made from anew"
        )


def refuse_changes(folder: Path, reading: Reading) -> None:
    """Refuse what would make another model of an export, whose graphs and identity are written.

    Raises:
        ConfigError: naming what was said.
    """
    if changes_of(folder, reading):
        names = ("max_length", "long_texts", "vector_size", "context_for")
        said = [f"{name}={getattr(reading, name)!r}" for name in names if getattr(reading, name) is not None]
        raise ConfigError(
            f"{folder} is an export of a model that was opened without {', '.join(said)}; export that model with it "
            "(`cde export`; with vector_size, first `cde wrap`), or leave it out"
        )


def identify_source(folder: Path, reading: Reading) -> str:
    """Return a sha256 of all that decides vectors: an encoder's files, what was said, the reader's version, the head.

    Two machines with the same files agree on it, whatever versions of `transformers` they have.
    """
    files = {str(path.relative_to(folder)): hash_file(path) for path in files_that_matter(folder)}
    stated = {"reader": READER_VERSION, "reading": reading.says(), "files": files}
    if reading.head:  # its numbers are this package's, and may differ in another version
        stated["head"] = reading.head_settings.to_dict()
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def files_that_matter(folder: Path) -> list[Path]:
    """Return configurations, tokenizers and weights; not model cards, other formats, or what is hidden."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts) or parts[0].startswith(FOLDERS_NOT_READ):
            continue
        if path.is_file() and path.suffix not in NOT_READ:
            found.append(path)
    return found
