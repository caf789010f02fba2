"""One file per dataset.

A dataset is any map-style class built with `split="train" | "val" | "test"` plus the arguments in its YAML file in
`configs/data/`: `__len__` and `__getitem__` are enough. One that is held in memory may add `get_batch(indices)`, which
takes an int64 tensor of shape (B,) and returns the whole batch; it is then read without workers or collation.
"""
