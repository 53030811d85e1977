"""Find, hash and read the files of a checkpoint that are no weights."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cde_retriever.checkpoint.hub import download
from cde_retriever.errors import CheckpointError
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.records import parse_json
from cde_retriever.files.replacing import recover_folder

CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME = "config.json", "model.safetensors", "tokenizer.json"
LOW_RANK_NAME = "low_rank.safetensors"
LOW_RANK_KEY = "low_rank"
SOURCE_KEY = "source"
"""Where a configuration says what was converted: the sha256 of the source, and that of this folder as written then."""
QUERIES = "queries"
"""Folder of the encoder of queries, in a checkpoint or an export, where it is another than that of documents."""
HUB_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
FILES_OF_KEY = "files_of"
"""Where a configuration names the bundled checkpoint whose weights and tokenizer are also this one's."""
BUNDLED = Path(__file__).parent / "bundled"
DEFAULT_CHECKPOINT = BUNDLED / "cde-minilm-l6-v4"


def find_checkpoint(name: str | os.PathLike[str] | None, revision: str | None = None) -> tuple[Path, str | None]:
    """Return a checkpoint's folder and, for one from the Hub, its commit.

    Args:
        name: None for the bundled default; the name of a bundled checkpoint, this version's or an earlier one's; a
            folder; or a Hub id such as ``"organisation/model"``.
        revision: Branch, tag or commit on the Hub.

    Raises:
        CheckpointError: if it is neither a folder nor obtainable from the Hub.
    """
    if name is None:
        return DEFAULT_CHECKPOINT, None
    folder = _local_folder(str(name))
    if folder is None and str(name) in bundled_names():
        folder = BUNDLED / str(name)
    if folder is not None:
        return folder, None
    snapshot = download(str(name), revision)
    return snapshot, snapshot.name


def bundled_names() -> list[str]:
    """Return the names of the bundled checkpoints, which stand for them wherever a model is named."""
    return sorted(folder.name for folder in BUNDLED.iterdir())


def file_of(folder: Path, name: str) -> Path:
    """Return where a checkpoint's file lies: in its folder, or in the bundled checkpoint whose files it shares.

    Raises:
        CheckpointError: if it shares files with something that is not bundled.
    """
    if (folder / name).is_file() or not (folder / CONFIG_NAME).is_file():
        return folder / name
    owner = parse_json((folder / CONFIG_NAME).read_bytes()).get(FILES_OF_KEY)
    if owner is None:
        return folder / name
    if owner not in bundled_names():
        raise CheckpointError(
            f"{FILES_OF_KEY} in {folder / CONFIG_NAME} is {owner!r:.80}, expected one of {', '.join(bundled_names())}; "
            "is it of a later version? Then upgrade cde-retriever"
        )
    return BUNDLED / str(owner) / name


def model_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint's configuration says of the model, without what it says of the folder's files."""
    return {name: value for name, value in values.items() if name not in (FILES_OF_KEY, LOW_RANK_KEY, SOURCE_KEY)}


def _local_folder(name: str) -> Path | None:
    """Return the folder of a name, None if it is no folder but may be a Hub id.

    Raises:
        CheckpointError: if it is neither.
    """
    try:
        folder = Path(name).expanduser()
        recover_folder(folder)
        if folder.is_dir() and name:
            return folder
        there = folder.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL characters, no such user's home
        raise CheckpointError(f"{name!r:.80} is no name of a folder ({error!s:.80}), and no id of the Hub") from error
    if there and name:
        raise CheckpointError(f"{name} is a file; give the folder of the checkpoint that it belongs to")
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(f"there is no folder {name!r}, which is no id of the Hub either; give one of them")
    return None


def hash_checkpoint(folder: Path) -> str:
    """Return the sha256 over configuration, weights and tokenizer of a folder; of low-rank updates also their base's.

    Names, the model's and those of a base or of a checkpoint with shared files, take no part. A folder that was
    converted from another format has the sha256 of its source, as long as it is what was written then.

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    try:
        config = parse_json((folder / CONFIG_NAME).read_bytes())
        source = config.pop(SOURCE_KEY, None)
        config.pop(FILES_OF_KEY, None)
        update = config.get(LOW_RANK_KEY)
        if update:
            update["base"] = update["base"]["sha256"]
        names = [LOW_RANK_NAME if update else WEIGHTS_NAME, TOKENIZER_NAME]
        if update and not (folder / TOKENIZER_NAME).is_file():
            names.remove(TOKENIZER_NAME)  # the base's tokenizer, which its hash covers
        own = hash_contents(config, (bytes.fromhex(hash_file(file_of(folder, name))) for name in names))
        return str(source["sha256"]) if source and source["checkpoint"] == own else own
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {error!s:.500}") from error


def hash_contents(config: Mapping[str, Any], digests: Iterable[bytes]) -> str:
    """Return the sha256 over a configuration, its name left out, and the sha256 of each other file."""
    values = {name: value for name, value in config.items() if name != "name"}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for part in digests:
        digest.update(part)
    return digest.hexdigest()


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        CheckpointError: if it is missing or unreadable.
    """
    if not path.is_file():
        raise CheckpointError(f"no tokenizer at {path}; a checkpoint needs tokenizer.json")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(
            f"{path} is no tokenizer that can be read ({error}); copy it again, from the same model"
        ) from error


def refuse_other_queries(folder: Path, expected: str | None, sha256: str) -> None:
    """Refuse an encoder of queries that is not the one a model was made with.

    Raises:
        CheckpointError: naming both.
    """
    if sha256 != expected:
        raise CheckpointError(
            f"{folder / QUERIES} holds another encoder of queries than {folder / CONFIG_NAME} says (sha256 "
            f"{sha256[:12]}, expected {str(expected)[:12]}); restore the folder as a whole"
        )
