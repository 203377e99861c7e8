"""Put a cluster back as its journal says it was, and read it back to be sure."""

from __future__ import annotations

from pathlib import Path

from ebpfperf.errors import KubeError, RestoreError
from ebpfperf.journal import Journal, Remembered
from ebpfperf.kube import Kube
from ebpfperf.mutations import Mutation, describe, is_ours
from ebpfperf.restoration import CREATED, Live, byte_equal, differences, restoration

GONE_S = 60.0


def restore_from_journal(journal: Path, *, overwrite: bool = False) -> tuple[str, ...]:
    """Sentences on what was put back, from nothing but the journal file; safe to repeat.

    What ``ebpfperf restore`` does after a crash or ``kill -9``. The cluster is reached by the
    paths in the journal.

    Raises
    ------
    RestoreError
        The journal cannot be read, belongs to another cluster, or a field cannot be put back.
    """
    book = Journal.load(journal)
    if book is None:
        return (f"Nothing to restore: {journal} does not exist, so no cluster was changed.",)
    if not book.is_open:
        return (f"Nothing to restore: the cluster was put back at {book.restored_utc}.",)
    try:
        kube = Kube.connect(book.ref.kubeconfig, book.ref.context)
    except KubeError as error:
        raise _later(book, error) from error
    try:
        return put_back(kube, book, overwrite=overwrite)
    finally:
        kube.close()


def put_back(kube: Kube, journal: Journal, *, overwrite: bool = False) -> tuple[str, ...]:
    """Sentences on what was put back; the journal is closed only after reading back.

    Parameters
    ----------
    overwrite
        Put the original value back also where somebody else changed the same field meanwhile.

    Raises
    ------
    RestoreError
        A conflict, or the API refused; what could be put back was, and the journal stays open.
    """
    if not journal.is_open or not journal.objects():
        return ()
    try:
        check_cluster(kube, journal)
        said, conflicts = _put_back(kube, journal, overwrite=overwrite)
    except KubeError as error:
        raise _later(journal, error) from error
    if conflicts:
        raise RestoreError(
            f"Not everything could be put back: {' '.join(conflicts)}",
            "Somebody else changed it meanwhile: put it right by hand, or run "
            "ebpfperf restore --force to overwrite it with the journal's value.",
            journal=str(journal.path),
            conflicts=list(conflicts),
        )
    journal.close()
    return said


def check_cluster(kube: Kube, journal: Journal) -> None:
    """Returns when this is the cluster the journal speaks of; RestoreError otherwise."""
    uid = kube.cluster_uid()
    if journal.cluster_uid is not None and uid != journal.cluster_uid:
        raise RestoreError(
            f"{journal.path} speaks of another cluster than the one at {kube.server}.",
            "Reach the right cluster, or, if that cluster no longer exists, delete the journal.",
            journal=str(journal.path),
        )


def _put_back(
    kube: Kube, journal: Journal, *, overwrite: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    objects = journal.objects()
    plan = restoration(
        objects,
        _live(kube, objects),
        namespace_empty=_only_ours(kube, journal),
        overwrite=overwrite,
    )
    said = list(plan.notes)
    for mutation in plan.mutations:
        kube.apply(mutation)
        said.append(f"{describe(mutation)}.")
        if mutation.verb == "delete" and not _gone(kube, mutation):
            said.append(f"{mutation.kind} {mutation.name} is still being deleted.")
    live = _live(kube, objects)
    left = () if plan.conflicts else _left(objects, live)
    for entry in objects:
        if entry.kind not in CREATED and byte_equal(entry, live[entry.key]):
            said.append(f"{entry.kind} {entry.name} is as it was, to the byte.")
    return tuple(said), (*plan.conflicts, *left)


def _left(objects: tuple[Remembered, ...], live: Live) -> tuple[str, ...]:
    """What is not as it was, apart from what is on its way out."""
    staying = {key: obj for key, obj in live.items() if not _ending(obj)}
    return differences(objects, {entry.key: staying.get(entry.key) for entry in objects})


def _ending(obj: object) -> bool:
    return isinstance(obj, dict) and bool(obj.get("metadata", {}).get("deletionTimestamp"))


def _live(kube: Kube, objects: tuple[Remembered, ...]) -> Live:
    return {entry.key: kube.get(entry.kind, entry.name, entry.namespace) for entry in objects}


def _only_ours(kube: Kube, journal: Journal) -> bool:
    namespace = journal.ref.namespace
    if not journal.knows("Namespace", namespace):
        return True
    return all(is_ours(pod) for pod in kube.pods(namespace))


def _gone(kube: Kube, mutation: Mutation) -> bool:
    try:
        kube.wait_gone(mutation.kind, mutation.name, mutation.namespace, timeout_s=GONE_S)
    except KubeError as error:
        if error.fields.get("reason") != "not-gone":
            raise
        return False
    return True


def _later(journal: Journal, error: KubeError) -> RestoreError:
    return RestoreError(
        f"The cluster could not be put back: {error.what}",
        f"Its former state is kept in {journal.path}; run ebpfperf restore "
        f"{journal.path.parent} when the API answers again.",
        journal=str(journal.path),
    )
