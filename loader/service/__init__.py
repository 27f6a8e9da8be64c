"""The service: one loader, many trainers.

An image is a pure function of (dataset, seed, epoch, position), and a budget is a prefix of an epoch's order. So
trainers with different schedules and batch sizes want the same images. The service decodes each image once, in blocks
of consecutive positions, caches the blocks in Ray's object store, and hands them out.

A trainer (`client`, `maker`, `connection`) starts a bridge (`bridge`, `assembler`, `link`), which asks the coordinator
(`coordinator`, `cache`) for blocks that the workers (`worker`) decode. `server` starts the cluster,
`session` and `guard` clear up behind it, and trainers find it by `registry`. `protocol` has the messages.

    budgetloader serve train.beton --name imagenet --memory 4GB       # in a terminal
    budgetloader.connect("imagenet", schedule=…, batch_size=…, image_size=…)    # in each trainer
"""

NAMESPACE = "budgetloader"  # of the actors' names
DECODE = "decode"  # the resource that nodes with decode workers offer, one unit per worker
COORDINATE = "coordinate"  # the node that has the dataset file, and the coordinator
LOOPBACK = "127.0.0.1"
# The cache's share of the object store; the rest is for blocks that left the cache while a trainer still uses them.
SHARE = 0.7
