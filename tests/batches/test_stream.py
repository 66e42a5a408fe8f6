"""Which part of each global batch a worker reads: together the workers read what one alone would."""

import pytest
import tensorflow as tf

from tfbrats.batches.stream import Share


def read(share, numbers, seen=0, own_shards=False):
    return [int(n) for n in share.after(tf.data.Dataset.from_tensor_slices(numbers), seen, own_shards)]


def test_files_are_shared_out_only_when_they_divide():
    assert Share(12, workers=4).has_own_shards(8)
    assert not Share(12, workers=3).has_own_shards(8)


def test_workers_have_shards_of_their_own_or_all_of_them():
    order = [4, 1, 3, 0, 5, 2]
    assert [Share(6, 3, worker).shards(order) for worker in range(3)] == [[4, 0], [1, 5], [3, 2]]
    assert [Share(8, 4, worker).shards(order) for worker in range(4)] == [order] * 4


@pytest.mark.parametrize("seen", [0, 6, 12])
def test_of_a_stream_of_all_shards_the_workers_parts_of_a_batch_lie_one_after_the_other(seen):
    parts = [read(Share(6, 3, worker), list(range(24)), seen) for worker in range(3)]
    assert parts[1][:4] == [seen + 2, seen + 3, seen + 8, seen + 9][: len(parts[1])]
    assert sorted(n for part in parts for n in part) == list(range(seen, 24))


def test_in_a_stream_of_its_own_shards_a_worker_skips_its_own_part_of_what_all_have_seen():
    assert read(Share(6, 3, 2), list(range(8)), 12, own_shards=True) == [4, 5, 6, 7]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("examples", [0, 1, 5, 6, 7, 11, 12])
def test_what_the_workers_read_and_their_padding_fill_whole_batches(workers, examples):
    shares = [Share(6, workers, worker) for worker in range(workers)]
    sizes = {len(read(share, list(range(examples)))) + share.padding(examples) for share in shares}
    assert sizes == {-(-examples // 6) * 6 // workers}
