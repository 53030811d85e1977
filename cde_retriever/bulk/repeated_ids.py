"""Notice ids that several documents of a corpus have, in memory that does not grow with the corpus."""

import warnings

MOST = 2**20
"""So many ids are held, some 70 MB; of more, those whose hash ends in some zeros, which stand for the others."""


class RepeatedIds:
    """The ids of a corpus as they are read, and how many of them came before.

    Args:
        most: How many different ids are held at once.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most, self._mask = most, 0
        self._seen: set[int] = set()
        self._first = ""
        self.documents = 0
        """Documents whose id came before; an estimate if there are more different ids than are held."""

    def add(self, name: str) -> None:
        """Take the id of a document."""
        number = hash(name)
        if number & self._mask:
            return
        if number in self._seen:
            self._first = self._first or name
            self.documents += self._mask + 1
            return
        self._seen.add(number)
        if len(self._seen) > self._most:
            self._mask = 2 * self._mask + 1
            self._seen = {kept for kept in self._seen if not kept & self._mask}

    def warn(self) -> None:
        """Warn if some documents share an id."""
        if self.documents:
            about = "about " if self._mask else ""
            warnings.warn(
                f"{about}{self.documents} documents have the id of another before them, the first {self._first!r:.80}; "
                "a store that finds documents by their ids keeps one of each",
                stacklevel=2,
            )
