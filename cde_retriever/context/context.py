"""Hold a context: a sample of the user's corpus as the model sees it, an artifact with an identity.

Documents embedded under one context and queries under another still give numbers of the right shape. A context
therefore carries a fingerprint of what made it (model and texts, not floats), and whatever stores vectors stores the
fingerprint with them.

A context is stored as one safetensors file: the vectors as a tensor, everything else as JSON in its metadata.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.drift import FORMS, Drift, Reference, plain_vectors
from cde_retriever.context.sampling import Choice, checked_documents, hash_text
from cde_retriever.errors import ConfigError, ContextError, ContextFormatError, ContextMismatchError
from cde_retriever.files.records import RECORDS_FOLDER, RecordFormat
from cde_retriever.files.replacing import write_atomically
from cde_retriever.files.tensors import read_tensors
from cde_retriever.words.corpus_words import PREFIX, CorpusWords
from cde_retriever.words.topics import FoundTopics

FORMAT = RecordFormat(1, ContextFormatError, "restore it, or fit again")
WITH_WORDS = RecordFormat(2, ContextFormatError, "restore it, or fit again")
"""Of a context that keeps words, which older versions of this package cannot use."""
FILE_NAME = "context.safetensors"
METADATA_KEY = "cde_context"


@dataclass(frozen=True)
class ModelIdentity:
    """What makes two models give the same vectors.

    Attributes:
        name: The checkpoint's name; for people, not part of the fingerprint.
        revision: Hub commit, if it came from there; for people likewise.
        sha256: Hash of weights, architecture and tokenizer.
        prompts: Text put before queries and documents.
        max_length: Longest text in tokens.
        ordered: Whether the order of context documents changes the output.
    """

    name: str
    revision: str | None
    sha256: str
    prompts: dict[str, str]
    max_length: int
    ordered: bool = False


@dataclass(frozen=True, eq=False)
class Context:
    """An immutable sample of a corpus, embedded by a model's first stage.

    Attributes:
        vectors: Dataset embeddings, (J, d) float32, read-only; J = 0 for the null context, d = 0 for a model that
            reads none.
        model: The model that made them.
        text_hashes: sha256 of each sampled text.
        texts: The sampled texts, or None if only their hashes are kept.
        choice: How its documents were chosen.
        documents_seen: How many documents the sample was drawn from, empty ones and duplicates included.
        oversampled_to: Size to which a model that needs exactly that many repeats the documents, else None.
        frequencies: Token ids and in how many of the documents each occurs, (k, 2) int64, read-only, ids ascending; no
            rows for a model without term statistics.
        words: The documents' words, for a model with a corpus head; None for others.
        topics: What takes long to find of their topics, rows in the order of the documents' hashes; None where it is
            found when it is needed, as of files of earlier versions. Not part of the fingerprint.
    """

    vectors: NDArray[np.float32]
    model: ModelIdentity
    text_hashes: tuple[str, ...] = ()
    texts: tuple[str, ...] | None = ()
    choice: Choice = field(default_factory=Choice)
    documents_seen: int = 0
    oversampled_to: int | None = None
    frequencies: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    words: CorpusWords | None = None
    topics: FoundTopics | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays and check that the parts belong together."""
        for name, dtype in (("vectors", np.float32), ("frequencies", np.int64)):
            array = np.array(getattr(self, name), dtype=dtype)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        vectors, frequencies = self.vectors, self.frequencies
        if vectors.ndim != 2 or len(vectors) != len(self.text_hashes):
            raise ContextError(
                f"a context needs one vector a text, received {vectors.shape} and {len(self.text_hashes)} texts"
            )
        if frequencies.ndim != 2 or frequencies.shape[1] != 2 or (frequencies < 0).any():
            raise ContextError(f"frequencies must be pairs of token id and count, received {frequencies.shape}")
        if len(frequencies) and frequencies[:, 1].max() > len(vectors):
            raise ContextError(
                f"a token is said to occur in {frequencies[:, 1].max()} documents, but the context has {len(vectors)}"
            )
        if self.words is not None and self.words.counts.rows != self.size:
            raise ContextError(f"the context of {self.size} documents has words of {self.words.counts.rows}; fit again")
        if self.texts is not None and tuple(map(hash_text, self.texts)) != self.text_hashes:
            raise ContextError("the texts of the context do not have the hashes it lists; fit it again")

    @property
    def size(self) -> int:
        """Number of context documents, J."""
        return len(self.text_hashes)

    @property
    def seed(self) -> int | None:
        """Seed of the sample, None where nothing was drawn."""
        return self.choice.seed

    @property
    def selection(self) -> str:
        """How the documents were chosen (`cde_retriever.context.selection`)."""
        return self.choice.selection

    @property
    def kind_field(self) -> str | None:
        """Metadata field that said the documents' kinds, where one did."""
        return self.choice.kind_field

    def size_again(self, usual: int) -> int:
        """Return the most documents of a new context that is chosen as this one was.

        Args:
            usual: Of how many documents the model's contexts are, where it is not known what was asked for.
        """
        return self.choice.size or max(self.size, usual)

    def reference(self, moved: NDArray[np.float32] | None = None) -> Reference:
        """Return what new documents are compared with.

        Args:
            moved: Dense parts of the context documents under this context, (J, d); None for their plain vectors.

        Raises:
            ContextError: if there is nothing to compare with: the null context, or a model without a corpus head.
        """
        if self.words is None or self.size < 2:
            what = "is of one document" if self.size else "is of no corpus"
            what = what if self.words else "keeps no words, as its model has no corpus head"
            raise ContextError(f"context {self.fingerprint[:12]} {what}, so drift from it cannot be told")
        return Reference(self.text_hashes, self.words, self.vectors, moved)

    def drift(
        self, documents: Sequence[str], vectors: NDArray[np.float32] | None = None, *, form: str = "both"
    ) -> Drift:
        """Tell how unlike documents that join the corpus are to this context (`cde_retriever.context.drift`).

        Args:
            documents: The new documents, of any number; `FEWEST` of them tell something.
            vectors: Their plain vectors, (n, d or more), as null's ``parts="dense"`` are; None for words alone.
            form: Of what index `Drift.expected_loss` is told: of ``"both"`` parts, which is right too for one vector
                whose queries are not fitted, as of version 2; of ``"one"`` vector that holds words; of documents as
                they are, ``"queries"`` (``context_for="queries"``), which is right too for one vector without words.

        Raises:
            TypeError: if they are one string, or not strings.
            ConfigError: for another form.
            ContextError: if there is nothing to compare with, or vectors are of other documents or another model.
        """
        if form not in FORMS:
            raise ConfigError(f"form is {form!r}, expected one of {', '.join(map(repr, FORMS))}")
        reference, texts = self.reference(), list(checked_documents(documents))
        vectors = None if vectors is None else plain_vectors(vectors, len(texts), self.vectors.shape[1])
        added, fitted = reference.judge(texts, vectors), 0 if form == "both" else self.size_again(0)
        return Drift.of(added, self.documents_seen, reference.size, fitted=fitted, words=form == "one")

    @property
    def record_format(self) -> RecordFormat:
        """The file format that can hold it."""
        return FORMAT if self.words is None else WITH_WORDS

    @property
    def fingerprint(self) -> str:
        """sha256 over model and texts, in hexadecimal; equal fingerprints mean comparable vectors."""
        hashes = self.text_hashes if self.model.ordered else sorted(self.text_hashes)
        identity: dict[str, Any] = {
            "format_version": self.record_format.version,
            "model": self.model.sha256,
            "prompts": self.model.prompts,
            "max_length": self.model.max_length,
            "texts": list(hashes),
        }
        if self.words is not None:
            identity["words"] = self.words.fingerprint
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def __repr__(self) -> str:
        """Name what tells contexts apart."""
        return f"Context({self.fingerprint[:12]}, {self.size} of {self.documents_seen} documents, {self.model.name})"

    def to_bytes(self) -> bytes:
        """Return the content of a context file."""
        from safetensors.numpy import save  # here, because a server of queries reads contexts with NumPy alone

        header = {
            "fingerprint": self.fingerprint,
            "vectors_sha256": self._digest(),
            "model": asdict(self.model),
            "method": "null" if not self.size else "vectors" if self.seed is None else "sample",  # for people
            "asked_size": self.choice.size,
            **{name: getattr(self, name) for name in _HEADER_FIELDS},
        }
        if self.selection != Choice.selection:
            header |= {"selection": self.selection, "kind_field": self.kind_field}
        arrays: dict[str, NDArray[Any]] = {"vectors": self.vectors}
        if len(self.frequencies):
            arrays["frequencies"] = self.frequencies
        if self.words is not None:
            header["language"] = self.words.language
            arrays |= self.words.arrays()
        if self.topics is not None:
            header["topics"] = self.topics.header(header["vectors_sha256"])
            arrays |= self.topics.arrays()
        return save(arrays, metadata={METADATA_KEY: self.record_format.to_text(header)})

    def _digest(self) -> str:
        """Return the sha256 of what was computed from the texts."""
        digest = hashlib.sha256(self.vectors.tobytes() + self.frequencies.tobytes())
        for array in () if self.words is None else self.words.arrays().values():
            digest.update(array.tobytes())
        return digest.hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "bytes") -> "Context":
        """Read what `to_bytes` wrote.

        Raises:
            ContextFormatError: if the data are damaged, of another format version, or not a context.
        """
        with FORMAT.reading(source):
            arrays, metadata = read_tensors(data)
            kept = WITH_WORDS if any(name.startswith(PREFIX) for name in arrays) else FORMAT
            header = kept.parse(metadata[METADATA_KEY], source)
            values = {name: header[name] for name in _HEADER_FIELDS}
            for name in ("text_hashes", "texts"):
                values[name] = None if values[name] is None else tuple(values[name])
            if "frequencies" in arrays:
                values["frequencies"] = arrays["frequencies"]
            chosen = header.get("asked_size"), header.get("selection", Choice.selection), header.get("kind_field")
            values["choice"] = Choice(values.pop("seed"), *chosen)
            if kept is WITH_WORDS:
                values["words"] = CorpusWords.of_arrays(header["language"], arrays)
            if "topics" in header:
                values["topics"] = FoundTopics.of_arrays(header["topics"], arrays, header["vectors_sha256"])
            try:
                context = cls(vectors=arrays["vectors"], model=ModelIdentity(**header["model"]), **values)
            except ContextError as error:
                raise ValueError(str(error)) from error
            stated = (header["fingerprint"], header["vectors_sha256"])
            found = (context.fingerprint, context._digest())
        if stated != found:
            raise ContextFormatError(f"{source} does not match its own fingerprint; restore it or fit again")
        return context

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the context to a file, or into a folder as ``context.safetensors``; all or nothing.

        Raises:
            ContextMismatchError: if a context with another fingerprint is already there.
        """
        file = context_file(path)
        if file.exists():
            there = Context.load(file)
            if there.fingerprint != self.fingerprint:
                raise ContextMismatchError(
                    f"{file} holds context {there.fingerprint[:12]}, not {self.fingerprint[:12]}; vectors may depend "
                    "on it, so it is not overwritten: choose another path, or delete the file first"
                )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, self.to_bytes())
        return file

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Context":
        """Read a context from a file, or from the folder it was saved in.

        Raises:
            FileNotFoundError: if there is none.
            ContextFormatError: if it is damaged or of another format version.
        """
        file = context_file(path)
        if not file.is_file():
            remedy = "restore it from a copy, since its vectors go with no other; if it has none, fit one and save it"
            raise FileNotFoundError(f"no context at {file}; {remedy}")
        return cls.from_bytes(file.read_bytes(), source=str(file))


_HEADER_FIELDS = ("text_hashes", "texts", "seed", "documents_seen", "oversampled_to")


def context_file(path: str | os.PathLike[str]) -> Path:
    """Return the file a path stands for: itself if it names a ``.safetensors`` file, else one in that folder.

    In an output of `cde embed` that is a folder below, so that all files beside it are vectors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return path
    file, beside_vectors = path / FILE_NAME, path / RECORDS_FOLDER / FILE_NAME
    return beside_vectors if beside_vectors.parent.is_dir() and not file.is_file() else file


def known_documents(context: Context, documents: Sequence[str]) -> int:
    """Count how many of the context's documents are among these; none means a foreign context."""
    return len(set(context.text_hashes) & {hash_text(text) for text in documents})
