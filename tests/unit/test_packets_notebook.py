"""What notebook 50 shows: of a debug log, of a bundle's maps and of dumps, with known answers."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from map_bytes import as_bpftool
from typer.testing import CliRunner

from ebpfperf import bundle, maps_chart, maps_view, packets_chart, packets_view, templates
from ebpfperf.cli import app
from ebpfperf.errors import InputError
from ebpfperf.evidence import Evidence
from ebpfperf.evidence_sources import MAPS
from ebpfperf.pseudonyms import pseudonymous
from ebpfperf.tracelog.packed import TORN
from ebpfperf.tracelog.summaries import DISTORTED

ROOT = Path(__file__).parents[2]
LOG = ROOT / "examples" / "packets" / "debug.log"
BUNDLE = ROOT / "examples" / "packets" / "bundle.tar.gz"


def service() -> str:
    """The ClusterIP of the one Service, and its port."""
    (one,) = json.loads(bundle.read(BUNDLE).items["services", ""].text)
    return f"{one['spec']['clusterIP']}:80"


@pytest.fixture(scope="module")
def seen() -> packets_view.Log:
    return packets_view.opened(str(LOG))


@pytest.fixture(scope="module")
def found() -> maps_view.Maps:
    return maps_view.opened(str(BUNDLE))


def results(text: str, pattern: str) -> int:
    return len(re.findall(pattern, text))


def test_the_example_is_small_and_names_no_machine() -> None:
    assert LOG.stat().st_size + BUNDLE.stat().st_size < 300_000
    assert bundle.read(BUNDLE).release.startswith("v3.26")


def test_sights_are_what_the_log_says(seen: packets_view.Log) -> None:
    text = LOG.read_text()
    packets = seen.packets
    assert packets["path"].eq("dropped").sum() == results(text, r"DENY \(")
    redirected = packets["path"].isin(["redirect", "redirect to peer"]).sum()
    assert redirected == results(text, r"ALLOW \(7\)")
    assert seen.lines == text.count("\n")
    (first, *_) = packets_view.headline(seen).items
    assert first.startswith(f"{len(packets)} sights of packets at hooks: ")
    assert f"{redirected} redirected past the host's stack" in first


def test_distorted_times_are_said_first(seen: packets_view.Log) -> None:
    assert packets_view.notice(seen).items == (DISTORTED,)
    assert packets_view.notice(seen).kind == "notice"
    assert DISTORTED not in packets_view.validity(seen).items
    lost = re.findall(r"LOST (\d+) EVENTS", LOG.read_text())
    said = "\n".join(packets_view.validity(seen).items)
    assert (f"{sum(map(int, lost))} events were lost" in said) == bool(lost)


def test_filters_keep_what_they_say_and_say_it(seen: packets_view.Log) -> None:
    denied = seen.where(verdict="DENY")
    assert len(denied.packets) == 1
    (row,) = packets_view.rows(denied).frame.to_dict("records")
    assert (row["became"], row["why"]) == ("dropped", "policy")
    assert row["to"].endswith(":9999")
    assert "verdict DENY" in packets_view.rows(denied).caption
    assert "Only packets of verdict DENY are shown." in packets_view.validity(denied).items
    both = seen.where(interface="ens11").where(direction="ingress", path="redirect")
    expected = (
        seen.packets["iface"].eq("ens11")
        & seen.packets["direction"].eq("ingress")
        & seen.packets["path"].eq("redirect")
    )
    assert len(both.packets) == expected.sum() > 0
    assert both.chosen == ("interface ens11", "direction ingress", "path redirect")
    nobody = seen.where(address="192.0.2.1")
    assert packets_view.headline(nobody).items[0].startswith("The log has no packet of from or")
    assert packets_view.rows(nobody).frame.empty


def test_tables_and_chart_say_the_same(seen: packets_view.Log) -> None:
    table = packets_view.fates(seen).frame
    assert table["sights"].sum() == len(seen.packets)
    chart = packets_chart.fates(seen)
    assert chart.frame.drop(columns="hook").to_numpy().sum() == len(seen.packets)
    assert list(chart.frame["hook"]) == sorted(set(table["hook"]))
    assert "cali9fb0db7f13e ingress: " in chart.alt
    assert "1 dropped" in chart.alt
    assert chart.figure.axes[0].get_xlabel() == "Sights of packets"
    talkers = packets_view.talkers(seen, top=2)
    assert len(talkers.frame) == 2
    assert talkers.frame["sights"].is_monotonic_decreasing


def test_a_story_follows_one_packet_to_the_other_node(seen: packets_view.Log) -> None:
    told = packets_view.story(seen, address=service())
    hooks = told.table.frame["hook"].tolist()
    assert hooks == [
        "cali0761ccbeace egress", "ens11 egress", "ens12 ingress", "cali9fb0db7f13e ingress",
    ]  # fmt: skip
    assert told.table.frame["on to"].tolist()[0] == "198.19.0.64:8080"
    assert service() in told.table.caption
    assert told.lines[0].startswith("Packet ")
    assert any("NAT: backend selected" in line for line in told.lines)
    assert "The log&#x27;s lines" in told._repr_html_() or "The log's lines" in told._repr_html_()
    nobody = packets_view.story(seen, address="192.0.2.1")
    assert nobody.lines == ()
    assert "no packet from or to 192.0.2.1" in nobody.table.caption


def test_a_packed_log_is_read_alike(seen: packets_view.Log, tmp_path: Path) -> None:
    packed = tmp_path / "debug.log.gz"
    packed.write_bytes(gzip.compress(LOG.read_bytes()))
    again = packets_view.opened(str(packed))
    assert again.packets.equals(seen.packets)
    assert packets_view.story(again).lines == packets_view.story(seen).lines


def test_without_a_log_or_maps_every_view_says_so() -> None:
    log, maps = packets_view.opened(""), maps_view.opened("")
    assert packets_view.headline(log).items == (packets_view.NO_LOG,)
    assert maps_view.headline(maps).items == (maps_view.NO_MAPS,)
    for said in (packets_view.notice(log), packets_view.validity(log), maps_view.validity(maps),
                 maps_view.notice(maps)):  # fmt: skip
        assert said.items == ()
    shown = (packets_view.fates(log), packets_view.talkers(log), packets_view.rows(log),
             maps_view.services(maps), maps_view.unanswered(maps), maps_view.frontends(maps),
             maps_view.routes(maps), packets_view.story(log).table)  # fmt: skip
    for table in shown:
        assert table.frame.empty
        assert "nothing to show" in table._repr_html_()
    for chart in (packets_chart.fates(log), maps_chart.states(maps), maps_chart.ages(maps)):
        assert "There are none" in chart.alt
        assert chart.png().startswith(b"\x89PNG")


# -------------------------------------------------------------------------------------- maps


def test_states_are_counted_once_a_connection(found: maps_view.Maps) -> None:
    frame = found.frame("conntrack")
    kept = frame[frame["type"].ne("nat-forward")]
    assert len(kept) < len(frame)
    chart = maps_chart.states(found)
    assert (
        chart.frame.set_index("node").sum(axis=1).to_dict() == kept["node"].value_counts().to_dict()
    )
    assert chart.frame.set_index("node").loc["node-1", "ESTABLISHED"] == 24
    assert "24 ESTABLISHED" in chart.alt


def test_headline_of_maps_has_the_share_that_waits(found: maps_view.Maps) -> None:
    frame = found.frame("conntrack")
    own = frame[frame["node"].eq("node-1") & frame["tcp_state"].notna()]
    share = 100 * own["tcp_state"].eq("SYN-SENT").mean()
    (first, _) = maps_view.headline(found).items
    assert first.startswith("node-1: ")
    assert f"{share:.0f} % of TCP's in SYN-SENT" in first
    assert maps_view.notice(found).items == (maps_view.EMULATED,)


def test_services_have_their_names(found: maps_view.Maps) -> None:
    (row,) = maps_view.services(found).frame.to_dict("records")
    assert (row["service"], row["name"], row["node"]) == (
        f"TCP {service()}", "default/web", "node-1",
    )  # fmt: skip
    frame = maps_view.frontends(found).frame
    assert set(frame["name"]) == {"default/web"}
    assert set(frame["backends"]) == {"2"}
    assert "255.255.255.255" in " ".join(frame["frontend"])


def test_who_does_not_answer_is_named(found: maps_view.Maps) -> None:
    rows = maps_view.unanswered(found).frame.to_dict("records")
    assert rows[0]["server"] == "198.18.0.77:443"
    assert rows[0]["node"] == "node-1"
    assert maps_view.unanswered(found, top=1).frame.shape[0] == 1


def test_ages_are_shares_of_each_node(found: maps_view.Maps) -> None:
    chart = maps_chart.ages(found)
    assert chart.frame["node"].tolist() == ["node-1", "node-2"]
    assert (chart.frame["half_within_s"] <= chart.frame["p90_within_s"]).all()
    assert chart.figure.axes[0].get_xscale() == "log"
    lines = chart.figure.axes[0].get_lines()
    assert len({line.get_linestyle() for line in lines}) == len(lines) == 2
    assert lines[0].get_ydata()[-1] == 100  # type: ignore[index]


def test_routes_lead_to_the_other_node(found: maps_view.Maps) -> None:
    frame = maps_view.routes(found).frame
    remote = frame[frame["node"].eq("node-1") & frame["destination"].eq("198.19.0.64/26")]
    assert remote["next hop"].tolist() == ["198.18.0.12"]


def test_one_node_alone(found: maps_view.Maps) -> None:
    one = maps_view.opened(str(BUNDLE), node="node-2")
    assert set(one.frame("conntrack")["node"]) == {"node-2"}
    with pytest.raises(InputError, match="no node node-9"):
        maps_view.opened(str(BUNDLE), node="node-9")


def test_a_bundle_with_pseudonyms_shows_the_same_counts(
    found: maps_view.Maps, tmp_path: Path
) -> None:
    other, given = pseudonymous(bundle.read(BUNDLE), secret=b"x" * 32)
    bundle.write(other, tmp_path / "p.tar.gz")
    hidden = maps_view.opened(str(tmp_path / "p.tar.gz"))
    assert "Names and addresses are pseudonyms." in hidden.doubts
    one, two = maps_chart.states(found).frame, maps_chart.states(hidden).frame
    assert (
        two.set_index("node").loc[given["node-1"]].tolist()
        == one.set_index("node").loc["node-1"].tolist()
    )
    name = maps_view.services(hidden).frame["name"].tolist()
    assert name == [f"default/{given['web']}"]


def test_what_could_not_be_read_is_a_doubt(tmp_path: Path) -> None:
    evidence = bundle.read(BUNDLE)
    items = [item for where, item in evidence.items.items() if where != (MAPS, "node-1")]
    less = Evidence.of(
        items, nodes=(*evidence.nodes, "node-3"), release=evidence.release,
        taken_utc=evidence.taken_utc, lost={"node-3": "Connection refused"},
    )  # fmt: skip
    bundle.write(less, tmp_path / "less")
    maps = maps_view.opened(str(tmp_path / "less"))
    assert "node-1: its maps were not read" in maps.doubts
    assert "node-3: Connection refused" in maps.doubts
    assert set(maps.frame("routes")["node"]) == {"node-2"}


def test_dumps_are_read_by_their_names(tmp_path: Path) -> None:
    recorded = ROOT / "tests" / "recorded" / "maps"
    for name in ("cali_v4_ct3", "cali_v4_nat_fe3", "cali_v4_routes"):
        shutil.copy(recorded / f"lab__v3.26__{name}.json", tmp_path / f"node-7__{name}.json")
    (tmp_path / "notes.txt").write_text("mine")
    maps = maps_view.opened(str(tmp_path), release="v3.26")
    assert {each.decoded.purpose for each in maps.maps} == {"conntrack", "nat-frontend", "routes"}
    assert set(maps.frame("conntrack")["node"]) == {"node-7"}
    entries = json.loads((tmp_path / "node-7__cali_v4_ct3.json").read_text())
    assert len(maps.frame("conntrack")) == len(entries)
    one = maps_view.opened(str(tmp_path / "node-7__cali_v4_ct3.json"), release="v3.26")
    assert maps_chart.states(one).frame.equals(maps_chart.states(maps).frame)


def test_a_dump_of_no_node_has_a_name_in_the_chart(tmp_path: Path) -> None:
    path = tmp_path / "cali_v4_ct3.json"
    path.write_bytes(as_bpftool([(b"\6" + bytes(15), bytes(88))]))
    found = maps_view.opened(str(path), release="v3.26")
    assert maps_chart.states(found).frame["node"].tolist() == ["the dump"]


def test_a_packed_log_that_is_torn_is_a_doubt(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(LOG.read_bytes())[:-9])
    assert TORN in packets_view.opened(str(path)).doubts


def test_a_dump_with_another_name_needs_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    path.write_bytes(as_bpftool([(bytes(8), bytes(8))]))
    with pytest.raises(InputError, match="not known"):
        maps_view.opened(str(path))
    maps = maps_view.opened(str(path), kind="nat-backend")
    assert len(maps.frame("nat-backend")) == 1


@pytest.mark.parametrize("path", ["none.log", "."])
def test_what_is_no_file_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        packets_view.opened(str(tmp_path / path))
    with pytest.raises(InputError):
        maps_view.opened(str(tmp_path / path))


def test_a_release_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"v3\.26"):
        packets_view.opened(str(LOG), release="new")


# ------------------------------------------------------------------------------------ notebook


def test_its_parameters_have_types_and_the_example_is_there() -> None:
    declared = {one.name: one for one in templates.parameters("packets-and-maps")}
    assert {name: one.type for name, one in declared.items()} == {
        "log": "str", "maps": "str", "release": "str", "address": "str", "top": "int",
    }  # fmt: skip
    for name in ("log", "maps"):
        place = templates.notebooks_dir() / json.loads(declared[name].default)
        assert place.is_file()


def test_report_makes_a_page_of_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(LOG, tmp_path / "a.log")
    shutil.copy(BUNDLE, tmp_path / "b.tar.gz")
    (tmp_path / "out").mkdir()
    asked = ["report", "packets-and-maps", "-p", "log=a.log", "-p", "maps=b.tar.gz", "-p", "top=3"]
    done = CliRunner().invoke(app, [*asked, "--out", "out/page.html"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "page.html").read_text()
    assert "a.log, b.tar.gz" in page
    assert page.count("<img") == page.count('alt="') == 3
    assert DISTORTED.split(":")[0] in page
    assert "default/web" in page
    executed = nbformat.read(tmp_path / "out" / "page.ipynb", as_version=4)
    errors = [o for c in executed.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert errors == []
    assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["packets-and-maps"], "no file"),
        (["packets-and-maps", "-p", "log=none"], "no file"),
        (["packets-and-maps", "-p", f"log={LOG}", "--out", "x.pdf"], "no HTML file"),
        (["packets-and-maps", "-p", f"log={LOG}", "-p", "tops=3"], "no parameter 'tops'"),
        (["overlay-comparison"], "which campaign"),
        (["--all"], "which campaign"),
    ],
)
def test_a_report_without_what_it_is_of_is_refused(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["report", *arguments])
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
