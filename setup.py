"""What pyproject.toml cannot say: a wheel carries the catalogue and the fleets, which lie beside the package here."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Found again by service/config/paths.py. Not the training of the embedded models, which needs a checkout.
DATA = ("models/*.yaml", "models/schema.json", "models/golden/*.jsonl", "models/templates/*", "models/pebble/*/*",
        "deploy/gpus.yaml", "deploy/fleets/*.yaml")  # fmt: skip


class BuildWithData(build_py):
    """Puts the data into the package's folder `bundled`."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # it is read from the checkout
        bundled = Path(self.build_lib, "service/bundled")
        shutil.rmtree(bundled, ignore_errors=True)  # from an earlier build
        for path in (path for pattern in DATA for path in Path().glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                (bundled / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, bundled / path)


setup(cmdclass={"build_py": BuildWithData})
