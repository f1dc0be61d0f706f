"""One thread: the models here are small, and threads that wait for a busy core cost more."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
