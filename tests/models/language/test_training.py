import subprocess
import sys

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tests.models.language.common import text, tiny_config
from tost.models.language import ToSTForCausalLM

pytest.importorskip("accelerate")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_transformers_trainer_learns_a_text_by_heart(tmp_path, checkpointing):
    torch.manual_seed(0)
    model = ToSTForCausalLM(tiny_config(layer_scale_init=1.0))
    row = text(16)[0]
    settings = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=60,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
        gradient_checkpointing=checkpointing,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = [{"input_ids": row, "labels": row}] * 8
    trainer = Trainer(model, settings, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    expected = model.eval()(row[None], labels=row[None]).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
    assert model(row[None], labels=row[None]).loss < 0.1
    assert torch.equal(model.generate(row[None, :1], max_new_tokens=15, do_sample=False)[0], row)


def test_without_transformers_the_rest_works_and_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['transformers'] = None; import tost.models\n"
        "try: import tost.models.language\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'tost-transformer[language]'" in out.stdout
