"""Write the indexes of several contexts into one folder, each under the kind of documents it holds, and find them."""

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from cde_retriever.errors import ConfigError, OutputError
from cde_retriever.files.leftovers import remove
from cde_retriever.files.records import RecordFormat
from cde_retriever.files.replacing import read_unchanged, replacing_folder

Content = TypeVar("Content")
RECORD = "routes.json"
_FORMAT = RecordFormat(1, OutputError, "restore the folder, or build the index again")


def places_of(kinds: Iterable[str], recorded: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return the name of a folder for each kind: of those that are recorded the same, of others the next ones."""
    numbers = count(1 + max((int(place.rpartition("-")[2]) for place in recorded.values()), default=-1))
    return {kind: recorded[kind] if kind in recorded else f"kind-{next(numbers):04d}" for kind in kinds}


def write_routes(folder: Path, writers: Mapping[str, Callable[[Path], Any]], kind_field: str | None) -> None:
    """Write indexes into a folder as a whole: a killed process leaves the old ones there or the new ones.

    Args:
        folder: Where they belong.
        writers: Writes the index of a kind into the folder it is given.
        kind_field: Metadata field that says what kind a document is of; None if none does.

    Raises:
        OutputError: if the folder holds something else, or a kind's old index that its refit keeps.
        OSError: if it cannot be written; what was there is as it was.
    """
    others = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if others and not (folder / RECORD).is_file():
        raise OutputError(
            f"{folder} holds something else than an index of several contexts; give the index a folder of its own"
        )
    _check_confirmed(folder)
    places = places_of(writers)
    with replacing_folder(folder, start_empty=True) as new:
        for kind, write in writers.items():
            write(new / places[kind])
        record_routes(new, places, kind_field)


def record_routes(folder: Path, places: Mapping[str, str], kind_field: str | None) -> None:
    """Record which kind of documents is in which folder below."""
    _FORMAT.write(folder / RECORD, {"kind_field": kind_field, "kinds": dict(places)})


def _check_confirmed(folder: Path) -> None:
    """Refuse to drop what a refit keeps beside the folder of a kind until it is confirmed."""
    kept = sorted(str(path) for path in folder.glob("kind-*.refit"))
    if kept:
        raise OutputError(
            f"a refit that is not confirmed keeps {kept}; confirm or undo it (cde refit "
            f"{kept[0].removesuffix('.refit')} --confirm), open the index again, and then write it"
        )


def recorded_places(folder: Path) -> dict[str, str]:
    """Return the name of the folder of each kind that is recorded; nothing if there is no record."""
    if not (folder / RECORD).is_file():
        return {}
    return read_routes(folder, lambda places, _: {kind: place.name for kind, place in places.items()})


def forget_route(folder: Path, kind: str) -> str:
    """Remove a kind from the record, and its folder; return the name that the folder had.

    Raises:
        ConfigError: if there is no such kind.
        FileNotFoundError, OutputError: as `read_routes` does, and if a kind's refit is not confirmed.
    """
    places, field = read_routes(folder, lambda places, field: (places, field))
    if kind not in places:
        raise ConfigError(f"no kind {kind!r} is in {folder}, which has {sorted(places)}; name one of them")
    _check_confirmed(folder)
    gone = places.pop(kind)
    record_routes(folder, {name: place.name for name, place in places.items()}, field)
    remove(gone)
    return gone.name


def read_routes(folder: Path, read: Callable[[dict[str, Path], str | None], Content]) -> Content:
    """Return what a function reads of the folder of each kind; it is also given the field that says the kinds.

    Raises:
        FileNotFoundError: if there are none.
        OutputError: if the record is damaged.
    """

    def read_all() -> Content:
        file = folder / RECORD
        if not file.is_file():
            raise FileNotFoundError(f"no index of several contexts at {folder}; give the folder that it was saved to")
        values = _FORMAT.read(file)
        with _FORMAT.reading(file):
            places = {str(kind): folder / str(place) for kind, place in values["kinds"].items()}
            field = values["kind_field"]
        return read(places, field)

    return read_unchanged(folder, read_all)
