"""Which sample stands at which place of an epoch's order.

A selection is an object with one method, `ids(epoch, positions)`: a pure function, so that any batch can be made
again from (seed, epoch, step), on any engine and any number of ranks. Engines never learn of it.
"""
