from __future__ import annotations

from peft_nb.serving.traffic import Traffic, quantile


def test_rates_and_latencies_are_those_of_the_last_minute() -> None:
    now = [0.0]
    traffic = Traffic(lambda: now[0])
    traffic.add("a", "a@v1", 9.0, 1000)
    now[0] = 100.0
    for n in range(1, 21):
        traffic.add("a", "a@v2", n / 10, 6)
    traffic.add("b", "b@v1", 5.0, 60)
    traffic.fail("b")
    told = traffic.of("a")
    assert (told["answered"], told["failed"], told["by_version"]) == (21, 0, {"a@v1": 1, "a@v2": 20})
    assert (told["per_second"], told["tokens_per_second"]) == (20 / 60, 2.0)
    assert (told["p50_s"], told["p95_s"]) == (1.0, 1.9)
    both = traffic.of("a", "b")
    assert (both["answered"], both["failed"], both["tokens_per_second"], both["p95_s"]) == (22, 1, 3.0, 2.0)


def test_nothing_is_measured_of_nothing() -> None:
    told = Traffic().of("a")
    assert (told["answered"], told["p50_s"], told["p95_s"], told["per_second"]) == (0, None, None, 0.0)
    assert quantile([], 0.5) is None
    assert [quantile([1.0], part) for part in (0.0, 0.5, 1.0)] == [1.0] * 3
