"""Machines in miniature: two to four network namespaces, joined by a switch, each with a disk and a name of its own.

A machine is a process that `unshare` gives its own network, mounts, processes and host name; a switch is one more,
with a bridge. Whatever runs in a machine ends with that process, and that process with this one: nothing stays behind,
also after a kill. Every machine sees its own folder at the same path, `disk`, and the others by name.

`rate` is a token bucket (tc tbf) at what a machine sends. `lossy` puts a forwarder in place of a cable, for delay and
loss: two TAP devices and a process between them, since netem is not in every kernel.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

OWN = ("--net", "--mount", "--pid", "--uts")
NEEDED = ("unshare", "nsenter", "ip", "tc", "mount")
NET = 0x40000000  # CLONE_NEWNET
TAP, PLAIN, NAME_IT = 0x0002, 0x1000, 0x400454CA  # IFF_TAP, IFF_NO_PI, TUNSETIFF
FRAME = 65600


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class _Space:
    """A process with namespaces of its own; it ends with this one."""

    def __init__(self, name: str) -> None:
        self.name = name
        waits = f"echo {name} > /proc/sys/kernel/hostname && echo ready && read line"
        command = ["unshare", *OWN, "--fork", "--kill-child", "--mount-proc", "sh", "-c", waits]
        self._holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if self._holder.stdout is None or self._holder.stdout.readline() != "ready\n":
            raise OSError((self._holder.communicate()[1] or "unshare failed").strip())
        (self.pid,) = _children(self._holder.pid)

    def entered(self, *command: str, spaces: tuple[str, ...] = OWN) -> list[str]:
        return ["nsenter", "--target", str(self.pid), *spaces, *command]

    def say(self, line: str) -> str:
        """A command that sees this one's processes and the network or the mounts of the machine."""
        space = "--mount" if line.startswith("mount") else "--net"
        return _said(*self.entered(*line.split(), spaces=(space,)))

    def kill(self) -> None:
        """Every process in it, with SIGKILL; its devices go with them."""
        self._holder.kill()
        self._holder.communicate()


