"""FT-MTL-Net, one file a stage, in the order that an image walks through them.

backbone → rpn → roi_align → heads (with feature_transfer) → model; losses beside them.
Boxes are float tensors [N, 4] (x1, y1, x2, y2) in canvas pixels, 0 at the edge of the first pixel.
"""
