"""`tost ARGUMENTS` in a process of `accelerate launch`, fully sharded (FSDP2) on the CPU.

accelerate shards between accelerators alone and silently takes DDP between CPUs, so it is told that these are some.
Prints which modules were sharded.
"""

import functools
import os
import sys

import torch.distributed.fsdp
from accelerate import PartialState
from accelerate.utils import DistributedType

from tost.cli import main

sharded = []


def told(init):
    @functools.wraps(init)
    def wrapper(self, *arguments, **named):
        init(self, *arguments, **named)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    return wrapper


def noted(shard):
    @functools.wraps(shard)
    def wrapper(module, *arguments, **named):
        sharded.append(type(module).__name__)
        return shard(module, *arguments, **named)

    return wrapper


if __name__ == "__main__":
    PartialState.__init__ = told(PartialState.__init__)
    torch.distributed.fsdp.fully_shard = noted(torch.distributed.fsdp.fully_shard)
    code = main(sys.argv[1:])
    if os.environ["RANK"] == "0":
        print("sharded:", *sharded)
    sys.exit(code)
