"""MONAI Label 0.8.5's web app with three repairs; serve_label.sh starts it (``--uvicorn_app label_server:app``).

- A failed request is answered with its cause, where MONAI Label says "Internal Server Error" only: an image that cannot
  be read, a checkpoint that does not fit its bundle.
- NIfTI images pass MONAI 1.6.1's ``Spacingd``, which takes every entry that begins with ``image_`` for a dictionary of
  metadata; MONAI Label's ``image_path`` is a text.
- No web page of another origin may read an answer: MONAI Label allows every one that the browser has open (and its
  setting MONAI_LABEL_CORS_ORIGINS stops it from starting).
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.tasks.infer import bundle


class PathKeepingInferTask(bundle.BundleInferTask):
    """Serves a bundle, its preprocessing run without ``image_path``."""

    def run_pre_transforms(self, data: dict[str, Any], transforms: Any) -> dict[str, Any]:
        path = data.pop("image_path", None)
        return {**super().run_pre_transforms(data, transforms), "image_path": path}


bundle.BundleInferTask = PathKeepingInferTask  # the monaibundle app, loaded when the server starts, takes it from there
app.user_middleware = [layer for layer in app.user_middleware if layer.cls is not CORSMiddleware]


@app.exception_handler(Exception)
async def answer(request: Request, error: Exception) -> JSONResponse:
    """Status 500 with the cause as ``detail``; uvicorn logs the traceback all the same."""
    return JSONResponse({"detail": f"{request.url.path}: {cause_of(error)}"}, status_code=500)


def cause_of(error: BaseException) -> str:
    """The innermost cause, as ``ImageFileError: ... is not a gzip file``: MONAI wraps what a transform raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {getattr(error, 'msg', error)}"
