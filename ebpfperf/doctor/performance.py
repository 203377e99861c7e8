"""Checks of performance: overlay, flags, MTUs, offloads, processors, what the underlay carries."""

from __future__ import annotations

from ebpfperf.doctor import performance_devices as devices
from ebpfperf.doctor import performance_flags as flags
from ebpfperf.doctor import performance_machine as machine
from ebpfperf.doctor import performance_mtu as mtu
from ebpfperf.doctor import performance_overlay as overlay
from ebpfperf.doctor import performance_shortcut as shortcut
from ebpfperf.doctor import performance_traffic as traffic
from ebpfperf.doctor.declaration import PAGE, Check

_FELIX = ("felixconfigurations", "felix-process", "ippools", "pods")

CHECKS: tuple[Check, ...] = (
    Check(
        "E1",
        "overlay",
        "Does the network do without an overlay?",
        "Traffic between pods of two nodes is slow and costs processor time.",
        ("ippools", "pods", "installations"),
        "No pool with an overlay is OK, VXLAN CrossSubnet too; VXLAN Always is WARN; IPIP is FAIL, "
        "or WARN while no pod has an address of it. Disabled pools without pods do not count.",
        PAGE,
        of_cluster=overlay.overlay,
    ),
    Check(
        "E2",
        "flags",
        "Are Felix's tunnels off that no pool asks for?",
        "Traffic is slow though no overlay is used, or pods have a smaller MTU than they may.",
        _FELIX,
        "A flag that is true though no pool asks for it, or only a disabled one without pods, is "
        "FAIL where it switches the FIB short-cut off (ipipEnabled up to v3.31, vxlanEnabled up to "
        "v3.17), else WARN.",
        f"{PAGE}; felix/dataplane/linux/int_dataplane.go",
        of_node=flags.flags_without_overlay,
    ),
    Check(
        "E3",
        "overlay-flags",
        "Are the tunnels on that pools ask for?",
        "Pods of different nodes do not reach each other.",
        _FELIX,
        "A pool with an overlay whose flag is false is FAIL.",
        "felix/calc/encapsulation_calculator.go",
        of_node=flags.overlay_without_flags,
    ),
    Check(
        "E4",
        "shortcut",
        "Do programs redirect packets past the host's IP stack?",
        "Traffic costs more processor time than eBPF mode promises.",
        (*_FELIX, "counts"),
        "Up to v3.20 programs for what comes in must be named after files with fib_, else FAIL. "
        "Since v3.31 counted redirects are OK, and none of at least 10000 packets from pods "
        "between two readings is WARN. In between, and while too little comes, N/A.",
        "felix/bpf/tc; felix/bpf-gpl/fib.h; felix/bpf/counters",
        of_node=shortcut.active,
    ),
    Check(
        "E5",
        "underlay-limit",
        "Does the underlay or the provider limit bandwidth?",
        "No setting of Calico's makes traffic between nodes faster.",
        ("traffic", "cloud"),
        "Between two nodes' own addresses: on AWS one stream at 4.5 to 5.1 Gbit/s and many well "
        "above it is WARN (its limit of a connection). A full NIC or a full processor is OK. "
        "Neither, and many streams no faster than one, is WARN. N/A unless asked.",
        PAGE,
        of_cluster=traffic.underlay,
        ebpf=False,
    ),
    Check(
        "E6",
        "pod-gap",
        "Do pods carry what their hosts carry?",
        "Pods are slower than programs on the nodes.",
        ("pod-gap", "ippools", "pods"),
        "By medians of unpaced TCP in a campaign: at least 95 % of the hosts' is OK, 80 to 95 % is "
        "WARN, less is FAIL. N/A without a campaign, and where the nodes share one kernel.",
        "derived",
        of_cluster=traffic.pod_gap,
        ebpf=False,
    ),
    Check(
        "E7",
        "mtu",
        "Do pods' packets fit, and fill what fits?",
        "Small requests work and large transfers stall; or bulk traffic is slow.",
        ("links", "mtu-file", "nodes", "routes", "cloud", *_FELIX),
        "A pod's MTU above the NIC's less what encapsulations in use add is FAIL, and so is a "
        "tunnel device's. More than 10 bytes below it is WARN, but not what is kept free by a "
        "setting for the VXLAN of node ports (at most 50 bytes), nor for WireGuard on Azure. A "
        "node's address on the loopback device is carried by the default routes' NICs.",
        "felix/dataplane/linux/int_dataplane.go, determinePodMTU",
        of_node=mtu.mtus,
        preflight=True,
    ),
    Check(
        "E8",
        "offloads",
        "Does the NIC handle many packets at once?",
        "Bulk traffic takes much processor time, at whatever dataplane.",
        ("machine", "felixconfigurations", "ippools", "pods"),
        "TSO, GSO or (not of veth) GRO of the NIC, or of what it stands on, off is WARN, but not "
        "what its driver does not have; and so is bpfDisableGROForIfaces that matches it.",
        "felix/config/config_params.go, v3.27.0",
        of_node=devices.offloads,
        ebpf=False,
        preflight=True,
    ),
    Check(
        "E9",
        "latency",
        "Where does delay come from?",
        "Requests take long though bandwidth is good.",
        (),
        "N/A: a campaign measures it.",
        "derived",
        of_cluster=machine.latency,
        ebpf=False,
    ),
    Check(
        "E10",
        "program-cost",
        "What do Calico's programs cost for a packet?",
        "Processors are busy with softirqs.",
        ("settings", "counts"),
        "OK with nanoseconds where kernel.bpf_stats_enabled is 1 and packets came; else N/A.",
        "Troubleshoot eBPF mode, v3.32; include/uapi/linux/bpf.h",
        of_node=machine.program_cost,
    ),
    Check(
        "E11",
        "processors",
        "Are processors the node's own, at speed, and do interrupts share them?",
        "Numbers differ from run to run, or one core is full.",
        ("statistics", "machine"),
        "More than 2 % steal is WARN; and so are the governor powersave of a driver that does not "
        "scale by itself, and a NIC whose several queues interrupt one processor alone.",
        "derived",
        of_node=machine.processors,
        ebpf=False,
        preflight=True,
    ),
    Check(
        "E12",
        "hidden-packets",
        "Does tcpdump on the node see pods' packets?",
        "tcpdump on a cali… device shows nothing while traffic flows.",
        ("links", "felixconfigurations", "felix-process", "nodes"),
        "Says whether packets are handed past the node's end of pods' devices; always OK.",
        "felix/config/config_params.go, v3.29.0",
        of_node=devices.hidden,
        since=(3, 29),
        why_not="programs hand no packet past a pod's device",
    ),
)
