import threading

import numpy as np
import pytest

from edgepose import EdgeposeError


def there_and_back(memory):
    with memory.active():
        pointer, near, far = memory.device(4 * 1000), memory.pinned((10, 100)), memory.pinned((10, 100))
        near.array[:] = np.arange(1000).reshape(10, 100)
        far.array[:] = 0
        mark = memory.event()
        memory.upload(pointer, near.array)
        memory.download(far.array[:5], pointer)
        mark.record()
        mark.wait()
        return near.array.copy(), far.array.copy()


def test_copies_there_and_back(memory, gpu):
    sent, received = there_and_back(memory)
    assert np.array_equal(received[:5], sent[:5])
    assert not received[5:].any()
    assert memory.gpu == gpu


def test_another_thread_may_use_it(memory):
    found = []
    thread = threading.Thread(target=lambda: found.append(there_and_back(memory)))
    thread.start()
    thread.join()
    assert np.array_equal(found[0][1][:5], found[0][0][:5])


def test_mapped_memory_is_the_same_on_both_sides(memory):
    with memory.active():
        shared, copy = memory.pinned((4, 8), mapped=True), memory.pinned((4, 8))
        shared.array[:] = np.random.default_rng(0).normal(size=(4, 8))
        memory.download(copy.array, shared.pointer)
        memory.synchronize()
        assert np.array_equal(copy.array, shared.array)


def test_a_recorded_graph_replays(memory):
    with memory.active():
        pointer, near, far = memory.device(256), memory.pinned((8, 8)), memory.pinned((8, 8))

        def copies():
            memory.upload(pointer, near.array)
            memory.download(far.array, pointer)

        replay = memory.graph(copies)
        if memory.library == "pycuda":
            assert replay is None
            return
        for value in (1.0, 2.0):
            near.array[:] = value
            replay()
            memory.synchronize()
            assert (far.array == value).all()


def test_what_cannot_be_had_is_a_sentence_and_the_gpu_goes_on(memory):
    with pytest.raises(EdgeposeError, match="the GPU .*refuses"), memory.active():
        memory.device(1 << 50)
    there_and_back(memory)


def test_nothing_is_left_behind(memory):
    """The device's free memory after a hundred openings, each with 8 MiB."""
    kind = type(memory)

    def free():
        if kind.library == "pycuda":
            return memory._driver.mem_get_info()[0]
        return memory._runtime.cudaMemGetInfo()[1]

    def use():
        other = kind()
        with other.active():
            other.device(8 << 20)
            other.pinned((2 << 20,))
            other.event()
        other.close()

    with memory.active():
        use()
        before = free()
        for _ in range(100):
            use()
        assert before - free() < 32 << 20
