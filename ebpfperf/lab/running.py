"""The labs that run, and how to reach them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ebpfperf.errors import LabError
from ebpfperf.lab import processes, state
from ebpfperf.lab.files import write_private
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.state import Shape

ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Api:
    """The lab's API as its kubeconfig gives it."""

    url: str
    authority: str
    token: str = field(repr=False)

    @classmethod
    def of(cls, kubeconfig: Path) -> Api:
        """Read from a kubeconfig that the lab wrote (JSON, which is YAML).

        Raises
        ------
        OSError, ValueError, KeyError, TypeError
            There is none, or it is damaged.
        """
        document = json.loads(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        return cls(cluster["server"], authority, document["users"][0]["user"]["token"])

    def ask(
        self, verb: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """The object that the API answers; None for one that is not there, or is there already.

        Raises
        ------
        LabError
            It refuses, with its reason.
        """
        merge = "application/merge-patch+json"
        media = merge if verb == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body).encode()
        try:
            found: dict[str, Any] = json.loads(self._send(verb, path, data, media))
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")
            error.close()
            if error.code == 404 or (error.code == 409 and verb == "POST"):
                return None
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said = json.loads(said)["message"]
            raise LabError(
                f"The lab's API refuses {verb} {path}: {said}.", "See kubectl explain."
            ) from error
        return found

    def get(self, path: str) -> bytes:
        """The body of a successful GET; OSError when it is refused or too late."""
        return self._send("GET", path, None, "application/json")

    def _send(self, verb: str, path: str, data: bytes | None, media: str) -> bytes:
        context = ssl.create_default_context(cadata=self.authority)
        # A proxy from the environment has no business on loopback.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        request = urllib.request.Request(
            f"{self.url}{path}",
            data,
            {"Authorization": f"Bearer {self.token}", "Content-Type": media},
            method=verb,
        )
        with opener.open(request, timeout=ANSWER_S) as answer:
            body: bytes = answer.read()
        return body


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that runs; ``client`` is the one machine that is not of the cluster."""

    shape: Shape
    directory: Path
    daemon_pid: int
    nodes: tuple[LabNode, ...]
    client: LabNode
    api: Api

    @property
    def name(self) -> str:
        """Its name, also its directory's."""
        return self.shape.name

    @property
    def kubeconfig(self) -> Path:
        """For KUBECONFIG."""
        return self.directory / "kubeconfig"

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``."""
        return self.directory / "ssh_config"

    def node(self, name: str) -> LabNode:
        """The node, or the client, of that name; LabError when there is none."""
        machines = (*self.nodes, self.client)
        for node in machines:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in machines)
        raise LabError(f"The lab {self.name} has no node {name}.", f"It has {names}.")


def find(name: str) -> Lab | None:
    """The lab of that name if it is healthy: daemon and machines live and the API says so."""
    directory = state.directory(name)
    found = state.read_shape(directory)
    if found is None:
        return None
    shape, pid = found
    if not processes.carries(pid, name):
        return None
    try:
        *nodes, client = read_machines(directory)
        api = Api.of(directory / "kubeconfig")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not all(processes.carries(node.holder_pid, name) for node in (*nodes, client)):
        return None
    try:
        api.get("/readyz")
    except (OSError, http.client.HTTPException):
        return None
    return Lab(shape, directory, pid, tuple(nodes), client, api)


def the(name: str) -> Lab:
    """The running lab of that name; LabError with what runs instead."""
    lab = find(name)
    if lab is None:
        others = [other for other in state.names() if other != name and find(other) is not None]
        raise LabError(
            f"No lab named {name} is running.",
            f"Running: {', '.join(others)}."
            if others
            else f"Bring it up: ebpfperf lab up --name {name}",
        )
    return lab


def write_machines(directory: Path, nodes: Sequence[LabNode], client: LabNode) -> None:
    """Record the running nodes and the client, whole or not at all."""
    rows = [
        {**asdict(machine), "cgroup": str(machine.cgroup), "dir": str(machine.dir)}
        for machine in (*nodes, client)
    ]
    write_private(directory / "machines.json", json.dumps(rows).encode())


def read_machines(directory: Path) -> list[LabNode]:
    """The recorded nodes, and last the client.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError
        There is no record, or it is damaged.
    """
    return [
        LabNode(**{**row, "cgroup": Path(row["cgroup"]), "dir": Path(row["dir"])})
        for row in json.loads((directory / "machines.json").read_text())
    ]
