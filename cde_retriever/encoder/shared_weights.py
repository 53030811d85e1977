"""Share one copy of a checkpoint's weights between all encoders of a process that want it run in the same way.

Contexts are many (one a corpus), weights are few: a second encoder of a checkpoint costs no memory and no reading. The
weights go when the last encoder that uses them goes. A checkpoint written anew is read anew.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from cde_retriever.backends.loading import find_model
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.checkpoint.reading import files_that_matter
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.forking import ThreadLock

_loaded: WeakValueDictionary[tuple[Any, ...], ContextualEncoder] = WeakValueDictionary()
_lock = ThreadLock()


def shared_encoder(spec: ModelSpec) -> ContextualEncoder:
    """Return an encoder with a context of its own over weights that others may use as well.

    Raises what `ContextualEncoder.from_pretrained` says.
    """
    found = find_model(spec)
    key = (
        found.folder.resolve(),
        _state_of(found.folder),
        found.commit,
        found.backend,
        *_run_as(found.backend, spec),
        json.dumps(spec.reading.says(), sort_keys=True),
    )
    with _lock:
        encoder = _loaded.get(key)
        if encoder is None or encoder.backend.is_open:  # a model that was handed out is no longer the checkpoint's
            encoder = ContextualEncoder.from_spec(replace(spec, truncate_dim=None), found)
            _loaded[key] = encoder
        return encoder.fork(truncate_dim=spec.truncate_dim)


def _run_as(backend: str, spec: ModelSpec) -> tuple[Any, Any]:
    """Return device and dtype in the one form of all that stand for the same."""
    if backend != "torch":
        return spec.device, spec.dtype
    import torch

    from cde_retriever.backends.pytorch import as_device, as_dtype

    return as_device(spec.device), as_dtype(spec.dtype) or torch.float32


def _state_of(folder: Path) -> tuple[tuple[int, int], ...]:
    """Return what changes when a checkpoint is written anew: time in nanoseconds and size in bytes of each file."""
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in (file.stat() for file in files_that_matter(folder)))
