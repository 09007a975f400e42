"""An HSM dies at every step of making and of destroying a key (the table in support.mortal).

Whatever was acknowledged is there on both HSMs, with every attribute; whatever was not is there whole or not at all, on
both alike; what is gone stays gone; and SoftHSM2 holds the objects of the rows and no other.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from support.hsm import MORTAL, Client, Cluster, Hsm, cluster, eventually, patiently, refused, template

from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import ATTRIBUTES, CKA, CKK, CKM, CKO, CKR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _pytest.mark import ParameterSet

    Make = Callable[[], tuple[int, ...]]
    Look = dict[int, dict[CKA, bytes]]

DATA: Final = bytes(range(32))
LABEL: Final = "mortal"
ABSENT, WHOLE, KNOWN = "absent", "whole", "acknowledged"
MAKING: Final = {
    "asked to make": ABSENT,
    "made": ABSENT,
    "bearing": ABSENT,
    "writing": ABSENT,
    "written": ABSENT,
    "committed": WHOLE,
    "applied": WHOLE,
    "told": WHOLE,
    "answered": KNOWN,
    "storing:0": KNOWN,
    "storing:300": KNOWN,
    "storing:650": KNOWN,
    "stored": KNOWN,
}
"""What there is of a key whose HSM dies at a step of making it. storing: its token object is cut off at a byte."""
DESTROYING: Final = {
    "burying": WHOLE,
    "writing": WHOLE,
    "written": WHOLE,
    "committed": ABSENT,
    "applied": ABSENT,
    "told": ABSENT,
    "answered": ABSENT,
    "removing": ABSENT,
    "removed": ABSENT,
}
ACKNOWLEDGED: Final = frozenset({"answered", "removing", "removed"})
VAULT_STEPS: Final = frozenset({"asked to make", "made"})
OBJECT_STEPS: Final = ("answered", "stor", "remov")
FOLLOWING: Final = ("heard of it", "followed")
NAMES: Final = tuple(CKA(number) for number in ATTRIBUTES)
OF_ONE_KEY: Final = frozenset(
    {CKA.UNIQUE_ID, CKA.MODULUS, CKA.EC_POINT, CKA.PUBLIC_KEY_INFO, CKA.CHECK_VALUE},
)
"""Attributes in which two keys that were made alike differ."""
SIGNS: Final = {
    CKK.EC: CKM.ECDSA,
    CKK.EC_EDWARDS: CKM.EDDSA,
    CKK.RSA: CKM.SHA256_RSA_PKCS,
    CKK.GENERIC_SECRET: CKM.SHA256_HMAC,
}


@pytest.fixture(scope="module")
def two(engine: str) -> Iterator[Cluster]:
    with cluster(hsms=2, engine=engine, check=True, program=MORTAL) as made:
        yield made


# ---- ways to make a key: everything is prepared, the returned call makes it ----------------------------------------


def pair(client: Client) -> Make:
    return partial(client.ec, token=True, label=LABEL)


def rsa(client: Client) -> Make:
    return partial(client.rsa, token=True, label=LABEL)


def edwards(client: Client) -> Make:
    curve = bytes.fromhex("06032b6570")
    return partial(client.ec, curve=curve, kind=CKM.EC_EDWARDS_KEY_PAIR_GEN, token=True, label=LABEL)


def secret(client: Client) -> Make:
    return lambda: (client.secret(token=True, label=LABEL),)


def imported(client: Client) -> Make:
    values = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.GENERIC_SECRET, CKA.VALUE: DATA, CKA.SIGN: True}
    return lambda: (client.create({**values, CKA.VERIFY: True, CKA.TOKEN: True, CKA.LABEL: LABEL}),)


def copied(client: Client) -> Make:
    changes = template({CKA.TOKEN: True, CKA.LABEL: LABEL})
    request = m.CopyObjectRequest(client.secret(), changes)
    return lambda: (client.call(request).object,)


def unwrapped(client: Client) -> Make:
    wrapping = client.aes(wrap=True, unwrap=True)
    wrapped = client.wrap(wrapping, client.secret(extractable=True))
    given = {"key_type": CKK.GENERIC_SECRET, "sign": True, "verify": True, "token": True, "label": LABEL}
    return lambda: (client.unwrap(wrapping, wrapped, **given),)


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to make keys. vault: SoftHSM2 makes it; stores: it gets a token object. victims: HSMs, one a round."""

    prepare: Callable[[Client], Make]
    vault: bool
    stores: bool
    victims: tuple[int, ...] = (0, 1)

    def takes(self, step: str) -> bool:
        """Whether a key of this kind comes by a step."""
        if step in VAULT_STEPS:
            return self.vault
        return self.stores or not step.startswith(OBJECT_STEPS)


