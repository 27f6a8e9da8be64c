import sys

from budgetloader.cli import main

sys.exit(main())
