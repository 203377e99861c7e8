"""The store: whole or not at all, resumable, and frames that equal their records."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from ebpfperf import frames, records, store
from ebpfperf.errors import InputError, StoreError
from ebpfperf.store import Store

CAMPAIGN = replace(synthetic.CAMPAIGN, blocks=2)


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    return synthetic.write_store(tmp_path / "c", CAMPAIGN)


def test_records_come_back_equal() -> None:
    assert records.campaign_from(records.json_values(records.campaign_record(CAMPAIGN))) == CAMPAIGN
    for result in synthetic.results(CAMPAIGN):
        again = records.result_from(json.loads(records.dump_result(result)))
        assert again == replace(result, raw={})


def test_a_campaign_opens_as_it_was_created(filled: Store) -> None:
    opened = Store.open(filled.path)
    assert opened.campaign == CAMPAIGN
    assert opened.completed() == {t.trial.trial_id for t in synthetic.results(CAMPAIGN)}
    assert [r.trial.order for r in opened.results()] == list(range(len(opened.completed())))


@pytest.mark.parametrize("name", list(frames.COLUMNS))
def test_frames_keep_their_contract_and_equal_those_written(filled: Store, name: str) -> None:
    built = frames.check(name, filled.frame(name))
    assert (filled.path / "frames" / f"{name}.parquet").exists()
    read = frames.check(name, filled.frame(name))
    pd.testing.assert_frame_equal(built, read)
    shutil.rmtree(filled.path / "frames")
    pd.testing.assert_frame_equal(built, Store.open(filled.path).frame(name))
    assert frames.check(name, frames.empty(name)).empty


def test_frames_follow_a_further_trial(filled: Store) -> None:
    before = len(filled.frame("trials"))
    result = next(iter(synthetic.results(CAMPAIGN)))
    more = replace(result, trial=replace(result.trial, trial_id="b099-x", order=999))
    filled.append(more)
    assert len(filled.frame("trials")) == before + 1


def test_a_trial_is_never_rewritten(filled: Store) -> None:
    result = next(iter(synthetic.results(CAMPAIGN)))
    with pytest.raises(StoreError, match="exists already"):
        filled.append(result)


def test_raw_files_are_kept_as_they_came(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "c", CAMPAIGN)
    result = next(iter(synthetic.results(CAMPAIGN)))
    made.append(replace(result, raw={"a.bin": bytes(range(256)), "x/y.txt": b""}))
    raw = made.path / "trials" / result.trial.trial_id / "raw"
    assert {p.name: p.read_bytes() for p in raw.iterdir()} == {
        "a.bin": bytes(range(256)),
        "x_y.txt": b"",
    }


@pytest.mark.parametrize("at", range(1, 6))
def test_a_full_disk_leaves_no_half_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    made = Store.create(tmp_path / "c", CAMPAIGN)
    result = next(iter(synthetic.results(CAMPAIGN)))
    result = replace(result, raw={"a": b"1", "b": b"2", "c": b"3"})
    calls = 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", fsync)
    if at < 5:
        with pytest.raises(StoreError, match="No space left") as caught:
            made.append(result)
        assert "resumes" in caught.value.remedy
        assert list((made.path / "trials").iterdir()) == []
        assert made.completed() == set()
    else:
        # The last sync is of the directory: the trial is there by then, whole.
        with pytest.raises(StoreError):
            made.append(result)
        assert made.completed() == {result.trial.trial_id}


def test_another_campaign_or_another_directory_is_refused(filled: Store, tmp_path: Path) -> None:
    assert Store.create(filled.path, CAMPAIGN).completed() == filled.completed()
    with pytest.raises(InputError, match="differs"):
        Store.create(filled.path, replace(CAMPAIGN, seed=8))
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is no campaign"):
        Store.create(other, CAMPAIGN)
    with pytest.raises(InputError, match="no campaign directory"):
        Store.open(other)
    assert (other / "thesis.tex").read_text() == "precious"


def test_more_blocks_lengthen_a_campaign_and_fewer_are_refused(filled: Store) -> None:
    longer = replace(CAMPAIGN, blocks=5)
    assert Store.create(filled.path, longer).campaign == longer
    opened = Store.open(filled.path)
    assert opened.campaign == longer
    assert opened.completed() == filled.completed()
    history = json.loads((filled.path / "manifest.json").read_bytes())["history"]
    assert [event["what"] for event in history] == ["created", "blocks 5"]
    with pytest.raises(InputError, match="only grow"):
        Store.create(filled.path, CAMPAIGN)
    with pytest.raises(InputError):
        Store.create(filled.path, replace(longer, blocks=6, seed=1))
    with filled.exclusive(), pytest.raises(InputError, match="at work"):
        Store.create(filled.path, replace(longer, blocks=6))


def test_another_schema_and_a_damaged_record_are_one_sentence(filled: Store) -> None:
    file = next((filled.path / "trials").glob("*/record.json"))
    file.write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        list(filled.results())
    manifest = filled.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema": 3', '"schema": 99'))
    with pytest.raises(InputError, match="schema 99"):
        Store.open(filled.path)


def test_a_store_of_the_first_schema_is_read_and_lengthened(filled: Store) -> None:
    manifest = filled.path / "manifest.json"
    old = json.loads(manifest.read_bytes())
    old["schema"] = 1
    del old["campaign"]["probes_off"]
    manifest.write_text(json.dumps(old))
    assert Store.open(filled.path).campaign == CAMPAIGN
    Store.create(filled.path, replace(CAMPAIGN, blocks=5))
    new = json.loads(manifest.read_bytes())
    assert (new["schema"], new["campaign"]["probes_off"]) == (store.SCHEMA, False)


def test_frames_kept_by_another_version_are_built_anew(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        frames.COLUMNS, "trials", {**frames.COLUMNS["trials"], "further": "float64"}
    )
    assert "further" in filled.frame("trials")
    monkeypatch.undo()
    assert "further" not in filled.frame("trials")


def test_the_trials_frame_names_the_probes_that_can_be_off(tmp_path: Path) -> None:
    made = synthetic.write_store(tmp_path / "bare", replace(CAMPAIGN, probes_off=True))
    trials = frames.check("trials", made.frame("trials"))
    bare = trials["trial_id"].str.endswith("-bare")
    assert trials.loc[bare, "probes"].eq("").all()
    assert trials.loc[~bare, "probes"].eq("tcp_rtt").all()
    assert bare.sum() == CAMPAIGN.blocks * len(CAMPAIGN.flows)


def test_one_run_at_a_time(filled: Store) -> None:
    with (
        filled.exclusive(),
        pytest.raises(InputError, match=f"pid {os.getpid()}"),
        Store.open(filled.path).exclusive(),
    ):
        pass
    with filled.exclusive():
        pass


def test_the_shipped_campaign_is_whole() -> None:
    root = Path(__file__).resolve().parents[2] / "examples" / "demo"
    shipped = Store.open(root)
    from ebpfperf import plan

    assert shipped.completed() == {t.trial_id for t in plan.schedule(shipped.campaign)}
    assert set(shipped.frame("trials")["status"]) == {"ok"}
    assert set(shipped.frame("trials")["probes"]) == {", ".join(shipped.campaign.optional_probes)}
    assert set(shipped.frame("trials")["role"]) == {"compared", "again"}
