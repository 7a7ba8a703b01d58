"""The latency model of simulated devices whose law is known."""

from dataclasses import replace

import numpy as np
import pytest

from tests.workers.pruning.latency.laws import LawDevice, measurement
from tests.workers.pruning.latency.network import WIDE, parts_of
from workers.pruning.graph.save import to_bytes
from workers.pruning.latency import steps
from workers.pruning.latency.model import LatencyModel
from workers.pruning.latency.rows import Row
from workers.pruning.latency.steps import Fit
from workers.pruning.latency.table import Table, on_one_clock
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Keep, TimedNetwork


def whole(graph, grouping, kept):
    """A network at these widths, as a question."""
    mask = np.zeros(grouping.num_units, np.bool_)
    for group, width in zip(grouping.groups, kept, strict=True):
        mask[group.start : group.start + width] = True
    return TimedNetwork(name="whole", content=to_bytes(cut(graph, grouping, Keep(mask=mask))), kind="network")


def learned(device):
    """The network and its model on a device."""
    graph, grouping, model, found = parts_of()
    latency = LatencyModel(found, model.widths, device)
    latency.learn()
    return graph, grouping, model, latency


@pytest.mark.parametrize("block", [1, 8, 16])
def test_the_step_is_the_block_that_the_device_computes_in(block):
    """Widths in multiples of the block waste nothing; any other width pays for the whole block."""
    _, _, _, latency = learned(LawDevice(block=block, element_ns=0.0))

    assert {"convolution": block, "pointwise convolution": block, "grouped convolution": block} == latency.steps