class Machine(_Space):
    """One machine: `disk` is what it sees there, `folder` where this process finds the same files."""

    def __init__(self, name: str, address: str, folder: Path, disk: Path, hosts: Path) -> None:
        super().__init__(name)
        self.address, self.folder, self.disk = address, folder, disk
        self.say(f"mount --bind {folder} {disk}")
        self.say(f"mount --bind {hosts} /etc/hosts")
        self.say("ip link set lo up")

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """A program in its disk; both outputs in one."""
        own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(self.disk), **variables}
        moved = ("sh", "-c", 'cd "$0" && exec "$@"', str(self.disk), *command)
        return subprocess.Popen(
            self.entered(*moved), env=os.environ | own, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def python(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return self.start(sys.executable, *arguments, **variables)

    def processes(self, variable: str) -> list[int]:
        """Its processes that were started with a variable, such as `RANK=1`, as this process numbers them."""
        found, own = [], os.readlink(f"/proc/{self.pid}/ns/pid")
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(place / "ns" / "pid") == own and variable in (place / "environ").read_text().split("\0"):
                    found.append(int(place.name))
            except OSError:  # it has ended
                continue
        return sorted(found)

    def sent(self) -> tuple[int, int]:
        """(bytes, packets) that it has sent to others, with headers from Ethernet's on."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == "eth0":
                fields = numbers.split()
                return int(fields[8]), int(fields[9])
        raise AssertionError(f"{self.name} has no cable")

    def rate(self, bits: int) -> None:
        """What it sends in a second, at most."""
        self.say(f"tc qdisc replace dev eth0 root tbf rate {bits} burst 256k latency 200ms")


class Machines:
    """The machines and their switch."""

    def __init__(self, count: int, base: Path) -> None:
        names = [f"node{number}" for number in range(count)]
        self.disk, hosts = base / "disk", base / "hosts"
        self.disk.mkdir()
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"10.7.0.{n + 1} {name}\n" for n, name in enumerate(names)))
        self._spaces: list[_Space] = []
        self._forwarders: list[int] = []
        try:
            self.switch = self._kept(_Space("switch"))
            self.switch.say("ip link add bridge type bridge")
            self.switch.say("ip link set bridge up")
            self.each: list[Machine] = []
            for number, name in enumerate(names):
                (base / name).mkdir()
                machine = Machine(name, f"10.7.0.{number + 1}", base / name, self.disk, hosts)
                self.each.append(self._kept(machine))
                self.switch.say(f"ip link add {name} type veth peer name eth0 netns {machine.pid}")
                self._plug(machine)
        except OSError:
            self.close()
            raise

    def _kept(self, space):
        self._spaces.append(space)
        return space

    def _plug(self, machine: Machine) -> None:
        self.switch.say(f"ip link set {machine.name} master bridge up")
        machine.say(f"ip addr add {machine.address}/24 dev eth0")
        machine.say("ip link set eth0 up")

    def cut(self, machine: Machine) -> None:
        """Its cable is out: what is sent to it or from it is lost."""
        self.switch.say(f"ip link set {machine.name} down")

    def heal(self, machine: Machine) -> None:
        self.switch.say(f"ip link set {machine.name} up")

    def lossy(self, machine: Machine, *, delay: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        """Its cable from now on keeps each frame for `delay` seconds and loses a share `loss`, in both directions."""
        self.switch.say(f"ip link del {machine.name}")
        inside, outside = tap("eth0", machine.pid), tap(machine.name, self.switch.pid)
        self._plug(machine)
        pid = os.fork()
        if not pid:
            try:
                forward(inside, outside, delay=delay, loss=random.Random(seed), share=loss)
            finally:
                os._exit(0)
        os.close(inside)
        os.close(outside)
        self._forwarders.append(pid)

    def close(self) -> None:
        for space in reversed(self._spaces):
            space.kill()
        while self._forwarders:  # each once: the system may give its number to another process
            pid = self._forwarders.pop()
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def tap(name: str, pid: int) -> int:
    """A new TAP device in the network of a process; frames are read from and written to the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as here, open(f"/proc/{pid}/ns/net") as there:
        try:
            if libc.setns(there.fileno(), NET):
                raise OSError(ctypes.get_errno(), "setns")
            file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(file, NAME_IT, struct.pack("16sH22s", name.encode(), TAP | PLAIN, b""))
        finally:
            libc.setns(here.fileno(), NET)
    return file


def forward(one: int, other: int, *, delay: float, loss: random.Random, share: float) -> None:
    """Carry frames between two TAP devices until one is gone."""
    parent, kept = os.getppid(), deque()
    while os.getppid() == parent:
        now = time.monotonic()
        while kept and kept[0][0] <= now:
            _, to, frame = kept.popleft()
            with suppress(BlockingIOError):  # a full queue loses frames, as a cable's does
                os.write(to, frame)
        wait = max(0.0, kept[0][0] - now) if kept else 0.5
        for ready in select.select([one, other], [], [], wait)[0]:
            frame = os.read(ready, FRAME)
            if loss.random() >= share:
                kept.append((time.monotonic() + delay, other if ready == one else one, frame))


def _children(pid: int) -> list[int]:
    return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def machines(count: int, base: Path) -> Iterator[Machines]:
    """So many machines until the end of the block; a skip where the system has none to give."""
    if os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid():
        pytest.skip("machines in miniature: not run as root")
    try:
        made = Machines(count, base)
    except OSError as error:
        pytest.skip(f"machines in miniature: {error}")
    try:
        yield made
    finally:
        made.close()


def said_by(*programs: subprocess.Popen[str], seconds: float) -> list[str]:
    """What each said until its end; AssertionError where one does not end."""
    stop = time.monotonic() + seconds
    try:
        return [program.communicate(timeout=max(0.1, stop - time.monotonic()))[0] for program in programs]
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"did not end within {seconds} s: {error.output}") from None


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    stop = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < stop, "did not happen in time"
        time.sleep(0.01)
