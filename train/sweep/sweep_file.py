"""Sweep files: what a sweep trains, as YAML.

    name: small_splits
    splits: ["5", "10"]
    seeds: [0, 1, 2]
    set: [train.epochs=60]                                # overrides for every run
    required: [augment.dir_folder]                        # keys that must have a value, here or with --set
    runs:                                                 # what is trained, on every split with every seed
      baseline: {recipe: baseline}
      teacher:  {recipe: cp_resnet, set: [train.lr=1e-3]} # overrides, and `seeds` and `splits`, of its own
      pretrained: {recipe: student-scratch, data: esc10, splits: [fold1]}      # on --other esc10=FOLDER
      student:  {recipe: student, distill: [teacher], weights: pretrained}
      second:   {recipe: student, distill: [student]}                          # learns from the first ones
      online:   {recipe: student, online: teacher}                             # which is asked at each step
      int8:     {quantize: student, set: [quantize.clips=512]}                 # bundles, evaluated in integers

`distill` names the entries whose runs, of all seeds on the same split, are the teachers: the mean of their logits
is the target. `online` names one entry, whose run of the same seed on the same split, or of its only seed, is asked at
each step (`distill.online`). `weights` names the entry whose run is started from: that of the same seed, on the same
split where it is trained on the same data, and else on the one split that it has. It may also name a file of weights,
or the recipe's `published` ones; with `probe: true` a linear classifier is fitted on their embedding and nothing else
is trained. A recipe that others learn from may be over its budget. `quantize` names the entry whose runs, each on its
split and with its seed, are quantized to bundles; `set` then has keys of the section `quantize` alone.

Variants of a sweep are chosen on the command line, `--small` or `--variant small`, and applied in their order:

    variants:
      small:
        note: the teachers start without the published weights                 # is printed
        splits: ["5"]                                     # in place of the sweep's, as `seeds` and `required`
        set: [train.epochs=1]                             # added to the sweep's
        recipes:                                          # changes of the entries of a recipe: another recipe,
          passt: {weights: null, set: [model.depth=2]}    # other weights, and settings that are added to theirs

The files in `train/sweep/plans/` are known by name, like recipes.
"""

import json
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.runs.pickled import PICKLED
from tinyscene.train.settings import Section, hint, read_settings

SWEEPS = Path(__file__).parent / "plans"
MAX_RUNS = 10_000  # of a sweep, all splits and seeds of all entries
WEIGHT_FILES, PUBLISHED = (".safetensors", *PICKLED), "published"


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    names = set()
    for value in values:
        if value in names:
            raise ValueError(f"{value!r} is named twice")
        names.add(value)
    return values


Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_unique)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1), AfterValidator(_unique)]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.]*$", max_length=40)]  # part of a folder's name


class SweepEntry(Section):
    """One of the `runs` of a sweep file: what is trained under one name."""

    recipe: str | None = None
    quantize: str | None = None  # in place of a recipe
    set: tuple[str, ...] = ()
    splits: Names | None = None  # none: the sweep's
    seeds: Seeds | None = None
    distill: Names | None = None
    online: str | None = None
    weights: str | None = None
    probe: bool = False
    data: str | None = None  # none: --data

    @property
    def weights_file(self) -> Path | None:
        """The file that `weights` names, where it names one."""
        return Path(self.weights) if self.weights and self.weights.endswith(WEIGHT_FILES) else None

    @property
    def parent(self) -> str | None:
        """The entry that `weights` names, where it names one."""
        return None if self.weights_file or self.weights == PUBLISHED else self.weights

    @property
    def teachers(self) -> tuple[str, ...]:
        return self.distill or ((self.online,) if self.online else ())

    @property
    def needs(self) -> tuple[str, ...]:
        """The entries that must be trained before."""
        return tuple(need for need in (*self.teachers, self.parent, self.quantize) if need)


class RecipeChange(Section):
    """What a variant changes in the entries of one recipe. What is not given stays as it is."""

    recipe: str | None = None
    weights: str | None = None
    set: tuple[str, ...] = ()

    def of(self, entry: SweepEntry) -> SweepEntry:
        changes = {key: value for key, value in vars(self).items() if key in self.model_fields_set}
        return entry.model_copy(update=changes | {"set": (*entry.set, *self.set)})


