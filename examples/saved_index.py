"""A LlamaIndex index on disk that is opened if it is whole and of this corpus and model, and built otherwise.

It is built in a folder beside its place and renamed at the end, so that a killed run leaves the old index or the new
one. ``manifest.json`` lists every file with its hash; an index that does not match it is damaged.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.node_parser.text.utils import split_by_regex
from llama_index.core.schema import Document, MetadataMode
from tokenizers import Tokenizer

from cde_retriever import ContextualEncoder
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.records import parse_json
from cde_retriever.files.replacing import recover_folder, replacing_folder
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from examples.plain_vectors import PlainVectors

MANIFEST = "manifest.json"
# A sentence or paragraph with the space after it. The splitter's default is NLTK's, which wants to download its data
# unless it can read the copy in llama-index-core, and that it refuses where an installer made hard links, as uv does.
SENTENCE = r"(?s).+?(?:[.!?]\s+|\u3002\s*|\n\s*\n|\Z)"
LAYOUT = 2  # raise it when the files or the way documents are split change


@dataclass(frozen=True)
class Manifest:
    """What a saved index is.

    Attributes:
        key: Hash of documents, model and layout.
        documents: How many documents were indexed.
        chunks: Into how many parts that fit the model they were split.
        context_size: Documents in the context, J.
        fingerprint: The context's.
        seconds: Time it took to embed, contextual and plain side together.
        files: sha256 of each file by name.
    """

    key: str
    documents: int
    chunks: int
    context_size: int
    fingerprint: str
    seconds: float
    files: dict[str, str]


@dataclass(frozen=True)
class SavedIndex:
    """The corpus under its context, and the same corpus without one."""

    contextual: CDEVectorStoreIndex
    plain: PlainVectors
    manifest: Manifest

    def search(self, question: str, count: int) -> list[str]:
        """Return the names of the documents nearest to a question under the context, best first."""
        found = self.contextual.as_retriever(similarity_top_k=4 * count).retrieve(question)
        return distinct([str(hit.node.metadata["name"]) for hit in found], count)

    def search_without(
        self, encoder: ContextualEncoder, questions: Sequence[str], count: int
    ) -> list[tuple[list[str], list[str]]]:
        """Return the names that the backbone, and BM25 with the backbone, find for each question, best first."""
        nodes = self.contextual.docstore.get_nodes(self.plain.ids)
        texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        plain, mixture = (
            [distinct([str(nodes[i].metadata["name"]) for i in row[: 4 * count]], count) for row in ranking]
            for ranking in self.plain.search(encoder, questions, texts)
        )
        return list(zip(plain, mixture, strict=True))


def distinct(names: Sequence[str], count: int) -> list[str]:
    """Return the first `count` different names: a long document can be found by several of its parts."""
    return list(dict.fromkeys(names))[:count]


def corpus_key(documents: Sequence[Document], encoder: ContextualEncoder) -> str:
    """Return a hash that changes with any document, the model, or the layout of the index."""
    digest = hashlib.sha256(f"{LAYOUT} {encoder.identity.sha256}".encode())
    for document in documents:
        content = document.get_content(metadata_mode=MetadataMode.ALL)
        digest.update(hashlib.sha256(f"{document.doc_id}\n{content}".encode(errors="replace")).digest())
    return digest.hexdigest()


def reason_to_build(folder: Path, key: str) -> str | None:
    """Say why the index in a folder cannot be opened, None if it can.

    Raises:
        FileExistsError: if the folder holds something else, which building would delete.
    """
    recover_folder(folder)
    if not folder.exists():
        return "there is no index yet"
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).is_file()):
        if not (folder / "docstore.json").is_file():
            raise FileExistsError(f"{folder} holds something other than an index; choose another place with --index")
        return f"the saved index is incomplete (no {MANIFEST})"
    try:
        manifest = Manifest(**parse_json((folder / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        return f"the saved index is damaged ({MANIFEST}: {error})"
    if manifest.key != key:
        return "the documents or the model changed since the index was saved"
    gone = [name for name in manifest.files if not (folder / name).is_file()]
    changed = gone or [name for name, sha256 in manifest.files.items() if hash_file(folder / name) != sha256]
    return f"the saved index is damaged ({', '.join(changed)})" if changed else None


def open_index(folder: Path, model: str | None) -> SavedIndex:
    """Open a saved index; embeds nothing."""
    manifest = Manifest(**parse_json((folder / MANIFEST).read_bytes()))
    embedding = CDEEmbedding.from_storage(folder, model)
    index = CDEVectorStoreIndex.from_storage(folder, embedding)
    return SavedIndex(index, PlainVectors.load(folder), manifest)


def build_index(
    documents: Sequence[Document], folder: Path, encoder: ContextualEncoder, *, model: str | None, show_progress: bool
) -> SavedIndex:
    """Embed documents with and without context and put the result in a folder's place; all or nothing."""
    start = time.perf_counter()
    index = CDEVectorStoreIndex.from_documents(
        sorted(documents, key=lambda document: len(document.text)),  # texts of like length share a batch: half the time
        embed_model=CDEEmbedding(model),
        transformations=[splitter_for(encoder)],
        show_progress=show_progress,
    )
    texts = {node.node_id: node.get_content(metadata_mode=MetadataMode.EMBED) for node in index.docstore.docs.values()}
    plain = PlainVectors.embed(encoder, texts, show_progress=show_progress)
    seconds = time.perf_counter() - start

    with replacing_folder(folder, start_empty=True) as new:
        index.storage_context.persist(str(new))
        plain.save(new)
        manifest = Manifest(
            key=corpus_key(documents, encoder),
            documents=len(documents),
            chunks=len(texts),
            context_size=index.embedding.context.size,
            fingerprint=index.embedding.context_fingerprint,
            seconds=seconds,
            files={file.name: hash_file(file) for file in sorted(new.iterdir())},
        )
        (new / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2))
    return SavedIndex(index, plain, manifest)


def splitter_for(encoder: ContextualEncoder) -> SentenceSplitter:
    """Return a splitter that measures in the model's own tokens and leaves room for prompt and special tokens."""
    tokenizer = Tokenizer.from_str(encoder.tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    taken = len(tokenizer.encode(encoder.config.prompts["document"]).ids)
    size = encoder.config.max_length - taken
    return SentenceSplitter(
        chunk_size=size,
        chunk_overlap=size // 16,
        tokenizer=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        chunking_tokenizer_fn=split_by_regex(SENTENCE),
    )
