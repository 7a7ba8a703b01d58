"""What people read on the terminal."""

from io import StringIO

from rich.console import Console

from app.console import JobProgress, eta_text, quantity, result_table

RESULT = {
    "before": {"macs": 4_000_000, "params": 100_000, "size_bytes": 400_000, "accuracy": 0.99, "latency_ms": 2.0},
    "after": {"macs": 2_000_000, "params": 40_000, "size_bytes": 170_000, "accuracy": 0.98, "latency_ms": 1.5},
}


def _printed(renderable: object) -> str:
    out = StringIO()
    Console(file=out, width=100, color_system=None).print(renderable)
    return out.getvalue()


def test_quantities_have_three_digits_and_a_decimal_prefix() -> None:
    """62.4 million MACs read as such."""
    assert quantity(62_400_000) == "62.4 M"
    assert quantity(1_260_302, "B") == "1.26 MB"
    assert quantity(12, "B") == "12 B"


def test_an_unknown_eta_is_not_guessed() -> None:
    """Nothing stands where nothing is known."""
    assert eta_text(None) == ""
    assert eta_text(65.2) == "~0:01:05 left"


def test_the_table_shows_ratios_and_differences() -> None:
    """Half the MACs, a point less accuracy, three quarters of the latency."""
    text = _printed(result_table(RESULT))

    assert "50.0%" in text
    assert "-1.0 points" in text
    assert "75.0%" in text


def test_rows_without_figures_are_left_out() -> None:
    """A job without data has no accuracy, so the table has no such row."""
    bare = {side: {"macs": 10, "params": 5, "size_bytes": 100} for side in ("before", "after")}

    assert "accuracy" not in _printed(result_table(bare))


def test_the_bar_follows_the_job() -> None:
    """Phase, share and remaining time come from the job's own document."""
    out = StringIO()
    with JobProgress(Console(file=out, width=140, force_terminal=True, color_system=None)) as bar:
        bar.show({"state": "queued"})
        bar.show({"state": "running", "progress": {"phase": "finetune", "fraction": 0.5, "eta_seconds": 30}})

    assert "finetune" in out.getvalue()
    assert "50%" in out.getvalue()
    assert "~0:00:30 left" in out.getvalue()
