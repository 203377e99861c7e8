"""Fixed-width pieces of many lines at once: cut out, compared, counted, read as numbers.

Rows are the first bytes of each line, all of one width, one after the other in memory. Eight bytes
of each row are a 64-bit word, and words can be compared and told apart without a loop over lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]

_MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_HIGH_4, _LOW_4 = np.uint64(0xF0F0F0F0F0F0F0F0), np.uint64(0x0F0F0F0F0F0F0F0F)
_ZEROS, _SIXES = np.uint64(0x3030303030303030), np.uint64(0x0606060606060606)


class Rows:
    """The first ``width`` bytes of each line, and of what follows it where it is shorter."""

    def __init__(self, data: NDArray[np.void]) -> None:
        self._data = data
        self.width = data.dtype.itemsize
        self._bytes = data.view(np.uint8).reshape(len(data), self.width)

    @classmethod
    def of(cls, buffer: NDArray[np.uint8], starts: NDArray[np.int64], *, width: int) -> Rows:
        """Rows of a buffer that has ``width`` bytes from each start on."""
        if not len(starts):
            return cls(np.empty(0, dtype=f"V{width}"))
        windows: NDArray[np.void] = np.ndarray(
            (len(buffer) - width + 1,), dtype=f"V{width}", buffer=buffer, strides=(1,)
        )
        return cls(windows[starts])

    def __len__(self) -> int:
        return len(self._data)

    def take(self, rows: NDArray[Any]) -> Rows:
        """These rows, by number or mask."""
        return Rows(self._data[rows])

    def byte(self, offset: int) -> NDArray[np.uint8]:
        """One byte of each row."""
        return self._bytes[:, offset]

    def word(self, offset: int, *, width: int = 8) -> Words:
        """Up to eight bytes of each row as a number, the first lowest."""
        view: NDArray[np.void] = np.ndarray(
            (len(self),), dtype="V8", buffer=self._data, offset=offset, strides=(self.width,)
        )
        words: Words = view.copy().view("<u8")
        return words if width == 8 else words & np.uint64((1 << (8 * width)) - 1)

    def is_text(self, offset: int, text: bytes) -> NDArray[np.bool_]:
        """Whether each row has ``text`` there."""
        if len(text) == 1:
            one: NDArray[np.bool_] = self.byte(offset) == ord(text)
            return one
        same = np.ones(len(self), dtype=bool)
        for at in range(0, len(text), 8):
            piece = text[at : at + 8]
            wanted = np.uint64(int.from_bytes(piece, "little"))
            same &= self.word(offset + at, width=len(piece)) == wanted
        return same

    def distinct(self, offset: int, width: int) -> tuple[NDArray[np.int32], list[bytes]]:
        """(number of its value, for each row; the values) of ``width`` bytes there."""
        words = [self.word(offset + at, width=min(8, width - at)) for at in range(0, width, 8)]
        if not words:
            return np.zeros(len(self), dtype=np.int32), [b""]
        # A packet's lines follow each other, so that most values are those of the line before.
        changed = np.zeros(len(self), dtype=bool)
        changed[:1] = True
        for word in words:
            changed[1:] |= word[1:] != word[:-1]
        begins = np.flatnonzero(changed)
        some = words if 2 * len(begins) > len(self) else [word[begins] for word in words]
        codes, first = _numbered(some)
        values = [word[first] for word in some]
        # Different bytes with the same key would be taken for each other.
        pairs = zip(some, values, strict=True)
        if len(words) > 1 and any((word != value[codes]).any() for word, value in pairs):
            return self._distinct_slowly(offset, width)
        if some is not words:
            codes = np.repeat(codes, np.diff(begins, append=len(self)))
        parts = np.stack(values, axis=1).astype("<u8").tobytes()
        size = 8 * len(words)
        return codes, [parts[at : at + width] for at in range(0, len(parts), size)]

    def _distinct_slowly(self, offset: int, width: int) -> tuple[NDArray[np.int32], list[bytes]]:
        pieces = np.ascontiguousarray(self._bytes[:, offset : offset + width]).view(f"V{width}")
        seen: dict[bytes, int] = {}
        codes = [seen.setdefault(piece.tobytes(), len(seen)) for piece in pieces[:, 0]]
        return np.array(codes, dtype=np.int32), list(seen)


def _numbered(words: list[Words]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(number of each row's words, in order of appearance; where each appears first)."""
    key = words[0]
    if len(words) > 1:
        key = key * np.uint64(_MIX[0])
        for number, word in enumerate(words[1:], start=1):
            key += word * np.uint64(_MIX[number % len(_MIX)] ^ (number // len(_MIX)))
            key ^= key >> np.uint64(29)
    encoded = pa.array(key).dictionary_encode()
    codes = encoded.indices.to_numpy()
    first = np.empty(len(encoded.dictionary), dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return codes, first


def numbers(
    words: Words, digits: NDArray[np.uint64] | int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(the decimal number that each word begins with, whether it is one).

    Parameters
    ----------
    digits
        How many characters of the word, 1 to 8, the number has.
    """
    used = np.uint64(8) * np.asarray(digits, dtype=np.uint64)
    # The digits move to the end of the word, and zeros stand before them.
    text = (words << (np.uint64(64) - used)) | (_ZEROS >> used)
    right = (text & _HIGH_4) == _ZEROS
    value = text & _LOW_4
    right &= ((value + _SIXES) & _HIGH_4) == 0
    # Neighbours add up: digits to pairs, pairs to fours, fours to eight.
    value = (value * np.uint64(2561)) >> np.uint64(8) & np.uint64(0x00FF00FF00FF00FF)
    value = (value * np.uint64(6553601)) >> np.uint64(16) & np.uint64(0x0000FFFF0000FFFF)
    value = (value * np.uint64(42949672960001)) >> np.uint64(32)
    return value.astype(np.int64), right
