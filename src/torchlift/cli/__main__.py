"""``python -m torchlift.cli``."""

from torchlift.cli import main

main()
