"""What a machine says of itself while it measures: board, heat, clocks, throttling; silence where it has none."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]

_SYS: Final = Path("/sys")
_CLOCK_FALL: Final = 0.05  # of the clock before; below it, no note
_STEP_SECONDS: Final = 1.0  # of the wall clock against the monotonic one


def board(root: Path = Path("/")) -> Json:
    """Say who made this machine, as its firmware tells."""
    firmware = root / "sys/class/dmi/id"
    tree = text(root / "proc/device-tree/model")  # boards without a BIOS
    return {
        "vendor": text(firmware / "sys_vendor"),
        "board": tree or text(firmware / "product_name") or text(firmware / "board_name"),
    }


def signs(cpus: Sequence[int] | None, sys: Path = _SYS) -> Json:
    """Say how warm and how fast this machine is just now, and how often it was throttled; empty where it is silent."""
    chosen = [sys / f"devices/system/cpu/cpu{cpu}" for cpu in cpus or ()]
    return {
        "celsius": dict(_celsius(sys)),
        "mhz": _known(number(cpu / "cpufreq/scaling_cur_freq", 1000) for cpu in chosen),
        "throttled": _known(number(cpu / "thermal_throttle/core_throttle_count", 1) for cpu in chosen),
        # Graphics and memory clocks of boards such as the Jetsons; what a Raspberry Pi's firmware throttles.
        "devices_mhz": dict(_device_clocks(sys)),
        "firmware_throttled": text(sys / "devices/platform/soc/soc:firmware/get_throttled"),
    }


def notes(before: Json, after: Json, *, stepped_seconds: float) -> list[str]:
    """Say in words what happened to this machine during a measurement that its samples do not tell."""
    said = []
    throttled = sum(after["throttled"]) - sum(before["throttled"])
    if throttled > 0:
        said.append(f"the processor was throttled {throttled:.0f} times during the measurement")
    flags = after["firmware_throttled"]
    if flags and flags.strip("0x"):
        said.append(f"the firmware says that it throttles or lacks power (get_throttled {flags})")
    said += _falls("the processor's clock", before["mhz"], after["mhz"])
    for name, clock in after["devices_mhz"].items():
        if name in before["devices_mhz"]:
            said += _falls(f"the clock of {name}", [before["devices_mhz"][name]], [clock])
    if abs(stepped_seconds) > _STEP_SECONDS:
        said.append(f"the wall clock was set by {stepped_seconds:+.0f} s; samples are of a monotonic clock")
    return said


def text(path: Path) -> str | None:
    """Give what a file of the system says, or None where it does not."""
    try:
        return path.read_text(encoding="utf-8").strip("\x00 \n") or None
    except (OSError, UnicodeDecodeError):
        return None


def number(path: Path, scale: float) -> float | None:
    """Give a whole number that a file of the system says, in other units, or None."""
    try:
        return int(text(path) or "") / scale
    except ValueError:
        return None


def _celsius(sys: Path) -> Iterator[tuple[str, float]]:
    zones = sorted((sys / "class/thermal").glob("thermal_zone*"))
    found: Mapping[str, Path] = {text(zone / "type") or zone.name: zone / "temp" for zone in zones}
    if not found:
        monitors = sorted((sys / "class/hwmon").glob("hwmon*/temp*_input"))
        found = {f"{text(path.parent / 'name') or path.parent.name} {path.name[:-6]}": path for path in monitors}
    for name, path in found.items():
        value = number(path, 1000)
        if value is not None:
            yield name, value


def _device_clocks(sys: Path) -> Iterator[tuple[str, float]]:
    for device in sorted((sys / "class/devfreq").glob("*")):
        value = number(device / "cur_freq", 1e6)
        if value is not None:
            yield device.name, value


def _falls(what: str, before: Sequence[float], after: Sequence[float]) -> Iterator[str]:
    if before and after and min(after) < (1 - _CLOCK_FALL) * min(before):
        yield f"{what} fell from {min(before):.0f} to {min(after):.0f} MHz during the measurement"


def _known(figures: Iterable[float | None]) -> list[float]:
    return [figure for figure in figures if figure is not None]
