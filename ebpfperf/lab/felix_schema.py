"""Fields of FelixConfiguration by release, as the CustomResourceDefinitions of Calico have them.

Source: the published CRDs of the v3.16 and v3.30 lines, and the release notes in between for when
a field came or went. Names and types are Calico's; meaning and defaults are not repeated here.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

# From this minor release on, the CRD checks enumerations; before, Felix alone judged them.
CHECKED_SINCE = 23

# Go's durations: the CRD's own pattern escapes the dot twice, which lets "1.5s" through as well.
DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))*$"

_PORTS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "net": {"type": "string"},
            "port": {"type": "integer"},
            "protocol": {"type": "string"},
        },
        "required": ["port", "protocol"],
    },
}
_RANGE: Schema = {
    "type": "object",
    "properties": {"max": {"type": "integer"}, "min": {"type": "integer"}},
    "required": ["max", "min"],
}
_INT_OR_STRING: Schema = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "x-kubernetes-int-or-string": True,
}
_TYPES: dict[str, Schema] = {
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "str": {"type": "string"},
    "dur": {"type": "string", "pattern": DURATION},
    "port": _INT_OR_STRING,
    "ports": {"type": "array", "items": _INT_OR_STRING},
    "strs": {"type": "array", "items": {"type": "string"}},
    "map": {"type": "object", "additionalProperties": {"type": "string"}},
    "hostports": _PORTS,
    "range": _RANGE,
    "ranges": {"type": "array", "items": _RANGE},
    "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "timeouts": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "timeout": {"type": "string"}},
            "required": ["name", "timeout"],
        },
    },
}

# NAME TYPE [SINCE[-LAST]]: minor releases of v3; no SINCE: in every release served here.
# ``=A|B``: one of these, exactly. ``~A|B``: one of these in any case, or empty.
_FIELDS = """
allowIPIPPacketsFromWorkloads bool 19
allowVXLANPacketsFromWorkloads bool 19
awsSrcDstCheck =DoNothing|Enable|Disable
bpfAttachType =TC|TCX 31
bpfCTLBLogFilter str 27
bpfConnectTimeLoadBalancing =TCP|Enabled|Disabled 27
bpfConnectTimeLoadBalancingEnabled bool
bpfConntrackLogLevel ~Off|Debug 30
bpfConntrackMode ~Auto|Userspace|BPFProgram 30
bpfConntrackTimeouts any 30
bpfDSROptoutCIDRs strs 26
bpfDataIfacePattern str
bpfDisableGROForIfaces str 27
bpfDisableUnprivileged bool
bpfEnabled bool
bpfEnforceRPF ~Disabled|Strict|Loose 23
bpfExcludeCIDRsFromNAT strs 28
bpfExportBufferSizeMB int 30
bpfExtToServiceConnmark int 19
bpfExternalServiceMode ~Tunnel|DSR
bpfForceTrackPacketsFromIfaces strs 27
bpfHostConntrackBypass bool 26
bpfHostNetworkedNATWithoutCTLB =Enabled|Disabled 27
bpfJITHardening =Auto|Strict 31
bpfKubeProxyEndpointSlicesEnabled bool 15-31
bpfKubeProxyHealthzPort int 31
bpfKubeProxyIptablesCleanupEnabled bool
bpfKubeProxyMinSyncPeriod dur
bpfL3IfacePattern str 25
bpfLogFilters map 27
bpfLogLevel ~Off|Info|Debug
bpfMaglevMaxEndpointsPerService int 32
bpfMaglevMaxServices int 32
bpfMapSizeConntrack int 23
bpfMapSizeConntrackCleanupQueue int 30
bpfMapSizeConntrackScaling ~Disabled|DoubleIfFull 30
bpfMapSizeIPSets int 23
bpfMapSizeIfState int 24
bpfMapSizeNATAffinity int 23
bpfMapSizeNATBackend int 23
bpfMapSizeNATFrontend int 23
bpfMapSizePerCpuConntrack int 30
bpfMapSizeRoute int 23
bpfPSNATPorts port 21
bpfPolicyDebugEnabled bool 24
bpfProfiling =Enabled|Disabled 30
bpfRedirectToPeer =Disabled|Enabled|L2Only 29
cgroupV2Path str 31
chainInsertMode ~insert|append
dataplaneDriver str
dataplaneWatchdogTimeout str 19
debugDisableLogDropping bool
debugHost str 28
debugMemoryProfilePath str
debugPort int 28
debugSimulateCalcGraphHangAfter dur
debugSimulateDataplaneApplyDelay dur 29
debugSimulateDataplaneHangAfter dur
defaultEndpointToHostAction ~Drop|Accept|Return
deviceRouteProtocol int
deviceRouteSourceAddress str
deviceRouteSourceAddressIPv6 str 24
disableConntrackInvalidCheck bool
endpointReportingDelay dur
endpointReportingEnabled bool
endpointStatusPathPrefix str 27
externalNodesList strs
failsafeInboundHostPorts hostports
failsafeOutboundHostPorts hostports
featureDetectOverride str 18
featureGates str 26
floatingIPs =Enabled|Disabled 25
genericXDPEnabled bool
goGCThreshold int 28
goMaxProcs int 28
goMemoryLimitMB int 28
healthEnabled bool
healthHost str
healthPort int
healthTimeoutOverrides timeouts 25
interfaceExclude str
interfacePrefix str
interfaceRefreshInterval dur 18
ipForwarding =Enabled|Disabled 28
ipipEnabled bool
ipipMTU int
ipsetsRefreshInterval dur
iptablesBackend ~Auto|Legacy|NFT
iptablesFilterAllowAction ~Accept|Return
iptablesFilterDenyAction ~Drop|Reject 26
iptablesLockFilePath str
iptablesLockProbeInterval dur
iptablesLockTimeout dur
iptablesMangleAllowAction ~Accept|Return
iptablesMarkMask int
iptablesNATOutgoingInterfaceFilter str
iptablesPostWriteCheckInterval dur
iptablesRefreshInterval dur
ipv6Support bool
kubeNodePortRanges ports
logDebugFilenameRegex str 24
logFilePath str
logPrefix str
logSeverityFile ~Debug|Info|Warning|Error|Fatal
logSeverityScreen ~Debug|Info|Warning|Error|Fatal|Trace
logSeveritySys ~Debug|Info|Warning|Error|Fatal
maxIpsetSize int
metadataAddr str
metadataPort int
mtuIfacePattern str 17
natOutgoingAddress str
natOutgoingExclusions ~IPPoolsOnly|IPPoolsAndHostIPs 31
natPortRange port
netlinkTimeout dur
nftablesFilterAllowAction ~Accept|Return 29
nftablesFilterDenyAction ~Drop|Reject 29
nftablesMangleAllowAction ~Accept|Return 29
nftablesMarkMask int 29
nftablesMode =Disabled|Enabled|Auto 29
nftablesRefreshInterval str 29
nodeSelector str 32
openstackRegion str
policySyncPathPrefix str
programClusterRoutes =Enabled|Disabled 31
prometheusGoMetricsEnabled bool
prometheusMetricsEnabled bool
prometheusMetricsHost str
prometheusMetricsPort int
prometheusProcessMetricsEnabled bool
prometheusWireGuardMetricsEnabled bool 24
removeExternalRoutes bool
reportingInterval dur
reportingTTL dur
routeRefreshInterval dur
routeSource ~WorkloadIPs|CalicoIPAM
routeSyncDisabled bool 24
routeTableRange range
routeTableRanges ranges 23
serviceLoopPrevention ~Drop|Reject|Disabled 17
sidecarAccelerationEnabled bool
usageReportingEnabled bool
usageReportingInitialDelay dur
usageReportingInterval dur
useInternalDataplaneDriver bool
vxlanEnabled bool
vxlanMTU int
vxlanMTUV6 int 24
vxlanPort int
vxlanVNI int
windowsManageFirewallRules =Enabled|Disabled 26
wireguardEnabled bool
wireguardEnabledV6 bool 24
wireguardHostEncryptionEnabled bool 22
wireguardInterfaceName str
wireguardInterfaceNameV6 str 24
wireguardKeepAlive dur 24
wireguardListeningPort int
wireguardListeningPortV6 int 24
wireguardMTU int
wireguardMTUV6 int 24
wireguardRoutingRulePriority int
wireguardThreadingEnabled bool 30
workloadSourceSpoofing ~Disabled|Any 24
xdpEnabled bool
xdpRefreshInterval dur
"""


def felix_spec(minor: int) -> Schema:
    """The structural schema of ``FelixConfiguration.spec`` in release v3.``minor``."""
    properties = {}
    for line in _FIELDS.split("\n"):
        if not line:
            continue
        name, kind, *window = line.split()
        since, _, last = (window[0] if window else "0").partition("-")
        if int(since) <= minor <= int(last or minor):
            properties[name] = _field(kind, minor)
    return {"type": "object", "properties": properties}


def _field(kind: str, minor: int) -> Schema:
    words = kind[1:]
    if kind[0] not in "=~":
        schema = _TYPES[kind]
        if kind == "dur" and minor < CHECKED_SINCE:
            return {"type": "string"}
        return schema
    if minor < CHECKED_SINCE:
        return {"type": "string"}
    if kind[0] == "=":
        return {"type": "string", "enum": words.split("|")}
    return {"type": "string", "pattern": f"^(?i)({words})?$"}
