"""Language models on text: known sets in their published formats, last words, closed questions, own held-out text."""

import json
import math

import pytest
import torch

from tests.textmodels import TEXT, full_nats, save_model
from tost.cli import main
from tost.evaluation import evaluate
from tost.evaluation.cloze import forked
from tost.evaluation.scoring import Context, tokens
from tost.evaluation.sets import load_text_set

LINES = [
    "",
    "= The cat =",
    "",
    "The cat sat on the mat , and the dog saw it .",
    "",
    "= = Food = =",
    "",
    "They all ate .",
    "",
    "= A <unk> dog ( 1990 ) =",
    "",
    "The dog sat down .",
]
WIKI = "".join(f" {line} \n" if line else " \n" for line in LINES)  # as WikiText is published
STORY = "".join(f"{n} The cat sat on the mat and the dog saw it .\n" for n in range(1, 21))
CBT = (
    STORY
    + "21 Then the XXXXX ate .\tdog\t\tcat|dog|mat|\n\n"
    + STORY
    + "21 `` XXXXX , '' they said .\tcat\t\tdog|cat\n"
)
PASSAGES = ["the cat sat on the mat", "they all\nsat down and ate"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, *save_model(folder)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "wiki.test.raw").write_text(WIKI, "utf-8")
    (tmp_path / "lambada_test.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in PASSAGES), "utf-8")
    (tmp_path / "ptb.test.txt").write_text(" no it was n't <unk> monday \n but the N sat \n", "utf-8")
    (tmp_path / "cbtest_CN_test_2500ex.txt").write_text(CBT, "utf-8")
    (tmp_path / "mine.txt").write_text(TEXT, "utf-8")
    return tmp_path


def test_wikitext_is_one_stream_of_articles(files):
    found = load_text_set("wikitext", str(files))
    assert "".join(found.documents) == WIKI and found.joined and len(found.documents) == 2
    assert found.documents[1].startswith(" = A <unk> dog ( 1990 ) = \n")


def test_other_sets_are_read_as_they_are(files):
    assert load_text_set("lambada", str(files)).documents == PASSAGES
    assert load_text_set("ptb", str(files)).documents == ["no it was n't <unk> monday\nbut the N sat"]
    first, second = load_text_set("cbt", str(files)).questions["CN"]
    assert (first.query, first.answer, first.options) == ("Then the XXXXX ate .", "dog", ["cat", "dog", "mat"])
    assert len(second.sentences) == 20 and second.sentences[0].startswith("The cat sat")
    assert load_text_set("openwebtext", str(files / "lambada_test.jsonl")).documents == PASSAGES


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("lambada", b'{"text": "a"}\n{"txt": "b"}\n', "line 2: expected a JSON object"),
        ("lambada", b"\n\n", "no text in it"),
        ("ptb", b"\n \n", "no text in it"),
        ("cbt", b"1 a story\n21 no blank\tcat\t\tcat|dog\n", "line 2: expected a question with XXXXX"),
        ("cbt", b"a story\n", "line 1: expected a numbered line"),
        ("wikitext", b"abc\xff", "not UTF-8"),
    ],
)
def test_a_wrong_format_is_told_with_its_line(name, content, told, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        load_text_set(name, str(tmp_path / "file"))


@pytest.mark.parametrize("context", ["sliding", "streaming"])
@torch.no_grad()
def test_figures_of_a_file_are_those_of_one_pass(saved, tmp_path, context):
    folder, model, words = saved
    text = "the dog saw the cat; Übung"
    (tmp_path / "mine.txt").write_text(text, "utf-8")
    ids = tokens(words, [text])[0]
    nats = full_nats(model, ids)
    found = evaluate(folder, data=str(tmp_path / "mine.txt"), context=context)
    first = len(words.decode(ids[:1]).encode())
    assert (found["tokens"], found["bytes"]) == (len(ids) - 1, len(text.encode()) - first)
    assert found["loss"] == pytest.approx(float(nats.mean()), rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(float(nats.mean())), rel=1e-3)
    assert found["bits_per_byte"] == pytest.approx(float(nats.sum()) / math.log(2) / found["bytes"], rel=1e-4)
    assert found["interval"] is None and found["documents"] == 1


def test_what_looks_like_a_special_token_is_text(saved):
    _, _, words = saved
    ids = tokens(words, ["a<|endoftext|>b"])[0]
    assert words.eos_token_id not in ids.tolist() and words.decode(ids) == "a<|endoftext|>b"


def test_joined_documents_are_scored_as_one_text(saved, files):
    folder, model, words = saved
    found = evaluate(folder, data="wikitext", path=str(files), context="streaming", position_mode="clamped")
    parts = tokens(words, load_text_set("wikitext", str(files)).documents)
    assert found["documents"] == 2 and found["tokens"] == sum(map(len, parts)) - 1
    (files / "same.txt").write_text(WIKI, "utf-8")
    whole = evaluate(folder, data=str(files / "same.txt"), context="streaming", position_mode="clamped")
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-6) and found["bytes"] == whole["bytes"]


@torch.no_grad()
def test_lambada_counts_all_tokens_and_the_last_word(saved, files):
    folder, model, words = saved
    found = evaluate(folder, data="lambada", path=str(files))
    nats, last, right = [], [], 0
    for passage in PASSAGES:
        ids = tokens(words, [passage])[0]
        n = len(ids) - len(tokens(words, [passage.rpartition(" ")[0]])[0])
        nats.append(full_nats(model, ids))
        last.append(nats[-1][-n:].sum())
        grown = model.generate(ids[None, :-n], max_new_tokens=n, do_sample=False, eos_token_id=None)
        right += torch.equal(grown[0], ids)
    assert found["loss"] == pytest.approx(float(torch.cat(nats).mean()), rel=1e-4)
    assert found["last_word_loss"] == pytest.approx(float(sum(last)) / 2, rel=1e-4)
    assert (found["right"], found["passages"]) == (right, 2)


