"""Several processes on one run: ranks of torch.distributed, a pool of devices, shards of machines."""
