"""The paper's own numbers (Gao et al. 2020, tables 3 to 5), all on INbreast.

Another data set, other folds or other masks make other numbers: they stand beside ours to be read,
not to be beaten.
"""

from __future__ import annotations

# Its caption calls the multi-task rows "multi-task"; references as the paper cites them.
TABLE_3 = (
    ("Transfer learning from deep CNNs + ensembled classifiers (Huynh 2016)", "one task",
     "0.86 ± 0.01"),
    ("Lib SVM (Diz 2016)", "one task", "0.90"),
    ("Random forest on CNN with pre-training (Dhungel 2017a)", "one task", "0.91 ± 0.12"),
    ("Random forest on CNN with pre-training (Dhungel 2017a)", "pipelined system", "0.76 ± 0.23"),
    ("Multi-view residual network (Dhungel 2017b)", "pipelined system", "0.80 ± 0.04"),
    ("Deep learning through unregistered views (Carneiro 2017)", "pipelined system",
     "0.78 ± 0.09"),
    ("Pre-trained CNNs + multiple instance learning (Zhu 2017)", "pipelined system",
     "0.86 ± 0.03"),
    ("Mask R-CNN, in the paper", "multi-task", "0.89 ± 0.02"),
    ("FT-MTL-Net, in the paper", "multi-task", "0.92 ± 0.01"),
)
TABLE_4 = (
    ("Adaptive thresholding + machine learning (Kozegar 2013)", "one task", "0.84 @ 3.67"),
    ("Cascaded deep learning + random forests (Dhungel 2015)", "one task", "0.78 @ 3.67"),
    ("Random forest on CNN with pre-training (Dhungel 2017a)", "pipelined system", "0.87 @ 5"),
    ("Multi-view residual network (Dhungel 2017b)", "pipelined system", "0.96 ± 0.03 @ 0.8"),
    ("Mask R-CNN, in the paper", "multi-task", "0.85 ± 0.07 @ 3.67, 0.85 ± 0.07 @ 5"),
    ("FT-MTL-Net, in the paper", "multi-task", "0.91 ± 0.05 @ 3.67, 0.91 ± 0.05 @ 5"),
)
TABLE_5 = (
    ("FrCN (Al-antari 2018)", "one task", "0.93"),
    ("Random forest on CNN with pre-training (Dhungel 2017a)", "pipelined system", "0.85 ± 0.02"),
    ("Mask R-CNN, in the paper", "multi-task", "0.79 ± 0.02"),
    ("FT-MTL-Net, in the paper", "multi-task", "0.76 ± 0.03"),
)
# Figure 3 by its AUC; figure 4a by its one quoted point (FPI, TPR, SD); figure 5b by its words.
FIGURE_3 = {"ft-mtl-net": "0.92 ± 0.01", "mask-rcnn": "0.89 ± 0.02"}
FIGURE_4A = {"ft-mtl-net": (3.67, 0.91, 0.05), "mask-rcnn": (3.67, 0.85, 0.07)}
FIGURE_5B_FLOOR = (0.4, 0.9)  # "for values where IoU ≤ 0.4, the TPR … is above 0.9"
