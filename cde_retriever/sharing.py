"""One copy of a checkpoint's weights for all encoders of a process that want it on the same device in the same dtype.

Contexts are many (one a corpus), weights are few: a second encoder of a checkpoint costs no memory and no reading. The
weights go when the last encoder that uses them goes. A checkpoint written anew is read anew.
"""

import threading
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from cde_retriever.checkpoint import CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME, find_checkpoint
from cde_retriever.encoder import ContextualEncoder, as_dtype, default_device
from cde_retriever.low_rank import LOW_RANK_NAME

_loaded: WeakValueDictionary[tuple[Any, ...], ContextualEncoder] = WeakValueDictionary()
_lock = threading.Lock()


def shared_encoder(
    name: str | None = None, *, revision: str | None = None, device: str | None = None, dtype: str | None = None
) -> ContextualEncoder:
    """Return an encoder with a context of its own over weights that others may use as well.

    Arguments and errors are those of `ContextualEncoder.from_pretrained`.
    """
    folder, commit = find_checkpoint(name, revision)
    place = torch.device(device or default_device())
    key = (folder.resolve(), _state_of(folder), commit, place, as_dtype(dtype) or torch.float32)
    with _lock:
        encoder = _loaded.get(key)
        if encoder is None:
            encoder = ContextualEncoder.from_pretrained(name, revision=commit or revision, device=place, dtype=dtype)
            _loaded[key] = encoder
        return encoder.fork()


def _state_of(folder: Path) -> tuple[tuple[int, int], ...]:
    """Return what changes when a checkpoint is written anew: time in nanoseconds and size in bytes of each file."""
    files = [folder / name for name in (CONFIG_NAME, WEIGHTS_NAME, LOW_RANK_NAME, TOKENIZER_NAME)]
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in (file.stat() for file in files if file.is_file()))
