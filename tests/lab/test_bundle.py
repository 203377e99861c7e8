"""A bundle of a live cluster: what is in it, and the same diagnosis from it as live."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from lab.namespaces import eventually
from typer.testing import CliRunner

from ebpfperf import bundle, gathering
from ebpfperf.cli import app
from ebpfperf.commands import bundle as command
from ebpfperf.diagnosis import from_json
from ebpfperf.doctor import judge
from ebpfperf.errors import KubeError
from ebpfperf.evidence import Evidence
from ebpfperf.evidence_sources import API_SOURCES, LOG, MAPS, NODE_SOURCES, SUPPORT_SOURCES
from ebpfperf.kube import Kube
from ebpfperf.lab.running import Lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def made(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evidence]:
    """A bundle as the command writes it, and the evidence that went into it."""
    path = tmp_path_factory.mktemp("bundle") / "b.tar.gz"
    kept: list[Evidence] = []
    original = gathering.gather

    def gather(*given: object, **named: object) -> Evidence:
        kept.append(original(*given, **named))  # type: ignore[arg-type]
        return kept[-1]

    where = ["--kubeconfig", str(lab.kubeconfig), "--ssh-config", str(lab.ssh_config)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "gather", gather)
        done = CliRunner().invoke(app, ["bundle", *where, "--for", "0.5", "-o", str(path)])
    assert done.exit_code in (0, command.PARTIAL), done.output
    assert str(path) in done.stdout
    return path, kept[0]


def test_everything_is_in_it(lab: Lab, made: tuple[Path, Evidence]) -> None:
    evidence = bundle.read(made[0])
    names = [node.name for node in lab.nodes]
    assert list(evidence.nodes) == names
    for source in API_SOURCES:
        assert evidence.item(source.name) is not None, source.name
    for name in names:
        for wanted in (*NODE_SOURCES, *SUPPORT_SOURCES):
            item = evidence.item(wanted.name, name)
            assert item is not None, wanted.name
            assert item.error == "", wanted.name
        assert evidence.items[LOG, name].content
        assert evidence.items[MAPS, name].content
        assert isinstance(json.loads(evidence.items["programs", name].text), list)


def test_the_diagnosis_is_that_of_the_evidence_itself(made: tuple[Path, Evidence]) -> None:
    path, evidence = made
    live = judge.diagnose(evidence)
    done = CliRunner().invoke(app, ["doctor", "--bundle", str(path), "--json"])
    found = from_json(json.loads(done.stdout))
    assert found == replace(live, from_bundle=True)
    assert done.exit_code == judge.exit_status(live)


def test_a_bundle_with_pseudonyms_names_nothing_true(
    lab: Lab, made: tuple[Path, Evidence], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Gathered once is enough.
    monkeypatch.setattr(gathering, "gather", lambda *given, **named: made[1])
    path, names = tmp_path / "p.tar.gz", tmp_path / "names.json"
    where = ["--kubeconfig", str(lab.kubeconfig), "--ssh-config", str(lab.ssh_config)]
    asked = ["bundle", *where, "--for", "0", "-o", str(path), "--pseudonyms", "--names", str(names)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code in (0, command.PARTIAL), done.output
    given = json.loads(names.read_text())
    assert names.stat().st_mode & 0o777 == path.stat().st_mode & 0o777 == 0o600
    evidence = bundle.read(path)
    assert evidence.pseudonyms
    with closing(Kube.connect(str(lab.kubeconfig))) as kube:
        true = {node["metadata"]["name"] for node in kube.nodes()}
    assert {given[name] for name in evidence.nodes} == true
    whole = b"".join(item.content for item in evidence)
    for item in evidence:
        whole += f"{item.node} {item.asked} {item.error}\n".encode()
    for name in true:
        # As a word: a pod's pseudonym may well be calico-node-142ba.
        found = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])".encode(), whole)
        assert found is None, whole[found.start() - 80 : found.end() + 80]


def test_the_log_before_a_restart_is_asked_for(lab: Lab) -> None:
    with closing(Kube.connect(str(lab.kubeconfig))) as kube:
        pod = kube.calico_node_pod(lab.nodes[0].name)
        assert pod is not None
        meta = pod["metadata"]
        where = meta["namespace"], meta["name"]
        # The lab has one log only, and gives that; a lab that is new may have none yet.
        text = eventually("a line", lambda: kube.logs(*where, tail_lines=1, previous=True))
        assert "felix/" in text
        assert text.count("\n") == 1
        with pytest.raises(KubeError, match="earlier log"):
            kube.logs(meta["namespace"], "none", previous=True)
