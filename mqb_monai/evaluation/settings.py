"""What the user chose for a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mqb_monai.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What the user chose for all cells.

    Attributes:
        threads: of torch and of engines; 0 leaves the choice to them.
        repeats: forwards of one window that are timed.
        progress: show a bar per bundle.
        tolerance_mm: of the NSD; the bundle's own where None.
        use_subvoxels: of the NSD.
        class_names: of classes 1 and up; the bundle's own where empty.
        ignore_label: voxels with this value in the label are not scored; None where there is none.
        make_checkpoints: quantize by the data set's list "calibration" where a checkpoint is missing.
        compare: hold engines against their simulation on every case, which takes four more passes.
    """

    threads: int = 0
    repeats: int = 5
    progress: bool = True
    tolerance_mm: float | tuple[float, ...] | None = None
    use_subvoxels: bool = False
    class_names: tuple[str, ...] = ()
    ignore_label: int | None = None
    make_checkpoints: bool = True
    compare: bool = False

    def __post_init__(self) -> None:
        require_whole("threads", self.threads, "from 0 on (0: the engine's choice)")
        if self.tolerance_mm is not None:
            require_tolerance(self.tolerance_mm)
        require_truth("use_subvoxels", self.use_subvoxels)
        require_truth("compare", self.compare)
        if self.ignore_label is not None:
            require_whole("ignore_label", self.ignore_label, "from 1 on", least=1)


def require_whole(option: str, value: object, valid: str, least: int = 0) -> None:
    """Refuse anything but a whole number of at least ``least``.

    Raises:
        InputError: naming the option, its value and what is valid.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"--{option} must be a whole number {valid}, got {value!r}.")


def require_truth(option: str, value: object) -> None:
    """Refuse anything but True or False: fire hands "maybe" over as a string, which would count as true.

    Raises:
        InputError: naming the option and its value.
    """
    if not isinstance(value, bool):
        raise InputError(f"--{option} must be True or False, got {value!r}.")


def require_tolerance(value: object) -> None:
    """Refuse tolerances that are not finite distances of at least 0.

    Raises:
        InputError: naming the option and its value.
    """
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    numbers = [number for number in values if isinstance(number, int | float) and not isinstance(number, bool)]
    if not values or len(numbers) < len(values) or not all(0 <= number < math.inf for number in numbers):
        raise InputError(
            f"--tolerance_mm must be a distance in mm (0 or more), or one for each class as 1,2.5; got {value!r}."
        )


def utc_now() -> str:
    """ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
