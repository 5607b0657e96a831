"""Simulated device memory and pinned memory, each allocation between guard zones.

A device address is no host address: it is not canonical on x86-64, so that whatever dereferences it on the host dies at
once. Freed memory is kept, and an access to it is a violation, never a matter of luck.
"""

from __future__ import annotations

import bisect
import ctypes
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.simulators.tensorrt.violations import Violations

DEVICE_BASE = 1 << 56
ALIGNMENT = 256
POISON = 0xFF
"""NaN in all float formats, -1 in signed integers."""

_GUARD = 0xA5
_GUARD_SIZE = 256

Bytes = npt.NDArray[np.uint8]


@dataclass(eq=False)
class Block:
    """An allocation; `storage` has a guard zone before and behind."""

    address: int
    size: int
    kind: str
    storage: Bytes = field(repr=False)
    data: Bytes = field(repr=False)
    freed: bool = False

    def guards_hold(self) -> bool:
        """Returns whether nothing was written beside the allocation."""
        start = self.data.ctypes.data - self.storage.ctypes.data
        before, behind = self.storage[:start], self.storage[start + self.size :]
        return bool((before == _GUARD).all() and (behind == _GUARD).all())


class Memory:
    """All allocations of a simulated GPU and of pinned host memory."""

    def __init__(self, violations: Violations) -> None:
        self._violations = violations
        self._lock = threading.Lock()
        self._next = DEVICE_BASE
        # Blocks by kind, sorted by address. Freed ones stay: their addresses are never used again.
        self._blocks: dict[str, list[Block]] = {"device": [], "pinned": []}

    def allocate(self, size: int, kind: str = "device") -> int:
        """Returns the address of new memory, full of poison."""
        storage = np.full(size + 2 * _GUARD_SIZE + ALIGNMENT, _GUARD, np.uint8)
        start = _GUARD_SIZE + (-(storage.ctypes.data + _GUARD_SIZE)) % ALIGNMENT
        data = storage[start : start + size]
        data[:] = POISON
        with self._lock:
            address = self._next if kind == "device" else data.ctypes.data
            if kind == "device":
                self._next += -(-size // ALIGNMENT) * ALIGNMENT + ALIGNMENT
            block = Block(address, size, kind, storage, data)
            bisect.insort(self._blocks[kind], block, key=lambda other: other.address)
        return address

    def free(self, address: int, kind: str = "device") -> None:
        """Frees an allocation; a violation where there is none at this address."""
        block = self.block_of(address)
        if block is None or block.address != address or block.kind != kind:
            self._violations.fail(f"free of {address:#x}, which is no {kind} allocation")
        if block.freed:
            self._violations.fail(f"{kind} memory at {address:#x} is freed twice")
        if not block.guards_hold():
            self._violations.fail(f"something wrote beside the {block.size} bytes of {kind} memory at {address:#x}")
        block.freed = True
        block.data[:] = POISON

    def block_of(self, address: int) -> Block | None:
        """Returns the allocation, live or freed, that an address lies in."""
        for blocks in self._blocks.values():
            with self._lock:
                index = bisect.bisect_right(blocks, address, key=lambda block: block.address) - 1
                block = blocks[index] if index >= 0 else None
            if block is not None and address < block.address + max(block.size, 1):
                return block
        return None

    def device_bytes(self, address: int, size: int, what: str) -> Bytes:
        """Returns device memory as bytes; a violation unless all of it lies in one live allocation."""
        block = self.block_of(address)
        if not is_device_address(address):
            self._violations.fail(f"{what}: {address:#x} is a host pointer where device memory is needed")
        if block is None:
            self._violations.fail(f"{what}: there is no device memory at {address:#x}")
        if block.freed:
            self._violations.fail(f"{what}: the device memory at {address:#x} was freed")
        start = address - block.address
        if start + size > block.size:
            self._violations.fail(f"{what}: {size} bytes are needed at {address:#x}, {block.size - start} are there")
        return block.data[start : start + size]

    def check_host(self, address: int, size: int, what: str) -> None:
        """Fails where a host pointer is a device address, null, or lies in freed or too small pinned memory."""
        if is_device_address(address):
            self._violations.fail(f"{what}: {address:#x} is a device address where host memory is needed")
        if address == 0 and size:
            self._violations.fail(f"{what}: a null pointer")
        block = self.block_of(address)
        if block is None:
            return
        if block.freed:
            self._violations.fail(f"{what}: the pinned memory at {address:#x} was freed")
        if address + size > block.address + block.size:
            rest = block.address + block.size - address
            self._violations.fail(f"{what}: {size} bytes are needed at {address:#x}, {rest} are there")

    def is_pinned(self, address: int) -> bool:
        """Returns whether a host address lies in pinned memory."""
        block = self.block_of(address)
        return block is not None and block.kind == "pinned"

    def live(self) -> list[Block]:
        """Returns what is allocated and not freed."""
        with self._lock:
            return [block for blocks in self._blocks.values() for block in blocks if not block.freed]

    def check_guards(self) -> None:
        """Records a violation for each live allocation that something wrote beside."""
        for block in self.live():
            if not block.guards_hold():
                self._violations.record(f"something wrote beside the {block.kind} memory at {block.address:#x}")


def is_device_address(address: int) -> bool:
    """Returns whether an address lies where only device memory does."""
    return address >= DEVICE_BASE


def host_bytes(address: int, size: int) -> Any:
    """Returns host memory at an address as a writable array of bytes."""

    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8) if size else np.empty(0, np.uint8)
