"""``python -m torchlift``."""

from torchlift.cli import main

main()
