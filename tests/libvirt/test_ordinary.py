"""A domain, from the process of an ordinary user."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

from tests.libvirt.world import Seed
from tests.ordinary import is_root

ROOT = Path(__file__).parents[2]

# Everything is loaded first: what root installed, an ordinary user may not be able to read.
SCRIPT = """
import os, sys
import libvirt, libvirt_qemu, pandas
import snapkit, snapkit.plan, snapkit.tables, snapkit.vm, snapkit.recovery
import snapkit.backends.libvirt
uri, domain, user, group, shared, home, *files = sys.argv[1:]
if os.geteuid() == 0:
    os.setgroups([int(shared)])
    os.setgid(int(group))
    os.setuid(int(user))
os.environ["SNAPKIT_JOURNAL"] = f"{home}/journal.sqlite"
targets = dict(zip(("vda", "vdb"), files))
with snapkit.connect(uri, domain) as vm:
    print(vm.local)
    outcome = vm.snapshot(targets)
    print(outcome.ok, *outcome.findings)
    print(*vm.devices()["file"])
    print(len(vm.snapshots()))
"""


def run_as(seed: Seed, user: pwd.struct_passwd, home: Path) -> list[str]:
    # The daemon's directory is open to its own group.
    groups = [user.pw_uid, user.pw_gid, os.stat(seed.directory).st_gid]
    words = [seed.uri, seed.name, *map(str, groups), str(home), *seed.targets.values()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_who_may_not_look_at_qemu_s_process_takes_a_snapshot_all_the_same(seed: Seed) -> None:
    owner = pwd.getpwuid(os.stat(seed.raw).st_uid)
    home = seed.directory / "home"
    home.mkdir()
    seed.daemon.give(home)
    local, outcome, files, remembered = run_as(seed, owner, home)
    # Started by root, the daemon has a group of its own, which the kernel asks for too.
    assert local == str(not is_root())
    assert outcome.startswith("True")
    assert ("was not opened offline" in outcome) == is_root()
    assert (files, remembered) == (" ".join(seed.targets.values()), "1")
    assert seed.disks() == seed.targets
    assert {os.stat(file).st_uid for file in seed.targets.values()} == {owner.pw_uid}
