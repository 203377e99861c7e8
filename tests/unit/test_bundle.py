"""A bundle: what comes back of it, what it never holds, and files that are none."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from evidence_made import changed, healthy
from typer.testing import CliRunner

from ebpfperf import bundle, gathering_api, map_answers
from ebpfperf.cli import app
from ebpfperf.commands.bundle import _say
from ebpfperf.diagnosis import from_json
from ebpfperf.doctor import judge
from ebpfperf.errors import InputError, KubeError
from ebpfperf.evidence import Evidence, Item
from ebpfperf.evidence_secrets import TAKEN_OUT, without
from ebpfperf.evidence_sources import LOG_BEFORE, MAPS
from ebpfperf.gathering import entries_of_each
from ebpfperf.kube import Kube

UNREADABLE = "Connection refused"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "b.tar.gz"
    bundle.write(healthy(), path)
    return path


def odd() -> Evidence:
    """With bytes that are no text, an error, a lost node, and a name with a slash."""
    base = changed(healthy(), {("pins", "node-1"): b"\xff\xfe\0\n", ("log", "node-2"): "no\r\nend"})
    items = {
        **base.items,
        ("sockets", "node-2"): Item("sockets", "node-2", "ss", "", error="ss: not there"),
        ("a/b", "n/ö"): Item("a/b", "n/ö", "x", "", b"1", 1),
    }
    return Evidence.of(
        items.values(),
        nodes=(*base.nodes, "node-3"),
        release=base.release,
        taken_utc=base.taken_utc,
        seconds=2.5,
        lost={"node-3": UNREADABLE},
    )


def test_what_was_written_comes_back_byte_by_byte(tmp_path: Path) -> None:
    evidence = odd()
    bundle.write(evidence, tmp_path / "b")
    assert bundle.read(tmp_path / "b") == evidence


def test_the_diagnosis_is_the_same_by_way_of_a_bundle(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    bundle.write(odd(), path)
    for place, evidence in ((written, healthy()), (path, odd())):
        direct = judge.diagnose(evidence, from_bundle=True)
        assert len(direct.results) == len(judge.CHECKS)
        assert judge.diagnose(bundle.read(place), from_bundle=True) == direct


def test_only_its_owner_can_read_it_and_nothing_else_is_left(written: Path) -> None:
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert os.listdir(written.parent) == [written.name]


def test_a_file_that_is_there_stays_unless_told(written: Path) -> None:
    before = written.read_bytes()
    with pytest.raises(FileExistsError):
        bundle.write(odd(), written)
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]
    bundle.write(odd(), written, force=True)
    assert bundle.read(written) == odd()


# ---------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "line",
    [
        "FELIX_ETCDPASSWORD=hunter2",
        "EtcdPassword = hunter2",
        '{"name":"CALICO_API_TOKEN","value":"hunter2"}',
        '{"name": "IP_SECRET", "value": "a \\"hunter2\\" b"}',
        '{"clientSecret":"hunter2","a":1}',
        'Config EtcdPassword="hunter2" from env',
        "Authorization: Bearer hunter2hunter2hunter2",
        "endpoint https://user:hunter2@etcd.example:2379/",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n",
        "calico-node --etcd-password hunter2 -felix",
        "endpoint https://hunter2@etcd.example:2379/",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        '{"client-key-data":"hunter2"}',
        "X-Api-Key: hunter2",
        '{"note":"{\\"password\\":\\"hunter2\\"}"}',
        "TYPHA_PSK=hunter2",
        "using eyJhbGciOiJSUzI1NiJ9.eyJhbGciOiJub25lIn0hunter2.c2lnbmF0dXJl",
        "id AKIAIOSFODNN7EXAMPLE",
    ],
)
def test_secrets_are_taken_out(line: str) -> None:
    found = without(line.encode()).decode()
    assert "hunter2" not in found
    assert "AKIA" not in found
    assert TAKEN_OUT in found
    if line.startswith("{"):
        assert list(json.loads(found)) == list(json.loads(line))


@pytest.mark.parametrize(
    "line",
    [
        '{"secretName":"web-tls","automountServiceAccountToken":false,"token":5}',
        '{"name":"FELIX_BPFENABLED","value":"true"}',
        "FELIX_ETCDKEYFILE=/certs/key.pem",
        "2026-11-29 18:20:23.183 [INFO][101] felix/daemon.go 386: Felix starting up",
        '"imagePullSecrets":[{"name":"pull"}]',
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert without(line.encode()).decode() == line


def test_no_secret_is_in_a_bundle(tmp_path: Path) -> None:
    evidence = changed(
        healthy(),
        {("felix-process", "node-1"): "==> environment <==\nFELIX_ETCDPASSWORD=hunter2\n"},
    )
    bundle.write(evidence, tmp_path / "b")
    assert b"hunter2" not in gzip.decompress((tmp_path / "b").read_bytes())


# -------------------------------------------------------------------------- files that are none


def archive(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return path


def index(**fields: Any) -> dict[str, bytes]:
    whole = {
        "schema": 1, "taken_utc": "", "calico_release": "", "nodes": [], "seconds": 0,
        "lost": {}, "pseudonyms": False, "items": [], **fields,
    }  # fmt: skip
    return {"index.json": json.dumps(whole).encode()}


ROW = {"source": "a", "node": "", "asked": "", "taken_utc": "", "status": None, "error": "",
       "file": "items/0"}  # fmt: skip


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        bundle.read(path)
    assert str(path) in caught.value.what
    assert "\n" not in caught.value.what
    return caught.value


def test_an_empty_index_is_read(tmp_path: Path) -> None:
    assert bundle.read(archive(tmp_path / "b", index())).nodes == ()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no index.json"),
        (index(schema="1"), "schema is '1'"),
        ({"index.json": b"[]"}, "no object"),
        ({"index.json": b"{"}, "no JSON"),
        ({"index.json": b"\xff"}, "no text"),
        ({"index.json": b"[" * 100_000}, "no JSON"),
        (index(nodes="node-1"), "no right nodes"),
        (index(nodes=[1]), "no names"),
        (index(lost={"a": None}), "no names"),
        (index(items=[1]), "no object"),
        (index(items=[{}]), "no right source"),
        (index(items=[ROW]), "items/0 is missing"),
        ({**index(items=[{**ROW, "status": "0"}]), "items/0": b""}, "status is no number"),
        ({**index(), "../../etc/passwd": b""}, "'../../etc/passwd'"),
        ({**index(), "/etc/passwd": b""}, "'/etc/passwd'"),
        ({**index(), "items/../../x": b""}, "'items/../../x'"),
        ({**index(), "readme": b""}, "'readme'"),
    ],
)  # fmt: skip
def test_what_is_no_bundle_is_refused_with_its_reason(
    tmp_path: Path, files: Mapping[str, bytes], said: str
) -> None:
    assert said in refused(archive(tmp_path / "b", files)).what


def test_a_newer_schema_says_that_a_newer_version_reads_it(tmp_path: Path) -> None:
    error = refused(archive(tmp_path / "b", index(schema=2)))
    assert "schema is 2, and this version reads 1" in error.what
    assert "newer ebpfperf" in error.remedy


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b", "w:gz") as made:
        entry = tarfile.TarInfo("items/0")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(entry)
    assert "'items/0' in it is a link" in refused(tmp_path / "b").what


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def text(data: bytes) -> bytes:
    return b"hello\n"


def nothing(data: bytes) -> bytes:
    return b""


def gzip_of_text(data: bytes) -> bytes:
    return gzip.compress(b"hello\n" * 1000)


@pytest.mark.parametrize("change", [cut, flipped, text, nothing, gzip_of_text])
def test_damaged_and_foreign_files_are_refused(
    written: Path, change: Callable[[bytes], bytes]
) -> None:
    written.write_bytes(change(written.read_bytes()))
    refused(written)


def test_no_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert "no file" in refused(tmp_path / "none").what
    refused(tmp_path)


def test_what_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MOST_BYTES", 1_000_000)
    few = archive(tmp_path / "few", {**index(), "items/0": bytes(900_000)})
    assert bundle.read(few).nodes == ()
    many = archive(
        tmp_path / "many", {**index(), "items/0": bytes(600_000), "items/1": bytes(600_000)}
    )
    assert many.stat().st_size < 10_000
    assert "more than" in refused(many).what
    # A file whose header says more than there may be.
    assert "more than" in refused(archive(tmp_path / "one", {"items/0": bytes(1_100_000)})).what
    monkeypatch.setattr(bundle, "MOST_FILES", 3)
    names = {f"items/{number}": b"" for number in range(4)}
    assert "more than" in refused(archive(tmp_path / "names", names)).what


def test_maps_do_not_unpack_to_more_than_they_say(tmp_path: Path) -> None:
    answer = healthy().items[MAPS, "node-1"].content
    line, _, packed = answer.partition(b"\n")
    content = zlib.decompress(packed)
    assert map_answers.unpacked(answer)[1] == content
    for other in (content + b"\0", content[:-1], content + bytes(10_000_000)):
        with pytest.raises(ValueError, match="not as long"):
            map_answers.unpacked(line + b"\n" + zlib.compress(other))
    head = json.loads(line)
    head["maps"][0]["sizes"] = [map_answers.MOST_BYTES, 1]
    with pytest.raises(ValueError, match="bytes"):
        map_answers.unpacked(json.dumps(head).encode() + b"\n" + packed)


# ------------------------------------------------------------------------------ the commands


def doctor(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["doctor", *arguments])
    if isinstance(done.exception, InputError):
        return done.exception.exit_status, "", str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_doctor_judges_a_bundle_and_says_of_when_it_is(written: Path) -> None:
    status, out, _ = doctor("--bundle", str(written), "--json")
    found = from_json(json.loads(out))
    assert found == judge.diagnose(healthy(), from_bundle=True)
    assert status == judge.exit_status(found)
    _, out, _ = doctor("--bundle", str(written))
    day, _, time = healthy().taken_utc.rstrip("Z").partition("T")
    assert f"from a bundle of {day} {time}" in out


def test_doctor_judges_a_part_of_a_bundle(written: Path) -> None:
    _, out, _ = doctor("--bundle", str(written), "--node", "node-2", "--check", "A4", "--json")
    found = json.loads(out)
    assert [each["id"] for each in found["results"]] == ["A4"]
    assert [each["node"] for each in found["results"][0]["outcomes"]] == ["node-2"]
    status, _, said = doctor("--bundle", str(written), "--node", "node-9")
    assert (status, said) == (2, "The bundle has no node node-9. It has node-1, node-2.")


def test_doctor_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    status, _, said = doctor("--bundle", str(tmp_path / "x"))
    assert status == 2
    assert "is no bundle of evidence" in said


def test_what_could_not_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b"
    bundle.write(healthy(), path)
    assert _say(healthy(), path) == 0
    assert capsys.readouterr().err == ""
    head, _, packed = healthy().items[MAPS, "node-1"].content.partition(b"\n")
    told = json.loads(head)
    told["maps"][0]["cut"] = True
    count = told["maps"][0]["sizes"][0] // told["maps"][0]["key_bytes"]
    evidence = odd()
    evidence = changed(evidence, {(MAPS, "node-1"): json.dumps(told).encode() + b"\n" + packed})
    assert _say(evidence, path) == 1
    said = capsys.readouterr().err
    assert "node-3: Connection refused" in said
    assert "node-2, sockets: ss: not there" in said
    assert f"node-1, cali_v4_nat_fe3: only {count} entries were read" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--names", "n"], "Give --pseudonyms"),
        (["-o", "there"], "there exists"),
        (["-o", "no/b"], "no directory"),
        (["-o", "."], "is a directory"),
        (["-o", "b", "--pseudonyms", "--names", "there"], "there exists"),
    ],
)
def test_before_a_cluster_is_asked_it_is_known_where_the_bundle_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("mine")
    done = CliRunner().invoke(app, ["bundle", *arguments, "--kubeconfig", "none"])
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
    assert (tmp_path / "there").read_text() == "mine"


def test_the_more_nodes_the_fewer_entries_of_each() -> None:
    assert entries_of_each(0) == entries_of_each(1) == 600_000
    assert [entries_of_each(nodes) * nodes for nodes in (10, 100)] == [3_000_000, 3_000_000]
    assert entries_of_each(5000) == 20_000


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        (["node-1", "node-1"], "one is there twice"),
        ([f"node-{number}" for number in range(20_001)], "more than 20000"),
        (["node-1", "\x1b[2J"], "cannot be printed"),
        (["node-1", "two\nlines"], "cannot be printed"),
    ],
)
def test_nodes_that_no_cluster_has_are_refused(
    tmp_path: Path, nodes: list[str], words: str
) -> None:
    bundle.write(replace(healthy(), nodes=tuple(nodes)), tmp_path / "b")
    with pytest.raises(InputError, match=words):
        bundle.read(tmp_path / "b")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_seconds_that_are_no_time_are_refused(tmp_path: Path, seconds: float) -> None:
    bundle.write(replace(healthy(), seconds=seconds), tmp_path / "b")
    with pytest.raises(InputError, match="no time"):
        bundle.read(tmp_path / "b")


def test_more_than_can_be_read_again_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MOST_BYTES", 100_000)
    with pytest.raises(InputError, match="more than the 0 MB") as refused:
        bundle.write(healthy(), tmp_path / "b")
    assert "--node" in refused.value.remedy
    assert os.listdir(tmp_path) == []


class Restarted:
    """An API with the log of a calico-node before its restart, or that refuses it."""

    def __init__(self, error: KubeError | None = None) -> None:
        self.error = error
        self.asked: list[Any] = []

    def logs(self, *given: Any, **named: Any) -> str:
        self.asked.append((given, named))
        if self.error:
            raise self.error
        return "panic: before\n"


def restarted(times: int) -> dict[str, Any]:
    """A calico-node pod that was restarted so often."""
    return {
        "metadata": {"namespace": "calico-system", "name": "calico-node-x"},
        "status": {"containerStatuses": [{"name": "calico-node", "restartCount": times}]},
    }


def test_the_log_before_a_restart_is_kept_where_there_was_one() -> None:
    api = Restarted()
    (item,) = gathering_api._log_before(cast(Kube, api), "node-1", restarted(2), 4000)
    assert (item.source, item.node, item.content) == (LOG_BEFORE, "node-1", b"panic: before\n")
    assert "--previous -n calico-system calico-node-x -c calico-node" in item.asked
    ((given, named),) = api.asked
    assert given == ("calico-system", "calico-node-x")
    assert named["previous"] is True
    assert named["container"] == "calico-node"
    for pod in (restarted(0), None):
        assert gathering_api._log_before(cast(Kube, api), "node-1", pod, 4000) == []
    refused = cast(Kube, Restarted(KubeError("It is gone.")))
    (item,) = gathering_api._log_before(refused, "node-1", restarted(1), 4000)
    assert (item.content, item.error) == (b"", "It is gone.")


class Guarded:
    """An API that says so much of itself, and refuses the rest."""

    def __init__(self, refuses: int = 0, says: str | None = None) -> None:
        self.refuses, self.says = refuses, says
        self.lists = 0

    def release(self) -> str | None:
        if self.refuses:
            raise KubeError("You may not.", status=self.refuses)
        return self.says

    def calico_node_pods(self) -> dict[str, Any]:
        self.lists += 1
        if self.refuses:
            raise KubeError("You may not.", status=self.refuses)
        metadata = {"namespace": "calico-system", "name": "calico-node-x"}
        spec = {"containers": [{"name": "calico-node"}]}
        return {f"node-{n}": {"metadata": metadata, "spec": spec} for n in range(1, 50)}

    def logs(self, *given: Any, **named: Any) -> str:
        return f"{named['tail_lines']} of {named['container']}\n"


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("docker.io/calico/node:v3.26.1", "v3.26.1"),
        ("quay.io/calico/node:v3.30.0@sha256:0", "v3.30.0"),
        ("rancher/mirrored-calico-node:v3.27.2", "v3.27.2"),
        ("registry.k8s.io/kindest/node:v1.30.0-calico", ""),
        ("calico/node:master", ""),
    ],
)
def test_a_release_that_may_not_be_read_is_the_images(image: str, release: str) -> None:
    containers = [{"name": "calico-node", "image": image}]
    daemonset = {
        "metadata": {"name": "calico-node"},
        "spec": {"template": {"spec": {"containers": containers}}},
    }
    name = "calico-node" if "kindest" not in image else "other"
    daemonset["metadata"] = {"name": name}
    items = [Item("daemonsets", "", "", "", json.dumps([daemonset]).encode())]
    for api in (Guarded(403), Guarded()):
        assert gathering_api.release_of(cast(Kube, api), items) == release
    assert gathering_api.release_of(cast(Kube, Guarded(says="v3.20.0")), items) == "v3.20.0"
    assert gathering_api.release_of(cast(Kube, Guarded(403)), []) == ""


def test_logs_of_many_nodes_take_one_list_of_pods_and_are_bounded() -> None:
    api = Guarded()
    names = [f"node-{number}" for number in range(1, 51)]
    items = gathering_api.logs(cast(Kube, api), names, before=False)
    assert api.lists == 1
    assert [item.node for item in items] == names
    assert items[0].text == "4000 of calico-node\n"
    assert items[-1].error == "there is no calico-node pod on it"
    assert gathering_api.log_lines_of_each(5000) == 400
    refused = gathering_api.logs(cast(Kube, Guarded(403)), names[:2], before=True)
    assert [(item.node, item.error) for item in refused] == [
        ("node-1", "You may not."), ("node-2", "You may not.")]  # fmt: skip


class Groups(Kube):
    """An API that answers for Calico's groups with these statuses; 200: it has them."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.server, self._calico_group, self._classes = "https://here", None, {}

    def ippools(self) -> list[Any]:
        status = self.statuses.pop(0)
        if status != 200:
            raise KubeError(f"The API says {status}.", status=status)
        return []


def test_a_group_that_may_not_be_read_leaves_the_other() -> None:
    assert Groups(403, 200)._group() == ("crd.projectcalico.org", "v1")
    assert Groups(200)._group() == ("projectcalico.org", "v3")
    for statuses in ((403, 404), (404, 403), (403, 403)):
        with pytest.raises(KubeError, match="says 403"):
            Groups(*statuses)._group()
    with pytest.raises(KubeError, match="serves no Calico resources"):
        Groups(404, 404)._group()
