"""What is wrong with pairs of answers and with rated ones: nothing to tell apart, or nothing but their length.

Near-duplicate answers are those of :mod:`.duplicates`: two that differ in a number or a name are not. That training on
such pairs lowers the probability of both: N. Razin et al., "Unintentional Unalignment: Likelihood Displacement in
Direct Preference Optimization" (2024). What the weighted counts of rated answers should be: K. Ethayarajh et al., "KTO:
Model Alignment as Prospect Theoretic Optimization" (2024), and TRL's documentation of ``KTOConfig``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

from peft_nb.data.quality import duplicates
from peft_nb.data.quality.findings import Findings
from peft_nb.data.quality.lengths import Options
from peft_nb.data.quality.reading import RATINGS, Reading, same

ONE_SIDED = 0.9  # of which the share of longer chosen answers, or of one rating, is worth a warning
ENOUGH = 20  # pairs below which their lengths say nothing
BALANCED = 1.0, 4 / 3  # weighted count of desirable answers over that of undesirable ones


def near(one: Reading, other: Reading) -> bool:
    """Tell whether rows whose whole texts are near-duplicates are so in each of their answers; true of other rows."""
    if not one.answers or not other.answers:
        return True
    return len(one.answers) == len(other.answers) and all(map(duplicates.alike, one.answers, other.answers))


def pair_findings(readings: Mapping[int, Reading], found: Findings) -> None:
    """Look at each pair, for the same pair the other way round, and for what the lengths say."""
    longer = total = 0
    seen: dict[tuple[str, str, str], int] = {}
    for number, reading in readings.items():
        asked = same(reading.prompt)
        for chosen, rejected in reading.pairs:
            good, bad = same(chosen), same(rejected)
            if _echoes(reading, good):
                found.add("echo", number, reading.text)
            if good == bad or duplicates.alike(chosen, rejected):
                found.add("alike", number, f"{chosen} / {rejected}")
            elif (other := seen.get((asked, bad, good))) is not None:
                title = "{rows} with the same pair both ways (conflicting answers)"
                found.add("contradiction", number, f"row {other} the other way round: {reading.text}", title=title)
            seen.setdefault((asked, good, bad), number)
            longer, total = longer + (len(chosen) > len(rejected)), total + 1
    if total >= ENOUGH:
        share = longer / total
        title = f"the longer answer is chosen in {share:.0%} of the pairs (length bias)"
        _length_bias(share, title, "add pairs whose shorter answer is better, or use task: simpo", found)


def tie_findings(readings: Mapping[int, Reading], scores: Mapping[int, Sequence[float]], found: Findings) -> None:
    """Look for rows whose ranked answers make one pair, and of which several have the highest or the lowest score."""
    for number, given in scores.items():
        tied = any(given.count(score) > 1 for score in (max(given), min(given))) if given else False
        if tied and len(readings[number].pairs) == 1:
            found.add("ties", number, f"scores {', '.join(f'{score:g}' for score in given)}: {readings[number].text}")


def _length_bias(share: float, title: str, advice: str, found: Findings) -> None:
    """Say how often the longer answer is the better one, with what to do where it nearly always is."""
    if share >= ONE_SIDED:
        found.say("length_bias", level="warning", title=title, advice=advice)
        return
    wanted = "answers will get shorter: right if that is what is wanted"
    found.say(
        "length_bias", title=title, advice=wanted if share <= 1 - ONE_SIDED else "nothing to do if both are wanted"
    )


def rating_findings(readings: Mapping[int, Reading], options: Options, found: Findings) -> None:
    """Look at each rated answer, for the same one rated both ways, and at how many there are of each rating."""
    seen: dict[str, tuple[int, tuple[str, ...]]] = {}
    for number, reading in readings.items():
        if reading.labels == (RATINGS[True],) and _echoes(reading, same(reading.answers[0])):
            title = "{rows} whose desirable answer repeats the prompt"
            found.add("echo", number, reading.text, title=title)
        other, labels = seen.setdefault(same(reading.text), (number, reading.labels))
        if labels != reading.labels:
            title = "{rows} with the same answer rated both ways (conflicting answers)"
            found.add("contradiction", number, f"{labels[0]} in row {other}: {reading.text}", title=title)
    _rated_lengths(readings, found)
    _balance(Counter(label for reading in readings.values() for label in reading.labels), options, found)


def _rated_lengths(readings: Mapping[int, Reading], found: Findings) -> None:
    """Say that nearly all desirable answers are longer than undesirable ones, or shorter."""
    good, bad = (
        sorted(len(one.answers[0]) for one in readings.values() if one.labels == (rating,))
        for rating in (RATINGS[True], RATINGS[False])
    )
    if min(len(good), len(bad)) < ENOUGH:
        return
    share = sum(bisect_left(bad, length) for length in good) / (len(good) * len(bad))
    if not 1 - ONE_SIDED < share < ONE_SIDED:
        title = f"a desirable answer is longer than an undesirable one in {share:.0%} of the cases (length bias)"
        _length_bias(share, title, "add short answers that are desirable, and long ones that are not", found)


def _balance(counts: Counter[str], options: Options, found: Findings) -> None:
    """Compare the weighted counts of the two ratings."""
    good, bad = (counts[rating] for rating in RATINGS.values())
    if len(counts) == 1:
        title = f"all answers are {next(iter(counts))}: nothing tells good from bad"
        found.say("imbalance", level="warning", title=title, advice="add answers of the other rating")
        return
    weights = (1.0 if one is None else one for one in (options.desirable_weight, options.undesirable_weight))
    liked, disliked = (count * weight for count, weight in zip((good, bad), weights, strict=True))
    least, most = (round(bound * disliked, 2) for bound in BALANCED)
    middle = sum(BALANCED) / 2
    if round(liked, 2) > most:
        name, weight = "undesirable_weight", liked / bad / middle
    elif round(liked, 2) < least:
        name, weight = "desirable_weight", disliked / good * middle
    else:
        return
    level = "warning" if max(good, bad) >= ONE_SIDED * (good + bad) else "info"
    title = f"imbalanced ratings: {good:,} desirable, {bad:,} undesirable"
    advice = f"set {name}: {float(f'{weight:.2g}'):g}; the weighted counts should lie between 1:1 and 4:3"
    found.say("imbalance", level=level, title=title, advice=advice)


def _echoes(reading: Reading, answer: str) -> bool:
    """Tell whether an answer says the question again."""
    return bool(reading.asked) and answer in (same(reading.parts[reading.asked - 1]), same(reading.prompt))
