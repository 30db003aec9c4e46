"""Automations: when one is the same as another."""

from __future__ import annotations

from itertools import combinations

from tasks.automations import _automation, _run, _same, _when


def colliding_events():
    """Two names that a set of them lists in the order in which they came."""
    for one, other in combinations([f"headgate.event-{number}" for number in range(40)], 2):
        if list(dict.fromkeys((one, other))) == list({one, other}) != list({other, one}):
            return one, other
    raise AssertionError("none of 780 pairs share a place in a set")


def trigger(*events, endpoint="credit"):
    return _automation("a", "b", _when(events, {"endpoint": endpoint}), _run("1b4e28ba-2fa1-11d2-883f-0016d3cca427"))


def test_the_order_of_a_triggers_events_says_nothing():
    one, other = colliding_events()
    first, second = trigger(one, other), trigger(other, one)
    assert first.model_dump(mode="json") != second.model_dump(mode="json")  # what made the difference
    assert _same(first, second)


def test_other_events_or_labels_are_a_difference():
    assert not _same(trigger("a", "b"), trigger("a", "c"))
    assert not _same(trigger("a"), trigger("a", endpoint="fraud"))
