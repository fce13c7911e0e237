"""A bundle with all that can be done with it."""

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle import bundle as files
from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.bundle.copies import copy_bundle
from tinyscene.deploy.bundle.exports import export as export_bytes
from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.bundle.inspection import TensorErrors, inspect_errors
from tinyscene.deploy.bundle.verify import Verification, verify
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import write_whole
from tinyscene.deploy.common.installation import require
from tinyscene.interface.datasets import AnyDataset, open_data
from tinyscene.interface.html import facts_table
from tinyscene.interface.hub import push
from tinyscene.interface.names import find_model, is_kept_unchanged
from tinyscene.interface.paths import AnyPaths, Names, names_of, paths_of
from tinyscene.interface.recordings import Keep, clips_of, some_clips_of

if TYPE_CHECKING:
    from tinyscene.benchmarks.bench import Bench
    from tinyscene.firmware_bridge.emulate import EmulationResult
    from tinyscene.firmware_bridge.firmware import WrittenFirmware
    from tinyscene.firmware_bridge.memory.by_time import Order
    from tinyscene.firmware_bridge.targets.image import BuildSettings
    from tinyscene.firmware_bridge.web import Site
    from tinyscene.interface.evaluation import ModelEvaluation

MEASURED_CLIPS = 256  # of recordings that `inspect` is given, at most: each is run once for each tensor


