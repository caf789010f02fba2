"""One file per network: plain `torch.nn.Module`s that take numbers, whose values stand in `configs/model/`."""
