"""The file of a sweep: which jobs it makes, and what is wrong with it."""

from pathlib import Path

import pytest

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.recipe import load_recipe, override
from tinyscene.train.sweep.plan import LogitsJob, QuantizeJob, TrainJob, plan
from tinyscene.train.sweep.sweep_file import read_sweep

GRID = """
name: grid
splits: ["5", "10"]
seeds: [0, 1]
set: [train.epochs=3]
runs:
  second: {recipe: nano, distill: [student], weights: pretrained, splits: ["10"]}
  student: {recipe: nano, distill: [teacher, big]}
  big: {recipe: cp_resnet, seeds: [7]}
  teacher: {recipe: nano, set: [train.epochs=4, model.base_channels=16]}
  pretrained: {recipe: nano, data: other, splits: [fold1]}
  tuned: {recipe: nano, weights: teacher}
"""
ONE = 'name: one\nsplits: ["5"]\nseeds: [0]\nruns:\n'  # the head of a file


def write(folder: Path, text: str) -> str:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return str(path)


def test_a_grid_gives_each_run_on_each_split_with_each_seed(tmp_path: Path) -> None:
    jobs = plan(read_sweep(write(tmp_path, GRID)), (), tmp_path)
    runs = [job.name for job in jobs if isinstance(job, TrainJob)]
    expected = [
        f"runs/{run}-{split}-{seed}"
        for run in ("student", "teacher", "tuned")
        for split in ("5", "10")
        for seed in (0, 1)
    ]
    expected += ["runs/big-5-7", "runs/big-10-7", "runs/pretrained-fold1-0", "runs/pretrained-fold1-1"]
    expected += ["runs/second-10-0", "runs/second-10-1"]
    assert sorted(runs) == sorted(expected)
    assert sum(isinstance(job, LogitsJob) for job in jobs) == 3  # of teacher and big on two splits, of student on one


def test_a_job_comes_after_those_it_needs(tmp_path: Path) -> None:
    jobs = plan(read_sweep(write(tmp_path, GRID)), (), tmp_path)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    assert all(names.index(need) < names.index(job.name) for job in jobs for need in job.needs)


def test_jobs_are_done_in_the_order_of_the_file_as_far_as_they_can_be(tmp_path: Path) -> None:
    runs = "  c: {recipe: nano}\n  b: {recipe: nano, weights: z}\n  a: {recipe: nano}\n  z: {recipe: nano}\n"
    jobs = plan(read_sweep(write(tmp_path, ONE + runs)), (), tmp_path)
    assert [job.name for job in jobs] == ["runs/c-5-0", "runs/a-5-0", "runs/z-5-0", "runs/b-5-0"]


def test_a_student_learns_from_the_logits_of_all_seeds_of_its_teachers_on_its_split(tmp_path: Path) -> None:
    jobs = {job.name: job for job in plan(read_sweep(write(tmp_path, GRID)), (), tmp_path)}
    student = jobs["runs/student-10-1"]
    assert isinstance(student, TrainJob)
    (logits,) = student.needs
    assert set(jobs[logits].needs) == {"runs/teacher-10-0", "runs/teacher-10-1", "runs/big-10-7"}
    assert student.recipe.distill.logits == str(tmp_path / logits)


def test_a_student_asks_the_run_of_its_seed_or_the_only_one_at_each_step(tmp_path: Path) -> None:
    runs = "  probe: {recipe: nano, seeds: [3]}\n  teacher: {recipe: nano}\n  patient: {recipe: student, online: %s}\n"
    for teacher, asked in (("probe", "runs/probe-5-3"), ("teacher", "runs/teacher-5-0")):
        jobs = {job.name: job for job in plan(read_sweep(write(tmp_path, ONE + runs % teacher)), (), tmp_path)}
        patient = jobs["runs/patient-5-0"]
        assert isinstance(patient, TrainJob)
        assert patient.needs == (asked,)
        assert patient.recipe.distill.online == str(tmp_path / asked)


def test_a_quantized_entry_gives_a_bundle_of_each_of_its_runs(tmp_path: Path) -> None:
    text = GRID + "  int8: {quantize: teacher, set: [quantize.clips=32]}\n"
    jobs = {job.name: job for job in plan(read_sweep(write(tmp_path, text)), ("quantize.equalize=false",), tmp_path)}
    bundles = [job for job in jobs.values() if isinstance(job, QuantizeJob)]
    assert {job.name for job in bundles} == {f"bundles/int8-{split}-{seed}" for split in ("5", "10") for seed in (0, 1)}
    for job in bundles:
        assert job.needs == (job.name.replace("bundles/int8", "runs/teacher"),)
        assert job.settings == ("quantize.clips=32",)
        run = jobs[job.needs[0]]
        assert isinstance(run, TrainJob)
        assert job.recipe == override(run.recipe, ["quantize.clips=32"], "")
        assert job.allow_over_budget  # as the run, which is a teacher


