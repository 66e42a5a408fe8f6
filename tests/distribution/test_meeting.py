"""Workers that wait for each other: all go at once, and whoever does not come is named in bounded time."""

import concurrent.futures
import contextlib
import socket
import threading

import pytest
from loopback import free_addresses

from tfbrats.distribution import meeting
from tfbrats.errors import InputError


def all_meet(addresses, numbers, seconds):
    """What each of these workers got: None, or its error's text."""

    def one(number):
        try:
            return meeting.meet(addresses, number, seconds)
        except InputError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_go_when_the_last_has_come_and_the_port_is_free_again(count):
    addresses = free_addresses(count)
    assert all_meet(addresses, range(count), 20) == [None] * count
    with socket.create_server(("127.0.0.1", int(addresses[0].rpartition(":")[2]))):
        pass  # as TensorFlow's own server will take it


def test_who_has_not_come_is_named_by_all_that_have():
    addresses = free_addresses(4)
    said = all_meet(addresses, (0, 2), 1.5)
    assert [
        text.startswith(f"TF_CONFIG: {addresses[1]} and {addresses[3]} have not come") for text in said
    ] == [
        True,
        True,
    ]


def test_without_the_first_worker_the_others_name_it():
    addresses = free_addresses(3)
    for text in all_meet(addresses, (1, 2), 1.0):
        assert text.startswith(f"TF_CONFIG: {addresses[0]} has not come")


def test_a_worker_that_came_and_went_is_missing_until_it_comes_again():
    addresses = free_addresses(2)
    host, port = addresses[0].split(":")
    ended = []
    first = threading.Thread(target=lambda: ended.append(all_meet(addresses, [0], 20)))
    first.start()
    for message in (b"", b"no number", b"7"):  # strangers, and one that goes at once
        while True:
            with (
                contextlib.suppress(ConnectionRefusedError),
                socket.create_connection((host, int(port))) as one,
            ):
                one.sendall(message)
                break
    assert all_meet(addresses, [1], 20) == [None]
    first.join()
    assert ended == [[None]]


def test_a_port_that_stays_taken_is_named():
    with socket.create_server(("", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"{address} is this worker, and its port cannot be taken"):
            meeting.meet([address, "127.0.0.1:1"], 0, 0.5)
