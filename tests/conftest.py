"""What several test files share."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "natural-instructions"


def tiny_t5(folder, texts=None):
    "Save a T5 with random weights, with a tokenizer for some texts (None: that of the micro T5); return the folder."
    from instop_nb.t5 import load_t5, micro_config, new_t5, train_tokenizer
    tokenizer = train_tokenizer(texts, 600) if texts else load_t5("micro", device="cpu")[1]
    new_t5(micro_config(len(tokenizer), d_model=16, d_ff=32, num_heads=2, num_layers=1, num_decoder_layers=1)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def real_tasks():
    "Return the folder of real Super-NaturalInstructions tasks, or skip."
    if not REAL.is_dir(): pytest.skip("no real tasks: put a natural-instructions clone at ../shared/natural-instructions")
    return REAL


@pytest.fixture(autouse=True)
def one_thread():
    "Run each test on one thread, as the records were made."
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