def test_bundles_are_made_of_some_of_the_splits_and_seeds(tmp_path: Path) -> None:
    text = GRID + "  int8: {quantize: teacher, splits: ['10'], seeds: [1]}\n"
    jobs = plan(read_sweep(write(tmp_path, text)), (), tmp_path)
    assert [job.name for job in jobs if isinstance(job, QuantizeJob)] == ["bundles/int8-10-1"]


def test_only_the_settings_of_quantization_can_be_set_for_a_bundle(tmp_path: Path) -> None:
    text = ONE + "  a: {recipe: nano}\n  int8: {quantize: a, set: [train.epochs=3]}\n"
    with pytest.raises(InputError, match=r"runs.int8: train.epochs=3: only keys of the section quantize"):
        plan(read_sweep(write(tmp_path, text)), (), tmp_path)


def test_teachers_of_other_seeds_are_another_ensemble(tmp_path: Path) -> None:
    few, more = ONE + "  student: {recipe: nano, distill: [first]}\n  first: {recipe: nano, seeds: %s}\n", []
    for seeds in ("[0]", "[0, 1]"):
        jobs = {job.name: job for job in plan(read_sweep(write(tmp_path, few % seeds)), (), tmp_path)}
        student = jobs["runs/student-5-0"]
        assert isinstance(student, TrainJob)
        more.append(student.recipe)
    assert more[0] != more[1]


def test_weights_are_of_the_same_seed_and_split_or_of_the_only_split_of_other_data(tmp_path: Path) -> None:
    jobs = {job.name: job for job in plan(read_sweep(write(tmp_path, GRID)), (), tmp_path)}
    assert "runs/teacher-10-1" in jobs["runs/tuned-10-1"].needs
    assert "runs/pretrained-fold1-1" in jobs["runs/second-10-1"].needs


def test_overrides_go_from_the_sweeps_to_the_runs_to_the_command_lines(tmp_path: Path) -> None:
    jobs = {job.name: job for job in plan(read_sweep(write(tmp_path, GRID)), ("train.lr=0.1",), tmp_path)}
    job = jobs["runs/teacher-5-1"]
    assert isinstance(job, TrainJob)
    settings = ["train.epochs=4", "model.base_channels=16", "train.lr=0.1", "seed=1"]
    assert job.recipe == load_recipe("nano", settings)


def test_only_what_others_learn_from_may_be_over_its_budget(tmp_path: Path) -> None:
    jobs = plan(read_sweep(write(tmp_path, GRID)), (), tmp_path)
    allowed = {job.run for job in jobs if isinstance(job, TrainJob) and job.allow_over_budget}
    assert allowed == {"teacher", "big", "student"}


@pytest.mark.parametrize("name", ["data_efficient", "self_distillation"])
def test_shipped_sweeps_have_five_splits_and_three_seeds(name: str, tmp_path: Path) -> None:
    jobs = [job for job in plan(read_sweep(name), (), tmp_path) if isinstance(job, TrainJob)]
    assert {(job.split, job.recipe.seed) for job in jobs} == {
        (split, seed) for split in ("5", "10", "25", "50", "100") for seed in range(3)
    }
    assert all(job.recipe.seed in range(3) for job in jobs)


VARIED = (
    ONE
    + """
  teacher: {recipe: passt, weights: published, set: [augment.dir_p=0.5]}
  other: {recipe: cp_resnet}
  student: {recipe: student, distill: [teacher, other]}
required: [augment.dir_folder]
set: [train.epochs=9]
variants:
  light: {recipes: {passt: {recipe: efficientat}}}
  small:
    note: tiny
    splits: ["10", "25"]
    seeds: [0, 1]
    required: []
    set: [train.epochs=2]
    recipes:
      passt: {weights: null, set: [model.depth=2]}
      efficientat: {weights: null, set: [model.width=0.1]}
"""
)


