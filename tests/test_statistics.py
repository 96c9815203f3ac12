"What the chapter on statistics promises: scipy's intervals, and a bootstrap that is in pairs."
import math
import statistics

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, strategies as st

from instop_nb.statistics import (
    Difference, median_iqr, paired_bootstrap, paired_t_interval, t_interval,
)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(.5, .99))
def test_interval_is_scipys(values, confidence):
    mean, half = t_interval(values, confidence)
    if half < 1e-9: return
    low, high = scipy.stats.t.interval(
        confidence, len(values) - 1, loc=mean, scale=scipy.stats.sem(values)
    )
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("values, confidence", [([], .95), ([1, 2], 0), ([1, 2], 95)])
def test_interval_refuses(values, confidence):
    with pytest.raises(ValueError, match="give"): t_interval(values, confidence)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([7], (7, 7, 7)), ([1, 3], (2, 1.5, 2.5)), ([5, 1, 4, 2, 3], (3, 2, 4)),
        ((1, 2, 3, 4), (2.5, 1.75, 3.25)),
    ],
)
def test_median_and_quartiles(values, expected): assert median_iqr(values) == expected


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_quartiles_are_in_order(values):
    middle, low, high = median_iqr(values)
    assert min(values) <= low <= middle <= high <= max(values)


def test_paired_interval():
    assert paired_t_interval([60, 70, 65], [61, 71, 66]) == (1, 0)
    assert paired_t_interval([60, 70], [63, 71]) == pytest.approx((2, 12.7062), rel=1e-4)
    with pytest.raises(ValueError, match="give one score for each of the 2 seeds"):
        paired_t_interval([1, 2], [1])


def answers(right, n=10):
    return [
        dict(task=f"t{t}", category="c", prediction="yes" if i < k else "no", references=["yes"])
        for t, k in enumerate(right)
        for i in range(n)
    ]


def test_bootstrap_counts_what_can_be_counted():
    "Two tasks, gains 20 and -10: draws are -10, 5 (twice), 20; so p = 2 * 1/4."
    found = paired_bootstrap(answers([3, 5]), answers([5, 4]), "exact_match", n=20_000)
    assert (
        found.difference == pytest.approx(5)
        and found[1:3] == pytest.approx((-10, 20))
        and found.p == pytest.approx(0.5, abs=0.02)
    )


def test_bootstrap_by_instance_and_by_task_differ():
    "One large task and one small: by instance the mean is over rows, by task over tasks."
    def rows(large, small):
        return answers([large], 9) + [dict(r, task="u") for r in answers([small], 1)]
    a, b = rows(0, 1), rows(9, 0)
    assert paired_bootstrap(a, b, "rougeL", "instance", n=50).difference == pytest.approx(80)
    assert paired_bootstrap(a, b, "rougeL", "task", n=50).difference == pytest.approx(0)


def test_bootstrap_is_seeded_and_antisymmetric():
    a, b = answers([3, 5, 6, 2]), answers([5, 4, 9, 9])
    one, same, other = (paired_bootstrap(a, b, "exact_match", seed=s, n=500) for s in (1, 1, 2))
    assert one == same != other and isinstance(one, Difference)
    back = paired_bootstrap(b, a, "exact_match", seed=1, n=500)
    assert (back.difference, back.p) == (-one.difference, one.p) and (
        back.low, back.high,
    ) == pytest.approx((-one.high, -one.low))
    assert paired_bootstrap(a, a) == Difference(0, 0, 0, 1)
    wide = paired_bootstrap(a, b, "exact_match", seed=1, n=500, confidence=.5)
    assert one.low < wide.low < wide.high < one.high


def test_bootstrap_holds_its_level():
    "Under no difference an interval of 80 % leaves out the truth about one time in five."
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(150):
        a, b = (answers(rng.integers(3, 8, 30)) for _ in range(2))
        outside += (
            not (d := paired_bootstrap(a, b, "exact_match", n=200, confidence=0.8)).low
            <= 0
            <= d.high
        )
    assert .1 < outside / 150 < .32


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(b=answers([3])[::-1] + answers([4])), "give the same instances"),
        (dict(b=[]), "the same instances"),
        (
            dict(b=[dict(r, references=["no"]) for r in answers([3, 3])]),
            "b[0]: found ('t0', ['no']); give the same instances in the same order",
        ),
        (dict(a=[dict(task="t0")] * 20), "a[0]: field 'category' is missing"),
        (dict(confidence=95), "confidence: 95; give a number between 0 and 1"),
        (dict(measure="bleu"), "measure: found 'bleu'; choose from"),
        (dict(by="category"), "by: found 'category'; choose from"),
    ],
)
def test_bootstrap_refuses(change, words):
    with pytest.raises(ValueError) as e:
        paired_bootstrap(**{**dict(a=answers([3, 4]), b=answers([2, 4])), **change})
    assert words in str(e.value)


def test_no_draw_is_refused():
    with pytest.raises(ValueError, match="once or more"):
        paired_bootstrap(answers([1]), answers([1]), n=0)


def by_hand(values, confidence):
    "The interval as it was before scipy.stats made it."
    quantile = float(scipy.special.stdtrit(len(values) - 1, (1 + confidence) / 2))
    return quantile * statistics.stdev(values) / len(values) ** 0.5


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(.5, .99))
def test_interval_is_that_of_the_saved_records(values, confidence):
    assert t_interval(values, confidence)[1] == pytest.approx(
        by_hand(values, confidence), rel=1e-9, abs=1e-9
    )


def test_one_value_and_equal_values():
    assert t_interval([3])[0] == 3 and math.isnan(t_interval([3])[1])
    assert t_interval([0.5] * 8) == (0.5, 0)


@pytest.mark.parametrize("n", [2, 10, 1000])
def test_draws_are_those_of_one_by_one(n):
    a, b = answers([3, 5, 6, 2]), answers([5, 4, 9, 9])
    gains, rng = np.array([20., -10, 30, 70]), np.random.default_rng(4)
    drawn = np.array([gains[rng.integers(0, 4, 4)].mean() for _ in range(n)]).round(9)
    found = paired_bootstrap(a, b, "exact_match", n=n, seed=4)
    assert found[1:3] == pytest.approx(np.quantile(drawn, [.025, .975]), abs=1e-9)


def test_one_task_has_an_interval_of_no_width():
    assert paired_bootstrap(answers([3]), answers([5]), "exact_match", n=99) == (20, 20, 20, 0.02)
