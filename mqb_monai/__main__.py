"""``python -m mqb_monai``."""

from mqb_monai.cli import main

main()
