"""``python -m mqb_monai engine ...``: what an exported engine is worth, before any GPU has seen it."""

from __future__ import annotations

import sys

from fire.decorators import SetParseFns


@SetParseFns(file=str)
def lint(file: str) -> None:
    """Check an ONNX file with Q/DQ against NVIDIA's rules of explicit quantization; exit code 1 on an error.

    Args:
        file: the model.onnx.
    """
    from mqb_monai.backends.onnx.file import read_model
    from mqb_monai.backends.qdq_lint.graph import DQ
    from mqb_monai.backends.qdq_lint.lint import ERROR, lint_model

    model = read_model(file)
    findings = lint_model(model)
    errors = sum(finding.severity == ERROR for finding in findings)
    for finding in findings:
        print(finding)
    quantized = sum(node.op_type == DQ for node in model.graph.node)
    print(f"{file}: {quantized} {DQ} nodes, {errors} error(s), {len(findings) - errors} hint(s)")
    if errors:
        sys.exit(1)


@SetParseFns(bundles=str, scheme=str, root=str)
def check(*, bundles: str = "*", scheme: str = "w8a8_engine", max_parameters_m: float = 100.0, root: str = "") -> None:
    """Export bundles to Q/DQ ONNX, hold each file against its simulation and print one table row a bundle.

    A bundle without models/model.pt gets random weights, one without a checkpoint of the scheme is calibrated on noise.
    Exit code 1 where a bundle fails.

    Args:
        bundles: names or patterns, with commas.
        scheme: w8a8_engine, ...
        max_parameters_m: leave out networks of more than so many million parameters.
        root: the folder of bundles; ./bundles by default, else the repository's own.
    """
    from mqb_monai.study.engine_check import HEADER, check_bundle, chosen_bundles, table_row

    chosen, failed = chosen_bundles(bundles, max_parameters_m, root or None), []
    print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
    for bundle in chosen:
        checked = check_bundle(bundle, scheme)
        print(f"| {' | '.join(table_row(checked))} |", flush=True)
        failed += [] if checked.passed else [checked]
    for checked in failed:
        print(f"failed: {checked.bundle}: {'; '.join(checked.failures)}")
    if failed:
        sys.exit(1)


ENGINE = {"lint": lint, "check": check}
