"""Shape profiles: into a build, into a stored engine, and the choice of one when an engine runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tf_opt.engines.base import ShapeProfile
from tf_opt.errors import EngineBuildError
from tf_opt.ops.python_runtime import UnsupportedShapeError

if TYPE_CHECKING:
    import tensorrt as trt

Range = tuple[tuple[int, ...], tuple[int, ...]]
"""Smallest and largest shape, or value of each element."""


def to_plain(profiles: Sequence[ShapeProfile]) -> list[dict[str, Any]]:
    """Returns profiles as plain values for the header of a stored engine; `from_plain` reads them."""
    return [
        {
            "shapes": {
                name: [list(profile.minimum[name]), list(profile.optimum[name]), list(profile.maximum[name])]
                for name in sorted(profile.minimum)
            },
            "values": {name: [list(each) for each in profile.values[name]] for name in sorted(profile.values)},
        }
        for profile in profiles
    ]


def from_plain(plain: Sequence[Mapping[str, Any]]) -> list[ShapeProfile]:
    """Returns the profiles that `to_plain` wrote."""
    return [
        ShapeProfile(
            minimum={name: tuple(shapes[0]) for name, shapes in profile["shapes"].items()},
            optimum={name: tuple(shapes[1]) for name, shapes in profile["shapes"].items()},
            maximum={name: tuple(shapes[2]) for name, shapes in profile["shapes"].items()},
            values={
                name: (tuple(values[0]), tuple(values[1]), tuple(values[2]))
                for name, values in profile["values"].items()
            },
        )
        for profile in plain
    ]


def add_profiles(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    profiles: Sequence[ShapeProfile],
    segment: str,
) -> None:
    """Tells the build each profile: shapes of inputs with unknown dimensions, values of inputs that hold a shape.

    Raises:
        EngineBuildError: A profile is missing, incomplete, or refused by TensorRT.
    """
    inputs = [tensor for index in range(network.num_inputs) if (tensor := network.get_input(index)) is not None]
    try:
        open_inputs = [tensor for tensor in inputs if tensor.is_shape_tensor or -1 in tuple(tensor.shape)]
    except ValueError as error:  # The length of a shape whose rank is unknown.
        raise EngineBuildError(f"{segment} has an input of unknown rank, which TensorRT does not run.") from error
    if open_inputs and not profiles:
        raise EngineBuildError(
            f"{segment} has inputs with unknown dimensions ({', '.join(each.name for each in open_inputs)}) and no "
            "shape profile. TensorRT needs the range of shapes: give feeds, or TensorRTSettings(profiles=[...])."
        )
    if not open_inputs:
        return  # TensorRT makes the only profile itself.
    for number, ranges in enumerate(profiles):
        profile = builder.create_optimization_profile()
        for tensor in open_inputs:
            _add_input(profile, tensor, ranges, f"Profile {number} of {segment}")
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuildError(f"TensorRT does not take profile {number} of {segment}: {ranges}.")


def _add_input(profile: trt.IOptimizationProfile, tensor: trt.ITensor, ranges: ShapeProfile, title: str) -> None:
    name = tensor.name
    try:
        if tensor.is_shape_tensor:
            values = ranges.values.get(name)
            if values is None:
                raise EngineBuildError(f"{title} has no values for {name}, which holds a shape.")
            profile.set_shape_input(name, *(list(each) for each in values))
        if -1 in tuple(tensor.shape):
            if name not in ranges.minimum:
                raise EngineBuildError(f"{title} has no shapes for {name}.")
            profile.set_shape(name, ranges.minimum[name], ranges.optimum[name], ranges.maximum[name])
    except (RuntimeError, ValueError, TypeError) as error:
        raise EngineBuildError(
            f"{title} does not fit {name}, whose shape is {tuple(tensor.shape)}: {ranges.minimum.get(name)} to "
            f"{ranges.maximum.get(name)}, values {ranges.values.get(name)}. TensorRT says: {error}"
        ) from error


@dataclass(frozen=True, kw_only=True)
class ProfileTable:
    """The ranges of each profile of a loaded engine.

    Attributes:
        shapes: Per profile, the range of each input by name.
        values: Per profile, the range of the values of each input that holds a shape.
        labels: What a user knows each input by.
    """

    shapes: tuple[Mapping[str, Range], ...]
    values: tuple[Mapping[str, Range], ...]
    labels: Mapping[str, str] = field(default_factory=dict)

    def choose(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, tuple[int, ...]]) -> int:
        """Returns the first profile that serves these inputs, as the tuned ones stand before the wide one.

        Args:
            shapes: Shape of each input.
            values: Elements of each input that holds a shape.

        Raises:
            UnsupportedShapeError: None does; the message says which input is in no range.
        """
        for index, ranges in enumerate(self.shapes):
            allowed = self.values[index]
            if all(_is_inside(shape, ranges[name]) for name, shape in shapes.items()) and all(
                _is_inside(elements, allowed[name]) for name, elements in values.items() if name in allowed
            ):
                return index
        raise UnsupportedShapeError(self._explain(shapes, values))

    def _explain(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, tuple[int, ...]]) -> str:
        for what, given, table in (("shape", shapes, self.shapes), ("values", values, self.values)):
            for name, tuple_ in given.items():
                ranges = [profile[name] for profile in table if name in profile]
                if ranges and not any(_is_inside(tuple_, each) for each in ranges):
                    listed = " or ".join(f"{low} to {high}" for low, high in ranges)
                    return f"{self._label(name)} has the {what} {tuple_}; the engine takes {listed}"
        listed = ", ".join(f"{self._label(name)} {shape}" for name, shape in shapes.items())
        return f"no profile of the engine takes all of {listed} together: {self.shapes}"

    def _label(self, name: str) -> str:
        return f"{name} ({self.labels[name]!r})" if name in self.labels else name


def _is_inside(given: tuple[int, ...], allowed: Range) -> bool:
    low, high = allowed
    return len(given) == len(low) and all(a <= x <= b for a, x, b in zip(low, given, high, strict=True))
