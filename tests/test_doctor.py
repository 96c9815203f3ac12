"""The doctor: what is checked, and what it advises."""
import re
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from instop_nb import doctor
from instop_nb.doctor import Check, environment, report

ROOT = Path(__file__).resolve().parent.parent


def test_report_says_ok_or_what_to_do():
    assert report([Check("box", "3"), Check("fox", "none", "find one")]).data == (
        "| | found | what to do |\n| --- | --- | --- |\n| box | 3 | ok |\n| fox | none | find one |"
    )


def test_python_that_is_too_old():
    check = doctor._version(Requirement("Python>=3.10"), "3.9.2")
    assert check == Check("Python", "3.9.2", "`make clean lab PYTHON=python3.12`")
    assert not doctor._version(Requirement("Python>=3.10"), "3.10.0").advice


def install(folder, name, version, *wanted):
    "Pretend that a package is installed in `folder`."
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {text}\n" for text in wanted)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.10\n{needs}"
    )


def test_packages_that_do_not_fit_have_rows_of_their_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    install(
        tmp_path, "den", "1.0", "zfox>=2", "zhen>=2", "zowl", 'zcub<3; extra == "dev"',
        'zbat; extra == "bench"',
    )
    install(tmp_path, "zfox", "2.1+cpu")
    install(tmp_path, "zhen", "1.9")
    install(tmp_path, "zcub", "3.0")
    *wrong, fine = doctor._versions("den")
    assert wrong == [Check("zhen", "1.9", "`%pip install 'zhen>=2'`, then restart"),
                     Check("zowl", "not installed", "`%pip install 'zowl'`, then restart"),
                     Check("zcub", "3.0", "`%pip install 'zcub<3'`, then restart")]
    assert re.fullmatch(r"Python 3\.\d+\.\d+\S*, zfox 2\.1\+cpu", fine.found)


def test_a_package_that_is_not_installed():
    assert doctor._versions("no-such-package") == [
        Check("no-such-package", "not installed", "`make lab` in the repository installs it")
    ]


@pytest.mark.parametrize(
    "cuda, mps, found",
    [
        (True, False, "CUDA: a card"), (False, False, "CPU, threads: 1"),
        (False, True, "CPU, threads: 1; mps on request: `load_model('micro', device='mps')`"),
    ],
)
def test_device(monkeypatch, cuda, mps, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert doctor._device() == Check("device", found)


def test_device_without_torch(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert doctor._device().advice == "install torch first"


def test_room_is_compared_in_gib():
    assert doctor._room("disk", 1.5 * 2**30, 1, "delete") == Check("disk", "1.5 GiB free")
    assert doctor._room("disk", 2**30 - 1, 1, "delete") == Check(
        "disk", "1.0 GiB free", "delete until 1 GiB are free"
    )


def test_real_tasks_are_a_choice(tmp_path):
    assert doctor._real_tasks(tmp_path).advice.startswith("nothing, or for real tasks `git clone")
    (tmp_path / "tasks").mkdir()
    for name in ("task1.json", "task2.json", "README.md"): (tmp_path / "tasks" / name).touch()
    assert doctor._real_tasks(tmp_path) == Check("real tasks", f"2 in `{tmp_path}`")


def test_small_model(tmp_path):
    assert doctor._small_model(ROOT / "instop_nb" / "checkpoints") == Check("small T5", "6 files")
    for name in ("micro", "micro-tuned"):
        (tmp_path / name).mkdir()
        for file in ("config.json", "tokenizer.json"): (tmp_path / name / file).touch()
    (tmp_path / "micro" / "model.safetensors").touch()
    assert doctor._small_model(tmp_path) == Check(
        "small T5", "no micro-tuned/model.safetensors", "install the package again"
    )


def test_environment_finds_the_small_model_of_the_package():
    checks = environment("no such folder")
    assert [check.what for check in checks[-7:]] == [
        "versions", "device", "memory", "disk", "English model", "real tasks", "small T5",
    ]
    assert (
        checks[-1] == Check("small T5", "6 files")
        and checks[-2].found == "0 in `no such folder`"
    )


def test_environment_without_the_package(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert environment()[-1].advice == "install the package again"


def test_names_from_elsewhere_are_shown_and_not_obeyed():
    text = report([Check("<b>box</b>", "a | b <script>")]).data
    assert "<script>" not in text and "<b>" not in text
    assert "a &#124; b &lt;script&gt;" in text
