"""The page and its PNGs: everything that the records of a folder hold, in one HTML file that needs no network."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import vl_convert
from markupsafe import Markup, escape

from mqb_monai.errors import InputError
from mqb_monai.records.aggregate import score_schemes
from mqb_monai.records.engine_timings import published_engine
from mqb_monai.records.evaluation import EvaluationRecord
from mqb_monai.records.tables.evaluations import tolerance
from mqb_monai.report import published
from mqb_monai.report.charts import VEGA_LITE, Figure, case_figure, organ_figure, styled, tradeoff_figures
from mqb_monai.report.overlays import JUDGEMENTS, CasePictures, case_pictures, data_uri
from mqb_monai.report.png import PNG_FOLDER, PPI, write_figure, write_overlays
from mqb_monai.report.recipes import precision_figures, recipe_rows
from mqb_monai.report.runs import Runs, read_runs
from mqb_monai.report.scores import by_bundle, by_dataset, cell_label, class_rows, leaderboard_rows, scheme_label
from mqb_monai.report.sensitivity_charts import sensitivity_figures
from mqb_monai.report.shift_charts import shift_figures
from mqb_monai.system.files import atomic_path
from mqb_monai.system.versions import versions

PAGE = "index.html"


@dataclass(frozen=True)
class ChartSection:
    """Figures under one heading, ``short`` in the navigation; without figures it is left out of the page."""

    id: str
    short: str
    title: str
    note: str
    figures: list[Figure]


@dataclass(frozen=True)
class WrittenReport:
    """What was written: the page, the PNGs, and what the page leaves out, one sentence each."""

    page: Path
    pngs: list[Path]
    left_out: list[str]


def write_report(folder: str | os.PathLike, out: str | os.PathLike) -> WrittenReport:
    """Write ``OUT/index.html`` and ``OUT/png/*.png`` from the records in ``folder``.

    Raises InputError: nothing in ``folder`` can be shown (:func:`mqb_monai.report.runs.read_runs`), or ``out`` cannot
    be written. Both leave what was in ``out`` as it was.
    """
    runs, out = read_runs(folder), Path(out)
    pictures = _read_pictures(runs)
    sections = [section for section in chart_sections(runs) if section.figures]
    html = render_page(runs, sections, pictures)
    with atomic_path(out / PNG_FOLDER) as temporary:
        temporary.mkdir()
        for figure in (each for section in sections for each in section.figures):
            write_figure(temporary, figure)
        for cell, cases in pictures:
            write_overlays(temporary, cell.id, cases)
    with atomic_path(out / PAGE) as temporary:
        temporary.write_text(html, encoding="utf-8")
    failed = [f"{error.id} failed: {error.message}" for error in runs.errors]
    return WrittenReport(out / PAGE, sorted((out / PNG_FOLDER).glob("*.png")), runs.problems + failed)


def _read_pictures(runs: Runs) -> list[tuple[EvaluationRecord, list[CasePictures]]]:
    """The pictures of every cell but FP32 on torch that has some; damaged slices become one of the problems."""
    pictures = []
    for group in by_bundle(runs.cells):
        for cell in (each for each in group.cells if not each.is_reference):
            try:
                pictures.append((cell, case_pictures(runs.folders[cell.id], cell, group.labelled)))
            except InputError as error:
                runs.problems.append(str(error))
    return [(cell, cases) for cell, cases in pictures if cases]


def chart_sections(runs: Runs) -> list[ChartSection]:
    """All charts, in the page's order."""
    bundles, labelled = by_bundle(runs.cells), any(cell.has_labels for cell in runs.cells)
    organs, cases = ([figure for figure in map(draw, bundles) if figure] for draw in (organ_figure, case_figure))
    organ_note = "In which classes the label maps differ from FP32's."
    if labelled:
        organ_note = "Which organs pay for quantization. A bundle without its FP32 cell is left out."
    texts = [
        ("precision", "Layer bits", "Bits of each layer",
         "Of checkpoints whose layers differ in bits: one tile a layer, bluer with more bits, grey where it is float."),
        ("tradeoff", "Bits and latency", f"{'DSC' if labelled else 'Agreement'} against bits and latency",
         "One pair of charts for each data set, since DSC is not comparable between data sets."),
        ("organs", "Organs" if labelled else "Classes", "Drop by organ" if labelled else "Disagreement by class",
         organ_note),
        ("cases", "Cases", "Distribution over cases",
         f"Whether a {'drop' if labelled else 'difference'} is everywhere or in few cases."),
        ("sensitivity", "Sensitivity", "Layer sensitivity", "Which layers the drop comes from."),
        ("activations", "Activations", "Activation shift", "What quantization does to the inputs of the layers."),
    ]  # fmt: skip
    figures = (
        precision_figures(runs.cells),
        [figure for group in by_dataset(runs.cells) for figure in tradeoff_figures(group)],
        organs,
        cases,
        [figure for record in runs.sensitivity for figure in sensitivity_figures(record)],
        [figure for record in runs.shifts for figure in shift_figures(record)],
    )
    return [ChartSection(*words, drawn) for words, drawn in zip(texts, figures, strict=True)]


def render_page(
    runs: Runs, sections: list[ChartSection], pictures: list[tuple[EvaluationRecord, list[CasePictures]]]
) -> str:
    """The page's HTML."""
    groups = by_bundle(runs.cells)
    labelled, unlabelled = ([each for each in groups if each.labelled is state] for state in (True, False))
    schemes = [row for row in score_schemes(runs.cells) if not math.isnan(row.score)]
    recipes = recipe_rows(runs.cells)
    content = {
        "leaderboard": ("Leaderboard", labelled),
        "agreement": ("Agreement", unlabelled),
        "schemes": ("Schemes", schemes),
        "recipes": ("Recipes", recipes),
        "engines": ("Engines", runs.engines),
        **{each.id: (each.short, True) for each in sections},
        "overlays": ("Overlays", pictures),
        "published": ("Published", True),
        "provenance": ("Provenance", True),
    }
    template = _environment().get_template("page.html.j2")
    return template.render(
        runs=runs,
        datasets=by_dataset(runs.cells),
        leaderboard=leaderboard_rows(labelled),
        agreement=leaderboard_rows(unlabelled),
        class_rows=class_rows(unlabelled),
        schemes=schemes,
        recipes=recipes,
        confidence=next((drop.confidence for cell in runs.cells for drop in cell.statistics.values()), None),
        nsd_note=_nsd_note(runs.cells),
        published_engine=published_engine,
        chart_sections=sections,
        pictures=pictures,
        judgements=list(JUDGEMENTS.items()),
        same_scheme=published.same_scheme(runs.cells),
        same_engine=published.same_engine(runs.cells),
        study_rows=published.study_rows(),
        engine_rows=published.engine_rows(),
        sections={identity: name for identity, (name, shown) in content.items() if shown},
        version=versions().get("mqb_monai", ""),
        png_folder=PNG_FOLDER,
        ppi=PPI,
        vega=Markup(vl_convert.javascript_bundle(vl_version=VEGA_LITE)),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mqb_monai.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files = resources.files("mqb_monai.report")
    environment.globals["asset"] = lambda name: Markup((files / name).read_text(encoding="utf-8"))
    environment.filters |= {"tint": tint, "fixed": fixed, "spec": spec, "breakable": breakable, "data_uri": data_uri}
    environment.filters |= {"anchor": anchor, "label": cell_label, "scheme_label": scheme_label}
    environment.tests["nan"] = lambda value: isinstance(value, float) and math.isnan(value)
    return environment


def tint(percent: float) -> float:
    """How strongly a cell is coloured for a drop in per cent, 0 to 80: by the square root, as in the heat map."""
    return round(8 * math.sqrt(min(abs(percent), 100.0)), 1)


def fixed(value: float, digits: int) -> str:
    """``value`` with ``digits`` after the point, and commas between the thousands."""
    return f"{value:,.{digits}f}"


def breakable(name: str) -> Markup:
    """``name`` that a narrow column may break behind ``_`` and ``.``."""
    return Markup(str(escape(name)).replace("_", "_<wbr>").replace(".", ".<wbr>"))


def anchor(identity: str) -> str:
    """``identity`` as the value of an ``id``: without spaces."""
    return "cell-" + "-".join(identity.split())


def spec(figure: Figure) -> Markup:
    """The chart's Vega-Lite as JSON that may stand in a ``script`` element."""
    return jinja2.utils.htmlsafe_json_dumps(styled(figure.chart, "container"))


def _nsd_note(cells: list[EvaluationRecord]) -> str:
    """Variant and tolerance of the NSD: of all cells where they are equal, else bundle by bundle."""
    notes: dict[str, list[str]] = {}
    for cell in cells:
        variant = "sub-voxel" if cell.surface_dice["use_subvoxels"] else "voxel"
        notes.setdefault(f"NSD on {variant} surfaces at {tolerance(cell)} mm", []).append(cell.bundle)
    if len(notes) == 1:
        return f"{next(iter(notes))}."
    return "; ".join(f"{note} ({', '.join(dict.fromkeys(bundles))})" for note, bundles in notes.items()) + "."