@torch.no_grad()
def test_a_model_that_always_says_cat(tmp_path):
    model, words = save_model(tmp_path, bias=True)
    cat = words.convert_tokens_to_ids("\u0120cat")
    model.model.norm.bias.copy_(100 * model.model.embedding.weight[cat])
    model.save_pretrained(tmp_path)
    passages = ["the dog saw the cat", "the cat sat on the mat", "the mat cat dog", "they saw the cat"]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in passages), "utf-8")
    found = evaluate(tmp_path, data="lambada", path=str(tmp_path / "own.jsonl"))
    assert (found["right"], found["accuracy"]) == (2, 0.5)
    (tmp_path / "cbtest_NE_test.txt").write_text(CBT, "utf-8")
    assert evaluate(tmp_path, data="cbt", path=str(tmp_path))["parts"]["NE"]["right"] == 1  # dog, then cat


@torch.no_grad()
def test_the_likeliest_option_is_chosen(saved, files):
    folder, model, words = saved
    model.config.position_mode = "clamped"
    question = load_text_set("cbt", str(files)).questions["CN"][0]
    story = tokens(words, ["\n".join(question.sentences[:2]) + "\n"])[0]
    endings = tokens(words, [question.query.replace("XXXXX", option) for option in question.options])
    wanted = [float(full_nats(model, torch.cat([story, ids]))[-len(ids) :].sum()) for ids in endings]
    for chunk in (7, 1000):
        got = forked(model, story, endings, Context("streaming", chunk=chunk))
        assert got == pytest.approx(wanted, rel=1e-4)
    model.config.position_mode = "learned"
    for context in ("sliding", "streaming"):
        found = evaluate(folder, data="cbt", path=str(files), context=context, position_mode="clamped")
        assert found["parts"]["CN"]["questions"] == 2 and 0 <= found["parts"]["CN"]["right"] <= 2


def test_exactly_one_option_would_be_right(saved, files):
    folder, _, _ = saved
    found = load_text_set("cbt", str(files)).questions["CN"]
    scored = {}
    for answer_of in range(2):
        for option in found[answer_of].options:
            text = STORY + f"21 {found[answer_of].query}\t{option}\t\t{'|'.join(found[answer_of].options)}\n"
            (files / "cbtest_NE_test.txt").write_text(text, "utf-8")
            one = evaluate(folder, data="cbt", path=str(files / "cbtest_NE_test.txt"))["parts"]["NE"]
            scored.setdefault(answer_of, []).append(one["right"])
    assert all(sum(right) == 1 for right in scored.values())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data", "wikitxt"], "none of the known sets"),
        (["--data", "wikitext", "--path", "/absent"], "/absent: no such file or folder"),
        (["--data", "mine.txt", "--path", "mine.txt"], "give the file as --data"),
        (["--data", "empty.txt"], "is empty"),
        (["--data", "latin.txt"], "not UTF-8 text: byte 3"),
        (["--data", "mine.txt", "--length", "49"], "--position_mode clamped"),
        (["--data", "mine.txt", "--context", "streaming"], "--position_mode clamped, or choose --context sliding"),
        (
            ["--data", "mine.txt", "--position-mode", "none"],
            "--position_mode: expected one of ['learned', 'clamped'], got 'none'",
        ),
        (["--data.path", "mine.txt"], "not --data.path"),
        ([], "no recipe that holds out text"),
    ],
    ids=" ".join,
)
def test_mistakes_are_told_in_one_line(saved, files, options, told, capsys, monkeypatch):
    monkeypatch.chdir(files)
    (files / "empty.txt").write_text("")
    (files / "latin.txt").write_bytes("caf\xe9 creme".encode("latin-1"))
    assert main(["evaluate", str(saved[0]), *options]) == 2
    printed = capsys.readouterr()
    assert told in printed.err and printed.err.count("\n") == 1, printed.err
    assert not printed.out


def test_a_vision_run_has_no_text_options(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("description: images\n")
    assert main(["evaluate", str(tmp_path), "--data", "wikitext"]) == 2
    assert "is no language model" in capsys.readouterr().err


def test_the_command_says_what_was_scored(saved, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert main(["evaluate", str(saved[0]), "--data", "mine.txt", "--stride", "16"]) == 0
    printed = capsys.readouterr().out
    assert "text     mine.txt as it is" in printed and "sliding windows of 48 tokens, stride 16" in printed
    assert "nats a token" in printed and "bits per byte" in printed
    assert main(["evaluate", str(saved[0]), "--data", "lambada", "--path", "lambada_test.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passages"] == 2
    assert main(["evaluate", str(saved[0]), "--data", "cbt", "--path", "."]) == 0
    assert "of 2 questions right" in capsys.readouterr().out


def test_a_models_folder_needs_its_tokenizer(tmp_path, saved):
    folder, model, words = saved
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no tokenizer files"):
        evaluate(tmp_path / "bare", data="lambada")
    small = type(model)(type(model.config)(**{**model.config.to_dict(), "vocab_size": 100}))
    small.save_pretrained(tmp_path / "other")
    words.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens, the model knows 100"):
        evaluate(tmp_path / "other", data="lambada")
