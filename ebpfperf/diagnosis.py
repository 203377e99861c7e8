"""What a diagnosis says: verdicts with evidence and remedy, and their JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ebpfperf.errors import InputError

SCHEMA = 1


class Verdict(StrEnum):
    """What a check says of a node or of the cluster, worst first."""

    FAIL = "FAIL"
    WARN = "WARN"
    UNKNOWN = "UNKNOWN"
    OK = "OK"
    NOT_APPLICABLE = "N/A"


WORST = tuple(Verdict)


@dataclass(frozen=True, slots=True)
class Shown:
    """Evidence: who was asked what, when, and the part of the answer that decided."""

    source: str
    node: str
    asked: str
    taken_utc: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check found, of one node or (``node`` empty) of the cluster.

    Attributes
    ----------
    what
        One sentence, with the values that decided.
    subject
        A device, service or pod that it is about; empty for the whole.
    remedy
        One sentence on what to do; empty where nothing is to be done.
    corrected
        Where the documentation's advice does not hold for this release: a sentence saying so.
    """

    verdict: Verdict
    what: str
    shown: tuple[Shown, ...] = ()
    node: str = ""
    subject: str = ""
    remedy: str = ""
    corrected: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A check and what it found."""

    id: str
    name: str
    title: str
    symptom: str
    rule: str
    source: str
    outcomes: tuple[Outcome, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of its outcomes."""
        return min((each.verdict for each in self.outcomes), key=WORST.index)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All results of one cluster at one time.

    Attributes
    ----------
    lost
        Node → why it could not be asked.
    from_bundle
        Whether the evidence was read from a bundle; ``pseudonyms``: whether its names are not the
        true ones.
    emulated
        Whether the nodes say that they are the embedded lab's.
    seconds
        How long was counted.
    """

    taken_utc: str
    release: str
    nodes: tuple[str, ...]
    results: tuple[Result, ...]
    lost: Mapping[str, str]
    version: str
    from_bundle: bool = False
    pseudonyms: bool = False
    emulated: bool = False
    seconds: float = 0.0

    def outcomes(self) -> Iterator[tuple[Result, Outcome]]:
        """Every outcome with its check, worst first, else in the checks' order."""
        pairs = [(result, each) for result in self.results for each in result.outcomes]
        yield from sorted(pairs, key=lambda pair: WORST.index(pair[1].verdict))

    def counts(self) -> dict[Verdict, int]:
        """How many checks have each verdict."""
        return {each: sum(r.verdict is each for r in self.results) for each in Verdict}

    def as_json(self) -> dict[str, Any]:
        """The document that ``from_json`` reads."""
        return {
            "schema": SCHEMA,
            "ebpfperf": self.version,
            "taken_utc": self.taken_utc,
            "calico_release": self.release,
            "nodes": list(self.nodes),
            "lost": dict(self.lost),
            "from_bundle": self.from_bundle,
            "pseudonyms": self.pseudonyms,
            "emulated": self.emulated,
            "seconds": self.seconds,
            "results": [
                {**asdict(result), "verdict": result.verdict.value} for result in self.results
            ],
        }


def from_json(document: Mapping[str, Any]) -> Diagnosis:
    """The diagnosis that ``as_json`` wrote.

    Raises
    ------
    InputError
        It is another document, or of another schema.
    """
    try:
        if document["schema"] != SCHEMA:
            raise InputError(
                f"The diagnosis has schema {document['schema']}; this version reads {SCHEMA}.",
                "Make it anew: ebpfperf doctor --json.",
            )
        return Diagnosis(
            str(document["taken_utc"]),
            str(document["calico_release"]),
            tuple(document["nodes"]),
            tuple(_result(each) for each in document["results"]),
            dict(document["lost"]),
            str(document["ebpfperf"]),
            bool(document["from_bundle"]),
            bool(document["pseudonyms"]),
            bool(document["emulated"]),
            float(document["seconds"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"This is no diagnosis ({error!r}).", "Make one: ebpfperf doctor --json."
        ) from error


def _result(row: Mapping[str, Any]) -> Result:
    words = {key: str(row[key]) for key in ("id", "name", "title", "symptom", "rule", "source")}
    return Result(**words, outcomes=tuple(_outcome(each) for each in row["outcomes"]))


def _outcome(row: Mapping[str, Any]) -> Outcome:
    own = {**row, "verdict": Verdict(row["verdict"])}
    own["shown"] = tuple(Shown(**each) for each in row["shown"])
    return Outcome(**own)
