"""`python -m cvtune_edge` is `cvtune-edge`."""

from cvtune_edge.cli import main

raise SystemExit(main())
