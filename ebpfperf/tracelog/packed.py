"""A log that is packed with gzip, read like one that is not, as far as it goes."""

from __future__ import annotations

import gzip
import zlib
from typing import IO, Any, cast

TORN = "The packed log is torn: what comes after this is missing."


class Packed:
    """A packed log: as much of a file as reading one takes.

    Attributes
    ----------
    torn
        Whether it ended, or became nonsense, before its end.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.torn = False
        self._file = gzip.GzipFile(fileobj=file)

    def read(self, size: int) -> bytes:
        """That many bytes, fewer at the end or before the tear."""
        parts: list[bytes] = []
        left = size
        try:
            while left and not self.torn and (part := self._file.read1(left)):
                parts.append(part)
                left -= len(part)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self.torn = True
        return b"".join(parts)

    def seek(self, place: int) -> None:
        """Go on reading there."""
        self._file.seek(place)
        self.torn = False


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """The file, or where it begins as gzip does what is in it (a ``Packed``)."""
    peek: Any = getattr(file, "peek", None)
    if peek is None or peek(3)[:3] != b"\x1f\x8b\x08":
        return file
    return cast(IO[bytes], Packed(file))


def torn(file: IO[bytes]) -> bool:
    """Whether the file is packed, and its end was not found."""
    return isinstance(file, Packed) and file.torn
