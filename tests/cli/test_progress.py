"""Lines of progress where there is no terminal."""

from tta_agent.cli.progress import ProgressLines, duration


def test_a_line_now_and_then_with_the_time_that_is_left_and_one_at_the_end():
    said, now_s = [], [0.0]
    lines = ProgressLines(said.append, "records", every_s=10.0, clock=lambda: now_s[0])
    for done in range(0, 2001, 40):  # 40 records a second
        now_s[0] = done / 40
        lines.tick("tent", done, 2000)
    assert said[0] == "tent: 400 of 2,000 records (20%), 40 s left"
    lines.tick("tent", 2000, 2000)
    assert said[-1] == "tent: 2,000 of 2,000 records (100%)"
    assert len(said) == 5


def test_each_task_has_its_own_time_and_what_was_done_before_does_not_count_as_quick():
    said, now_s = [], [0.0]
    lines = ProgressLines(said.append, "groups", every_s=0.0, clock=lambda: now_s[0])
    lines.tick("rehearsing", 50, 90)
    now_s[0] = 30.0
    lines.tick("rehearsing", 51, 90)
    assert said[-1] == "rehearsing: 51 of 90 groups (57%), 20 min left"
    lines.tick("another", 1, 1)
    assert said[-1] == "another: 1 of 1 groups (100%)"


def test_durations_are_for_people():
    assert [duration(s) for s in (0.4, 45, 89, 720, 12_600)] == ["0 s", "45 s", "89 s", "12 min", "3.5 h"]
