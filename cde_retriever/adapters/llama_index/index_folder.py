"""Write the folder of an index as a whole, so that a killed process leaves the old index or the new one, and read it.

LlamaIndex writes its files one after the other over the old ones; killed meanwhile, it leaves a folder that nothing
opens. Here they are written into a hidden folder, which then takes the old one's place.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from llama_index.core.storage.storage_context import StorageContext
from llama_index.core.vector_stores.simple import NAMESPACE_SEP, SimpleVectorStore
from llama_index.core.vector_stores.simple import SimpleVectorStoreData as StoreData
from llama_index.core.vector_stores.types import DEFAULT_PERSIST_FNAME

from cde_retriever.adapters.llama_index.storage import PathLike, attached_context, read_folder
from cde_retriever.context.context import FILE_NAME
from cde_retriever.errors import ContextFormatError, ContextMismatchError, OutputError
from cde_retriever.files.replacing import replacing_folder

OWN_NAMES = (
    "docstore.json",
    "index_store.json",
    "graph_store.json",
    "property_graph_store.json",
    "*__vector_store.json",
)
VECTORS = "default__vector_store.json"


def write_index_folder(storage_context: StorageContext, folder: PathLike, add: Callable[[Path], object]) -> Path:
    """Persist a storage context; other files of the folder stay in it.

    Args:
        storage_context: What to persist.
        folder: The index's own folder; made if it is not there.
        add: Writes what else belongs to the index into the folder that it is given.

    Raises:
        OutputError: if there are folders in it, which another program may be writing to.
        ContextMismatchError: if it keeps the context of vectors that are elsewhere, and this is another one.
        OSError: if it cannot be written; the old index is as it was.
    """
    folder = Path(folder)
    carried = _check(storage_context, folder)
    with replacing_folder(folder, start_empty=True) as new:
        storage_context.persist(new)
        for file in carried:
            if not (new / file.name).exists():
                shutil.copy2(file, new)
        add(new)
    return folder


def read_index_folder(folder: PathLike) -> StorageContext:
    """Read what `write_index_folder` wrote, or a storage context's own ``persist``.

    LlamaIndex's reader looks at the type of each number of each vector, which takes twenty times as long.

    Raises:
        ContextFormatError: if a file of vectors is damaged.
        FileNotFoundError: if another file is missing.
    """
    documents = Path(folder) / "docstore.json"
    if not documents.exists():  # as in a `context_dir`
        raise FileNotFoundError(
            f"{folder} holds no index, as {documents.name} is missing; name the folder that persist() wrote, or, for "
            "vectors in an external store, call from_vector_store(store, context_dir=...)"
        )
    stores = {}
    for file in Path(folder).glob(f"*{NAMESPACE_SEP}{DEFAULT_PERSIST_FNAME}"):
        try:
            data = StoreData(**json.loads(file.read_bytes()))
        except (TypeError, ValueError) as error:
            raise ContextFormatError(f"{file} is damaged ({error}); restore it, or index again") from error
        stores[file.name.split(NAMESPACE_SEP)[0]] = SimpleVectorStore(data)
    return StorageContext.from_defaults(persist_dir=os.fspath(folder), vector_stores=stores or None)  # type: ignore[arg-type]


def _check(storage_context: StorageContext, folder: Path) -> list[Path]:
    """Return the files of the old folder that are no part of its index; see `write_index_folder`."""
    if not folder.exists():
        return []
    inside = list(folder.iterdir())
    folders = [path.name for path in inside if path.is_dir()]
    if folders:
        raise OutputError(
            f"{folder} is to be replaced as a whole and holds the folder {folders[0]}, which another program may be "
            "using; give the index a folder of its own, or call index.storage_context.persist(folder)"
        )
    carried = [path for path in inside if not any(path.match(name) for name in OWN_NAMES)]
    new = attached_context(storage_context)
    if (folder / VECTORS).is_file():  # old vectors go with their context
        own = folder / FILE_NAME
        old = None if own not in carried else read_folder(folder)
        return [path for path in carried if path != own or (new and old and old.fingerprint == new.fingerprint)]
    old = read_folder(folder)
    if old is not None and (new is None or old.fingerprint != new.fingerprint):
        raise ContextMismatchError(
            f"{folder} keeps context {old.fingerprint[:12]} of vectors that are stored elsewhere, and this index has "
            f"{new.fingerprint[:12] if new else 'none'}; persist it to another folder, or delete this one if those "
            "vectors are gone"
        )
    return carried
