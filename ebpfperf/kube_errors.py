"""What the API's refusals mean: exception → one sentence what, one what to do. Pure."""

from __future__ import annotations

import re

import httpx2
from lightkube.core.exceptions import ApiError, ConfigError

from ebpfperf.errors import KubeError

CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verify failed", re.IGNORECASE)
FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"'
    r'(?: in API group "(?P<group>[^"]*)")?'
)


def worth_another_try(error: Exception) -> bool:
    """Whether the connection failed in a way that may pass; a refused certificate does not."""
    return isinstance(error, httpx2.TransportError) and not CERTIFICATE.search(str(error))


def kube_error(
    error: httpx2.HTTPError | ConfigError, doing: str, server: str, kubeconfig: str | None
) -> KubeError:
    """The error of the house for what the client raised while ``doing`` something."""
    if isinstance(error, ApiError):
        return _refused(error, doing, server)
    if isinstance(error, httpx2.HTTPStatusError):
        status = error.response.status_code
        return KubeError(
            f"{server} answered {status} without a Kubernetes status ({doing}).",
            "Is this the address of a Kubernetes API? Check the kubeconfig and any proxy.",
            status=status,
            reason="not-kubernetes",
        )
    if isinstance(error, ConfigError):
        return KubeError(
            f"The credentials of the kubeconfig cannot be used: {error}.",
            "Does kubectl get nodes work with it? Refresh the login.",
            reason="credentials",
        )
    if CERTIFICATE.search(str(error)):
        return KubeError(
            f"{server} shows a certificate that the kubeconfig's authority did not sign.",
            f"Check certificate-authority in {kubeconfig or 'the kubeconfig'}.",
            reason="certificate",
        )
    cause = "did not answer in time" if isinstance(error, httpx2.TimeoutException) else str(error)
    return KubeError(
        f"The API at {server} cannot be reached ({doing}): {cause or type(error).__name__}.",
        "Is the cluster up, and is this its kubeconfig? Try kubectl get nodes.",
        reason="unreachable",
    )


def _refused(error: ApiError, doing: str, server: str) -> KubeError:
    status = error.status
    code = status.code or 0
    message = (status.message or status.reason or "no reason given").rstrip(".")
    what, remedy = f"The API refused to {doing}: {message}.", ""
    if code == 401:
        what = f"The API at {server} does not accept the kubeconfig's credentials ({doing})."
        remedy = "Refresh the login; kubectl get nodes must work with the same kubeconfig."
    elif code == 403:
        match = FORBIDDEN.search(message)
        if match:
            resource = ".".join(filter(None, (match["resource"], match["group"])))
            what = f"User {match['user']} may not {match['verb']} {resource} ({doing})."
            remedy = f"Grant the verb {match['verb']} on {resource} with a ClusterRole and binding."
        else:
            remedy = "Grant the missing verb with a ClusterRole and binding."
    elif code == 409:
        remedy = "Somebody else changed or created it at the same moment; run again."
    elif code == 422 or code == 400:
        remedy = "The field or value does not exist in this release of Calico."
    return KubeError(what, remedy, status=code, reason=status.reason or "")
