"""How long a rehearsal will take, from what it has played on this model."""

from tta_agent.cli.forecast import Forecast, budget


def test_the_first_scenarios_tell_once_how_long_all_will_take():
    forecast = Forecast(groups=60, workers=2, seconds=720)
    told = [forecast.scenario(seconds) for seconds in (8.0, 8.0, 4.0, 4.0, 4.0)]
    assert [one is not None for one in told] == [False, False, False, True, False]
    assert told[3] == (
        "a scenario takes 6.0 s on this model: all 60 groups that are left take about 27 min with 2 processes; "
        "--budget-minutes 12 plays about 28 of them"
    )


def test_what_fits_into_the_budget_needs_no_advice():
    forecast = Forecast(groups=10, workers=0, seconds=720)
    assert forecast.scenario(1.0) is None
    assert forecast.scenario(1.0).endswith("take about 90 s with 1 process".replace("90 s", "2 min"))


def test_each_group_tells_what_is_left():
    now_s = [0.0]
    forecast = Forecast(groups=3, workers=0, seconds=720, clock=lambda: now_s[0])
    now_s[0] = 20.0
    assert forecast.group() == "; all of them in 40 s"
    now_s[0] = 50.0
    assert forecast.group() == "; all of them in 25 s"
    assert forecast.group() == ""


def test_the_budget_that_is_advised_is_computed():
    assert (
        budget(missing=33, played=27, seconds=2700.0, workers=2)
        == "--budget-minutes 42 or more (by the 27 so far)"
    )
    assert (
        budget(missing=1, played=59, seconds=59.0, workers=1)
        == "--budget-minutes 1 or more (by the 59 so far)"
    )
    assert budget(missing=60, played=0, seconds=0.0, workers=1) == "a larger --budget-minutes"
