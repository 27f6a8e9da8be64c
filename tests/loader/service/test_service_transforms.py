"""Augmentation behind a service: in the trainer's process, and the same as from the file."""

import torch

from budgetloader import BudgetLoader, Schedule, connect
from budgetloader.transforms import uniform


def noise(images, targets, keys):
    more = torch.from_numpy(uniform(keys)[:, 0] * 99).to(torch.uint8).view(-1, 1, 1, 1)
    return images // 2 + more, torch.nn.functional.one_hot(targets, 10)


def test_two_trainers_share_images_and_transform_them_each_for_itself(served, data):
    schedule = Schedule.of(["0.2", "0.1"])
    options = {"schedule": schedule, "batch_size": 100, "image_size": 32}
    with (
        connect("shared", transform=noise, **options) as ours,
        connect("shared", **options) as plain,
        BudgetLoader(data, transform=noise, **options) as file,
    ):
        for _ in range(schedule.epochs):
            for (a, soft), (b, labels), (c, expected) in zip(ours, plain, file, strict=True):
                assert torch.equal(a, c) and torch.equal(soft, expected)
                assert soft.argmax(1).tolist() == labels.tolist() and not torch.equal(a, b)
        assert ours.stats[0].transform_seconds > 0 == plain.stats[0].transform_seconds
