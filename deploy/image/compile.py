"""Run while the images are built: compiles the kernels of one package into the folder that TICKPATH_CACHE names.

usage: compile.py PACKAGE      of every lane; where strategies run, those of /etc/tickpath/tickpath.toml too
"""

import importlib
import sys
from pathlib import Path

name = sys.argv[1]
for folder in map(Path, importlib.import_module(f"tickpath.{name}").__path__):
    for file in sorted(folder.rglob("*.py")):  # some folders are no packages
        if file.name != "__main__.py":  # kernels are compiled when their module is imported
            importlib.import_module(".".join(("tickpath", name, *file.relative_to(folder).with_suffix("").parts)))

if name == "exec":
    importlib.import_module("tickpath.cli.fused.hot")  # in the lane fused it runs the loop of all services
if name in ("signals", "exec"):
    from tickpath.common.config import load_config
    from tickpath.signals.engine import Running, compile_strategies
    from tickpath.signals.strategy import load_strategy

    config = load_config(Path("/etc/tickpath/tickpath.toml"))
    compile_strategies([Running(load_strategy(item.path), item.id) for item in config.signals.strategies])
