"""The order of the switch, by writing down counters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from snapkit.order import busiest_last

COUNTS = st.integers(0, 10**9)


def order(**writes: int) -> str:
    stats = {name: {"wr_ops": count, "flush_ops": 0} for name, count in writes.items()}
    return "".join(busiest_last(list(writes), stats))


def test_what_is_written_most_comes_last() -> None:
    assert order(a=90_000, b=1_000, c=10_000) == "bca"


def test_flushes_count_as_writes_do_and_reads_do_not() -> None:
    stats = {"a": {"flush_ops": 5000}, "b": {"rd_ops": 10**6}, "c": {"wr_ops": 1000}}
    assert busiest_last(["a", "b", "c"], stats) == ["b", "c", "a"]


def test_counts_within_a_factor_of_two_keep_the_order_that_was_given() -> None:
    assert order(a=2000, b=1000) == "ab"
    assert order(a=2001, b=1000) == "ba"
    assert order(a=4000, b=1000, c=2000) == "abc"


def test_a_few_operations_say_nothing() -> None:
    assert order(a=128, b=0) == "ab"


def test_without_counters_the_order_is_kept() -> None:
    assert busiest_last(["b", "a"], {}) == ["b", "a"]


@given(st.dictionaries(st.text(max_size=3), COUNTS, max_size=8))
def test_each_device_is_listed_once_and_a_busier_one_never_before_half_as_busy(
    counts: dict[str, int],
) -> None:
    found = busiest_last(list(counts), {name: {"wr_ops": n} for name, n in counts.items()})
    assert sorted(found) == sorted(counts)
    given = list(counts)
    for place, name in enumerate(found):
        for later in found[place + 1 :]:
            assert counts[name] <= counts[later] or given.index(name) < given.index(later)


@given(st.lists(COUNTS, min_size=2, max_size=6), st.integers(0, 3))
def test_disks_in_lockstep_never_change_places(counts: list[int], behind: int) -> None:
    stats = {str(n): {"wr_ops": count} for n, count in enumerate(counts)}
    stats["in step"] = {"wr_ops": max(counts[0] - behind, 0)}
    found = busiest_last([*stats], stats)
    assert found.index("0") < found.index("in step")
