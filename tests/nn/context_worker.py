"""One of four processes: `python -m tests.nn.context_worker RANK 4 FOLDER`; writes what it computed to FOLDER.

The first two are a group of their own as well.
"""

import sys

import torch
import torch.distributed as dist

from tests.nn.helpers import scramble
from tests.processes import join, leave
from tost.models import ToST
from tost.models.language import ToSTConfig, ToSTForCausalLM
from tost.models.sequence import SequenceConfig, ToSTSequence
from tost.nn import TSSA, Block, CausalBlock, CausalTSSA, context_parallel, use_backend
from tost.nn.mixers import NoMixing
from tost.ops.collectives import communicated

B, C, H, VOCABULARY = 4, 12, 3, 11
LENGTHS = {2: (7, 4), 4: (3, 0, 6, 2)}  # tokens of each process
N = 11
DROPS = {"attn_drop": 0.4, "drop_path": 0.4}


def sequence(**options):
    options = {"in_features": C, "num_layers": 2, "dim": C, "num_heads": H, "mlp_dim": 16, "num_classes": 5, **options}
    return ToSTSequence(SequenceConfig(**options))


def language(**options):
    options = {"hidden_size": C, "num_hidden_layers": 2, "num_attention_heads": H, "intermediate_size": 16, **options}
    return ToSTForCausalLM(ToSTConfig(vocab_size=VOCABULARY, dropout=0.0, **options))


def checkpointed():
    model = sequence(causal=True, decay=0.9)
    model.set_grad_checkpointing()
    return model


CASES = {  # how the model is made; whether its output is one vector a sequence
    "tssa": (lambda: TSSA(C, H), False),
    "causal": (lambda: CausalTSSA(C, H), False),
    "causal, bias": (lambda: CausalTSSA(C, H, max_positions=20, decay=0.9), False),
    "causal, clamped bias": (lambda: CausalTSSA(C, H, max_positions=5, clamp_positions=True), False),
    "causal, learned decay": (lambda: CausalTSSA(C, H, decay=[0.8, 0.9, 0.99], learn_decay=True), False),
    "block": (lambda: Block(C, H, feed_forward="ista"), False),
    "block, no mixing": (lambda: Block(C, H, "none"), False),
    "block, post-norm": (lambda: CausalBlock(C, H, decay=0.9, norm_first=False), False),
    "block, token": (lambda: CausalBlock(C, H, "token"), False),
    "block, dropped": (lambda: Block(C, H, **DROPS), False),
    "no mixing, dropped": (lambda: NoMixing(C, H, attn_drop=0.4), False),
    "encoder": (lambda: ToST(2, C, H), False),
    "mean": (lambda: sequence(positions="learned", max_length=N), True),
    "max": (lambda: sequence(pool="max"), True),
    "last": (lambda: sequence(pool="last", positions="none"), True),
    "pair": (lambda: sequence(pair=True), True),
    "per token": (lambda: sequence(per_token=True, causal=True), False),
    "causal mean": (lambda: sequence(causal=True, decay=0.9), True),
    "checkpointed": (checkpointed, True),
    "language": (lambda: language(max_position_embeddings=N), False),
    "language, clamped": (lambda: language(max_position_embeddings=6, position_mode="clamped"), False),
}
MASKED = [name for name in CASES if not name.startswith("language")]


class Whole:
    """What a Split does, of a sequence in one piece."""

    def take(self, x):
        return x

    def mean(self, values, mask=None):
        return values[mask].mean() if mask is not None else values.mean()


def inputs(case, masked):
    """The model in float64, the whole sequences [B, N, C] or ids [B, N], the mask and what the output should be."""
    torch.manual_seed(list(CASES).index(case))
    make, pooled = CASES[case]
    model = use_backend(scramble(make().double().train()), "eager")
    if case.startswith("language"):
        x = torch.randint(VOCABULARY, (B, N))
        target = torch.randint(VOCABULARY, (B, N))
    else:
        x = torch.randn(B, N, C, dtype=torch.float64, requires_grad=True)
        classes = model.config.num_classes if isinstance(model, ToSTSequence) else C
        target = torch.randn(B, N, classes, dtype=torch.float64)
    mask = None
    if masked:
        mask = torch.rand(B, N) > 0.4
        mask[0], mask[1, 3:], mask[2, :9] = False, False, False
    return model, x, mask, target[:, 0] if pooled and "pair" not in case else target[::2, 0] if pooled else target


