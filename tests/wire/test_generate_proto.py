"""What is committed in api/intermodal_api is what tools/generate-proto makes of api/proto."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = ROOT / "tools" / "generate-proto"
COMMITTED = ROOT / "api" / "intermodal_api"


def generate(outdir: Path) -> dict[Path, bytes]:
    subprocess.run([sys.executable, GENERATOR, outdir], check=True, timeout=120)
    return read_tree(outdir / "intermodal_api")


def read_tree(root: Path) -> dict[Path, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def outdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def fresh(outdir: Path) -> dict[Path, bytes]:
    return generate(outdir)


def test_committed_code_is_what_the_sources_make(fresh: dict[Path, bytes]) -> None:
    committed = read_tree(COMMITTED)
    assert fresh.keys() == committed.keys()
    assert [name for name, content in fresh.items() if committed[name] != content] == []


def test_each_source_has_a_module_and_a_stub(fresh: dict[Path, bytes]) -> None:
    sources = [path.relative_to(ROOT / "api/proto/intermodal_api") for path in (ROOT / "api/proto").rglob("*.proto")]
    modules = {source.with_name(f"{source.stem}_pb2{suffix}") for source in sources for suffix in (".py", ".pyi")}
    packages = {parent / "__init__.py" for source in sources for parent in source.parents}
    assert fresh.keys() == modules | packages | {Path("py.typed")}


def test_a_second_run_mends_the_tree_and_leaves_the_rest_untouched(outdir: Path, fresh: dict[Path, bytes]) -> None:
    tree = outdir / "intermodal_api"
    right = tree / "ttrpc" / "request_pb2.py"
    changed = tree / "google" / "rpc" / "status_pb2.py"
    stale = tree / "gone" / "gone_pb2.py"
    written = right.stat().st_mtime_ns
    changed.write_text("raise SystemExit\n")
    compiled = stale.parent / "__pycache__" / "gone_pb2.pyc"
    compiled.parent.mkdir(parents=True)
    compiled.touch()
    stale.touch()
    assert generate(outdir) == fresh
    assert right.stat().st_mtime_ns == written
    assert not stale.parent.exists()
