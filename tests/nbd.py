"""An NBD client of a few lines, and two kinds of writers, each a process of its own.

``Writers`` feel how long a disk keeps them waiting; ``Lockstep`` writes sequence numbers.
This file is also the program that they run.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")

_FIXED_NO_ZEROES = 3
_GO, _ACK, _INFO = 7, 1, 3
_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_SECONDS = 60.0

BLOCK = 4096
EXPORTS_A_PROCESS = 8


class Disk:
    """One export, over a connection of its own; one request at a time."""

    def __init__(self, path: str, export: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(_SECONDS)
        self.socket.connect(path)
        magic, option, _ = struct.unpack(">8s8sH", self._receive(18))
        assert (magic, option) == (b"NBDMAGIC", b"IHAVEOPT")
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.socket.sendall(struct.pack(">I", _FIXED_NO_ZEROES))
        self.socket.sendall(_OPTION.pack(b"IHAVEOPT", _GO, len(data)) + data)
        self.size = self._go(export)

    def _go(self, export: str) -> int:
        """Read the answers to the one option; the export's size in bytes."""
        size = 0
        while True:
            _, _, kind, length = _OPTION_REPLY.unpack(self._receive(_OPTION_REPLY.size))
            data = self._receive(length)
            if kind == _ACK:
                return size
            if kind != _INFO:
                raise ConnectionError(f"no export {export}: {data.decode(errors='replace')}")
            if data[:2] == b"\0\0":
                (size,) = struct.unpack_from(">Q", data, 2)

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            part = self.socket.recv(length - len(received))
            if not part:
                raise ConnectionError("the NBD server hung up")
            received += part
        return bytes(received)

    def begin(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"") -> None:
        """Send a request without waiting for the answer."""
        self.socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, kind, 0, offset, length) + data)

    def end(self, length: int = 0) -> bytes:
        """Wait for the answer to a request."""
        magic, error, _ = _REPLY.unpack(self._receive(_REPLY.size))
        assert magic == _REPLY_MAGIC
        if error:
            raise OSError(error, os.strerror(error))
        return self._receive(length)

    def write(self, offset: int, data: bytes) -> None:
        self.begin(_WRITE, offset, len(data), data)
        self.end()

    def read(self, offset: int, length: int) -> bytes:
        self.begin(_READ, offset, length)
        return self.end(length)

    def flush(self) -> None:
        self.begin(_FLUSH)
        self.end()

    def close(self) -> None:
        self.begin(_DISCONNECT)
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Writers:
    """Writes to all exports, each as soon as the one before it has been acknowledged.

    They are processes of their own, so that what this one computes cannot make a write look
    long. One process has up to eight exports, a write to each of them in flight, and takes the
    time as soon as the kernel tells that an answer is there. Between two writes to one export
    is a gap of ``gap`` seconds, so that the processors are not busy with writers alone; a stall
    may seem shorter than it is by as much.
    """

    def __init__(self, path: str, exports: Sequence[str], gap: float) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        groups = [
            exports[n : n + EXPORTS_A_PROCESS] for n in range(0, len(exports), EXPORTS_A_PROCESS)
        ]
        for group in groups:
            self._processes.append(_program("longest", path, str(gap), *group))
        # The first answer comes when every export has been written to.
        self.longest(0, time.perf_counter())

    def longest(self, start: float, end: float) -> list[float]:
        """The longest write to each export that was under way between two instants, in seconds.

        The instants are of ``time.perf_counter``. Writes before the last call are forgotten.
        """
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps([start, end]) + "\n")
            process.stdin.flush()
        found: list[float] = []
        for process in self._processes:
            assert process.stdout is not None
            answer = process.stdout.readline()
            if not answer:
                raise ConnectionError("a writer has ended")
            found += json.loads(answer)
        return found

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()