@pytest.mark.parametrize("block", [4, 8, 16])
def test_aligned_widths_that_were_never_timed_are_predicted(block):
    """Where the law is a sum over layers, a prediction from a few rows of each layer is right within a few percent."""
    graph, grouping, model, latency = learned(LawDevice(block=block, element_ns=0.0))
    device = LawDevice(block=block, element_ns=0.0)
    rng = np.random.default_rng(0)

    for _ in range(5):
        kept = [int(rng.integers(1, width // block + 1)) * block for width in model.widths]
        (measured,) = device.time([whole(graph, grouping, kept)]).values()
        assert latency.predict(kept) == pytest.approx(measured.p50_ms, rel=0.05)


class MisfitDevice(LawDevice):
    """A device that rounds widths up, unless what a convolution reads is no multiple of 4: that takes 1.6 times."""

    def nanoseconds(self, node, shapes):
        """One node."""
        ns = super().nanoseconds(node, shapes)
        reads = shapes[node.input[0]][1] if node.op_type == "Conv" else 0
        return ns * (1.6 if reads > 3 and reads % 4 else 1.0)


def test_what_must_divide_the_widths_is_learned():
    """Of what is read, 4; what is written may have any width, and on a device that rounds all up both may."""
    _, _, _, odd = learned(MisfitDevice(block=16, element_ns=0.0))
    _, _, _, even = learned(LawDevice(block=16, element_ns=0.0))

    assert odd.fits["convolution"] == odd.fits["pointwise convolution"] == Fit(read=4, written=1)
    assert odd.fits["grouped convolution"] == Fit(read=4, written=4)
    assert set(even.fits.values()) == {Fit()}


@pytest.mark.parametrize(
    ("times", "divisor"),
    [
        ((1.4, 1.3, 1.0, 1.0), 4),
        ((1.35, 1.4, 1.02, 1.12), 4),  # 40 channels, disturbed
        ((1.0, 1.05, 0.98, 1.15), 1),
        ((0.98, 0.96, 0.92, 0.83), 1),  # channel by channel
        ((1.5, 1.5, 1.5, 1.4), 16),
    ],
)
def test_one_disturbed_time_makes_no_divisor(times, divisor):
    """Widths of 47, 46, 44 and 40 beside 48: those that take longer are told by all of them together."""
    probed = steps.fit_probes({"grouped convolution": (Row.parse(GROUPED),)})
    (rows,) = probed.values()
    known = dict(zip([row.key for row in rows], [4.0, *(4.0 * time for time in times)], strict=True))
    fits = steps.learned_fits(Table(LawDevice(), known=known), probed)

    assert fits == {"grouped convolution": Fit(read=divisor, written=divisor)}


GROUPED = "Conv float32 1x32x8x8;w32x1x3x3->1x32x8x8 pads=1,1,1,1 *4"


@pytest.mark.parametrize("kind", [LawDevice, MisfitDevice])
def test_widths_that_are_no_step_are_predicted(kind):
    """Up to the step time goes in stairs; beside them it takes what the nearest widths beside them took."""
    device = kind(block=16, element_ns=0.0)
    graph, grouping, model, latency = learned(device)
    rng = np.random.default_rng(1)

    for _ in range(5):
        kept = [int(rng.integers(width // 3, width)) for width in model.widths]
        (measured,) = device.time([whole(graph, grouping, kept)]).values()
        assert latency.predict(kept) == pytest.approx(measured.p50_ms, rel=0.05)


def test_rows_that_are_timed_are_predicted_exactly():
    """With every row in the table the sum of layers is what the device takes."""
    device = LawDevice(element_ns=0.0, call_ms=0.0)
    graph, grouping, model, latency = learned(device)
    kept = [width - 7 for width in model.widths]

    latency.time(kept)

    (measured,) = device.time([whole(graph, grouping, kept)]).values()
    assert latency.predict(kept) == pytest.approx(measured.p50_ms, rel=1e-9)


def test_whole_networks_correct_the_sum_of_layers():
    """A device on which networks take a third more than their layers is found out network by network."""
    device = LawDevice(network_factor=4 / 3, element_ns=0.0)
    graph, grouping, model, latency = learned(device)
    (original,) = device.time([whole(graph, grouping, model.widths)]).values()
    half = [width // 2 for width in model.widths]
    (measured,) = device.time([whole(graph, grouping, half)]).values()
    before = latency.predict(half) / measured.p50_ms

    latency.observe("original", model.widths, original.p50_ms)
    after_one = latency.predict(half) / measured.p50_ms
    latency.observe("plan", half, measured.p50_ms)

    assert before == pytest.approx(0.75, abs=0.03)
    assert 0.85 < after_one < 1.05  # another size may have another ratio, so one network is not believed in full
    assert latency.predict(half) == pytest.approx(measured.p50_ms, rel=0.03)


def test_rows_that_are_known_are_not_asked_again():
    """A second network with the same layers costs the device nothing."""
    device = LawDevice()
    learned(device)
    asked = device.asked["layer"]

    _, _, _, again = learned(device)

    assert asked == device.asked["layer"] > 0
    assert 0 == len(again.table.asked)
    assert len(device.rows) == len(again.table.reused)


def test_a_row_that_the_device_does_not_run_is_estimated():
    """A missing answer is no error; the row is asked once."""

    class Refusing(LawDevice):
        def time(self, networks):
            found = super().time(networks)
            return {
                name: each
                for (name, each), one in zip(found.items(), networks, strict=True)
                if "w96x1" not in (one.key or "")
            }

    device = Refusing()
    _, _, model, latency = learned(device)
    before = device.asked["layer"]

    latency.time(model.widths)

    assert device.asked["layer"] == before
    assert latency.predict(model.widths) > 0


def test_layers_add_up_to_the_prediction():
    """What the planner sums is what the model predicts."""
    _, _, model, latency = learned(LawDevice())
    kept = [max(1, width // 3) for width in model.widths]

    layers = latency.timed_layers(latency.predict(kept))

    assert sum(layer.ms(kept) for layer in layers) == pytest.approx(latency.predict(kept))


def test_the_reason_names_layers_and_the_price_of_a_channel():
    """The dominant layers come first, with shares of the whole."""
    _, _, model, latency = learned(LawDevice())

    first, second, *_ = latency.dominant(model.widths)

    assert {"c2", "c3"} == {first["layer"], second["layer"]}  # 3 x 3 between 48 and 64 channels: most of the work
    assert first["ms"] >= second["ms"]
    assert all(price > 0 for price in first["ms_per_channel"].values())


def test_keys_that_are_not_ours_do_no_harm():
    """Rows that another version recorded are passed over."""
    table = Table(LawDevice(rows={"nonsense": 1.0, "Conv of something": 2.0}))

    assert [] == table.rows()


def test_a_ratio_is_taken_on_one_clock():
    """Where other programs took part of the time of one network, both count by the processor's clock."""
    calm = replace(measurement(2.0), host={"on_cpu_share": 0.99, "on_cpu_p50_ms": 1.9})
    torn = replace(measurement(2.0), host={"on_cpu_share": 0.5, "on_cpu_p50_ms": 1.0})

    assert {"calm": 2.0, "other": 2.0} == on_one_clock({"calm": calm, "other": calm})
    assert {"calm": 1.9, "torn": 1.0} == on_one_clock({"calm": calm, "torn": torn})
    assert {"untold": 2.0, "torn": 2.0} == on_one_clock({"untold": measurement(2.0), "torn": torn})


def test_rows_of_a_later_question_are_taken_at_the_pace_of_the_first():
    """A device that is half as fast when it is asked again is so on the rows that are timed beside."""

    class Slowing(LawDevice):
        def time(self, networks):
            found = super().time(networks)
            pace = 2.0 if "again" in self.asked else 1.0
            self.asked["again"] = 1
            return {name: replace(one, p50_ms=pace * one.p50_ms) for name, one in found.items()}

    _, _, model, slowing = learned(Slowing(element_ns=0.0, call_ms=0.0))
    _, _, _, steady = learned(LawDevice(element_ns=0.0, call_ms=0.0))

    assert slowing.predict(model.widths) == pytest.approx(steady.predict(model.widths), rel=1e-6)


def test_wide_groups_give_up_several_of_the_devices_steps_at_once():
    """Of 1,000 and 768 channels more than 48 steps of 16 would be to decide on, or just as many: 32 and 16."""
    _, _, model, latency = learned(LawDevice(block=16, element_ns=0.0))
    _, _, costs, found = parts_of(WIDE.replace("64", "1000").replace("48", "768"))
    wide = LatencyModel(found, costs.widths, LawDevice(block=16, element_ns=0.0))
    wide.steps.update(latency.steps)

    assert {768: 16, 96: 16, 1000: 32} == dict(zip(costs.widths, wide.group_steps(None), strict=True))
    assert {1} == set(wide.group_steps(1))
    assert all(step <= 16 for step in latency.group_steps(None))
    assert len(model.widths) == len(latency.group_steps(None))
