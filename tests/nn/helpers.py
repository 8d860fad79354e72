"""Modules with nothing left at zero or one, so that a test cannot pass by symmetry."""

import torch


def scramble(module, seed=0, std=0.2):
    """Parameters and BatchNorm statistics drawn from `seed`, scales and temperatures around 1; returns the module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            centre = 1.0 if p.ndim == 1 and not name.endswith("bias") else 0.0
            p.copy_(centre + std * torch.randn(p.shape, generator=generator, dtype=torch.float64))
        for m in module.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=generator))
                m.running_var.copy_(torch.rand(m.running_var.shape, generator=generator) + 0.5)
    return module


def gradients(module, output, *inputs):
    """Gradients of a fixed weighted sum of `output`, to the parameters by name and to the inputs by number."""
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    named = dict(module.named_parameters()) | {str(i): x for i, x in enumerate(inputs)}
    grads = torch.autograd.grad((output * weight).sum(), list(named.values()), allow_unused=True)
    return dict(zip(named, grads))
