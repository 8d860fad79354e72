"""A loop of accelerate's whose processes share each sequence: `accelerate launch -m tests.accelerated_context`."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from tost.models.sequence import SequenceConfig, ToSTSequence
from tost.nn import context_parallel


def problem():
    """Model, optimiser, x [B, N, 3] and a label for each token."""
    torch.manual_seed(0)
    model = ToSTSequence(SequenceConfig(in_features=3, num_classes=4, dim=16, num_layers=2, mlp_dim=32, per_token=True))
    return model, torch.optim.SGD(model.parameters(), lr=0.5), torch.randn(2, 21, 3), torch.randint(4, (2, 21))


def main():
    accelerator = Accelerator(cpu=True)
    model, optimizer, x, labels = problem()
    model, optimizer = accelerator.prepare(model, optimizer)  # not the data: all processes read the same rows
    for _ in range(4):
        with context_parallel(model) as split:
            logits = model(split.take(x)).transpose(1, 2)
            loss = split.mean(F.cross_entropy(logits, split.take(labels), reduction="none"))
            accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.print(f"{type(model).__name__} of {split.size}: loss {loss:.6f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
