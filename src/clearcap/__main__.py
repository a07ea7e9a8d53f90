"""``python -m clearcap``."""

from clearcap.cli import main

main()
