"""The training script that NVFlare runs at every site; all it does stands in `pneumonia_fl.fl.site.client`."""

from pneumonia_fl.fl.site.client import main

if __name__ == "__main__":
    main()
