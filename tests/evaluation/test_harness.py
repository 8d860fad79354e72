"""lm-evaluation-harness runs on our models unmodified: a task of the test's own, figures equal to ours."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from tests.textmodels import full_nats, save_model
from tost.evaluation.scoring import tokens

pytest.importorskip("lm_eval")
ROWS = [
    {"text": "the cat sat on the", "choices": [" mat", " dog and cat"], "label": 0},
    {"text": "then they all sat down", "choices": [" on the mat", " and ate"], "label": 1},
    {"text": "the dog saw", "choices": [" the cat", " a"], "label": 0},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{text}}}}"
output_type: {kind}
{rest}
"""
CHOICE = 'doc_to_choice: "{{choices}}"\ndoc_to_target: "{{label}}"\ntarget_delimiter: ""\nmetric_list: [{metric: acc}]'
WRITE = """doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(model, tokenizer, samples by task) of one run of the harness's command."""
    folder = tmp_path_factory.mktemp("harness")
    model, words = save_model(folder / "model")
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    for name, kind, rest in (("own_choice", "multiple_choice", CHOICE), ("own_writing", "generate_until", WRITE)):
        text = TASK.format(name=name, kind=kind, data=tasks / "rows.jsonl", rest=rest)
        (tasks / f"{name}.yaml").write_text(text, "utf-8")
    command = [sys.executable, "-m", "tost.integrations.lm_eval", "--model", "hf"]
    command += ["--model_args", f"pretrained={folder / 'model'},dtype=float32", "--device", "cpu"]
    command += ["--tasks", "own_choice,own_writing", "--include_path", str(tasks), "--batch_size", "2"]
    command += ["--output_path", str(folder / "out"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    samples = {}
    for path in (folder / "out").rglob("samples_*.jsonl"):
        name = re.match(r"samples_(own_[a-z]+)_", path.name).group(1)
        samples[name] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return model, words, samples, done.stdout


@torch.no_grad()
def test_log_likelihoods_are_ours(ran):
    model, words, samples, _ = ran
    right = 0
    for sample in samples["own_choice"]:
        row, told = sample["doc"], []
        for choice, (got, _) in zip(row["choices"], sample["filtered_resps"]):
            ids, before = tokens(words, [row["text"] + choice, row["text"]])
            told.append(-float(full_nats(model, ids)[len(before) - 1 :].sum()))
            assert float(got) == pytest.approx(told[-1], rel=1e-4)
        right += told.index(max(told)) == row["label"]
    assert len(samples["own_choice"]) == 3
    assert right / 3 == pytest.approx(sum(sample["acc"] for sample in samples["own_choice"]) / 3)


@torch.no_grad()
def test_generations_are_transformers(ran):
    model, words, samples, _ = ran
    for sample in samples["own_writing"]:
        ids = words(sample["doc"]["text"], return_tensors="pt")["input_ids"]
        out = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        want = words.decode(out, skip_special_tokens=True).split("\n")[0]
        assert sample["resps"][0][0] == want


def test_the_table_of_results_is_printed(ran):
    assert "own_choice" in ran[3] and "own_writing" in ran[3]
