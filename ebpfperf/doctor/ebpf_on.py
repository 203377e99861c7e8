"""The checks of whether eBPF mode is really on. Their rules are in modules by what they read."""

from __future__ import annotations

from typing import Final

from ebpfperf.doctor import ebpf_asked, ebpf_log, ebpf_machine, ebpf_programs
from ebpfperf.doctor.declaration import CURRENT, PAGE, Check

_RESOURCES: Final = ("felixconfigurations", "felix-process", "pods")
_STATE: Final = ("log", "counts", *_RESOURCES)

CHECKS: tuple[Check, ...] = (
    Check(
        "A1",
        "ebpf-active",
        "Does Felix say that it forwards by eBPF?",
        "Services are unreachable, or nothing is faster than before.",
        (*_STATE, "kernel"),
        "Of the newest Felix's lines, active is OK and not supported is FAIL; where it says "
        "neither, programs on devices are OK and none is FAIL; a Felix that is restarting, or "
        "neither log nor programs, is UNKNOWN.",
        PAGE,
        of_node=ebpf_log.active,
        preflight=True,
    ),
    Check(
        "A2",
        "programs",
        "Are Calico's programs on every NIC and workload device?",
        "Pods or node ports are unreachable on one node; or nothing is faster than before.",
        ("counts", "links", "pins", *_RESOURCES),
        "Programs on both hooks of every NIC that Felix's pattern matches and of every workload "
        "device that is up are OK; one without is FAIL. Where eBPF mode is not asked for, programs "
        "or maps that are left are WARN.",
        "felix/dataplane/linux/bpf_ep_mgr.go",
        of_node=ebpf_programs.programs,
        ebpf=False,
        preflight=True,
    ),
    Check(
        "A3",
        "kernel",
        "Is the kernel new enough?",
        "Felix falls back to the standard dataplane, or the kernel refuses its programs.",
        ("kernel", "os"),
        "Below 5.3 (Red Hat: 4.18.0-193), which Felix itself asks for, is FAIL; from v3.31 on, "
        "below 5.10 (4.18.0-305), which the documentation asks for, is WARN.",
        f"{PAGE}; felix/bpf/bpf.go; system requirements of v3.31",
        of_node=ebpf_machine.kernel,
    ),
    Check(
        "A4",
        "bpffs",
        "Is the BPF file system mounted?",
        "Pods lose packets for seconds whenever calico-node restarts.",
        ("bpffs",),
        "bpf is OK; anything else, or nothing, is FAIL.",
        "felix/bpf/bpffs",
        of_node=ebpf_machine.bpffs,
        preflight=True,
    ),
    Check(
        "A5",
        "configuration",
        "Do all places that configure Felix say the same?",
        "What was set in FelixConfiguration has no effect.",
        ("installations", "ippools", "clusterinformation", *_RESOURCES),
        "The operator's linuxDataplane against what Felix acts on is FAIL; an environment variable "
        "or a file that says otherwise than a resource, resources that disagree about bpfEnabled, "
        "and fields that the release ignores are WARN.",
        "felix/config/config_params.go, resolve",
        of_cluster=ebpf_asked.configuration,
        ebpf=False,
        preflight=True,
    ),
    Check(
        "A6",
        "mixed-cluster",
        "Do all nodes forward by eBPF, or none?",
        "Traffic between some pairs of nodes fails, services above all.",
        ("nodes", *_STATE),
        "All are OK; some and not others is FAIL, on those that do not; Windows nodes count as "
        "not.",
        f"{CURRENT}; system requirements",
        of_cluster=ebpf_asked.mixed,
        preflight=True,
    ),
    Check(
        "A7",
        "dirty-endpoints",
        "Could Felix put its programs on every device?",
        "calico-node is not Ready, and single pods have no network.",
        ("links", *_STATE),
        "A device left dirty, or a program that the kernel refused, in the five minutes before the "
        "log was read is FAIL; older ones, or where the device is gone, has its programs, or Felix "
        "has restarted since, are WARN; both together are OK. calico-node not Ready is WARN.",
        f"{CURRENT}; felix/dataplane/linux/bpf_ep_mgr.go",
        of_node=ebpf_log.dirty,
        preflight=True,
    ),
    Check(
        "A8",
        "nic-pattern",
        "Does Felix's pattern match the node's NICs?",
        "Node ports and pods' traffic between nodes fail on a node with VLANs, teams or renamed "
        "NICs.",
        ("links", "routes", "nodes", *_RESOURCES),
        "A device with the node's address that neither bpfDataIfacePattern nor bpfL3IfacePattern "
        "matches is FAIL; one with the default route alone is WARN; a pattern that cannot be read "
        "here is UNKNOWN.",
        "felix/config/config_params.go",
        of_node=ebpf_programs.nic_pattern,
        preflight=True,
    ),
    Check(
        "A9",
        "architecture",
        "Do Calico's programs run on this processor?",
        "Felix falls back to the standard dataplane.",
        ("kernel",),
        "Big-endian is FAIL; one that the documentation does not name is WARN.",
        "felix/bpf/bpf.go; system requirements",
        of_node=ebpf_machine.architecture,
    ),
)
