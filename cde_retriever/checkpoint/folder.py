"""Find, hash and read the files of a checkpoint that are no weights."""

import hashlib
import json
import os
from pathlib import Path

from tokenizers import Tokenizer

from cde_retriever.errors import CheckpointError
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.replacing import recover_folder

CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME = "config.json", "model.safetensors", "tokenizer.json"
LOW_RANK_NAME = "low_rank.safetensors"
LOW_RANK_KEY = "low_rank"
DEFAULT_CHECKPOINT = Path(__file__).parent / "default_checkpoint"


def find_checkpoint(name: str | os.PathLike[str] | None, revision: str | None = None) -> tuple[Path, str | None]:
    """Return a checkpoint's folder and, for one from the Hub, its commit.

    Args:
        name: None for the bundled default, a folder, or a Hub id such as ``"organisation/model"``.
        revision: Branch, tag or commit on the Hub.

    Raises:
        CheckpointError: if it is neither a folder nor obtainable from the Hub.
    """
    if name is None:
        return DEFAULT_CHECKPOINT, None
    folder = Path(name).expanduser()
    recover_folder(folder)
    if folder.is_dir():
        return folder, None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            str(name), revision=revision, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, LOW_RANK_NAME, TOKENIZER_NAME]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{str(name)!r} is neither a folder nor a checkpoint the Hub gives ({type(error).__name__}: {error})"
        ) from error
    return Path(snapshot), Path(snapshot).name


def hash_checkpoint(folder: Path) -> str:
    """Return the sha256 over configuration, weights and tokenizer of a folder; of low-rank updates also their base's.

    Names, the model's and that of a base, are for people and take no part.
    """
    config = json.loads((folder / CONFIG_NAME).read_text())
    config.pop("name", None)
    update = config.get(LOW_RANK_KEY)
    if update:
        update["base"] = update["base"]["sha256"]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in (LOW_RANK_NAME if update else WEIGHTS_NAME, TOKENIZER_NAME):
        if update and not (folder / name).is_file():
            continue  # the base's tokenizer, which its hash covers
        digest.update(bytes.fromhex(hash_file(folder / name)))
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
        raise CheckpointError(f"unreadable tokenizer {path}: {error}") from error
