from __future__ import annotations

import re
from dataclasses import replace

import pytest
from PIL import Image

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation_files import write_evaluation
from mqb_monai.report.page import breakable, fixed, tint, write_report

from .conftest import THIRD_PARTY, make_third_party, write_cell
from .made_analyses import CASES


@pytest.fixture(scope="module")
def html(written) -> str:
    """The page without its scripts."""
    return without_scripts(written)


def without_scripts(report) -> str:
    return re.sub(r"<script>.*?</script>", "", report.page.read_text(encoding="utf-8"), flags=re.DOTALL)


def table(html: str, identity: str) -> str:
    return re.search(rf'<table[^>]*id="{identity}".*?</table>', html, re.DOTALL)[0]


def test_page_asks_no_server_for_anything(html):
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', html)
    assert not re.findall(r"url\((?!'data:)|@import", html)
    assert "<link" not in html.replace('<link rel="icon" href="data:,">', "")


def test_page_shows_every_cell_and_every_published_row(html):
    leaderboard = table(html, "leaderboard-table")
    assert leaderboard.count("<tr>") == 1 + 18 and 'data-value="0.82">0.82</td>' in leaderboard  # 41 s / 50 a case
    assert table(html, "study-table").count("<tr>") == 1 + 119
    assert table(html, "engine-table").count("<tr>") == 1 + 7
    assert table(html, "same-scheme").count("stunet_") == 5


def test_page_shows_every_engine_and_medptq_s_figures_beside_it(html):
    """Oracle: MedPTQ's README, its row U-Net on BTCV, in 8 bits 1.05 ms and 6.61 MB."""
    engines = table(html, "engines-table")
    assert engines.count("<tr>") == 1 + 2 * 3
    row = re.search(r"<tr><th[^>]*>unet_.*?TensorRT INT8.*", engines, re.DOTALL)[0].split("</tr>")[2]
    values = re.findall(r'data-value="([^"]*)"', row)
    assert values == ["unet_btcv", "8.1", "2.63", "3.35", "5.9", "99.95", "0.0121", "1.05", "6.61"]
    assert "1 layer float" in row and "a GPU (compute capability 9.0)" in row


def test_page_without_engines_has_no_such_section(tmp_path, cell):
    write_cell(tmp_path, cell)
    page = write_report(tmp_path, tmp_path / "report").page.read_text(encoding="utf-8")
    assert 'id="engines"' not in page and 'href="#engines"' not in page


def test_page_compares_recipes_and_shows_the_bits_of_layers(recipe_report):
    html = without_scripts(recipe_report)
    recipes = table(html, "recipe-table")
    assert recipes.count("<tr>") == 1 + 2 * 3 and 'href="#recipes">Recipes<' in html
    row = recipes.split("<tr>")[3]
    assert ">auto<" in row and 'data-value="310.5"' in row and "3.00 %<small>[1.90, 4.40]" in row
    assert html.count('<figure id="bit-map.') == 2 and 'href="#precision">Layer bits<' in html
    assert "bit-map.nnunet_hippocampus.w4a4_engine.mixed.png" in {path.name for path in recipe_report.pngs}
    schemes = table(html, "scheme-table")
    assert all(f'data-value="w4a4_engine{name}"' in schemes for name in ("", " · auto", " · mixed"))


def test_page_without_recipes_has_no_such_sections(html):
    assert all(f'id="{name}"' not in html for name in ("recipes", "precision", "recipe-table"))


@pytest.fixture(scope="module")
def third_party(third_party_report) -> tuple[str, list[str]]:
    """The page of a third-party bundle without its scripts, and the names of its PNGs."""
    return without_scripts(third_party_report), [path.name for path in third_party_report.pngs]


def test_page_without_labels_shows_agreement_and_no_dsc_of_the_task(third_party):
    html, _ = third_party
    assert 'id="leaderboard"' not in html and 'href="#leaderboard"' not in html and 'id="schemes"' not in html
    agreement = table(html, "agreement-table")
    assert agreement.count("<tr>") == 1 + 3 and "drop" not in agreement
    assert "DSC to FP32" in agreement and 'data-value="99.7">99.70</td>' in agreement  # equal labels
    classes = table(html, "classes-table")
    assert classes.count("<tr>") == 1 + 2 * 2 and "left kidney" in classes and ">100.09</td>" in classes
    assert "<h2>Agreement with FP32's label map</h2>" in html


