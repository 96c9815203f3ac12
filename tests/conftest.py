"""What several test files share."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "natural-instructions"


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
