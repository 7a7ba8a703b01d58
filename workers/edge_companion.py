"""A network and the file of its weights, as ONNX Runtime wants them: in one folder, under their names."""

import os
import shutil
from pathlib import Path, PurePosixPath

from workers.pruning.errors import InvalidGraph
from workers.pruning.graph.wire import locations


def placed(network: Path, companion: Path) -> Path:
    """Lay a network and the file of its weights into a folder beside it; gives the network there.

    Raises:
        InvalidGraph: it names several files, or one outside of its own folder.
        OSError: there is no room for it.
    """
    folder = network.with_name(f"{network.name}.with-weights")
    folder.mkdir(exist_ok=True)
    _link(network, folder / "network.onnx")
    _link(companion, folder / _name(network))
    return folder / "network.onnx"


def _name(network: Path) -> PurePosixPath:
    named = sorted(locations(memoryview(network.read_bytes())))
    name = PurePosixPath(named[0] if named else "weights")
    if len(named) > 1 or len(name.parts) != 1 or name.name in {"", "..", "network.onnx"}:
        raise InvalidGraph(
            "The weights of the network are not where they can be put",
            actual=", ".join(map(repr, named[:5])),
            allowed="one file beside the network, under a plain name",
            advice="Save it with onnx.save_model(..., all_tensors_to_one_file=True, location='weights.data').",
        )
    return name


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another filesystem, or one without links
        shutil.copyfile(source, target)
