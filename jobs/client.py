"""The training script of NVFlare's simulator; the work is done in `pneumonia_fl.fl.site.client`."""

from pneumonia_fl.fl.site.client import main

if __name__ == "__main__":
    main()
