from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.simulators.small_contexts import allocator_of, data_dependent
from tests.simulators.tensorrt import models
from tests.simulators.tensorrt.questions import Asked, growing_allocator


def known_shape(asked: Asked, allocator: Any) -> Any:
    """Returns a context with an output of known shape that is ready to run."""
    context = asked.bound(skip="y").context
    context.set_output_allocator("y", allocator)
    return context


@pytest.mark.parametrize("make", [data_dependent, known_shape])
def test_allocator_that_has_no_memory(asked: Asked, make: Any) -> None:
    poor = allocator_of(asked, lambda size: 0)

    assert not make(asked, poor).execute_async_v3(asked.stream)


@pytest.mark.parametrize("make", [data_dependent, known_shape])
def test_misaligned_memory_of_an_allocator(asked: Asked, make: Any) -> None:
    careless = allocator_of(asked, lambda size: asked.driver.allocate(size + 8) + 8)
    context = make(asked, careless)

    with asked.driver.violations.expected("not aligned"):
        context.execute_async_v3(asked.stream)


@pytest.mark.parametrize("make", [data_dependent, known_shape])
def test_too_little_memory_of_an_allocator(asked: Asked, make: Any) -> None:
    stingy = allocator_of(asked, lambda size: asked.driver.allocate(size - 1))
    context = make(asked, stingy)

    with asked.driver.violations.expected("bytes are needed"):
        context.execute_async_v3(asked.stream)


def test_data_dependent_output_without_an_allocator(asked: Asked) -> None:
    context = asked.context(asked.engine(models.non_zero()))
    context.set_input_shape("x", (2, 8))
    context.set_tensor_address("x", asked.upload(np.eye(2, 8, dtype=np.float32)))
    context.set_tensor_address("y", asked.driver.allocate(1024))

    assert not context.execute_async_v3(asked.stream)


def test_allocator_of_an_output_whose_shape_is_known(asked: Asked) -> None:
    bound = asked.bound(skip="y")
    allocator = growing_allocator(asked)
    assert bound.context.set_output_allocator("y", allocator)

    assert bound.run()

    assert allocator.seen == [["allocate", "y", True], ["shape", "y", [5, 4]]]
    np.testing.assert_allclose(asked.download(allocator.address, (5, 4)), bound.wanted, atol=1e-5)


def test_callback_that_uses_its_context(asked: Asked) -> None:
    context = data_dependent(asked, allocator_of(asked, lambda size: context.infer_shapes()))

    with asked.driver.violations.expected("inside of another call"):
        context.execute_async_v3(asked.stream)


def test_allocator_can_be_taken_back(asked: Asked) -> None:
    bound = asked.bound()
    bound.context.set_output_allocator("y", growing_allocator(asked))

    assert bound.context.set_output_allocator("y", None)

    assert bound.run()
    assert bound.is_right()


def test_allocator_is_told_the_stream_where_it_wants_it(asked: Asked) -> None:
    class Both(asked.trt.IOutputAllocator):
        def __init__(self) -> None:
            asked.trt.IOutputAllocator.__init__(self)
            self.streams: list[int] = []

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            raise AssertionError("the other one is there")

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            self.streams.append(stream)
            return int(asked.driver.allocate(size))

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            pass

    bound, both = asked.bound(skip="y"), Both()
    bound.context.set_output_allocator("y", both)

    assert bound.run()
    assert both.streams == [asked.stream]
