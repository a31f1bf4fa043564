"""The label maps' checks; their error messages are tested through dice."""

import numpy as np

from mqb_monai.metrics.label_maps import check_label_maps


def test_check_label_maps_returns_one_byte_per_voxel_up_to_256_classes():
    # Oracle: the range of uint8.
    maps = np.zeros((2, 2), np.int64), np.ones((2, 2), np.int64)
    assert [array.dtype for array in check_label_maps(*maps, 256)] == [np.uint8, np.uint8]
    assert check_label_maps(*maps, 257)[0].dtype == np.uint16
