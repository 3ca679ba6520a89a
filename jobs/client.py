"""The training script that NVFlare runs at every site; all it does stands in `pneumonia_fl.fl.client`."""

from pneumonia_fl.fl.client import main

if __name__ == "__main__":
    main()
