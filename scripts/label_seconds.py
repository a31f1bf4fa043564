"""Seconds per request of a running MONAI Label server, asked as 3D Slicer asks it; medians, the models in turn.

    .venv-label/bin/python scripts/label_seconds.py http://127.0.0.1:8000 MODEL,... IMAGE...

The first image is sent once before the clock starts: an INT8 bundle builds its engine then.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time

try:
    from monailabel.client import MONAILabelClient
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: take .venv-label/bin/python, which scripts/serve_label.sh makes") from error

SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}


def main(url: str, models: str, *images: str) -> None:
    names = models.split(",")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        client = MONAILabelClient(url, tmpdir=folder)
        first = [ask(client, name, images[0]) for name in names]
        for image in images:
            for name in names:
                seconds[name].append(ask(client, name, image))
    for name, before in zip(names, first, strict=True):
        print(
            f"{name}: {statistics.median(seconds[name]):.2f} s (median of {len(images)}), first request {before:.1f} s"
        )


def ask(client: MONAILabelClient, model: str, image: str) -> float:
    """Seconds from sending the request to having the label map; the image is uploaded before."""
    session = client.create_session(image)["session_id"]
    start = time.perf_counter()
    client.infer(model, image, dict(SLICER), session_id=session)
    passed = time.perf_counter() - start
    client.remove_session(session)
    return passed


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: .venv-label/bin/python scripts/label_seconds.py URL MODEL,... IMAGE...")
    main(*sys.argv[1:])
