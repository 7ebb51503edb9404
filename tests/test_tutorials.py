"""The tutorials as what readers download: notebooks that run."""

import json
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("plot_*.py"))
#: Quick ones: the first draws and asks a server, the second reads with a pretrained model.
RUN = ["plot_12_rewriter_server", "plot_10_explain"]


def _notebook(example, folder):
    """Return the file of the notebook that the site offers for a tutorial, written as sphinx-gallery writes it."""
    notebook = pytest.importorskip("sphinx_gallery.notebook")
    parser = pytest.importorskip("sphinx_gallery.py_source_parser")
    from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF

    _, blocks = parser.split_code_and_text_blocks(str(example))
    written = notebook.jupyter_notebook(blocks, DEFAULT_GALLERY_CONF, str(example.parent))
    file = folder / f"{example.stem}.ipynb"
    file.write_text(json.dumps(written))
    return file


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_each_tutorial_is_a_notebook_that_compiles(example, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(_notebook(example, tmp_path), as_version=4)
    nbformat.validate(notebook)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert "code" in kinds
    for cell in notebook.cells:
        if cell.cell_type == "code":
            compile(cell.source, example.stem, "exec")


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("name", RUN)
@pytest.mark.usefixtures("needs_smollm2")
def test_a_notebook_runs_and_draws(name, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    file = _notebook(next(example for example in EXAMPLES if example.stem == name), tmp_path)
    file.write_text(file.read_text().replace("n_users=400", "n_users=80"))  # The site has the whole.
    notebook = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
