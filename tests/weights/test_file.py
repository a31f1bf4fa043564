from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.weights.file import read_weights


def weights(seed=0):
    return {"weight": torch.full((2,), float(seed)), "bias": torch.zeros(2)}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


class Planted:
    """Unpickling it would make a folder."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_read_weights_finds_the_state_dict(tmp_path):
    for wrapper in ["state_dict", "network_weights", "model_state_dict", "ema_model_state_dict", "net", "model"]:
        checkpoint = read_weights(saved(tmp_path / "a.pt", {"epoch": 3, wrapper: weights(7), "optimizer": {"lr": 0.1}}))
        assert torch.equal(checkpoint.state["weight"], torch.full((2,), 7.0))
        assert (checkpoint.wrapper, checkpoint.passed_over, checkpoint.monai_version) == (wrapper, (), "")


def test_read_weights_takes_a_plain_state_dict(tmp_path):
    checkpoint = read_weights(saved(tmp_path / "a.pt", nn.Conv3d(1, 2, 3).state_dict()))
    assert set(checkpoint.state) == {"weight", "bias"} and checkpoint.wrapper == ""


def test_read_weights_looks_inside_a_wrapper(tmp_path):
    checkpoint = read_weights(saved(tmp_path / "a.pt", {"net": {"model": {"state_dict": weights()}}}))
    assert checkpoint.wrapper == "net/model/state_dict"


def test_read_weights_prefers_in_the_documented_order_and_says_what_it_passed_over(tmp_path):
    path = saved(tmp_path / "a.pt", {"ema_model_state_dict": weights(1), "model_state_dict": weights(2), "net": None})
    checkpoint = read_weights(path)
    assert checkpoint.state["weight"][0] == 2
    assert (checkpoint.wrapper, checkpoint.passed_over) == ("model_state_dict", ("ema_model_state_dict",))


def test_read_weights_takes_the_wrapper_that_is_asked_for(tmp_path):
    path = saved(tmp_path / "a.pt", {"ema_model_state_dict": weights(1), "model_state_dict": weights(2)})
    assert read_weights(path, wrapper="ema_model_state_dict").state["weight"][0] == 1
    with pytest.raises(InputError, match=r"no state dict under 'net': it has one under 'model_state_dict' and 'ema_"):
        read_weights(path, wrapper="net")


def test_read_weights_says_what_a_file_without_state_dict_holds(tmp_path):
    with pytest.raises(InputError, match=r"holds no state dict: .*under state_dict, .*it holds the keys epoch, lr"):
        read_weights(saved(tmp_path / "a.pt", {"epoch": 3, "lr": 0.1}))
    with pytest.raises(InputError, match="it holds list"):
        read_weights(saved(tmp_path / "b.pt", [torch.zeros(1)]))


def test_read_weights_ends_on_a_dictionary_that_holds_itself(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    with pytest.raises(InputError, match="holds no state dict"):
        read_weights(saved(tmp_path / "a.pt", content))


def test_read_weights_reads_what_nnunet_writes(tmp_path):
    """The entries of nnU-Net 2's ``nnUNetTrainer.save_checkpoint``, with numpy numbers in its logging."""
    content = {
        "network_weights": weights(),
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float32(0.5), np.float64(1)]]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"plans": {"plans_name": "nnUNetPlans"}, "fold": 0, "device": torch.device("cuda", 0)},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    path = saved(tmp_path / "checkpoint_final.pth", content)
    with pytest.raises(Exception, match="scalar"):  # torch alone refuses the numbers
        torch.load(path, weights_only=True)
    assert read_weights(path).wrapper == "network_weights"
    with pytest.raises(Exception, match="scalar"):  # and does so again afterwards
        torch.load(path, weights_only=True)


