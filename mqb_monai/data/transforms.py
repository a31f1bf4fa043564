"""Checks of what was read: one clear sentence about a file, before a network turns it into a wrong segmentation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from monai.config import DtypeLike, KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform
from monai.utils.type_conversion import convert_to_numpy

from mqb_monai.errors import InputError

AFFINE_TOLERANCE_VOXELS = 1e-3
MAX_NAMED = 8


def check_spatial_shape(shape: Sequence[int], spatial_dims: int, name: str) -> None:
    """Refuse an array whose axes, channels left out, are not ``spatial_dims`` non-empty spatial ones.

    Raises:
        InputError: naming ``name`` and the shape.
    """
    shape = tuple(int(size) for size in shape)
    if len(shape) != spatial_dims or 0 in shape:
        raise InputError(
            f"expected a {spatial_dims}D volume, got shape {shape} in {name}. "
            "Give one volume per file: split a time series or a multi-channel file, stack single slices."
        )


def check_finite(array: np.ndarray, name: str) -> None:
    """Refuse NaN and Inf: normalization would spread them over the whole volume.

    Raises:
        InputError: naming ``name`` and how many of each there are.
    """
    num_nan, num_inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    if num_nan or num_inf:
        raise InputError(
            f"expected finite values only, got {num_nan} NaN and {num_inf} Inf of {array.size} voxels in {name}. "
            "Replace them (background of CT: -1024) or export the file again."
        )


def check_label_values(array: np.ndarray, num_classes: int | None, name: str) -> None:
    """Refuse a label map with anything but whole numbers from 0 to ``num_classes - 1`` (None: no upper limit).

    Raises:
        InputError: naming ``name`` and the offending values.
    """
    values = np.unique(array)
    wrong = (values < 0) | (values != np.round(values))
    if num_classes is not None:
        wrong |= values > num_classes - 1
    if wrong.any():
        found = ", ".join(f"{value:g}" for value in values[wrong][:MAX_NAMED])
        more = ", ..." if wrong.sum() > MAX_NAMED else ""
        allowed = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
        raise InputError(
            f"expected whole label values {allowed}, also found {found}{more} in {name}. "
            "Renumber the label map to this bundle's classes, or export it without interpolation."
        )


def check_same_shape(image_shape: Sequence[int], label_shape: Sequence[int], image_name: str, label_name: str) -> None:
    """Refuse a label map of another spatial shape than its image.

    Raises:
        InputError: with both shapes and both names.
    """
    image_shape, label_shape = tuple(map(int, image_shape)), tuple(map(int, label_shape))
    if image_shape != label_shape:
        raise InputError(
            f"expected image and label of the same shape, got {image_shape} in {image_name} "
            f"and {label_shape} in {label_name}. Resample the label to the image's grid."
        )


def check_same_affine(image_affine: np.ndarray, label_affine: np.ndarray, image_name: str, label_name: str) -> None:
    """Refuse a label map that lies elsewhere in space than its image.

    Args:
        image_affine: ``(4, 4)``, voxels to mm; likewise ``label_affine``. They may differ by a thousandth of the
            smallest voxel edge, since files round them.
        image_name: what the message calls the image; likewise ``label_name``.

    Raises:
        InputError: with both affines and both names.
    """
    voxel_mm = np.linalg.norm(image_affine[:-1, :-1], axis=0).min()
    if np.abs(image_affine - label_affine).max() > AFFINE_TOLERANCE_VOXELS * voxel_mm:
        raise InputError(
            f"expected image and label in the same place, got affine {_rows(image_affine)} in {image_name} "
            f"and {_rows(label_affine)} in {label_name}. Resample the label to the image's grid, or correct its header."
        )


def _rows(affine: np.ndarray) -> str:
    return str(np.round(affine[:-1].astype(float), 4).tolist())


class LoadImageStrictd(MapTransform):
    """:class:`monai.transforms.LoadImaged` for one volume per key, whose failures name the file and what to do.

    Gives ``MetaTensor`` without a channel axis, ``(H, W, D)``; a NIfTI ``(H, W, D, 1)`` is passed on as it is. The
    number of axes is checked here and not later, because ``EnsureChannelFirstd`` takes a time axis for channels.

    The name holds "LoadImage" because MONAI Deploy leaves out the transforms whose class name does.

    Args:
        keys: the keys that hold paths.
        spatial_dims: number of spatial axes expected.
        dtype: dtype of the loaded array.
        allow_missing_keys: skip a key that is not there.

    Raises:
        InputError: the file is absent, truncated, not an image, or not one volume.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_dims: int = 3,
        dtype: DtypeLike = np.float32,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims
        self.loader = LoadImage(image_only=True, dtype=dtype)

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        result = dict(data)
        for key in self.key_iterator(result):
            name = str(result[key])
            result[key] = _load(self.loader, result[key], name)
            shape = tuple(result[key].shape)
            one_volume = len(shape) == 4 and self.spatial_dims == 3 and shape[-1] == 1
            check_spatial_shape(shape[:-1] if one_volume else shape, self.spatial_dims, name)
        return result


def _load(loader: LoadImage, path: object, name: str) -> MetaTensor:
    try:
        return loader(path)
    except MemoryError:
        raise
    except Exception as error:  # readers raise whatever their format's library does: zlib.error, EOFError, ...
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise InputError(
            f"could not read {name}: expected a complete image file such as .nii.gz, "
            f"got {type(error).__name__}: {reason}. Check the path; if it is there, copy or export the file again."
        ) from error


class CheckVolumesd(MapTransform):
    """Check a case right after loading and ``EnsureChannelFirstd``; the data passes through unchanged.

    Every key: ``spatial_dims`` spatial axes after the channel axis, all values finite. The label: whole numbers from
    0 to ``num_classes - 1``, and the shape and affine of every image of the case.

    Args:
        keys: the keys to check; where the label is absent at inference, leave it out.
        num_classes: number of classes with background; None sets no upper limit.
        spatial_dims: number of spatial axes expected.
        label_key: which of ``keys`` is the label map; all others are images.
        allow_missing_keys: skip a key that is not there.

    Raises:
        InputError: naming the file (the meta entry ``filename_or_obj``) or, where it is unknown, the key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int | None = None,
        spatial_dims: int = 3,
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_classes = num_classes
        self.spatial_dims = spatial_dims
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        present = list(self.key_iterator(dict(data)))
        for key in present:
            self._check_alone(key, data[key])
        for key in present:
            if self.label_key in present and key != self.label_key:
                self._check_pair(key, data[key], data[self.label_key])
        return dict(data)

    def _check_alone(self, key: Hashable, value: object) -> None:
        name = _file_name(key, value)
        check_spatial_shape(value.shape[1:], self.spatial_dims, name)
        array = convert_to_numpy(value)
        check_finite(array, name)
        if key == self.label_key:
            check_label_values(array, self.num_classes, name)

    def _check_pair(self, key: Hashable, image: object, label: object) -> None:
        names = _file_name(key, image), _file_name(self.label_key, label)
        check_same_shape(image.shape[1:], label.shape[1:], *names)
        if isinstance(image, MetaTensor) and isinstance(label, MetaTensor):
            check_same_affine(convert_to_numpy(image.affine), convert_to_numpy(label.affine), *names)


def _file_name(key: Hashable, value: object) -> str:
    name = value.meta.get("filename_or_obj") if isinstance(value, MetaTensor) else None
    return str(name) if name else f"'{key}' (in memory)"
