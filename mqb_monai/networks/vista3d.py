"""VISTA3D as a plain segmentation network: its automatic branch, asked for the same classes every time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib import resources

import torch
from monai.networks.nets import VISTA3D, vista3d132

from mqb_monai.errors import InputError

ABSENT_LOGIT = float(-9999)  # MONAI's own NINF_VALUE


class FixedClassVISTA3D(VISTA3D):
    """MONAI's ``vista3d132`` whose class vector is fixed, so that an image is its only input.

    VISTA3D (He et al., "VISTA3D: Versatile Imaging SegmenTation and Annotation model for 3D Computed Tomography",
    2024, arXiv 2406.05285) takes class prompts and clicks. Here the classes are given once and clicks never, which
    leaves image encoder -> automatic decoder -> class head. The state dict is that of ``vista3d132``, key for key, so
    that what loads there (the ``model.pt`` of the model zoo's ``vista3d``) loads strictly here.

    The 217,964,982 parameters that the study prints are all of ``vista3d132``, whatever the number of outputs:
    encoder 174,951,120; automatic decoder (``image_encoder.up_layers_auto``) 21,155,952; class head 278,112, of which
    24,576 embed 512 classes; and the point branch, which never runs here and stays float when the network is
    quantized: ``image_encoder.up_layers`` 21,155,952 and ``point_head`` 423,846. It is kept for strict loading, and
    frozen, since nothing could train it.

    Channels: VISTA3D answers each class with the logit of a sigmoid of its own. Channel 0, the background, is the
    constant 0, so that the argmax is the class with the largest positive logit, and background where there is none:
    what MONAI's ``VistaPostTransformd`` makes of the same logits. A class that VISTA3D does not have is the constant
    -9999 and never wins. The product of features and class embeddings is a plain ``matmul`` (48 multiply-adds per
    voxel and class, 0.5 % of the network's) and stays float.

    Args:
        label_indices: VISTA3D's index of each output channel from 1 on, without repetition: 1 to 132 as in the model
            zoo's ``vista3d/docs/labels.json``, up to 511 for classes to be trained; None for a class without one.
            :func:`vista3d_indices` gives them for TotalSegmentator's names.
        in_channels: channels of the image.
        encoder_embed_dim: width of the first level, 48 in the public weights; a multiple of 8.

    ``forward`` maps an image ``(B, in_channels, H, W, D)``, sizes multiples of 16, to logits
    ``(B, 1 + len(label_indices), H, W, D)``.

    Raises:
        InputError: no class, an index out of range or given twice; in ``forward``, sizes that are no multiples of 16.
    """

    def __init__(self, label_indices: Sequence[int | None], in_channels: int = 1, encoder_embed_dim: int = 48) -> None:
        whole = vista3d132(encoder_embed_dim, in_channels)
        super().__init__(whole.image_encoder, whole.class_head, whole.point_head)
        for unused in (self.image_encoder.up_layers, self.point_head):
            unused.requires_grad_(False)
        self.label_indices = tuple(label_indices)
        present = [index for index in self.label_indices if index is not None]
        _check(present, self.class_head.class_embeddings.num_embeddings)
        # Not persistent, for the state dict to stay vista3d132's.
        self.register_buffer("class_vector", torch.tensor(present).unsqueeze(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.image_encoder.is_valid_shape(x):
            raise InputError(
                f"FixedClassVISTA3D takes sizes in multiples of {self.image_encoder.shape_factor()[0]}, "
                f"got {tuple(x.shape[2:])}. Set the inferer's roi_size so."
            )
        _, features = self.image_encoder(x, with_point=False, with_label=True)
        logits, _ = self.class_head(features, self.class_vector)  # (classes, B, H, W, D)
        background = torch.zeros_like(logits[0])
        absent = torch.full_like(logits[0], ABSENT_LOGIT)
        present = iter(logits.unbind())
        classes = (absent if index is None else next(present) for index in self.label_indices)
        return torch.stack([background, *classes], dim=1)


def vista3d_indices(names: Iterable[str]) -> list[int | None]:
    """Return VISTA3D's class index of each of TotalSegmentator's classes, for ``label_indices``.

    ``vista3d_classes.json`` holds the names of TotalSegmentator v1 (104) and v2 (117) and its sources. VISTA3D was
    trained on v2, so it has all of v2's and lacks seven of v1's: the face, the pulmonary artery and the five parts of
    the heart (it has the heart as one). Returns an index for each name, None where VISTA3D has no such class; an empty
    list for no names. Raises InputError: a name that is not TotalSegmentator's.

    Args:
        names: TotalSegmentator's names in the order of the channels, without the background.
    """
    text = (resources.files("mqb_monai.networks") / "vista3d_classes.json").read_text(encoding="utf-8")
    indices = json.loads(text)["totalsegmentator"]
    names = list(names)
    unknown = [name for name in names if name not in indices]
    if unknown:
        raise InputError(f"not a class of TotalSegmentator: {', '.join(unknown)}; expected any of {', '.join(indices)}")
    return [indices[name] for name in names]


def _check(present: Sequence[int], limit: int) -> None:
    if not present:
        raise InputError("FixedClassVISTA3D: label_indices names no class of VISTA3D; give at least one index")
    wrong = [index for index in present if not 1 <= index < limit]
    if wrong:
        raise InputError(f"FixedClassVISTA3D: label_indices must lie in 1..{limit - 1} or be None, got {wrong}")
    twice = sorted({index for index in present if present.count(index) > 1})
    if twice:
        raise InputError(f"FixedClassVISTA3D: label_indices gives {twice} more than once; each may stand once")
