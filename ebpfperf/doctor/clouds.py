"""Whose machine a node is, by what its firmware says of itself. Pure."""

from __future__ import annotations

from ebpfperf.doctor.case import Case

AWS, GCP, AZURE = "AWS", "Google Cloud", "Azure"
# /sys/class/dmi/id: what the clouds' own instance checks (cloud-init, ds-identify) look for.
_VENDORS = {
    "amazon ec2": AWS, "google": GCP, "google compute engine": GCP,
    "alibaba cloud": "Alibaba Cloud", "digitalocean": "DigitalOcean", "hetzner": "Hetzner",
}  # fmt: skip
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"


def cloud(case: Case, node: str) -> str:
    """``AWS``, ``Google Cloud``, ``Azure`` …; empty where it is none that is known; Missing."""
    return named(case.text("cloud", node))


def named(text: str) -> str:
    """The cloud of lines ``/sys/class/dmi/id/FILE:VALUE``; empty where it is none of them."""
    for line in text.splitlines():
        path, _, value = line.partition(":")
        plain = value.strip().lower()
        if path.endswith(("sys_vendor", "product_name")) and plain in _VENDORS:
            return _VENDORS[plain]
        # Machines of EC2 under Xen, which name Xen as their vendor.
        if path.endswith("/hypervisor/uuid") and plain.startswith("ec2"):
            return AWS
        if path.endswith("chassis_asset_tag") and plain == _AZURE_TAG:
            return AZURE
    return ""
