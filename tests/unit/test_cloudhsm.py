"""CloudHSM's rules and plan, without processes: which step follows from which rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hsmsim.errors import AwsError, HsmsimError
from hsmsim.services.cloudhsm import rules, store
from hsmsim.services.cloudhsm.model import (
    DAY_S,
    Backup,
    BackupState,
    Certificates,
    Cluster,
    ClusterState,
    Hsm,
    HsmState,
    Quotas,
    Scene,
    Seen,
    Settings,
    Unverified,
)
from hsmsim.services.cloudhsm.plan import Do, Step, loose_due, next_due, next_of_loose, next_step
from hsmsim.storage.database import Database
from hsmsim.storage.migrate import GATEWAY, migrate, upgrade

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_700_000_000.0
UP, DOWN = Seen(serves=True), Seen(serves=False)
LIMITED = Seen(serves=True, activated=True, limited=True)


def cluster(state: ClusterState = ClusterState.ACTIVE, **more: Any) -> Cluster:
    values: dict[str, Any] = {
        "id": "cluster-a",
        "account": "123456789012",
        "region": "eu-west-1",
        "message": "",
        "due": 0.0,
        "created": NOW,
        "hsm_type": "hsm2m.medium",
        "mode": "FIPS",
        "retention": 90,
        "source_backup": "",
        "vpc": "vpc-1",
        "group": "sg-1",
        "subnets": {"eu-west-1a": "subnet-1"},
        "certificates": Certificates(),
        "signed": "",
        "anchor": "",
        "target": "",
        "former": "",
        "former_image": "",
        "rollback_until": 0.0,
        "ended": 0.0,
    }
    return Cluster(state=state, **values | more)


def hsm(letter: str, state: HsmState = HsmState.ACTIVE, **more: Any) -> Hsm:
    values: dict[str, Any] = {
        "cluster": "cluster-a",
        "message": "",
        "due": 0.0,
        "created": NOW,
        "hsm_type": "hsm2m.medium",
        "zone": "eu-west-1a",
        "subnet": "subnet-1",
        "eni": f"eni-{letter}",
        "ip": "10.0.0.9",
        "backup": "",
        "image": "",
        "replaces": "",
    }
    return Hsm(id=f"hsm-{letter}", state=state, **values | more)


def backup(letter: str, state: BackupState = BackupState.READY, **more: Any) -> Backup:
    values: dict[str, Any] = {
        "account": "123456789012",
        "region": "eu-west-1",
        "cluster": "cluster-a",
        "due": 0.0,
        "created": NOW,
        "hsm_type": "hsm2m.medium",
        "mode": "FIPS",
        "certificate": "",
        "never_expires": False,
        "delete_at": 0.0,
        "policy": "",
        "image": True,
    }
    return Backup(id=f"backup-{letter}", state=state, **values | more)


def step(
    whole: Cluster, hsms: list[Hsm], seen: str = "", backups: list[Backup] | None = None, now: float = NOW
) -> Step | None:
    """The next step; seen: a letter for each HSM: u serves, d not, l with limited writes, a activated, - no process."""
    kinds = {"u": UP, "d": DOWN, "l": LIMITED, "a": Seen(serves=True, activated=True)}
    views = {one.id: kinds[kind] for one, kind in zip(hsms, seen, strict=True) if kind != "-"}
    return next_step(Scene(whole, tuple(hsms), tuple(backups or ()), views, now))


CREATING, DELETING = HsmState.CREATE_IN_PROGRESS, HsmState.DELETE_IN_PROGRESS
C = ClusterState
MOVING = cluster(C.MODIFY_IN_PROGRESS, target="hsm2m.medium", hsm_type="hsm1.medium")
BACK = cluster(C.ROLLBACK_IN_PROGRESS, target="hsm1.medium")
OLD = hsm("a", hsm_type="hsm1.medium")
NEXT = hsm("b", CREATING, replaces="hsm-a")
WRITING = backup("1", BackupState.CREATE_IN_PROGRESS)


@pytest.mark.parametrize(
    ("whole", "hsms", "seen", "backups", "expected"),
    [
        # A cluster begins.
        (cluster(C.CREATE_IN_PROGRESS), [], "", [], Step(Do.CREATED)),
        (cluster(C.CREATE_IN_PROGRESS, due=NOW + 1), [], "", [], None),
        (cluster(C.INITIALIZE_IN_PROGRESS, source_backup="backup-x"), [], "", [], Step(Do.RESTORED)),
        (cluster(C.INITIALIZE_IN_PROGRESS), [hsm("a")], "u", [], Step(Do.INITIALIZE)),
        (cluster(C.INITIALIZE_IN_PROGRESS), [hsm("a")], "d", [], None),
        (cluster(C.UNINITIALIZED), [hsm("a", CREATING)], "-", [], Step(Do.CREATE_HSM, "hsm-a")),
        (cluster(C.UNINITIALIZED), [hsm("a", CREATING, due=NOW + 1)], "-", [], None),
        (cluster(C.INITIALIZED), [hsm("a")], "u", [], None),
        (cluster(C.INITIALIZED), [hsm("a")], "a", [], Step(Do.ACTIVATED)),
        (cluster(C.DELETE_IN_PROGRESS), [], "", [], Step(Do.DELETE_CLUSTER)),
        # HSMs come: from others after a backup, else from an image.
        (cluster(), [hsm("a"), hsm("b", CREATING)], "u-", [], Step(Do.BACKUP_FOR, "hsm-b")),
        (
            cluster(),
            [hsm("a"), hsm("b", CREATING, backup="backup-1")],
            "u-",
            [WRITING],
            Step(Do.WRITE_IMAGE, "backup-1"),
        ),
        (
            cluster(),
            [hsm("a"), hsm("b", CREATING, backup="backup-1")],
            "u-",
            [backup("1", BackupState.CREATE_IN_PROGRESS, due=NOW + 1)],
            None,
        ),
        (
            cluster(),
            [hsm("a"), hsm("b", CREATING, backup="backup-1")],
            "u-",
            [backup("1")],
            Step(Do.CREATE_HSM, "hsm-b"),
        ),
        (cluster(), [hsm("b", CREATING, image="backup-1")], "-", [backup("1")], Step(Do.CREATE_HSM, "hsm-b")),
        (cluster(), [hsm("a", HsmState.DEGRADED), hsm("b", CREATING)], "d-", [], None),
        # They go: after a backup where one serves.
        (cluster(), [hsm("a", DELETING)], "u", [], Step(Do.BACKUP_FOR, "hsm-a")),
        (cluster(), [hsm("a", DELETING, backup="backup-1")], "u", [backup("1")], Step(Do.DELETE_HSM, "hsm-a")),
        (cluster(), [hsm("a", DELETING)], "d", [], Step(Do.DELETE_HSM, "hsm-a")),
        (cluster(C.INITIALIZED), [hsm("a", DELETING)], "u", [], Step(Do.DELETE_HSM, "hsm-a")),
        (
            cluster(),
            [hsm("a", DELETING, backup="backup-1")],
            "d",
            [WRITING],
            Step(Do.ABANDON, "backup-1"),
        ),
        (cluster(), [], "", [WRITING], Step(Do.ABANDON, "backup-1")),
        # They die and come back; a backup waits for them.
        (cluster(), [hsm("a", HsmState.DEGRADED)], "d", [WRITING], None),
        (cluster(), [hsm("a")], "d", [], Step(Do.HEALTH, "hsm-a")),
        (cluster(), [hsm("a")], "-", [], Step(Do.HEALTH, "hsm-a")),
        (cluster(), [hsm("a", HsmState.DEGRADED)], "u", [], Step(Do.HEALTH, "hsm-a")),
        (cluster(), [hsm("a", HsmState.DEGRADED)], "d", [], None),
        (cluster(), [hsm("a")], "l", [], Step(Do.UNLIMIT)),
        # Another HSM type: a backup, then limits, then one HSM after another.
        (MOVING, [OLD], "u", [], Step(Do.BACKUP_FOR, "hsm-a")),
        (MOVING, [replace(OLD, backup="backup-1")], "u", [backup("1")], Step(Do.LIMIT, "hsm-a")),
        (MOVING, [replace(OLD, backup="backup-1")], "l", [backup("1")], Step(Do.REPLACE, "hsm-a")),
        (MOVING, [OLD, NEXT], "l-", [], Step(Do.CREATE_HSM, "hsm-b")),
        (MOVING, [OLD, replace(NEXT, due=NOW + 1)], "l-", [], None),
        (MOVING, [OLD, replace(NEXT, state=HsmState.ACTIVE)], "ll", [], Step(Do.RETIRE, "hsm-a")),
        (MOVING, [replace(NEXT, state=HsmState.ACTIVE)], "l", [], Step(Do.UNLIMIT)),
        (MOVING, [replace(NEXT, state=HsmState.ACTIVE)], "u", [], Step(Do.MIGRATED)),
        (MOVING, [replace(OLD, state=HsmState.DEGRADED)], "d", [], None),
        # Its backup is what a rollback goes back to: it waits for the HSM.
        (MOVING, [replace(OLD, state=HsmState.DEGRADED, backup="backup-1")], "d", [WRITING], None),
        (MOVING, [replace(OLD, backup="backup-1")], "u", [WRITING], Step(Do.WRITE_IMAGE, "backup-1")),
        (BACK, [hsm("a")], "u", [], Step(Do.REPLACE, "hsm-a")),
        (BACK, [hsm("a"), replace(NEXT, hsm_type="hsm1.medium")], "u-", [], Step(Do.RETIRE, "hsm-a")),
        (BACK, [replace(NEXT, hsm_type="hsm1.medium")], "-", [], Step(Do.CREATE_HSM, "hsm-b")),
        (BACK, [replace(OLD, replaces="hsm-x")], "u", [], Step(Do.MIGRATED)),
        (cluster(rollback_until=NOW), [hsm("a")], "u", [], Step(Do.END_ROLLBACK)),
    ],
)
def test_the_next_step(
    whole: Cluster, hsms: list[Hsm], seen: str, backups: list[Backup], expected: Step | None
) -> None:
    assert step(whole, hsms, seen, backups) == expected


def test_backups_are_made_daily_and_kept_as_long_as_they_should_be() -> None:
    day, ready = NOW + DAY_S, [backup("1")]
    assert step(cluster(), [hsm("a")], "u", ready, day - 1) is None
    assert step(cluster(), [hsm("a")], "u", ready, day) == Step(Do.BACKUP)
    assert step(cluster(), [hsm("a", HsmState.DEGRADED)], "d", ready, day) is None
    assert step(MOVING, [OLD], "u", ready, day) == Step(Do.BACKUP_FOR, "hsm-a")
    late = NOW + 90 * DAY_S
    two = [backup("1"), backup("2", created=NOW + 1)]
    assert step(cluster(), [], "", two, late - 1) is None
    assert step(cluster(), [], "", two, late) == Step(Do.EXPIRE, "backup-1")
    assert step(cluster(C.DELETED), [], "", two, late) == Step(Do.EXPIRE, "backup-1")
    assert step(cluster(), [], "", [replace(two[0], never_expires=True), two[1]], late) is None
    assert step(cluster(), [], "", two[:1], late + 1000 * DAY_S) is None
    pending = [backup("1", BackupState.PENDING_DELETION, delete_at=NOW + 7), backup("2")]
    assert step(cluster(), [], "", pending, NOW + 6) is None
    assert step(cluster(), [], "", pending, NOW + 7) == Step(Do.REMOVE, "backup-1")


def test_a_clock_that_was_set_back_neither_stops_backups_nor_hides_the_newest() -> None:
    ahead, after = backup("2", created=NOW + 400 * DAY_S), backup("1", created=NOW + 1)
    assert step(cluster(), [hsm("a")], "u", [ahead], NOW) == Step(Do.BACKUP)
    assert step(cluster(), [hsm("a")], "u", [ahead, after], NOW + 2) is None
    assert step(cluster(), [], "", [ahead, after], NOW + 900 * DAY_S) == Step(Do.EXPIRE, "backup-2")
    assert rules.source_of(cluster(), [], [ahead, after], None) == "backup-1"


def test_backups_are_listed_as_they_were_made_also_those_of_an_older_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/gateway.db"
    database = Database(url)
    with database.write() as tx:
        upgrade(tx, GATEWAY, "0005")
    older = [backup("b", created=NOW + 1), backup("a", created=NOW), backup("c", created=NOW + 1)]
    with database.write() as tx:
        names = [column["name"] for column in sa.inspect(tx).get_columns(store.BACKUPS.name)]
        for one in older:
            values = {name: getattr(one, name) for name in names} | {"state": one.state.value}
            marks = ", ".join(f":{name}" for name in names)
            tx.execute(sa.text(f"INSERT INTO cloudhsm_backups ({', '.join(names)}) VALUES ({marks})"), values)
    migrate(url, GATEWAY)
    with database.write() as tx:
        store.add_backup(tx, backup("d", created=NOW - DAY_S))
        store.add_backup(tx, backup("0", created=NOW - DAY_S))
        assert [one.id[-1] for one in store.backups(tx)] == ["a", "b", "c", "d", "0"]
        assert store.backup(tx, "backup-b") == older[0]
        store.replace_backup(tx, backup("c", created=NOW + 2, loose=True))
        assert [one.id[-1] for one in store.backups(tx)] == ["a", "b", "c", "d", "0"]
        assert [one.id[-1] for one in store.backups_of(tx, older[0].cluster)] == ["a", "b", "d", "0"]
    database.close()


def test_a_backup_that_was_taken_back_is_kept_as_long_again() -> None:
    late = NOW + 90 * DAY_S
    back = [backup("1", restored=late), backup("2", created=NOW + 1)]
    assert step(cluster(), [], "", back, late + 90 * DAY_S - 1) is None
    assert step(cluster(), [], "", back, late + 90 * DAY_S) == Step(Do.EXPIRE, "backup-1")
    assert next_due(Scene(cluster(), (), tuple(back[:1]), {}, late)) == late + 90 * DAY_S


def test_what_happens_to_a_backup_that_no_cluster_rules() -> None:
    def due(one: Backup, now: float = NOW, wanted: str = "") -> tuple[Step | None, float | None]:
        return next_of_loose(one, now, frozenset({wanted})), loose_due(one, now)

    coming = backup("1", BackupState.CREATE_IN_PROGRESS, due=NOW + 5, loose=True)
    assert due(coming) == (None, NOW + 5)
    assert due(coming, NOW + 5) == (Step(Do.COPY_IMAGE, "backup-1"), None)
    assert due(backup("1", loose=True), NOW + 4000 * DAY_S) == (None, None)
    pending = backup("1", BackupState.PENDING_DELETION, delete_at=NOW + 7, loose=True)
    assert due(pending) == (None, NOW + 7)
    assert due(pending, NOW + 7) == (Step(Do.REMOVE, "backup-1"), None)
    gone = backup("1", BackupState.DELETED, loose=True)
    assert due(gone) == (Step(Do.WIPE, "backup-1"), None)
    assert due(gone, wanted="backup-1") == (None, None)
    assert due(replace(gone, image=False)) == (None, None)


def test_an_image_goes_when_no_hsm_is_made_from_it() -> None:
    gone = backup("1", BackupState.DELETED)
    scene = Scene(cluster(), (), (gone,), {}, NOW)
    assert next_step(scene, frozenset({"backup-1"})) is None
    assert next_step(scene) == Step(Do.WIPE, "backup-1")
    assert next_step(replace(scene, backups=(replace(gone, image=False),))) is None


def test_when_something_is_due_again() -> None:
    def due(whole: Cluster, hsms: list[Hsm], backups: list[Backup]) -> float | None:
        return next_due(Scene(whole, tuple(hsms), tuple(backups), {}, NOW))

    assert due(cluster(), [], []) is None
    assert due(cluster(C.CREATE_IN_PROGRESS, due=NOW + 5), [], []) == NOW + 5
    assert due(cluster(), [hsm("a")], [backup("1")]) == NOW + DAY_S
    assert due(cluster(), [hsm("a", CREATING, due=NOW + 3)], [backup("1", due=NOW + 2)]) == NOW + 2
    assert due(cluster(rollback_until=NOW + 9), [], [backup("1")]) == NOW + 9
    assert due(cluster(), [], [backup("1")]) == NOW + 90 * DAY_S
    assert due(cluster(), [], [backup("1", never_expires=True)]) is None
    assert due(cluster(), [], [backup("1", BackupState.PENDING_DELETION, delete_at=NOW + 4)]) == NOW + 4


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ([], C.ACTIVE),
        (["ACTIVE", "DEGRADED"], C.ACTIVE),
        (["DEGRADED"], C.DEGRADED),
        (["DEGRADED", "CREATE_IN_PROGRESS"], C.DEGRADED),
        (["CREATE_IN_PROGRESS"], C.ACTIVE),
    ],
)
def test_states_that_are_shown(states: list[str], shown: ClusterState) -> None:
    hsms = [hsm(str(number), HsmState(state)) for number, state in enumerate(states)]
    assert rules.shown_state(cluster(), hsms, Unverified()) is shown
    assert rules.shown_state(cluster(C.INITIALIZED), hsms, Unverified()) is C.INITIALIZED


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        (["ACTIVE"], C.ACTIVE),
        (["ACTIVE", "CREATE_IN_PROGRESS"], C.UPDATE_IN_PROGRESS),
        (["ACTIVE", "DELETE_IN_PROGRESS"], C.UPDATE_IN_PROGRESS),
        (["CREATE_IN_PROGRESS"], C.UPDATE_IN_PROGRESS),
        (["DEGRADED", "CREATE_IN_PROGRESS"], C.DEGRADED),
    ],
)
def test_a_cluster_that_changes_may_show_it(states: list[str], shown: ClusterState) -> None:
    hsms = [hsm(str(number), HsmState(state)) for number, state in enumerate(states)]
    showing = Unverified(shows_update=True)
    assert rules.shown_state(cluster(), hsms, showing) is shown
    assert rules.shown_state(cluster(C.MODIFY_IN_PROGRESS), hsms, showing) is C.MODIFY_IN_PROGRESS


@pytest.mark.parametrize(
    ("hsm_type", "wanted", "source", "expected"),
    [
        ("hsm1.medium", None, "", "FIPS"),
        ("hsm2m.medium", "NON_FIPS", "", "NON_FIPS"),
        ("hsm2m.medium", None, "NON_FIPS", "NON_FIPS"),
        ("hsm2m.medium", "FIPS", "FIPS", "FIPS"),
        ("hsm2m.medium", None, "", r"^Mode is a required argument for this hsm type\. It is FIPS or NON_FIPS\.$"),
        ("hsm1.medium", "NON_FIPS", "", "Clusters of hsm1.medium are in mode FIPS"),
        ("hsm2m.medium", "FIPS", "NON_FIPS", "it cannot become one in mode FIPS"),
        ("hsm3.medium", "FIPS", "", r"^Provided HsmType is not supported\."),
    ],
)
def test_the_mode_of_a_new_cluster(hsm_type: str, wanted: str | None, source: str, expected: str) -> None:
    restored = backup("1", mode=source) if source else None
    if expected in {"FIPS", "NON_FIPS"}:
        assert rules.mode_of(hsm_type, wanted, restored, Unverified()) == expected
    else:
        with pytest.raises(AwsError, match=expected):
            rules.mode_of(hsm_type, wanted, restored, Unverified())
    with pytest.raises(AwsError, match="required"):
        rules.mode_of("hsm2m.medium", None, restored, Unverified(mode_from_backup=False))


def test_what_is_deleted_is_shown_for_a_while() -> None:
    assert rules.is_shown(0, NOW, Unverified(shown_s=0))
    assert rules.is_shown(NOW, NOW + DAY_S - 1, Unverified())
    assert not rules.is_shown(NOW, NOW + DAY_S, Unverified())
    assert not rules.is_shown(NOW, NOW, Unverified(shown_s=0))


def test_what_a_cluster_without_hsms_grows_from() -> None:
    mine = [backup("1"), backup("2"), backup("3", BackupState.PENDING_DELETION)]
    source = backup("s")
    assert rules.source_of(cluster(), [], mine, source) == "backup-2"
    assert rules.source_of(cluster(), [], [], source) == "backup-s"
    assert rules.source_of(cluster(), [hsm("a")], mine, None) == ""
    assert rules.source_of(cluster(), [hsm("a", CREATING)], mine, None) == "backup-2"
    assert rules.source_of(cluster(C.UNINITIALIZED), [], [], None) == ""
    with pytest.raises(AwsError, match="no backup that is READY"):
        rules.source_of(cluster(), [], mine[2:], replace(source, state=BackupState.DELETED))


def test_a_type_changes_forward_and_back_for_a_day() -> None:
    old = cluster(hsm_type="hsm1.medium")
    assert rules.check_migration(old, [hsm("a")], "hsm2m.medium", NOW) is C.MODIFY_IN_PROGRESS
    new = cluster(former="hsm1.medium", rollback_until=NOW + 1)
    assert rules.check_migration(new, [hsm("a")], "hsm1.medium", NOW) is C.ROLLBACK_IN_PROGRESS
    for whole, hsms, text in [
        (old, [], "needs HSMs, all of them ACTIVE"),
        (old, [hsm("a", DELETING)], "needs HSMs, all of them ACTIVE"),
        (old, [hsm(str(number)) for number in range(28)], "27 HSMs at most"),
    ]:
        with pytest.raises(AwsError, match=text):
            rules.check_migration(whole, hsms, "hsm2m.medium", NOW)
    for whole in (cluster(), replace(new, rollback_until=NOW)):
        with pytest.raises(AwsError, match="within 24 hours"):
            rules.check_migration(whole, [hsm("a")], "hsm1.medium", NOW)


@pytest.mark.parametrize("code", ["CloudHsmInvalidRequestException", "CloudHsmServiceException"])
def test_the_quotas(code: str) -> None:
    few = Settings(quotas=Quotas(clusters=1, hsms=2, hsms_per_cluster=1), unverified=Unverified(quota=code))
    rules.check_cluster_quota(0, few)
    for refused in (
        lambda: rules.check_cluster_quota(1, few),
        lambda: rules.check_create_hsm(cluster(), [], "eu-west-1a", 2, few),
        lambda: rules.check_create_hsm(cluster(), [hsm("a")], "eu-west-1a", 1, few),
    ):
        with pytest.raises(AwsError, match="The quota is reached") as error:
            refused()
        assert error.value.code == code


def test_settings_are_named() -> None:
    found = rules.settings(0.5, {"cloudhsm.hsms": 9, "kms.keys": 1}, {"cloudhsm.shown_s": 60, "kms.x": "y"})
    assert found == Settings(0.5, Quotas(hsms=9), Unverified(shown_s=60.0))
    with pytest.raises(HsmsimError, match=r"no quota cloudhsm\.hsm\. There are: clusters, hsms, hsms_per_cluster"):
        rules.settings(0, {"cloudhsm.hsm": 1}, {})
    with pytest.raises(
        HsmsimError,
        match=r"no unverified decision cloudhsm\.x\. There are: shows_update, shown_s, quota, mode_from_backup",
    ):
        rules.settings(0, {}, {"cloudhsm.x": True})
    with pytest.raises(HsmsimError, match=r"wrong type: Expected `bool`, got `str` - at `\$\.shows_update`"):
        rules.settings(0, {}, {"cloudhsm.shows_update": "yes"})
