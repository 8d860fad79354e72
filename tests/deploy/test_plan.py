"""What is planned is what the allocator sees, and what does not fit is told with what would."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tost.cli import main
from tost.deploy.plan import Case, Planner, plan_memory, softmax_twin
from tost.deploy.plan_command import parse_bytes
from tost.deploy.plan_limits import largest, nearest
from tost.deploy.plan_trace import (
    DTYPES,
    Int8Linear,
    deep,
    replace_linear,
    trace_reading,
    trace_step,
    with_layers,
)
from tost.deploy.tally import Tally
from tost.generation.chunked import prefill
from tost.models.language import ToSTForCausalLM, preset

MIB = 2**20
SMALL = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 512}
MODELS = {
    "published": preset("nano", **SMALL, max_position_embeddings=2048),
    "modern": preset("modern-nano", **SMALL),
    "softmax": preset("nano", **SMALL, mixer="softmax", position_mode="none"),
    "hybrid": preset("nano", **SMALL, mixer=["tssa", "softmax"], position_mode="rotary", mlp="swiglu", norm="rms"),
    "wide-vocabulary": preset("nano", **{**SMALL, "vocab_size": 8192}, max_position_embeddings=2048),
}


@pytest.fixture(autouse=True)
def usual_products(monkeypatch):
    """On AMD's processors float32 products go through oneDNN, by tiles that need less."""
    monkeypatch.setattr("tost.nn.linear.AMD", False)


