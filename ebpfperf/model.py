"""The frozen types that travel through the kit. No I/O, no third-party import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

FelixValue = bool | int | str | None

ALWAYS_ON: tuple[str, ...] = ("host_counters",)
"""Probes that watch every trial, whether or not its campaign names them."""
PROBE_SHARE_PCT = 4.0
"""Percent of the time for which each of the costly probes is on, unless the campaign says."""


class Overlay(StrEnum):
    """How packets between workloads of different nodes travel on the underlay."""

    NONE = "none"
    IPIP = "ipip"
    VXLAN = "vxlan"


UNKNOWN_OVERLAY = "unknown"
"""In place of an overlay mode in the frames of results that do not say theirs."""


class Scope(StrEnum):
    """Which node pairs are encapsulated: all, or only those in different subnets."""

    ALWAYS = "always"
    CROSS_SUBNET = "cross-subnet"


class Dataplane(StrEnum):
    """Who forwards."""

    EBPF = "ebpf"
    STANDARD = "standard"


class Path(StrEnum):
    """Which way a flow goes.

    The last three go to the server's pod through a Service: by the Service's own address from the
    client's pod, and by a node port from outside the cluster, dialled at the server's node or at
    the client's (which holds no server and must forward).
    """

    POD_POD = "pod-pod"
    HOST_HOST = "host-host"
    POD_SERVICE = "pod-service"
    NODEPORT_LOCAL = "nodeport-local"
    NODEPORT_REMOTE = "nodeport-remote"

    @property
    def by_node_port(self) -> bool:
        """Whether a node's address is dialled, from outside the cluster."""
        return self in (Path.NODEPORT_LOCAL, Path.NODEPORT_REMOTE)

    @property
    def by_service(self) -> bool:
        """Whether it goes through a Service."""
        return self is Path.POD_SERVICE or self.by_node_port


class WorkloadKind(StrEnum):
    """A pod with its own network namespace, or the node's own."""

    POD = "pod"
    HOST = "host"


class Direction(StrEnum):
    """Who sends the bulk: the client, the server (reverse), or both at once."""

    FORWARD = "forward"
    REVERSE = "reverse"
    BIDIR = "bidir"


class Role(StrEnum):
    """What a trial is for.

    ``COMPARED`` ones are what treatments are compared by. ``AGAIN`` is the baseline once more, as
    if it were a treatment of its own (the A/A test); ``BARE`` is the baseline without probes.
    """

    COMPARED = "compared"
    AGAIN = "again"
    BARE = "bare"


class Design(StrEnum):
    """Whether the trials of one block belong together, or every arm stands for itself."""

    BLOCKS = "blocks"
    INDEPENDENT = "independent"


class Status(StrEnum):
    """Whether a trial's numbers may be used."""

    OK = "ok"
    FAILED = "failed"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class Treatment:
    """What a campaign changes: overlay mode, scope, Felix flags, dataplane.

    Attributes
    ----------
    name
        Short name used in tables, colours and trial ids: ``[a-z0-9-]+``.
    overlay
        None only of imported results that do not say; frames then hold ``UNKNOWN_OVERLAY``.
    felix
        FelixConfiguration ``spec`` fields to set, sorted by name; a value of None means *unset*
        (the field is removed). Fields not named are left as they are.
    dataplane
        None leaves the cluster's dataplane as it is.
    """

    name: str
    overlay: Overlay | None
    scope: Scope = Scope.ALWAYS
    felix: tuple[tuple[str, FelixValue], ...] = ()
    dataplane: Dataplane | None = None

    @property
    def applied_overlay(self) -> Overlay:
        """The overlay mode, of a treatment that can be put on a cluster; ValueError otherwise."""
        if self.overlay is None:
            raise ValueError(f"treatment {self.name} was imported without its overlay mode")
        return self.overlay

    @property
    def overlay_name(self) -> str:
        """The overlay mode in frames and tables."""
        return UNKNOWN_OVERLAY if self.overlay is None else self.overlay.value