class Variant(Section):
    """One of the `variants` of a sweep file. What is not given stays as it is."""

    note: Annotated[str, Field(max_length=300)] = ""
    splits: Names | None = None
    seeds: Seeds | None = None
    required: tuple[str, ...] | None = None
    set: tuple[str, ...] = ()
    recipes: dict[str, RecipeChange] = {}  # noqa: RUF012 - pydantic copies it


class Sweep(Section):
    """A sweep file."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    splits: Names
    seeds: Seeds
    set: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # of the variants that were chosen
    variants: dict[RunName, Variant] = {}  # noqa: RUF012 - pydantic copies it
    runs: Annotated[dict[RunName, SweepEntry], Field(min_length=1)]

    def varied(self, name: str) -> "Sweep":
        """The sweep with one of its variants. Raises InputError if it has none of that name."""
        if name not in self.variants:
            known = hint(name, list(self.variants)) if self.variants else "it has no variants"
            raise InputError(f"sweep {self.name}: there is no variant {name!r}: {known}")
        variant = self.variants[name]
        replaced = {key: getattr(variant, key) for key in ("splits", "seeds", "required")}
        changes = {key: value for key, value in replaced.items() if value is not None}
        changes |= {"set": (*self.set, *variant.set), "name": f"{self.name}+{name}"}
        changes["notes"] = (*self.notes, *([f"{name}: {variant.note}"] if variant.note else []))
        changes["runs"] = {
            run: variant.recipes[entry.recipe].of(entry) if entry.recipe in variant.recipes else entry
            for run, entry in self.runs.items()
        }
        return self.model_copy(update=changes)

    def splits_of(self, name: str) -> tuple[str, ...]:
        """Its own; those of the runs that it quantizes; or the sweep's."""
        quantized = self.runs[name].quantize
        return self.runs[name].splits or (self.splits_of(quantized) if quantized else self.splits)

    def seeds_of(self, name: str) -> tuple[int, ...]:
        quantized = self.runs[name].quantize
        return self.runs[name].seeds or (self.seeds_of(quantized) if quantized else self.seeds)

    def online_seed(self, name: str, seed: int) -> int:
        """The seed of the run that this entry's run of a seed asks at each step."""
        seeds = self.seeds_of(self.runs[name].online or "")
        if seed in seeds:
            return seed
        if len(seeds) == 1:
            return seeds[0]
        raise ValueError(f"runs.{name}.online: {self.runs[name].online} has no run of seed {seed}")

    def origin(self, name: str, split: str) -> str:
        """The split of the run whose weights this entry's runs on `split` start from."""
        parent = self.runs[name].parent or ""
        splits = self.splits_of(parent)
        if split in splits and self.runs[parent].data == self.runs[name].data:
            return split
        if len(splits) == 1:
            return splits[0]
        raise ValueError(f"runs.{name}.weights: {parent} has no run on split {split} of the same data")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, entry in self.runs.items():
            self._check_kind(name, entry)
        runs = sum(len(self.splits_of(name)) * len(self.seeds_of(name)) for name in self.runs)
        if runs > MAX_RUNS:
            raise ValueError(f"{runs:,} runs: a sweep may have {MAX_RUNS:,}")
        for name, entry in self.runs.items():
            self._check_entry(name, entry)
        try:
            self.order()
        except CycleError as error:
            raise ValueError(f"runs: they wait for each other in a circle, {' -> '.join(error.args[1])}") from None
        return self

    def _check_kind(self, name: str, entry: SweepEntry) -> None:
        """An entry trains a recipe or quantizes the runs of an entry that does, and needs entries that there are."""
        for needed in entry.needs:
            if needed not in self.runs:
                raise ValueError(f"runs.{name}: there is no run {needed!r}: {hint(needed, list(self.runs))}")
            if self.runs[needed].quantize:
                raise ValueError(f"runs.{name}: {needed} is a bundle, from which nothing is trained or quantized")
        if entry.quantize is None and entry.recipe is None:
            raise ValueError(f"runs.{name}.recipe: is missing")
        allowed = SweepEntry(quantize=entry.quantize, set=entry.set, splits=entry.splits, seeds=entry.seeds)
        if entry.quantize and entry != allowed:
            raise ValueError(f"runs.{name}.quantize: only set, splits and seeds go with it")

    def _check_entry(self, name: str, entry: SweepEntry) -> None:
        if entry.quantize:
            self._check_members(name, "quantize", entry.quantize)
        if entry.data and not entry.splits:
            raise ValueError(f"runs.{name}.splits: name the splits of {entry.data!r} that it is trained on")
        if entry.probe and not entry.weights:
            raise ValueError(f"runs.{name}.probe: name the trained network with `weights`")
        if entry.distill and entry.online:
            raise ValueError(f"runs.{name}: `distill` and `online` each name teachers: name one of them")
        for teacher in entry.teachers:
            known = self.splits_of(teacher) if self.runs[teacher].data == entry.data else ()
            if missing := [split for split in self.splits_of(name) if split not in known]:
                key = "distill" if entry.distill else "online"
                raise ValueError(f"runs.{name}.{key}: {teacher} has no run on split {missing[0]} of the same data")
        if entry.online:
            for seed in self.seeds_of(name):
                self.online_seed(name, seed)
        if entry.parent:
            for split in self.splits_of(name):
                self.origin(name, split)
            if missing := [seed for seed in self.seeds_of(name) if seed not in self.seeds_of(entry.parent)]:
                raise ValueError(f"runs.{name}.weights: {entry.parent} has no run of seed {missing[0]}")

    def _check_members(self, name: str, key: str, needed: str) -> None:
        """Raise ValueError if the entry has a split or seed that the one it needs lacks."""
        if missing := [split for split in self.splits_of(name) if split not in self.splits_of(needed)]:
            raise ValueError(f"runs.{name}.{key}: {needed} has no run on split {missing[0]}")
        if missing := [seed for seed in self.seeds_of(name) if seed not in self.seeds_of(needed)]:
            raise ValueError(f"runs.{name}.{key}: {needed} has no run of seed {missing[0]}")

    def order(self) -> list[str]:
        """The entries as the file has them, but each after those it needs."""
        names, ready, ordered = list(self.runs), [], []
        places = {name: place for place, name in enumerate(names)}
        sorter = TopologicalSorter({name: entry.needs for name, entry in self.runs.items()})
        sorter.prepare()
        while sorter.is_active():
            for name in sorter.get_ready():
                heappush(ready, places[name])
            ordered.append(names[heappop(ready)])
            sorter.done(ordered[-1])
        return ordered


