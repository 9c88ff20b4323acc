"""The official metrics once more, written without looking at quality.py.

They follow ``metrics.py`` of thunil/TecoGAN where that has them, slowly and plainly. Pictures are
uint8 (H, W, 3) RGB.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import cv2
import numpy as np

from teco_calibration.metrics import lpips_backbone


def restated_y(picture):
    return picture / 255.0 @ np.array([65.481, 128.553, 24.966]) + 16


def restated_psnr(gt, out):
    return 20 * math.log10(255 / math.sqrt(np.mean((restated_y(gt) - restated_y(out)) ** 2)))


def restated_ssim(gt, out):
    """Weighted moments of every 11x11 patch, one after the other."""
    x, y = restated_y(gt), restated_y(out)
    d = np.arange(11) - 5
    w = np.exp(-(d[:, None] ** 2 + d[None, :] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    c1, c2 = 2.55**2, 7.65**2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum()
            cov = (w * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            )
    return np.mean(values)


def restated_crop(a):
    """Shrink by 32 from the largest multiple until 16 pixels are left out."""
    h, w = (a.shape[0] // 32) * 32, (a.shape[1] // 32) * 32
    while a.shape[0] - h < 16:
        h -= 32
    while a.shape[1] - w < 16:
        w -= 32
    top, left = (a.shape[0] - h) // 2, (a.shape[1] - w) // 2
    return a[top : top + h, left : left + w]


def restated_flow(previous, current):
    a, b = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (previous, current))
    return cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)


def restated_tof(gt0, gt1, out0, out1):
    d = restated_crop(restated_flow(gt0, gt1)) - restated_crop(restated_flow(out0, out1))
    return np.hypot(d[..., 0], d[..., 1]).mean()


def restated_lpips() -> Callable[[np.ndarray, np.ndarray], float]:
    """lpips's own forward pass, given the weights by another way than ours: by position."""
    import lpips
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchvision, about lpips's way to call it
        module = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = list(lpips_backbone.load_backbone("alexnet").values())
    with torch.no_grad():
        for parameter, array in zip(module.net.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(array))

    def distance(a, b):
        pair = [torch.from_numpy(p.transpose(2, 0, 1)[None] / 127.5 - 1).float() for p in (a, b)]
        with torch.no_grad():
            return float(module(*pair))

    return distance
