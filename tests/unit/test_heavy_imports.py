import gc
import importlib.util
import subprocess
import sys

import pytest

from posttrain.heavy_imports import UNWANTED, lean_imports

LOOK = """
import sys
from posttrain.model.load import load_tokenizer
try:
    load_tokenizer("nowhere")
except Exception:
    pass
assert "transformers" in sys.modules
print(*sys.modules)
"""


def test_nothing_is_collected_within_and_what_is_there_never_again(monkeypatch):
    frozen = gc.get_freeze_count()
    try:
        with lean_imports():
            assert not gc.isenabled()
            made = [[number] for number in range(1000)]
            monkeypatch.setitem(sys.modules, "something_new", None)
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.unfreeze()


def test_where_nothing_was_imported_all_stays_as_it_was():
    frozen = gc.get_freeze_count()
    with lean_imports():
        pass
    assert gc.get_freeze_count() == frozen


def test_an_import_that_fails_leaves_the_collector_on_and_nothing_hidden():
    with pytest.raises(ImportError), lean_imports():
        raise ImportError
    assert gc.isenabled()
    assert not [name for name in UNWANTED if sys.modules.get(name, True) is None]


def test_what_is_unwanted_is_not_there_meanwhile_and_there_again_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with lean_imports():
        assert importlib.util.find_spec("wandb") is None
    assert importlib.util.find_spec("wandb") is not None


def test_a_tokenizer_is_read_without_it_and_the_process_ends_in_silence():
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert not set(UNWANTED) & set(done.stdout.split())
    assert done.stderr == ""
