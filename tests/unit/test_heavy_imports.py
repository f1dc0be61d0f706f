import gc

import pytest

from posttrain.heavy_imports import collector_off


def test_nothing_is_collected_within_and_what_is_there_never_again():
    frozen = gc.get_freeze_count()
    try:
        with collector_off():
            assert not gc.isenabled()
            made = [[number] for number in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.unfreeze()


def test_an_import_that_fails_leaves_the_collector_on():
    with pytest.raises(ImportError), collector_off():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()
