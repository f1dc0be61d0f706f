from posttrain.loop.fleet import Link
from posttrain.loop.retention import JournalRetention


def journals(folder, *names):
    for name in names:
        (folder / f"{name}.journal").touch()


def left(folder):
    return sorted(path.stem for path in folder.iterdir())


def test_a_segment_goes_at_the_second_commit_after_it_was_left(tmp_path):
    journals(tmp_path, "0-a-000000", "0-a-000001", "1-b-000000")
    retention = JournalRetention(tmp_path)
    links = [Link("0", "a", 0, 0), Link("1", "b", 0, 0)]
    assert retention.committed(set(), links) == []
    journals(tmp_path, "0-a-000002", "1-b-000001")
    retention.committed(set(), links)
    assert left(tmp_path) == ["0-a-000001", "0-a-000002", "1-b-000000", "1-b-000001"]


def test_what_a_group_still_needs_stays_and_so_do_the_newest_of_live_engines(tmp_path):
    journals(tmp_path, "0-a-000000", "0-a-000001", "dead-x-000000")
    retention = JournalRetention(tmp_path)
    links = [Link("0", "a", 0, 0)]
    wanted = {str(tmp_path / "dead-x-000000.journal")}
    retention.committed(wanted, links)
    retention.committed(wanted, links)
    assert left(tmp_path) == ["0-a-000001", "dead-x-000000"]
    retention.committed(set(), links)
    assert left(tmp_path) == ["0-a-000001"]


def test_the_files_of_one_process(tmp_path):
    journals(tmp_path, "0-a-000000", "0-b-000000", "10-a-000000")
    own = JournalRetention(tmp_path).of(Link("0", "a", 0, 0))
    assert own == {str(tmp_path / "0-a-000000.journal")}
    assert JournalRetention(None).all() == set()
