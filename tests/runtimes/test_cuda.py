"""CUDA's calls, over a stand-in that runs what a stream was given only when it is waited for."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.trt.cuda import Cuda, Memory
from tests.runtimes.fake_gpu import FakeRuntime


def held(memory: Memory) -> bytes:
    """What the device's memory holds now, whatever is still to run."""
    return ctypes.string_at(memory.address, memory.bytes)


def test_what_is_written_is_there_when_write_returns() -> None:
    with Cuda(FakeRuntime()) as cuda:
        memory, array = cuda.allocate(16), np.arange(4, dtype=np.float32)
        cuda.write(memory, array)
        expected = array.tobytes()
        array[:] = -1
        assert held(memory) == expected
        cuda.free(memory)


def test_what_is_read_is_there_when_read_returns() -> None:
    with Cuda(FakeRuntime()) as cuda:
        memory, array = cuda.allocate(16), np.full(4, np.nan, np.float32)
        cuda.read(memory, array)
        np.testing.assert_array_equal(array, np.zeros(4))
        cuda.free(memory)


def test_copies_keep_the_order_of_the_stream() -> None:
    with Cuda(FakeRuntime()) as cuda:
        memory, host = cuda.allocate(4), cuda.allocate_pinned(8)
        host.array[:] = [1, 2, 3, 4, 0, 0, 0, 0]
        cuda.copy_in(memory.address, host.address, 4)
        cuda.copy_out(host.address + 4, memory.address, 4)
        cuda.zero(memory)
        assert list(host.array[4:]) == [0, 0, 0, 0]
        cuda.synchronize()
        assert (list(host.array[4:]), held(memory)) == ([1, 2, 3, 4], bytes(4))
        cuda.free(memory)
        cuda.free_pinned(host)


def test_no_room_says_how_much_was_wanted_and_takes_nothing() -> None:
    with Cuda(FakeRuntime(room=1 << 20)) as cuda:
        memory = cuda.allocate(1 << 19)
        with pytest.raises(UserError, match=r"device memory: wanted 1.00.MiB, free 512.KiB; use a smaller batch"):
            cuda.allocate(1 << 20)
        assert (cuda.bytes, cuda.peak_bytes) == (1 << 19, 1 << 19)
        cuda.free(memory)
        assert cuda.bytes == 0