SUITE: Final = Kind(pair, vault=True, stores=True, victims=(0,))
SOAK: Final = (
    Kind(pair, vault=True, stores=True),
    Kind(rsa, vault=True, stores=True),
    Kind(secret, vault=True, stores=True),
    Kind(edwards, vault=False, stores=False),
    Kind(imported, vault=False, stores=True),
    Kind(copied, vault=False, stores=True),
    Kind(unwrapped, vault=False, stores=True),
)


def trials(steps: Iterable[str]) -> list[ParameterSet]:
    """A kind and a step each: one kind in the suite, all of them in the soak."""
    steps = tuple(steps)
    soak = [(kind, step) for kind in SOAK for step in steps if kind.takes(step)]
    return [
        *(pytest.param(SUITE, step, id=step) for step in steps),
        *(pytest.param(*one, id=f"{one[0].prepare.__name__}-{one[1]}", marks=pytest.mark.soak) for one in soak),
    ]


# ---- what an HSM has ---------------------------------------------------------------------------------------------


def look(hsm: Hsm) -> Look:
    """Every attribute of every object that alice sees."""
    with hsm.user("alice") as client:
        seen = {handle: client.ask(handle, *NAMES)[1] for handle in client.find()}
    return {
        handle: {name: value for name, value in zip(NAMES, found, strict=True) if value is not None}
        for handle, found in seen.items()
    }


def dies(hsm: Hsm, step: str, work: Callable[[], object]) -> bool:
    """Whether the work was acknowledged by the HSM, which dies at a step of it."""
    hsm.arm(step)
    try:
        work()
    except OSError:
        acknowledged = False
    else:
        acknowledged = True
    hsm.died()
    return acknowledged


def check_use(two: Cluster, handles: tuple[int, ...]) -> None:
    """What one HSM signs the other one verifies."""
    with two.hsms[0].user("alice") as here, two.hsms[1].user("alice") as there:
        kind = SIGNS[CKK(int.from_bytes(here.get(handles[0], CKA.KEY_TYPE)[0] or b"", "little"))]
        for signer, verifier in ((here, there), (there, here)):
            verifier.verify(handles[0], DATA, signer.sign(handles[-1], DATA, kind), kind)


def check_vault(hsm: Hsm, seen: Look) -> None:
    """SoftHSM2 has an object for each key that it can hold, in its own opinion and on disk."""
    types = {CKK.RSA, CKK.EC, CKK.AES, CKK.GENERIC_SECRET}
    private = [one for one in seen.values() if int.from_bytes(one[CKA.CLASS], "little") != CKO.PUBLIC_KEY]
    held = sum(int.from_bytes(one[CKA.KEY_TYPE], "little") in types for one in private)
    assert hsm.settled().vault_objects == held, hsm.log
    (folder,) = (hsm.folder / "tokens").iterdir()
    assert len([path for path in folder.glob("*.object") if path.name != "token.object"]) == held, hsm.log


def check_both(two: Cluster, like: tuple[int, ...], expected: int) -> Look:
    """Both HSMs have `like` and so many objects beside it, which have the attributes that `like` has; nothing else."""
    seen = look(two.hsms[0])
    assert look(two.hsms[1]) == seen
    assert len(seen) == len(like) + expected, seen
    assert set(like) <= seen.keys()
    models = {seen[handle][CKA.CLASS]: seen[handle] for handle in like}
    for one in seen.values():
        model = models[one[CKA.CLASS]]
        assert one.keys() == model.keys()
        assert {n: v for n, v in one.items() if n not in OF_ONE_KEY} == {
            n: v for n, v in model.items() if n not in OF_ONE_KEY
        }
    for hsm in two.hsms:
        check_vault(hsm, seen)
        assert "ALARM" not in hsm.log
        assert "Traceback" not in hsm.log
    return seen


def destroy_all(two: Cluster) -> None:
    with two.hsms[1].user("alice") as client:
        for handle in client.find():
            client.destroy(handle)


# ---- the deaths --------------------------------------------------------------------------------------------------


