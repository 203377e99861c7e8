"""Which Calico release does what; what Felix's flags change in which is the table in ``flags``."""

from __future__ import annotations

import re

# The releases that the embedded cluster can present, and which patch release it says it is: one
# that the tables name as a source. Not v3.24 and v3.25, where each device and hook has a map of
# counters of its own, nor those before v3.16, whose fields and maps are known in part only.
FULL_VERSIONS = {
    "v3.16": "v3.16.1",
    "v3.17": "v3.17.4",
    "v3.18": "v3.18.0",
    "v3.19": "v3.19.0",
    "v3.20": "v3.20.0",
    "v3.21": "v3.21.0",
    "v3.22": "v3.22.0",
    "v3.23": "v3.23.0",
    "v3.26": "v3.26.1",
    "v3.27": "v3.27.0",
    "v3.28": "v3.28.0",
    "v3.29": "v3.29.0",
    "v3.30": "v3.30.2",
    "v3.31": "v3.31.7",
    "v3.32": "v3.32.1",
}

# felix/config/config_params.go and felix/calc/encapsulation_resolver.go: from this release on an
# unset ipipEnabled or vxlanEnabled means "on if a pool asks for it".
DERIVES_ENCAPSULATION_FROM = (3, 23)

# felix/dataplane/linux/int_dataplane.go (ConfigureDefaultMTUs): MTU 0 means automatic.
AUTO_MTU_FROM = (3, 17)

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


def minor(version: str) -> tuple[int, int]:
    """(major, minor) of ``v3.26``, ``v3.26.1`` or ``v3.34.0-0.dev+67``.

    Raises
    ------
    ValueError
        The text is no version.
    """
    match = _VERSION.match(version)
    if match is None:
        raise ValueError(f"{version!r} is not a Calico version such as v3.26.1")
    return int(match[1]), int(match[2])


def full_version(release: str) -> str:
    """The patch release that the lab presents for ``v3.26``; KeyError when it has none."""
    return FULL_VERSIONS[release]


def derives_encapsulation(version: str) -> bool:
    """Whether an unset encapsulation flag is derived from the IP pools (v3.23 and later)."""
    return minor(version) >= DERIVES_ENCAPSULATION_FROM
