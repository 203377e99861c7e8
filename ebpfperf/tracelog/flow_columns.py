"""The flow of each packet, out of what its lines say: each different text is read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ebpfperf.tracelog.columns import NONE, Table
from ebpfperf.tracelog.flows import Flow, flow_in
from ebpfperf.tracelog.grammar import ALL_KINDS, Tag

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPEAKING = [ALL_KINDS.index(kind) for kind in ("ip", "header", "conntrack", "nat", "policy")]
_NUMBERS = ("source_port", "destination_port", "ip_id", "to_port")


def flow_columns(lines: Table, first: NDArray[np.int64], *, tags: list[Tag]) -> dict[str, Any]:
    """The parts of ``Flow`` as columns, one element a packet.

    Of each part what a packet's lines say first; of ``to`` and ``to_port`` what they say last.

    Parameters
    ----------
    first
        Where the lines of each packet begin.
    tags
        What the numbers of ``lines.tag`` stand for.
    """
    speaking = np.flatnonzero(np.isin(lines.kind, _SPEAKING))
    packet = np.searchsorted(first, speaking, side="right") - 1
    encoded = lines.text.take(pa.array(speaking)).dictionary_encode()
    codes = encoded.indices.to_numpy()
    example = np.zeros(len(encoded.dictionary), dtype=np.int64)
    example[codes[::-1]] = speaking[::-1]
    versions = [tags[number].ip_version for number in lines.tag[example]]
    texts = encoded.dictionary.to_pylist()
    read = [flow_in(t, ip_version=v) for t, v in zip(texts, versions, strict=True)]
    columns: dict[str, Any] = {}
    for name in Flow._fields:
        values = np.array([getattr(flow, name) for flow in read] + [None], dtype=object)
        there = np.array([value is not None for value in values[:-1]], dtype=bool)
        said = np.flatnonzero(there[codes]) if len(codes) else np.zeros(0, dtype=np.int64)
        # The last of several assignments counts.
        turn = said if name in ("to", "to_port") else said[::-1]
        chosen = np.full(len(first), NONE, dtype=np.int64)
        chosen[packet[turn]] = codes[turn]
        found = values[chosen]
        columns[name] = pd.array(found, dtype="Int64" if name in _NUMBERS else "str")
    return columns
