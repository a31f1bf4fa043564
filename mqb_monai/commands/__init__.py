"""The commands of ``python -m mqb_monai``, one module per group; each imports what it needs when it runs."""