def die_making(two: Cluster, kind: Kind, step: str, number: int) -> None:
    victim, other = two.hsms[number], two.hsms[1 - number]
    with victim.user("alice") as client:
        like = patiently(kind.prepare(client))
        make = kind.prepare(client)
        victim.settled()
        acknowledged = dies(victim, step, make)
    assert acknowledged == (MAKING[step] is KNOWN)
    expected = 0 if MAKING[step] is ABSENT else len(like)
    eventually(lambda: len(look(other)) == len(like) + expected)
    victim.start()
    seen = check_both(two, like, expected)
    check_use(two, like)
    if expected:
        check_use(two, tuple(sorted(seen.keys() - set(like))))
    destroy_all(two)


def die_destroying(two: Cluster, kind: Kind, step: str, number: int) -> None:
    victim, other = two.hsms[number], two.hsms[1 - number]
    with victim.user("alice") as client:
        like = patiently(kind.prepare(client))
        handles = patiently(kind.prepare(client))
        victim.settled()
        acknowledged = dies(victim, step, partial(client.destroy, handles[-1]))
    assert acknowledged == (step in ACKNOWLEDGED)
    expected = len(handles) - (DESTROYING[step] is ABSENT)
    eventually(lambda: len(look(other)) == len(like) + expected)
    victim.start()
    seen = check_both(two, like, expected)
    assert (handles[-1] in seen) == (DESTROYING[step] is WHOLE)
    check_use(two, like)
    if handles[-1] in seen:
        check_use(two, handles)
    destroy_all(two)


@pytest.mark.parametrize(("kind", "step"), trials(MAKING))
def test_the_hsm_that_makes_a_key_dies(two: Cluster, kind: Kind, step: str) -> None:
    for number in kind.victims:
        die_making(two, kind, step, number)


@pytest.mark.parametrize(("kind", "step"), trials(DESTROYING))
def test_the_hsm_that_destroys_a_key_dies(two: Cluster, kind: Kind, step: str) -> None:
    for number in kind.victims:
        die_destroying(two, kind, step, number)


@pytest.mark.parametrize("step", FOLLOWING)
def test_the_hsm_that_follows_dies(two: Cluster, step: str) -> None:
    """A key that only the dead HSM had heard of is not acknowledged and does not stay; what was destroyed is gone."""
    writer, victim = two.hsms
    with writer.user("alice") as client:
        like = patiently(pair(client))
        victim.arm(step)
        with refused(CKR.DEVICE_ERROR):
            client.ec(token=True, label=LABEL)
        victim.died()
        assert set(client.find()) == set(like)
        victim.start()
        check_both(two, like, 0)
        public, private = patiently(pair(client))
        victim.arm(step)
        client.destroy(private)
        victim.died()
        client.destroy(public)
    victim.start()
    check_both(two, like, 0)
    check_use(two, like)
    destroy_all(two)


def test_both_die_before_the_key_of_a_lost_hsm_is_taken_back(two: Cluster) -> None:
    """It was committed and never acknowledged: whole on both, or on neither."""
    writer, victim = two.hsms
    with writer.user("alice") as client:
        like = patiently(pair(client))
        writer.settled()
        victim.arm("heard of it")
        assert not dies(writer, "burying", pair(client))
    victim.died()
    for hsm in two.hsms:
        hsm.start()
    seen = check_both(two, like, 2)
    check_use(two, tuple(sorted(seen.keys() - set(like))))
    destroy_all(two)


# ---- deaths at the start -----------------------------------------------------------------------------------------


def cuts(step: str, sizes: tuple[int, ...]) -> list[ParameterSet]:
    """One size in the suite, all in the soak. token.object has 320 bytes."""
    suite, *_ = params = [pytest.param(f"{step}:{size}", id=f"{step}-{size}") for size in sizes]
    return [suite, *(pytest.param(*one.values, id=one.id, marks=pytest.mark.soak) for one in params[1:])]


@pytest.mark.parametrize("step", [*cuts("unlocking a token", (0, 8, 200)), *cuts("opening a token", (100, 0, 8, 319))])
def test_an_hsm_dies_while_softhsm2_writes_its_token(two: Cluster, step: str) -> None:
    """SoftHSM2 writes the file at every login, in place; and when it makes the token, which it has to do here again."""
    hsm = two.hsms[0]
    with hsm.user("alice") as client:
        like = patiently(pair(client))
    hsm.settled()
    assert hsm.end() == 0
    if step.startswith("opening"):
        for folder in ("tokens", "shadow"):
            shutil.rmtree(hsm.folder / folder)
    for _ in range(2):
        hsm.arm(step)
        hsm.start(wait=False)
        hsm.died()
    before = len(hsm.log)
    hsm.start()
    assert ("is not readable" if step.startswith("opening") else "its copy is put back") in hsm.log[before:]
    check_both(two, like, 0)
    check_use(two, like)
    destroy_all(two)
