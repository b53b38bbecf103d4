"""``python -m tickpath.cli``: the command ``tickpath``."""

from tickpath.cli.main import app

if __name__ == "__main__":
    app(prog_name="tickpath")
