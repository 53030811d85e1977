"""Make, save and load a `SentenceTransformer` that is bound to a context."""

from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

from cde_retriever.adapters.kept_context import PathLike
from cde_retriever.adapters.sentence_transformers.module import DOOR, CDEModule
from cde_retriever.adapters.sentence_transformers.own_modules import can_express, own_modules
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CheckpointError
from cde_retriever.files.records import parse_json


def bind(context: Context | PathLike, model_name: PathLike | None = None, **settings: Any) -> SentenceTransformer:
    """Return a `SentenceTransformer` whose vectors are made under a context.

    Everything that takes one works with it: `encode_query`, `encode_document`, evaluators, encoding in several
    processes. It does not train. ``model.save_pretrained(folder)`` writes model and context, `load` reads them.

    Args:
        context: A `Context`, or where one is saved.
        model_name: A CDE checkpoint or any encoder, as folder or Hub id; None for the bundled one.
        settings: ``device``, ``dtype``, ``truncate_dim`` and others of `ContextualEncoder.from_pretrained`.

    Raises:
        FileNotFoundError: if there is no context at the path.
        ContextMismatchError: if another model made it.
    """
    return _around(_module(context, model_name, settings))


def _module(context: Context | PathLike, model_name: PathLike | None, settings: dict[str, Any]) -> CDEModule:
    known = context if isinstance(context, Context) else Context.load(context)
    return CDEModule(ModelSpec.of(model_name, **settings), known)


def _around(module: CDEModule) -> SentenceTransformer:
    return _of_modules([module], module.encoder)


def _of_modules(modules: list[nn.Module], encoder: ContextualEncoder) -> SentenceTransformer:
    prompts = dict(encoder.config.prompts)
    # The device is where features go that modules make; a `CDEModule` computes where its encoder is.
    return SentenceTransformer(modules=modules, prompts=prompts, device="cpu", similarity_fn_name="cosine")


def save(
    folder: PathLike, context: Context | PathLike, model_name: PathLike | None = None, **settings: Any
) -> SentenceTransformer:
    """Write a model and its context as a folder of sentence-transformers, and return what was written.

    Where sentence-transformers can express both (`can_express`), ``SentenceTransformer(folder)`` loads it, without this
    package. Otherwise `load` does, or ``SentenceTransformer(folder, trust_remote_code=True)``, which imports the module
    from this package and no code from the folder.

    Args:
        folder: Where to.
        context: As for `bind`.
        model_name: As for `bind`.
        settings: As for `bind`.
    """
    module = _module(context, model_name, settings)
    model, encoder = _around(module), module.encoder
    if can_express(encoder.config) and encoder.truncate_dim is None:
        alone = ContextualEncoder.from_spec(module.spec)  # its weights are handed out
        alone.set_context(encoder.context)
        model = _of_modules(own_modules(alone), encoder)
    model.save_pretrained(str(folder))
    return model


def load(folder: PathLike) -> SentenceTransformer:
    """Read what `save`, or ``save_pretrained`` of a bound model, wrote; runs no code of the folder.

    Raises:
        CheckpointError: if it is no such folder.
        ContextNotFittedError: if the context is missing.
    """
    place = Path(folder) / "modules.json"
    if not place.is_file():
        raise CheckpointError(f"{folder} has no modules.json; is it a folder of sentence-transformers?")
    modules = parse_json(place.read_bytes())
    if modules[0]["type"] == f"{DOOR}.{CDEModule.__name__}":
        return _around(CDEModule.load(str(folder), modules[0]["path"]))
    return SentenceTransformer(str(folder))
