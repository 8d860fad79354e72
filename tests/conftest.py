"""Triton kernels run on a GPU where there is one, and on the CPU by Triton's interpreter where there is none."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: before any test module is imported
