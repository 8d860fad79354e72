"""Images stand anywhere in the text; what follows is the language model; one image's state serves many questions."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText

from tests.models.multimodal.common import KINDS, PLACE, SMALL, inputs, model
from tost.models.language import ToSTForCausalLM, load_state, resume, save_state, select_state, state_nbytes
from tost.models.multimodal import ToSTForImageTextToText, ToSTMultimodalConfig

TEXT = "what <image> is <image>this?"


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_language_models_on_embedded_tokens(kind):
    own = model(kind)
    batch = inputs([TEXT], 2)
    ids, pixels = batch["input_ids"][0], batch["pixel_values"]
    patches = iter(torch.cat([defined_patches(own.model.image, image) for image in pixels]))
    rows = []
    for token in ids.tolist():
        entering = next(patches) if token == PLACE else own.model.embedding.weight[token]
        rows.append(entering + own.model.modality.weight[int(token == PLACE)])
    language = ToSTForCausalLM(own.config).double().eval()
    language.load_state_dict({k: v for k, v in own.state_dict().items() if "image" not in k and "modality" not in k})
    want = language(inputs_embeds=torch.stack(rows)[None]).logits
    assert_close(own(**batch).logits, want, rtol=0, atol=1e-12)
    assert_close(own.model(**batch).last_hidden_state @ own.lm_head.weight.T, want, rtol=0, atol=1e-12)


def defined_patches(image, pixels):
    """norm(patch . weight + bias) + position(row, column), patch by patch."""
    P, (H, W) = image.patch_size, (pixels.shape[1] // image.patch_size, pixels.shape[2] // image.patch_size)
    rows = []
    for row in range(H):
        for column in range(W):
            patch = pixels[:, row * P : (row + 1) * P, column * P : (column + 1) * P]
            x = (image.embed.proj.weight * patch).sum((1, 2, 3)) + image.embed.proj.bias
            x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
            rows.append(image.size * (x + image.positions(H, W)[row * W + column]))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patch_embedding", ["linear", "conv"])
def test_every_parameter_learns(kind, patch_embedding):
    own = model(kind, patch_embedding=patch_embedding).train()
    batch = inputs([TEXT], 2)
    own(**batch, labels=batch["input_ids"]).loss.backward()
    silent = [name for name, p in own.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not [name for name in silent if "position" not in name]


@pytest.mark.parametrize("cut", [1, 5, 9, 13, 20])  # before, after and between the images, never within one
@pytest.mark.parametrize("kind", KINDS)
def test_stream_equals_one_pass(kind, cut):
    own, batch = model(kind), inputs([TEXT], 2)
    ids, pixels = batch["input_ids"], batch["pixel_values"]
    first = int((ids[:, :cut] == PLACE).sum()) // 4
    head = own(ids[:, :cut], pixels[:first] if first else None, use_cache=True)
    tail = own(ids[:, cut:], pixels[first:] if first < 2 else None, past_key_values=head.past_key_values)
    assert_close(torch.cat([head.logits, tail.logits], 1), own(**batch).logits, rtol=0, atol=1e-10)


def test_one_images_state_serves_ten_questions():
    """The image is encoded once: tokens are counted in the first block, images at the patches."""
    own, seen = model(), {"tokens": 0, "images": 0}
    own.model.blocks[0].register_forward_hook(
        lambda _, a, y: seen.update(tokens=seen["tokens"] + a[0].shape[:2].numel())
    )
    own.model.image.register_forward_hook(lambda _, a, y: seen.update(images=seen["images"] + len(a[0])))
    questions = [f"how many {digit}s?" for digit in range(10)]
    alone = [own.generate(**inputs([f"<image>{q}"], 1), max_new_tokens=3, do_sample=False)[0] for q in questions]
    seen.update(tokens=0, images=0)
    start = inputs(["<image>"], 1)
    cache = own(**start, use_cache=True).past_key_values
    size = state_nbytes(cache)
    for question, want in zip(questions, alone):
        asked = resume(select_state(cache, [0]), inputs([question], 0)["input_ids"])
        answer = own.generate(**asked, max_new_tokens=3, do_sample=False)[0]
        assert answer.tolist() == want[4:].tolist()
    assert seen["images"] == 1
    assert seen["tokens"] == 4 + sum(len(question) + 3 - 1 for question in questions)
    assert state_nbytes(cache) == size  # the fork was advanced, not the image's state
    batched = own.generate(
        **resume(select_state(cache, [0] * 10), inputs(questions, 0)["input_ids"]), max_new_tokens=3, do_sample=False
    )
    assert [row.tolist() for row in batched] == [want[4:].tolist() for want in alone]


def test_a_state_does_not_grow_and_goes_to_a_file(tmp_path):
    own = model()
    one, two = (
        own(**inputs([text], n), use_cache=True).past_key_values for text, n in (("<image>", 1), (TEXT * 9, 18))
    )
    assert state_nbytes(one) == state_nbytes(two)
    save_state(one, tmp_path / "image.safetensors", own)
    question = inputs(["why?"], 0)["input_ids"]
    again = own(question, past_key_values=load_state(tmp_path / "image.safetensors", own)).logits
    assert_close(again, own(**inputs(["<image>why?"], 1)).logits[:, 4:], rtol=0, atol=1e-12)


def test_padding_on_the_left_changes_nothing():
    own = model()
    batch = inputs(["<image>a", TEXT], 3)
    assert bool((batch["attention_mask"] == 0).any())
    own.generation_config.max_new_tokens = 4
    both = own.generate(**batch, do_sample=False)
    pixels = batch["pixel_values"]
    for row, (text, mine) in enumerate((("<image>a", pixels[:1]), (TEXT, pixels[1:]))):
        alone = own.generate(inputs([text], len(mine))["input_ids"], pixel_values=mine, do_sample=False)[0]
        assert both[row, -len(alone) :].tolist() == alone.tolist()


def test_beams_keep_the_images_of_their_row():
    own = model()
    batch = inputs(["a<image>b<image>", "c<image>d<image>"], 4)
    both = own.generate(**batch, num_beams=3, max_new_tokens=4)
    for row in range(2):
        alone = own.generate(
            batch["input_ids"][row : row + 1],
            pixel_values=batch["pixel_values"][2 * row : 2 * row + 2],
            num_beams=3,
            max_new_tokens=4,
        )
        assert both[row].tolist() == alone[0].tolist()


def test_generate_never_writes_a_place_of_an_image():
    own = model(tie_word_embeddings=False)
    with torch.no_grad():
        own.lm_head.weight[PLACE] = (
            1e3 * own(**inputs(["<image>"], 1), output_hidden_states=True).hidden_states[-1][0, -1]
        )
    batch = inputs(["<image>"], 1)
    assert int(own(**batch).logits[0, -1].argmax()) == PLACE
    assert PLACE not in own.generate(**batch, max_new_tokens=5, do_sample=False)[0, 4:]


def test_saved_and_read_by_the_auto_class(tmp_path):
    own = model().float()
    own.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, ToSTForImageTextToText) and not [*tmp_path.glob("*.bin")]
    batch = inputs([TEXT], 2)
    batch["pixel_values"] = batch["pixel_values"].float()
    assert torch.equal(again(**batch).logits, own(**batch).logits)
    assert again.generation_config.suppress_tokens == [PLACE]


@pytest.mark.parametrize(
    ("text", "change", "told"),
    [
        ("<image>", lambda b: b.pop("pixel_values"), "4 places of patches, got no pixel_values"),
        ("<image>", lambda b: b.update(pixel_values=b["pixel_values"].repeat(2, 1, 1, 1)), "2 images.*8 places.*got 4"),
        ("<image>", lambda b: b.update(pixel_values=b["pixel_values"][..., :6]), "divisible by 4, got"),
        ("<image>", lambda b: b.update(pixel_values=b["pixel_values"].repeat(1, 3, 1, 1)), r"\[images, 1, H, W\]"),
        ("<image>", lambda b: b.update(pixel_values=b["pixel_values"] / 0), "NaN or infinity"),
        ("<image>", lambda b: b.update(input_ids=b["input_ids"] + 1), "token ids 0..257, got 258"),
    ],
    ids=["no-pixels", "two-images", "width", "channels", "nan", "ids"],
)
def test_what_does_not_fit_is_refused(text, change, told):
    batch = dict(inputs([text], 1))
    change(batch)
    with pytest.raises(ValueError, match=told) as caught:
        model()(**batch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"image_token_id": 99999}, {"patch_size": 0}, {"patch_embedding": "none"}, {"in_chans": 0}], ids=str
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ToSTMultimodalConfig(**wrong)


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_patches_start_as_large_as_tokens(std):
    torch.manual_seed(0)
    config = ToSTMultimodalConfig(**{**SMALL, **KINDS["modern"], "hidden_size": 64, "initializer_range": std})
    own, batch = ToSTForImageTextToText(config), inputs([TEXT * 9], 18)
    batch["pixel_values"] = batch["pixel_values"].float()
    x, here = own.model.embed(**{k: v for k, v in batch.items() if k != "attention_mask"}), batch["input_ids"] == PLACE
    assert 0.7 < (x[here].std() / x[~here].std()).item() < 1.5
    assert 0.5 < own.model.image.positions(2, 2).std().item() < 1.5


def test_each_option_changes_something():
    batch = inputs([TEXT], 2)
    want = model()(**batch).logits
    for change in ({"image_norm": False}, {"modality_embedding": False}, {"patch_embedding": "conv"}):
        assert not torch.allclose(model(**change)(**batch).logits, want)
