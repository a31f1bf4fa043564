"""Reading and checking the volumes of a case: MONAI's transforms, with failures that name the file and what to do."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
from monai.config import DtypeLike, KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils.type_conversion import convert_to_numpy

from mqb_monai.data import checks
from mqb_monai.data.volumes import read_volume


class LoadImageStrictd(MapTransform):
    """:class:`monai.transforms.LoadImaged` for one volume per key, read (and refused) by :func:`.read_volume`.

    Gives ``MetaTensor`` without a channel axis, ``(H, W, D)``, its affine in mm. The number of axes is checked here and
    not later, because ``EnsureChannelFirstd`` takes a time axis for channels. The name holds "LoadImage" because MONAI
    Deploy leaves out the transforms whose class name does.

    Args:
        keys: the keys that hold paths.
        spatial_dims: number of spatial axes expected.
        dtype: dtype of the loaded array.
        allow_missing_keys: skip a key that is not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_dims: int = 3,
        dtype: DtypeLike = np.float32,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims, self.dtype = spatial_dims, dtype

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = read_volume(result[key], self.spatial_dims, self.dtype)
        return result


class CheckVolumesd(MapTransform):
    """Check a case right after loading and ``EnsureChannelFirstd``; images pass through unchanged.

    Every key: ``spatial_dims`` spatial axes after the channel axis, all values finite. The label: whole numbers from
    0 to ``num_classes - 1`` (rounding noise of files that store them as floats is taken off), and the shape and affine
    of every image of the case. Raises InputError: naming the file (the meta entry ``filename_or_obj``) or, where it is
    unknown, the key.

    Args:
        keys: the keys to check; where the label is absent at inference, leave it out.
        num_classes: number of classes with background; None sets no upper limit.
        spatial_dims: number of spatial axes expected.
        label_key: which of ``keys`` is the label map; all others are images.
        allow_missing_keys: skip a key that is not there.
        ignore_label: a value that the label may hold besides the classes; 0: none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int | None = None,
        spatial_dims: int = 3,
        label_key: str = "label",
        allow_missing_keys: bool = False,
        ignore_label: int = 0,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.spatial_dims, self.label_key = spatial_dims, label_key

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        present = list(self.key_iterator(dict(data)))
        for key in present:
            self._check_alone(key, data[key])
        if self.label_key not in present:
            return dict(data)
        label = data[self.label_key]
        for key in present:
            if key != self.label_key:
                self._check_pair(key, data[key], label)
        return {**data, self.label_key: label.round() if label.is_floating_point() else label}

    def _check_alone(self, key: Hashable, value: object) -> None:
        name = _file_name(key, value)
        checks.check_spatial_shape(value.shape[1:], self.spatial_dims, name)
        array = convert_to_numpy(value)
        checks.check_finite(array, name)
        if key == self.label_key:
            known = array[np.abs(array - self.ignore_label) > 0.5] if self.ignore_label else array
            checks.check_label_values(known, self.num_classes, name)

    def _check_pair(self, key: Hashable, image: object, label: object) -> None:
        names = _file_name(key, image), _file_name(self.label_key, label)
        checks.check_same_shape(image.shape[1:], label.shape[1:], *names)
        if isinstance(image, MetaTensor) and isinstance(label, MetaTensor):
            checks.check_same_affine(convert_to_numpy(image.affine), convert_to_numpy(label.affine), *names)


def _file_name(key: Hashable, value: object) -> str:
    name = value.meta.get("filename_or_obj") if isinstance(value, MetaTensor) else None
    return str(name) if name else f"'{key}' (in memory)"
