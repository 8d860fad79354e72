import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from tests.models.language.common import L, V, pad, text, tiny, tiny_config
from tests.nn.helpers import gradients
from tost.models.language import ToSTForCausalLM, ToSTForSequenceClassification, ToSTModel

MODES = ["learned", "clamped", "none"]


def test_no_token_sees_a_later_one():
    model, ids = tiny(), text(12, batch=2)
    changed = ids.clone()
    changed[:, 7:] = text(5, batch=2, seed=1)
    a, b = model(ids).logits, model(changed).logits
    assert_close(a[:, :7], b[:, :7], rtol=1e-5, atol=1e-5)
    assert (a[:, 7:] - b[:, 7:]).abs().amin(dim=(0, 1)).max() > 1e-2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_padding_changes_no_real_token(side, mode):
    model = tiny(position_mode=mode).double()
    rows = [text(n, seed=n)[0] for n in (11, 4, 1)]
    ids, mask = pad(rows, side, length=13)
    logits = model(ids, attention_mask=mask).logits
    alone = [model(row[None]).logits[0] for row in rows]
    for i in range(3):
        assert_close(logits[i][mask[i].bool()], alone[i], rtol=1e-9, atol=1e-9)
    weight = torch.linspace(-1, 1, V, dtype=torch.float64)
    padded = torch.autograd.grad((logits[mask.bool()] @ weight).sum(), model.parameters())
    single = torch.autograd.grad(sum((out @ weight).sum() for out in alone), model.parameters())
    for a, b in zip(padded, single):
        assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_positions_count_real_tokens_and_may_be_given():
    model, ids = tiny(), text(9)
    assert_close(model(ids, position_ids=torch.arange(9)[None]).logits, model(ids).logits, rtol=0, atol=0)
    moved = model(ids, position_ids=torch.arange(9)[None] + 3).logits
    assert (moved - model(ids).logits).abs().max() > 1e-2
    with pytest.raises(ValueError, match=r"position_ids \[1, 9\]"):
        model(ids, position_ids=torch.arange(8)[None])


def test_loss_is_the_cross_entropy_of_the_next_token():
    model, ids = tiny(), text(10, batch=2)
    labels = ids.clone()
    labels[0, :4] = -100
    out = model(ids, labels=labels)
    logits, target = out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    assert_close(out.loss, F.cross_entropy(logits[target >= 0], target[target >= 0]))
    assert_close(model(ids, logits_to_keep=3).logits, out.logits[:, -3:])
    assert_close(model(ids, logits_to_keep=torch.tensor([2, 5])).logits, out.logits[:, [2, 5]])


def test_embeddings_in_hidden_states_out():
    model, ids = tiny(), text(8, batch=2)
    out = model(ids, output_hidden_states=True)
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids))
    assert_close(embedded.logits, out.logits, rtol=0, atol=0)
    assert len(out.hidden_states) == 3
    first = model.model.blocks[0](out.hidden_states[0])
    assert_close(first, out.hidden_states[1], rtol=0, atol=0)
    assert_close(model.lm_head(out.hidden_states[-1]), out.logits, rtol=0, atol=0)
    as_tuple = model(ids, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], out.logits)


def test_gradient_checkpointing_gives_the_same_gradients():
    model, ids = tiny().train(), text(9, batch=2)
    want = gradients(model, model(ids).logits)
    model.gradient_checkpointing_enable()
    runs = []
    hook = model.model.blocks[0].mixer.register_forward_hook(lambda *_: runs.append(1))
    got = gradients(model, model(ids).logits)
    hook.remove()
    assert len(runs) == 2  # it did run again in the backward pass
    for name, g in want.items():
        assert_close(got[name], g, msg=name)
    with pytest.raises(ValueError, match="gradient checkpointing runs a block twice"):
        model(ids, past_key_values=tiny()(ids).past_key_values)


def test_every_parameter_learns():
    model, ids = tiny(bias=True), text(L, batch=2)
    model(ids, labels=ids).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent


def test_initial_weights_are_gpt2s():
    torch.manual_seed(0)
    model = ToSTForCausalLM(tiny_config(hidden_size=96, num_hidden_layers=8))
    for name, p in model.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight")):
            assert p.std().item() == pytest.approx(0.02 / 16**0.5, rel=0.1), name
        elif name.endswith(("gamma1", "gamma2")):
            assert (p == 1e-5).all()
        elif "temperature" in name or "norm" in name:
            assert (p == 1).all()
        elif "position_bias" in name:
            assert (p == 0).all()
        else:
            assert p.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize("place", ["embedding", "statistics", "mixer", "mlp", None])
def test_dropout_is_where_gpt2_has_it(place):
    model, ids = tiny(dropout=0.5).train(), text(L)
    if place != "embedding":
        model.model.drop.p = 0.0
    for block in model.model.blocks:
        assert block.mlp.drop.p == 0  # the hidden layer drops nothing
        if place != "statistics":
            block.mixer.attn_drop = 0.0
        if place != "mixer":
            block.mixer.proj_drop.p = 0.0
        if place != "mlp":
            block.mlp_drop.p = 0.0
    a, b = model(ids).logits, model(ids).logits
    assert ((a - b).abs().max() > 1e-2) == (place is not None)
    assert_close(model.eval()(ids).logits, tiny()(ids).logits)


def test_embeddings_are_tied_and_can_grow(tmp_path):
    model = tiny()
    assert model.lm_head.weight is model.model.embedding.weight
    model.resize_token_embeddings(70)
    assert model.lm_head.weight is model.model.embedding.weight and model.config.vocab_size == 70
    ids = text(5)
    ids[0, -1] = 69
    assert model(ids).logits.shape == (1, 5, 70)
    loose = tiny(tie_word_embeddings=False)
    assert loose.lm_head.weight is not loose.model.embedding.weight