class Lockstep:
    """Writes 1 to the first export, then to the second, and so on, then 2 to the first.

    Each write is acknowledged before the next one is sent. So whoever sees all exports at one
    instant sees numbers that never rise from one to the next, and differ by 1 at most.
    """

    def __init__(self, path: str, exports: Sequence[str]) -> None:
        self._process = _program("lockstep", path, *exports)
        assert self._process.stdout is not None
        # One line, when every export has its first number.
        assert self._process.stdout.readline()

    def end(self) -> int:
        """Stop after a whole round and flush; the last number, which is now on every export."""
        told, _ = self._process.communicate("", timeout=_SECONDS)
        return int(told)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def number(block: bytes) -> int:
    """The number that ``Lockstep`` has written to the first block of an image."""
    numbers: set[int] = set(struct.unpack(f">{len(block) // 8}Q", block))
    assert len(numbers) == 1, f"a torn write: {sorted(numbers)}"
    return numbers.pop()


@contextmanager
def lockstep(path: str | Path, exports: Sequence[str]) -> Iterator[Lockstep]:
    """A lockstep writer that ends with the block."""
    running = Lockstep(str(path), exports)
    try:
        yield running
    finally:
        running.kill()


def _program(*arguments: str) -> subprocess.Popen[str]:
    """This file, with nothing loaded that it does not need."""
    command = [sys.executable, "-IS", __file__, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def writers(path: str | Path, exports: Sequence[str], gap: float = 0.001) -> Iterator[Writers]:
    """Writers that end with the block."""
    running = Writers(str(path), exports, gap)
    try:
        yield running
    finally:
        running.close()


class _Writer:
    """The writes to one export."""

    def __init__(self, path: str, export: str) -> None:
        self.disk = Disk(path, export)
        self.blocks = self.disk.size // BLOCK
        self.data = os.urandom(BLOCK)
        self.number = 0
        self.busy = False
        self.began = 0.0
        self.ended = 0.0
        self.times: list[tuple[float, float]] = []

    def fileno(self) -> int:
        return self.disk.socket.fileno()

    def begin(self) -> None:
        self.busy, self.began = True, time.perf_counter()
        self.disk.begin(_WRITE, self.number % self.blocks * BLOCK, BLOCK, self.data)
        self.number += 1

    def end(self, now: float) -> None:
        self.disk.end()
        self.busy, self.ended = False, now
        self.times.append((self.began, now))

    def longest(self, start: float, end: float) -> float:
        times, self.times = self.times, []
        return max((e - b for b, e in times if e >= start and b <= end), default=0.0)


def _serve(path: str, gap: float, exports: Sequence[str]) -> None:
    """Write, and answer each question once the last write that it is about has ended."""
    # A collection would be felt as a stall.
    gc.disable()
    each = [_Writer(path, export) for export in exports]
    asked: tuple[float, float] | None = None
    while True:
        for writer in each:
            if not writer.busy and writer.ended + gap <= time.perf_counter():
                writer.begin()
        rest = [writer.ended + gap for writer in each if not writer.busy]
        timeout = max(0.0, min(rest) - time.perf_counter()) if rest else None
        ready: list[object] = select.select([sys.stdin, *each], [], [], timeout)[0]
        now = time.perf_counter()
        for writer in each:
            if writer in ready:
                writer.end(now)
        if sys.stdin in ready:
            question = sys.stdin.readline()
            if not question:
                return
            start, end = json.loads(question)
            asked = start, end
        if asked is not None and all(writer.ended >= asked[1] for writer in each):
            print(json.dumps([writer.longest(*asked) for writer in each]), flush=True)
            asked = None


def _step(path: str, exports: Sequence[str]) -> None:
    """Write numbers until the standard input ends."""
    disks = [Disk(path, export) for export in exports]
    count = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        count += 1
        block = struct.pack(">Q", count) * (BLOCK // 8)
        for disk in disks:
            disk.write(0, block)
        if count == 1:
            print("begun", flush=True)
    for disk in disks:
        disk.flush()
    print(count, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "lockstep":
        _step(sys.argv[2], sys.argv[3:])
    else:
        _serve(sys.argv[2], float(sys.argv[3]), sys.argv[4:])
