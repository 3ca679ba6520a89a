"""Prepare chest X-rays for federated training: the same as `pneumonia-fl data prepare`."""

import sys

from pneumonia_fl.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "prepare"]
    main()