def test_save_and_load(tmp_path):
    model, ids = tiny(position_mode="clamped", bias=True), text(9)
    model.save_pretrained(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    placed = ToSTForCausalLM.from_pretrained(tmp_path, device_map="cpu", dtype=torch.bfloat16)
    assert placed.dtype == torch.bfloat16 and torch.isfinite(placed(ids).logits).all()
    other = ToSTForCausalLM.from_pretrained(tmp_path, position_mode="learned")
    assert other.config.position_mode == "learned" and torch.equal(other(ids).logits, model(ids).logits)
    body = ToSTModel.from_pretrained(tmp_path)
    assert torch.equal(body(ids).last_hidden_state, model.model(ids).last_hidden_state)


def test_pickles_are_not_read(tmp_path):
    model = tiny()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        ToSTForCausalLM.from_pretrained(tmp_path)


def test_learned_positions_end_with_their_table():
    model = tiny()
    model(text(L))
    with pytest.raises(ValueError, match=f"for {L} tokens, got a sequence of {L + 1}.*position_mode='clamped'"):
        model(text(L + 1))
    past = model(text(L)).past_key_values
    with pytest.raises(ValueError, match=f"got a sequence of {L + 1}"):
        model(text(1), past_key_values=past)
    ids, mask = pad([text(L)[0], text(3)[0]], "left", length=L + 5)
    assert torch.isfinite(model(ids, attention_mask=mask).logits[:, -3:]).all()  # padding has no position


def test_clamped_positions_reuse_the_last_row():
    clamped, longer = tiny(position_mode="clamped"), tiny(max_position_embeddings=L + 20)
    state = clamped.state_dict()
    for name, t in state.items():
        if name.endswith("positions.weight"):
            state[name] = torch.cat([t, t[-1:].expand(20, -1)])
        elif name.endswith("position_bias"):
            state[name] = torch.cat([t, t[:, -1:].expand(-1, 20)], dim=1)
    longer.load_state_dict(state)
    ids = text(L + 20, batch=2)
    want = longer(ids).logits
    assert_close(clamped(ids).logits, want, rtol=1e-5, atol=1e-5)
    for cut in (5, L - 1, L, L + 7):
        head = clamped(ids[:, :cut])
        tail = clamped(ids[:, cut:], past_key_values=head.past_key_values)
        assert_close(torch.cat([head.logits, tail.logits], 1), want, rtol=1e-5, atol=1e-4)
        assert tail.past_key_values.layers[0].state.length.tolist() == [L + 20, L + 20]
    assert_close(clamped(ids[:, :L]).logits, tiny()(ids[:, :L]).logits, rtol=0, atol=0)


def test_no_positions_no_end():
    model = tiny(position_mode="none")
    assert model.model.positions is None and not [n for n, _ in model.named_parameters() if "position" in n]
    ids = text(3 * L)
    assert torch.isfinite(model(ids).logits).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.tensor([[1, V]])), f"knows token ids 0..{V - 1}, got {V}.*tokenizer"),
        (lambda m: m(torch.tensor([[1, -1]])), "got -1"),
        (lambda m: m(torch.tensor([1, 2])), r"input_ids\[None\]"),
        (lambda m: m(), "either input_ids"),
        (lambda m: m(text(3), inputs_embeds=torch.zeros(1, 3, 24)), "either input_ids"),
        (lambda m: m(inputs_embeds=torch.zeros(1, 3, 25)), r"\[B, N, 24\]"),
        (lambda m: m(text(3), attention_mask=torch.ones(1, 4)), r"attention_mask \[1, 3\]"),
        (lambda m: m(text(3), output_attentions=True), "no attention matrix"),
        (lambda m: m.generate(torch.zeros(1, 0, dtype=torch.int64), max_new_tokens=2), "empty prompt"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(tiny())


@pytest.mark.parametrize("side", ["left", "right"])
def test_classification_answers_with_the_last_real_token(side):
    model = tiny(kind=ToSTForSequenceClassification, num_labels=4, pad_token_id=0)
    rows = [text(n, seed=n)[0] for n in (9, 3, 6)]
    ids, mask = pad(rows, side)
    alone = torch.cat([model(row[None]).logits for row in rows])
    out = model(ids, attention_mask=mask, labels=torch.tensor([0, 3, 1]))
    assert_close(out.logits, alone, rtol=1e-4, atol=1e-5)
    assert_close(out.loss, F.cross_entropy(alone, torch.tensor([0, 3, 1])), rtol=1e-4, atol=1e-5)
    hidden = model.model(rows[1][None]).last_hidden_state[:, -1]
    assert_close(model.score(hidden), alone[1:2])
    if side == "right":
        assert_close(model(ids).logits, alone, rtol=1e-4, atol=1e-5)  # by pad_token_id


def test_regression():
    model = tiny(kind=ToSTForSequenceClassification, num_labels=1)
    out = model(text(5, batch=2), labels=torch.tensor([0.5, -1.0]))
    assert_close(out.loss, F.mse_loss(out.logits.squeeze(-1), torch.tensor([0.5, -1.0])))


@pytest.mark.filterwarnings("ignore")
def test_compiles_as_one_graph():
    model, ids = tiny(num_hidden_layers=1).train(), text(9, batch=2)
    want = gradients(model, model(ids).logits)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for name, g in gradients(model, compiled(ids).logits).items():
        assert_close(g, want[name], rtol=1e-3, atol=1e-4, msg=name)
