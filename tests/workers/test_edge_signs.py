"""What a machine says of itself: read from the files of a stand-in system, as boards lay them out."""

from pathlib import Path

import pytest

from workers.edge_signs import board, notes, signs


def laid_out(root: Path, files: dict[str, str]) -> Path:
    """A system's folder with these files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_a_silent_machine_says_nothing(tmp_path: Path) -> None:
    """A virtual machine has no sensors: empty, not zero."""
    found = signs([0], tmp_path)

    assert found == {"celsius": {}, "mhz": [], "throttled": [], "devices_mhz": {}, "firmware_throttled": None}
    assert notes(found, found, stepped_seconds=0.01) == []
    assert board(tmp_path) == {"vendor": None, "board": None}


def test_heat_clocks_and_throttling_are_read(tmp_path: Path) -> None:
    """Thermal zones by their types, clocks of pinned processors and of devices, the counts of throttling."""
    cpu = "devices/system/cpu/cpu2"
    found = signs(
        [2],
        laid_out(
            tmp_path,
            {
                "class/thermal/thermal_zone0/type": "CPU-therm\n",
                "class/thermal/thermal_zone0/temp": "61500\n",
                "class/thermal/thermal_zone1/temp": "not a number",
                f"{cpu}/cpufreq/scaling_cur_freq": "2035200",
                f"{cpu}/thermal_throttle/core_throttle_count": "4",
                "class/devfreq/17000000.gp10b/cur_freq": "1300500000",
                "class/hwmon/hwmon0/temp1_input": "99000",
            },
        ),
    )

    assert found["celsius"] == {"CPU-therm": 61.5}  # monitors speak where there are no zones
    assert (found["mhz"], found["throttled"]) == ([2035.2], [4.0])
    assert found["devices_mhz"] == {"17000000.gp10b": 1300.5}


def test_monitors_stand_in_for_missing_zones(tmp_path: Path) -> None:
    """A desktop's processor tells its heat by hwmon only."""
    files = {"class/hwmon/hwmon1/name": "k10temp", "class/hwmon/hwmon1/temp1_input": "48250"}

    assert signs(None, laid_out(tmp_path, files))["celsius"] == {"k10temp temp1": 48.25}


def test_the_boards_own_name_comes_first(tmp_path: Path) -> None:
    """A device tree ends its text with a NUL."""
    files = {"proc/device-tree/model": "NVIDIA Jetson TX2\x00", "sys/class/dmi/id/product_name": "none"}

    assert board(laid_out(tmp_path, files))["board"] == "NVIDIA Jetson TX2"


@pytest.mark.parametrize(
    ("before", "after", "stepped", "words"),
    [
        ({"throttled": [4.0]}, {"throttled": [7.0]}, 0.0, "throttled 3 times"),
        ({"mhz": [2000.0]}, {"mhz": [1200.0]}, 0.0, "fell from 2000 to 1200 MHz"),
        ({"mhz": [2000.0]}, {"mhz": [1950.0]}, 0.0, ""),
        ({"devices_mhz": {"gpu": 1300.0}}, {"devices_mhz": {"gpu": 650.0}}, 0.0, "clock of gpu fell from 1300 to 650"),
        ({}, {"firmware_throttled": "0x50005"}, 0.0, "get_throttled 0x50005"),
        ({}, {"firmware_throttled": "0x0"}, 0.0, ""),
        ({}, {}, -3600.0, "wall clock was set by -3600 s"),
    ],
)
def test_what_happened_meanwhile_is_said_in_words(
    tmp_path: Path, before: dict[str, object], after: dict[str, object], stepped: float, words: str
) -> None:
    """Throttling, falling clocks and a clock that was set back; small changes are none."""
    silent = signs(None, tmp_path)
    said = notes({**silent, **before}, {**silent, **after}, stepped_seconds=stepped)

    assert (words in " ".join(said)) if words else (said == [])