def allocated(call):
    """The highest that torch's CPU allocator rises within `call`, kernels' own scratch included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        call()
    events = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


def made(config, dtype="float32"):
    torch.manual_seed(0)
    model = ToSTForCausalLM(config).to(DTYPES[dtype]).eval()
    if dtype == "int8":
        for block in model.model.blocks:
            replace_linear(block)
        for module in model.modules():
            if isinstance(module, Int8Linear):
                module.weight.random_(-127, 127), module.scale.normal_()
    return model


def beyond_weights(made_plan):
    return made_plan.total - made_plan.parts["weights"]


READINGS = [
    ("published", "float32", 1, 700, 300),
    ("published", "float32", 3, 512, 512),
    ("hybrid", "float32", 1, 700, 300),
    ("softmax", "float32", 1, 700, 300),
]


@pytest.mark.parametrize(("name", "dtype", "batch", "context", "chunk"), READINGS)
def test_reading_needs_what_was_planned(name, dtype, batch, context, chunk):
    config = MODELS[name]
    model = made(config, dtype)
    ids = torch.ones(batch, context, dtype=torch.int64)
    prefill(model, ids[:, :16], 8)  # kernels are compiled
    told = plan_memory(config, batch=batch, context=context, chunk=chunk, dtype=dtype, device="cpu")
    assert beyond_weights(told) == pytest.approx(allocated(lambda: prefill(model, ids.clone(), chunk)), rel=0.1)
    assert told.parts["weights"] == sum(part.nbytes for part in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize(("name", "dtype"), [("modern", "float32"), ("published", "bfloat16"), ("published", "int8")])
def test_living_tensors_are_what_was_planned(name, dtype):
    """Without what products on a CPU need inside themselves: bfloat16 ones a copy of their output in float32."""
    context = 600
    told = plan_memory(MODELS[name], batch=2, context=context, chunk=256, dtype=dtype, device="cpu")
    with Tally() as tally:
        model = made(MODELS[name], dtype)  # within, so that a view of a weight is no new tensor
        lay = tally.live
        tally.restart()
        prefill(model, torch.ones(2, context, dtype=torch.int64), 256)
    assert beyond_weights(told) == pytest.approx(tally.peak - lay, rel=0.02)
    assert told.parts["weights"] == sum(part.nbytes for part in [*model.parameters(), *model.buffers()])


STEPS = [
    ("published", "float32", True),
    ("hybrid", "float32", False),
    ("wide-vocabulary", "bfloat16", False),
]


@pytest.mark.parametrize(("name", "dtype", "checkpointing"), STEPS)
def test_a_training_step_needs_what_was_planned(name, dtype, checkpointing):
    config, batch, context = MODELS[name], 2, 384
    model = made(config).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    optimiser = torch.optim.AdamW(model.parameters())
    ids = torch.ones(batch, context, dtype=torch.int64)

    def step():
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(ids, labels=ids).loss
        loss.backward()
        optimiser.step()

    step()
    optimiser.zero_grad()
    measured = allocated(step)
    told = plan_memory(
        config, batch=batch, context=context, train=True, dtype=dtype, checkpointing=checkpointing, device="cpu"
    )
    lay = told.parts["weights"] + told.parts["optimiser"] + told.parts["tokens"]
    assert told.total - lay == pytest.approx(measured, rel=0.1)
    assert told.parts["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    assert told.parts["optimiser"] == sum(s.nbytes for kept in optimiser.state.values() for s in kept.values())


@pytest.mark.parametrize(
    ("name", "layers", "trace", "options"),
    [
        ("hybrid", 8, trace_reading, ("int8", 2, 300, 100)),
        ("published", 5, trace_step, ("bfloat16", 1, 300, True, True)),
        ("published", 5, trace_step, ("float32", 1, 40, False, None)),
    ],
    ids=["reading", "checkpointing", "step"],
)
def test_deep_models_are_shallow_ones_continued(name, layers, trace, options):
    config = with_layers(MODELS[name], layers)
    assert deep(trace, config, *options) == trace(config, *options)


def test_a_tally_counts_storages_once():
    with Tally() as tally:
        a = torch.ones(1000)
        view = a[10:].reshape(9, 110)
        assert (tally.live, tally.peak) == (4000, 4000)
        b = view * 2
        assert tally.live == 4000 + b.nbytes
        del a
        assert tally.live == 4000 + b.nbytes  # the view holds it
        del view
        assert tally.live == b.nbytes and tally.peak == 4000 + b.nbytes
        tally.restart()
        assert tally.peak == b.nbytes


def test_states_and_caches_are_the_formulas():
    config, batch = MODELS["published"], 2
    H, L, C = config.num_attention_heads, config.num_hidden_layers, config.hidden_size
    for context in (100, 1900):
        told = plan_memory(config, context=context, batch=batch, device="cpu")
        assert told.parts["state"] == batch * L * 8 * (H * (2 * C // H + 1) + 1)
        told = plan_memory(softmax_twin(config), context=context, batch=batch, device="cpu")
        keys_and_values, mask = batch * L * 2 * context * C * 2, batch * L * (context + 8)
        assert told.parts["state"] == keys_and_values + mask


@pytest.mark.parametrize(("name", "billions"), [("1b", 1), ("3b", 3), ("7b", 7), ("modern-7b", 7)])
def test_sizes_are_what_they_are_called(name, billions):
    planner = Planner(preset(name))
    assert planner.parameters == pytest.approx(billions * 1e9, rel=0.21)
    assert planner.config.hidden_size // planner.config.num_attention_heads == 64


def test_seven_billion_parameters_read_32k_tokens_on_24_gib():
    planner = Planner(preset("7b"))
    ours = planner.plan(Case(dtype="int8"))
    assert ours.total < planner.plan(Case()).total < 24 * 2**30
    assert Planner(softmax_twin(preset("7b"))).plan(Case()).total > 24 * 2**30


@pytest.mark.parametrize(("what", "train"), [("context", False), ("batch", True)])
def test_the_largest_fits_and_more_does_not(what, train):
    planner, room = Planner(softmax_twin(MODELS["published"])), 96 * MIB
    case = Case(context=512, batch=2, chunk=128, dtype="float32", train=train, device="cpu")
    found = largest(planner, case, room, what)
    at = {"context": case.context, "batch": case.batch, what: found}
    assert planner.plan(Case(**{**vars(case), **at})).total <= room
    at[what] = int(found * 1.06) + 1
    assert planner.plan(Case(**{**vars(case), **at})).total > room


def test_no_context_is_too_long_for_a_state():
    planner = Planner(preset("nano", **SMALL, position_mode="none"))
    case = Case(context=4096, chunk=256, device="cpu")
    found = largest(planner, case, 64 * MIB, "context")
    assert found > 6_000_000  # 8 bytes a token: the tokens themselves
    assert largest(Planner(MODELS["published"]), Case(context=512, device="cpu"), 64 * MIB, "context") == 2048


def test_the_nearest_plan_changes_least():
    planner = Planner(MODELS["published"])
    case = Case(context=2048, chunk=2048, dtype="bfloat16", device="cpu")
    needs = {chunk: planner.plan(Case(**{**vars(case), "chunk": chunk})).total for chunk in (2048, 1024, 512)}
    for chunk in (1024, 512):
        assert nearest(planner, case, needs[chunk]) == Case(**{**vars(case), "chunk": chunk})
    training = Case(context=2048, batch=2, train=True, device="cpu")
    kept = planner.plan(Case(**{**vars(training), "checkpointing": True})).total
    assert nearest(planner, training, kept) == Case(**{**vars(training), "checkpointing": True})
    assert nearest(planner, case, 1000) is None


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * 2**30), ("80 GB", 80 * 10**9), ("1.5mib", 3 * 2**19), ("4096", 4096)]
)
def test_sizes_of_memory(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nano", "--context", "256", "--device-memory", "much"], "such as 24GiB or 80GB, got 'much'"),
        (["nano", "--context", "300"], "learned positions for 256 tokens, got a context of 300"),
        (["nano", "--context", "0"], "context of at least 1, got 0"),
        (["nano", "--context", "256", "--train", "--dtype", "int8"], "int8 weights take no gradient"),
        (["nano", "--context", "256", "--checkpointing"], "checkpointing is of training"),
        (["absent"], "no folder with a config.json and no size"),
        (["nano", "--context", "256", "--device-memory", "1MiB"], "no size fits"),
        (
            ["nano", "--context", "256", "--batch", "2000", "--device-memory", "1GiB", "--device", "cpu"],
            "nearest that fits: --chunk 128 (",
        ),
    ],
)
def test_the_impossible_is_told_in_one_line(arguments, told, capsys):
    assert main(["plan", *arguments]) == 2
    printed = capsys.readouterr()
    assert told in printed.err and printed.err.count("\n") == 1, printed.err
    assert ("| **total** |" in printed.out) == (" needs " in printed.err)


def test_a_folder_is_planned_and_the_numbers_are_told(tmp_path, capsys):
    config = with_layers(MODELS["published"], 2)
    config.save_pretrained(tmp_path)
    arguments = [str(tmp_path), "--context", "1000", "--chunk", "100", "--device", "cpu", "--json"]
    assert main(["plan", *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    again = plan_memory(config, context=1000, chunk=100, device="cpu")
    assert told["total"] == again.total and told["parts"] == again.parts and told["fits"]
    (tmp_path / "config.json").write_text("{")
    assert main(["plan", *arguments]) == 2
    assert "is no JSON" in capsys.readouterr().err