class Bundle(files.Bundle):
    """A quantized network with all that is shipped: front end, labels, integer graph, golden vectors, provenance.

    It can be given wherever the path of a bundle is taken.

    Args:
        folder: folder of the bundle, or name of a packaged model. Its files are checked: InputError names one that is
            missing or was changed.
        rewriting: kinds of exports that are about to be written anew, which are not checked.
    """

    def __init__(self, folder: "str | os.PathLike[str]", rewriting: Iterable[str] = ()) -> None:
        opened = open_bundle(find_model(folder), rewriting)
        super().__init__(opened.folder, opened.content, opened.front_end, opened.labels, opened.graph)

    def __fspath__(self) -> str:
        return str(self.folder)

    def _repr_html_(self) -> str:
        front_end, budget, metrics = self.front_end, self.content["budget"], self.content.get("metrics")
        accuracy = f"{metrics['accuracy']:.2%} on split {metrics['split']}" if metrics else "not evaluated yet"
        rows = [
            ("folder", str(self.folder)),
            ("hears", ", ".join(self.labels)),
            ("front end", f"{front_end.sample_rate:,} Hz, {front_end.shape[0]} mel bands, {front_end.shape[1]} frames"),
            ("layers", f"{len(self.graph.operators)}"),
            ("parameters", f"{budget['parameters']:,}"),
            ("MACs", f"{budget['deployed_macs']:,} a clip"),
            ("weights and biases", f"{budget['deployed_bytes']:,} bytes"),
            ("accuracy", accuracy),
            ("variants", ", ".join(self.variants) or "none"),
        ]
        return facts_table(f"Bundle {self.content['name']}", rows)

    @classmethod
    def _temporary(cls, folder: Path, held: contextlib.ExitStack) -> "Bundle":
        """A bundle whose folder is removed, by closing `held`, when the last reference to it is gone."""
        bundle = cls(folder)
        weakref.finalize(bundle, held.close)
        return bundle

    def save(self, folder: "str | os.PathLike[str]") -> "Bundle":
        """Copy it, with variants and exports, into a new folder. Raises InputError if the folder is taken."""
        copy_bundle(self, Path(folder))
        return Bundle(folder)

    def push(self, address: str, licence: str | None = None, private: bool = False) -> str:
        """Write it with its model card to the hub, hf://user/name. Returns the address with the commit that was made.

        `licence` is the hub's name of one, such as apache-2.0, in place of that in the card; a new repository can be
        `private`.
        """
        return push(self, address, licence, private)

    def variant(self, device: str) -> "Bundle":
        """The bundle for a recording device: its variant or, for one that has none, this one."""
        variant = super().variant(device)
        return variant if isinstance(variant, Bundle) else Bundle(variant.folder)

    def evaluate(self, data: AnyDataset, split: str | None = None, runner: str | None = None) -> "ModelEvaluation":
        """As `tinyscene.evaluate`."""
        require("torch", "train")
        from tinyscene.interface.evaluation import evaluate

        return evaluate(self, data, split, runner)

    def verify(
        self,
        files: AnyPaths = (),
        data: AnyDataset | None = None,
        split: str | None = None,
        keep: Keep = contextlib.nullcontext,
    ) -> Verification:
        """Compare every installed runtime with the reference, on the golden sounds and on more.

        Args:
            files: recordings that are compared, too, and folders of them: one path, or several.
            data: dataset whose test list is compared, too.
            split: split of that list; by default that of the quantization.
            keep: surrounds the reading of each recording (`clips_of`).

        Returns the comparison; its `require()` raises VerificationError if a runtime that must be equal differs.
        """
        paths, truth = paths_of(files), None
        pcm: Iterator[NDArray[np.int16]] = clips_of(paths, self.front_end, keep)
        if data is not None:
            dataset, clips = open_data(data, self.front_end)
            clips.require_labels(self.labels, self.folder)
            indices = clips.select(dataset.split(split or self.split or dataset.default_split)[1])
            pcm = chain(pcm, (clips.pcm[index] for index in indices))
            truth = None if paths else clips.label[indices]
        return verify(self, pcm, truth)

    def inspect(self, files: AnyPaths = (), keep: Keep = contextlib.nullcontext) -> dict[str, TensorErrors]:
        """The error that quantization adds to each tensor: on recordings, or on those that it was quantized with.

        Of recordings with more than 256 clips, 256 are measured, evenly spaced.

        Raises InputError if no recording can be read.
        """
        paths = paths_of(files)
        if not paths:
            return self.errors
        pcm = some_clips_of(paths, self.front_end, MEASURED_CLIPS, keep)
        return inspect_errors(self.graph, self.float_graph, self.front_end, pcm)

    def export(
        self,
        kind: str,
        out: "str | os.PathLike[str] | None" = None,
        small: bool = False,
        batch: int | None = None,
    ) -> Path:
        """Write the network for another runtime: tflite, tflite-float, onnx or onnx-int8. Returns the file's path.

        Args:
            kind: the format.
            out: file to write; by default inside the bundle.
            small: leave names and bias scales out of .tflite.
            batch: number of clips that .onnx takes at a time; by default any.
        """
        return self.export_all((kind,), out, small, batch)[0]

    def export_all(
        self,
        kinds: Names,
        out: "str | os.PathLike[str] | None" = None,
        small: bool = False,
        batch: int | None = None,
    ) -> list[Path]:
        """Several exports: all are made before the first is written. With `out`, one."""
        contents = {kind: export_bytes(self, kind, small, batch) for kind in names_of(kinds)}
        if out is None:
            if is_kept_unchanged(self.folder):
                raise InputError(
                    f"{self.folder.name}: a packaged or fetched model is not changed; name a file with --out"
                )
            return [self.add_export(kind, content) for kind, content in contents.items()]
        (content,) = contents.values()
        write_whole(Path(out), content)
        return [Path(out)]

    def firmware(
        self,
        out: "str | os.PathLike[str]",
        package: str | None = None,
        kernels: Names | None = None,
        hop: float | None = None,
        prefix: str = "tinyscene",
        order: "Order" = "mel",
        band_offsets: bool = False,
    ) -> "WrittenFirmware":
        """Write it as C99 with a planned arena into a new folder, or as a package for a build system.

        Args:
            out: the folder.
            package: cmake, arduino, platformio, zephyr, espidf, cmsis, wasm or board.
            kernels: instruction sets, such as ("plain", "dsp"); by default all of microcontrollers.
            hop: seconds between decisions; by default, the length of a clip.
            prefix: first part of all names in the C, for several models in one program.
            order: "mel" holds the features of a clip and needs the least memory; "time" computes the network's rows
                as sound comes, which leaves little to do at the clip's end.
            band_offsets: learn the microphone's colour while listening, as an offset for each mel band.
        """
        from tinyscene.firmware_bridge.codegen.library import DEVICE_KERNELS
        from tinyscene.firmware_bridge.firmware import write_firmware

        chosen = DEVICE_KERNELS if kernels is None else names_of(kernels)
        return write_firmware(self, Path(out), package, chosen, hop, prefix, order, band_offsets)

    def web(self, out: "str | os.PathLike[str]") -> "Site":
        """Write a web page that classifies the microphone and sound files in the browser, into a new folder."""
        from tinyscene.firmware_bridge.web import write_site

        return write_site(self, Path(out))

    def emulate(
        self,
        target: "str | BuildSettings" = "cortex-m4",
        files: AnyPaths = (),
        data: AnyDataset | None = None,
        split: str | None = None,
        clips: int | None = None,
        profile: bool = False,
        keep: Keep = contextlib.nullcontext,
    ) -> "EmulationResult":
        """Run the firmware on an emulated target, compare it with the reference bit for bit, count instructions.

        Args:
            target: its name, such as cortex-m55 or riscv32; `host` is this machine. Or settings of its build.
            files: recordings that are compared, besides the golden sounds, and folders of them: one path, or several.
            data: dataset whose test list is compared, too.
            split: split of that list; by default that of the quantization.
            clips: number of clips of that list, evenly spaced; by default all.
            profile: count instructions by layer and by function, too.
            keep: surrounds the reading of each recording (`clips_of`).

        Raises InputError where a compiler or an emulator is missing.
        """
        from tinyscene.firmware_bridge.emulate import emulate
        from tinyscene.firmware_bridge.targets.image import build_settings

        settings = build_settings(target) if isinstance(target, str) else target
        tested = iter(()) if data is None else self._test_clips(data, split, clips)
        pcm = chain(self.vectors.pcm, clips_of(files, self.front_end, keep), tested)
        return emulate(self, pcm, settings, profile)

    def _test_clips(self, data: AnyDataset, split: str | None, count: int | None) -> Iterator[NDArray[np.int16]]:
        """Clips (samples,) of a dataset's test list, evenly spaced; all unless a number is given."""
        dataset, prepared = open_data(data, self.front_end)
        indices = prepared.select(dataset.split(split or self.split or dataset.default_split)[1])
        least = min(count or len(indices), len(indices))
        return (prepared.pcm[index] for index in indices[np.linspace(0, len(indices) - 1, least).astype(int)])

    def bench(
        self,
        targets: Names | None = None,
        data: AnyDataset | None = None,
        split: str | None = None,
        serial: str | None = None,
        record: bool = True,
    ) -> "Bench":
        """Measure latency beside other runtimes, instructions, RAM, flash and accuracy.

        Args:
            targets: host, emulated targets and Ethos-U; by default one of each kind.
            data: dataset on whose test list accuracy is measured.
            split: split of that list; by default that of the quantization.
            serial: serial port of a board that runs `firmware --package board`.
            record: write the result into the bundle, as the command does.
        """
        from tinyscene.benchmarks.bench import DEFAULT_TARGETS, bench

        test = None
        if data is not None:
            require("torch", "train")
            dataset, clips = open_data(data, self.front_end)
            clips.require_labels(self.labels, self.folder)
            test = clips, dataset.split(split or self.split or dataset.default_split)[1]
        result = bench(self, DEFAULT_TARGETS if targets is None else names_of(targets), test, serial)
        if record and not is_kept_unchanged(self.folder):
            self.record("bench", result.as_dict())
        return result


def is_bundle(folder: "str | os.PathLike[str]") -> bool:
    """Whether a folder holds the index of a bundle. Its files are not checked."""
    return (Path(folder) / INDEX).exists()
