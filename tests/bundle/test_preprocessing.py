from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, ConcatItemsd, Lambdad, LoadImaged, MapTransform

from mqb_monai.bundle.open import open_bundle
from mqb_monai.bundle.preprocessing import as_label_map, image_keys, load_case, network_key, preprocess
from mqb_monai.errors import InputError
from mqb_monai.evaluation.case import Case


class NoKeys(MapTransform):
    """A third party's transform that never calls ``MapTransform.__init__``."""

    def __init__(self):
        pass

    def __call__(self, data):
        return data


class Parts:
    """A bundle that has a preprocessing and nothing else."""

    device = torch.device("cpu")

    def __init__(self, *steps):
        self.preprocessing = Compose(steps)


def test_image_keys_are_those_that_the_loaders_demand():
    steps = [NoKeys(), LoadImaged("t1"), Compose([LoadImaged(["t2", "t1"])])]
    assert image_keys(Compose([*steps, LoadImaged("label", allow_missing_keys=True)])) == ["t1", "t2"]
    assert image_keys(Compose([Lambdad("scan", func=str)])) == ["scan"]
    assert image_keys(lambda case: case) == image_keys(Compose([NoKeys()])) == ["image"]


def test_network_key_is_image_or_what_was_made_of_the_images():
    assert network_key(LoadImaged("scan"), {"scan": 1, "image": 2}) == "image"
    joined = Compose([LoadImaged(["a", "b"]), ConcatItemsd(["a", "b"], "ab")])
    assert network_key(joined, {"a": 1, "b": 2, "ab": 3}) == "ab"
    assert network_key(LoadImaged("scan"), {"scan": 1}) == "scan"
    with pytest.raises(InputError, match=r"makes no 'image'.*it makes a, b"):
        network_key(LoadImaged(["a", "b"]), {"a": 1, "b": 2})


def test_preprocess_drops_a_label_that_nothing_demands():
    case = Case("1", {"image": "1"}, "1", "2")
    optional = Parts(Lambdad("image", func=str), Lambdad("label", func=str, allow_missing_keys=True))
    assert preprocess(optional, case) == {"image": "1"}
    assert preprocess(Parts(Lambdad(["image", "label"], func=str)), case) == {"image": "1", "label": "2"}


def test_preprocess_names_the_image_that_cannot_be_read(tmp_path):
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"bad\.nii\.gz"):
        preprocess(Parts(LoadImaged("image", reader="NibabelReader")), Case("bad", {"image": str(path)}, str(path)))


def test_load_case_gives_image_and_label_of_the_files(make_bundle, make_scans):
    """Oracle: nibabel."""
    scans = make_scans(["a"])
    image, label = (scans / kind / "a.nii.gz" for kind in ("images", "labels"))
    bundle = open_bundle(make_bundle())
    loaded = load_case(bundle, Case("a", {"image": str(image)}, str(image), str(label)))
    assert np.array_equal(loaded.image, nib.load(image).get_fdata(dtype=np.float32))
    assert np.array_equal(loaded.label, nib.load(label).dataobj) and loaded.spacing_mm == (2.0, 1.0, 1.0)
    assert loaded.batch["image"].shape == (1, 1, 20, 18, 16) and "label" not in loaded.batch
    with pytest.raises(InputError, match=r"could not read .*absent\.nii\.gz"):
        load_case(bundle, Case("a", {"image": str(image)}, str(image), str(image.with_name("absent.nii.gz"))))


def test_load_case_rounds_a_label_that_was_stored_as_float(make_bundle, make_scans):
    """Files that scale their labels store 1 as 0.9999: the same map as of the whole numbers."""
    bundle, scans = open_bundle(make_bundle()), make_scans(["a"])
    image, path = (scans / folder / "a.nii.gz" for folder in ("images", "labels"))
    case = Case("a", {"image": str(image)}, str(image), str(path))
    stored = nib.load(path)
    whole = np.asarray(stored.dataobj)
    whole[:, :, :2] = 9
    nib.save(nib.Nifti1Image(whole * np.float32(0.9999), stored.affine), path)
    with bundle.environment():
        assert np.array_equal(load_case(bundle, case, ignore_label=9).label, whole)
        assert np.array_equal(load_case(bundle, case).label, whole)


def test_as_label_map_tells_labels_classes_and_regions_apart():
    labels = torch.tensor([[0, 2, 1, 2]]).reshape(1, 4, 1, 1)
    one_hot = torch.nn.functional.one_hot(labels[0], 3).movedim(-1, 0)
    for tensor in (labels, labels.float(), one_hot, one_hot.float() * 0.6 + 0.1):
        found = as_label_map(tensor, "it")
        assert found.dtype == np.int16 and np.array_equal(found, labels[0])
    regions = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).reshape(2, 4, 1, 1)
    assert as_label_map(regions, "it").dtype == bool and np.array_equal(as_label_map(regions, "it"), regions.bool())
    with pytest.raises(InputError, match=r"it holds values that are not whole numbers \(as 0\.25\).*AsDiscreted"):
        as_label_map(torch.tensor([[0.25, 1.0]]), "it")
