"""Images and a trained net that are shipped with the package."""
