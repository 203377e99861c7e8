"""Addresses of many entries as text: each address that occurs is spelled once."""

from __future__ import annotations

import ipaddress
import socket
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ebpfperf.mapdump.entries import Column

Array = npt.NDArray[Any]
# How a record has an address: one big-endian word, or two.
FORMATS = {4: ">u4", 6: "(2,)>u8"}
BYTES = {4: 4, 6: 16}
BITS = {4: 32, 6: 128}


def columns(family: int, *found: tuple[Array, npt.NDArray[np.bool_] | None]) -> list[Column]:
    """A column of text for each (addresses, which of them count), all of the same categories.

    An address that does not count is missing.
    """
    chosen = [addresses if keep is None else addresses[keep] for addresses, keep in found]
    codes, words = spelled(family, np.concatenate(chosen))
    result = []
    at = 0
    for (addresses, keep), some in zip(found, chosen, strict=True):
        piece = codes[at : at + len(some)]
        at += len(some)
        if keep is not None:
            whole = np.full(len(addresses), -1, codes.dtype)
            whole[keep] = piece
            piece = whole
        result.append(pd.Categorical.from_codes(piece, dtype=words, validate=False))
    return result


def spelled(family: int, addresses: Array) -> tuple[Array, Any]:
    """For each address the number of its text, and the texts as a categorical type."""
    if family == 4:
        numbers, singles = pd.factorize(addresses.astype(np.uint32))
        return numbers, pd.CategoricalDtype(pd.Index(_ipv4(np.asarray(singles))))
    high, low = addresses[:, 0].astype(np.uint64), addresses[:, 1].astype(np.uint64)
    high_codes, highs = pd.factorize(high)
    low_codes, lows = pd.factorize(low)
    both = high_codes.astype(np.int64) * max(len(lows), 1) + low_codes
    codes, uniques = pd.factorize(both)
    pairs = zip(highs[uniques // max(len(lows), 1)], lows[uniques % max(len(lows), 1)], strict=True)
    texts = [_ipv6(int(one), int(other)) for one, other in pairs]
    return codes, pd.CategoricalDtype(pd.Index(texts, dtype="str"))


def texts(family: int, addresses: Array) -> list[str]:
    """The text of each address."""
    codes, words = spelled(family, addresses)
    return [words.categories[code] for code in codes]


def networks(family: int, addresses: Array, lengths: Array) -> list[str]:
    """``10.65.0.0/26`` for each address and number of bits."""
    spelled_out = texts(family, addresses)
    return [f"{text}/{bits}" for text, bits in zip(spelled_out, lengths.tolist(), strict=True)]


def respelled(text: str) -> str:
    """An address or network as this module spells it; ValueError for text that is none."""
    address, slash, bits = text.partition("/")
    found = ipaddress.ip_address(address)
    if slash and not (bits.isdecimal() and int(bits) <= found.max_prefixlen):
        raise ValueError(f"{text!r} has a prefix of impossible length")
    return f"{found}{slash}{bits}"


def equal(one: Array, other: Array) -> npt.NDArray[np.bool_]:
    """Where two arrays of addresses have the same one."""
    same = one == other
    return same if same.ndim == 1 else np.asarray(same.all(axis=1))


def is_zero(addresses: Array) -> npt.NDArray[np.bool_]:
    """Where an address is 0.0.0.0 or ::."""
    zero = addresses == 0
    return zero if zero.ndim == 1 else np.asarray(zero.all(axis=1))


def _ipv4(numbers: npt.NDArray[np.uint32]) -> Any:
    octets = (pa.array((numbers >> shift & 0xFF).astype(np.int16)) for shift in (24, 16, 8, 0))
    joined = pc.binary_join_element_wise(*(_octets().take(octet) for octet in octets), _dot())
    return pd.array(joined, dtype="str")


def _ipv6(high: int, low: int) -> str:
    packed = high.to_bytes(8, "big") + low.to_bytes(8, "big")
    # The C library's way is ten times as fast; it spells ::1.2.3.4 otherwise.
    if high:
        return socket.inet_ntop(socket.AF_INET6, packed)
    return str(ipaddress.IPv6Address(packed))


@cache
def _octets() -> Any:
    return pa.array([str(number) for number in range(256)], pa.large_string())


@cache
def _dot() -> Any:
    return pa.scalar(".", pa.large_string())
