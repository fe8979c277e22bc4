"""Every set of images shows its disks at one instant, whatever is written meanwhile.

A writer puts sequence numbers on four disks in lockstep, each write acknowledged before the
next one is sent. At any instant the numbers therefore never rise from one disk to the next,
and the last disk is at most one behind the first.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import snapkit
from tests.conftest import Process, StartQemu, blockdev, create_image
from tests.nbd import lockstep, number

DISKS = 4
VMS, SNAPSHOTS = 4, 25
"""A hundred sets, over chains that stay as short as chains should be."""
NAMES = [f"e{disk}" for disk in range(DISKS)]


def start(start_daemon: StartQemu, place: Path) -> Process:
    place.mkdir(exist_ok=True)
    arguments: list[str] = []
    for name in NAMES:
        image = create_image(place / f"{name}.qcow2")
        arguments += [
            *blockdev(f"n{name}", image),
            *("--export", f"type=nbd,id={name},node-name=n{name},name={name},writable=on"),
        ]
    return start_daemon(*arguments)


def active(vm: snapkit.VirtualMachine) -> list[str]:
    """The images that the disks are written to, which the next snapshot freezes."""
    return [str(vm.devices().loc[name, "file"]) for name in NAMES]


def numbers(sets: Sequence[Sequence[str]]) -> list[list[int]]:
    """The number in each image, read by one qemu-io, which opens the image's whole chain."""
    images = [os.path.basename(image) for images in sets for image in images]
    commands = [
        part
        for image in images
        for command in (f"open -r {image}", "read -v 0 4096", "close")
        for part in ("-c", command)
    ]
    done = subprocess.run(
        ["qemu-io", *commands],
        cwd=os.path.dirname(sets[0][0]),
        capture_output=True,
        text=True,
        check=True,
    )
    dumps: list[bytearray] = []
    for line in done.stdout.splitlines():
        offset, colon, rest = line.partition(":  ")
        if colon and len(offset) == 8:
            if int(offset, 16) == 0:
                dumps.append(bytearray())
            dumps[-1] += bytes.fromhex(rest[:48])
    assert len(dumps) == len(images), done.stdout
    found = [number(bytes(dump)) for dump in dumps]
    return [found[start : start + DISKS] for start in range(0, len(found), DISKS)]


def is_consistent(found: Sequence[int]) -> bool:
    falling = all(first >= second for first, second in itertools.pairwise(found))
    return falling and found[-1] >= found[0] - 1


def taken(qemu: Process, place: Path) -> tuple[list[list[int]], int]:
    """The numbers in the sets of one VM, and how many rounds were written meanwhile."""
    sets: list[list[str]] = []
    with (
        snapkit.connect(qemu.uri) as vm,
        lockstep(qemu.directory / "nbd.sock", NAMES) as writer,
    ):
        images = active(vm)
        for count in range(SNAPSHOTS):
            sets.append(images)
            images = [str(place / f"{name}.{count}") for name in NAMES]
            targets = list(zip(NAMES, images, strict=True))
            # The disk that is listed first is stopped first, which decides where in its round
            # the writer has to wait: each disk has its turn.
            turn = count % DISKS
            assert vm.snapshot(dict(targets[turn:] + targets[:turn])).ok
        assert active(vm) == images
        last = writer.end()
    qemu.stop()
    found = numbers([*sets, images])
    # The images that were written to last show that it is the numbers that are read.
    assert found.pop() == [last] * DISKS
    return found, last


def test_every_set_of_a_hundred_is_consistent(directory: Path, start_daemon: StartQemu) -> None:
    sets: list[list[int]] = []
    rounds = 0
    for machine in range(VMS):
        place = directory / str(machine)
        found, last = taken(start(start_daemon, place), place)
        firsts = [each[0] for each in found]
        assert firsts[0] >= 1
        # The writer goes on between two sets, so that they are sets of different instants.
        assert all(second > first for first, second in itertools.pairwise(firsts))
        sets += found
        rounds += last
    print(summary(sets, rounds))
    assert len(sets) == VMS * SNAPSHOTS
    assert [each for each in sets if not is_consistent(each)] == []
    # Some sets were taken within a round.
    assert any(each[0] > each[-1] for each in sets)


def summary(found: Sequence[Sequence[int]], rounds: int) -> str:
    """What was read, in a few lines."""
    ahead = Counter(sum(each > numbers[-1] for each in numbers) for numbers in found)
    cells = "".join(f"\n| {disks} | {sets} |" for disks, sets in sorted(ahead.items()))
    good = sum(map(is_consistent, found))
    return (
        f"\n{good} of {len(found)} sets are consistent, of {rounds} rounds of writes\n"
        f"| disks that were one number ahead of the last | sets |\n| ---: | ---: |{cells}\n"
    )


def test_disks_snapshotted_one_after_another_are_found_out(
    directory: Path, start_daemon: StartQemu
) -> None:
    qemu = start(start_daemon, directory)
    sets: list[list[str]] = []
    with snapkit.connect(qemu.uri) as vm, lockstep(directory / "nbd.sock", NAMES) as writer:
        for count in range(3):
            sets.append(active(vm))
            for name in NAMES:
                assert vm.snapshot({name: str(directory / f"{name}.{count}")}).ok
        writer.end()
    qemu.stop()

    assert [each for each in numbers(sets) if is_consistent(each)] == []
