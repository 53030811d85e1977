"""List the modules that a sentence-transformers model puts queries, or documents, through, one after the other.

A Router (Asym in old releases) holds a list of modules a route, and says which route a role takes.
"""

import ast
from pathlib import Path

from cde_retriever.checkpoint.kinds import MODULES_NAME, OTHER_MODELS, read_json
from cde_retriever.errors import CheckpointError
from cde_retriever.files.records import parse_json

ROUTERS = ("Router", "Asym")
Modules = list[tuple[str, Path]]


def modules_of(folder: Path, role: str) -> Modules:
    """Return class and folder of each module that texts of a role go through.

    Args:
        folder: The model's folder.
        role: ``"query"`` or ``"document"``.

    Raises:
        CheckpointError: if the list is damaged, needs code of its own, or has no route for the role.
    """
    try:
        listed = parse_json((folder / MODULES_NAME).read_bytes())
        modules = [_module(folder, str(module["type"]), folder / str(module["path"])) for module in listed]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / MODULES_NAME} is damaged ({error!r}); copy it again") from error
    if not modules:
        raise CheckpointError(f"{folder / MODULES_NAME} lists no modules; copy it again")
    return [part for name, place in modules for part in (_routed(place, role) if name in ROUTERS else [(name, place)])]


def _routed(place: Path, role: str) -> Modules:
    """Return the modules of a role's route through a router."""
    said = read_json(place / "router_config.json") or read_json(place / "config.json")
    try:
        routes, types = said["structure"], said["types"]
        mappings = {ast.literal_eval(key): to for key, to in (said["parameters"].get("route_mappings") or {}).items()}
        wanted = [mappings.get(key) for key in ((role, "text"), (role, None), (None, "text"), (None, None))]
        route = next((name for name in (*wanted, role, "text") if name in routes), None)
        if route is None:
            raise CheckpointError(
                f"{place} has the routes {', '.join(routes)} and none for a {role}; save the model with the routes "
                "query and document (Router.for_query_document)"
            )
        return [_module(place, types[name], place / name) for name in routes[route]]
    except (KeyError, TypeError, AttributeError, ValueError, SyntaxError) as error:
        raise CheckpointError(
            f"the configuration of the router in {place} is damaged ({error!r}); copy it again"
        ) from error


def _module(folder: Path, name: str, place: Path) -> tuple[str, Path]:
    """Return a module's class, without the package it comes from, and its folder."""
    if not name.startswith("sentence_transformers."):
        raise CheckpointError(f"{folder / MODULES_NAME} needs {name}, code of its own, which is never run here")
    for part, model in (("sparse_encoder", "SparseEncoder"), ("cross_encoder", "CrossEncoder")):
        if part in name:
            raise CheckpointError(f"{folder} holds {OTHER_MODELS[model]} ({name}); name another encoder")
    if name.endswith("CLIPModel"):
        raise CheckpointError(f"{folder} holds a model of images and texts ({name}), and only texts are read here")
    if not place.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder / MODULES_NAME} names {place}, outside the model's folder")
    return name.rpartition(".")[2], place
