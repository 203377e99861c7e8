"""Why a load's numbers may not be used: the one list of short codes and their sentences."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Short codes that a failed trial's ``reason`` begins with."""

    REFUSED = "refused"
    BUSY = "busy"
    UNREACHABLE = "unreachable"
    SERVER_DIED = "server_died"
    CLIENT_DIED = "client_died"
    DENIED = "denied"
    INTERRUPTED = "interrupted"
    NO_END = "no_end"
    NOT_JSON = "not_json"
    TRUNCATED = "truncated"
    CONCATENATED = "concatenated"
    EMPTY = "empty"
    TOO_LONG = "too_long"
    NO_TRAFFIC = "no_traffic"
    SHORT = "short"
    MISMATCH = "mismatch"
    INCONSISTENT = "inconsistent"
    STALLED = "stalled"
    TIMEOUT = "timeout"
    MISSING_BINARY = "missing_binary"
    PORT_TAKEN = "port_taken"
    BAD_OPTION = "bad_option"
    OTHER = "other"


SENTENCES: dict[Reason, str] = {
    Reason.REFUSED: "The server refused the connection.",
    Reason.BUSY: "The server was busy with another test.",
    Reason.UNREACHABLE: "The server could not be reached.",
    Reason.SERVER_DIED: "The server went away during the test.",
    Reason.CLIENT_DIED: "The client went away during the test.",
    Reason.DENIED: "The server does not allow the test.",
    Reason.INTERRUPTED: "The client was interrupted before the end.",
    Reason.NO_END: "The document has no result: its end is empty or absent.",
    Reason.NOT_JSON: "The client's output is no JSON document.",
    Reason.TRUNCATED: "The client's document stops in the middle.",
    Reason.CONCATENATED: "The output holds more than one document; give each a file of its own.",
    Reason.EMPTY: "The client printed nothing.",
    Reason.TOO_LONG: "A datagram did not fit the path; set a smaller message_bytes for the flow.",
    Reason.NO_TRAFFIC: "No byte arrived.",
    Reason.SHORT: "The traffic ended before the time asked for.",
    Reason.MISMATCH: "The document is of another test than the one asked for.",
    Reason.INCONSISTENT: "The document's numbers contradict each other.",
    Reason.STALLED: "A message was lost and the exchange stood still.",
    Reason.TIMEOUT: "The client did not end in time and was ended.",
    Reason.MISSING_BINARY: "The program is not installed on the node.",
    Reason.PORT_TAKEN: "None of the ports that were tried is free.",
    Reason.BAD_OPTION: "The installed version does not know an option that was asked for.",
    Reason.OTHER: "The client failed.",
}


def sentence(reason: Reason, detail: str = "") -> str:
    """``"refused: The server refused the connection. (detail)"``: what a failed row says."""
    said = " ".join(detail.split())[:300]
    return f"{reason.value}: {SENTENCES[reason]}{f' ({said})' if said else ''}"
