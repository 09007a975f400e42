"""Too many connections, or too much in their bodies: who has kept the gateway waiting longest goes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hsmsim.gateway.crowd import Bodies, Crowd


@dataclass(eq=False)
class Connection:
    address: str = "10.0.0.1"
    gone: bool = False

    def give_up(self) -> None:
        self.gone = True


def entered(crowd: Crowd, count: int, address: str = "10.0.0.1") -> list[Connection]:
    made = [Connection(address) for _ in range(count)]
    for one in made:
        crowd.enter(one)
    return made


def gone(connections: list[Connection]) -> list[bool]:
    return [one.gone for one in connections]


def test_who_waits_longest_goes_and_who_is_served_stays() -> None:
    crowd = Crowd(3)
    first, second, third = made = entered(crowd, 3)
    crowd.served(first)
    crowd.waits(second)  # it had a request meanwhile
    entered(crowd, 1)
    assert gone(made) == [False, False, True]
    entered(crowd, 1)
    assert gone(made) == [False, True, True]
    crowd.waits(first)
    entered(crowd, 2)
    assert not first.gone
    entered(crowd, 1)
    assert first.gone
    assert third.gone


def test_a_flood_from_one_address_drives_out_its_own() -> None:
    crowd = Crowd(10)
    (guest,) = entered(crowd, 1, "10.0.0.2")
    flood = entered(crowd, 50)
    assert gone(flood) == [True] * 41 + [False] * 9
    assert not guest.gone
    (late,) = entered(crowd, 1, "10.0.0.3")
    assert gone([guest, late]) == [False, False]
    assert gone(flood) == [True] * 42 + [False] * 8


def test_where_all_are_served_the_newcomer_goes_and_places_come_back() -> None:
    crowd = Crowd(2)
    made = entered(crowd, 2)
    for one in made:
        crowd.served(one)
    (refused,) = entered(crowd, 1)
    assert (refused.gone, gone(made)) == (True, [False, False])
    crowd.waits(refused)  # it is not counted, whatever is heard of it
    crowd.leave(refused)
    crowd.leave(made[0])
    crowd.leave(made[0])
    (taken,) = entered(crowd, 1)
    assert not taken.gone


def test_the_oldest_large_body_makes_room() -> None:
    async def take(bodies: Bodies, sizes: list[int], go: asyncio.Event) -> str:
        try:
            async with asyncio.timeout(60) as limit:
                with bodies.coming(limit):
                    for size in sizes:
                        bodies.grown(limit, size)
                    await go.wait()
        except TimeoutError:
            return "given up"
        return "taken"

    async def scenario() -> list[str]:
        bodies, go = Bodies(100, 10), asyncio.Event()
        wanted = [[10], [20, 60], [9], [40], [30]]
        tasks = []
        for sizes in wanted:
            tasks.append(asyncio.create_task(take(bodies, sizes, go)))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        go.set()
        found = await asyncio.gather(*tasks)
        assert await take(bodies, [100], go) == "taken"  # all of it is free again
        return found

    assert asyncio.run(scenario()) == ["taken", "given up", "taken", "taken", "taken"]
