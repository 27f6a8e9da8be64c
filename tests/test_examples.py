"""Every example trains through the package that it is for, and gets the schedule's ids and counts."""

import hashlib
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from pages import NAMES, blocks
from torch import nn

import budgetloader
from budgetloader import Schedule

EXAMPLES = ROOT / "examples"
CHANGING = Schedule.of([1, 0.5, 0.25, 0.618])
SIZES = {"batch_size": 8, "image_size": 16}


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def taken(monkeypatch):
    """(epoch, ids) of each batch that a trainer took from any BudgetLoader."""
    batches, item = [], budgetloader.BudgetLoader._item

    def recorded(self, batch):
        batches.append((batch.plan.epoch, batch.plan.samples.tolist()))
        return item(self, batch)

    monkeypatch.setattr(budgetloader.BudgetLoader, "_item", recorded)
    return batches


@pytest.fixture(scope="module")
def expected(beton):
    """(epoch, ids) of each batch of the schedule."""
    order = budgetloader.BudgetSampler(budgetloader.Dataset(beton), schedule=CHANGING, batch_size=8)
    return [(epoch, ids) for epoch in range(CHANGING.epochs) for ids in order]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 14))


def test_the_expected_counts_are_the_budgets(expected):
    counts = [sum(e == epoch for e, _ in expected) for epoch in range(CHANGING.epochs)]
    assert counts == [9, 4, 2, 5]


def test_plain_pytorch(beton, taken, expected, capsys):
    from train_pytorch import train

    train(network(), str(beton), CHANGING, **SIZES)
    assert taken == expected
    assert capsys.readouterr().out.splitlines()[1] == "epoch 1: 4 batches"


def test_timm(beton, taken, expected, capsys):
    timm = pytest.importorskip("timm")
    from train_timm import train

    model = timm.create_model("test_efficientnet", num_classes=14)
    losses = train(model, str(beton), CHANGING, batch_size=8, image_size=32)
    assert taken == expected and len(losses) == 4
    assert "Train: 2 [2/2]" in capsys.readouterr().out


def test_timms_recipe_is_reproducible_to_the_hash_of_its_batches(beton, taken, expected, monkeypatch):
    """RandAugment, erasing, MixUp and CutMix with soft labels: bit by bit, whatever the number of threads."""
    timm = pytest.importorskip("timm")
    from train_timm_recipe import train

    hashes, item = [], budgetloader.BudgetLoader._item

    def hashed(self, batch):
        images, targets = item(self, batch)
        assert targets.shape == (len(images), 14) and torch.allclose(targets.sum(1), torch.ones(len(images)))
        values = (images.permute(0, 2, 3, 1).contiguous(), targets)
        hashes.append(hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest())
        return images, targets

    monkeypatch.setattr(budgetloader.BudgetLoader, "_item", hashed)
    for workers in (1, 3):
        torch.manual_seed(workers)  # the trainer's own numbers are not the loader's
        losses = train(
            timm.create_model("test_efficientnet", num_classes=14),
            str(beton),
            CHANGING,
            batch_size=8,
            image_size=32,
            workers=workers,
        )
        assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)
    assert taken == 2 * expected and len(set(hashes)) == len(expected)
    assert hashes[: len(expected)] == hashes[len(expected) :]


def lightning_run(beton, folder, *, network=network, **options):
    """One fit; it writes checkpoints into `folder`, after every step and every epoch."""
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint
    from train_lightning import Classifier, Images, trainer

    resume = options.pop("resume", None)
    module = Classifier(network())
    steps = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    epochs = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    callbacks = [steps, epochs, *options.pop("callbacks", [])]
    run = trainer(CHANGING, logger=False, accelerator="cpu", callbacks=callbacks, **options)
    images = Images(str(beton), CHANGING, **SIZES)
    assert isinstance(images, lightning.LightningDataModule)
    run.fit(module, datamodule=images, ckpt_path=resume)
    return module.network[2].weight.detach().clone(), run