def loss_of(case, model, x, mask, target, split):
    """(the loss of the whole sequence, the output)."""
    torch.manual_seed(getattr(split, "rank", 0))  # a process's own draws
    out = model(x) if mask is None else model(x, mask=mask)
    if case.startswith("language"):
        out = out.logits
        return split.mean(torch.nn.functional.cross_entropy(out.transpose(1, 2), target, reduction="none")), out
    error = (out - target).square().mean(-1)
    return error.mean() if CASES[case][1] else split.mean(error, mask), out


def gradients(model, x, loss):
    wanted = {**dict(model.named_parameters()), **({"x": x} if x.requires_grad else {})}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found))


def work(cut, group):
    """The output, loss and gradients of this process, by case."""
    found = {}
    for case, masked in [(case, masked) for case in CASES for masked in (False, True) if not masked or case in MASKED]:
        model, x, mask, target = inputs(case, masked)
        x = x[:, cut].detach().requires_grad_(x.requires_grad)
        mask = None if mask is None else mask[:, cut]
        with context_parallel(model, group) as split:
            loss, out = loss_of(case, model, x, mask, target if CASES[case][1] else target[:, cut], split)
            found[case, masked] = {"loss": loss.detach(), "out": out.detach(), "gradients": gradients(model, x, loss)}
    return found


def volumes(rank, group):
    """Calls and bytes of a pass over 4 and over 64 tokens a process, by layer and direction."""
    found = {}
    for name, layer in (("tssa", TSSA(C, H)), ("causal", CausalTSSA(C, H, decay=0.9))):
        for tokens in (4, 64):
            x = torch.randn(B, tokens + rank, C)
            with context_parallel(layer, group), communicated() as forward:
                y = layer(x)
            with communicated() as backward:
                y.sum().backward()
            found[name, tokens] = [forward.calls, forward.bytes, backward.calls, backward.bytes]
    return found


@torch.no_grad()
def prefilled(cut, group):
    """Logits of the token after a prompt that the group read, in the process with the prompt's end."""
    model, ids, _, _ = inputs("language", False)
    model.eval()
    with context_parallel(model, group) as split:
        cache = model(ids[:, :-1][:, cut], use_cache=True).past_key_values
    return model(ids[:, -1:], past_key_values=cache).logits if split.rank == split.size - 1 else None


def refusals(group, outside):
    """What the errors within a group say."""
    x, layer = torch.randn(1, 3, C), CausalTSSA(C, H, max_positions=4)
    model, streaming = language(max_position_embeddings=20), sequence(causal=True)
    learned, short = sequence(positions="learned", max_length=5), language(max_position_embeddings=5)
    ids = torch.zeros(1, 3, dtype=torch.long)
    state = layer(x, return_state=True)[1]
    calls = {
        "packed": lambda: layer(x, cu_seqlens=torch.tensor([0, 1, 3])),
        "state": lambda: layer(x, state=state),
        "too long": lambda: layer(x),
        "membership": lambda: layer.membership(x),
        "stream": lambda: streaming.stream(x),
        "labels": lambda: model(ids, labels=ids),
        "learned positions": lambda: learned(x),
        "learned positions of text": lambda: short(ids),
    }
    said = {}
    with context_parallel(torch.nn.ModuleList([layer, streaming, model, learned, short]), group):
        for name, call in calls.items():
            try:
                call()
            except ValueError as error:
                said[name] = str(error)
    try:
        context_parallel(layer, outside).__enter__()
    except ValueError as error:
        said["outside"] = str(error)
    return said


def member(rank, size, group, outside):
    """All that this process finds in a group of `size`."""
    end = sum(LENGTHS[size][: rank + 1])
    cut = slice(end - LENGTHS[size][rank], end)
    found = {"cases": work(cut, group), "prefilled": prefilled(cut, group)}
    return {**found, "volumes": volumes(rank, group), "refusals": refusals(group, outside)}


def main(rank, size, folder):
    join(rank, size, folder)
    groups = {members: dist.new_group(list(range(members))) for members in LENGTHS}
    others = [dist.new_group([other]) for other in range(size)]  # one process each
    leave(rank, folder, {
        members: member(rank, members, group, others[rank - 1]) for members, group in groups.items() if rank < members
    })  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