def test_page_of_a_third_party_bundle_has_pictures_and_provenance(third_party):
    html, pngs = third_party
    assert html.count('class="panels"') == 2 and html.count("<img ") == 2 * 3  # one case, no label
    assert "the cell differs from FP32" in html and "FP32 was right" not in html
    assert html.count("The command was not recorded.") == 3
    assert all(f'{key}cell-my-spleen-net.fp32.torch.images"' in html for key in ('href="#', 'id="'))
    assert {"organs.my-spleen-net.png", "cases.my-spleen-net.png"} <= set(pngs)
    assert not [name for name in pngs if name.startswith(("bits", "latency"))]  # neither was recorded


@pytest.mark.parametrize("count", [1, 2])
def test_page_of_cells_without_fp32_is_written(tmp_path, cell, count):
    """One bundle without its FP32 record, labelled; then one more without labels: both tables."""
    bare = replace(cell, provenance=None, statistics={}, overlays={}, dataset="", network="", published=[])
    write_evaluation(tmp_path / "RUNS" / "labelled", bare)
    if count == 2:
        unlabelled = make_third_party(*THIRD_PARTY[2], ["spleen"], ["a", "b"])
        write_evaluation(tmp_path / "RUNS" / "unlabelled", unlabelled)
    html = write_report(tmp_path / "RUNS", tmp_path / "out").page.read_text(encoding="utf-8")
    assert table(html, "leaderboard-table").count("<tr>") == 2
    assert ('id="agreement-table"' in html) is (count == 2)


def test_page_leaves_out_what_a_scheme_does_not_have(tmp_path, cell):
    source = replace(cell.provenance, scheme_spec={"num_bits": 8, "operations": None})
    write_cell(tmp_path, replace(cell, provenance=source))
    html = write_report(tmp_path, tmp_path / "out").page.read_text(encoding="utf-8")
    assert "<dd>num_bits = 8</dd>" in html


def test_page_gives_the_command_of_every_cell(html):
    commands = re.findall(r'<pre id="cell-[^"]*" tabindex="0">(.*?)</pre>', html)
    assert len(commands) == 18 and all(command.startswith("python -m mqb_monai bench run") for command in commands)


def test_page_names_what_it_leaves_out(html, written):
    for part in ("stunet_b_btcv.w8a8_per_channel.torch.test", "stunet_b_btcv.w4a4_engine.torch.test"):
        assert part in html and any(part in sentence for sentence in written.left_out)


def test_page_has_pictures_of_every_quantized_cell(html):
    assert html.count('class="panels"') == 15 * 2 and html.count("<img ") == 15 * 2 * 4
    assert f"disagreement of {CASES[2]} under w4a4_per_tensor" in html


def test_pngs_are_for_papers(written):
    names = {path.name.split(".")[0] for path in written.pngs}
    charts = {"bits", "latency", "organs", "cases", "sensitivity-layers", "shift-histograms", "overlay-worst"}
    assert charts <= names
    for path in written.pngs[::9]:
        with Image.open(path) as picture:
            assert round(picture.info["dpi"][0]) == 300 and picture.width >= 1500


def test_names_in_records_cannot_become_markup(tmp_path, cell):
    """A case's or a bundle's name is somebody else's text."""
    evil = '<img src=x onerror="alert(1)"></script>'
    write_cell(tmp_path / "RUNS", replace(cell, network=evil, class_names=[evil], overlays={}))
    page = write_report(tmp_path / "RUNS", tmp_path / "out").page.read_text(encoding="utf-8")
    assert evil not in page and "<img src=x" not in page


def test_write_report_of_an_empty_folder_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="no records in"):
        write_report(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tint_is_the_square_root_and_ends_at_80():
    """By hand: 8 * sqrt(25) = 40, 8 * sqrt(100) = 80."""
    assert [tint(each) for each in (0.0, 25.0, -25.0, 400.0)] == [0.0, 40.0, 40.0, 80.0]


def test_fixed_and_breakable_format():
    assert fixed(12345.678, 1) == "12,345.7"
    assert breakable("a_b.<") == "a_<wbr>b.<wbr>&lt;"
