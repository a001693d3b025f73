"""The app's parts: images, labels, models, and MONAI Label's tasks over them."""
