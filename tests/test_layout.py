"""The shape of the code: one door for each heavy library, imports one way, nothing unpickled, prompts filled as they ask."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ingest", "rag", "records", "ui", "evals", "tune", "bench")
OWN = {*PACKAGES, "config", "errors", "app", "examples", "scripts", "tests"}

# Library → the files or folders (ending in /) that may import it, at the top or inside a function.
DOORS = {
    "faiss": ("ingest/vectors.py",),
    "sentence_transformers": ("ingest/embed.py", "rag/rerank.py"),
    "torch": ("ingest/embed.py", "rag/rerank.py", "rag/reader.py", "tune/"),
    "transformers": ("ingest/embed.py", "rag/rerank.py", "rag/reader.py", "tune/"),
    "llama_cpp": ("rag/engine/", "bench/locked.py"),  # the latter measures it as a peer
    "streamlit": ("app.py", "ui/"),
    "sqlite3": ("ingest/catalog.py", "ingest/embed.py", "ingest/uploads.py", "ingest/refresh.py", "records/"),
    "pypdf": ("ingest/parse/", "bench/reading.py"),  # the latter measures it as a peer
    **dict.fromkeys(
        ("pypdfium2", "unstructured", "spacy", "oxmsg", "olefile", "openpyxl", "xlrd", "docx", "pptx", "lxml", "bs4",
         "pypandoc", "markdown_it", "rapidocr_onnxruntime", "onnxruntime", "cv2", "PIL"),
        ("ingest/parse/",),
    ),
}

# Package → what of this project it may import.
MAY_IMPORT = {
    "config": {"errors"},
    "errors": set[str](),
    "ingest": {"config", "errors", "records"},  # records: to erase a purged document's receipts
    "records": {"config", "errors"},
    "rag": {"config", "errors", "ingest", "records"},
    "ui": {"config", "errors", "records", "rag.client", "rag.cost"},
    "app": {"config", "errors", "records", "rag.client", "ui"},
    "evals": {"config", "errors", "records", "ingest", "rag"},
    "tune": {"config", "errors", "records", "ingest", "rag", "evals"},
    "bench": {"config", "errors", "records", "ingest", "rag", "evals"},
}

# What the web process must never load: it would make every click slow and its memory large.
HEAVY = (
    "torch", "transformers", "sentence_transformers", "llama_cpp", "faiss", "unstructured", "spacy", "pypdf", "pypdfium2",
    "onnxruntime",
)


def _modules() -> list[Path]:
    files = [ROOT / "app.py", ROOT / "config.py", ROOT / "errors.py"]
    return [each for each in files + [p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))] if each.is_file()]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(path: Path) -> Iterator[str]:
    """Dotted names imported anywhere in the file: at the top, inside functions, and by import_module("…")."""
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{each.name}" if module in OWN else module for each in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="__import__" | "import_module"),
                args=[ast.Constant(str(name)), *_],
            ):
                yield name


MODULES = _modules()


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_heavy_library_is_imported_through_its_door_only(path: Path) -> None:
    """A second door would be a second set of settings, limits and traps."""
    wrong = {
        name for name in _imports(path) for doors in [DOORS.get(name.split(".")[0])]
        if doors and not any(_name(path) == door or (door.endswith("/") and _name(path).startswith(door)) for door in doors)
    }
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_go_one_way(path: Path) -> None:
    """app → ui → rag/client.py; evals, tune, bench → rag → records, ingest → config, errors."""
    home = path.relative_to(ROOT).parts[0].removesuffix(".py")
    allowed = MAY_IMPORT[home] | {home}
    if _name(path) == "rag/client.py" or home == "records":
        light = {"config", "errors", "records", "rag", "httpx", *sys.stdlib_module_names}
        assert not {name.split(".")[0] for name in _imports(path)} - light
    wrong = {
        name for name in _imports(path)
        if name.split(".")[0] in OWN and not any(name == each or name.startswith(f"{each}.") for each in allowed)
    }
    assert not wrong


def test_the_web_process_loads_nothing_heavy() -> None:
    """Every page imported, in a fresh interpreter: no model, index or parser library comes with them."""
    pages = [f"ui.{path.stem}" for path in sorted((ROOT / "ui").glob("*.py")) if path.stem not in ("__init__", "front")]
    load = f"import sys, importlib; [importlib.import_module(page) for page in {pages!r}]"
    code = f"{load}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_nothing_is_unpickled_and_no_text_is_run_as_code(path: Path) -> None:
    """A document, an index or a model file must never be able to run anything."""
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not {name.split(".")[0] for name in _imports(path)} & banned
    for node in ast.walk(_tree(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"eval", "exec", "torch.load", "os.system", "os.popen"}, f"line {node.lineno}: {called}"
        given = {each.arg: ast.unparse(each.value) for each in node.keywords}
        assert given.get("allow_pickle", "False") == "False", f"line {node.lineno}: allow_pickle"
        assert given.get("shell", "False") == "False", f"line {node.lineno}: shell"
        assert given.get("trust_remote_code", "False") == "False", f"line {node.lineno}: trust_remote_code"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_only_config_reads_the_environment(path: Path) -> None:
    """Elsewhere it may be set for libraries (environ["X"] = …, setdefault, update, pop) or handed on to a child process."""
    if _name(path) in ("config.py", "rag/offline/sitecustomize.py"):  # the latter runs before anything can be imported
        return
    tree = _tree(path)
    harmless = set[int]()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=inner, ctx=ast.Store() | ast.Del()):
                harmless.add(id(inner))
            case ast.Attribute(value=inner, attr="setdefault" | "update" | "pop" | "copy" | "items"):
                harmless.add(id(inner))
            case ast.Dict(keys=keys, values=values):
                harmless |= {id(value) for key, value in zip(keys, values, strict=True) if key is None}
            case ast.Call(func=ast.Name(id="dict"), args=[inner]):
                harmless.add(id(inner))
    reads = [
        node.lineno for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and id(node) not in harmless
        and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
    ]
    assert reads == []


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_opens_with_a_sentence(path: Path) -> None:
    tree = _tree(path)
    assert not tree.body or ast.get_docstring(tree)


def test_each_prompt_is_filled_with_exactly_its_variables() -> None:
    """prompts/README.md names each file, who fills it, and with what; file and code agree with it."""
    readme = (ROOT / "prompts" / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\S+\.md)` \| `(\S+\.py)` \| (.+?) \|$", readme, re.M)
    assert {name for name, _, _ in table} == {path.name for path in (ROOT / "prompts").glob("*.md")} - {"README.md"}
    for name, filler, variables in table:
        wanted = set(re.findall(r"\$(\w+)", variables))
        assert set(Template((ROOT / "prompts" / name).read_text(encoding="utf-8")).get_identifiers()) == wanted, name
        given: list[set[object]] = []
        for node in ast.walk(_tree(ROOT / filler)):
            if isinstance(node, ast.Dict):
                given.append({key.value for key in node.keys if isinstance(key, ast.Constant)})
            elif isinstance(node, ast.Call):
                given.append({each.arg for each in node.keywords})
        assert wanted in given, f"{filler} fills prompts/{name} with other names"


def test_every_library_imported_is_pinned() -> None:
    """What the code imports stands in a requirements file with its exact version: no library comes along by luck."""
    other_names = {
        "PIL": "pillow", "cv2": "opencv-python-headless", "docx": "python-docx", "pptx": "python-pptx", "faiss": "faiss-cpu",
        "oxmsg": "python-oxmsg", "yaml": "pyyaml", "markdown_it": "markdown-it-py", "llama_cpp": "llama-cpp-python",
        "pypandoc": "pypandoc-binary", "bs4": "beautifulsoup4",
    }

    def pinned(*files: str) -> set[str]:
        text = "\n".join((ROOT / each).read_text(encoding="utf-8") for each in files)
        return {name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)==\d", text, re.M)}

    def used(paths: list[Path]) -> set[str]:
        names = {name.split(".")[0] for path in paths for name in _imports(path)} - OWN - set(sys.stdlib_module_names)
        return {other_names.get(name, name).lower().replace("_", "-") for name in names}

    run = pinned("requirements.txt", "requirements-nodeps.txt")
    assert used(MODULES) - run == set()
    tests = {path for folder in ("tests", "examples", "scripts") for path in (ROOT / folder).rglob("*.py")}
    helpers = {path.stem for path in (ROOT / "tests").glob("*.py")}
    assert used(sorted(tests)) - run - pinned("requirements-dev.txt") - {each.replace("_", "-") for each in helpers} == set()


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    """Paths and hosts of somebody's own machine mean nothing to the person who cloned this."""
    words = ["/" + "work/", "/" + "opt/", ".." + "/shared", "/root" + "/", "file" + "://" + "/opt"]
    skip = {".git", ".venv", "var", "indexes", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
    kinds = {".py", ".md", ".txt", ".toml", ".sh", ".jsonl", ".css", ".js", ".html", ""}
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if skip & set(parts) or path.suffix not in kinds or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{_name(path)}: {word}" for word in words if word in text]
    assert found == []
