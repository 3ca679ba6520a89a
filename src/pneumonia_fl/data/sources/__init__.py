"""List and read labelled X-rays from where they lie: Kaggle, folder, zip, npz, synthetic."""