def test_lightning_has_the_right_length_every_epoch(beton, taken, expected, tmp_path):
    from lightning.pytorch.callbacks import TQDMProgressBar

    class Bar(TQDMProgressBar):
        totals = ()

        def on_train_epoch_end(self, trainer, module):
            self.totals += ((self.train_progress_bar.total, self.train_progress_bar.n, trainer.num_training_batches),)
            super().on_train_epoch_end(trainer, module)

    bar = Bar()
    _, run = lightning_run(beton, tmp_path, callbacks=[bar], enable_progress_bar=True)
    assert taken == expected and run.global_step == len(expected)
    assert run.limit_train_batches == 1.0
    assert bar.totals == tuple((n, n, n) for n in (9, 4, 2, 5))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "done"), [("step=3", 3), ("step=10", 10), ("step=17", 17), ("epoch=0", 9), ("epoch=2", 15)]
)
def test_lightnings_checkpoint_resumes_where_it_was(beton, taken, expected, tmp_path, name, done):
    """In the middle of an epoch and between two, the next one shorter or longer."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    whole, _ = lightning_run(beton, tmp_path / "whole", **quiet)
    taken.clear()
    resumed, run = lightning_run(beton, tmp_path / "rest", resume=tmp_path / "whole" / f"{name}.ckpt", **quiet)
    assert taken == expected[done:] and run.global_step == len(expected)
    assert torch.equal(resumed, whole)


class Stop(Exception):
    """A training that is ended from outside."""


def test_accelerate_and_its_checkpoint(beton, taken, expected, tmp_path, monkeypatch):
    accelerate = pytest.importorskip("accelerate")
    from train_accelerate import train

    alone, mine = network(), network()
    train(alone, str(beton), CHANGING, **SIZES)
    assert taken == expected

    backward, register = accelerate.Accelerator.backward, accelerate.Accelerator.register_for_checkpointing

    def stop_at_11(self, loss):
        if len(taken) == 11:
            self.save_state(tmp_path / "state")
            raise Stop
        backward(self, loss)

    taken.clear()
    monkeypatch.setattr(accelerate.Accelerator, "backward", stop_at_11)
    with pytest.raises(Stop):
        train(mine, str(beton), CHANGING, **SIZES)
    monkeypatch.setattr(accelerate.Accelerator, "backward", backward)

    def resume(self, batches):
        register(self, batches)
        self.load_state(tmp_path / "state")

    monkeypatch.setattr(accelerate.Accelerator, "register_for_checkpointing", resume)
    train(mine, str(beton), CHANGING, **SIZES)
    assert taken == expected


def script(name, *arguments, place, launcher=()):
    return subprocess.Popen(
        [sys.executable, *launcher, str(EXAMPLES / name), *map(str, arguments)],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def printed(process):
    """What a script printed; it must have ended well."""
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


EPOCHS = [f"epoch {epoch}: {n} batches" for epoch, n in enumerate((9, 4, 2, 5))]
COMMAND = ("--schedule", "of:1,0.5,0.25,0.618", "--batch-size", "8", "--image-size", "32")


@pytest.mark.long
def test_torchrun(beton, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    output = printed(script("train_torchrun.py", beton, *COMMAND, place=tmp_path, launcher=launcher))
    assert [line for line in output.splitlines() if line.startswith("epoch")] == EPOCHS


@pytest.mark.long
def test_the_scripts_run_from_a_command_line(beton, tmp_path):
    wanted = {
        "train_pytorch.py": EPOCHS[3],
        "train_lightning.py": "max_epochs=4",
        "train_accelerate.py": EPOCHS[3],
        "train_timm.py": "Train: 3 [5/5]",
        "train_timm_recipe.py": "Train: 3 [5 batches]",
    }
    running = {name: script(name, beton, *COMMAND, place=tmp_path) for name in wanted}
    for name, process in running.items():
        assert wanted[name] in printed(process)


@pytest.mark.long
def test_a_dataset_of_ones_own_goes_on_where_it_was_killed(folder, tmp_path):
    import train_own_dataset

    arguments = ("train_own_dataset.py", folder, "--schedule", "of:1,0.5,1", "--batch-size", "8")
    first = script(*arguments, place=tmp_path)
    for line in first.stdout:
        if line.startswith("epoch 2"):
            break
    first.send_signal(signal.SIGKILL)
    first.communicate()
    step = torch.load(tmp_path / train_own_dataset.CHECKPOINT)["sampler"]["epoch"]
    assert step in (1, 2)
    output = printed(script(*arguments, place=tmp_path))
    assert [line for line in output.splitlines() if line.startswith("epoch")] == [
        f"epoch {e}: {n} batches" for e, n in ((1, 4), (2, 9)) if e >= step
    ]


def test_every_diff_of_the_pages_is_what_its_example_says():
    """Each line that a diff adds or keeps stands in the example that the page speaks of before it, in that order."""
    shown = set()
    for name, page in NAMES.items():
        text = page.read_text()
        for block in blocks(page):
            if block.kind != "diff" or block.title:  # one with a title is of a file of the page's own
                continue
            before = text[: text.index(block.text.splitlines()[0])]
            example = re.findall(r"examples/(train_\w+\.py)", before)[-1]
            shown.add(example)
            rest = iter([" ".join(line.split()) for line in (EXAMPLES / example).read_text().splitlines()])
            for line in block.text.splitlines():
                wanted = " ".join(line[1:].split())
                if not line.startswith("-") and wanted:
                    assert any(wanted == have for have in rest), (
                        f"{name}: {example} has no line {wanted!r} (in this order)"
                    )
    assert shown == {path.name for path in EXAMPLES.glob("train_*.py")}
