"""When a rank counts as silent: by the watching rank's own clock, moved by hand here."""

from mgh_ds.distributed.watchdog import Silence


def test_the_rank_that_is_silent_longest_is_named_beyond_the_limit() -> None:
    silence = Silence(limit_s=10)
    assert silence.longest({0: b"0", 1: b"0", 2: b"0"}, now=100) is None
    assert silence.longest({0: b"1", 1: b"0", 2: b"1"}, now=104) is None
    assert silence.longest({0: b"2", 1: b"0", 2: b"1"}, now=108) is None
    assert silence.longest({0: b"3", 1: b"0", 2: b"1"}, now=111) == (1, 11)


def test_a_sign_of_life_starts_the_count_anew() -> None:
    silence = Silence(limit_s=10)
    for now, beat in ((100, b"0"), (104, b"0"), (108, b"1"), (112, b"1"), (116, b"1")):
        assert silence.longest({0: beat}, now) is None
    assert silence.longest({0: b"1"}, now=119) == (0, 11)


def test_who_stood_still_itself_accuses_nobody() -> None:
    silence = Silence(limit_s=10)
    silence.longest({0: b"0", 1: b"0"}, now=100)
    assert silence.longest({0: b"0", 1: b"0"}, now=500) is None, "a suspended job wakes up"
    assert silence.longest({0: b"0", 1: b"0"}, now=504) is None
    assert silence.longest({0: b"1", 1: b"0"}, now=508) is None
    assert silence.longest({0: b"2", 1: b"0"}, now=511) == (1, 11)
