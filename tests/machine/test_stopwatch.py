"""Seconds go to the part that they were spent in."""

from tfbrats.machine.stopwatch import Stopwatch


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_part_within_another_is_not_counted_twice():
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now = 5  # before any part: nobody's
    with watch.part("outer"):
        clock.now += 1
        with watch.part("inner"):
            clock.now += 10
        clock.now += 2
    assert watch.taken() == {"outer": 3, "inner": 10}


def test_a_stream_is_charged_for_making_its_items_alone():
    clock = Clock()
    watch = Stopwatch(clock)

    def made():
        for item in "ab":
            clock.now += 3
            yield item
        clock.now += 1  # finding that there is no more

    for _ in watch.over("make", made()):
        clock.now += 100
    assert watch.taken() == {"make": 7}


def test_streams_in_a_chain_are_told_apart():
    clock = Clock()
    watch = Stopwatch(clock)

    def cut():
        for item in range(2):
            clock.now += 2
            yield item

    def encoded(stream):
        for item in stream:
            clock.now += 5
            yield item

    with watch.part("write"):
        for _ in watch.over("encode", encoded(watch.over("cut", cut()))):
            clock.now += 11
    assert watch.taken() == {"cut": 4, "encode": 10, "write": 22}


def test_what_was_taken_is_not_given_again():
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.part("a"):
        clock.now += 1
        assert watch.taken() == {"a": 1}
        clock.now += 2
    assert watch.taken() == {"a": 2}
    assert watch.taken() == {}


def test_a_part_that_fails_is_closed():
    clock = Clock()
    watch = Stopwatch(clock)
    try:
        with watch.part("a"):
            clock.now += 1
            raise OSError
    except OSError:
        pass
    clock.now += 50
    assert watch.taken() == {"a": 1}