def test_a_variant_replaces_splits_and_seeds_and_adds_settings(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, VARIED), ("small",))
    assert (sweep.name, sweep.splits, sweep.seeds, sweep.required) == ("one+small", ("10", "25"), (0, 1), ())
    assert sweep.notes == ("small: tiny",)
    jobs = {job.name: job for job in plan(sweep, (), tmp_path)}
    teacher = jobs["runs/teacher-25-1"]
    assert isinstance(teacher, TrainJob)
    assert teacher.weights is None
    settings = ["train.epochs=2", "augment.dir_p=0.5", "model.depth=2", "seed=1"]
    assert teacher.recipe == load_recipe("passt", settings)


def test_variants_are_applied_in_order(tmp_path: Path) -> None:
    jobs = {job.name: job for job in plan(read_sweep(write(tmp_path, VARIED), ("light", "small")), (), tmp_path)}
    teacher = jobs["runs/teacher-10-0"]
    assert isinstance(teacher, TrainJob)
    settings = ["train.epochs=2", "augment.dir_p=0.5", "model.width=0.1", "seed=0"]
    assert (teacher.recipe, teacher.weights) == (load_recipe("efficientat", settings), None)


def test_what_a_variant_does_not_change_stays(tmp_path: Path) -> None:
    sweep, light = (read_sweep(write(tmp_path, VARIED), names) for names in ((), ("light",)))
    assert light.runs["teacher"] == sweep.runs["teacher"].model_copy(update={"recipe": "efficientat"})
    assert (light.splits, light.seeds, light.set, light.required) == (("5",), (0,), sweep.set, sweep.required)
    assert light.runs["other"] == sweep.runs["other"]


def test_a_variant_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sweep one: there is no variant 'smal': did you mean 'small'"):
        read_sweep(write(tmp_path, VARIED), ("smal",))
    with pytest.raises(InputError, match="no variant 'small': it has no variants"):
        read_sweep("data_efficient", ("small",))


TEACHERS = [f"{kind}_{means}" for kind in ("pretrained", "cp_resnet") for means in ("fms", "dir", "both")]


@pytest.mark.parametrize(
    ("variants", "family", "splits", "seeds"),
    [
        ((), "passt", 5, 5),
        (("efficientat",), "efficientat", 5, 5),
        (("small",), "passt", 2, 2),
        (("efficientat", "small"), "efficientat", 2, 2),
    ],
)
def test_the_dcase_sweep_trains_six_teachers_a_split_and_quantizes_its_students(
    variants: tuple[str, ...], family: str, splits: int, seeds: int, tmp_path: Path
) -> None:
    jobs = {job.name: job for job in plan(read_sweep("dcase2024", variants), (), tmp_path)}
    assert len(jobs) == splits * (6 + 1 + 2 * seeds)
    for run in TEACHERS:
        job = jobs[f"runs/{run}-5-0"]
        assert isinstance(job, TrainJob)
        assert job.recipe.model.family == (family if run.startswith("pretrained") else "cp_resnet")
        assert job.weights == ("published" if run.startswith("pretrained") and "small" not in variants else None)
        augment = job.recipe.augment
        assert (augment.mixstyle_p > 0, augment.dir_p > 0) == (not run.endswith("_dir"), not run.endswith("_fms"))
    logits = jobs[jobs["runs/student-5-1"].needs[0]]
    assert set(logits.needs) == {f"runs/{run}-5-0" for run in TEACHERS}
    assert jobs["bundles/int8-5-1"].needs == ("runs/student-5-1",)


def test_the_dcase_sweep_has_the_published_settings(tmp_path: Path) -> None:
    jobs = {job.name: job for job in plan(read_sweep("dcase2024"), (), tmp_path)}
    student, passt = jobs["runs/student-100-4"], jobs["runs/pretrained_both-100-0"]
    assert isinstance(student, TrainJob)
    assert isinstance(passt, TrainJob)
    distill, train, augment = student.recipe.distill, student.recipe.train, student.recipe.augment
    assert (distill.temperature, distill.label_weight, train.epochs, train.batch_size) == (2, 0.02, 150, 256)
    assert (augment.mixstyle_p, augment.mixstyle_alpha, augment.dir_p, augment.dir_devices) == (0.4, 0.3, 0.6, ("a",))
    augment = passt.recipe.augment
    assert (augment.mixstyle_p, augment.mixstyle_alpha, augment.dir_p) == (0.4, 0.4, 0.6)