def read_sweep(name: str, variants: tuple[str, ...] = ()) -> Sweep:
    """Read a sweep, with variants of it, by name or by the path of a YAML file.

    Raises InputError, in one line, for whatever is wrong.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else SWEEPS / f"{name}.yaml"
    known = sorted(file.stem for file in SWEEPS.glob("*.yaml"))
    if not is_path and name not in known:
        raise InputError(f"there is no sweep {name!r}: {hint(name, known)}; a file is named with its .yaml")
    content = read_settings(path, "sweep")
    try:
        sweep = Sweep.model_validate_json(json.dumps(content))
        for variant in variants:
            sweep = sweep.varied(variant)
        return Sweep.model_validate(vars(sweep) | {"variants": {}}) if variants else sweep
    except ValidationError as error:
        raise InputError(f"sweep {name}: {_describe(error)}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"sweep {path}: not plain data ({error})") from None


def _describe(error: ValidationError) -> str:
    """The first fault on one line, with its key and, for an unknown key, the nearest known one."""
    fault = error.errors(include_url=False)[0]
    key, value = ".".join(str(part) for part in fault["loc"] if part != "[key]"), fault["input"]
    if fault["type"] == "extra_forbidden":
        sections = {("runs", 3): SweepEntry, ("variants", 3): Variant, ("variants", 5): RecipeChange}
        known = sections.get((str(fault["loc"][0]), len(fault["loc"])), Sweep).model_fields
        return f"unknown key {key!r}: {hint(key.rpartition('.')[2], list(known))}"
    what = {
        "value_error": fault["msg"].removeprefix("Value error, "),  # a check of our own, which says it all
        "too_short": "is empty",
        "missing": "is missing",
        "string_pattern_mismatch": "a run is named by letters, digits, _ and .",
        "string_type": f"must be text: write it in quotes (given: {value!r})",
    }.get(fault["type"], f"{fault['msg']} (given: {value!r})")
    return f"{key}: {what}" if key else what
