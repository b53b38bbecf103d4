"""Run while the images are built: compiles the kernels of one package into the folder that TICKPATH_CACHE names.

usage: compile.py PACKAGE      of every lane; where strategies run, those of /etc/tickpath/tickpath.toml too
"""

import importlib
import pkgutil
import sys
from pathlib import Path

name = sys.argv[1]
package = importlib.import_module(f"tickpath.{name}")
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)  # kernels are compiled when their module is imported

if name == "exec":
    importlib.import_module("tickpath.cli.fused.hot")  # in the lane fused it runs the loop of all services
if name in ("signals", "exec"):
    from tickpath.common.config import load_config
    from tickpath.signals.engine import Running, compile_strategies
    from tickpath.signals.strategy import load_strategy

    config = load_config(Path("/etc/tickpath/tickpath.toml"))
    compile_strategies([Running(load_strategy(item.path), item.id) for item in config.signals.strategies])
