"""Make a file or folder one that may not be read: root may read all of them, so that a mode would not do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def refuse(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, refused: Callable[[Path], bool]) -> None:
    """Let a function that takes a path first, such as `os.scandir`, raise `PermissionError` for some paths."""
    real = getattr(owner, name)

    def refusing(path: Any, *arguments: Any, **named: Any) -> Any:
        if refused(Path(path)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(owner, name, refusing)