def test_read_weights_reads_numbers_of_numpy_1(tmp_path):
    path = saved(tmp_path / "a.pt", {"net": weights(), "acc": np.float64(1)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_weights(path).wrapper == "net"


@pytest.mark.parametrize("zipped", [True, False])
def test_read_weights_never_unpickles_objects(zipped, tmp_path):
    content = {"network_weights": weights(), "trainer": Planted(tmp_path / "planted")}
    path = saved(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"objects.*never unpickled here.*[Ww]here you trust the file") as caught:
        read_weights(path)
    assert not (tmp_path / "planted").exists()
    assert "weights_only=False" not in str(caught.value)


def test_read_weights_names_the_foreign_objects_and_the_safe_way(tmp_path):
    path = saved(tmp_path / "a.pth", {"network_weights": weights(), "array": np.zeros(3), "x": Planted(tmp_path / "x")})
    with pytest.raises(InputError) as caught:
        read_weights(path)
    safe_way = ("torch.save(checkpoint[ENTRY], 'weights.pt')", "then give weights.pt")
    for part in ("numpy.ndarray", f"{os.name}.mkdir", *safe_way):
        assert part in str(caught.value)


def test_read_weights_keeps_the_recorded_version(tmp_path):
    assert read_weights(saved(tmp_path / "a.pt", {"net": weights(), "monai_version": "1.1.0"})).monai_version == "1.1.0"
    assert read_weights(saved(tmp_path / "b.pt", {"net": weights(), "monai_version": 1})).monai_version == ""


def test_read_weights_names_an_absent_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"no weights at .*model\.pt, which does not exist.*train the bundle, or copy"):
        read_weights(tmp_path / "model.pt")
    with pytest.raises(InputError, match="which is a folder"):
        read_weights(tmp_path)


def test_read_weights_refuses_a_truncated_file(tmp_path):
    for length in [0, 3, 100, 0.5, -1]:
        path = saved(tmp_path / "model.pt", {"weight": torch.zeros(64, 64)})
        content = path.read_bytes()
        path.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
        with pytest.raises(InputError, match=r"model\.pt .*(cannot be read as weights|not a tensor file)"):
            read_weights(path)


def test_read_weights_calls_a_failed_download_by_its_name(tmp_path):
    for content in [b"", b"hello world", b"404: Not Found", b"<html></html>", b"version https://git-lfs", b"\x80\x02"]:
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.pt (cannot be read as weights \(truncated, |is not a tensor file)"):
            read_weights(tmp_path / "a.pt")


def test_read_weights_never_unpickles_a_bare_pickle(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Planted(tmp_path / "planted"), protocol=2))
    with pytest.raises(InputError, match=r"pickled objects|cannot be read"):
        read_weights(tmp_path / "a.pt")
    assert not (tmp_path / "planted").exists()


def test_read_weights_says_that_a_file_may_not_be_read(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = saved(tmp_path / "model.pt", weights())
    monkeypatch.setattr(torch, "load", forbidden)  # root may read whatever the permissions say
    with pytest.raises(InputError, match=r"model\.pt may not be read: its permissions forbid it"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_read_weights_tells_a_torchscript_file(tmp_path):
    torch.jit.script(nn.Conv2d(1, 2, 3)).save(tmp_path / "model.pt")
    with pytest.raises(InputError, match="is a TorchScript file"):
        read_weights(tmp_path / "model.pt")


def test_read_weights_takes_the_only_state_dict_under_an_unknown_name(tmp_path):
    assert read_weights(saved(tmp_path / "a.pt", {"generator": weights(), "epoch": 3})).wrapper == "generator"
    with pytest.raises(InputError, match=r"holds no state dict: .*it holds the keys generator, critic"):
        read_weights(saved(tmp_path / "b.pt", {"generator": weights(), "critic": weights()}))


def test_read_weights_takes_tensors_that_stand_beside_other_entries(tmp_path):
    assert set(read_weights(saved(tmp_path / "a.pt", {**weights(), "epoch": 3})).state) == {"weight", "bias"}
