"""What a loader takes, what it refuses and with which advice, and the attributes that torch's users look for."""

import threading

import pytest
import torch

from budgetloader import ArgumentTypeError, Dataset, DatasetError, EngineError, Schedule, ScheduleError


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"schedule": None}, "schedule is missing"),
        ({"train": False}, "leave schedule"),
        ({"batch_size": 0}, "batch_size"),
        ({"image_size": -1}, "image_size"),
        ({"workers": 0}, "workers"),
        ({"prefetch": 0}, "prefetch"),
        ({"engine": "warp"}, "warp"),
        ({"seed": -1}, "seed"),
        ({"on_corrupt": "ignore"}, "ignore"),
        ({"rank": 0}, "both or neither"),
        ({"rank": 3, "world_size": 2}, "rank 3"),
        ({"schedule": Schedule.flat("0.01", epochs=1)}, "zero batches"),
        ({"dtype": "int3"}, "int3"),
        ({"schedule": "R3@12"}, "schedule 'R3@12' is no Schedule"),
        ({"image_size": (24, 24)}, r"image_size \(24, 24\)"),
        ({"mean": 0.5}, "mean 0.5"),
        ({"mean": (123, 116, 103)}, "divide by 255"),
        ({"device": "cuda0"}, "device 'cuda0' is not known"),
        ({"device": "cuda:99"}, "device 'cuda:99': torch sees"),
        ({"device": "mps"}, "device 'mps': torch sees no Apple GPU"),
    ],
)
def test_bad_arguments_are_refused_with_their_value(open_loader, options, why):
    before = set(threading.enumerate())
    with pytest.raises((ScheduleError, EngineError), match=why):
        open_loader(**options)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ({"num_workers": 4}, "workers="),
        ({"shuffle": True}, "seed= and sampling="),
        ({"drop_last": True}, "leave it out"),
        ({"pin_memory": True}, "device='cuda'"),
        ({"collate_fn": print}, "tensors"),
        ({"sampler": []}, "BudgetSampler"),
        ({"batch_sampler": []}, "BudgetSampler"),
        ({"persistent_workers": True}, "threads"),
        ({"prefetch_factor": 2}, "prefetch="),
        ({"generator": None}, "seed="),
        ({"epochs": 3}, r"Schedule.full\(epochs="),
        ({"image_sizes": 3}, "did you mean image_size="),
        ({"xyzzy": 3}, "there are .*prefetch"),
    ],
)
def test_a_keyword_of_torchs_dataloader_is_refused_with_what_to_use(open_loader, option, advice):
    with pytest.raises(ArgumentTypeError, match=f"^{next(iter(option))}=.*{advice}") as caught:
        open_loader(**option)
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, EngineError)


def test_a_torch_dataset_as_the_path_is_pointed_to_the_sampler(open_loader, folder):
    from torchvision.datasets import ImageFolder

    for dataset in (ImageFolder(folder), [1, 2, 3], torch.utils.data.TensorDataset(torch.zeros(3))):
        with pytest.raises(ArgumentTypeError, match=r"budgetloader convert.*batch_sampler=budgetloader.BudgetSampler"):
            open_loader(dataset)
    with pytest.raises(DatasetError, match="it is a folder.*budgetloader convert"):
        Dataset(folder)


def test_it_has_the_attributes_that_torchs_users_look_for(open_loader):
    batches = open_loader(rank=1, world_size=2, workers=3)
    assert (batches.batch_size, batches.num_workers, batches.drop_last) == (2, 3, False)
    assert len(batches.dataset) == 70
    assert open_loader(schedule=None, train=False).batch_size == 4
