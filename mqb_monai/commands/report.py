"""``python -m mqb_monai report``: one page and PNGs from a folder of records."""

from __future__ import annotations

from fire.decorators import SetParseFns

from mqb_monai.errors import InputError

NEEDS = {"altair", "vl_convert", "jinja2", "markupsafe", "PIL"}


@SetParseFns(str, out=str)
def report(runs: str, *, out: str = "report") -> None:
    """Write a page that works offline, and PNGs for papers, from a folder of records.

    Args:
        runs: the folder that `bench run --out` was given, a bundle's eval folder, or the folder of one evaluation.
        out: the folder for index.html and png/.
    """
    try:
        from mqb_monai.report.page import write_report
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDS:
            raise
        raise InputError(f"the report needs {error.name}: pip install 'mqb_monai[report]'.") from error

    written = write_report(runs, out)
    for sentence in written.left_out:
        print(f"left out: {sentence}")
    size_mb = written.page.stat().st_size / 1e6
    print(f"wrote {written.page} ({size_mb:.1f} MB) and {len(written.pngs)} PNGs in {written.page.parent / 'png'}")
