"""``ebpfperf import iperf3``: arms, flows and trials of files, and one JSON object a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from iperf3_made import Test, Way, printed, streamed
from typer.testing import CliRunner, Result

from ebpfperf import importing
from ebpfperf.cli import app
from ebpfperf.errors import InputError
from ebpfperf.importing import Entry
from ebpfperf.loads import iperf3_document
from ebpfperf.loads.reasons import Reason
from ebpfperf.model import Design, Direction, Flow, Overlay, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.store import Store

RECORDED = Path(__file__).parents[1] / "recorded" / "iperf3"
CASES: list[dict[str, Any]] = json.loads((RECORDED / "cases.json").read_text())
KEYS = (
    "file status reason version protocol reverse bidir streams sent_bits_per_s "
    "received_bits_per_s reverse_sent_bits_per_s reverse_received_bits_per_s lost_pct retransmits"
).split()

Import = Callable[..., Result]


@pytest.fixture
def run() -> Import:
    return lambda *words: CliRunner().invoke(app, ["import", "iperf3", *map(str, words)])


def objects(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.output.splitlines()]


def made(
    path: Path,
    *,
    bits_per_s: int = 8000,
    started_s: int = 1,
    cookie: str = "",
    test: Test | None = None,
) -> Path:
    count = bits_per_s // 8
    document = json.loads(
        printed(test or Test("3.12", [Way([[count, count]], 2 * count, 2 * count)]))
    )
    document["start"]["timestamp"]["timesecs"] = started_s
    document["start"]["cookie"] = cookie or str(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_json_prints_one_object_a_file_with_exactly_its_keys(run: Import) -> None:
    files = [str(RECORDED / case["file"]) for case in CASES]
    found = objects(run("--json", *files))
    assert [one["file"] for one in found] == files
    reasons = {"", *(reason.value for reason in Reason)}
    for one, case in zip(found, CASES, strict=True):
        assert list(one) == KEYS
        assert one["status"] == ("failed" if case["reason"] else "ok")
        assert one["reason"] in reasons
        assert (one["reason"] == "") == (one["status"] == "ok")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_json_says_what_the_document_says(case: dict[str, Any]) -> None:
    text = (RECORDED / case["file"]).read_bytes()
    read = iperf3_document.read(text, stderr=case["stderr"], status=case["exit"])
    one = importing.summary(case["file"], read)
    assert one["reason"] == case["reason"]
    if case["reason"]:
        # An interrupted client prints what it sent, and 0 for what arrived; a server its own side.
        server, sends = "_as_server_" in case["file"], one["reverse"]
        partial = case["reason"] == "interrupted"
        sides = [sends, not sends] if server else [True, True]
        known = [partial and side for side in (*sides, False, False, False, sides[0])]
        assert [one[key] is not None for key in KEYS[8:]] == known
        if partial and not server:
            assert one["sent_bits_per_s"] == pytest.approx(case["sent_bits_per_s"])
            assert one["retransmits"] == case["retransmits"]
        return
    ways = ["", "reverse_"] if one["bidir"] else [""]
    server = "_as_server_" in case["file"]
    for way in ways:
        known = [one[f"{way}{name}_bits_per_s"] is not None for name in ("sent", "received")]
        assert known == ([way == "reverse_", way == ""] if server and not one["reverse"] else known)
        assert any(known) if server else all(known)
    assert one["bidir"] == ("--bidir" in case["command"])
    assert one["reverse"] == (" -R" in case["command"])
    # Where the keys repeat, a plain loader has kept the second direction.
    way = "reverse_" if case["repeated_keys"] else ""
    for name in ("sent_bits_per_s", "received_bits_per_s"):
        if case[name] is not None:
            assert one[f"{way}{name}"] == pytest.approx(case[name])
    if not case["repeated_keys"] and case["protocol"]:
        assert one["retransmits"] == case["retransmits"]
        assert one["lost_pct"] == pytest.approx(case["lost_pct"])


def test_exit_status_and_standard_error_tell_the_rest(run: Import) -> None:
    # 3.9 says of a refused connection nothing but this.
    file, stderr = RECORDED / "v3.9__refused.json", "unable to send control message: Bad file"
    (alone,) = objects(run("--json", file))
    (told,) = objects(run("--json", file, "--exit-code", 1, "--stderr", stderr))
    assert (alone["reason"], told["reason"]) == ("no_end", "refused")
    good = RECORDED / "v3.12__tcp.json"
    (one,) = objects(run("--json", good, "--exit-code", 1))
    assert (one["status"], one["reason"]) == ("failed", "other")


def test_a_failed_test_still_says_what_its_document_counted(run: Import, tmp_path: Path) -> None:
    both = [Way([[1000]], 1000, 999, retransmits=3), Way([[500]], 600, 500)]
    datagrams = Way([[1000]], 1000, 750, packets=8, lost=2)
    for name, test in (
        ("old", Test("3.9", both)),
        ("new", Test("3.21", both)),
        ("reverse", Test("3.12", both[1:], reverse=True)),
        ("udp", Test("3.9", [datagrams], "UDP")),
    ):
        (tmp_path / f"{name}.json").write_bytes(printed(test))
    sound = objects(run("--json", tmp_path))
    killed = objects(run("--json", tmp_path, "--exit-code", -9))
    assert [one["reason"] for one in killed] == ["other"] * 4
    assert [{**one, "status": "ok", "reason": ""} for one in killed] == sound
    # But not where a direction was lost, or where the numbers contradict each other.
    whole = json.loads((tmp_path / "new.json").read_text())
    del whole["end"]["streams"][0]
    (tmp_path / "lost.json").write_text(json.dumps(whole))
    for words in ([], ["--exit-code", 1]):
        (lost,) = objects(run("--json", tmp_path / "lost.json", *words))
        assert [lost[key] for key in KEYS[8:]] == [None] * 6


def test_a_stream_of_events_is_as_good_as_a_document(run: Import, tmp_path: Path) -> None:
    test = Test("3.21", [Way([[1000]], 1000, 999), Way([[500]], 600, 500)])
    (tmp_path / "a.json").write_bytes(printed(test))
    (tmp_path / "b.json").write_bytes(streamed(test))
    one, other = objects(run("--json", tmp_path / "a.json", tmp_path / "b.json"))
    assert {**one, "file": ""} == {**other, "file": ""}
    assert one["reverse_received_bits_per_s"] == 4000


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "/nonexistent/file"],
        ["/nonexistent/file"],
        [],
        ["--arm", "a=/nonexistent/*"],
        ["--arm", "a"],
        [RECORDED, "--arm", "a=*/none-such-*"],
        [RECORDED, "--margin", "broad"],
        [RECORDED, "--margin", "0"],
        [RECORDED, "--link", "wide"],
        [RECORDED, "--overlay", "iperf3=gre"],
        [RECORDED, "--overlay", "other=vxlan"],
        [RECORDED, "--baseline", "other"],
        [RECORDED, "--path", "around"],
        [RECORDED, "--name", "No Name"],
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(
    run: Import, tmp_path: Path, words: list[Any]
) -> None:
    done = run(*words, "--out", tmp_path / "out")
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_status == 2
    assert done.exception.remedy
    assert not (tmp_path / "out").exists()


def test_a_campaign_that_the_analysis_reads(run: Import, tmp_path: Path) -> None:
    for number, (iptables, ebpf) in enumerate([(700, 1100), (800, 1200), (900, 1300)]):
        made(tmp_path / "in/Calico_iptables" / f"{number}.json", bits_per_s=iptables * 8)
        made(tmp_path / "in/ebpf" / f"{number}.json", bits_per_s=ebpf * 8)
    words = ["--out", tmp_path / "out", "--name", "mine", "--link", "40G", "--mtu", "1450"]
    words += ["--overlay", "ebpf=vxlan", "--baseline", "ebpf", "--margin", "3%"]
    done = run(tmp_path / "in", *words)
    assert done.exit_code == 0, done.output
    store = Store.open(tmp_path / "out")
    campaign = store.campaign
    assert (campaign.name, campaign.baseline, campaign.margin_pct) == ("mine", "ebpf", 3)
    assert (campaign.design, campaign.source) == (Design.INDEPENDENT, "iperf3")
    assert [(t.name, t.overlay) for t in campaign.treatments] == [
        ("calico-iptables", None),
        ("ebpf", Overlay.VXLAN),
    ]
    (speed,) = store.facts()
    assert (speed.node, speed.name, speed.value, speed.unit) == ("", "nic_speed", "40000", "Mbit/s")
    trials = store.frame("trials").set_index(["treatment", "block"])
    assert trials.loc["ebpf", "received_bits_per_s"].tolist() == [8800, 9600, 10400]
    assert trials.loc["calico-iptables", "received_bits_per_s"].tolist() == [5600, 6400, 7200]
    assert set(trials["mtu_bytes"]) == {1450}
    assert set(trials["sender_cpu_pct"]) == {12.5}
    assert set(trials["receiver_cpu_pct"]) == {25}
    assert set(trials["rtt_mean_ns"]) == {100_000}
    assert set(trials["snd_wnd_max_bytes"]) == {65536}
    kept = tmp_path / "out/trials/b001-ebpf-tcp/raw/iperf3.json"
    assert kept.read_bytes() == (tmp_path / "in/ebpf/1.json").read_bytes()
    compared = CliRunner().invoke(app, ["compare", str(tmp_path / "out"), "--json"])
    assert compared.exit_code == 0, compared.output
    (effect, *_) = [e for e in json.loads(compared.output) if e["metric"] == "received_bits_per_s"]
    assert effect["treatment"] == "calico-iptables"
    assert 700 / 1300 < effect["ratio"] < 900 / 1100


def test_again_adds_nothing_and_other_files_are_refused(run: Import, tmp_path: Path) -> None:
    made(tmp_path / "in/a/0.json", started_s=2)
    words = [tmp_path / "in", "--out", tmp_path / "out"]
    assert run(*words).exit_code == 0
    before = sorted(tmp_path.glob("out/trials/*/*"))
    assert run(*words).exit_code == 0
    assert sorted(tmp_path.glob("out/trials/*/*")) == before
    # A file that is earlier takes the first place: what is there would be another trial.
    made(tmp_path / "in/a/1.json", started_s=1)
    done = run(*words)
    assert isinstance(done.exception, InputError)
    assert "other files" in str(done.exception)
    shutil.rmtree(tmp_path / "out/trials")
    assert run(*words).exit_code == 0
    done = run(*words, "--margin", "9%")
    assert isinstance(done.exception, InputError)


def test_a_later_file_lengthens_what_is_there(run: Import, tmp_path: Path) -> None:
    made(tmp_path / "in/a/0.json", started_s=2)
    words = [tmp_path / "in", "--out", tmp_path / "out"]
    assert run(*words).exit_code == 0
    made(tmp_path / "in/a/1.json", started_s=3)
    assert run(*words).exit_code == 0
    assert Store.open(tmp_path / "out").completed() == {"b000-a-tcp", "b001-a-tcp"}


def test_a_file_that_cannot_be_read_is_a_failed_trial(run: Import, tmp_path: Path) -> None:
    made(tmp_path / "in/a/0.json")
    (tmp_path / "in/a/1.json").write_text("")
    shutil.copy(RECORDED / "v3.12__client_sigint_midtest.json", tmp_path / "in/a/2.json")
    done = run(tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    results = list(Store.open(tmp_path / "out").results())
    assert [result.status for result in results].count(Status.OK) == 1
    reasons = {result.reason.split(":")[0]: result for result in results if result.reason}
    assert set(reasons) == {"empty", "interrupted"}
    assert all(not result.metrics for result in reasons.values())
    # The one that was interrupted says its flow; the empty file does not, and there are two.
    assert reasons["interrupted"].trial.flow.duration_s == 6
    assert reasons["empty"].trial.flow.name == "unreadable"
    assert reasons["empty"].start_utc == ""
    assert "empty: " in done.output
    assert len(Store.open(tmp_path / "out").frame("trials")) == 3


def test_one_test_is_one_trial_whoever_printed_it(run: Import, tmp_path: Path) -> None:
    client = made(tmp_path / "in/a/client.json", cookie="same")
    document = json.loads(client.read_text())
    document["start"]["accepted_connection"] = document["start"].pop("connecting_to")
    for part in (document["end"], *document["end"]["streams"], *document["intervals"]):
        for total in part.values():
            if isinstance(total, dict) and "sender" in total:
                total["sender"] = False
    for stream in [s for i in document["intervals"] for s in i["streams"]]:
        stream["sender"] = False
    server = tmp_path / "in/a/a-server.json"
    server.write_text(json.dumps(document))
    assert iperf3_document.read(server.read_bytes()).reason is None
    shutil.copy(client, tmp_path / "in/a/copy.json")
    done = run(tmp_path / "in", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (result,) = Store.open(tmp_path / "out").results()
    assert {fact.name: fact.value for fact in result.facts}[importing.FROM] == str(client)
    assert done.output.count("is left out") == 2


def test_patterns_find_files_by_themselves(run: Import, tmp_path: Path) -> None:
    for cni in ("calico", "calico-ebpf"):
        for number in (1, 2):
            made(tmp_path / f"results/{cni}/{number}/dts-client.stdout", started_s=number)
    words = ["--arm", f"a={tmp_path}/results/calico/*/dts-*"]
    words += ["--arm", f"b={tmp_path}/results/calico-ebpf/*/dts-*"]
    assert run(*words, "--out", tmp_path / "out").exit_code == 0
    assert Store.open(tmp_path / "out").completed() == {
        f"b00{block}-{arm}-tcp" for block in (0, 1) for arm in "ab"
    }
    # Without them both calico/1 and calico-ebpf/1 would be the arm "1".
    done = run(tmp_path / "results", "--out", tmp_path / "other")
    assert isinstance(done.exception, InputError)
    assert "--arm" in done.exception.remedy


def entry(file: str, *, arm: str = "a", started_s: int | None = 0, **fields: Any) -> Entry:
    flow = Flow("", FlowPath.POD_POD, "tcp", **fields)
    return Entry(file, arm, flow, started_s=started_s)


def test_blocks_count_in_the_order_of_time_within_arm_and_flow() -> None:
    entries = [
        entry("z", started_s=3),
        entry("y", started_s=1),
        entry("x", arm="b", started_s=2),
        entry("w", streams=8, started_s=5),
        entry("b", started_s=None),
        entry("a", started_s=None),
        entry("v", started_s=3),
    ]
    planned = importing.plan(entries, name="n")
    assert {one.file: trial.trial_id for one, trial in planned.trials} == {
        "y": "b000-a-tcp",
        "v": "b001-a-tcp",
        "z": "b002-a-tcp",
        "a": "b003-a-tcp",
        "b": "b004-a-tcp",
        "x": "b000-b-tcp",
        "w": "b000-a-tcp-8",
    }
    assert [trial.order for _, trial in planned.trials] == list(range(7))
    assert planned.campaign.blocks == 5
    assert planned.campaign.baseline == "a"


def test_flows_that_differ_are_never_one() -> None:
    entries = [
        entry("a"),
        entry("b", duration_s=60),
        entry("c", rate_bits_per_s=5e8),
        entry("d", direction=Direction.REVERSE),
        entry("e", direction=Direction.BIDIR, streams=4),
        entry("f", omit_s=3),
    ]
    planned = importing.plan(entries, name="n")
    names = [trial.flow.name for _, trial in planned.trials]
    assert len(set(names)) == len(names)
    assert {trial.trial_id for _, trial in planned.trials} == {f"b000-a-{name}" for name in names}
    assert "tcp-reverse" in names
    assert "tcp-4-bidir" in names
    assert "tcp-500000000bps-10s-omit1s" in names


def test_thousands_of_files_are_planned_in_one_pass() -> None:
    entries = [entry(f"{number:05}", started_s=number) for number in range(5003)]
    planned = importing.plan(reversed(entries), name="n")
    assert [one.file for one, _ in planned.trials] == [one.file for one in entries]
    assert planned.trials[-1][1].trial_id == "b5002-a-tcp"
