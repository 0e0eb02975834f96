"""What the documents refer to exists, and their Python runs.

Examples with prompts are doctests, the tutorial has its own test, and those of trackers
are in runs/test_trackers.py. The others are executed here.
"""

import inspect
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree

import jax
import jax.numpy as jnp
import pytest
import tyro
import yaml
from PIL import Image
from safetensors.numpy import save_file

import jcnn
from experiments import digits
from jcnn.runs.store.network import export_network

_ROOT = Path(__file__).parents[1]
_DOCUMENTS = [*_ROOT.glob("*.md"), *_ROOT.glob("docs/*.md")]


def _programs():
    """The blocks of code without prompts, and where they are."""
    for path in _DOCUMENTS:
        text = path.read_text()
        for block in re.finditer(r"^```py\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if not re.search("^import (wandb|mlflow)$", block[1], re.MULTILINE):
                line = text.count("\n", 0, block.start()) + 1
                yield pytest.param(block[1], id=f"{path.name}:{line}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the documents take as given: runs, weights and pictures."""
    root = tmp_path_factory.mktemp("documents")
    run = root / "runs" / "a"
    options = ["--max-steps=2", "--no-report", f"--run-dir={run}"]
    assert jcnn.runs.main(digits.Config, digits.recipe, options) == 0
    copytree(run, run.with_name("digits-20261127-101500-seed0"))
    export_network(run)
    net = jcnn.models.imagenet_resnet(depth=18, padding="SYMMETRIC")
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    weights = jax.tree.map(lambda a: jnp.ones(a.shape), shapes)
    save_file(jcnn.weights.to_torch(*weights), root / "resnet18.safetensors")
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        path = root / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 90), "red").save(path)
    return root


@pytest.fixture
def accelerations(monkeypatch):
    """The handles that programs get of `jcnn.accelerate` and forget."""
    handles, accelerate = [], jcnn.accelerate
    monkeypatch.setattr(
        jcnn, "accelerate", lambda: handles.append(accelerate()) or handles[-1]
    )
    yield handles
    for handle in handles:
        handle.undo()


@pytest.mark.parametrize("program", [*_programs()])
def test_programs_run(program, folder, accelerations, monkeypatch):
    if "from flax" in program:
        pytest.importorskip("flax.nnx")
    monkeypatch.chdir(folder)
    params = {"a": jnp.ones(3)}
    given = {
        "__name__": "example",
        "jax": jax,
        "jnp": jnp,
        "jcnn": jcnn,
        "images": jcnn.data.load("digits", "test").image[:3],
        "params": params,
        "loss": lambda params: (params["a"] ** 2).sum(),
    }
    exec(program, given)
    if "names" in given:
        assert len(given["names"]) == len(given["images"])
    if "logits" in given:
        assert given["logits"].shape == (len(given["images"]), 10)
    if "found" in given:
        assert (len(given["train"].image), len(given["test"].image)) == (2, 2)
    assert bool(accelerations) == ("accelerate" in program)


@pytest.mark.parametrize("path", _DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not target.startswith("https://"):
            name, _, heading = target.partition("#")
            file = path.parent / name if name else path
            assert file.is_file(), target
            assert not heading or heading in _headings(file), target


def _headings(path):
    titles = re.findall("^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("path", _DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_modules_that_exist(path):
    for name in re.findall(
        r"python -m ((?:experiments|tests|jcnn)[\w.]*\w)", path.read_text()
    ):
        assert find_spec(name) is not None, name


def test_the_reference_has_everything_public():
    pages = "\n".join(path.read_text() for path in _ROOT.glob("docs/api/*.rst"))
    named = set(re.findall(r"^\.\. auto\w+:: (?:jcnn\.)?(\S+)$", pages, re.MULTILINE))
    assert set(jcnn.__all__) <= named
    kinds = re.findall(r"^\.\. automodule:: jcnn\.(\S+)$", pages, re.MULTILINE)
    assert all(inspect.ismodule(getattr(jcnn, name)) for name in kinds)


def test_every_guide_is_in_the_contents_of_the_site():
    contents = (_ROOT / "docs" / "conf.py").read_text()
    for path in _ROOT.glob("docs/*.md"):
        assert f"docs/{path.stem}" in contents


def test_the_readme_is_short():
    assert len((_ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_manifest_for_kubernetes_has_what_the_scheduler_requires():
    """Fields that `kubectl --dry-run=server` asks for, and what joins them."""
    text = (_ROOT / "docs" / "kubernetes.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    name, spec = job["metadata"]["name"], job["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")  # a job allows no other
    (container,) = pod["containers"]
    assert container["name"] and container["image"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}

    (line,) = container["command"][2:]
    _, arguments = line.split(" -m experiments.cifar10 ")
    arguments = shlex.split(arguments.replace("$JOB_COMPLETION_INDEX", "3"))
    config = tyro.cli(jcnn.runs.RunConfig, args=arguments)
    host, port = (config.coordinator or "").split(":")
    assert host == f"{name}-0.{pod['subdomain']}"
    assert int(port) == service["spec"]["ports"][0]["port"]
    assert int(port) == container["ports"][0]["containerPort"]
    assert config.num_processes == spec["parallelism"] and config.process_id == 3