BAD = {
    "there is no run 'frist'.*did you mean 'first'": "  first: {recipe: nano}\n  a: {recipe: nano, distill: [frist]}",
    "circle": "  a: {recipe: nano, weights: b}\n  b: {recipe: nano, distill: [c]}\n  c: {recipe: nano, weights: a}",
    "circle, a -> a": "  a: {recipe: nano, distill: [a]}",
    "unknown key 'runs.a.destill'.*did you mean 'distill'": "  a: {recipe: nano, destill: [b]}",
    "runs.a.distill: is empty": "  a: {recipe: nano, distill: []}",
    "runs.a.seeds: is empty": "  a: {recipe: nano, seeds: []}",
    "runs.a.recipe: is missing": "  a: {}",
    "'1' is named twice|1 is named twice": "  a: {recipe: nano, seeds: [1, 0, 1]}",
    "'a' is given twice": "  a: {recipe: nano}\n  a: {recipe: micro}",
    "runs.a.splits.0: must be text: write it in quotes": "  a: {recipe: nano, splits: [5]}",
    "runs.a.seeds.0: .*greater than or equal to 0": "  a: {recipe: nano, seeds: [-1]}",
    "letters, digits": "  a-b: {recipe: nano}",
    "name the splits of 'other'": "  a: {recipe: nano, data: other}",
    "b has no run on split 5 of": "  a: {recipe: nano, distill: [b]}\n  b: {recipe: nano, splits: ['10']}",
    "b has no run on split 5": "  a: {recipe: nano, distill: [b]}\n  b: {recipe: nano, data: other, splits: ['5']}",
    "weights: b has no run on split 5": "  a: {recipe: nano, weights: b}\n  b: {recipe: nano, splits: ['10', '25']}",
    "runs.a.probe: name the trained network": "  a: {recipe: efficientat, probe: true}",
    "b has no run of seed 0": "  a: {recipe: nano, weights: b}\n  b: {recipe: nano, seeds: [1]}",
    "runs.a.online: b has no run of seed 0": "  a: {recipe: nano, online: b}\n  b: {recipe: nano, seeds: [1, 2]}",
    "runs.a.online: b has no run on split 5": "  a: {recipe: nano, online: b}\n  b: {recipe: nano, splits: ['10']}",
    "int8 is a bundle, from which": "  a: {recipe: nano}\n  int8: {quantize: a}\n  b: {recipe: nano, distill: [int8]}",
    "b is a bundle": "  a: {recipe: nano}\n  b: {quantize: a}\n  c: {quantize: b}",
    "runs.b.quantize: only set": "  a: {recipe: nano}\n  b: {quantize: a, recipe: nano}",
    "runs.b.quantize: a has no run of seed 3": "  a: {recipe: nano}\n  b: {quantize: a, seeds: [3]}",
    "runs.b.quantize: a has no run on split 7": "  a: {recipe: nano}\n  b: {quantize: a, splits: ['7']}",
    "unknown key 'variants.v.sets'.*did you mean": "  a: {recipe: nano}\nvariants: {v: {sets: [a=b]}}",
    "unknown key 'variants.v.recipes.nano.weight'": (
        "  a: {recipe: nano}\nvariants: {v: {recipes: {nano: {weight: b}}}}"
    ),
    "name one of them": "  a: {recipe: nano, online: b, distill: [b]}\n  b: {recipe: nano}",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_file_is_refused_in_one_line(line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line) as raised:
        read_sweep(write(tmp_path, ONE + BAD[line] + "\n"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: [", "not YAML"),
        ("", "valid dictionary|object"),
        ("name: a\nsplits: ['5']\nseeds: [0]\nruns: {}\n", "runs: is empty"),
        ("name: a\nsplits: ['5', '5']\nseeds: [0]\nruns: {a: {recipe: nano}}\n", "splits: '5' is named twice"),
        ("name: a\nseeds: [0]\nruns: {a: {recipe: nano}}\n", "splits: is missing"),
        ("nam: a\nsplits: ['5']\nseeds: [0]\nname: a\nruns: {a: {recipe: nano}}\n", "did you mean 'name'"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line):
        read_sweep(write(tmp_path, text))


def test_more_runs_than_any_sweep_has_are_refused_before_they_are_planned(tmp_path: Path) -> None:
    many = ",".join(f"{number}" for number in range(9_000))
    text = f"name: a\nsplits: [{', '.join(f's{number}' for number in range(9_000))}]\nseeds: [{many}]\n"
    with pytest.raises(InputError, match="81,000,000 runs: a sweep may have 10,000"):
        read_sweep(write(tmp_path, f"{text}runs: {{a: {{recipe: nano}}}}\n"))


def test_a_sweep_of_no_file_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'data_efficient'"):
        read_sweep("data_eficient")
