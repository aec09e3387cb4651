"""What a killed engine left half-written in the cache of what is compiled is removed, and nothing else."""

from pathlib import Path

from service.engine.compile_cache import mend

ERROR = "torch._inductor.exc.InductorError: ImportError: {}: file too short"


def test_a_library_that_cannot_be_loaded_is_removed(tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "vllm", tmp_path / "lib"
    broken, whole, other = cache / "torch/mu/a.main.so", cache / "torch/mu/b.main.so", elsewhere / "c.so"
    for file in (broken, whole, other):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    log = ["Traceback", *[ERROR.format(path) for path in (broken, broken, other, cache / "../lib/c.so")],
           f"ImportError: {whole}: undefined symbol: f"]  # fmt: skip
    assert mend(log, {"VLLM_CACHE_ROOT": str(cache)}) == f"; removed {broken}, which is compiled again"
    assert (broken.exists(), whole.exists(), other.exists()) == (False, True, True)
    assert mend(log, {"VLLM_CACHE_ROOT": str(cache)}) == ""
    assert mend(log, {"HOME": str(tmp_path)}) == ""
    assert mend([ERROR.format(whole)], {"TORCHINDUCTOR_CACHE_DIR": str(cache / "torch")}).startswith(
        f"; removed {whole}"
    )
