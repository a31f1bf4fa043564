from __future__ import annotations

import csv

import pytest
import torch
from ignite.engine import Engine, Events
from monai.inferers import SimpleInferer
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from mqb_monai.handlers.training import CURVE_FIELDS, AutocastInferer, CurveHandler, resume


def test_autocast_inferer_computes_in_bfloat16_and_keeps_the_weights(network, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    output = AutocastInferer(SimpleInferer())(x, network)
    assert output.dtype == torch.bfloat16 and network.first.weight.dtype == torch.float32
    assert torch.allclose(output.float(), network(x), atol=0.05)  # oracle: FP32
    output.float().sum().backward()
    assert network.first.weight.grad.dtype == torch.float32
    assert AutocastInferer(SimpleInferer(), dtype=torch.float16).dtype == torch.float16


def test_autocast_inferer_computes_in_fp32_where_the_cpu_would_imitate_bfloat16(network, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(AutocastInferer(SimpleInferer())(x, network), network(x))


def test_resume_starts_anew_without_a_checkpoint(network, tmp_path):
    before = network.head.bias.clone()
    assert resume(str(tmp_path / "absent"), {"network": network}) == 0
    (tmp_path / "model.pt").touch()
    assert resume(str(tmp_path), {"network": network}) == 0
    assert torch.equal(network.head.bias, before)


def test_resume_takes_the_newest_epoch_by_number(tmp_path):
    for epoch in (2, 10, 9):
        layer = nn.Linear(1, 1)
        nn.init.constant_(layer.weight, epoch)
        torch.save({"network": layer.state_dict()}, tmp_path / f"checkpoint_epoch={epoch}.pt")
    layer = nn.Linear(1, 1)
    assert resume(str(tmp_path), {"network": layer}) == 10
    assert layer.weight.item() == 10


def make_trainer(max_epochs):
    trainer = Engine(lambda engine, batch: {"loss": batch})
    trainer.state.max_epochs = max_epochs
    trainer.state.epoch_length = 2
    seen = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(engine.state.epoch))
    return trainer, seen


@pytest.mark.parametrize(("epochs", "expected"), [(5, [3, 4, 5]), (3, [3]), (2, []), (1, [])])
def test_resume_trains_as_long_as_this_run_says(tmp_path, epochs, expected):
    first, _ = make_trainer(2)
    first.run([1, 2], max_epochs=2)
    torch.save({"trainer": first.state_dict(), "network": {}}, tmp_path / "checkpoint_epoch=2.pt")
    trainer, seen = make_trainer(epochs)
    assert resume(str(tmp_path), {"trainer": trainer, "network": nn.Identity()}) == 2
    trainer.run([1, 2], max_epochs=trainer.state.max_epochs)
    assert seen == expected


def test_resume_keeps_the_length_of_this_runs_schedule(network, tmp_path):
    def schedule(steps):
        return WarmupCosineSchedule(torch.optim.SGD(network.parameters(), lr=1.0), warmup_steps=0, t_total=steps)

    torch.save({"a": schedule(10).state_dict(), "b": {}}, tmp_path / "checkpoint_epoch=1.pt")
    longer = schedule(40)
    resume(str(tmp_path), {"a": longer, "b": nn.Identity()})
    assert longer.t_total == 40


def test_curve_handler_writes_one_row_per_epoch(network, tmp_path):
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.metrics = {}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.125)
    trainer = Engine(lambda engine, batch: {"loss": torch.tensor(batch, requires_grad=True)})

    def validate(engine):
        if engine.state.epoch == 2:
            evaluator.state.metrics = {"val_mean_dice": 0.5}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    path = tmp_path / "runs" / "curve.csv"
    CurveHandler(str(path), evaluator, optimizer).attach(trainer)
    trainer.run([1.0, 2.0], max_epochs=3)
    CurveHandler(str(path), evaluator, optimizer).attach(again := Engine(lambda engine, batch: {"loss": batch}))
    again.run([4.0], max_epochs=1)  # a later run appends
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CURVE_FIELDS
    # oracle: by hand; the cell is empty in epochs without validation
    assert [(row["epoch"], row["iteration"], row["loss"], row["validation_dice"]) for row in rows] == [
        ("1", "2", "1.5", ""),
        ("2", "4", "1.5", "0.5"),
        ("3", "6", "1.5", ""),
        ("1", "1", "4.0", ""),
    ]
    assert {row["learning_rate"] for row in rows} == {"0.125"}