@dataclass(frozen=True, slots=True)
class Workload:
    """What sends or receives, before it has an address.

    Attributes
    ----------
    name
        Pod name, or the node's name for a host workload.
    node
        Name of the Kubernetes node it is bound to, or of the machine outside the cluster.
    namespace
        Kubernetes namespace; empty for a host workload.
    """

    name: str
    node: str
    kind: WorkloadKind
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Front:
    """What a client dials in place of the server: a Service's own address, or a node's.

    Attributes
    ----------
    ports
        (the server's port, the port to dial) of every port of the Service.
    node
        The node whose address and node ports are dialled; empty for the Service's own address.
    """

    address: str
    ports: tuple[tuple[int, int], ...]
    node: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A workload's resolved place: an address, and the way into its network namespace.

    Attributes
    ----------
    netns_pid
        A process on the node that lives in the workload's network namespace; None for a host
        workload.
    device
        The device inside that namespace that carries ``address`` (``eth0``, or the node's NIC).
    host_device
        The node's side of it: ``cali…``; the NIC itself for a host workload.
    mtu_bytes
        MTU of ``device``, as read on the node.
    front
        Of a server: what its client dials instead of ``address``; None where it dials that.
    """

    workload: Workload
    address: str
    netns_pid: int | None
    device: str
    host_device: str
    mtu_bytes: int
    front: Front | None = None

    @property
    def node(self) -> str:
        """Name of the node it lives on."""
        return self.workload.node

    def within(self, argv: tuple[str, ...] | list[str]) -> list[str]:
        """``argv`` as it must be run on the node to execute inside this network namespace."""
        if self.netns_pid is None:
            return list(argv)
        return ["nsenter", f"--net=/proc/{self.netns_pid}/ns/net", "--", *argv]

    @property
    def dialled_address(self) -> str:
        """The address that reaches it."""
        return self.address if self.front is None else self.front.address

    def dialled_port(self, port: int) -> int:
        """The port that reaches its ``port``; KeyError where its Service has no such port."""
        return port if self.front is None else dict(self.front.ports)[port]

    def reachable(self, ports: Iterable[int]) -> tuple[int, ...]:
        """Those of its ports that can be dialled."""
        known = None if self.front is None else dict(self.front.ports)
        return tuple(port for port in ports if known is None or port in known)

    def dialling(self, port: int) -> str:
        """What is dialled for its ``port``: ``service 198.18.240.7:5201 → 198.19.0.66:5201``."""
        here = f"{self.address}:{port}"
        if self.front is None:
            return here
        kind = f"node port of {self.front.node}" if self.front.node else "service"
        there = f" on {self.node}" if self.front.node else ""
        return f"{kind} {self.dialled_address}:{self.dialled_port(port)} → {here}{there}"


@dataclass(frozen=True, slots=True)
class Flow:
    """What traffic a trial drives, apart from where its ends are placed.

    Attributes
    ----------
    load
        Name of the load in ``ebpfperf.loads``: ``tcp``, ``udp`` or ``request-response``.
    duration_s
        Seconds measured, after ``omit_s`` seconds of warm-up that are not.
    message_bytes
        Bytes of a write, datagram or request; None is the load's own default.
    rate_bits_per_s
        Pace; None is as fast as it goes (not allowed for ``udp``).
    transport
        ``tcp`` or ``udp``, for ``request-response``; the other loads imply theirs.
    congestion
        TCP congestion control; None is the node's default.
    mss_bytes
        TCP maximum segment size asked for; None is the kernel's choice.
    """

    name: str
    path: Path
    load: str
    direction: Direction = Direction.FORWARD
    streams: int = 1
    duration_s: int = 10
    omit_s: int = 1
    message_bytes: int | None = None
    rate_bits_per_s: float | None = None
    transport: str = "tcp"
    congestion: str | None = None
    mss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterRef:
    """How to reach the cluster, and what of it a campaign may use. Paths, never secrets.

    Attributes
    ----------
    kubeconfig, context
        None: the environment's KUBECONFIG or ``~/.kube/config``; its current context.
    ssh_config
        None: ``~/.ssh/config``.
    client_node, server_node
        None: the first and second ready node by name.
    namespace
        Where the kit creates its pods; created and removed by the kit when absent.
    ippools
        The pools whose encapsulation is changed.
    image
        Image of the pods; they only have to sleep.
    external_client
        SSH host outside the cluster that dials node ports; None where no flow does.
    """

    kubeconfig: str | None = None
    context: str | None = None
    ssh_config: str | None = None
    client_node: str | None = None
    server_node: str | None = None
    namespace: str = "ebpfperf"
    ippools: tuple[str, ...] = ("default-ipv4-ippool",)
    image: str = "registry.k8s.io/pause:3.9"
    external_client: str | None = None


@dataclass(frozen=True, slots=True)
class Quiet:
    """How quiet the nodes must be before a trial begins, and how long that is waited for.

    Attributes
    ----------
    sample_s
        Seconds for which the nodes are watched before each trial.
    busy_pct
        Processor time in use, percent of all processors of a node, that is still quiet.
    nic_bits_per_s
        What may cross a node's NIC, both ways added.
    wait_s
        Seconds in all after which the trial goes ahead nevertheless, and is marked.
    """

    sample_s: float = 0.5
    busy_pct: float = 15.0
    nic_bits_per_s: float = 10e6
    wait_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign file, validated. Expands to trials by ``plan.schedule``.

    Attributes
    ----------
    blocks
        Number of blocks: each holds one trial of every flow under every treatment.
    baseline
        Name of the treatment the others are compared to.
    margin_pct
        Equivalence margin, percent of the baseline; fixed before the run.
    level
        Confidence level of intervals, 0 to 1.
    probes_off
        Whether each block also drives every flow under the baseline with no optional probe on the
        nodes (bare trials), so that what the probes cost can be said.
    probe_share_pct
        Percent of the time for which each probe whose hooks run for about every packet is on.
    aa_test
        Whether each block drives every flow under the baseline once more, as if that were another
        treatment: whatever differs between the two is no effect of a treatment.
    quiet
        What must be so before a trial begins; None asks for nothing.
    until_pct
        Half width of the interval, percent, at which the campaign ends before its last block; None
        runs all blocks.
    until_metric
        The metric whose intervals must be so narrow; empty for all that a report leads with.
    ended_after
        How many blocks it was ended after, because of that; None while it was not.
    design
        ``INDEPENDENT`` where trials of one block number are not close in time (imported results).
    source
        What it was imported from; empty for a campaign that the kit runs.
    """

    name: str
    seed: int
    blocks: int
    baseline: str
    treatments: tuple[Treatment, ...]
    flows: tuple[Flow, ...]
    probes: tuple[str, ...] = ()
    margin_pct: float = 5.0
    level: float = 0.95
    cluster: ClusterRef = ClusterRef()
    description: str = ""
    probes_off: bool = False
    probe_share_pct: float = PROBE_SHARE_PCT
    aa_test: bool = False
    quiet: Quiet | None = None
    until_pct: float | None = None
    until_metric: str = ""
    ended_after: int | None = None
    design: Design = Design.BLOCKS
    source: str = ""

    @property
    def optional_probes(self) -> tuple[str, ...]:
        """Its probes without those that are always on."""
        return _optional(self.probes)

    @property
    def asked_flows(self) -> tuple[str, ...]:
        """Names of the flows that are the question: those between hosts are its control.

        All of them where there is no other.
        """
        names = tuple(flow.name for flow in self.flows if flow.path is not Path.HOST_HOST)
        return names or tuple(flow.name for flow in self.flows)

    @property
    def run_blocks(self) -> int:
        """How many blocks are run: fewer than planned where it was ended early."""
        return self.blocks if self.ended_after is None else self.ended_after

    @property
    def trials_per_block(self) -> int:
        """How many trials a block holds, those of the baseline alone included."""
        return len(self.flows) * (len(self.treatments) + self.aa_test + self.probes_off)

    def treatment(self, name: str) -> Treatment:
        """The treatment of that name; KeyError when there is none."""
        return {treatment.name: treatment for treatment in self.treatments}[name]


@dataclass(frozen=True, slots=True)
class Trial:
    """One execution of a flow under a treatment, at a place in the order.

    Attributes
    ----------
    trial_id
        ``b003-vxlan-tcp``: block, treatment, flow; unique in a campaign and stable over resumes.
        That of a bare trial ends in ``-bare``, that of the A/A test in ``-again``.
    block, order
        Both count from 0; ``order`` is the place in the whole campaign.
    probes
        Those that watch it, besides those that are always on; empty for a bare trial.
    """

    trial_id: str
    block: int
    order: int
    treatment: Treatment
    flow: Flow
    probes: tuple[str, ...] = ()
    role: Role = Role.COMPARED

    @property
    def optional_probes(self) -> tuple[str, ...]:
        """Its probes without those that are always on."""
        return _optional(self.probes)


def trial_name(treatment: Treatment, flow: Flow, *, role: Role = Role.COMPARED) -> str:
    """What tells a trial from the others of its block: ``vxlan-tcp``, or ``none-tcp-bare``."""
    return f"{treatment.name}-{flow.name}" + ("" if role is Role.COMPARED else f"-{role}")


def _optional(probes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in probes if name not in ALWAYS_ON)


@dataclass(frozen=True, slots=True)
class Fact:
    """Something true of a node (or of a trial, with node "") while measuring.

    ``value`` is text; UNKNOWN facts carry the value ``UNKNOWN: <reason>``.
    """

    node: str
    name: str
    value: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One number at one time. ``t_s`` counts from the start of the traffic."""

    source: str
    endpoint: str
    metric: str
    unit: str
    t_s: float
    value: float
    phase: str = "measure"


@dataclass(frozen=True, slots=True)
class HistogramBin:
    """One bin, ``lower_ns`` included, ``upper_ns`` excluded. Merging bins of equal bounds adds."""

    probe: str
    endpoint: str
    metric: str
    lower_ns: int
    upper_ns: int
    count: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What a load or a probe yields for one trial: the pure result of parsing recorded bytes.

    Attributes
    ----------
    status, reason
        ``reason`` is a short code followed by a colon and a sentence, empty when ok.
    metrics
        Column of the trials frame → number. Units are in the names.
    """

    status: Status = Status.OK
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    histograms: tuple[HistogramBin, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A trial and all that came back: one record in the store.

    Attributes
    ----------
    start_utc
        ISO 8601 with a trailing Z.
    duration_s
        Wall seconds of the whole trial, the treatment switch not included.
    overhead_s
        Wall seconds of the trial beyond the load's own traffic seconds.
    raw
        File name → bytes, kept beside the record (what the tools printed).
    warnings
        Sentences a reader must see beside the numbers (a probe that could not run, …).
    """

    trial: Trial
    status: Status
    reason: str
    start_utc: str
    duration_s: float
    overhead_s: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    histograms: tuple[HistogramBin, ...] = ()
    facts: tuple[Fact, ...] = ()
    warnings: tuple[str, ...] = ()
    raw: Mapping[str, bytes] = field(default_factory=dict)
