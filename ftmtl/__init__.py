"""FT-MTL-Net: joint detection, segmentation and classification of breast masses.

After Gao, Yoon, Wu, Chu: "A Feature Transfer Enabled Multi-Task Deep Learning Model on
Medical Imaging", Expert Systems with Applications 143 (2020) 112957.
"""

__version__ = "0.1.0"
