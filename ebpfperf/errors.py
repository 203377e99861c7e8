"""The error tree.

::

    EbpfperfError                 one sentence what, one sentence what to do
    ├── InputError                bad input or environment: exit status 2, nothing was changed
    │   ├── PlanError             campaign file: carries file, line and the place in it
    │   ├── ParameterError        notebook or report parameters
    │   └── LabError              the embedded cluster cannot be brought up or found
    ├── NodeError                 something about one node; a trial that meets it is a failed row
    │   ├── ConnectError          cannot reach or log in
    │   │   └── HostKeyError      unknown or changed host key
    │   ├── CommandError          a command ended with a status it must not have
    │   ├── CommandTimeout        a command did not end in time; its process group was killed
    │   └── OutputLimitError      a command printed more than its bound; it was killed
    ├── KubeError                 the API refused or is unreachable
    ├── SettleError               a treatment could not be shown on the nodes
    ├── RestoreError              the cluster could not be put back as it was
    ├── LoadError                 a load could not be driven; becomes a failed row
    ├── ProbeError                a probe could not be loaded or read; becomes a reason on the row
    ├── StoreError                a campaign directory cannot be read or written
    └── ReportError               a notebook or its export failed; the partial artefact is kept
"""

from __future__ import annotations

from typing import ClassVar


class EbpfperfError(Exception):
    """What went wrong and what to do about it, with the facts as fields.

    Parameters
    ----------
    what
        One sentence: what is wrong, and where.
    remedy
        One sentence: what to do. Empty where nothing can be advised.
    **fields
        JSON scalars that a program may want (node, path, status, …).
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, remedy: str = "", **fields: object) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.remedy, self.fields)


def _rebuild(
    kind: type[EbpfperfError], what: str, remedy: str, fields: dict[str, object]
) -> EbpfperfError:
    return kind(what, remedy, **fields)


class InputError(EbpfperfError):
    """Bad input or environment; nothing was changed."""

    exit_status: ClassVar[int] = 2


class PlanError(InputError):
    """A campaign file is wrong; fields ``file``, ``line`` (1-based) and ``place``."""


class ParameterError(InputError):
    """A notebook or report parameter is unknown or of the wrong type."""


class LabError(InputError):
    """The embedded cluster cannot be brought up, found or taken down."""


class NodeError(EbpfperfError):
    """Something about one node; field ``node``."""


class ConnectError(NodeError):
    """A node cannot be reached or refuses the login."""


class HostKeyError(ConnectError):
    """A node's host key is unknown or has changed; nothing was sent to it."""


class CommandError(NodeError):
    """A command ended with an unexpected status; fields ``argv``, ``status``, ``stderr``."""


class CommandTimeout(NodeError):
    """A command ran longer than it may; fields ``argv``, ``timeout_s``."""


class OutputLimitError(NodeError):
    """A command printed more than its bound; fields ``argv``, ``limit_bytes``."""


class KubeError(EbpfperfError):
    """The API refused a request or is unreachable; fields ``status``, ``reason`` where known."""


class SettleError(EbpfperfError):
    """A treatment could not be shown on the nodes; field ``evidence``."""


class RestoreError(EbpfperfError):
    """The cluster could not be put back; field ``journal`` says where its state is kept."""


class LoadError(EbpfperfError):
    """A load could not be driven; field ``reason`` is a short code."""


class ProbeError(EbpfperfError):
    """A probe could not be loaded, armed or read; field ``reason`` is a short code."""


class StoreError(EbpfperfError):
    """A campaign directory cannot be read or written; field ``path``."""


class ReportError(EbpfperfError):
    """A notebook or its export failed; field ``path`` is the artefact that was kept."""
