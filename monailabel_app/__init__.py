"""The server's adapter: FT-MTL-Net as a MONAI Label app."""
