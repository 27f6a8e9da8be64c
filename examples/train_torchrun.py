"""Several processes: torchrun --nproc_per_node 2 examples/train_torchrun.py train.beton"""

import os

import torch
from options import options
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import budgetloader


def train(network: nn.Module, data: str, schedule: budgetloader.Schedule, *, batch_size: int, image_size: int) -> None:
    cuda = torch.cuda.is_available()
    distributed.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)  # or this process takes memory of GPU 0, too
    network = DistributedDataParallel(network.to(device))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    batches = budgetloader.BudgetLoader(  # it takes its rank's share of each batch of batch_size
        data, schedule=schedule, batch_size=batch_size, image_size=image_size, device=device
    )
    for epoch in range(schedule.epochs):
        batches.sampler.set_epoch(epoch)
        if distributed.get_rank() == 0:
            print(f"epoch {epoch}: {len(batches)} batches")
        for images, labels in batches:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    batches.close()
    distributed.destroy_process_group()


if __name__ == "__main__":
    o = options(__doc__)
    train(o.network, o.data, o.schedule, batch_size=o.batch_size, image_size=o.image_size)
