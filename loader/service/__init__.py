"""The service: one loader, many trainers.

A batch is a pure function of (dataset, seed, epoch, position), and a budget is a prefix, so that trainers
with different schedules and batch sizes want the same images. The service decodes them once, in blocks
of consecutive positions, keeps the blocks in Ray's object store under a cap, and hands them out.

    budgetloader serve train.beton --name imagenet --memory 4GB       # in a terminal
    budgetloader.connect("imagenet", schedule=…, batch_size=…, image_size=…)    # in each trainer
"""

NAMESPACE = "budgetloader"  # of the actors' names
DECODE = "decode"  # the resource that nodes with decode workers offer, one unit per worker
COORDINATE = "coordinate"  # the node that has the dataset file, and the coordinator
LOOPBACK = "127.0.0.1"
# Of the object store, for blocks that may be asked for again; the rest is for blocks that were dropped while a
# trainer still has them.
SHARE = 0.7
