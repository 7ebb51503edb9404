"""The code in the README and on the site's start page runs."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"
START = README.parent / "docs" / "index.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 4
    assert "n_users=100" in BLOCKS[0]
    names = {}
    exec("\n".join(BLOCKS).replace("n_users=100", "n_users=30"), names)
    assert names["X"].index.to_list() == [3, 7]
    texts = names["trained"][:-1].transform(names["cards"])
    np.testing.assert_allclose(names["same"].transform(texts), names["trained"].transform(names["cards"]), atol=1e-6)


@pytest.mark.real_data
def test_sessions_print_the_output_shown(data_home, monkeypatch):
    monkeypatch.setenv("SKLLM4ES_DATA", str(data_home))
    sessions = re.findall(r"```pycon\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(sessions) == 1
    test = doctest.DocTestParser().get_doctest(sessions[0], {}, "README", str(README), 0)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.usefixtures("needs_smollm2")
def test_the_first_pipeline_of_the_start_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", START.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "n_users=200" in code
    code = code.replace("n_users=200", "n_users=30").replace("print(cross_val_score(", "scores = list(cross_val_score(")
    names = {}
    exec(code, names)
    assert len(names["scores"]) == 5
