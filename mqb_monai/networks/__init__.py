"""Networks of the study that neither MONAI nor dynamic-network-architectures has, under upstream's state-dict keys.

The tests hold each to a golden file: upstream's names, shapes and outputs, in float32 and float64.
"""

from mqb_monai.networks.medformer.network import MedFormer
from mqb_monai.networks.medptq_unet import MedPTQUNet
from mqb_monai.networks.patch_merging import LegacyPatchMerging
from mqb_monai.networks.stunet import STUNet
from mqb_monai.networks.transunet import TransUNet
from mqb_monai.networks.unest.network import UNesT
from mqb_monai.networks.vista3d import FixedClassVISTA3D

__all__ = ["FixedClassVISTA3D", "LegacyPatchMerging", "MedFormer", "MedPTQUNet", "STUNet", "TransUNet", "UNesT"]
