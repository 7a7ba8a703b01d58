"""Networks of the usual families, small, as text: what latencies are aimed at on simulated devices."""

from tests.workers.pruning.latency.network import WIDE


def plain():
    """Convolutions in a row, as in VGG."""
    body = Body()
    value = body.conv("x", 3, 32)
    value = body.conv(value, 32, 32)
    value = body.conv(value, 32, 64, stride=2)
    value = body.conv(value, 64, 64)
    value = body.conv(value, 64, 128, stride=2)
    return body.classified(body.conv(value, 128, 128), 128)


def residual():
    """Three stages of two blocks around a stream, as in ResNet-20."""
    body = Body()
    value, width = body.conv("x", 3, 16), 16
    for stage in (16, 32, 64):
        for _ in range(2):
            stride = 1 if stage == width else 2
            inner = body.conv(value, width, stage, stride=stride)
            outer = body.conv(inner, stage, stage, active=False)
            short = value if stage == width else body.conv(value, width, stage, kernel=1, stride=stride, active=False)
            value, width = body.added(outer, short), stage
    return body.classified(value, width)


def mobile():
    """Inverted residuals: narrow streams, wide depthwise layers."""
    body = Body()
    value, width = body.conv("x", 3, 32), 32
    for outputs, stride in ((32, 1), (48, 2), (48, 1), (64, 2), (64, 1)):
        wide = body.conv(value, width, 3 * width, kernel=1)
        deep = body.conv(wide, 3 * width, 3 * width, stride=stride, grouped=True)
        narrow = body.conv(deep, 3 * width, outputs, kernel=1, active=False)
        value = body.added(narrow, value, active=False) if outputs == width and stride == 1 else narrow
        width = outputs
    return body.classified(body.conv(value, width, 128, kernel=1), 128)


class Body:
    """Nodes and weights of a network as they are written down."""

    def __init__(self):
        """Begin."""
        self.weights, self.nodes = [], []

    def conv(self, value, inputs, outputs, *, kernel=3, stride=1, grouped=False, active=True):
        """A convolution with its bias, and a ReLU."""
        number = len(self.nodes)
        inside = 1 if grouped else inputs
        self.weights += [f"float[{outputs}, {inside}, {kernel}, {kernel}] w{number}", f"float[{outputs}] b{number}"]
        pad = kernel // 2
        group = f", group = {inputs}" if grouped else ""
        attributes = f"pads = [{pad}, {pad}, {pad}, {pad}], strides = [{stride}, {stride}]{group}"
        self.nodes.append(f"c{number} = Conv <{attributes}> ({value}, w{number}, b{number})")
        return self._active(f"c{number}") if active else f"c{number}"

    def added(self, one, other, *, active=True):
        """A sum."""
        name = f"s{len(self.nodes)}"
        self.nodes.append(f"{name} = Add ({one}, {other})")
        return self._active(name) if active else name

    def _active(self, value):
        name = f"r{len(self.nodes)}"
        self.nodes.append(f"{name} = Relu ({value})")
        return name

    def classified(self, value, width, classes=5):
        """The whole, with a head."""
        self.weights += [f"float[{classes}, {width}] wh", f"float[{classes}] bh"]
        self.nodes += [f"g = GlobalAveragePool ({value})", "f = Flatten (g)", "y = Gemm <transB = 1> (f, wh, bh)"]
        inputs, nodes = ", ".join(["float[N, 3, 16, 16] x", *self.weights]), "\n  ".join(self.nodes)
        return (
            f'<ir_version: 8, opset_import: ["" : 17]>\nnet ({inputs}) => (float[N, {classes}] y)\n{{\n  {nodes}\n}}\n'
        )


NETWORKS = {"wide": WIDE, "plain": plain(), "residual": residual(), "mobile": mobile()}
