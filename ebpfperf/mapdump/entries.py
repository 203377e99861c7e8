"""Keys and values of a map as arrays of bytes, whatever form the dump had; frames made of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ebpfperf.calico.maps import MapVersion

Bytes = npt.NDArray[np.uint8]
Words = dict[int, str]
# A column before it has a pandas type: values, and where they are missing.
Column = Any


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of one map.

    Attributes
    ----------
    keys
        (entries, bytes of a key).
    values
        (entries, bytes of a value), or (entries, processors, bytes of a value).
    remarks
        What was wrong with the dump, a sentence each.
    partial
        Whether some of the dump could not be read.
    """

    keys: Bytes
    values: Bytes
    remarks: tuple[str, ...] = ()
    partial: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def key_bytes(self) -> int:
        """Size of a key."""
        return int(self.keys.shape[1])

    @property
    def value_bytes(self) -> int:
        """Size of a value, of one processor."""
        return int(self.values.shape[-1])

    @property
    def per_cpu(self) -> bool:
        """Whether there is a value for every processor."""
        return self.values.ndim == 3

    @classmethod
    def of(cls, keys: bytes, values: bytes, *, key_bytes: int, value_bytes: int) -> Entries:
        """Entries from all keys and all values, each one after the other."""
        return cls(
            np.frombuffer(keys, np.uint8).reshape(-1, key_bytes),
            np.frombuffer(values, np.uint8).reshape(-1, value_bytes),
        )

    def only(self, chosen: npt.NDArray[np.bool_]) -> Entries:
        """The entries that are chosen."""
        return replace(self, keys=self.keys[chosen], values=self.values[chosen])

    def saying(self, *remarks: str, partial: bool = False) -> Entries:
        """The same entries with more said of them."""
        return replace(self, remarks=(*self.remarks, *remarks), partial=self.partial or partial)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a dump says.

    Attributes
    ----------
    purpose
        ``conntrack``, ``nat-frontend``, ``nat-backend``, ``routes`` …: decides the columns.
    frame
        A row per entry; docs/maps.md lists the columns.
    version
        The map it is of; None where the dump is text that does not say.
    remarks, partial
        As of ``Entries``.
    """

    purpose: str
    frame: pd.DataFrame
    version: MapVersion | None = None
    remarks: tuple[str, ...] = field(default=())
    partial: bool = False


def read(data: Bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The bytes as records of that type; no byte is copied where they lie together."""
    return np.ascontiguousarray(data).view(dtype).reshape(len(data))


def record(*fields: tuple[str, str, int], size: int) -> np.dtype[Any]:
    """A type of record: (name, format, offset) each; what no field claims is padding."""
    names, formats, offsets = zip(*fields, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


def masked(values: npt.NDArray[Any], missing: npt.NDArray[np.bool_] | bool) -> Column:
    """A column that is missing where told; integers stay exact."""
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    mask = np.full(len(native), missing) if isinstance(missing, bool) else missing.copy()
    if native.dtype == np.bool_:
        return pd.arrays.BooleanArray(native, mask)
    return pd.arrays.IntegerArray(native, mask)


def plain(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column with nothing missing, in this machine's byte order."""
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))


def named(codes: npt.NDArray[Any], words: tuple[str, ...]) -> Column:
    """A column of words by number; a number without a word is missing."""
    numbers = codes.astype(np.int8)
    numbers[(codes < 0) | (codes >= len(words))] = -1
    return categories(numbers, list(words))


def categories(codes: Any, words: list[str]) -> Column:
    """A column of words by number; -1 is missing."""
    make: Any = pd.Categorical
    return make.from_codes(codes, categories=words)


def flag_names(flags: npt.NDArray[Any], words: Words) -> Column:
    """The words of the bits that are set, lowest first, joined by blanks; ``0x…`` for unknown."""
    codes, uniques = pd.factorize(flags)
    return categories(codes, [spell(int(each), words) for each in uniques])


def spell(flags: int, words: Words) -> str:
    """The words of the bits of one number."""
    bits = (1 << at for at in range(32) if flags & 1 << at)
    return " ".join(words.get(bit, f"{bit:#x}") for bit in bits)


def frame(columns: dict[str, Column]) -> pd.DataFrame:
    """A frame of the columns, none of them copied."""
    return pd.DataFrame(columns, copy=False)
